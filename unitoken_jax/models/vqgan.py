"""Chameleon's VQGAN: images to a grid of codes and back (arXiv 2405.09818, 2012.09841).

Encoder and decoder are residual convolutions in levels of halving resolution with one
attention block in the middle; the quantizer is a single Euclidean codebook. Images are
float [B, H, W, 3] in [-1, 1], code grids int32 [B, h, w].
"""

import dataclasses
import functools
import math
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jax.nn import initializers

from unitoken_jax.config import Amount, Count, Natural, ShareBelowOne
from unitoken_jax.layers.convolution import Conv
from unitoken_jax.layers.norms import GroupNorm
from unitoken_jax.layers.parameter import parameter, uniform_fan_in
from unitoken_jax.layers.quantization import Dtype
from unitoken_jax.layers.residual import Dropout
from unitoken_jax.models.image_tokenizer import ImageTokenizer
from unitoken_jax.models.system import DataNeeds, Learns, Shapes, System
from unitoken_jax.ops.attention import attention
from unitoken_jax.ops.fidelity import psnr
from unitoken_jax.ops.quantization import (
    Quantizer,
    count_codes,
    effective_rank,
    effective_rank_flops,
    perplexity,
    revival_loss,
    usage,
)
from unitoken_jax.ops.resize import double_nearest


@dataclasses.dataclass(frozen=True)
class VQGANConfig:
    """Shape of the network; the defaults are Chameleon's published tokenizer.

    Attributes:
        resolution: side of the training images in pixels; attention sits at levels
            whose side, counted from here, is in `attn_resolutions`.
        in_channels: channels of the input image.
        out_channels: channels of the reconstruction.
        ch: width of the first level.
        ch_mult: width of each level in units of `ch`; each level but the last halves.
        num_res_blocks: residual blocks a level (the decoder has one more).
        attn_resolutions: sides at which every block is followed by attention.
        z_channels: channels between the convolutions and the quantizer's 1×1 ones.
        embed_dim: channels of a code vector.
        n_embed: number of codes.
        num_groups: groups of the normalizations; must divide every width.
        dropout: rate inside residual blocks.
        beta: weight of the codebook term beside the commitment term (published form).
        quantization_weight: weight of both. Published is 1, with which latents of a
            small network trained from scratch collapse into a plane: what the codes do
            not hold yet is noise to the decoder, and committing takes it away.
        quantizes: False decodes the latents themselves, while the codebook learns to
            follow them: a start from which codes hold all that the latents do.
        l1_weight: weight of the mean absolute error.
        l2_weight: weight of the mean squared error.
        codebook_init: "uniform" is the published U(±1/n_embed); "normal" draws
            N(0, `codebook_scale`²), which spreads the codes over untrained latents.
        codebook_scale: standard deviation of the "normal" initialisation.
        residual_init: of the last convolution of each residual block: "published" is
            PyTorch's default, "zero" begins with blocks that pass their input on, which
            trains faster from scratch.
        revival_weight: weight of the term that draws unused codes to latents (0 as
            published; short trainings from scratch lose most codes without it).
        search_chunk: code positions searched at once; 0 means all.
        dtype: dtype of the convolutions; the quantizer is always float32.
    """

    resolution: Count = 512
    in_channels: Count = 3
    out_channels: Count = 3
    ch: Count = 128
    ch_mult: tuple[Count, ...] = (1, 1, 2, 2, 4)
    num_res_blocks: Count = 2
    attn_resolutions: tuple[Count, ...] = ()
    z_channels: Count = 256
    embed_dim: Count = 256
    n_embed: Count = 8192
    num_groups: Count = 32
    dropout: ShareBelowOne = 0.0
    beta: Amount = 0.25
    quantization_weight: Amount = 1.0
    quantizes: bool = True
    l1_weight: Amount = 1.0
    l2_weight: Amount = 0.0
    codebook_init: Literal["uniform", "normal"] = "uniform"
    codebook_scale: Amount = 1.0
    residual_init: Literal["published", "zero"] = "published"
    revival_weight: Amount = 0.0
    search_chunk: Natural = 0
    dtype: Dtype = "float32"

    def __post_init__(self) -> None:
        """Refuses widths that do not come out even, and pictures that are not RGB."""
        if not self.ch_mult:
            raise ValueError("ch_mult needs a width for one level at least.")
        if odd := [width for width in self.widths if width % self.num_groups]:
            raise ValueError(
                f"num_groups={self.num_groups} must divide the widths of all levels, "
                f"ch · ch_mult; {odd[0]} is no multiple of it."
            )
        if self.resolution % self.factor:
            raise ValueError(
                f"resolution={self.resolution} must be a multiple of {self.factor}, "
                f"the pixels along a code of {len(self.ch_mult)} levels."
            )
        if (self.in_channels, self.out_channels) != (3, 3):
            raise ValueError(
                "in_channels and out_channels must be 3: pictures are RGB."
            )

    @property
    def whole_batch(self) -> bool:
        """Whether a term compares elements of a batch with each other."""
        # The revival looks for codes that nothing in the batch chose.
        return self.revival_weight > 0

    @property
    def factor(self) -> int:
        """Pixels along the side of one code."""
        return 2 ** (len(self.ch_mult) - 1)

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each level."""
        return tuple(self.ch * multiple for multiple in self.ch_mult)

    def attends(self, level: int) -> bool:
        """Whether the blocks of a level are followed by attention."""
        return self.resolution // 2**level in self.attn_resolutions


class ResidualBlock(nn.Module):
    """Norm, swish, convolution, twice; a 1×1 shortcut where the width changes."""

    config: VQGANConfig
    features: int

    @nn.compact
    def __call__(self, x: jax.Array, *, deterministic: bool) -> jax.Array:
        """Transform [B, H, W, C] to [B, H, W, features]."""
        config = self.config
        h = nn.swish(GroupNorm(config.num_groups, name="norm_1")(x))
        h = Conv(self.features, dtype=config.dtype, name="conv_1")(h)
        h = nn.swish(GroupNorm(config.num_groups, name="norm_2")(h))
        h = Dropout(config.dropout)(h, deterministic=deterministic)
        zero = config.residual_init == "zero"
        last = initializers.zeros if zero else uniform_fan_in
        h = Conv(self.features, kernel_init=last, dtype=config.dtype, name="conv_2")(h)
        if x.shape[-1] != self.features:
            x = Conv(self.features, 1, dtype=config.dtype, name="shortcut")(x)
        return x + h


class PixelAttention(nn.Module):
    """Single-head attention among all positions of a feature map, with residual."""

    config: VQGANConfig

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Transform [B, H, W, C], keeping its shape."""
        batch, height, width, channels = x.shape
        conv = functools.partial(Conv, channels, 1, dtype=self.config.dtype)
        h = GroupNorm(self.config.num_groups, name="norm")(x)
        query, key, value = (
            # [B, h, w, C] → [B, h · w, 1, C]
            conv(name=name)(h).reshape(batch, height * width, 1, channels)
            for name in ("query", "key", "value")
        )
        # One head of C channels over few positions: no kernel pays here.
        h = attention(query, key, value, causal=False, backend="xla")
        # [B, h · w, 1, C] → [B, h, w, C]
        return x + conv(name="out")(h.reshape(x.shape))


