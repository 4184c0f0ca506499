"""A model in a file of its own, this one, brings the format of its files with it."""

import dataclasses
import json
import subprocess
import sys

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest

from tests.convert.test_exchange import TINY, assert_equal, random_params
from unitoken_jax import convert
from unitoken_jax.convert.fields import how, must, whole, written
from unitoken_jax.convert.files.sources import open_source
from unitoken_jax.convert.formats import (
    FORMATS,
    Format,
    config_of,
    format_of,
    formats_of,
    network_of,
    node_of,
)
from unitoken_jax.convert.layouts import LINEAR
from unitoken_jax.convert.networks import Network
from unitoken_jax.convert.table import Rule, norm
from unitoken_jax.convert.tensors import WeightsError
from unitoken_jax.errors import REFUSED
from unitoken_jax.models import registry
from unitoken_jax.models.system import DataNeeds, System


@dataclasses.dataclass(frozen=True)
class SeventhConfig:
    """A stack of maps with a norm behind it."""

    width: int = 6
    depth: int = 2
    epsilon: float = 1e-6
    chunk: int = 4


class Seventh(nn.Module):
    """The module of it."""

    config: SeventhConfig

    @nn.compact
    def __call__(self, x):
        shape = (self.config.depth, self.config.width, self.config.width)
        kernel = self.param("kernel", nn.initializers.normal(), shape)
        for layer in range(self.config.depth):
            x = x @ kernel[layer]
        return nn.LayerNorm(epsilon=self.config.epsilon, name="norm")(x)


def system(config: SeventhConfig) -> System:
    """What a registered model offers."""
    module = Seventh(config)
    return System(
        config,
        module,
        lambda params, batch, rng: (jnp.zeros(()), {}),
        lambda: {"x": jnp.zeros((1, config.width))},
        DataNeeds(("images",)),
        formats=(ENTRY,),
    )


ENTRY = f"{__name__}:FORMAT"
FORMAT = Format(
    "seventh-hf",
    "The seventh model's files",
    ("blocks.0.weight", "last.weight"),
    (
        Network(
            "seventh",
            SeventhConfig,
            Seventh,
            lambda module: module(jnp.zeros((1, module.config.width))),
            lambda config: {"layer": config.depth},
        ),
    ),
    (SeventhConfig(),),
    lambda config: [
        Rule("blocks.{layer}.weight", "kernel", LINEAR),
        *norm("last", "norm"),
    ],
    {
        SeventhConfig: {
            "width": written("hidden_size"),
            "depth": written("num_layers"),
            "epsilon": must(1e-6, "nothing sets it"),
            **how("chunk"),
        }
    },
    lambda values: SeventhConfig(
        whole(values, "hidden_size", 6), whole(values, "num_layers", 2)
    ),
    lambda config, said: {
        "hidden_size": config.width,
        "num_layers": config.depth,
        "note": said.get("note", "none"),
    },
)
CONFIG = SeventhConfig(width=4, depth=3)


@pytest.fixture(autouse=True)
def _registered(monkeypatch):
    """The one line that registers a model."""
    monkeypatch.setitem(registry.KINDS, "seventh", __name__)


def params_of(config):
    rng = np.random.default_rng(0)
    shape = (config.depth, config.width, config.width)
    scale = rng.normal(size=config.width).astype(np.float32)
    return {
        "kernel": rng.normal(size=shape).astype(np.float32),
        "norm": {"scale": scale, "bias": -scale},
    }


@pytest.mark.parametrize("name", [FORMAT, ENTRY], ids=["itself", "entry point"])
def test_it_is_written_and_read(name, tmp_path):
    params = params_of(CONFIG)
    convert.save(name, Seventh(CONFIG), params, tmp_path / "out")
    source = open_source(tmp_path / "out")
    assert set(source) == {f"blocks.{i}.weight" for i in range(3)} | {
        "last.weight",
        "last.bias",
    }
    np.testing.assert_array_equal(source["blocks.1.weight"], params["kernel"][1].T)
    model, loaded = convert.load(name, tmp_path / "out")
    assert model == Seventh(CONFIG)
    assert_equal(loaded, params)
    module, shapes = convert.abstract(name)
    assert module == Seventh(SeventhConfig())
    assert shapes["kernel"].shape == (2, 6, 6)


