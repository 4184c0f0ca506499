"""ViTamin (arXiv 2404.02132) as UniTok uses it: a convolutional stem under a ViT.

No class token, no positional table, no pooling: positions show through the padding of
the convolutions. The decoder mirrors the encoder (arXiv 2502.20321). Images are float
[B, H, W, 3] in [-1, 1], tokens [B, h·w, D] row-major.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.nn import initializers

from unitoken_jax.config import Count, ShareBelowOne, positive
from unitoken_jax.layers.attention import check_heads
from unitoken_jax.layers.convolution import Conv, DepthwiseConv
from unitoken_jax.layers.norms import LayerNorm
from unitoken_jax.layers.parameter import Initializer, vit_init, xavier_half
from unitoken_jax.layers.quantization import Dtype
from unitoken_jax.layers.residual import EncoderBlock
from unitoken_jax.layers.stack import Remat, apply_in_chunks, scan_layers
from unitoken_jax.models.clip_text import ClipText, ClipTextConfig
from unitoken_jax.ops.attention import Backend
from unitoken_jax.ops.convolution import average_pool, convolve
from unitoken_jax.ops.resize import double_nearest

_CENTERED = ((1, 1), (1, 1))


@dataclass(frozen=True)
class ViTaminConfig:
    """Shape of encoder and decoder; the defaults are ViTamin-L.

    Attributes:
        widths: channels of the convolutional stages (two, as published); the stem has
            the first.
        depths: blocks of each stage.
        hidden: width D of the transformer.
        layers: number of transformer blocks L.
        heads: heads N; the head width is D / N.
        mlp: inner width F of the transformer's MLPs.
        drop_path: rate of stochastic depth in the last block; it grows from 0.
        attention: backend of the attention, see `ops.attention`.
        remat: what a block keeps for its gradient, see `layers.stack.Remat`.
        chunks: the batch passes the convolutions in so many chunks, each computed
            again for the gradient. 256 × 256 pixels keep some 0.4 GB a picture
            otherwise, most of it the decoder's.
        dtype: type of convolutions and matrix products; the transformer's residual
            stream is float32, as the published training keeps it.
    """

    widths: tuple[Count, ...] = (160, 320)
    depths: tuple[Count, ...] = (2, 4)
    hidden: int = 1024
    layers: int = 31
    heads: int = 16
    mlp: Count = 2048
    drop_path: ShareBelowOne = 0.1
    attention: Backend = "auto"
    remat: Remat = "none"
    chunks: int = 1
    dtype: Dtype = "float32"

    def __post_init__(self) -> None:
        check_heads(self)
        positive(self, "chunks")
        if not self.widths or len(self.widths) != len(self.depths):
            raise ValueError(
                f"widths {self.widths} and depths {self.depths} are one number for each"
                " convolutional stage, at least one stage."
            )

    @property
    def factor(self) -> int:
        """Pixels along the side of one token: 16 for two stages."""
        return 4 * 2 ** len(self.widths)


VITAMIN_SMALL = ViTaminConfig(widths=(64, 128), hidden=384, layers=14, heads=6, mlp=768)
VITAMIN_BASE = ViTaminConfig(
    widths=(128, 256), hidden=768, layers=14, heads=12, mlp=1536
)
VITAMIN_LARGE = ViTaminConfig()
VITAMIN_XLARGE = ViTaminConfig(widths=(192, 384), hidden=1152, layers=32, mlp=2304)


def he_fan_out(groups: int = 1) -> Initializer:
    """The published initializer of convolutions: N(0, 2 / (k² · out / groups))."""

    def init(key: jax.Array, shape: Sequence[int], dtype: jnp.dtype) -> jax.Array:
        fan_out = shape[0] * shape[1] * shape[-1] / groups
        return jax.random.normal(key, shape, dtype) * (2 / fan_out) ** 0.5

    return init


def expanded(width: int) -> int:
    """Inner width of a block: four times its own, in multiples of 8 as timm rounds."""
    multiple = (4 * width + 4) // 8 * 8
    return multiple + 8 if multiple < 0.9 * 4 * width else multiple


class MBConv(nn.Module):
    """Norm, 1×1 up, depthwise 3×3, 1×1 down, with a shortcut of the unnormed input.

    Attributes:
        features: output channels.
        stride: of the depthwise convolution; 2 halves the shortcut by averaging.
        dtype: type of the computation.
    """

    features: int
    stride: int
    dtype: str

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Transforms [B, H, W, C] to [B, H / stride, W / stride, features]."""
        inner = expanded(self.features)
        conv = partial(_encoder_conv, size=1, dtype=self.dtype)
        h = LayerNorm(1e-6, name="norm")(x)
        h = _gelu(conv(inner, name="expand")(h))
        h = DepthwiseConv(
            stride=self.stride,
            kernel_init=he_fan_out(inner),
            dtype=self.dtype,
            name="depthwise",
        )(h)
        h = conv(self.features, name="reduce")(_gelu(h))
        if self.stride > 1:
            x = average_pool(x, (3, 3), (2, 2), _CENTERED)
        if x.shape[-1] != self.features:
            x = conv(self.features, name="shortcut")(x)
        return x + h


