"""docs/networks.md: every network, its size, and how far it is from the published one.

    DEVIATIONS=deviations.jsonl make test test-slow test-torch
    .venv/bin/python tests/networks.py deviations.jsonl > docs/networks.md

The first collects what every comparison found (`tests/models/golden.py`), the second
writes the page.
"""

import dataclasses
import json
import sys
from collections.abc import Mapping
from pathlib import Path

PAGE = Path(__file__).parents[1] / "docs" / "networks.md"

_HEAD = """# Networks

Made by `tests/networks.py` of what the tests measured; do not edit. Sizes are asserted
from shapes alone in `tests/convert/test_exchange.py` and the tests named here.

Forward is the largest deviation from the source's numbers, over the largest of them or
over 1; gradient is that of a tensor over the largest number in it, beyond a millionth
of the largest gradient of all. The bars are 1e-5 and 1e-4; codes are equal everywhere.
All is float32 on the CPU. Networks are small ones of the published structure unless the
row says full size. What the tests compare with stands in `tests/golden/README.md`.

[convert.md](convert.md) explains the formats, [notebook.md](notebook.md) shows how each
network is called.

| network | in | published as | formats | size | compared in | forward | gradient |
|---|---|---|---|---|---|---|---|
"""


@dataclasses.dataclass(frozen=True)
class Row:
    """One network.

    Attributes:
        name: what it is called.
        kinds: kinds of `convert.formats.networks` that it is, if any.
        module: its file in `unitoken_jax/models`.
        source: whose published model it is.
        formats: of its weights.
        parameters: how many, by size.
        tests: prefixes of the tests that compare it with its source.
    """

    name: str
    kinds: tuple[str, ...]
    module: str
    source: str
    formats: tuple[str, ...]
    parameters: Mapping[str, int]
    tests: tuple[str, ...]


_TORCH = "tests_torch/test_transformers.py::"
_UNITOKEN = "tests/models/test_unitoken.py::"
_UNITOK = "tests/models/test_unitok.py::test_reproduces"
_FULL = "tests/models/test_unitok_full_size.py::"
_DISCRIMINATOR = "tests/models/perceptual/test_discriminator.py::"
_PERCEPTUAL = "tests_torch/test_perceptual.py::"
_CODES = "tests/models/test_unitok.py::test_codes"

