"""CLIP's text tower (arXiv 2103.00020) as open_clip writes it and UniTok trains it.

A causal pre-norm transformer, pooled at the end-of-text token, which has the largest id
of its vocabulary; padding (id 0) follows it and is never seen by it.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.nn import initializers

from unitoken_jax.config import Count, Positive
from unitoken_jax.layers.attention import check_heads
from unitoken_jax.layers.linear import Linear
from unitoken_jax.layers.norms import LayerNorm
from unitoken_jax.layers.parameter import Initializer, parameter
from unitoken_jax.layers.quantization import Dtype
from unitoken_jax.layers.residual import EncoderBlock
from unitoken_jax.layers.stack import Remat, scan_layers
from unitoken_jax.layers.vocabulary import Embedding
from unitoken_jax.ops.attention import Backend


@dataclass(frozen=True)
class ClipTextConfig:
    """Shape of the tower; the defaults are UniTok's (and CLIP ViT-L/14's).

    Attributes:
        vocab_size: number of token ids.
        length: longest text in tokens; the size of the position table.
        hidden: width D.
        layers: number of blocks L.
        heads: heads N; the head width is D / N.
        mlp: inner width F.
        embed: width of the result.
        norm_eps: added to the variances.
        attention: backend of the attention, see `ops.attention`.
        remat: what a block keeps for its gradient, see `layers.stack.Remat`.
        dtype: type of the computation.
    """

    vocab_size: Count = 49_408
    length: Count = 77
    hidden: int = 768
    layers: int = 12
    heads: int = 12
    mlp: Count = 3072
    embed: Count = 768
    norm_eps: Positive = 1e-5
    attention: Backend = "auto"
    remat: Remat = "none"
    dtype: Dtype = "float32"

    def __post_init__(self) -> None:
        """Refuses heads that do not come out even."""
        check_heads(self)


def shrinking_normal(standard: float, shrunk: float, inner: int) -> Initializer:
    """Normal with `standard` deviation towards `inner` channels, else `shrunk`."""

    def init(key: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype) -> jax.Array:
        deviation = standard if shape[-1] == inner else shrunk
        return deviation * jax.random.normal(key, shape, dtype)

    return init


class ClipText(nn.Module):
    """The tower.

    Parameters `token_embedding`, `position_embedding`, `layers` (stacked), `norm` and
    `projection`.
    """

    config: ClipTextConfig

    @nn.compact
    def __call__(self, text: jax.Array) -> jax.Array:
        """Encodes texts, int32 [B, X] with X at most `length`, to float32 [B, embed].

        Every text needs its end-of-text token, the largest id in it.
        """
        config = self.config
        length = text.shape[1]
        if length > config.length:
            raise ValueError(
                f"texts of {length} tokens exceed the text tower's length "
                f"{config.length}; cut them, keeping the end-of-text token"
            )
        x = Embedding(
            config.vocab_size,
            config.hidden,
            dtype=config.dtype,
            name="token_embedding",
        )(text)
        shape = (config.length, config.hidden)
        init = initializers.normal(0.01)
        axes = ("position", "embed")
        table = parameter(self, "position_embedding", init, axes, shape)
        x = x + table[:length].astype(config.dtype)
        # The published initializer: outputs shrink with the depth of the residual sum.
        shrunk = config.hidden**-0.5 * (2 * config.layers) ** -0.5
        into = (2 * config.hidden) ** -0.5
        blocks = scan_layers(EncoderBlock, config.layers, config.remat, shared=0)
        x, _ = blocks(
            config.heads,
            config.mlp,
            "gelu_erf",
            config.norm_eps,
            causal=True,
            backend=config.attention,
            kernel_init=initializers.normal(config.hidden**-0.5),
            out_init=initializers.normal(shrunk),
            mlp_init=shrinking_normal(into, shrunk, config.mlp),
            dtype=config.dtype,
            name="layers",
        )(x, None)
        x = LayerNorm(config.norm_eps, name="norm")(x)
        last = jnp.argmax(text, axis=1)
        pooled = jnp.take_along_axis(x, last[:, None, None], axis=1)[:, 0]
        projection = Linear(
            (config.embed,),
            ("embed", None),
            kernel_init=initializers.normal(config.hidden**-0.5),
            dtype=config.dtype,
            name="projection",
        )
        return projection(pooled).astype(jnp.float32)
