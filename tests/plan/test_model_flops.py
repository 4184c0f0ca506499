"""FLOPs of the model against the closed formula."""

import jax
import jax.numpy as jnp
import pytest

from configs import llama_2_7b, llamagen, unitok_mllm_7b_pretrain, unitok_pictures
from unitoken_jax.plan import model_flops
from unitoken_jax.train.experiment import build_experiment
from unitoken_jax.train.program import make_program

SHAPE = {
    "hidden": 64,
    "intermediate": 128,
    "layers": 3,
    "heads": 4,
    "kv_heads": 4,
    "head_dim": 16,
    "vocab_size": 512,
}
ROWS, LENGTH = 8, 128


def counted(**groups) -> float:
    """FLOPs of a step of a small decoder, with these groups of parameters."""
    config = llama_2_7b.get_config()
    config.model.decoder.update(SHAPE)
    config.model.update(loss_chunk=128, first_image_code=4, last_image_code=9)
    config.train.batch = ROWS
    config.data.row_length = LENGTH
    config.mesh = {"data": 8}
    if groups:
        config.optimizer.groups = groups
    return counted_of(config)


def counted_of(config) -> float:
    """FLOPs of a step of the only stage of a config."""
    (job,) = build_experiment(config).stages.values()
    system = job.system
    shapes = job.data.batch_spec(
        job.train.batch, codebooks=getattr(system.config, "codebooks", 1)
    )
    layout = make_program(job, system, "config", jax.devices())
    batch = {
        name: jax.ShapeDtypeStruct(shape, dtype)
        for name, (shape, dtype) in shapes.items()
    }
    return model_flops.count(job, system, layout, batch, {})


WEIGHTS = 3 * (4 * 64 * 64 + 3 * 64 * 128)  # of the layers
HEAD = 64 * 512
SCORES = 3 * 4 * 16 * LENGTH  # layers x heads x head_dim x row


def test_a_decoder_that_trains_whole():
    tokens = ROWS * LENGTH
    assert counted() == 6 * (WEIGHTS + HEAD) * tokens + 6 * SCORES * tokens


def test_what_the_optimizer_multiplies_does_not_count():
    """Muon's products are no work of the model."""
    kernels = ".*/layers/.*/kernel"
    groups = {
        "kernels": {"pattern": kernels, "rule": "muon"},
        "rest": {"pattern": ".*", "exclude": kernels},
    }
    assert counted(**groups) == counted()


def test_gradients_that_nobody_wants_do_not_count():
    """Behind a frozen head and frozen layers, the embedding alone learns."""
    tokens = ROWS * LENGTH
    found = counted(
        table={"pattern": "decoder/embedding/.*"},
        still={
            "pattern": "decoder/.*",
            "exclude": "decoder/embedding/.*",
            "frozen": True,
        },
    )
    assert found == 4 * (WEIGHTS + HEAD) * tokens + 6 * SCORES * tokens


def test_a_generator_of_codes():
    """Trunk and depth head are causal, and logits are computed again."""
    config = llamagen.get_config("XXL_any")
    config.model.update(hidden=64, intermediate=128, layers=3, heads=4)
    config.model.update(depth_layers=2, codes=512)
    config.train.batch = ROWS
    config.mesh = {"data": 8}
    layer = 4 * 64 * 64 + 3 * 64 * 128
    tokens, depths = ROWS * 256, 8
    trunk = 6 * 3 * (layer + 64 * 256) * tokens
    depth = 6 * (2 * (layer + 64 * depths) + 64 * 512) * tokens * depths
    assert counted_of(config) == trunk + depth


def test_a_decoder_with_a_depth_head():
    config = unitok_mllm_7b_pretrain.get_config("any")
    config.model.decoder.update(SHAPE)
    config.model.update(codes=256, projection=128, projection_heads=4)
    config.model.update(loss_chunk=128, depth_layers=2)
    config.train.update(batch=ROWS, microbatches=1)
    config.data.row_length = 512
    config.mesh = {"data": 8}
    side, depths, narrow, wide = 256, 8, 8 * 8, 128
    tokens, drawn = ROWS * 512, ROWS * config.data.row_views * side
    decoder = 6 * (WEIGHTS + HEAD + 3 * 64 * 512) * tokens
    depth = 6 * (2 * (WEIGHTS / 3 + 64 * depths) + 64 * 256) * drawn * depths
    # Maps from the vectors (query, key, value, shortcut) and out, GeGLU, MLP.
    embedder = 4 * narrow * wide + wide**2 + 3 * wide * 2 * wide + wide * 64 + 64**2
    images = 6 * (embedder + wide * side) * drawn
    assert counted_of(config) == decoder + depth + images


def test_a_tokenizer_in_portions_beside_causal_texts():
    """What a chunk computes again does not count; texts see what is before."""
    config = unitok_pictures.get_config("ablation")
    model = config.stages.tokenizer.model
    whole = counted_of(config)
    model.vision.chunks = 4
    assert counted_of(config) == whole
    model.text.layers += 1
    layer = 4 * 128**2 + 2 * 128 * 512
    assert counted_of(config) - whole == 6 * (layer + 128 * 16) * 32 * 16


@pytest.mark.parametrize("stride", [1, 2, 4])
def test_a_strided_convolution_costs_its_gradients_what_it_costs(stride):
    """The gradient by the input spreads the output with zeros, which are not pairs."""
    kernel = jnp.zeros((4, 4, 3, 5))

    def convolve(x, kernel):
        return jax.lax.conv_general_dilated(
            x,
            kernel,
            (stride, stride),
            "VALID" if stride > 1 else "SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        ).sum()

    x = jnp.zeros((2, 16, 16, 3))
    traced = jax.make_jaxpr(jax.grad(convolve, argnums=0))(x, kernel)
    output = jax.eval_shape(jax.grad(convolve, argnums=0), x, kernel)
    pairs = output.size // 3 / stride**2 * kernel.size
    forward = jax.make_jaxpr(convolve)(x, kernel)
    assert model_flops._products(traced.jaxpr) - model_flops._products(
        forward.jaxpr
    ) == pytest.approx(2 * pairs, rel=0.01)