class UpMBConv(nn.Module):
    """The decoder's block: where it doubles, the inner map is repeated and convolved.

    Attributes:
        features: output channels.
        up: whether height and width double.
        dtype: type of the computation.
    """

    features: int
    up: bool
    dtype: str

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Transforms [B, H, W, C] to [B, H', W', features]."""
        inner = expanded(self.features)
        conv = partial(_decoder_conv, dtype=self.dtype)
        h = LayerNorm(1e-6, name="norm")(x)
        h = _gelu(conv(inner, size=1, name="expand")(h))
        if self.up:
            h = conv(inner, name="up")(double_nearest(h))
            x = conv(self.features, name="shortcut")(double_nearest(x))
        h = DepthwiseConv(kernel_init=xavier_half, dtype=self.dtype, name="depthwise")(
            h
        )
        return x + conv(self.features, size=1, name="reduce")(_gelu(h))


class Transformer(nn.Module):
    """The blocks, stacked, and the last norm; parameters `layers` and `norm`."""

    config: ViTaminConfig

    @nn.compact
    def __call__(self, x: jax.Array, *, deterministic: bool) -> jax.Array:
        """Transforms tokens [B, T, D], in float32."""
        config = self.config
        rates = jnp.linspace(0.0, config.drop_path, config.layers)
        blocks = scan_layers(EncoderBlock, config.layers, config.remat, shared=0)
        layers = blocks(
            config.heads,
            config.mlp,
            "geglu",
            1e-6,
            stochastic_depth=config.drop_path > 0 and not deterministic,
            backend=config.attention,
            kernel_init=vit_init,
            dtype=config.dtype,
            name="layers",
        )
        x, _ = layers(x.astype(jnp.float32), rates)
        return LayerNorm(1e-6, name="norm")(x)


class ViTaminEncoder(nn.Module):
    """Images to tokens, one for `factor` × `factor` pixels."""

    config: ViTaminConfig

    @nn.compact
    def __call__(self, images: jax.Array, deterministic: bool = True) -> jax.Array:
        """Encodes [B, H, W, 3] to float32 [B, h · w, D]; h is H / factor."""
        config = self.config
        height, width = images.shape[1:3]
        if height % config.factor or width % config.factor:
            raise ValueError(
                f"ViTamin encodes images in squares of {config.factor} pixels, not "
                f"{height}×{width}; resize or crop them to a multiple"
            )
        x = apply_in_chunks(self, ViTaminEncoder._convolve, images, config.chunks)
        # [B, h, w, D] → [B, h · w, D]
        tokens = x.reshape(x.shape[0], -1, config.hidden)
        return Transformer(config, name="transformer")(
            tokens, deterministic=deterministic
        )

    def _convolve(self, images: jax.Array) -> jax.Array:
        """Images [B, H, W, 3] to the transformer's input [B, h, w, D]."""
        config = self.config
        conv = partial(_encoder_conv, dtype=config.dtype)
        x = conv(config.widths[0], stride=2, name="stem_1")(images)
        x = _gelu(LayerNorm(1e-6, name="stem_norm")(x))
        x = conv(config.widths[0], name="stem_2")(x)
        stages = zip(config.widths, config.depths, strict=True)
        for stage, (features, depth) in enumerate(stages):
            for i in range(depth):
                stride = 2 if i == 0 else 1
                name = f"stage_{stage}_block_{i}"
                x = MBConv(features, stride, config.dtype, name=name)(x)
        x = LayerNorm(1e-6, name="pool_norm")(x)
        pool = Conv(
            config.hidden,
            stride=2,
            bias_init=initializers.zeros,
            dtype=config.dtype,
            name="pool",
        )
        return pool(x)


