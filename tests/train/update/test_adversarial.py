"""Two networks, two optimizers, one step: UniTok's training in miniature."""

import dataclasses
import functools
import json
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tokenizer

from tests.models import golden
from unitoken_jax.checkpoint import reader as checkpoints
from unitoken_jax.checkpoint import state as states
from unitoken_jax.config import ConfigError
from unitoken_jax.convert.published import dinov2
from unitoken_jax.convert.table import import_tensors
from unitoken_jax.models import registry
from unitoken_jax.models.perceptual.dinov2 import Dinov2, Dinov2Config
from unitoken_jax.models.perceptual.discriminator import DiscriminatorConfig
from unitoken_jax.models.system import FrozenModel
from unitoken_jax.ops import adversarial
from unitoken_jax.parallel import rules
from unitoken_jax.parallel.mesh import MeshConfig, make_mesh
from unitoken_jax.runtime.pytree import flatten, nest
from unitoken_jax.train import stage
from unitoken_jax.train.components import StageComponents
from unitoken_jax.train.loop import DivergedError
from unitoken_jax.train.update.adversarial import (
    AdversarialConfig,
    make_adversarial_update,
    make_discriminator,
)
from unitoken_jax.train.update.optimizer import OptimizerConfig, make_optimizer

FROZEN_MODELS = {"perceptual": tokenizer.lpips()}
LAST = "decoder/head/kernel"


def train(directory: Path, batches=None, devices=None, **fields):
    job = tokenizer.job(**fields)
    system = job.system
    frozen_models = FROZEN_MODELS if system.frozen_models else {}
    parts = StageComponents(
        system, batches or tokenizer.Batches(), frozen_models=frozen_models
    )
    return stage.run(job, parts, directory, devices=devices)


def rows(directory: Path) -> list[dict]:
    lines = (directory / "metrics.jsonl").read_text().splitlines()
    clocks = ("time", "second", "wait", "memory", "goodput", "mfu")
    return [
        {k: v for k, v in json.loads(line).items() if not any(c in k for c in clocks)}
        for line in lines
    ]