def test_it_goes_through_our_checkpoints(tmp_path):
    convert.save(
        "jax",
        Seventh(CONFIG),
        params_of(CONFIG),
        tmp_path / "ours",
        published={"note": "kept"},
    )
    convert.convert("jax", ENTRY, tmp_path / "ours", tmp_path / "theirs")
    described = json.loads((tmp_path / "theirs/config.json").read_text())
    assert described == {"hidden_size": 4, "num_layers": 3, "note": "kept"}
    convert.convert(ENTRY, "jax", tmp_path / "theirs", tmp_path / "again")
    model, loaded = convert.load("jax", tmp_path / "again")
    assert model == Seventh(CONFIG)
    assert_equal(loaded, params_of(CONFIG))


def test_it_is_known_by_its_configuration():
    assert network_of(CONFIG).kind == "seventh"
    assert list(formats_of(CONFIG)) == [FORMAT]
    node = json.loads(json.dumps(node_of(CONFIG)))
    assert node["kind"] == "seventh"
    assert config_of(node, "model") == CONFIG


def test_what_it_cannot_hold_is_refused_by_its_own_fields(tmp_path):
    config = dataclasses.replace(CONFIG, epsilon=1e-5)
    path = tmp_path / "x"
    with pytest.raises(WeightsError, match=r"seventh-hf.*epsilon=1e-05.*nothing sets"):
        convert.save(FORMAT, Seventh(config), params_of(config), path)
    with pytest.raises(WeightsError, match=r"vqgan holds a VQGAN.*as jax, seventh-hf"):
        convert.save("vqgan", Seventh(CONFIG), params_of(CONFIG), path)
    with pytest.raises(WeightsError, match=r"hidden_size='4'"):
        convert.load(FORMAT, {"w": np.zeros(2)}, {"hidden_size": "4"})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("no.such.module:FORMAT", "no format 'no.such.module:FORMAT'"),
        (f"{__name__}:NONE", "has no attribute 'NONE'"),
        (f"{__name__}:CONFIG", "is a SeventhConfig and no format"),
    ],
)
def test_entry_points_of_nothing_are_refused(name, text):
    with pytest.raises(WeightsError, match=text):
        format_of(name)


def test_the_command_takes_entry_points(tmp_path):
    convert.save("vqgan", *model_of("vqgan"), tmp_path / "in")
    values = {"from": "vqgan", "input": tmp_path / "in", "output": tmp_path / "out"}

    def command(to):
        flags = [f"--{name}={value}" for name, value in (values | {"to": to}).items()]
        call = [sys.executable, "-m", "unitoken_jax.convert", *flags]
        return subprocess.run(call, check=False, capture_output=True, text=True)

    done = command("vqgn")
    assert done.returncode == REFUSED
    assert done.stderr.startswith("error: there is no format 'vqgn'; did you mean")
    done = command("unitoken_jax.convert.published.vqgan:VQGAN_CKPT")
    assert (done.returncode, done.stderr) == (0, "")
    assert_equal(
        dict(open_source(tmp_path / "out")), dict(open_source(tmp_path / "in"))
    )


def model_of(name):
    config = TINY[name]
    return network_of(config).module(config), random_params(config)


@pytest.mark.parametrize("kind", [kind for kind in registry.KINDS if kind != "seventh"])
def test_models_name_the_formats_that_hold_them(kind):
    config = registry.config_class(kind)()
    named = registry.system_of(kind, config).formats
    assert set(named) == {one.name for one in formats_of(config)}
    assert set(named) <= set(FORMATS)


@pytest.mark.parametrize("name", FORMATS)
def test_a_format_bears_its_name(name):
    assert format_of(name).name == name
    kinds = [type(config) for config in format_of(name).published]
    assert kinds == list(format_of(name).holds)
