"""The shipped weights are what their page says, and know what they were trained for."""

import hashlib
import io
import re
import zipfile
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from data_pipelines.images import transforms
from unitoken_jax import convert
from unitoken_jax.evaluate.reconstruction import reconstruct
from unitoken_jax.models.vqgan import VQGAN

ROOT = Path(__file__).parent.parent
WEIGHTS = ROOT / "data" / "weights"
FILES = sorted(WEIGHTS.glob("*.safetensors"))


def test_they_are_small_and_their_page_has_their_digests() -> None:
    page = (WEIGHTS / "README.md").read_text("utf-8")
    assert [file.stem for file in FILES] == ["siglip", "tokenizer"]
    assert sum(file.stat().st_size for file in FILES) < 25e6
    for file in FILES:
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        assert re.search(rf"`{file.name}`.*`{digest[:16]}…`", page), file.name


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    """Every 90th of the embedded pictures, uint8 [N, 64, 64, 3]."""
    with zipfile.ZipFile(ROOT / "data" / "pictures.zip") as archive:
        names = [
            name for name in archive.namelist() if name.endswith((".png", ".webp"))
        ]
        shown = [Image.open(io.BytesIO(archive.read(name))) for name in names[::90]]
    return np.stack(
        [transforms.to_square(image, 64, transforms.WHITE) for image in shown]
    )


def test_the_tokenizer_keeps_images_and_uses_its_codes(images) -> None:
    model, params = convert.load("jax", WEIGHTS / "tokenizer.safetensors")
    assert isinstance(model, VQGAN)
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), params)
    codes, decoded, psnr, _ = reconstruct(model, params, images)
    assert float(psnr.mean()) > 20.5
    assert len(np.unique(codes)) > 0.7 * model.config.n_embed
    # The colors are there: of the two shares of chroma the second is no less than half.
    shares = [_second_chroma(shown) for shown in (np.asarray(decoded), images)]
    assert 0.5 < shares[0] / shares[1] < 1.5


def _second_chroma(images: np.ndarray) -> float:
    """Return the smaller share of the variance of the two chroma channels."""
    weights = np.array([[-0.169, -0.331, 0.5], [0.5, -0.419, -0.081]])
    # [N, H, W, 3] → [N · H · W, 3]
    chroma = images.reshape(-1, 3) @ weights.T
    values = np.linalg.eigvalsh(np.cov(chroma.T))
    return float(values[0] / values.sum())
