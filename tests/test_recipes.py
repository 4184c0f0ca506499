"""The 7B recipes, shrunk: what learns and how fast, in two steps of the trainer."""

import importlib
import math
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from data_pipelines.unitoken.rows import SequencesConfig
from tests.models.random_weights import random_weights
from unitoken_jax.checkpoint import state as states
from unitoken_jax.config import render
from unitoken_jax.models import registry
from unitoken_jax.runtime.pytree import flatten
from unitoken_jax.train.config import StageConfig
from unitoken_jax.train.experiment import build_experiment
from unitoken_jax.train.update.optimizer import make_optimizer
from unitoken_jax.train.update.step import make_train_step, make_update

CONFIGS = Path(__file__).parents[1] / "configs"
NAMES = sorted(
    path.stem
    for decoder in ("unitoken", "chameleon")
    for path in CONFIGS.glob(f"{decoder}_7b_*.py")
)
VOCABULARY, FIRST, LAST = 64, 4, 19
ROWS, LENGTH, VIEWS = 2, 24, 2
IMAGE, FEATURES = 28, 4
STEPS: dict[str, Callable] = {}  # compiled, by what they were made from


def recipe(name: str) -> ConfigDict:
    return importlib.import_module(f"configs.{name}").get_config()


def job_of(config: ConfigDict) -> StageConfig:
    (job,) = build_experiment(config).stages.values()
    return job


def shrunk(name: str) -> StageConfig:
    """The recipe with tiny widths, two steps, and all else as it is."""
    config = recipe(name)
    heads = {"heads": 2, "kv_heads": 2, "head_dim": 8}
    size = {"hidden": 16, "intermediate": 24, "layers": 1, "vocab_size": VOCABULARY}
    config.model.decoder.update(size | heads)
    config.model.update(
        {"first_image_code": FIRST, "last_image_code": LAST, "loss_chunk": 16}
    )
    if config.model.vision is not None:
        vision = {"hidden": 16, "mlp": 24, "layers": 1, "heads": 2, "image": IMAGE}
        config.model.vision.update(vision)
    config.optimizer.warmup = 1
    config.train.update({"steps": 2, "batch": ROWS})
    return job_of(config)


def rows(seed: int, views: int) -> dict[str, np.ndarray]:
    """Random packed rows of two segments, each with a view if there are any."""
    rng = np.random.default_rng(seed)
    shape = (ROWS, LENGTH)
    segment, place = np.divmod(np.arange(LENGTH), LENGTH // 2)
    slots = np.full(shape, -1)
    for view in range(views):
        here = (segment == view) & (place >= 2) & (place < 2 + FEATURES)
        slots[:, here] = view * FEATURES + np.arange(FEATURES)
    tokens = rng.integers(0, VOCABULARY, shape)
    batch = {
        "tokens": np.where(slots < 0, tokens, 0),
        "segment_ids": np.broadcast_to(segment + 1, shape),
        "positions": np.broadcast_to(place, shape),
        "targets": np.where(place < LENGTH // 2 - 1, np.roll(tokens, -1, 1), -1),
        "feature_index": slots,
    }
    pixels = rng.integers(0, 256, (ROWS, views, IMAGE, IMAGE, 3), np.uint8)
    return {k: x.astype(np.int32) for k, x in batch.items()} | {"pixels": pixels}


@pytest.mark.parametrize("name", NAMES)
def test_two_steps_move_what_is_to_learn(name: str) -> None:
    job = shrunk(name)
    system = job.system
    views = 0 if system.config.vision is None else VIEWS
    data = job.data
    assert isinstance(data, SequencesConfig)
    assert data.shows_views == bool(views)

    shapes = registry.abstract_params(system)
    optimizer = make_optimizer(job.optimizer, flatten(shapes), job.train.steps)
    update = make_update(system.loss, optimizer, job.train.microbatches)
    start = random_weights(shapes)
    state = states.create(lambda _: start, optimizer.init, jax.random.key(job.seed))
    # Shrunk, several recipes are one program, which need not be compiled again. To
    # optimize it would take longer than its few runs.
    program = render({"model": job.model, "optimizer": job.optimizer})
    step = STEPS.setdefault(
        program,
        jax.jit(
            make_train_step(update, job.guard),
            compiler_options={"xla_backend_optimization_level": 0},
        ),
    )
    rates = []
    for number in range(job.train.steps):
        state, metrics = step(state, rows(number, views))
        rates.append(float(metrics["learning_rate"]))
        assert math.isfinite(metrics["loss"])
        if number == 0:  # the first update has rate 0, as in the scripts
            jax.tree.map(np.testing.assert_array_equal, state.params, start)
    assert rates == [0.0, pytest.approx(job.optimizer.learning_rate)]
    assert not state.guard.skipped

    before, after = flatten(start), flatten(state.params)
    moved = {path for path in before if np.any(before[path] != after[path])}
    frozen = {
        path
        for path in before
        for group in job.optimizer.groups.values()
        if group.frozen and group.matches(path)
    }
    assert moved == set(before) - frozen


def test_numbers_of_the_paper_and_the_scripts() -> None:
    rates = {}
    for name in NAMES:
        job = job_of(recipe(name))
        found = job.optimizer
        rates[name] = {
            group: found.learning_rate * options.lr_scale
            for group, options in found.groups.items()
            if not options.frozen
        }
        assert (found.b1, found.b2, found.eps) == (0.9, 0.95, 1e-8)
        assert (found.schedule, found.end_scale) == ("cosine", 0.0)
        assert (found.weight_decay, found.no_decay) == (0.1, "")
        assert found.clip == 4.0
        assert found.warmup == job.train.steps // 100
        assert job.model.decoder.dropout == 0.05
        assert job.model.z_loss == 1e-5
    for views in ("base", "anyres"):
        first, *later = (rates[f"unitoken_7b_{views}_stage{n}"] for n in (1, 2, 3))
        assert first == {"adapter": 1e-3, "vision": pytest.approx(1e-5)}
        assert later == [{"rest": 1e-5, "vision": 1e-5}] * 2
    for number in (1, 2):
        assert rates[f"chameleon_7b_stage{number}"] == {"decoder": 1e-5}