@pytest.fixture(scope="module", autouse=True)
def compiled_once(tmp_path_factory):
    """Runs of one program share it; it is not optimized, which takes far longer."""
    options = {
        "jax_disable_most_optimizations": True,
        "jax_compilation_cache_dir": str(tmp_path_factory.mktemp("programs")),
        "jax_persistent_cache_min_compile_time_secs": 0,
    }
    before = {name: jax.config.values[name] for name in options}
    for name, value in options.items():
        jax.config.update(name, value)
    yield
    for name, value in before.items():
        jax.config.update(name, value)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Four steps at once on eight devices."""
    directory = tmp_path_factory.mktemp("whole")
    train(directory)
    return directory


@pytest.mark.slow
def test_every_term_is_a_metric_and_the_adversary_begins_in_time(whole):
    found = rows(whole)
    terms = {"l1", "l2", "perceptual", "quantization", "contrastive", "deceit"}
    terms |= {"discriminator/hinge", "discriminator/consistency", "adaptive_weight"}
    terms |= {"usage/0", "usage/1", "dead/0", "perplexity/1", "psnr", "accuracy"}
    assert terms <= found[0].keys()
    assert "histogram" not in found[0]
    assert [row["discriminator/ramp"] for row in found] == [0, 0, 1, 1]
    assert [bool(row["discriminator/hinge"]) for row in found] == [0, 0, 1, 1]
    assert [bool(row["deceit"]) for row in found] == [0, 0, 1, 1]
    objective = tokenizer.job().system.config.objective
    last = found[-1]
    total = sum(
        getattr(objective, name) * last[name]
        for name in ("l1", "l2", "perceptual", "quantization", "contrastive")
    )
    assert last["loss"] == pytest.approx(total, rel=1e-5)


@pytest.mark.slow
def test_one_device_gives_the_same_losses_and_parameters(whole, tmp_path):
    train(tmp_path, devices=jax.devices()[:1])
    first, *later = zip(rows(tmp_path), rows(whole), strict=True)
    assert first[0] == pytest.approx(first[1], rel=1e-4, abs=1e-6)
    for one, eight in later:  # Adam makes a step of any gradient's sign
        assert one == pytest.approx(eight, rel=2e-2, abs=1e-4)
    left, _ = checkpoints.restore_params(tmp_path)
    right, _ = checkpoints.restore_params(whole)
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=0, atol=5e-3), left, right
    )


@pytest.mark.slow
def test_stopped_and_resumed_it_is_bit_equal(whole, tmp_path):
    outcome = train(tmp_path, tokenizer.Batches(stop=2))
    assert outcome.preempted == "SIGTERM"
    assert checkpoints.steps(tmp_path / "checkpoints") == [3]
    resumed = train(tmp_path)
    assert rows(tmp_path) == rows(whole)
    ours = flatten(checkpoints.restore_params(tmp_path)[0])
    theirs = flatten(checkpoints.restore_params(whole)[0])
    for path, value in theirs.items():
        np.testing.assert_array_equal(ours[path], value, err_msg=path)
    assert resumed.state.discriminator.params.keys()
    assert flatten(resumed.state.ema).keys() == ours.keys()


@pytest.mark.slow
def test_the_average_lags_behind_and_can_be_restored(whole):
    params = flatten(checkpoints.restore_params(whole)[0])
    average = flatten(checkpoints.restore_params(whole, ema=True)[0])
    assert average.keys() == params.keys()
    assert not np.array_equal(average[LAST], params[LAST])
    # At steps 0 … 3 its own weight is (1 + n) / (10 + n).
    assert 0 < np.abs(average[LAST] - params[LAST]).max() < 0.05


@pytest.fixture(scope="module")
def parts():
    """System, plain gradient descent, discriminator and parameters."""
    job = tokenizer.job()
    vision = tokenizer.MODEL["vision"] | {"drop_path": 0.0}
    system = registry.build(tokenizer.MODEL | {"vision": vision})
    shapes = registry.abstract_params(system)
    config = dataclasses.replace(job.optimizer, schedule="constant", learning_rate=1.0)
    rule = make_optimizer(config, flatten(shapes), 4)
    rule = dataclasses.replace(rule, transform=optax.scale(-1.0))
    discriminator = make_discriminator(job.discriminator, 4, "config.discriminator")
    return system, rule, discriminator, jax.jit(system.init_params)(jax.random.key(1))


@pytest.fixture(scope="module")
def update(parts):
    system, rule, discriminator, params = parts
    state = states.create(
        lambda _: params,
        rule.init,
        jax.random.key(0),
        init_discriminator=discriminator.init,
    )
    learn = make_adversarial_update(system.generator_loss, rule, discriminator)
    return state, jax.jit(lambda *inputs: learn(*inputs, FROZEN_MODELS))


def at(state, step):
    """Return a state that has come to a step."""
    return dataclasses.replace(state, step=jnp.int32(step))


@pytest.mark.slow
def test_gradient_is_that_of_the_weighted_sum(parts, update):
    system, _, discriminator, params = parts
    state, step = update
    batch, key = tokenizer.batch(0), jax.random.key(3)
    after, metrics = step(at(state, 3), batch, key)
    ours = jax.tree.map(jnp.subtract, params, after.params)

    def objective(params, weight):
        # As the update draws its keys.
        keys = jax.random.split(jax.random.fold_in(key, 0), 3)
        result = system.generator_loss.forward(params, batch, keys[0])
        distance, _ = system.generator_loss.reconstruction_loss(
            result.reconstruction, result.original, FROZEN_MODELS
        )
        heads, fade = state.discriminator.params, discriminator.fade(jnp.int32(3))
        deceit = -jnp.mean(
            discriminator.score(heads, {}, result.reconstruction, fade, keys[1])
        )
        return result.other_loss + distance + weight * deceit, (distance, deceit)

    weight = discriminator.config.weight * metrics["adaptive_weight"]
    expected = jax.jit(jax.grad(objective, has_aux=True))(params, weight)[0]
    theirs = flatten(expected)
    for path, value in flatten(ours).items():
        if path.endswith("usage"):
            continue
        scale = np.abs(theirs[path]).max()
        # The last bits of a parameter of size 1 are lost in its difference.
        bound = 2e-3 * scale + 5e-7
        np.testing.assert_allclose(value, theirs[path], atol=bound, err_msg=path)

    def part(which):
        def value(last):
            flat = flatten(params) | {LAST: last}
            return objective(nest(flat), 1.0)[1][which]

        return jax.jit(jax.grad(value))(flatten(params)[LAST])

    ratio = np.linalg.norm(part(0)) / (np.linalg.norm(part(1)) + 1e-6)
    assert float(metrics["adaptive_weight"]) == pytest.approx(ratio, rel=1e-3)


@pytest.mark.slow
def test_eight_devices_give_the_gradients_of_one(parts, update):
    """Of both sides, with the adaptive weight that balances them."""
    system, _, _, params = parts
    state, step = at(update[0], 3), update[1]
    batch, key = tokenizer.batch(0), jax.random.key(3)
    one, metrics = step(state, batch, key)
    mesh = make_mesh(MeshConfig(data=4, fsdp=2))
    shapes = registry.abstract_params(system)
    placed = rules.shardings(registry.logical_axes(system), shapes, mesh)
    everywhere = jax.NamedSharding(mesh, jax.P())
    divided = dataclasses.replace(
        jax.device_put(state, everywhere), params=jax.device_put(params, placed)
    )
    key = jax.device_put(key, everywhere)
    batch = jax.device_put(batch, rules.batch_shardings(batch, mesh))
    with jax.set_mesh(mesh):
        eight, found = step(divided, batch, key)
    start = flatten(params)
    ours, theirs = (flatten(jax.device_get(x.params)) for x in (eight, one))
    for path, value in theirs.items():
        gradient = start[path] - value
        # The last bits of a parameter of size 1 are lost in its difference.
        bound = 1e-3 * np.abs(gradient).max() + 5e-7
        np.testing.assert_allclose(
            start[path] - ours[path], gradient, rtol=0, atol=bound, err_msg=path
        )
    names = ["loss", "deceit", "adaptive_weight", "grad_norm", "contrastive"]
    names += [
        "discriminator/hinge",
        "discriminator/consistency",
        "discriminator/grad_norm",
    ]
    for name in names:
        assert found[name] == pytest.approx(float(metrics[name]), rel=1e-4), name
    left, right = eight.discriminator.params, one.discriminator.params
    # One step of Adam, of 1e-3 at most; of a bias under a norm only noise has a sign.
    for path in (path for path in right if path.endswith("kernel")):
        np.testing.assert_allclose(
            left[path], right[path], rtol=0, atol=1e-4, err_msg=path
        )


@pytest.mark.slow
def test_before_it_begins_nothing_of_it_counts(parts, update):
    state, step = update
    batch, key = tokenizer.batch(0), jax.random.key(3)
    after, metrics = step(at(state, 1), batch, key)
    jax.tree.map(
        np.testing.assert_array_equal, after.discriminator, state.discriminator
    )
    assert float(metrics["deceit"]) == 0
    after, _ = step(at(state, 3), batch, key)
    before = state.discriminator.params
    moved = [k for k, v in after.discriminator.params.items() if (v != before[k]).any()]
    assert any(path.startswith("heads/") for path in moved)


@pytest.mark.slow
def test_a_fault_on_the_other_side_refuses_the_step_of_both(tmp_path):
    broken = dict(FROZEN_MODELS)
    network = broken["perceptual"]
    spoilt = jax.tree.map(lambda x: x * np.float32(np.nan), network.params)
    broken["perceptual"] = dataclasses.replace(network, params=spoilt)
    job = tokenizer.job()
    parts = StageComponents(job.system, tokenizer.Batches(), frozen_models=broken)
    with pytest.raises(DivergedError, match="each of the steps 1 to 4 was skipped"):
        stage.run(job, parts, tmp_path)
    assert [row["skipped"] for row in rows(tmp_path)] == [1, 2, 3, 4]
    log = (tmp_path / "log.txt").read_text()
    assert "step 1: perceptual is nan" in log


class Blank(tokenizer.Batches):
    """The stream with pictures of one grey, for which one code is enough."""

    def __next__(self) -> dict[str, np.ndarray]:
        found = super().__next__()
        return found | {"image": np.full_like(found["image"], 128)}


@pytest.mark.slow
def test_a_run_warns_of_collapsed_codebooks_and_of_a_discriminator_that_wins(tmp_path):
    # Of 16 codes the grey needs few; the bound on the hinge is above what it is here.
    alarms = {"usage": 0.5, "hinge": 5.0, "patience": 2}
    train(tmp_path, Blank(), alarms=alarms)
    log = (tmp_path / "log.txt").read_text()
    for number in range(2):
        assert f"codebook {number} has collapsed: usage/{number} says that" in log
    assert "the discriminator wins: discriminator/hinge is" in log
    used = rows(tmp_path)[-1]["usage/0"]
    assert 0 < used < 0.5


@pytest.mark.slow
@pytest.mark.parametrize("supervision", ["reconstruction", "contrastive"])
def test_supervision_is_one_field(tmp_path, supervision):
    model = {**tokenizer.MODEL, "objective": {"supervision": supervision}}
    fields = {"discriminator": None, "train": {"steps": 2, "batch": 8, "log_every": 1}}
    if supervision == "contrastive":
        fields["frozen_models"] = {}
    train(tmp_path, model=model, **fields)
    found = rows(tmp_path)[-1]
    assert ("contrastive" in found) == (supervision == "contrastive")
    assert ("l2" in found) == (supervision == "reconstruction")
    assert math.isfinite(found["loss"])


def test_one_in_so_many_pictures_is_decoded():
    model = {**tokenizer.MODEL, "objective": {"decode_every": 2, "revival": 1.0}}
    system = registry.build(model)
    params = registry.abstract_params(system)
    batch = tokenizer.batch(0)
    made = jax.eval_shape(
        system.generator_loss.forward, params, batch, jax.random.key(0)
    )
    assert made.reconstruction.shape == (4, 16, 16, 3)
    with pytest.raises(ValueError, match="one in 2 of a batch of 3 pictures"):
        jax.eval_shape(
            system.generator_loss.forward,
            params,
            tokenizer.batch(0, 3),
            jax.random.key(0),
        )


def test_scale_is_clipped_and_usage_follows():
    system = registry.build(tokenizer.MODEL)
    params = {
        "logit_scale": jnp.float32(9),
        "quantizer": {"usage": jnp.zeros((2, 16))},
    }
    shares = np.zeros((2, 16), np.float32)
    shares[0], shares[1, 3] = 1 / 16, 1
    settled, metrics = system.post_update(params, {"histogram": shares})
    assert float(settled["logit_scale"]) == pytest.approx(math.log(100))
    np.testing.assert_allclose(settled["quantizer"]["usage"], shares)
    assert float(metrics["usage/0"]) == 1
    assert float(metrics["usage/1"]) == 1 / 16
    assert float(metrics["dead/1"]) == 15
    assert float(metrics["perplexity/0"]) == pytest.approx(16)
    later, _ = system.post_update(settled, {"histogram": shares[::-1]})
    decay = system.config.objective.usage_decay
    assert float(later["quantizer"]["usage"][1, 3]) == pytest.approx(
        decay + (1 - decay) / 16
    )


def test_terms_of_the_adversary():
    real, made = np.float32([2, 0.5]), np.float32([-3, 0.5])
    assert float(adversarial.hinge(real, made)) == pytest.approx(0.25 + 0.75)
    assert float(adversarial.consistency(real, made)) == pytest.approx(12.5)
    weigh = functools.partial(adversarial.balance, least=0.015, most=1e4)
    assert float(weigh(np.float32([3, 4]), np.float32([0, 2]))) == pytest.approx(2.5)
    assert float(weigh(np.zeros(2, "f"), np.ones(2, "f"))) == pytest.approx(0.015)
    assert float(weigh(np.ones(2, "f"), np.zeros(2, "f"))) == 1e4


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"frozen_models": {}}, "consults a frozen network 'perceptual'"),
        (
            {"frozen_models": {"perceptul": {"format": "lpips", "path": "x"}}},
            "consults a frozen network 'perceptual'",
        ),
        (
            {"discriminator": {**tokenizer.DISCRIMINATOR, "frozen": True}},
            "consults a frozen network 'backbone'",
        ),
        (
            {"train": {"steps": 4, "batch": 16, "microbatches": 2}},
            r"config\.train\.microbatches: the loss of this unitok compares the elem",
        ),
        (
            {
                "train": {"steps": 4, "batch": 16, "microbatches": 2},
                "model": tokenizer.MODEL
                | {"objective": {"supervision": "reconstruction"}},
            },
            "the discriminator's weight is that of the whole batch",
        ),
        (
            {"discriminator": {**tokenizer.DISCRIMINATOR, "start": 0.99}},
            r"config\.discriminator\.start: 0.99 of 4 steps leaves none",
        ),
        (  # its ramp would still be 0 at the last step
            {"discriminator": {**tokenizer.DISCRIMINATOR, "start": 0.75}},
            r"config\.discriminator\.start: 0.75 of 4 steps leaves none",
        ),
        (
            {
                "model": tokenizer.MODEL
                | {"objective": {"supervision": "contrastive"}},
                "frozen_models": {},
            },
            "draws nothing that could be judged",
        ),
    ],
)
def test_faults_are_sentences(tmp_path, fields, sentence):
    with pytest.raises(ConfigError, match=sentence):
        train(tmp_path, **fields)


def test_published_scores_through_the_adversary():
    """The golden discriminator as the trainer holds it: heads here, backbone there."""
    network = DiscriminatorConfig(backbone=Dinov2Config(hidden=64, mlp=256, heads=2))
    config = AdversarialConfig(OptimizerConfig(1e-3), network)
    discriminator = make_discriminator(config, 100, "config.discriminator")
    shapes = jax.eval_shape(discriminator.init_params, jax.random.key(0))
    table = [
        *dinov2.table(network.backbone, "backbone/", "dino."),
        *dinov2.heads_table(network),
    ]
    source = golden.tensors("dino_discriminator", "weights")
    params = import_tensors(table, source, shapes, dinov2.counts(network))
    trainable, _ = discriminator.optimizer.split(params)
    backbone = FrozenModel(Dinov2(network.backbone), params["backbone"])
    theirs = golden.tensors("dino_discriminator", "activations")
    images = golden.channels_last(theirs["image"])
    judge = jax.jit(discriminator.judge)
    scores = judge(trainable, {"backbone": backbone}, images, jax.random.key(0))
    golden.assert_close(scores, theirs["logits"])
    with np.load(golden.DIRECTORY / "losses_hashinit.npz") as losses:
        scores = losses["disc_256_area"]
        nothing = np.full_like(scores, 9)
        real, made = losses["hinge_real"], losses["hinge_fake"]
    golden.assert_close(adversarial.hinge(scores, -nothing), real)
    golden.assert_close(adversarial.hinge(nothing, scores), made)
