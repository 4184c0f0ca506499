"""SigLIP's two towers (arXiv 2303.15343), as Hugging Face publishes their weights.

Pre-norm transformers without a class token: the image tower pools by attention from a
learned probe, the text tower by its last position.
"""

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.nn import initializers

from unitoken_jax.config import Count, Natural, Positive, positive
from unitoken_jax.layers.attention import Attention, check_heads
from unitoken_jax.layers.linear import Linear
from unitoken_jax.layers.mlp import MLP
from unitoken_jax.layers.norms import LayerNorm
from unitoken_jax.layers.parameter import parameter
from unitoken_jax.layers.quantization import Dtype
from unitoken_jax.layers.residual import EncoderBlock
from unitoken_jax.layers.stack import Remat, scan_layers
from unitoken_jax.layers.vocabulary import Embedding
from unitoken_jax.models.system import DataNeeds, Learns, Shapes, System
from unitoken_jax.ops import losses, pixels
from unitoken_jax.ops.attention import Backend
from unitoken_jax.ops.normalization import l2_normalize
from unitoken_jax.ops.positions import resize_grid
from unitoken_jax.parallel.rules import constrain

_EPSILON = 1e-12  # added to the squared length of a feature
_BLOCK = 1024  # of the splash backend: the 729 tokens of 384 pixels are one


@dataclass(frozen=True)
class SiglipVisionConfig:
    """Shape of the image tower; the defaults are SO400M/14 at 384 pixels.

    Attributes:
        hidden: width D.
        mlp: inner width F.
        layers: number of blocks L.
        heads: heads N; the head width is D / N.
        image: side of the images the position table was made for, in pixels.
        patch: side of a patch in pixels.
        head: whether the pooling head exists.
        norm_eps: added to the variances.
        attention: backend of the attention, see `ops.attention`.
        remat: what a block keeps for its gradient, see `layers.stack.Remat`.
        dtype: type of the computation.
    """

    hidden: int = 1152
    mlp: int = 4304
    layers: int = 27
    heads: int = 16
    image: Count = 384
    patch: int = 14
    head: bool = True
    norm_eps: Positive = 1e-6
    attention: Backend = "auto"
    remat: Remat = "none"
    dtype: Dtype = "float32"

    def __post_init__(self) -> None:
        """Refuses heads that do not come out even, and images smaller than a patch."""
        check_heads(self)
        positive(self, "mlp", "patch")
        if self.patch > self.image:
            raise ValueError(f"patch={self.patch} must not exceed image={self.image}")

    @property
    def grid(self) -> int:
        """Patches along a side of the image; a remainder of pixels is not seen."""
        return self.image // self.patch

    @property
    def tokens(self) -> int:
        """Vectors an image becomes."""
        return self.grid**2


@dataclass(frozen=True)
class SiglipTextConfig:
    """Shape of the text tower; the defaults are SO400M's.

    Attributes:
        vocab_size: number of token ids.
        length: longest text in tokens; the size of the position table.
        hidden: width D.
        mlp: inner width F.
        layers: number of blocks L.
        heads: heads N; the head width is D / N.
        pad: id of the padding, which stands right of a text.
        mask_padding: False as published: padding is attended to, and the last position
            (which it fills) is pooled. True hides it and pools the last real position,
            which small models learn faster.
        norm_eps: added to the variances.
        attention: backend of the attention, see `ops.attention`.
        remat: what a block keeps for its gradient, see `layers.stack.Remat`.
        dtype: type of the computation.
    """

    vocab_size: int = 32_000
    length: int = 64
    hidden: int = 1152
    mlp: int = 4304
    layers: int = 27
    heads: int = 16
    pad: Natural = 1
    mask_padding: bool = False
    norm_eps: Positive = 1e-6
    attention: Backend = "auto"
    remat: Remat = "none"
    dtype: Dtype = "float32"

    def __post_init__(self) -> None:
        """Refuses heads that do not come out even, and what has no size."""
        check_heads(self)
        positive(self, "vocab_size", "length", "mlp")


