"""Chameleon's VQGAN: the `state_dict` of `vqgan.ckpt` (`vqmodel` of Chameleon).

Levels of the published decoder count from the highest resolution, as ours do; only the
first block of a level that changes its width has a shortcut.
"""

from collections.abc import Iterator

from unitoken_jax.convert.layouts import CONV
from unitoken_jax.convert.table import Counts, Ignored, Rule, Table
from unitoken_jax.models.vqgan import VQGANConfig

_ATTENTION = {"q": "query", "k": "key", "v": "value", "proj_out": "out"}


def counts(config: VQGANConfig) -> Counts:
    """No counters: what a level holds depends on the level."""
    del config
    return {}


def table(config: VQGANConfig, prefix: str = "") -> Table:
    """Rules of the whole network, encoder and decoder.

    Args:
        config: the network's configuration.
        prefix: put in front of our paths.
    """
    rules: list[Rule | Ignored] = [
        Rule("quantize.embedding.weight", f"{prefix}codebook"),
        *_conv("quant_conv", f"{prefix}quant_conv"),
        *_conv("post_quant_conv", f"{prefix}post_quant_conv"),
    ]
    last = len(config.widths) - 1
    for half, direction in (("encoder", "down"), ("decoder", "up")):
        ours = f"{prefix}{half}"
        for name in ("conv_in", "conv_out"):
            rules += _conv(f"{half}.{name}", f"{ours}/{name}")
        rules += _norm(f"{half}.norm_out", f"{ours}/norm_out")
        for block in ("block_1", "block_2"):
            rules += _block(f"{half}.mid.{block}", f"{ours}/middle/{block}", False)
        rules += _attention(f"{half}.mid.attn_1", f"{ours}/middle/attention_1")
        for level in range(last + 1):
            rules += _level(config, half, direction, level, ours)
            resampled = level < last if half == "encoder" else level > 0
            if resampled:
                key = f"{half}.{direction}.{level}.{direction}sample.conv"
                rules += _conv(key, f"{ours}/{direction}sample_{level}")
    rules.append(Ignored("loss.*", "discriminator and perceptual loss of its training"))
    return rules


def _level(
    config: VQGANConfig, half: str, direction: str, level: int, ours: str
) -> Iterator[Rule]:
    widths = config.widths
    if half == "encoder":
        entering = widths[level - 1] if level else config.ch
        blocks = config.num_res_blocks
    else:
        entering = widths[min(level + 1, len(widths) - 1)]
        blocks = config.num_res_blocks + 1
    for i in range(blocks):
        key, path = f"{half}.{direction}.{level}", f"{ours}/{direction}_{level}"
        shortcut = i == 0 and entering != widths[level]
        yield from _block(f"{key}.block.{i}", f"{path}/block_{i}", shortcut)
        if config.attends(level):
            yield from _attention(f"{key}.attn.{i}", f"{path}/attention_{i}")


def _block(key: str, path: str, shortcut: bool) -> Iterator[Rule]:
    for i in (1, 2):
        yield from _norm(f"{key}.norm{i}", f"{path}/norm_{i}")
        yield from _conv(f"{key}.conv{i}", f"{path}/conv_{i}")
    if shortcut:
        yield from _conv(f"{key}.nin_shortcut", f"{path}/shortcut")


def _attention(key: str, path: str) -> Iterator[Rule]:
    yield from _norm(f"{key}.norm", f"{path}/norm")
    for theirs, ours in _ATTENTION.items():
        yield from _conv(f"{key}.{theirs}", f"{path}/{ours}")


def _conv(key: str, path: str) -> Iterator[Rule]:
    yield Rule(f"{key}.weight", f"{path}/kernel", CONV)
    yield Rule(f"{key}.bias", f"{path}/bias")


def _norm(key: str, path: str) -> Iterator[Rule]:
    yield Rule(f"{key}.weight", f"{path}/scale")
    yield Rule(f"{key}.bias", f"{path}/bias")
