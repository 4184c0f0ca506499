"""UniToken's step on every mesh of eight devices gives the losses of one device."""

import itertools

import jax
import numpy as np
import pytest

from unitoken_jax.config import build
from unitoken_jax.models import registry
from unitoken_jax.train import stage
from unitoken_jax.train.job import Job

AXES = ("data", "fsdp", "tensor", "sequence")
SHAPES = [s for s in itertools.product((1, 2, 4, 8), repeat=4) if np.prod(s) == 8]
FAST = [(2, 2, 2, 1), (1, 2, 2, 2)]  # every axis in one of them
ROWS, LENGTH, SLOTS, STEPS = 8, 48, 4, 3
MODEL = {
    "kind": "unitoken",
    "decoder": {
        "vocab_size": 40,
        "hidden": 32,
        "intermediate": 48,
        "layers": 2,
        "heads": 8,
        "kv_heads": 8,
        "head_dim": 4,
    },
    "vision": {"hidden": 16, "mlp": 24, "layers": 1, "heads": 8, "image": 8}
    | {"patch": 4, "head": False},
    "first_image_code": 4,
    "last_image_code": 19,
}


def _batch(step: int) -> dict[str, np.ndarray]:
    """Return rows of two segments and padding, the first with an image."""
    rng = np.random.default_rng(step)
    segments = np.zeros((ROWS, LENGTH), np.int32)
    positions = np.zeros((ROWS, LENGTH), np.int32)
    slots = np.full((ROWS, LENGTH), -1, np.int32)
    for row in range(ROWS):
        first, second = 20 + row, 40 + row % 3
        segments[row, :first], segments[row, first:second] = 1, 2
        positions[row, :first] = np.arange(first)
        positions[row, first:second] = np.arange(second - first)
        slots[row, 3 : 3 + SLOTS] = np.arange(SLOTS)
    targets = rng.integers(0, 40, (ROWS, LENGTH), np.int32)
    return {
        "tokens": rng.integers(0, 40, (ROWS, LENGTH), np.int32),
        "segment_ids": segments,
        "positions": positions,
        "targets": np.where((segments > 0) & (slots < 0), targets, -1).astype(np.int32),
        "slots": slots,
        "pixels": rng.integers(0, 256, (ROWS, 1, 8, 8, 3), np.uint8),
        "record": np.zeros((ROWS, 1), np.int32),
    }


class Batches:
    """The stream of `_batch`."""

    position = 0

    def __next__(self) -> dict[str, np.ndarray]:
        self.position += 1
        return _batch(self.position - 1)


def _losses(mesh: dict[str, int], devices: int) -> list[float]:
    node = {
        "name": "run",
        "seed": 0,
        "model": MODEL,
        "data": {},
        "optimizer": {"learning_rate": 1e-3},
        "train": {"steps": STEPS, "batch": ROWS},
        "mesh": mesh,
    }
    job, parts = build(Job, node), stage.Parts(registry.build(MODEL), {}, Batches())
    layout = stage.lay_out(job, parts.system, "config", jax.devices()[:devices])
    state = stage.start(job, layout, {})
    program = stage.compile_step(job, parts, layout, state)
    parts.batches.position = 0
    losses = []
    for _ in range(STEPS):
        batch = next(parts.batches)
        del batch["record"]
        state, metrics = program.step(state, program.place(batch))
        losses.append(float(metrics["loss"]))
    return losses


@pytest.fixture(scope="module")
def one_device() -> list[float]:
    losses = _losses({}, 1)
    assert losses[-1] < losses[0]
    return losses


@pytest.mark.parametrize(
    "shape",
    [s if s in FAST else pytest.param(s, marks=pytest.mark.slow) for s in SHAPES],
    ids=lambda shape: "x".join(map(str, shape)),
)
def test_eight_devices_give_the_losses_of_one(one_device, shape) -> None:
    losses = _losses(dict(zip(AXES, shape, strict=True)), 8)
    np.testing.assert_allclose(losses, one_device, rtol=1e-5)
