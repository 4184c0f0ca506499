"""Convolutions on several devices: pictures stay where they are."""

import re

import jax
import jax.numpy as jnp
from flax import linen as nn

from unitoken_jax.layers.convolution import Conv, DepthwiseConv
from unitoken_jax.layers.stack import apply_in_chunks
from unitoken_jax.models.system import unboxed
from unitoken_jax.parallel import rules
from unitoken_jax.parallel.mesh import MeshConfig, make_mesh

BATCH, CHUNKS = 48, 3


class Block(nn.Module):
    """Two maps of each position around one of neighbours, in chunks."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Transforms [B, H, W, C]."""

        def convolve(_: nn.Module, x: jax.Array) -> jax.Array:
            x = jax.nn.gelu(Conv(64, size=1, name="one")(x))
            x = jax.nn.gelu(DepthwiseConv(name="two")(x))
            return Conv(16, size=1, name="three")(x)

        return apply_in_chunks(self, convolve, x, CHUNKS)


def test_kernels_are_gathered_and_no_pictures(monkeypatch):
    # As on a TPU: on CPUs something else stands in for grouped convolutions.
    monkeypatch.setattr(
        jax.lax, "platform_dependent", lambda *arrays, default, **_: default(*arrays)
    )
    mesh = make_mesh(MeshConfig(data=2, fsdp=4))
    block = Block()
    images = jax.ShapeDtypeStruct((BATCH, 8, 8, 16), jnp.float32)
    boxed = jax.eval_shape(block.init, jax.random.key(0), images)["params"]
    params = unboxed(boxed)
    axes = jax.tree.map(
        lambda leaf: leaf.names, boxed, is_leaf=lambda leaf: hasattr(leaf, "names")
    )
    places = rules.shardings(axes, params, mesh)
    assert any("fsdp" in place.spec for place in jax.tree.leaves(places))

    def loss(params, images):
        return jnp.sum(jnp.square(block.apply({"params": params}, images)))

    with jax.set_mesh(mesh):
        step = jax.jit(
            jax.value_and_grad(loss),
            in_shardings=(places, rules.batch_shardings(images, mesh)),
            out_shardings=(None, places),
        )
        text = step.lower(params, images).compile().as_text()
    moved = re.findall(
        r"= \(?\w+\[([\d,]+)\].* (?:all-gather|all-to-all|collective-permute)", text
    )
    assert moved
    rows = {BATCH // part // share for part in (1, CHUNKS) for share in (1, 2, 4, 8)}
    for shape in moved:
        sizes = [int(size) for size in shape.split(",")]
        assert len(sizes) < 4 or not rows & set(sizes[:-3]), shape
