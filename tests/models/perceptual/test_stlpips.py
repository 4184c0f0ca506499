"""Shift-tolerant LPIPS against its own code, with hashed weights."""

import golden
import jax
import numpy as np
import pytest
from hash_weights import hash_images, hash_weight

from unitoken_jax.convert.published import lpips as layout
from unitoken_jax.convert.table import expected_shapes, import_tensors
from unitoken_jax.models.perceptual.stlpips import SMALLEST, StLpips, StLpipsConfig

CONFIG = StLpipsConfig()
# Of stlpips-pytorch 0.0.2 with PyTorch 2.13 on the same pictures.
FLIPPED = [0.2118060141801834, 0.2118060141801834]
DIMMED = [0.007562927436083555, 0.007365591358393431]


def abstract():
    image = jax.ShapeDtypeStruct((1, 16, 16, 3), np.float32)
    init = StLpips(CONFIG).init
    return jax.eval_shape(init, jax.random.key(0), image, image)["params"]


def params():
    table = layout.stlpips_table(CONFIG)
    source = {
        key: hash_weight(f"stlpips.{key}", shape)
        for key, shape in expected_shapes(table, abstract(), {}).items()
    }
    source |= {key: np.abs(w) for key, w in source.items() if key.startswith("lin")}
    return import_tensors(table, source, abstract(), {})


def test_published_size():
    shapes = expected_shapes(layout.stlpips_table(CONFIG), abstract(), {})
    assert sum(int(np.prod(shape)) for shape in shapes.values()) == 2_469_696 + 1152


def test_the_smallest_picture_is_just_large_enough():
    def look(side):
        image = jax.ShapeDtypeStruct((1, side, side, 3), np.float32)
        jax.eval_shape(StLpips(CONFIG).init, jax.random.key(0), image, image)

    look(SMALLEST)
    with pytest.raises(ValueError, match="empty axis"):
        look(SMALLEST - 1)


def test_reproduces_its_own_codes_distances():
    images, weights = hash_images()[:, 96:160, 96:160], params()
    distance = jax.jit(lambda a, b: StLpips(CONFIG).apply({"params": weights}, a, b))
    flipped = distance(images, images[::-1])
    golden.assert_close(flipped, FLIPPED)
    dimmed = distance(images, 0.9 * images + 0.05)
    golden.assert_close(dimmed, DIMMED)
    slope = jax.jit(jax.grad(lambda a: distance(a, 0 * images).sum()))
    assert np.isfinite(slope(np.ones_like(images))).all()  # plain pictures
