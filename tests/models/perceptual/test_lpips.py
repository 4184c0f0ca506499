"""LPIPS against the published code, with hashed weights at full size."""

from functools import partial

import golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hash_weights import hash_images, hash_weight
from random_weights import random_weights

from unitoken_jax.convert.published import lpips as layout
from unitoken_jax.convert.table import expected_shapes, import_tensors
from unitoken_jax.models.perceptual.lpips import Lpips, LpipsConfig
from unitoken_jax.models.system import FrozenModel
from unitoken_jax.models.unitok import reconstruction_loss
from unitoken_jax.models.unitok_objective import ObjectiveConfig

TINY = LpipsConfig(widths=(4, 6), depths=(1, 2))


def abstract(config):
    image = jax.ShapeDtypeStruct((1, 16, 16, 3), jnp.float32)
    return jax.eval_shape(Lpips(config).init, jax.random.key(0), image, image)["params"]


@pytest.mark.slow
def test_reproduces_published_distances_at_full_size():
    config = LpipsConfig()
    table = layout.table(config)
    source = {
        key: hash_weight(f"lpips.{key}", shape)
        for key, shape in expected_shapes(table, abstract(config), {}).items()
    }
    source |= {key: np.abs(w) for key, w in source.items() if key.startswith("lins")}
    params = import_tensors(table, source, abstract(config), {})
    images = jnp.asarray(hash_images())
    # As the training compares pictures, with nothing but this term.
    objective = ObjectiveConfig(l1=0.0, l2=0.0)
    frozen_models = {"perceptual": FrozenModel(Lpips(config), params)}
    distance = jax.jit(partial(reconstruction_loss, objective))
    flipped, metrics = distance(images[::-1], images, frozen_models)
    dimmed, _ = distance(0.9 * images + 0.05, images, frozen_models)
    assert metrics["perceptual"] == flipped
    with np.load(golden.DIRECTORY / "losses_hashinit.npz") as theirs:
        golden.assert_close(flipped, theirs["lpips"], least=0.0)
        golden.assert_close(dimmed, theirs["lpips2"], least=0.0)


def test_published_size():
    shapes = expected_shapes(layout.table(LpipsConfig()), abstract(LpipsConfig()), {})
    assert len(shapes) == 31
    assert sum(int(np.prod(shape)) for shape in shapes.values()) == 14_714_688 + 1472


def test_is_a_distance_per_image():
    params = random_weights(abstract(TINY))
    params |= {key: abs(w) for key, w in params.items() if key.startswith("weight")}
    distance = jax.jit(lambda a, b: Lpips(TINY).apply({"params": params}, a, b))
    images = np.random.default_rng(0).uniform(-1, 1, (3, 8, 8, 3)).astype(np.float32)
    # Fused multiply-adds round the two equal sides apart in the last bit.
    np.testing.assert_allclose(distance(images, images), 0, atol=1e-12)
    far = distance(images, images[::-1])
    assert far.shape == (3,)
    np.testing.assert_allclose(far[0], far[2], rtol=1e-5)  # symmetric
    assert far[1] < 1e-12 < far[0]
    gradient = jax.jit(jax.grad(lambda a: distance(a, images).sum()))(images)
    assert np.isfinite(gradient).all()  # where the images are equal
