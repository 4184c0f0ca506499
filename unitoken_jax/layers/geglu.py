"""ViTamin's gated MLP (arXiv 2404.02132), which normalizes its own input."""

from functools import partial

import jax
from flax import linen as nn
from jax.ad_checkpoint import checkpoint_name
from jax.nn import initializers

from unitoken_jax.layers.linear import Linear
from unitoken_jax.layers.norms import LayerNorm
from unitoken_jax.layers.parameter import Initializer
from unitoken_jax.parallel.rules import constrain

vit_init = initializers.normal(0.02)
"""timm's initialiser of linear maps: its truncation lies at 100 standard deviations."""


class GeGLU(nn.Module):
    """down(gelu(gate(h)) * up(h)) of h = norm(x); the GELU is the tanh approximation.

    Attributes:
        features: inner width F.
        kernel_init: initialiser of the kernels.
        dtype: type of the computation.
    """

    features: int
    kernel_init: Initializer = vit_init
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Transforms [B, T, D]."""
        linear = partial(
            Linear, use_bias=True, kernel_init=self.kernel_init, dtype=self.dtype
        )
        into = partial(linear, (self.features,), ("embed", "mlp"))
        h = LayerNorm(1e-6, name="norm")(x)
        gate = checkpoint_name(into(name="gate")(h), "mlp_gate")
        up = checkpoint_name(into(name="up")(h), "mlp_up")
        inner = constrain(nn.gelu(gate) * up, "batch", "length", "mlp")
        return linear((x.shape[-1],), ("mlp_contracted", "embed"), name="down")(inner)
