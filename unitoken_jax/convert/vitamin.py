"""ViTamin as timm names it: the encoder of UniTok and of open_clip's ViTamins.

The rules that UniTok's decoder and projections are made of too stand here.
"""

from collections.abc import Iterator

from unitoken_jax.convert.layouts import (
    CONV,
    DEPTHWISE,
    HEADS_BIAS,
    HEADS_IN,
    HEADS_OUT,
    LINEAR,
    split,
)
from unitoken_jax.convert.table import Rule
from unitoken_jax.models.vitamin import ViTaminConfig

_PACKED = ("query", "key", "value")
_GATED = {"w0": "gate", "w1": "up", "w2": "down"}


def encoder(config: ViTaminConfig, key: str, ours: str) -> Iterator[Rule]:
    """Rules of the encoder, but for its last norm.

    Args:
        config: the encoder's configuration.
        key: its published name.
        ours: its path.
    """
    stem = f"{key}.patch_embed.backbone"
    yield from conv(f"{stem}.stem.conv1", f"{ours}/stem_1")
    yield from norm(f"{stem}.stem.norm1", f"{ours}/stem_norm")
    yield from conv(f"{stem}.stem.conv2", f"{ours}/stem_2")
    entering = config.widths[0]
    for stage, (width, depth) in enumerate(
        zip(config.widths, config.depths, strict=True)
    ):
        for i in range(depth):
            block = f"{stem}.stages.{stage}.{i}"
            path = f"{ours}/stage_{stage}_block_{i}"
            yield from mbconv(block, path)
            if i == 0 and width != entering:
                yield from conv(f"{block}.shortcut.expand", f"{path}/shortcut")
        entering = width
    yield from norm(f"{stem}.pool.norm", f"{ours}/pool_norm")
    yield from conv(f"{stem}.pool.proj", f"{ours}/pool")
    yield from transformer(key, f"{ours}/transformer")


def transformer(key: str, ours: str) -> Iterator[Rule]:
    """Rules of the blocks, without the norm behind them."""
    block, layers = f"{key}.blocks.{{block}}", f"{ours}/layers"
    attention = f"{layers}/attention"
    kernels = tuple(f"{attention}/{name}/kernel" for name in _PACKED)
    biases = tuple(f"{attention}/{name}/bias" for name in _PACKED)
    yield from norm(f"{block}.norm1", f"{layers}/attention_norm")
    yield Rule(f"{block}.attn.qkv.weight", kernels, split(HEADS_IN))
    yield Rule(f"{block}.attn.qkv.bias", biases, split(HEADS_BIAS))
    yield Rule(f"{block}.attn.proj.weight", f"{attention}/out/kernel", HEADS_OUT)
    yield Rule(f"{block}.attn.proj.bias", f"{attention}/out/bias")
    yield from norm(f"{block}.norm2", f"{layers}/mlp_norm")
    yield from gated(f"{block}.mlp", f"{layers}/mlp")


def mbconv(key: str, ours: str) -> Iterator[Rule]:
    """Rules of a convolutional block, without its shortcut."""
    yield from norm(f"{key}.pre_norm", f"{ours}/norm")
    yield from conv(f"{key}.conv1_1x1", f"{ours}/expand")
    yield Rule(f"{key}.conv2_kxk.weight", f"{ours}/depthwise/kernel", DEPTHWISE)
    yield Rule(f"{key}.conv2_kxk.bias", f"{ours}/depthwise/bias")
    yield from conv(f"{key}.conv3_1x1", f"{ours}/reduce")


def gated(key: str, ours: str) -> Iterator[Rule]:
    """Rules of a gated MLP with its own norm."""
    yield from norm(f"{key}.norm", f"{ours}/norm")
    for theirs, name in _GATED.items():
        yield from linear(f"{key}.{theirs}", f"{ours}/{name}")


def conv(key: str, ours: str) -> Iterator[Rule]:
    """Rules of a convolution."""
    yield Rule(f"{key}.weight", f"{ours}/kernel", CONV)
    yield Rule(f"{key}.bias", f"{ours}/bias")


def linear(key: str, ours: str) -> Iterator[Rule]:
    """Rules of a linear map."""
    yield Rule(f"{key}.weight", f"{ours}/kernel", LINEAR)
    yield Rule(f"{key}.bias", f"{ours}/bias")


def norm(key: str, ours: str) -> Iterator[Rule]:
    """Rules of a layer norm."""
    yield Rule(f"{key}.weight", f"{ours}/scale")
    yield Rule(f"{key}.bias", f"{ours}/bias")
