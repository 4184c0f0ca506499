"""VQGAN against the published code, its published size, and its training loss."""

import dataclasses
from functools import partial

import golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from random_weights import random_weights

from unitoken_jax.convert.published import vqgan as layout
from unitoken_jax.convert.table import expected_shapes, export_tensors, import_tensors
from unitoken_jax.models.vqgan import VQGAN, ResidualBlock, VQGANConfig, loss
from unitoken_jax.runtime.pytree import flatten

SMALL = VQGANConfig(
    resolution=16,
    ch=8,
    ch_mult=(1, 2),
    num_res_blocks=1,
    z_channels=8,
    embed_dim=4,
    n_embed=32,
    num_groups=4,
    codebook_init="normal",
)


def golden_config():
    node = golden.settings("vqgan_tiny")
    dd = node["ddconfig"]
    return VQGANConfig(
        resolution=dd["resolution"],
        in_channels=dd["in_channels"],
        out_channels=dd["out_ch"],
        ch=dd["ch"],
        ch_mult=tuple(dd["ch_mult"]),
        num_res_blocks=dd["num_res_blocks"],
        attn_resolutions=tuple(dd["attn_resolutions"]),
        z_channels=dd["z_channels"],
        embed_dim=node["embed_dim"],
        n_embed=node["n_embed"],
    )


def abstract(config):
    blank = jax.ShapeDtypeStruct((1, config.resolution, config.resolution, 3), "f4")
    return jax.eval_shape(VQGAN(config).init, jax.random.key(0), blank)["params"]


def small_params():
    params = random_weights(abstract(SMALL))
    return params | {"codebook": 6 * params["codebook"]}


@partial(jax.jit, static_argnums=(0, 3))
def apply(config, params, inputs, method="__call__"):
    return VQGAN(config).apply({"params": params}, inputs, method=method)


def evaluate(config, params, batch):
    return jax.jit(partial(loss, VQGAN(config)))(params, batch, jax.random.key(0))


def pictures(batch=4, side=16):
    return np.random.default_rng(0).integers(0, 256, (batch, side, side, 3), np.uint8)


@pytest.fixture(scope="module")
def published():
    config = golden_config()
    source = golden.tensors("vqgan_tiny", "weights")
    params = import_tensors(layout.table(config), source, abstract(config), {})
    return config, params, golden.tensors("vqgan_tiny", "activations")


def test_reproduces_published_activations_and_gradients(published):
    config, params, theirs = published
    model = VQGAN(config)
    images = golden.channels_last(theirs["image"])

    def objective(params):
        output = model.apply({"params": params}, images)
        l1 = jnp.mean(jnp.abs(output["reconstruction"] - images))
        return l1 + output["commit_loss"], (output, l1)

    step = jax.jit(jax.value_and_grad(objective, has_aux=True))
    (_, (output, l1)), gradients = step(params)
    for name in ("latent", "quantized", "reconstruction"):
        golden.assert_close(output[name], golden.channels_last(theirs[name]))
    np.testing.assert_array_equal(output["codes"], theirs["codes"])
    golden.assert_close(output["commit_loss"], theirs["commit_loss"])
    golden.assert_close(l1, theirs["l1"])
    expected = {k[5:]: v for k, v in theirs.items() if k.startswith("grad.")}
    ours = export_tensors(layout.table(config), gradients, {})
    golden.assert_gradients(ours, expected)


def test_encode_and_decode_are_the_halves_of_the_whole(published):
    config, params, theirs = published
    codes = apply(config, params, golden.channels_last(theirs["image"]), "encode")
    np.testing.assert_array_equal(codes, theirs["codes"])
    images = apply(config, params, codes, "decode")
    golden.assert_close(images, golden.channels_last(theirs["reconstruction"]))


def test_published_size():
    config = VQGANConfig()
    shapes = expected_shapes(layout.table(config), abstract(config), {})
    assert len(shapes) == 293
    assert sum(int(np.prod(shape)) for shape in shapes.values()) == 68_718_467
    assert shapes["quantize.embedding.weight"] == (8192, 256)
    assert shapes["decoder.up.3.block.0.nin_shortcut.weight"] == (256, 512, 1, 1)
    assert config.factor == 16


def test_any_size_that_halves_is_a_grid_of_codes():
    params = small_params()
    images = jnp.zeros((2, 12, 20, 3))
    codes = apply(SMALL, params, images, "encode")
    assert codes.shape == (2, 6, 10)
    decoded = apply(SMALL, params, codes, "decode")
    assert decoded.shape == images.shape


def test_loss_reports_and_is_weighted():
    heavier = dataclasses.replace(SMALL, l1_weight=0.5, l2_weight=2.0)
    total, metrics = evaluate(heavier, small_params(), {"image": pictures()})
    assert 0 < metrics["usage"] <= 1 <= metrics["perplexity"] <= SMALL.n_embed
    expected = 0.5 * metrics["l1"] + 2 * metrics["l2"] + metrics["commit"]
    assert total == pytest.approx(float(expected), rel=1e-6)


