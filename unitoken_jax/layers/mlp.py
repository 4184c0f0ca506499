"""Feed-forward blocks: gated (Llama, Chameleon; ViTamin) and plain (SigLIP)."""

from functools import partial
from typing import Literal

import jax
from flax import linen as nn
from jax.ad_checkpoint import checkpoint_name

from unitoken_jax.layers.linear import Linear
from unitoken_jax.layers.norms import LayerNorm
from unitoken_jax.layers.parameter import Initializer, vit_init
from unitoken_jax.layers.quantization import Quantization
from unitoken_jax.parallel.rules import constrain

Activation = Literal["gelu_tanh", "gelu_erf"]

ACTIVATIONS = {
    "gelu_tanh": partial(jax.nn.gelu, approximate=True),
    "gelu_erf": partial(jax.nn.gelu, approximate=False),
}


class GatedMLP(nn.Module):
    """SwiGLU: down(silu(gate(x)) * up(x)), without biases.

    Attributes:
        features: inner width F.
        kernel_init: initializer of the kernels.
        quantization: in what the maps multiply, see `layers.quantization`.
        dtype: type of the computation.
    """

    features: int
    kernel_init: Initializer
    quantization: Quantization = "full"
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Transforms [B, T, D]."""
        linear = partial(
            Linear,
            kernel_init=self.kernel_init,
            quantization=self.quantization,
            dtype=self.dtype,
        )
        into = partial(linear, (self.features,), ("embed", "mlp"))
        gate = checkpoint_name(into(name="gate")(x), "mlp_gate")
        up = checkpoint_name(into(name="up")(x), "mlp_up")
        inner = constrain(jax.nn.silu(gate) * up, "batch", "length", "mlp")
        return linear((x.shape[-1],), ("mlp_contracted", "embed"), name="down")(inner)


class MLP(nn.Module):
    """Two linear maps with biases and a GELU between; parameters `up` and `down`.

    Attributes:
        features: inner width F.
        activation: which GELU, exact (erf) or its tanh approximation.
        output: width of the result; the input's when None.
        kernel_init: initializer of the kernels; normal, variance 1 / fan-in, if None.
        rows: logical name of the axis B.
        dtype: type of the computation.
    """

    features: int
    activation: Activation
    output: int | None = None
    kernel_init: Initializer | None = None
    rows: str = "batch"
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Transforms [B, T, D] to [B, T, output]."""
        linear = partial(
            Linear, use_bias=True, kernel_init=self.kernel_init, dtype=self.dtype
        )
        inner = linear((self.features,), ("embed", "mlp"), name="up")(x)
        inner = ACTIVATIONS[self.activation](checkpoint_name(inner, "mlp_up"))
        inner = constrain(inner, self.rows, "length", "mlp")
        output = x.shape[-1] if self.output is None else self.output
        return linear((output,), ("mlp_contracted", "embed"), name="down")(inner)


class GeGLU(nn.Module):
    """ViTamin's MLP (arXiv 2404.02132): it normalizes its own input.

    down(gelu(gate(h)) * up(h)) of h = norm(x), with the GELU's tanh approximation.

    Attributes:
        features: inner width F.
        kernel_init: initializer of the kernels.
        dtype: type of the computation.
    """

    features: int
    kernel_init: Initializer | None = vit_init
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