class Middle(nn.Module):
    """Residual block, attention, residual block at the lowest resolution."""

    config: VQGANConfig

    @nn.compact
    def __call__(self, x: jax.Array, *, deterministic: bool) -> jax.Array:
        """Transform [B, H, W, C], keeping its shape."""
        width = x.shape[-1]
        x = ResidualBlock(self.config, width, name="block_1")(
            x, deterministic=deterministic
        )
        x = PixelAttention(self.config, name="attention_1")(x)
        return ResidualBlock(self.config, width, name="block_2")(
            x, deterministic=deterministic
        )


class Level(nn.Module):
    """The residual blocks of one resolution, each with attention where configured."""

    config: VQGANConfig
    level: int
    blocks: int

    @nn.compact
    def __call__(self, x: jax.Array, *, deterministic: bool) -> jax.Array:
        """Transform [B, H, W, C] to the level's width."""
        width = self.config.widths[self.level]
        for i in range(self.blocks):
            x = ResidualBlock(self.config, width, name=f"block_{i}")(
                x, deterministic=deterministic
            )
            if self.config.attends(self.level):
                x = PixelAttention(self.config, name=f"attention_{i}")(x)
        return x


class Encoder(nn.Module):
    """Images to latents before the quantizer's 1×1 convolution."""

    config: VQGANConfig

    @nn.compact
    def __call__(self, images: jax.Array, *, deterministic: bool) -> jax.Array:
        """Encode [B, H, W, 3] to [B, h, w, z_channels]."""
        config = self.config
        conv = functools.partial(Conv, dtype=config.dtype)
        x = conv(config.ch, name="conv_in")(images)
        last = len(config.widths) - 1
        for i, width in enumerate(config.widths):
            level = Level(config, i, config.num_res_blocks, name=f"down_{i}")
            x = level(x, deterministic=deterministic)
            if i < last:
                # The published downsampling pads below and to the right only.
                name = f"downsample_{i}"
                below = ((0, 1), (0, 1))
                x = conv(width, stride=2, padding=below, name=name)(x)
        x = Middle(config, name="middle")(x, deterministic=deterministic)
        x = nn.swish(GroupNorm(config.num_groups, name="norm_out")(x))
        return conv(config.z_channels, name="conv_out")(x)