def test_search_in_chunks_changes_nothing():
    params = small_params()
    chunked = dataclasses.replace(SMALL, search_chunk=7)
    one, two = (
        apply(config, params, pictures() / np.float32(127.5) - 1)
        for config in (SMALL, chunked)
    )
    np.testing.assert_array_equal(one["codes"], two["codes"])


def test_half_precision_leaves_the_quantizer_in_float32():
    half = dataclasses.replace(SMALL, dtype="bfloat16")
    output = apply(half, small_params(), jnp.zeros((1, 16, 16, 3)))
    assert output["latent"].dtype == output["reconstruction"].dtype == jnp.float32


def test_revival_wakes_codes_that_start_far_away():
    """Codes far from every latent stay dead as published and wake with the term."""

    def used_after(weight):
        model = VQGAN(dataclasses.replace(SMALL, revival_weight=weight))
        params = small_params()

        def objective(codebook):
            own = params | {"codebook": codebook}
            return loss(model, own, {"image": pictures()}, jax.random.key(0))

        def step(codebook, _):
            gradient, metrics = jax.grad(objective, has_aux=True)(codebook)
            return codebook - 20 * gradient, metrics["usage"]

        scan = jax.jit(partial(jax.lax.scan, step, length=60))
        return float(scan(20 * params["codebook"])[1][-1])

    assert used_after(0.0) < 0.3
    assert used_after(1.0) > 0.8


def test_codebook_starts_as_configured():
    init = partial(VQGAN(SMALL).init, jax.random.key(0), jnp.zeros((1, 16, 16, 3)))
    uniform = dataclasses.replace(SMALL, codebook_init="uniform")
    other = partial(VQGAN(uniform).init, jax.random.key(0), jnp.zeros((1, 16, 16, 3)))
    both = jax.jit(lambda: [nn.unbox(i())["params"]["codebook"] for i in (init, other)])
    normal, published = both()
    assert float(jnp.std(normal)) == pytest.approx(SMALL.codebook_scale, rel=0.2)
    assert 0.9 / SMALL.n_embed < jnp.abs(published).max() <= 1 / SMALL.n_embed


def test_residual_blocks_can_begin_as_the_identity():
    config = dataclasses.replace(SMALL, residual_init="zero")
    init = partial(VQGAN(config).init, jax.random.key(0), jnp.zeros((1, 16, 16, 3)))
    params = nn.unbox(jax.jit(init)())["params"]
    kernels = {
        path: leaf
        for path, leaf in flatten(params).items()
        if path.endswith(("conv_1/kernel", "conv_2/kernel"))
    }
    for path, kernel in kernels.items():
        assert jnp.any(kernel != 0) == path.endswith("conv_1/kernel"), path
    block, name = ResidualBlock(config, config.ch), "block_0"
    shown = jnp.asarray(np.random.default_rng(0).normal(size=(1, 4, 4, config.ch)))
    own = params["encoder"]["down_0"][name]
    passed = block.apply({"params": own}, shown, deterministic=True)
    assert float(jnp.abs(passed - shown - own["conv_2"]["bias"]).max()) < 1e-6


def test_the_quantizers_loss_has_a_weight():
    def terms(weight):
        model = VQGAN(dataclasses.replace(SMALL, quantization_weight=weight))
        batch = {"image": pictures()}
        return jax.jit(partial(loss, model))(small_params(), batch, jax.random.key(0))

    (whole, metrics), (half, _) = terms(1.0), terms(0.5)
    assert float(whole - half) == pytest.approx(0.5 * float(metrics["commit"]), 1e-4)


def test_without_quantizing_only_the_codebook_learns_from_the_codes():
    config = dataclasses.replace(SMALL, quantizes=False, revival_weight=0.0)
    batch, key = {"image": pictures()}, jax.random.key(0)

    def gradient(model):
        def objective(params):
            return loss(model, params, batch, key)[0]

        return jax.jit(jax.grad(objective))(small_params())

    off = dataclasses.replace(config, quantization_weight=0.0)
    with_codes, without = gradient(VQGAN(config)), gradient(VQGAN(off))
    assert jnp.any(with_codes["codebook"] != 0)
    assert not jnp.any(without["codebook"])
    for path, value in flatten(without).items():
        if path != "codebook":
            np.testing.assert_array_equal(flatten(with_codes)[path], value, path)
    output = apply(config, small_params(), pictures() / np.float32(127.5) - 1)
    np.testing.assert_array_equal(output["quantized"], output["latent"])


def test_widths_that_groups_do_not_divide_are_refused():
    with pytest.raises(ValueError, match="num_groups=3 must divide the widths"):
        dataclasses.replace(SMALL, num_groups=3)
