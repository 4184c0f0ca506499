"""docs/notebook.md, run from top to bottom with small weights."""

import dataclasses
import re
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image
from vocabularies import chameleon

from data_pipelines.tokenizers.clip import ClipVocabulary
from unitoken_jax import convert
from unitoken_jax.convert.formats import network_of
from unitoken_jax.models.clip_text import ClipTextConfig
from unitoken_jax.models.decoder import DecoderConfig
from unitoken_jax.models.llamagen import LlamaGenConfig
from unitoken_jax.models.perceptual.lpips import LpipsConfig
from unitoken_jax.models.siglip import SiglipVisionConfig
from unitoken_jax.models.unitok import UniTokConfig
from unitoken_jax.models.unitoken import UniTokenConfig
from unitoken_jax.models.vitamin import ViTaminConfig
from unitoken_jax.models.vqgan import VQGANConfig

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "notebook.md"
MERGES = ROOT / "tests" / "golden" / "clip_merges.txt.gz"

# Views of the published side, because the page shows the published data config.
VISION = SiglipVisionConfig(hidden=8, mlp=8, layers=1, heads=1)
NETWORKS = {
    "unitok": UniTokConfig(
        vision=ViTaminConfig(
            widths=(8, 8), depths=(1, 1), hidden=16, layers=1, heads=2, mlp=32
        ),
        text=ClipTextConfig(
            vocab_size=ClipVocabulary.from_file(MERGES).size,
            hidden=8,
            layers=1,
            heads=2,
            mlp=32,
            embed=8,
        ),
        vocab_size=64,
        vocab_width=16,
        num_codebooks=4,
    ),
    "vqgan": VQGANConfig(
        ch=32,
        ch_mult=(1, 1, 1, 1, 1),
        num_res_blocks=1,
        z_channels=8,
        embed_dim=8,
        n_embed=64,
    ),
    "unitoken": UniTokenConfig(
        decoder=DecoderConfig(
            vocab_size=chameleon().size,
            hidden=8,
            intermediate=8,
            layers=1,
            heads=1,
            kv_heads=1,
            head_dim=8,
        ),
        vision=VISION,
    ),
    "siglip": dataclasses.replace(VISION, image=56),
    "lpips": LpipsConfig(widths=(4, 6), depths=(1, 1)),
    "llamagen": LlamaGenConfig(
        hidden=8,
        layers=1,
        heads=1,
        multiple_of=8,
        codebooks=2,
        codes=8,
        side=2,
        depth_layers=1,
    ),
}
FORMATS = {"siglip": "siglip-hf"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What the page finds in its working directory."""
    folder = tmp_path_factory.mktemp("notebook")
    for name, config in NETWORKS.items():
        rng, network = np.random.default_rng(0), network_of(config)
        params = jax.tree.map(
            lambda leaf, rng=rng: rng.normal(0, 0.1, leaf.shape).astype(np.float32),
            network.abstract(config),
        )
        path = folder / "weights" / name
        path.parent.mkdir(exist_ok=True)
        convert.save(FORMATS.get(name, name), network.module(config), params, path)
    shutil.copy(MERGES, folder / "weights" / "bpe_simple_vocab_16e6.txt.gz")
    words = folder / "weights" / "unitoken" / "tokenizer.json"
    chameleon()._tokenizer.save(str(words))
    Image.linear_gradient("L").resize((64, 64)).save(folder / "cat.png")
    return folder


@pytest.mark.slow
def test_the_page_runs(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    page = PAGE.read_text("utf-8")
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    names: dict = {}
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), names)
    assert names["feature"].shape == (1, 8)
    assert names["likeness"].shape == (1, 1)
    assert names["output"]["codes"].shape == (1, 16, 4)
    assert "(1, 64, 64, 3)" in capsys.readouterr().out
    with Image.open("again.png") as again:
        assert again.size == (64, 64)
    assert names["codes"].shape == (1, 4, 4)
    assert names["hidden"].shape == (1, 1024, 8)
    assert np.isfinite(names["total"])
    # The answer's six characters, as bytes, and the end of the turn.
    assert names["metrics"]["weight"] == 7
    assert names["distance"].shape == (1,)
    assert names["logits"].shape == (1, 4, 2, 8)