@dataclass(frozen=True)
class SiglipConfig:
    """Both towers.

    Attributes:
        vision: the image tower; it needs its head.
        text: the text tower.
        embed: width of the space they share. The image tower has no projection: it
            must be `vision.hidden`.
    """

    vision: SiglipVisionConfig = SiglipVisionConfig()
    text: SiglipTextConfig = SiglipTextConfig()
    embed: Count = 1152

    def __post_init__(self) -> None:
        """Refuses towers that share no space, and padding that is no id."""
        if self.text.pad >= self.text.vocab_size:
            raise ValueError(
                f"text.pad={self.text.pad} must be an id of the vocabulary, below "
                f"text.vocab_size={self.text.vocab_size}."
            )
        if self.embed != self.vision.hidden or not self.vision.head:
            raise ValueError(
                f"SigLIP compares texts with pooled images: embed={self.embed} must "
                f"equal vision.hidden={self.vision.hidden}, and vision.head must be "
                "true"
            )


def _layers(config: SiglipVisionConfig | SiglipTextConfig, rows: str) -> nn.Module:
    """The blocks of either tower, parameters `layers`; `rows` names the axis B."""
    blocks = scan_layers(EncoderBlock, config.layers, config.remat, shared=1)
    return blocks(
        config.heads,
        config.mlp,
        "gelu_tanh",
        config.norm_eps,
        backend=config.attention,
        block=_BLOCK,
        rows=rows,
        dtype=config.dtype,
        name="layers",
    )


class PoolingHead(nn.Module):
    """Attention from one learned vector to all tokens, then an MLP with residual."""

    config: SiglipVisionConfig

    @nn.compact
    def __call__(self, tokens: jax.Array) -> jax.Array:
        """Pools [B, S, D] to [B, D]."""
        config = self.config
        shape = (1, 1, config.hidden)
        init = initializers.normal(config.hidden**-0.5)
        probe = parameter(self, "probe", init, (None, None, "norm"), shape)
        probe = jnp.broadcast_to(
            probe.astype(tokens.dtype), (tokens.shape[0], 1, config.hidden)
        )
        attention = Attention(
            heads=config.heads,
            kv_heads=config.heads,
            head_dim=config.hidden // config.heads,
            use_bias=True,
            backend=config.attention,
            block=_BLOCK,
            rows="views",
            dtype=config.dtype,
            name="attention",
        )
        x, _ = attention(probe, source=tokens)
        mlp = MLP(config.mlp, "gelu_tanh", rows="views", dtype=config.dtype, name="mlp")
        x = x + mlp(LayerNorm(config.norm_eps, name="norm")(x))
        return x[:, 0]