ROWS = (
    Row(
        "UniToken-7B",
        ("unitoken",),
        "unitoken",
        "SxJyJay/UniToken",
        ("unitoken",),
        {"": 7_462_888_512},
        (_UNITOKEN,),
    ),
    Row(
        "Chameleon decoder",
        ("chameleon",),
        "decoder",
        "Alpha-VLLM/Lumina-mGPT, facebook/chameleon; 34B with swin-norm and grouped"
        " heads",
        ("lumina", "chameleon-hf", "chameleon-meta"),
        {"7B": 7_013_158_912, "34B": 34_293_522_432},
        (
            _UNITOKEN,
            "tests/models/test_decoder.py::",
            f"{_TORCH}test_chameleon",
            f"{_TORCH}test_decoder",
            f"{_TORCH}test_what",
        ),
    ),
    Row(
        "Llama-2-7B",
        ("chameleon",),
        "decoder",
        "meta-llama/Llama-2-7b-hf",
        ("llama-hf",),
        {"": 6_738_415_616},
        (
            "tests/models/test_decoder.py::test_forward_against_the_formulas[llama]",
            f"{_TORCH}test_llama",
        ),
    ),
    Row(
        "SigLIP-SO400M/14-384",
        ("siglip_vision", "siglip"),
        "siglip",
        "google/siglip-so400m-patch14-384",
        ("siglip-hf",),
        {"image": 428_225_600, "text": 449_734_896},
        (_UNITOKEN, "tests/models/test_siglip.py::", f"{_TORCH}test_siglip"),
    ),
    Row(
        "Chameleon's VQGAN",
        ("vqgan",),
        "vqgan",
        "vqgan.ckpt of facebookresearch/chameleon",
        ("vqgan",),
        {"": 68_718_467},
        ("tests/models/test_vqgan.py::",),
    ),
    Row(
        "UniTok (ViTamin encoder and decoder, projections, codebooks, text tower)",
        ("unitok",),
        "unitok",
        "FoundationVision/unitok_tokenizer (L)",
        ("unitok",),
        {"L": 820_298_692, "B": 317_502_660, "S": 172_660_292},
        (_UNITOK, _CODES),
    ),
    Row(
        "ViTamin-L encoder, full size",
        ("vitamin_clip",),
        "vitamin",
        "timm",
        ("unitok", "vitamin-clip"),
        {"in UniTok": 332_331_936},
        (
            f"{_FULL}test_encoder",
            "tests/models/test_unitok.py::test_published_sizes_of",
        ),
    ),
    Row(
        "CLIP's text tower, small and full size",
        ("clip_text",),
        "clip_text",
        "open_clip",
        ("clip-text",),
        {"": 123_650_304},
        (_UNITOK, _CODES, f"{_FULL}test_encoder"),
    ),
    Row(
        "DINOv2 ViT-S/14, small and full size",
        ("dinov2",),
        "perceptual/dinov2",
        "dinov2_vits14_pretrain.pth",
        ("dinov2",),
        {"": 22_056_576},
        (_DISCRIMINATOR, f"{_PERCEPTUAL}test_discriminator"),
    ),
    Row(
        "UniTok's discriminator, small and full size",
        (),
        "perceptual/discriminator",
        "FoundationVision/UniTok",
        (),
        {"beside its backbone": 7_386_245},
        (_DISCRIMINATOR, f"{_PERCEPTUAL}test_discriminator"),
    ),
    Row(
        "LPIPS-VGG16, small and full size",
        ("lpips",),
        "perceptual/lpips",
        "lpips_with_vgg.pth of UniTok",
        ("lpips",),
        {"VGG16": 14_714_688, "maps": 1472},
        ("tests/models/perceptual/test_lpips.py::", f"{_PERCEPTUAL}test_lpips"),
    ),
    Row(
        "Shift-tolerant LPIPS (AlexNet), full size",
        ("stlpips",),
        "perceptual/stlpips",
        "stlpips-pytorch",
        ("stlpips",),
        {"AlexNet": 2_469_696, "maps": 1152},
        ("tests/models/perceptual/test_stlpips.py::",),
    ),
    Row(
        "Inception-v3 of the FID, full size",
        ("inception",),
        "perceptual/inception",
        "pt_inception-2015-12-05",
        ("inception",),
        {"with stored statistics": 23_885_392},
        ("tests/models/perceptual/test_inception.py::",),
    ),
    Row(
        "UniTok's LLM with depth head",
        ("unitok_mllm",),
        "unitok_mllm",
        "FoundationVision/unitok_mllm",
        ("unitok-mllm",),
        {"with buffers": 7_508_685_056},
        ("tests/models/test_unitok_mllm.py::",),
    ),
    Row(
        "LlamaGen with depth head",
        ("llamagen",),
        "llamagen",
        "FoundationVision/UniTok, generation",
        ("llamagen",),
        {
            "B": 164_376_064,
            "L": 427_857_920,
            "XL": 897_921_536,
            "XXL": 1_574_566_912,
            "XXXL": 4_294_132_736,
        },
        ("tests/models/test_llamagen.py::",),
    ),
)
KINDS = ("forward", "gradient")
Deviations = Mapping[tuple[str, str], float]
"""(name of the network, forward or gradient) → the largest deviation."""


def collect(lines: list[str]) -> Deviations:
    """The largest deviation of each network, of lines that the tests wrote."""
    largest: dict[tuple[str, str], float] = {}
    for line in map(json.loads, lines):
        for row in ROWS:
            if line["test"].startswith(row.tests):
                key = row.name, line["kind"]
                largest[key] = max(largest.get(key, 0.0), line["deviation"])
    return largest


def render(deviations: Deviations) -> str:
    """The page."""
    lines = []
    for row in ROWS:
        sizes = ", ".join(
            f"{size} {number:,}".strip() for size, number in row.parameters.items()
        )
        formats = ", ".join(f"`{name}`" for name in row.formats) or "–"
        files = dict.fromkeys(test.split("::")[0] for test in row.tests)
        shown = ", ".join(f"`{file}`" for file in files)
        cells = [row.name, f"`{row.module}.py`", row.source, formats, sizes, shown]
        cells += [_shown(deviations.get((row.name, kind))) for kind in KINDS]
        lines.append(f"| {' | '.join(cells)} |\n")
    return _HEAD + "".join(lines)


def read(page: str) -> Deviations:
    """The deviations that a page shows; the reverse of `render`."""
    found = {}
    rows = page.removeprefix(_HEAD).splitlines()
    for row, line in zip(ROWS, rows, strict=True):
        cells = line.strip("| ").split(" | ")
        for kind, cell in zip(KINDS, cells[-2:], strict=True):
            if cell != "–":
                found[row.name, kind] = float(cell)
    return found


def _shown(deviation: float | None) -> str:
    if deviation is None:
        return "–"
    return f"{deviation:.0e}" if deviation else "0"


if __name__ == "__main__":
    contents = Path(sys.argv[1]).read_text("utf-8")
    print(render(collect(contents.splitlines())), end="")