class Decoder(nn.Module):
    """Latents after the quantizer's 1×1 convolution to images."""

    config: VQGANConfig

    @nn.compact
    def __call__(self, latents: jax.Array, *, deterministic: bool) -> jax.Array:
        """Decode [B, h, w, z_channels] to [B, H, W, 3], not clipped."""
        config = self.config
        conv = functools.partial(Conv, dtype=config.dtype)
        x = conv(config.widths[-1], name="conv_in")(latents)
        x = Middle(config, name="middle")(x, deterministic=deterministic)
        for i, width in reversed(list(enumerate(config.widths))):
            level = Level(config, i, config.num_res_blocks + 1, name=f"up_{i}")
            x = level(x, deterministic=deterministic)
            if i > 0:
                x = conv(width, name=f"upsample_{i}")(double_nearest(x))
        x = nn.swish(GroupNorm(config.num_groups, name="norm_out")(x))
        return conv(config.out_channels, name="conv_out")(x)


class VQGAN(ImageTokenizer):
    """The tokenizer; parameters `encoder`, `decoder`, `codebook` and two 1×1 convs."""

    config: VQGANConfig

    def setup(self) -> None:
        """Name the parts."""
        config = self.config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.quant_conv = Conv(config.embed_dim, 1, dtype="float32")
        self.post_quant_conv = Conv(config.z_channels, 1, dtype=config.dtype)
        if config.codebook_init == "uniform":
            bound = 1 / config.n_embed
            init = functools.partial(jax.random.uniform, minval=-bound, maxval=bound)
        else:
            init = initializers.normal(config.codebook_scale)
        shape = (config.n_embed, config.embed_dim)
        self.codebook = parameter(self, "codebook", init, ("code", "embed"), shape)

    @property
    def quantizer(self) -> Quantizer:
        """Nearest Euclidean code with the published, "legacy", loss."""
        config = self.config
        return Quantizer(beta=config.beta, legacy=True, chunk=config.search_chunk)

    def latent(self, images: jax.Array, deterministic: bool = True) -> jax.Array:
        """Latents [B, h, w, E] before quantization, float32, of images [B, H, W, 3]."""
        encoded = self.encoder(images, deterministic=deterministic)
        return self.quant_conv(encoded.astype(jnp.float32))

    def encode(self, images: jax.Array) -> jax.Array:
        """Codes int32 [B, h, w] of images [B, H, W, 3] in [-1, 1]."""
        latents = self.latent(images)
        # [B, h, w, E] → [B, h · w, E]
        flat = latents.reshape(latents.shape[0], -1, latents.shape[-1])
        # [B, h · w, 1] → [B, h, w]
        return self.quantizer.codes(flat, self.codebook[None]).reshape(
            latents.shape[:-1]
        )

    def decode(self, codes: jax.Array) -> jax.Array:
        """Images [B, H, W, 3] of codes [B, h, w]; clip to [-1, 1] to show them."""
        # [B, h, w] → [B, h · w, 1]
        flat = codes.reshape(codes.shape[0], -1, 1)
        vectors = self.quantizer.lookup(flat, self.codebook[None])
        # [B, h · w, E] → [B, h, w, E]
        return self.decode_vectors(vectors.reshape(*codes.shape, -1))

    @property
    def num_codebooks(self) -> None:
        """None: its codes are words of a vocabulary."""
        return None

    @property
    def codebook_size(self) -> int:
        """Codes of the codebook."""
        return self.config.n_embed

    def encode_grid(self, images: jax.Array) -> jax.Array:
        """Code images [B, H, W, 3] as `encode` does, to [B, h, w]."""
        return self.encode(images)

    def decode_grid(self, codes: jax.Array) -> jax.Array:
        """Decode codes [B, h, w] as `decode` does, to [B, H, W, 3]."""
        return self.decode(codes)

    def decode_vectors(
        self, vectors: jax.Array, deterministic: bool = True
    ) -> jax.Array:
        """Images [B, H, W, 3] of quantized vectors [B, h, w, E]."""
        images = self.decoder(
            self.post_quant_conv(vectors), deterministic=deterministic
        )
        return images.astype(jnp.float32)

    def __call__(
        self, images: jax.Array, deterministic: bool = True
    ) -> dict[str, jax.Array]:
        """Reconstruct images [B, H, W, 3] in [-1, 1].

        Returns:
            reconstruction [B, H, W, 3], codes int32 [B, h, w], commit_loss (scalar),
            latent and quantized [B, h, w, E].
        """
        latents = self.latent(images, deterministic=deterministic)
        grid = latents.shape[:-1]
        # [B, h, w, E] → [B, h · w, E]
        flat = latents.reshape(grid[0], -1, latents.shape[-1])
        if not self.config.quantizes:
            quantized = self.quantizer(lax.stop_gradient(flat), self.codebook[None])
            vectors = latents
        else:
            quantized = self.quantizer(flat, self.codebook[None])
            # [B, h · w, E] → [B, h, w, E]
            vectors = quantized.vectors.reshape(latents.shape)
        return {
            "reconstruction": self.decode_vectors(vectors, deterministic=deterministic),
            # [B, h · w, 1] → [B, h, w]
            "codes": quantized.codes.reshape(grid),
            "commit_loss": quantized.loss,
            "latent": latents,
            "quantized": vectors,
        }


