"""The chunked contrastive loss against the plain one, on one device and eight."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from unitoken_jax.ops.contrastive import contrastive_loss
from unitoken_jax.ops.normalization import l2_normalize

BATCH, WIDTH = 48, 16


def features():
    rng = np.random.default_rng(0)
    both = rng.standard_normal((2, BATCH, WIDTH)).astype(np.float32)
    return tuple(np.asarray(l2_normalize(side)) for side in both)


def plain(images, texts, scale):
    logits = scale * images @ texts.T
    own = jnp.diag(logits)
    rows, columns = (jax.nn.logsumexp(logits, axis) for axis in (1, 0))
    loss = (jnp.mean(rows - own) + jnp.mean(columns - own)) / 2
    return loss, jnp.mean(jnp.argmax(logits, 1) == jnp.arange(BATCH))


def gradients(loss):
    return jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True))


@pytest.mark.parametrize("chunk", [1, 7, 16, 48, 100])
@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_chunks_change_nothing(chunk, scale):
    images, texts = features()
    inputs = (images, texts, jnp.float32(scale))
    (expected, share), slopes = gradients(plain)(*inputs)
    (loss, found), ours = gradients(lambda *a: contrastive_loss(*a, chunk=chunk))(
        *inputs
    )
    assert float(loss) == pytest.approx(float(expected), rel=1e-5)
    assert float(found) == pytest.approx(float(share))
    for mine, theirs in zip(ours, slopes, strict=True):
        np.testing.assert_allclose(mine, theirs, atol=2e-6 * scale, rtol=1e-4)


def test_eight_devices_never_hold_all_similarities():
    images, texts = features()
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    rows = NamedSharding(mesh, PartitionSpec("data"))
    placed = [jax.device_put(x, rows) for x in (images, texts)]
    step = gradients(lambda *a: contrastive_loss(*a, chunk=12))
    with jax.set_mesh(mesh):
        program = step.lower(*placed, jnp.float32(30)).compile()
        (loss, _), ours = program(*placed, jnp.float32(30))
    (expected, _), slopes = gradients(plain)(images, texts, jnp.float32(30))
    assert float(loss) == pytest.approx(float(expected), rel=1e-5)
    for mine, theirs in zip(ours, slopes, strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-5, rtol=1e-4)
    text = program.as_text()
    assert f"f32[{BATCH},{BATCH}]" not in text
    assert f"f32[{BATCH // 8},{BATCH}]" not in text  # nor a device its share of them


def test_features_that_are_all_alike_find_nothing_in_particular():
    same = np.ones((BATCH, WIDTH), np.float32) / 4
    loss, found = contrastive_loss(same, same, jnp.float32(5), chunk=16)
    assert float(loss) == pytest.approx(np.log(BATCH), rel=1e-5)
    assert float(found) == pytest.approx(1 / BATCH)
