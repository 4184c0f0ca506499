"""What a tokenizer keeps, against counting by hand."""

import numpy as np
import pytest

from unitoken_jax.evaluate import reconstruction
from unitoken_jax.evaluate.reconstruction import ReconstructionConfig


def test_reconstruction_measures_what_it_shows(tokenizer):
    model, params = tokenizer
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (7, 16, 16, 3), np.uint8)
    config = ReconstructionConfig(images=5, batch=2, examples=5)
    found = reconstruction.evaluate(model, params, iter(pictures), config)
    pairs = found.samples["pairs"]
    assert [m.count for m in found.measures.values()] == [5] * 4
    for pair, picture in zip(pairs, pictures, strict=False):
        np.testing.assert_array_equal(pair["original"], picture)
        error = pair["reconstruction"].astype(float) - picture
        # Shown pictures are rounded to bytes, the measured ones are not.
        expected = 20 * np.log10(255) - 10 * np.log10((error**2).mean())
        assert pair["psnr"] == pytest.approx(expected, abs=0.1)
    mean = np.mean([pair["psnr"] for pair in pairs])
    assert found.measures["psnr"].value == pytest.approx(mean, rel=1e-6)
    coded, *_ = reconstruction.reconstruct(model, params, pictures[:5])
    codes = np.unique(coded)
    assert found.measures["code_usage"].value == pytest.approx(len(codes) / 16)
    assert 1 <= found.measures["code_perplexity"].value <= len(codes) + 1e-3
