"""DINOv2 (arXiv 2304.07193), the vision transformer behind UniTok's discriminator."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.nn import initializers

from unitoken_jax.config import Count, Positive
from unitoken_jax.layers.attention import check_heads
from unitoken_jax.layers.linear import Linear
from unitoken_jax.layers.norms import LayerNorm
from unitoken_jax.layers.parameter import parameter, vit_init
from unitoken_jax.layers.quantization import Dtype
from unitoken_jax.layers.residual import EncoderBlock
from unitoken_jax.layers.stack import Remat, scan_layers
from unitoken_jax.ops import pixels
from unitoken_jax.ops.attention import Backend
from unitoken_jax.ops.positions import resize_grid


@dataclass(frozen=True)
class Dinov2Config:
    """Shape of the network; the defaults are ViT-S/14 without registers.

    Attributes:
        hidden: width D.
        mlp: inner width F.
        layers: number of blocks L.
        heads: heads N; the head width is D / N.
        grid: side of the position table, in patches.
        patch: side of a patch in pixels.
        norm_eps: added to the variances.
        attention: backend of the attention, see `ops.attention`.
        remat: what a block keeps for its gradient, see `layers.stack.Remat`.
        dtype: type of the computation.
    """

    hidden: int = 384
    mlp: Count = 1536
    layers: int = 12
    heads: int = 6
    grid: Count = 37
    patch: Count = 14
    norm_eps: Positive = 1e-6
    attention: Backend = "auto"
    remat: Remat = "none"
    dtype: Dtype = "float32"

    def __post_init__(self) -> None:
        """Refuses heads that do not come out even."""
        check_heads(self)


class Dinov2(nn.Module):
    """The network.

    Parameters `patch_embedding`, `class_token`, `mask_token` (of its own training only,
    kept for files to come back whole), `position_embedding`, `layers` and `norm`.
    """

    config: Dinov2Config

    @nn.compact
    def __call__(self, images: jax.Array) -> dict[str, jax.Array]:
        """Encodes images.

        Args:
            images: [B, H, W, 3], normalized by ImageNet's mean and deviation; the sides
                are multiples of the patch.

        Returns:
            `layers` [L, B, 1 + S, D], what each block gives (class token first), and
            `tokens` [B, 1 + S, D], the last of them after the norm.
        """
        config = self.config
        height, width = images.shape[1:3]
        if height % config.patch or width % config.patch:
            raise ValueError(
                f"DINOv2 sees patches of {config.patch} pixels, which do not divide "
                f"images of {height}×{width}; resize or crop them first"
            )
        patches = pixels.patches(images.astype(config.dtype), config.patch)
        embed = Linear(
            (config.hidden,),
            ("patch", "patch", "conv_in", "embed"),
            use_bias=True,
            dtype=config.dtype,
            name="patch_embedding",
        )
        x = embed(patches)  # [B, S, D]
        first = self._token("class_token", 1e-6, (1, 1, config.hidden))
        self._token("mask_token", 0.0, (1, config.hidden))
        count = 1 + config.grid**2
        axes, shape = ("position", "embed"), (count, config.hidden)
        table = parameter(self, "position_embedding", vit_init, axes, shape)
        table = table.astype(x.dtype)
        grid = height // config.patch, width // config.patch
        source = config.grid, config.grid
        places = resize_grid(table[1:], source, grid, surplus=0.1)
        first = jnp.broadcast_to(
            first.astype(x.dtype) + table[0], (x.shape[0], 1, config.hidden)
        )
        x = jnp.concatenate([first, x + places], axis=1)
        blocks = scan_layers(EncoderBlock, config.layers, config.remat, shared=0)
        x, layers = blocks(
            config.heads,
            config.mlp,
            "gelu_erf",
            config.norm_eps,
            layer_scale=True,
            taps=True,
            backend=config.attention,
            kernel_init=vit_init,
            dtype=config.dtype,
            name="layers",
        )(x, None)
        return {"layers": layers, "tokens": LayerNorm(config.norm_eps, name="norm")(x)}

    def _token(self, name: str, deviation: float, shape: tuple[int, ...]) -> jax.Array:
        axes = (*(None,) * (len(shape) - 1), "norm")
        init = initializers.normal(deviation)
        return parameter(self, name, init, axes, shape)
