"""UniTok against the published code, its published sizes, and its parts."""

import dataclasses
from functools import partial

import golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from random_weights import random_weights

from unitoken_jax.config import ConfigError
from unitoken_jax.convert.published import unitok as layout
from unitoken_jax.convert.table import (
    Constant,
    expected_shapes,
    export_tensors,
    import_tensors,
)
from unitoken_jax.convert.tensors import WeightsError
from unitoken_jax.models import unitok
from unitoken_jax.models.clip_text import ClipTextConfig
from unitoken_jax.models.unitok import UniTok, UniTokConfig
from unitoken_jax.models.unitok_objective import ObjectiveConfig, every
from unitoken_jax.models.vitamin import (
    VITAMIN_BASE,
    VITAMIN_LARGE,
    VITAMIN_SMALL,
    ViTaminConfig,
)

CASES = ("unitok_tiny", "unitok_tiny_linear")
TINY = UniTokConfig(
    vision=ViTaminConfig(
        widths=(8, 16), depths=(1, 2), hidden=32, layers=2, heads=2, mlp=32
    ),
    text=ClipTextConfig(
        vocab_size=50, length=8, hidden=16, layers=2, heads=2, mlp=32, embed=16
    ),
    vocab_size=64,
    vocab_width=16,
    num_codebooks=4,
)


def config_of(case, **vision):
    node = golden.settings(case)
    encoder, text = node["encoder"], node["text"]
    widths, depths = encoder["embed_dim"], encoder["depths"]
    return UniTokConfig(
        vision=ViTaminConfig(
            widths=(widths[0], widths[1]),
            depths=(depths[0], depths[1]),
            hidden=widths[2],
            layers=encoder["depth"],
            heads=encoder["num_heads"],
            mlp=2 * widths[2],
            **({"drop_path": 0.0} | vision),
        ),
        text=ClipTextConfig(
            vocab_size=text["vocab_size"],
            length=text["context_length"],
            hidden=text["width"],
            layers=text["layers"],
            heads=text["heads"],
            mlp=4 * text["width"],
            embed=node["embed_dim"],
            remat=vision.get("remat", "none"),
        ),
        vocab_size=node["vocab_size"],
        vocab_width=node["vocab_width"],
        num_codebooks=node["num_codebooks"],
        projection="linear" if node["quant_proj"] == "linear" else "attention",
        search_chunk=5,
        # What the golden gradients are of.
        objective=ObjectiveConfig(l1=1.0, l2=0.0, perceptual=0.0, contrastive_chunk=2),
    )


def abstract(config):
    image = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    text = jax.ShapeDtypeStruct((1, config.text.length), jnp.int32)
    return jax.eval_shape(UniTok(config).init, jax.random.key(0), image, text)["params"]


def weights(case, config):
    source = golden.tensors(case, "weights")
    counts = layout.counts(config)
    return import_tensors(layout.table(config), source, abstract(config), counts)


@partial(jax.jit, static_argnums=(0, 1))
def apply(config, method, params, *inputs):
    return UniTok(config).apply({"params": params}, *inputs, method=method)


@pytest.mark.parametrize(
    ("case", "vision"),
    [(CASES[0], {"remat": "minimal", "chunks": 3}), (CASES[1], {})],
)
def test_reproduces_published_activations_and_gradients(case, vision):
    config = config_of(case, **vision)
    theirs = golden.tensors(case, "activations")
    images = golden.channels_last(theirs["image"])
    text = theirs["text"].astype(np.int32)

    # The training's loss takes bytes; these are their values before it scales them.
    batch = {"image": (images * 0.5 + 0.5) * 255, "text": text}

    def objective(params):
        model, key = UniTok(config), jax.random.key(0)
        loss, metrics = unitok.loss(model, params, batch, key)
        output = model.apply({"params": params}, images, text, deterministic=False)
        return loss, (output, metrics)

    step = jax.jit(jax.value_and_grad(objective, has_aux=True))
    (loss, (output, metrics)), gradients = step(weights(case, config))
    for ours, name in {
        "latent": "projected",
        "quantized": "quantized",
        "tokens": "post_projected",
        "image_features": "image_features",
        "text_features": "text_features",
        "vq_loss": "vq_loss",
        "logit_scale": "logit_scale",
    }.items():
        golden.assert_close(output[ours], theirs[name])
    rebuilt = golden.channels_last(theirs["reconstruction"])
    golden.assert_close(output["reconstruction"], rebuilt)
    golden.assert_close(metrics["l1"], theirs["l1_loss"])
    golden.assert_close(metrics["contrastive"], theirs["clip_loss"])
    golden.assert_close(metrics["quantization"], theirs["vq_loss"])
    golden.assert_close(loss, metrics["loss"])
    # The published layout has the codebooks before the tokens.
    codes = theirs["codes"].swapaxes(1, 2)
    np.testing.assert_array_equal(output["codes"], codes)

    table, counts = layout.table(config), layout.counts(config)
    ours = export_tensors(table, gradients, counts)
    expected = {
        key.removeprefix("grad."): value
        for key, value in golden.tensors(case, "gradients").items()
    }
    frozen = set(ours) - set(expected)
    constants = {rule.key for rule in table if isinstance(rule, Constant)}
    assert all(key in constants or "vocab_usage" in key for key in frozen)
    assert all(not ours[key].any() for key in frozen)
    # A sum of 12,288 signs: ours is the exact multiple of 1 / 36,864, PyTorch's float32
    # sum 1.4e-4 off.
    last = "decoder.up_conv4.conv2.bias"
    steps = ours[last] * images.size
    np.testing.assert_allclose(steps, np.round(steps), atol=0.01)
    np.testing.assert_allclose(ours[last], expected.pop(last), rtol=2e-4)
    golden.assert_gradients({key: ours[key] for key in expected}, expected)


