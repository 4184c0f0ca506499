"""UniTok's published recipe: its numbers, what decays, two steps of a small copy."""

import dataclasses
import importlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from launch.sweep.experiment import evaluate
from tests.models.random_weights import random_weights
from unitoken_jax import convert
from unitoken_jax.checkpoint import state as states
from unitoken_jax.checkpoint import warm_start
from unitoken_jax.config import build
from unitoken_jax.convert.formats import format_of, network_of
from unitoken_jax.convert.published import unitok as layout
from unitoken_jax.convert.table import Constant, expected_shapes, export_tensors
from unitoken_jax.models import registry
from unitoken_jax.models.perceptual.lpips import Lpips, LpipsConfig
from unitoken_jax.models.system import FrozenModel
from unitoken_jax.models.vitamin import ViTaminClipConfig
from unitoken_jax.runtime.pytree import flatten, nest
from unitoken_jax.train import preflight, program
from unitoken_jax.train.config import StageConfig
from unitoken_jax.train.experiment import build_experiment
from unitoken_jax.train.update.adversarial import make_discriminator
from unitoken_jax.train.update.optimizer import make_optimizer
from unitoken_jax.train.update.step import make_train_step

SIDE, ROWS, LENGTH = 32, 4, 6
BACKBONE = {"hidden": 32, "mlp": 32, "layers": 2, "heads": 2, "grid": 2}


def published() -> StageConfig:
    config = importlib.import_module("configs.unitok_vitamin_l").get_config()
    (job,) = build_experiment(config).stages.values()
    return job


def shrunk() -> StageConfig:
    config = importlib.import_module("configs.unitok_vitamin_l").get_config("any")
    config.model.vision.update(
        {"widths": (8, 8), "depths": (1, 1), "hidden": 16, "layers": 2, "heads": 2}
    )
    config.model.vision.mlp = 16
    text = {"vocab_size": 20, "length": LENGTH, "hidden": 8, "layers": 1, "heads": 2}
    config.model.text.update(text | {"mlp": 16, "embed": 8})
    config.model.update({"vocab_size": 32, "vocab_width": 8, "num_codebooks": 2})
    config.discriminator.network.backbone.update(BACKBONE)
    config.discriminator.network.update({"taps": (0, 1), "groups": 4})
    config.discriminator.start = 0.0
    config.discriminator.optimizer.warmup = 0
    config.optimizer.warmup = 1
    config.train.update({"steps": 2, "batch": ROWS})
    (job,) = build_experiment(config).stages.values()
    return job