class ViTaminDecoder(nn.Module):
    """Tokens to images, `factor` × `factor` pixels from one.

    The kernel of its last layer is the parameter `LAST_LAYER`.
    """

    config: ViTaminConfig

    LAST_LAYER: ClassVar[str] = "head/kernel"

    @nn.compact
    def __call__(
        self,
        tokens: jax.Array,
        grid: tuple[int, int],
        deterministic: bool = True,
    ) -> tuple[jax.Array, jax.Array]:
        """Decodes tokens.

        Args:
            tokens: [B, h · w, D].
            grid: (h, w).
            deterministic: False drops residual paths at random (rng "dropout").

        Returns:
            Images float32 [B, f h, f w, 3] that are not clipped, and what the last
            layer makes them of, [B, f h, f w, C].
        """
        config = self.config
        transformer = Transformer(config, name="transformer")
        x = transformer(tokens, deterministic=deterministic)
        # [B, h · w, D] → [B, h, w, D]
        x = x.reshape(x.shape[0], *grid, config.hidden)
        x = apply_in_chunks(self, ViTaminDecoder._convolve, x, config.chunks)
        head = _decoder_conv(3, dtype=config.dtype, name="head")
        return head(x).astype(jnp.float32), x

    @nn.nowrap
    def apply_last_layer(self, kernel: jax.Array, features: jax.Array) -> jax.Array:
        """Return images of `features` by the last layer's kernel, without its bias."""
        dtype = self.config.dtype
        images = convolve(
            features.astype(dtype), kernel.astype(dtype), padding=_CENTERED
        )
        return images.astype(jnp.float32)

    def _convolve(self, x: jax.Array) -> jax.Array:
        """The transformer's output [B, h, w, D] to the head's [B, f h, f w, C]."""
        config = self.config
        conv = partial(_decoder_conv, dtype=config.dtype)
        stages = list(zip(config.widths, config.depths, strict=True))[::-1]
        x = conv(stages[0][0], name="up")(double_nearest(x))
        for stage, (features, depth) in enumerate(stages):
            for i in range(depth):
                name = f"stage_{stage}_block_{i}"
                x = UpMBConv(features, i == 0, config.dtype, name=name)(x)
        x = conv(config.widths[0], name="head_up")(double_nearest(x))
        return _gelu(LayerNorm(1e-6, name="head_norm")(x))


@dataclass(frozen=True)
class ViTaminClipConfig:
    """Shape of a CLIP's towers; the defaults are ViTamin-L's at 256 pixels, UniTok's.

    Attributes:
        vision: image tower.
        text: text tower.
    """

    vision: ViTaminConfig = field(default_factory=ViTaminConfig)
    text: ClipTextConfig = field(default_factory=ClipTextConfig)


class ViTaminClip(nn.Module):
    """The towers of a ViTamin CLIP from which UniTok may start.

    open_clip's own model adds positions to the image tokens, pools and projects them,
    and has erf GELUs in the encoder's gated MLPs, where UniTok has none of the first
    three and tanh GELUs (arXiv 2502.20321 and its code). These are its towers as UniTok
    computes them; parameters `encoder` and `text`, named as UniTok's are.
    """

    config: ViTaminClipConfig

    def setup(self) -> None:
        """Names the parts."""
        self.encoder = ViTaminEncoder(self.config.vision)
        self.text = ClipText(self.config.text)

    def __call__(
        self, images: jax.Array, text: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Encodes images and texts.

        Args:
            images: float [B, H, W, 3] in [-1, 1].
            text: int32 [B, X].

        Returns:
            Image tokens float32 [B, h · w, D] and text vectors [B, E].
        """
        return self.encoder(images), self.text(text)


_encoder_conv = partial(Conv, kernel_init=he_fan_out(), bias_init=initializers.zeros)
_decoder_conv = partial(Conv, kernel_init=xavier_half, bias_init=initializers.zeros)


def _gelu(x: jax.Array) -> jax.Array:
    return jax.nn.gelu(x, approximate=False)
