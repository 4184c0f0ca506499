"""Inception-v3: its published size and the peculiarities of the FID's version."""

import golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hash_weights import hash_weight, noise

from unitoken_jax.convert.published import inception as layout
from unitoken_jax.convert.table import expected_shapes, import_tensors
from unitoken_jax.models.perceptual.inception import (
    BLOCKS,
    Block,
    ConvNorm,
    InceptionConfig,
    InceptionV3,
)

CONFIG = InceptionConfig()


def abstract():
    image = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.uint8)
    return jax.eval_shape(InceptionV3().init, jax.random.key(0), image)["params"]


@pytest.mark.slow
def test_reproduces_torch_fidelity_with_hashed_weights():
    table = layout.table(CONFIG)

    def weight(key, shape):
        if key.endswith("running_var"):
            return (1 + 0.5 * noise(key, shape)).astype(np.float32)
        value = hash_weight(key, shape)
        return value * np.float32(2**0.5) if key.endswith("conv.weight") else value

    shapes = expected_shapes(table, abstract(), layout.counts(CONFIG))
    source = {key: weight(key, shape) for key, shape in shapes.items()}
    params = import_tensors(table, source, abstract(), layout.counts(CONFIG))
    images = ((noise("pictures", (2, 48, 64, 3)) + 1) * 127.5).astype(np.uint8)
    output = jax.jit(InceptionV3().apply)({"params": params}, images)
    with np.load(golden.DIRECTORY / "inception_hashinit.npz") as theirs:
        for name in ("features", "logits"):
            golden.assert_close(output[name], theirs[name])


def test_published_size():
    shapes = expected_shapes(layout.table(CONFIG), abstract(), layout.counts(CONFIG))
    statistics = ("running_mean", "running_var")
    size = sum(
        int(np.prod(shape))
        for key, shape in shapes.items()
        if not key.endswith(statistics)
    )
    # torchvision's 27,161,264 without its auxiliary classifier, with 1008 classes.
    assert size == 27_161_264 - 3_326_696 + 8 * 2049
    assert len(shapes) == 94 * 5 + 2
    assert shapes["Mixed_7c.branch_pool.conv.weight"] == (192, 2048, 1, 1)


def test_output_is_features_and_logits():
    image = jax.ShapeDtypeStruct((2, 64, 48, 3), jnp.uint8)
    variables = {"params": abstract()}
    output = jax.eval_shape(InceptionV3().apply, variables, image)
    assert output["features"].shape == (2, 2048)
    assert output["logits"].shape == (2, 1008)


def test_the_last_block_pools_by_maximum():
    pools = [branches[-1].pool for name, branches in BLOCKS.items()]
    assert pools == ["average"] * 3 + ["max"] + ["average"] * 4 + ["max"] + [
        "average",
        "max",
    ]


def test_normalization_uses_the_stored_statistics():
    params = {
        "kernel": jnp.ones((1, 1, 1, 1)),
        "scale": jnp.array([2.0]),
        "bias": jnp.array([1.0]),
        "mean": jnp.array([3.0]),
        "variance": jnp.array([4.0 - 1e-3]),
    }
    result = ConvNorm(1).apply({"params": params}, jnp.array([[[[5.0], [0.0]]]]))
    np.testing.assert_allclose(result, [[[[3.0], [0.0]]]], rtol=1e-6)


def test_blocks_that_halve_take_whole_windows():
    block = Block(BLOCKS["Mixed_6a"])
    x = jax.ShapeDtypeStruct((1, 35, 35, 288), jnp.float32)
    output, _ = jax.eval_shape(block.init_with_output, jax.random.key(0), x)
    assert output.shape == (1, 17, 17, 768)