def batch(seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    text = rng.integers(0, 19, (ROWS, LENGTH)).astype(np.int32)
    text[:, -1] = 19
    image = rng.integers(0, 256, (ROWS, SIDE, SIDE, 3), np.uint8)
    return {"image": image, "text": text}


@pytest.mark.slow
def test_two_steps_move_both_sides():
    job = shrunk()
    system = job.system
    shapes = registry.abstract_params(system)
    rule = make_optimizer(job.optimizer, flatten(shapes), 2)
    discriminator = make_discriminator(job.discriminator, 2, "config.discriminator")
    whole = jax.eval_shape(discriminator.init_params, jax.random.key(0))
    config = LpipsConfig(widths=(4, 6), depths=(1, 1))
    image = jax.ShapeDtypeStruct((1, SIDE, SIDE, 3), jnp.float32)
    lpips = jax.eval_shape(Lpips(config).init, jax.random.key(0), image, image)
    distance = jax.tree.map(np.abs, random_weights(registry.unboxed(lpips["params"])))
    frozen_models = {
        "perceptual": FrozenModel(Lpips(config), distance),
        "backbone": FrozenModel(
            discriminator.module, random_weights(whole["backbone"])
        ),
    }

    update = program.make_step_update(job, system, rule, discriminator)
    run = make_train_step(update, job.guard)
    step = jax.jit(run, compiler_options={"xla_backend_optimization_level": 0})
    start = random_weights(shapes)
    state = states.create(
        lambda _: start,
        rule.init,
        jax.random.key(job.seed),
        init_discriminator=discriminator.init,
    )
    heads = state.discriminator.params
    assert not any(path.startswith("backbone") for path in heads)
    rates = []
    for number in range(2):
        state, metrics = step(state, batch(number), frozen_models)
        rates.append(float(metrics["learning_rate"]))
        assert np.isfinite(float(metrics["loss"]))
    assert rates == [0.0, pytest.approx(5e-4)]
    assert float(metrics["discriminator/ramp"]) == 1
    assert not state.guard.skipped
    after = flatten(state.params)
    for path, value in flatten(start).items():
        assert (after[path] != value).any(), path
    moved = state.discriminator.params
    for path, value in heads.items():
        # Of a sequence of scores no bias under a norm is seen.
        assert (moved[path] != value).any() or path.endswith("bias"), path


def test_starts_from_a_converted_clip(tmp_path):
    """A ViTamin CLIP as open_clip names it, through `convert`, to a fresh state."""
    vision = shrunk().system.config.vision
    text = shrunk().system.config.text
    clip = ViTaminClipConfig(
        dataclasses.replace(vision, dtype="float32", remat="none"),
        dataclasses.replace(text, dtype="float32", remat="none", mlp=4 * text.hidden),
    )
    network, kind = network_of(clip), format_of("vitamin-clip")
    params = random_weights(network.abstract(clip))
    norm = params["encoder"]["transformer"]["norm"]
    norm["scale"], norm["bias"] = np.ones_like(norm["scale"]), 0 * norm["bias"]
    tensors = export_tensors(kind.table(clip), params, network.counts(clip))
    tensors["visual.trunk.fc_norm.bias"] = norm["bias"]
    save_file(tensors, tmp_path / "open_clip.safetensors")
    described = kind.write_config(clip, {})
    source, converted = tmp_path / "open_clip.safetensors", tmp_path / "clip"
    convert.convert("vitamin-clip", "jax", source, converted, config=described)

    fields = [f"init.{part}={converted}:{part}" for part in ("encoder", "text")]
    node = evaluate("configs/unitok_vitamin_l.py", fields)
    (job,) = build_experiment(node).stages.values()
    assert dict(job.init) == dict(field[5:].split("=") for field in fields)
    small = shrunk()
    job = dataclasses.replace(
        small, init=job.init, model=dataclasses.replace(small.model, text=clip.text)
    )
    system = job.system
    laid = program.make_program(job, system, "config", jax.devices()[:1])
    sources = {
        ours: warm_start.resolve_source(theirs, tmp_path, {})
        for ours, theirs in job.init.items()
    }
    state = laid.init_state(sources)
    for part in ("encoder", "text"):
        jax.tree.map(np.testing.assert_array_equal, state.params[part], params[part])
    assert float(state.params["logit_scale"]) == pytest.approx(2.659260)


def test_numbers_of_the_scripts():
    job = published()
    assert (job.train.steps, job.train.batch) == (78_128, 16_384)
    ours, theirs = job.optimizer, job.discriminator.optimizer
    assert (ours.learning_rate, ours.b1, ours.b2, ours.eps) == (5e-4, 0.9, 0.95, 1e-6)
    assert (theirs.learning_rate, theirs.b1, theirs.b2) == (2e-5, 0.5, 0.9)
    assert (ours.weight_decay, theirs.weight_decay) == (0.02, 0.2)
    assert (ours.clip, theirs.clip) == (10.0, 10.0)
    assert (ours.end_scale, theirs.end_scale) == (0.1, 0.1)
    assert (ours.warmup, theirs.warmup) == (781, 2343)
    discriminator = make_discriminator(
        job.discriminator, job.train.steps, "config.discriminator"
    )
    assert discriminator.start_step == 29_298
    assert float(discriminator.ramp(jnp.int32(29_298))) == 0
    assert float(discriminator.ramp(jnp.int32(29_298 + 1172))) == pytest.approx(
        0.5, 1e-3
    )
    assert float(discriminator.fade(jnp.int32(29_298 + 2344))) == pytest.approx(
        0.5, 1e-3
    )
    assert (job.discriminator.weight, job.discriminator.consistency) == (0.4, 4.0)
    objective = job.system.config.objective
    assert (objective.l1, objective.l2, objective.perceptual) == (0.2, 1.0, 1.0)


def test_decay_falls_on_the_same_tensors_as_in_the_scripts():
    """All of two or more dimensions, under their published names and shapes."""
    job = published()
    # As deep as published, so that the tensors are as many, but narrow.
    vision = {"widths": (8, 16), "hidden": 32, "heads": 2, "mlp": 32}
    text = {"vocab_size": 50, "length": 8, "hidden": 16, "heads": 2, "mlp": 32}
    model = {"vision": vision, "text": text, "vocab_size": 64, "vocab_width": 16}
    system = registry.build({"kind": "unitok", **model})
    shapes = registry.abstract_params(system)
    no_decay = re.compile(job.optimizer.no_decay)
    # One number for each layer and tensor says whether it decays.
    marks = nest(
        {
            path: np.broadcast_to(np.float32(not no_decay.fullmatch(path)), leaf.shape)
            for path, leaf in flatten(shapes).items()
        }
    )
    table, counts = layout.table(system.config), layout.counts(system.config)
    constants = {rule.key for rule in table if isinstance(rule, Constant)}
    published_shapes = expected_shapes(table, shapes, counts)
    decayed = 0
    for key, mark in export_tensors(table, marks, counts).items():
        if key in constants or key.endswith(("vocab_usage", "zero_k_bias")):
            continue
        expected = len(published_shapes[key]) >= 2
        assert bool(mark.flat[0]) == expected, key
        decayed += expected
    assert decayed == 429


def test_a_discriminators_norms_and_biases_do_not_decay():
    config = published().discriminator
    discriminator = make_discriminator(
        config, published().train.steps, "config.discriminator"
    )
    shapes = jax.eval_shape(discriminator.init_params, jax.random.key(0))["heads"]
    no_decay = re.compile(config.optimizer.no_decay)
    spared = {path for path in flatten(shapes) if no_decay.fullmatch(path)}
    assert {path.rpartition("/")[2] for path in spared} == {"scale", "bias"}


def test_the_small_adversary_differs_in_its_backbone_and_how_it_begins():
    config = importlib.import_module("configs.unitok_pictures").get_config(
        "adversarial"
    )
    (job,) = build_experiment(config).stages.values()
    discriminator = preflight.check_discriminator(job, job.system, "config")
    assert discriminator is not None
    assert not discriminator.config.frozen
    assert (discriminator.start_step, job.train.steps) == (75, 300)
    assert discriminator.ramp(jnp.asarray(299)) == pytest.approx(1, abs=0.01)
    published_one = published().discriminator
    for name in ("fade", "weight", "least", "most"):
        assert getattr(discriminator.config, name) == getattr(published_one, name)
    score = jax.eval_shape(
        discriminator.module.apply,
        {"params": jax.eval_shape(discriminator.init_params, jax.random.key(0))},
        jax.ShapeDtypeStruct((2, 64, 64, 3), jnp.float32),
    )
    assert score.shape == (2, 3 * 64)  # every head scores every patch


def test_job_is_strict():
    with pytest.raises(ValueError, match="discriminator"):
        build(StageConfig, {"name": "x", "discriminator": {"wieght": 1}})
