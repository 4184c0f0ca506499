"""What a tokenizer keeps, against counting by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

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


CODES = st.tuples(
    st.integers(0, 999), st.integers(1, 5), st.integers(1, 6), st.integers(1, 3)
).map(lambda c: np.random.default_rng(c[0]).integers(0, 7, c[1:]))


@settings(deadline=None, max_examples=30)
@given(CODES)
def test_use_of_codebooks_is_counted_code_by_code(codes):
    found = reconstruction.code_measures(codes, 7)
    books = [codes[..., k].ravel() for k in range(codes.shape[-1])]
    usage = [len(set(book.tolist())) / 7 for book in books]
    assert found["code_usage"].value == pytest.approx(np.mean(usage))
    perplexities = []
    for book in books:
        p = np.unique(book, return_counts=True)[1] / len(book)
        perplexities.append(np.exp(-(p * np.log(p)).sum()))
    assert found["code_perplexity"].value == pytest.approx(
        np.mean(perplexities), rel=1e-5
    )
    each = [found[f"code_usage/{k}"].value for k in range(len(books)) if len(books) > 1]
    assert each == pytest.approx(usage if len(books) > 1 else [])
    assert {m.count for m in found.values()} == {len(codes)}


def test_numbers_do_not_depend_on_the_batch_nor_on_what_is_shown(tokenizer):
    model, params = tokenizer
    images = np.random.default_rng(1).integers(0, 256, (5, 16, 16, 3), np.uint8)

    def measured(**fields):
        config = ReconstructionConfig(images=4, **fields)
        return reconstruction.evaluate(model, params, iter(images), config)

    one = measured(batch=4, examples=4)
    other = measured(batch=3, examples=0)
    assert other.samples == {"pairs": []}
    for name, measure in one.measures.items():
        assert other.measures[name].value == pytest.approx(measure.value, rel=1e-5)
    fewer = reconstruction.evaluate(
        model, params, iter(images[:2]), ReconstructionConfig(images=4, batch=4)
    )
    assert fewer.measures["psnr"].count == 2
    assert len(fewer.samples["pairs"]) == 2
