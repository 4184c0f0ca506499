"""What residual streams are made of: dropout, layer scale and the encoder's block."""

from functools import partial
from typing import Literal

import jax
from flax import linen as nn
from jax.nn import initializers

from unitoken_jax.layers.attention import Attention
from unitoken_jax.layers.mlp import MLP, Activation, GeGLU
from unitoken_jax.layers.norms import LayerNorm
from unitoken_jax.layers.parameter import Initializer, parameter
from unitoken_jax.ops.attention import Backend, SegmentIds
from unitoken_jax.ops.dropout import drop_path, dropout
from unitoken_jax.parallel.rules import constrain


class Dropout(nn.Module):
    """Sets a share of its input to zero while training; no parameters.

    Attributes:
        rate: that share, in [0, 1).
    """

    rate: float

    @nn.compact
    def __call__(self, x: jax.Array, *, deterministic: bool) -> jax.Array:
        """Thins out [..., D]; returns it as it is if `deterministic`."""
        if deterministic or self.rate == 0:
            return x
        return dropout(self.make_rng("dropout"), x, self.rate)


class LayerScale(nn.Module):
    """One factor a channel; parameter `scale` [D]."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Scales [..., D]."""
        shape = (x.shape[-1],)
        scale = parameter(self, "scale", initializers.ones, ("norm",), shape)
        return x * scale.astype(x.dtype)


class EncoderBlock(nn.Module):
    """Pre-norm attention and MLP with residuals; for `stack.scan_layers`.

    Parameters `attention_norm`, `attention`, `mlp_norm` and `mlp`; with `layer_scale`
    also `attention_scale` and `mlp_scale`.

    Attributes:
        heads: heads N; the head width is D / N.
        mlp: inner width F.
        activation: of the MLP; "geglu" gives `layers.mlp.GeGLU`.
        norm_eps: added to the variances.
        causal: whether a position sees only itself and what stands before.
        layer_scale: whether each branch is scaled channel by channel.
        stochastic_depth: whether samples lose branches at random (rng "dropout").
        taps: whether the result of the block is also what it gives to the scan.
        backend: of the attention, see `ops.attention`.
        block: likewise.
        kernel_init: initializer of the kernels; None for that of each layer.
        out_init: that of the attention's output where it differs.
        mlp_init: that of the MLP where it differs.
        rows: logical name of the axis B.
        dtype: type of the computation.
    """

    heads: int
    mlp: int
    activation: Activation | Literal["geglu"]
    norm_eps: float
    causal: bool = False
    layer_scale: bool = False
    stochastic_depth: bool = False
    taps: bool = False
    backend: Backend = "auto"
    block: int = 512
    kernel_init: Initializer | None = None
    out_init: Initializer | None = None
    mlp_init: Initializer | None = None
    rows: str = "batch"
    dtype: str = "float32"

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        rate: jax.Array | None = None,
        segment_ids: SegmentIds | None = None,
    ) -> tuple[jax.Array, jax.Array | None]:
        """Transforms [B, T, D].

        Args:
            x: [B, T, D].
            rate: with `stochastic_depth`, the share of samples that lose a branch.
            segment_ids: see `ops.attention`.

        Returns:
            [B, T, D], twice if it `taps`.
        """
        norm = partial(LayerNorm, self.norm_eps)
        attention = Attention(
            heads=self.heads,
            kv_heads=self.heads,
            head_dim=x.shape[-1] // self.heads,
            use_bias=True,
            backend=self.backend,
            block=self.block,
            kernel_init=self.kernel_init,
            out_init=self.out_init,
            rows=self.rows,
            dtype=self.dtype,
            name="attention",
        )

        def add(x: jax.Array, change: jax.Array, name: str) -> jax.Array:
            if self.layer_scale:
                change = LayerScale(name=f"{name}_scale")(change)
            change = change.astype(x.dtype)
            if self.stochastic_depth and rate is not None:
                change = drop_path(self.make_rng("dropout"), change, rate)
            return x + change

        def stay(x: jax.Array) -> jax.Array:
            return constrain(x, self.rows, "length", "width")

        change, _ = attention(
            norm(name="attention_norm")(x), causal=self.causal, segment_ids=segment_ids
        )
        x = add(x, change, "attention")
        if self.activation == "geglu":
            x = stay(x)
        x = add(x, self._mlp()(norm(name="mlp_norm")(x)), "mlp")
        x = stay(x)
        return x, x if self.taps else None

    def _mlp(self) -> nn.Module:
        init = self.mlp_init or self.kernel_init
        if self.activation == "geglu":
            return GeGLU(self.mlp, kernel_init=init, dtype=self.dtype, name="mlp")
        return MLP(
            self.mlp,
            self.activation,
            kernel_init=init,
            rows=self.rows,
            dtype=self.dtype,
            name="mlp",
        )