def loss(
    model: VQGAN, params: dict, batch: dict[str, jax.Array], rng: jax.Array
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Reconstruction and quantization loss of one batch.

    Args:
        model: the network.
        params: its parameters.
        batch: `image` uint8 [B, H, W, 3].
        rng: key of the dropout.

    Returns:
        The scalar to minimize, and the metrics loss, l1, l2, commit, psnr
        (dB), usage (share of the codes in this batch), perplexity, and latent_rank, the
        number of directions that latents spread over.
    """
    config = model.config
    images = batch["image"].astype(jnp.float32) / 127.5 - 1
    output: Any = model.apply(
        {"params": params}, images, deterministic=False, rngs={"dropout": rng}
    )
    difference = output["reconstruction"] - images
    l1, l2 = jnp.mean(jnp.abs(difference)), jnp.mean(jnp.square(difference))
    total = config.l1_weight * l1 + config.l2_weight * l2
    total += config.quantization_weight * output["commit_loss"]
    counts = count_codes(output["codes"][..., None], config.n_embed)
    if config.revival_weight:
        # [B, h, w, E] → [B · h · w, E]
        latents = output["latent"].reshape(-1, config.embed_dim)
        revival = revival_loss(latents, params["codebook"], counts[0])
        total += config.revival_weight * revival
    return total, {
        "loss": total,
        "l1": l1,
        "l2": l2,
        "commit": output["commit_loss"],
        "psnr": jnp.mean(psnr(images, jnp.clip(output["reconstruction"], -1, 1))),
        "usage": usage(counts)[0],
        "perplexity": perplexity(counts)[0],
        "latent_rank": effective_rank(output["latent"]),
    }


def system(config: VQGANConfig) -> System:
    """Return what the rest of the program knows of a VQGAN."""

    def inputs() -> dict[str, jax.Array]:
        size = config.resolution
        return {"images": jnp.zeros((1, size, size, config.in_channels))}

    def uncounted(batch: Shapes, learns: Learns) -> float:
        del learns
        images, *sides, _ = batch["image"].shape
        tokens = math.prod(side // config.factor for side in sides)
        return effective_rank_flops((images, tokens, config.embed_dim))

    module = VQGAN(config)
    return System(
        config,
        module,
        functools.partial(loss, module),
        inputs,
        DataNeeds(("images", "pairs"), pixels_per_code=config.factor),
        whole_batch=config.whole_batch,
        image_tokenizer=module,
        uncounted_flops=uncounted,
        formats=("vqgan",),
        evaluators=(
            "unitoken_jax.evaluate.reconstruction:Reconstruction",
            "unitoken_jax.evaluate.perception:Perception",
        ),
    )
