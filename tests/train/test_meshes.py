"""UniToken's step on every mesh of eight devices gives the losses of one device."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_unitoken import MODEL, ROWS, batch

from unitoken_jax.config import build
from unitoken_jax.parallel import rows
from unitoken_jax.parallel.mesh import AXES
from unitoken_jax.train.config import StageConfig
from unitoken_jax.train.program import make_program

SHAPES = [
    s for s in itertools.product((1, 2, 4, 8), repeat=len(AXES)) if np.prod(s) == 8
]
FAST = [(1, 1, 2, 2, 2)]
STEPS = 3


def _lay_out(mesh: dict[str, int], devices: int) -> tuple:
    node = {
        "name": "run",
        "seed": 0,
        "model": MODEL,
        "data": {"kind": "sequences"},
        "optimizer": {"learning_rate": 1e-3},
        "train": {"steps": STEPS, "batch": ROWS},
        "mesh": mesh,
    }
    job = build(StageConfig, node)
    system = job.system
    layout = make_program(job, system, "config", jax.devices()[:devices])
    return job, system, layout


def _losses(job, system, layout, state) -> list[float]:
    held = rows.local_rows(ROWS, layout.mesh)
    batches = [rows.place(batch(i), ROWS, held, layout.mesh) for i in range(STEPS)]
    with jax.set_mesh(layout.mesh):
        lowered = layout.step.lower(state, batches[0], {})
    # Each program runs three times: optimizing it would take most of the time.
    step = lowered.compile(compiler_options={"xla_backend_optimization_level": 0})
    losses = []
    for placed in batches:
        state, metrics = step(state, placed, {})
        losses.append(float(metrics["loss"]))
    return losses


@pytest.fixture(scope="module")
def one_device() -> tuple:
    """The state that all start from (`test_registry.py` makes it on a mesh), losses."""
    parts = _lay_out({}, 1)
    state = parts[2].init_state({})
    losses = _losses(*parts, jax.tree.map(jnp.copy, state))
    assert losses[-1] < losses[0]
    return state, losses


@pytest.mark.parametrize(
    "shape",
    [s if s in FAST else pytest.param(s, marks=pytest.mark.slow) for s in SHAPES],
    ids=lambda shape: "x".join(map(str, shape)),
)
def test_eight_devices_give_the_losses_of_one(one_device, shape) -> None:
    parts = _lay_out(dict(zip(AXES, shape, strict=True)), 8)
    state, expected = one_device
    state = jax.device_put(jax.tree.map(jnp.copy, state), parts[2].shardings)
    np.testing.assert_allclose(_losses(*parts, state), expected, rtol=1e-5)