@pytest.mark.parametrize("case", CASES)
def test_codes_are_the_middle_of_the_tokenizer(case):
    config = config_of(case)
    params, theirs = weights(case, config), golden.tensors(case, "activations")
    images = golden.channels_last(theirs["image"])
    codes = apply(config, "encode", params, images)
    np.testing.assert_array_equal(codes, theirs["codes"].swapaxes(1, 2))
    decoded = apply(config, "decode", params, codes)
    golden.assert_close(decoded, golden.channels_last(theirs["decoded"]))
    features = apply(config, "encode_image", params, images)
    golden.assert_close(features, theirs["image_features"])
    texts = apply(config, "encode_text", params, theirs["text"].astype(np.int32))
    golden.assert_close(texts, theirs["text_features"])


@pytest.mark.parametrize("case", CASES)
def test_weights_come_back_bit_for_bit(case):
    config, source = config_of(case), golden.tensors(case, "weights")
    table, counts = layout.table(config), layout.counts(config)
    back = export_tensors(table, weights(case, config), counts)
    assert set(back) == set(source)
    for key, array in source.items():
        np.testing.assert_array_equal(back[key], array, err_msg=key)


def test_a_constant_that_was_trained_is_refused():
    config = config_of(CASES[0])
    source = golden.tensors(CASES[0], "weights")
    key = "quant_proj.attn.zero_k_bias"
    source[key] = source[key] + 1
    counts = layout.counts(config)
    with pytest.raises(WeightsError, match=r"zero_k_bias should hold the constant 0"):
        import_tensors(layout.table(config), source, abstract(config), counts)


@pytest.mark.parametrize(
    ("vision", "parameters", "keys"),
    [
        (VITAMIN_LARGE, 820_298_692, 1335),
        (VITAMIN_BASE, 317_502_660, 791),
        (VITAMIN_SMALL, 172_660_292, 791),
    ],
)
def test_published_sizes(vision, parameters, keys):
    config = UniTokConfig(vision=vision)
    table, counts = layout.table(config), layout.counts(config)
    shapes = expected_shapes(table, abstract(config), counts)
    buffers = ("zero_k_bias", "vocab_usage")
    size = sum(
        int(np.prod(shape))
        for key, shape in shapes.items()
        if not key.endswith(buffers)
    )
    assert (size, len(shapes)) == (parameters, keys)


def test_published_sizes_of_the_parts():
    config = UniTokConfig()
    shapes = expected_shapes(
        layout.table(config), abstract(config), layout.counts(config)
    )
    sizes: dict[str, int] = {}
    for key, shape in shapes.items():
        if not key.endswith(("zero_k_bias", "vocab_usage")):
            part = key.split(".")[0]
            sizes[part] = sizes.get(part, 0) + int(np.prod(shape))
    assert sizes == {
        "encoder": 332_331_936,
        "quant_proj": 3_246_784,
        "quantizer": 262_144,
        "post_quant_proj": 7_615_744,
        "decoder": 352_402_531,
        "text_encoder": 123_650_304,
        "fc_norm": 2048,
        "projection": 787_200,
        "logit_scale": 1,
    }


@pytest.mark.parametrize(
    "change",
    [
        {"structure": "residual", "normalize": False},
        {"num_codebooks": 1, "causal": True},
    ],
)
def test_ablations_are_fields(change):
    config = dataclasses.replace(TINY, **change)
    params = random_weights(abstract(config))
    codes = apply(config, "encode", params, random_images(2, 32))
    assert codes.shape == (2, 4, config.num_codebooks)
    assert 0 <= codes.min() <= codes.max() < config.codes
    features = apply(config, "encode_codes", params, codes)
    np.testing.assert_allclose(np.linalg.norm(features, axis=-1), 1, rtol=1e-5)


def random_images(batch, height, width=None):
    shape = (batch, height, width or height, 3)
    return np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)


def test_pictures_need_not_be_square():
    params = random_weights(abstract(TINY))
    images = random_images(1, 32, 48)
    codes = apply(TINY, "encode", params, images)
    assert codes.shape == (1, 6, 4)
    decode = jax.jit(partial(UniTok(TINY).apply, grid=(2, 3), method="decode"))
    assert decode({"params": params}, codes).shape == images.shape
    with pytest.raises(ValueError, match="6 tokens are not a square"):
        apply(TINY, "decode", params, codes)
    with pytest.raises(ValueError, match="squares of 16 pixels, not 32×40"):
        apply(TINY, "encode", params, random_images(1, 32, 40))


def test_training_drops_paths_of_deep_blocks_only():
    config = dataclasses.replace(
        TINY, vision=dataclasses.replace(TINY.vision, drop_path=0.6)
    )
    params = random_weights(abstract(config))
    images, text = random_images(4, 32), np.ones((4, 8), np.int32)

    @jax.jit
    def latent(seed):
        keys = {"dropout": jax.random.key(seed)}
        output = UniTok(config).apply(
            {"params": params}, images, text, deterministic=False, rngs=keys
        )
        return output["latent"]

    whole = apply(config, "latent", params, images)
    assert not np.allclose(latent(0), latent(1))
    assert not np.allclose(latent(0), whole)


def test_sizes_that_codebooks_do_not_divide_are_refused():
    with pytest.raises(ValueError, match="vocab_size=64 is not a multiple of"):
        dataclasses.replace(TINY, num_codebooks=5)


def test_a_batch_that_does_not_divide_is_a_fault_of_the_config():
    with pytest.raises(ConfigError, match=r"one in 4 of a batch of 6 .*decode_every"):
        every(jnp.zeros((6, 2)), 4)
