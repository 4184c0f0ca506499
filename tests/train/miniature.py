"""A network of two matrices, small enough to train in a test."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax.nn import initializers

import data_pipelines.config
from data_pipelines.config import DataConfig
from unitoken_jax.checkpoint import state
from unitoken_jax.config import build
from unitoken_jax.layers.parameter import parameter
from unitoken_jax.models import registry
from unitoken_jax.models.system import DataNeeds, System
from unitoken_jax.train.config import StageConfig
from unitoken_jax.train.update.optimizer import Group, Optimizer, OptimizerConfig
from unitoken_jax.train.update.optimizer import make_optimizer as _make

WIDTH = 16
ROWS = 16
PATHS = ("first/kernel", "second/kernel", "still/kernel")
GROUPS = {
    "moving": Group("(first|second)/.*"),
    "still": Group("still/.*", frozen=True),
}


def init(key: jax.Array) -> dict:
    """Return the params: two trained matrices and one that stays."""
    keys = jax.random.split(key, 3)
    names = ("first", "second", "still")
    return {
        name: {"kernel": jax.random.normal(k, (WIDTH, WIDTH)) / WIDTH**0.5}
        for name, k in zip(names, keys, strict=True)
    }


def loss(params: dict, batch: dict, key: jax.Array, noise: float = 1e-2) -> tuple:
    """Regress on the mean over rows that are `counted`; noise shows the key."""
    disturbed = batch["input"] + noise * jax.random.normal(key, batch["input"].shape)
    hidden = jnp.tanh(disturbed @ params["first"]["kernel"])
    output = hidden @ params["second"]["kernel"] + params["still"]["kernel"][0]
    error = jnp.mean((output - batch["output"]) ** 2, axis=-1)  # [B]
    counted = batch["counted"].astype(jnp.float32)
    weight = jnp.sum(counted)
    value = jnp.sum(error * counted) / jnp.maximum(weight, 1.0)
    return value, {"weight": weight, "error": value}


quiet_loss = functools.partial(loss, noise=0.0)


def batch(index: int, rows: int = ROWS) -> dict[str, np.ndarray]:
    """Return batch `index` of an endless stream."""
    rng = np.random.default_rng(index)
    source = rng.standard_normal((rows, WIDTH)).astype(np.float32)
    return {
        "input": source,
        "output": np.roll(source, 1, axis=1) * 0.5,
        "counted": (rng.random(rows) < 0.7).astype(np.int32),
    }


def make_optimizer(**fields) -> Optimizer:
    """Return an optimizer over the two matrices."""
    config = OptimizerConfig(learning_rate=1e-2, groups=GROUPS, **fields)
    return _make(config, PATHS, 100)


class Batches:
    """The stream of `batch`, with record ids; some batches may be poisoned.

    `position` counts rows; `index` is that of the next batch.
    """

    digest = "0123456789abcdef"

    def __init__(self, poison: tuple[int, ...] = ()) -> None:
        self.position = 0
        self.closed = False
        self._poison = poison

    @property
    def index(self) -> int:
        return self.position // ROWS

    @property
    def batch_spec(self) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
        """Shape and type of every array of a batch."""
        return {name: (array.shape, array.dtype) for name, array in batch(0).items()}

    def __next__(self) -> dict[str, np.ndarray]:
        index, self.position = self.index, self.position + ROWS
        made = batch(index)
        if index in self._poison:
            made["input"][:] = np.nan
        return made | {"record": np.arange(2, dtype=np.int32) + index}

    def identify(self, record: np.ndarray) -> list[str]:
        return [f"record-{int(i)}" for i in record]

    def close(self) -> None:
        self.closed = True


class Network(nn.Module):
    """The parameters of `init`, with logical axes."""

    width: int = WIDTH

    @nn.compact
    def __call__(self) -> None:
        for name in ("first", "second", "still"):
            Matrix(self.width, name=name)()


class Matrix(nn.Module):
    """One matrix, rows divided like an embedding."""

    width: int

    @nn.compact
    def __call__(self) -> None:
        normal = initializers.normal(self.width**-0.5)
        parameter(self, "kernel", normal, ("embed", None), (self.width, self.width))


@dataclasses.dataclass(frozen=True)
class NetworkConfig:
    """What the network is configured by."""

    width: int = WIDTH


@dataclasses.dataclass(frozen=True)
class NoiseConfig(DataConfig):
    """What the data would be configured by; no stream is made of it."""

    kind: str = "noise"
    stride: int = 8


DEFAULT = NetworkConfig()


def register(patch: pytest.MonkeyPatch) -> None:
    """Make the kinds of the network and of its data known."""
    patch.setitem(registry.KINDS, "miniature", __name__)
    patch.setitem(data_pipelines.config.KINDS, "noise", f"{__name__}:NoiseConfig")  # pyright: ignore[reportArgumentType]


def system(config: NetworkConfig = DEFAULT) -> System:
    """Return the network as the trainer sees one."""
    module = Network(config.width)
    return System(
        config=config,
        module=module,
        loss=loss,
        inputs=dict,
        data=DataNeeds(kinds=("noise",)),
        kind="miniature",
    )


def job(name: str = "run", **fields) -> StageConfig:
    """Return a job over the network; `fields` are those of its config."""
    node = {
        "name": name,
        "seed": 0,
        "model": {"kind": "miniature"},
        "data": {"kind": "noise"},
        "optimizer": {
            "learning_rate": 1e-2,
            "groups": {
                "moving": {"pattern": "(first|second)/.*"},
                "still": {"pattern": "still/.*", "frozen": True},
            },
        },
        "train": {"steps": 6, "batch": 16, "log_every": 2},
        "checkpoint": {"every": 100},
    }
    return build(StageConfig, node | fields)


def make_state(optimizer: Optimizer, seed: int = 0) -> state.TrainState:
    """Return a fresh state on one device."""
    create = jax.jit(lambda key: state.create(init, optimizer.init, key))
    return create(jax.random.key(seed))