class SiglipVision(nn.Module):
    """The image tower.

    Parameters `patch_embedding`, `position_embedding`, `layers` (stacked), `norm` and,
    with a head, `head`.
    """

    config: SiglipVisionConfig

    @nn.compact
    def __call__(self, images: jax.Array) -> dict[str, jax.Array]:
        """Encodes images.

        Args:
            images: float [B, H, W, 3] in [-1, 1]. At another size than the config's
                the position table is interpolated.

        Returns:
            `tokens` [B, S, D] after the last norm, and with a head `pooled` [B, D].
        """
        config = self.config
        patches = pixels.patches(images.astype(config.dtype), config.patch)
        axes = ("patch", "patch", "conv_in", "embed")
        x = Linear(
            (config.hidden,),
            axes,
            use_bias=True,
            dtype=config.dtype,
            name="patch_embedding",
        )(patches)
        shape = (config.tokens, config.hidden)
        init = initializers.normal(config.hidden**-0.5)
        table = parameter(
            self, "position_embedding", init, ("position", "embed"), shape
        )
        grid = tuple(side // config.patch for side in images.shape[1:3])
        table = resize_grid(table, (config.grid, config.grid), (grid[0], grid[1]))
        x = constrain(x + table.astype(config.dtype), "views", "length", "width")
        x, _ = _layers(config, "views")(x, None, None)
        x = LayerNorm(config.norm_eps, name="norm")(x)
        output = {"tokens": x}
        if config.head:
            output["pooled"] = PoolingHead(config, name="head")(x)
        return output


class SiglipText(nn.Module):
    """The text tower.

    Parameters `token_embedding`, `position_embedding`, `layers` (stacked), `norm` and
    `head`.

    Attributes:
        config: its shape.
        embed: width of the result.
    """

    config: SiglipTextConfig
    embed: int

    @nn.compact
    def __call__(self, text: jax.Array) -> jax.Array:
        """Encodes texts, int32 [B, X] with X at most `length`, to [B, embed]."""
        config = self.config
        length = text.shape[1]
        if length > config.length:
            raise ValueError(
                f"texts of {length} tokens exceed the text tower's length "
                f"{config.length}; cut them or raise text.length"
            )
        init = initializers.normal(config.hidden**-0.5)
        x = Embedding(
            config.vocab_size,
            config.hidden,
            table_init=init,
            dtype=config.dtype,
            name="token_embedding",
        )(text)
        shape = (config.length, config.hidden)
        table = parameter(
            self, "position_embedding", init, ("position", "embed"), shape
        )
        x = x + table[:length].astype(config.dtype)
        last = jnp.full(text.shape[0], length - 1)
        segments = None
        if config.mask_padding:
            real = (text != config.pad).astype(jnp.int32)  # [B, X]
            segments = (real, real)
            last = jnp.maximum(jnp.sum(real, axis=1) - 1, 0)
        x, _ = _layers(config, "batch")(x, None, segments)
        x = LayerNorm(config.norm_eps, name="norm")(x)
        pooled = jnp.take_along_axis(x, last[:, None, None], axis=1)[:, 0]
        head = Linear(
            (self.embed,),
            ("embed", None),
            use_bias=True,
            dtype=config.dtype,
            name="head",
        )
        return head(pooled)


class Siglip(nn.Module):
    """Both towers; parameters `vision`, `text`, `logit_scale` and `logit_bias`."""

    config: SiglipConfig

    def setup(self) -> None:
        """Names the parts; scale and bias start as in the paper, 10 and -10."""
        config = self.config
        self.vision = SiglipVision(config.vision)
        self.text = SiglipText(config.text, config.embed)
        self.logit_scale = parameter(
            self, "logit_scale", initializers.constant(math.log(10.0)), ("norm",), (1,)
        )
        self.logit_bias = parameter(
            self, "logit_bias", initializers.constant(-10.0), ("norm",), (1,)
        )

    def encode_image(self, images: jax.Array) -> jax.Array:
        """Unit vectors float32 [B, E] of images [B, H, W, 3] in [-1, 1]."""
        pooled = self.vision(images)["pooled"].astype(jnp.float32)
        return l2_normalize(pooled, added=_EPSILON)

    def encode_text(self, text: jax.Array) -> jax.Array:
        """Unit vectors float32 [B, E] of texts, int32 [B, X], padded on the right."""
        return l2_normalize(self.text(text).astype(jnp.float32), added=_EPSILON)

    def __call__(
        self, images: jax.Array, text: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
        """Encodes pairs.

        Returns:
            Unit vectors of images and texts, log scale and bias (scalars): what
            `ops.losses.sigmoid_loss` takes.
        """
        return (
            self.encode_image(images),
            self.encode_text(text),
            self.logit_scale[0],
            self.logit_bias[0],
        )


def loss(
    model: Siglip, params: dict, batch: dict[str, jax.Array], rng: jax.Array
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Sigmoid loss over all pairs of the batch.

    Args:
        model: the network.
        params: its parameters.
        batch: `image` uint8 [B, H, W, 3] and `text` int32 [B, X].
        rng: not used; the towers have no dropout.

    Returns:
        The scalar to minimise, and the metrics loss, accuracy (share of images whose
        nearest text of the batch is their own), scale and bias.
    """
    del rng
    output: Any = model.apply(
        {"params": params}, pixels.normalize(batch["image"]), batch["text"]
    )
    images, texts, log_scale, bias = output
    total, accuracy = losses.sigmoid_loss(images, texts, log_scale, bias)
    return total, {
        "loss": total,
        "accuracy": accuracy,
        "scale": jnp.exp(log_scale),
        "bias": bias,
    }


def system(config: SiglipConfig) -> System:
    """Return what the rest of the program knows of a SigLIP."""

    def inputs() -> dict[str, jax.Array]:
        size = config.vision.image
        return {
            "images": jnp.zeros((1, size, size, 3)),
            "text": jnp.zeros((1, config.text.length), jnp.int32),
        }

    def uncounted_flops(batch: Shapes, learns: Learns) -> float:
        del learns
        # Similarities are computed again in the gradient.
        return 2.0 * config.embed * batch["text"].shape[0] ** 2

    module = Siglip(config)
    return System(
        config,
        module,
        partial(loss, module),
        inputs,
        DataNeeds(
            ("pairs",),
            vocabulary={"text.vocab_size": "size", "text.pad": "pad"},
            patch="vision.patch",
            text_length="text.length",
        ),
        whole_batch=True,  # every picture is compared with every text
        uncounted_flops=uncounted_flops,
        formats=("siglip-hf",),
        evaluators=(
            "unitoken_jax.evaluate.retrieval:Retrieval",
            "unitoken_jax.evaluate.zero_shot:ZeroShot",
        ),
    )
