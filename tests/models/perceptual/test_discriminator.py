"""DINOv2 and UniTok's discriminator against the published code."""

import dataclasses
from functools import partial

import golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hash_weights import hash_images, hash_weight

from unitoken_jax.convert.published import dinov2 as layout
from unitoken_jax.convert.table import (
    Constant,
    expected_shapes,
    export_tensors,
    import_tensors,
)
from unitoken_jax.models.perceptual.dinov2 import Dinov2, Dinov2Config
from unitoken_jax.models.perceptual.discriminator import (
    SCALE,
    SHIFT,
    Discriminator,
    DiscriminatorConfig,
)
from unitoken_jax.ops.adversarial import blur

PUBLISHED = DiscriminatorConfig()


def abstract(config):
    image = jax.ShapeDtypeStruct((1, 28, 28, 3), jnp.float32)
    init = Discriminator(config).init
    return jax.eval_shape(init, jax.random.key(0), image)["params"]


def whole_table(config, dino="dino.", heads=""):
    heads_rules = layout.heads_table(config)
    if heads:
        heads_rules = [
            dataclasses.replace(rule, key=heads + rule.key) for rule in heads_rules
        ]
    return [*layout.table(config.backbone, "backbone/", dino), *heads_rules]


def hashed(config):
    """Weights whose names have a prefix that says of which part they are."""
    table = whole_table(config, heads="disc.")
    shapes = expected_shapes(table, abstract(config), layout.counts(config))
    constants = {
        rule.key: rule.array(np.dtype("f4"))
        for rule in table
        if isinstance(rule, Constant)
    }
    source = {
        key: constants[key] if key in constants else hash_weight(key, shape)
        for key, shape in shapes.items()
    }
    return import_tensors(table, source, abstract(config), layout.counts(config))


@partial(jax.jit, static_argnums=0)
def score(config, params, images):
    return Discriminator(config).apply({"params": params}, images)


def test_reproduces_published_scores():
    backbone = Dinov2Config(hidden=64, mlp=256, heads=2)
    config = DiscriminatorConfig(backbone=backbone)
    source = golden.tensors("dino_discriminator", "weights")
    table, counts = whole_table(config), layout.counts(config)
    params = import_tensors(table, source, abstract(config), counts)
    theirs = golden.tensors("dino_discriminator", "activations")
    images = golden.channels_last(theirs["image"])
    golden.assert_close(score(config, params, images), theirs["logits"])
    back = export_tensors(table, params, counts)
    assert set(back) == set(source)
    for key, array in source.items():
        np.testing.assert_array_equal(back[key], array, err_msg=key)


@pytest.mark.parametrize("fade", [1.0, 0.5, 0.05, 0.02])
def test_warm_up_blur_is_the_published_one(fade):
    with np.load(golden.DIRECTORY / "losses_hashinit.npz") as theirs:
        expected = golden.channels_last(theirs[f"blur_{fade}"])
    ours = jax.jit(blur)(hash_images(), fade)[:, ::16, ::16]
    golden.assert_close(ours, expected)


@pytest.fixture(scope="module")
def full_size():
    with np.load(golden.DIRECTORY / "losses_hashinit.npz") as file:
        return hashed(PUBLISHED), dict(file)


@pytest.mark.slow
def test_full_size_scores_on_a_crop_and_through_area_resizing(full_size):
    params, theirs = full_size
    images = hash_images()
    cropped = score(PUBLISHED, params, images[:, :252, :252])
    golden.assert_close(cropped, theirs["disc_252"])
    golden.assert_close(score(PUBLISHED, params, images), theirs["disc_256_area"])


def test_full_size_scores_of_small_images(full_size):
    params, theirs = full_size
    small = score(PUBLISHED, params, hash_images()[:, 64:192, 64:192])
    golden.assert_close(small, theirs["disc_128_area"])


def test_published_sizes():
    counts = layout.counts(PUBLISHED)
    heads = expected_shapes(whole_table(PUBLISHED), abstract(PUBLISHED), counts)
    trained = {k: v for k, v in heads.items() if k.startswith("heads.")}
    assert sum(int(np.prod(shape)) for shape in trained.values()) == 7_386_245
    assert len(trained) + 2 == 52
    backbone = {k: v for k, v in heads.items() if k.startswith("dino.")}
    assert sum(int(np.prod(shape)) for shape in backbone.values()) == 22_056_576
    assert backbone["dino.pos_embed"] == (1, 1370, 384)


def test_the_constants_are_imagenets():
    mean, deviation = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    images = np.random.default_rng(0).uniform(-1, 1, (5, 3))
    expected = ((images + 1) / 2 - mean) / deviation
    np.testing.assert_allclose(images * SCALE + SHIFT, expected, atol=1e-6)


def test_images_that_patches_do_not_divide_are_refused():
    network = Dinov2(Dinov2Config(hidden=6, mlp=6, layers=1, heads=1, grid=2))
    with pytest.raises(ValueError, match=r"patches of 14 pixels.*28×30"):
        jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, 28, 30, 3)))
