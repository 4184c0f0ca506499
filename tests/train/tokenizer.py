"""A tokenizer of a few thousand parameters, its discriminator and its batches."""

import signal
from typing import Any

import jax
import numpy as np

from tests.models.random_weights import random_weights
from unitoken_jax.config import build
from unitoken_jax.models import registry
from unitoken_jax.models.perceptual.lpips import Lpips, LpipsConfig
from unitoken_jax.models.system import FrozenModel
from unitoken_jax.train.config import StageConfig

SIDE, LENGTH = 16, 4
MODEL = {
    "kind": "unitok",
    "vision": {
        "widths": (8,),
        "depths": (1,),
        "hidden": 16,
        "layers": 1,
        "heads": 2,
        "mlp": 16,
        "drop_path": 0.2,
    },
    "text": {
        "vocab_size": 20,
        "length": LENGTH,
        "hidden": 8,
        "layers": 1,
        "heads": 2,
        "mlp": 16,
        "embed": 8,
    },
    "vocab_size": 32,
    "vocab_width": 8,
    "num_codebooks": 2,
    "projection": "linear",
}
BACKBONE = {"hidden": 16, "mlp": 16, "layers": 2, "heads": 2, "grid": 2, "patch": 8}
DISCRIMINATOR = {
    "optimizer": {"learning_rate": 1e-3, "b1": 0.5, "b2": 0.9, "clip": 10.0},
    "network": {"backbone": BACKBONE, "taps": (0, 1), "kernel": 3, "groups": 4},
    "frozen": False,
    "start": 0.25,
    "ramp": 0.25,
    "fade": 0.5,
}
LPIPS = LpipsConfig(widths=(4, 6), depths=(1, 1))


def lpips() -> FrozenModel:
    """A perceptual distance of random weights."""
    image = jax.ShapeDtypeStruct((1, SIDE, SIDE, 3), "float32")
    shapes = jax.eval_shape(Lpips(LPIPS).init, jax.random.key(0), image, image)
    params = random_weights(registry.unboxed(shapes["params"]))
    return FrozenModel(Lpips(LPIPS), jax.tree.map(np.abs, params))


def job(**fields: Any) -> StageConfig:
    """A job of four steps; `fields` replace those of its config."""
    node = {
        "name": "tokenizer",
        "seed": 0,
        "model": MODEL,
        "data": {"kind": "pairs"},
        "optimizer": {
            "learning_rate": 1e-3,
            "no_decay": ".*(scale|bias)",
            "weight_decay": 0.02,
            "groups": {
                "all": {"pattern": ".*", "exclude": ".*/usage"},
                "usage": {"pattern": ".*/usage", "frozen": True},
            },
        },
        "train": {"steps": 4, "batch": 8, "log_every": 1, "ema": 0.9},
        "frozen_models": {"perceptual": {"format": "lpips", "path": "lpips.pth"}},
        "discriminator": DISCRIMINATOR,
        "guard": {"spike_factor": 0},
    }
    return build(StageConfig, node | fields)


def batch(index: int, rows: int = 8) -> dict[str, np.ndarray]:
    """Batch `index` of an endless stream: plain pictures of two colors."""
    rng = np.random.default_rng(index)
    colors = rng.integers(0, 256, (rows, 2, 1, 1, 3))
    halves = np.arange(SIDE)[:, None, None] < rng.integers(4, 12, (rows, 1, 1, 1))
    image = np.where(halves, colors[:, 0], colors[:, 1]).astype(np.uint8)
    image = np.broadcast_to(image, (rows, SIDE, SIDE, 3))
    text = rng.integers(0, 19, (rows, LENGTH)).astype(np.int32)
    text[:, -1] = 19
    return {"image": np.ascontiguousarray(image), "text": text}


class Batches:
    """The stream of `batch`; SIGTERM comes with batch `stop`."""

    digest = "0123456789abcdef"

    def __init__(self, stop: int = -1) -> None:
        self.position, self._stop = 0, stop

    @property
    def batch_spec(self) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
        """Shape and type of every array of a batch."""
        return {name: (array.shape, array.dtype) for name, array in batch(0).items()}

    def __next__(self) -> dict[str, np.ndarray]:
        index, self.position = self.position // 8, self.position + 8
        if index == self._stop:
            signal.raise_signal(signal.SIGTERM)
        return batch(index)

    def identify(self, record: np.ndarray) -> list[str]:
        return [str(i) for i in record]

    def close(self) -> None:
        pass
