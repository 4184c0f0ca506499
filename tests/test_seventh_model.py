"""A new model is one file and one line: it trains, draws, is measured and exported."""

import copy
import json
import math
from pathlib import Path

import jax
import numpy as np
import pytest
import seventh_model
import tiny_chain
from PIL import Image
from seventh_model import KIND

from unitoken_jax import convert, pipeline
from unitoken_jax.config import ConfigError, plain
from unitoken_jax.convert.exchange import convert as exchange
from unitoken_jax.evaluate.run import run as evaluate
from unitoken_jax.generate import run as generate
from unitoken_jax.models import registry
from unitoken_jax.plan import model_flops
from unitoken_jax.train.experiment import build_experiment
from unitoken_jax.train.program import make_program

STEPS = 30


@pytest.fixture(autouse=True, scope="module")
def known():
    """The one line."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(registry.KINDS, KIND, seventh_model.__name__)
        yield


@pytest.fixture(scope="module")
def node(tmp_path_factory) -> dict:
    """A chain of a tokenizer and the model on its codes."""
    directory = tmp_path_factory.mktemp("seventh") / "data"
    chain = plain(tiny_chain.get_config(directory, tiny_chain.make_data(directory)))
    table = copy.deepcopy(chain["stages"]["base"])
    tokens = (tiny_chain.IMAGE // tiny_chain.STRIDE) ** 2
    table["model"] = {"kind": KIND, "classes": 1, "tokens": tokens}
    table["model"]["codes"] = tiny_chain.CODES
    table["data"] = {"kind": "classes", "image_size": tiny_chain.IMAGE}
    table["data"]["layout"] = {"code_stride": tiny_chain.STRIDE}
    table["optimizer"] = {"learning_rate": 0.3}
    table["train"] |= {"steps": STEPS}
    stages = {"tokenizer": chain["stages"]["tokenizer"], "table": table}
    return chain | {
        "order": tuple(stages),
        "stages": stages,
        "finish": False,
        "evaluation": {"classes": {"images": 4, "drawings": 2, "examples": 2}},
    }


@pytest.fixture(scope="module")
def workdir(node, tmp_path_factory) -> Path:
    """A run of it."""
    path = tmp_path_factory.mktemp("run") / "seventh"
    assert pipeline.train(build_experiment(node), path, written=node)
    return path


def losses(workdir: Path) -> list[float]:
    lines = (workdir / "table" / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["loss"] for line in lines]


def test_it_learns_more_than_chance(workdir) -> None:
    first, *_, last = losses(workdir)
    assert first == pytest.approx(math.log(tiny_chain.CODES), abs=1e-3)
    assert last < 0.8 * first


def test_its_fields_are_refused_by_the_nearest_name(node) -> None:
    changed = copy.deepcopy(node)
    changed["stages"]["table"]["model"]["tokns"] = 3
    with pytest.raises(ConfigError, match="tokns: unknown name; did you mean 'tokens'"):
        pipeline.check(build_experiment(changed))


def test_data_of_another_kind_is_refused(node) -> None:
    changed = copy.deepcopy(node)
    changed["stages"]["table"]["data"] = {"kind": "images", "image_size": 12}
    with pytest.raises(ConfigError, match=f"this {KIND} learns from 'classes'"):
        pipeline.check(build_experiment(changed))


def test_it_draws_from_its_folder_alone(workdir, tmp_path) -> None:
    target = tmp_path / "square.png"
    generate.run(
        generate.Options(workdir, prompt="squares", output=target, compile_cache="")
    )
    with Image.open(target) as image:
        assert image.size == (tiny_chain.IMAGE, tiny_chain.IMAGE)


def test_it_is_evaluated(node, workdir) -> None:
    found = evaluate(build_experiment(node), workdir)
    assert "classes" in found
    assert (workdir / "evaluation").is_dir()


def test_its_step_is_planned(node) -> None:
    job = build_experiment(node).stages["table"]
    system = job.system
    program = make_program(job, system, "config", jax.devices())
    tokens = system.config.tokens
    batch = {
        "codes": jax.ShapeDtypeStruct((job.train.batch, tokens, 1), np.int32),
        "label": jax.ShapeDtypeStruct((job.train.batch,), np.int32),
    }
    # A look into a table is no product.
    assert model_flops.count(job, system, program, batch, {}) == 0


def test_it_is_exported_and_read_again(workdir, tmp_path) -> None:
    target = tmp_path / "published"
    (entry,) = registry.build({"kind": KIND}).formats
    exchange("jax", entry, workdir / "table", target)
    config = json.loads((target / "config.json").read_text())
    assert config["tokens"] == (tiny_chain.IMAGE // tiny_chain.STRIDE) ** 2
    module, params = convert.load(entry, target)
    assert isinstance(module, seventh_model.CodeTable)
    assert params["table"].shape == (1, config["tokens"], tiny_chain.CODES)
    assert np.ptp(params["table"]) > 0
