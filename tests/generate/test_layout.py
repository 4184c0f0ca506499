"""The schedule of a picture's tokens."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipelines.tokenizers.chameleon import ChameleonVocabulary, train_vocabulary
from data_pipelines.unitoken.sequence import LayoutConfig, image_ids
from unitoken_jax.generate.layout import image_layout


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory):
    path = tmp_path_factory.mktemp("vocabulary") / "tokenizer.json"
    path.write_text(train_vocabulary(["a red heart"], 16, 256, 4))
    return ChameleonVocabulary.from_file(path)


def test_schedule_of_a_small_picture(vocabulary):
    v = vocabulary
    layout = image_layout(v, 2, 3, sizes=(1, 2))
    head = [v.size_token(1), v.size_token(2)]
    row = [-1, -1, -1, v.newline]
    assert layout.forced.tolist() == [*head, *row, *row, v.eoi]
    assert layout.drawn.tolist() == [2, 3, 4, 6, 7, 8]
    np.testing.assert_array_equal(np.flatnonzero(layout.allowed), np.sort(v.code_ids))
    assert image_layout(v, 1, 2).forced.tolist() == [-1, -1, v.newline, v.eoi]


@given(st.integers(1, 4), st.integers(1, 4), st.booleans(), st.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_layout_is_that_of_the_training_data(vocabulary, high, wide, sized, seed):
    rows, columns = 2 * high, 2 * wide
    codes = np.random.default_rng(seed).integers(0, 16, (rows, columns))
    trained = image_ids(codes, vocabulary, LayoutConfig(size_tokens=sized))
    layout = image_layout(
        vocabulary, rows, columns, sizes=(high, wide) if sized else None
    )
    np.testing.assert_array_equal(layout.tokens(codes), trained[1:])
    np.testing.assert_array_equal(layout.codes(trained[1:]), codes)


def test_codes_are_read_from_a_batch_and_text_is_refused(vocabulary):
    layout = image_layout(vocabulary, 2, 2)
    codes = np.arange(12).reshape(3, 2, 2)
    tokens = layout.tokens(codes)
    np.testing.assert_array_equal(layout.codes(tokens), codes)
    tokens[1, layout.drawn[2]] = vocabulary.encode("a")[0]
    with pytest.raises(ValueError, match="other than image codes"):
        layout.codes(tokens)


def test_an_empty_grid_is_refused(vocabulary):
    with pytest.raises(ValueError, match="0×3"):
        image_layout(vocabulary, 0, 3)
