"""UniToken's step on every mesh of eight devices gives the losses of one device."""

import itertools

import jax
import numpy as np
import pytest

from unitoken_jax.config import build
from unitoken_jax.models import registry
from unitoken_jax.parallel import rows
from unitoken_jax.train import stage
from unitoken_jax.train.job import Job

AXES = ("data", "fsdp", "tensor", "sequence")
SHAPES = [s for s in itertools.product((1, 2, 4, 8), repeat=4) if np.prod(s) == 8]
FAST = [(1, 2, 2, 2)]
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
    }


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
    job, system = build(Job, node), registry.build(MODEL)
    layout = stage.lay_out(job, system, "config", jax.devices()[:devices])
    state = stage.start(job, layout, {})
    held = rows.local_rows(ROWS, layout.mesh)
    batches = [rows.place(_batch(i), ROWS, held, layout.mesh) for i in range(STEPS)]
    with jax.set_mesh(layout.mesh):
        lowered = stage.make_step(job, system, layout).lower(state, batches[0], {})
    # Each program runs three times: optimising it would take most of the time.
    step = lowered.compile(compiler_options={"xla_backend_optimization_level": 0})
    losses = []
    for batch in batches:
        state, metrics = step(state, batch, {})
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
