"""The recipes of UniTok's LLM and of LlamaGen, shrunk: two steps of the trainer."""

import math
from typing import Any

import jax
import numpy as np
import pytest

from configs import llamagen, unitok_mllm_7b_finetune, unitok_mllm_7b_pretrain
from data_pipelines.unitok_mllm.sequence import PromptsConfig
from tests.models.random_weights import random_weights
from unitoken_jax.checkpoint import state as states
from unitoken_jax.models import registry
from unitoken_jax.models.llamagen import LlamaGenConfig, published
from unitoken_jax.models.unitok_mllm import UniTokMllmConfig
from unitoken_jax.runtime.pytree import flatten
from unitoken_jax.train.config import StageConfig
from unitoken_jax.train.experiment import build_experiment
from unitoken_jax.train.update.optimizer import make_optimizer
from unitoken_jax.train.update.step import make_train_step, make_update

CODES, BOOKS, SIZE, LENGTH = 7, 3, 4, 16
MLLM = {
    "pretrain": unitok_mllm_7b_pretrain.get_config,
    "finetune": unitok_mllm_7b_finetune.get_config,
}


def job_of(config: Any) -> StageConfig:
    (job,) = build_experiment(config).stages.values()
    return job


def steps(job: StageConfig, batches: list[dict[str, np.ndarray]]) -> list[set[str]]:
    """Train on the batches; return which parameters each step moved."""
    system = job.system
    shapes = registry.abstract_params(system)
    optimizer = make_optimizer(job.optimizer, flatten(shapes), job.train.steps)
    update = make_update(system.loss, optimizer, job.train.microbatches)
    start = random_weights(shapes)
    state = states.create(lambda _: start, optimizer.init, jax.random.key(0))
    step = jax.jit(
        make_train_step(update, job.guard),
        compiler_options={"xla_backend_optimization_level": 0},
    )
    moved = []
    for batch in batches:
        before = flatten(state.params)
        state, metrics = step(state, batch)
        assert math.isfinite(metrics["loss"])
        after = flatten(state.params)
        moved.append({path for path in before if np.any(before[path] != after[path])})
    return moved


def rows(seed: int) -> dict[str, np.ndarray]:
    """Two packed rows: a picture that is drawn, and a text."""
    rng = np.random.default_rng(seed)
    place = np.arange(LENGTH)
    segment = 1 + (place >= 10)
    slots = np.where((place >= 3) & (place < 3 + SIZE), place - 3, -1)
    tokens = np.where(slots < 0, rng.integers(0, 20, (2, LENGTH)), 0)
    batch = {
        "tokens": tokens,
        "segment_ids": np.tile(segment, (2, 1)),
        "positions": np.tile(np.where(segment == 1, place, place - 10), (2, 1)),
        "targets": np.where(place >= 10, tokens, -1),
        "feature_index": np.tile(slots, (2, 1)),
        "codes": rng.integers(0, CODES, (2, 1, SIZE, BOOKS)),
        "image_target_positions": np.tile(2 + np.arange(SIZE), (2, 1)),
    }
    return {name: array.astype(np.int32) for name, array in batch.items()}


def test_all_of_the_mllm_learns_but_the_codebooks() -> None:
    config = MLLM["pretrain"]()  # shrunk, the other is the same program
    config.model.decoder.update({"hidden": 16, "intermediate": 24, "layers": 1})
    config.model.decoder.update({"heads": 2, "kv_heads": 2, "head_dim": 8})
    config.model.decoder.vocab_size = 20
    small = {"codebooks": BOOKS, "codes": CODES, "code_width": 4, "projection": 16}
    config.model.update(small | {"projection_heads": 2, "depth_layers": 1})
    config.optimizer.warmup = 0
    config.train.update({"steps": 2, "batch": 2})
    job = job_of(config)
    (_, second) = steps(job, [rows(0), rows(1)])
    every = set(flatten(registry.abstract_params(job.system)))
    assert every - second == {
        "embedder/quantizer/codebooks",
        "embedder/quantizer/usage",
    }


@pytest.mark.parametrize("size", ["XL", "XXL"])  # shrunk, B and L are XL
def test_all_of_a_llamagen_learns(size: str) -> None:
    config = llamagen.get_config(size)
    small = {"hidden": 16, "heads": 2, "layers": 1, "depth_layers": 1, "classes": 3}
    config.model.update(small | {"codebooks": BOOKS, "codes": CODES, "side": 2})
    config.optimizer.warmup = 0
    config.train.update({"steps": 2, "batch": 8})
    rng = np.random.default_rng(0)
    batch = {
        "codes": rng.integers(0, CODES, (8, SIZE, BOOKS)).astype(np.int32),
        "label": np.arange(8, dtype=np.int32) % 3,
    }
    job = job_of(config)
    (_, second) = steps(job, [batch, batch])
    assert second == set(flatten(registry.abstract_params(job.system)))


def test_numbers_of_the_papers_and_the_readme() -> None:
    pretrain, finetune = (job_of(make()) for make in MLLM.values())
    assert pretrain.model == UniTokMllmConfig(decoder=finetune.model.decoder)
    assert (pretrain.optimizer.learning_rate, finetune.optimizer.learning_rate) == (
        5e-5,
        2e-5,
    )
    for job in (pretrain, finetune):
        assert job.data.prompt_drop == 0.1
        assert job.data.prompts.request == PromptsConfig().request  # the released one
    for size in llamagen.SHAPES:
        job = job_of(llamagen.get_config(size))
        model: LlamaGenConfig = job.model
        fields = {"dtype": "bfloat16", "remat": "minimal"}
        fields |= {name: getattr(model, name) for name in ("null_class",)}
        assert model == published(size, class_dropout=model.class_dropout, **fields)
        assert model.null_class == bool(model.class_dropout) == (size != "XXL")
        found = job.optimizer
        assert (found.b1, found.b2, found.weight_decay, found.clip) == (
            *(0.9, 0.95),
            *(0.05, 1.0),
        )
        assert found.no_decay == ".*(scale|bias)"
    free = job_of(llamagen.get_config("XXL"))
    assert (free.train.batch, free.optimizer.learning_rate) == (1024, 3e-4)
    assert free.optimizer.warmup == 3 * free.train.steps // 100
    assert free.train.steps == 300 * 1_281_167 // 1024
