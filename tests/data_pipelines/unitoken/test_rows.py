"""Packed rows: they begin as the prompts for sampling do, and end as laid out."""

from dataclasses import replace

import numpy as np
import prepared
import pytest

from data_pipelines.images import decoding
from data_pipelines.images.anyres import ViewsConfig
from data_pipelines.storage.record_cache import RecordCache
from data_pipelines.storage.records import codes_of
from data_pipelines.unitoken import rows
from data_pipelines.unitoken.prompts import UniTokenPrompts
from data_pipelines.unitoken.samples import MixtureConfig


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory):
    return prepared.vocabulary(prepared.make(tmp_path_factory.mktemp("c") / "set", 1))


@pytest.mark.parametrize("encoding", ["dual", "discrete", "continuous"])
@pytest.mark.parametrize("canvas", ["square", "original"])
def test_a_question_is_the_start_of_its_training_sample(vocabulary, encoding, canvas):
    layout = replace(prepared.SEQUENCES.layout, encoding=encoding)
    views = ViewsConfig(32, 8, ((1, 2), (2, 1)))
    config = replace(
        prepared.SEQUENCES,
        layout=layout,
        canvas=canvas,
        views=views,
        row_length=300,
        prompt_drop=0.0,
        mixture=MixtureConfig(caption=0.0),
    )
    record = prepared.record(4, np.random.default_rng(2))
    record["questions"] = [{"kind": "a", "question": "is it red?", "answer": "no"}]
    record["captions"] = ["two red hearts"]
    cache = RecordCache(
        [record],
        lambda r: rows.show_record(r, config),
        cache_bytes=10**6,
        bad_limit=0,
    )
    packed = rows.packed_rows(cache, vocabulary, config, 0)
    composer = UniTokenPrompts(vocabulary, config)
    picture = np.asarray(decoding.decode_image(record))
    view = composer.view(picture)

    row = packed.build(("question", 0), np.random.default_rng(0))
    tokens, feature_index = composer.question(codes_of(record), view.size, "is it red?")
    length = len(tokens)
    np.testing.assert_array_equal(row["tokens"][:length], tokens)
    np.testing.assert_array_equal(row["feature_index"][:length], feature_index)
    assert vocabulary.decode(row["tokens"][length:]) == "no"
    if encoding != "discrete":
        np.testing.assert_array_equal(row["pixels"][: len(view.tiles)], view.tiles)
    assert view.whole.shape == (32, 32, 3)

    row = packed.build(("draw", 0), np.random.default_rng(0))
    request = composer.request("two red hearts")
    start = [vocabulary.bos, *request, vocabulary.end, vocabulary.boi]
    sizes = [vocabulary.size_token(side) for side in composer.sizes or ()]
    assert len(sizes) == 2
    assert row["tokens"][: len(start) + 2].tolist() == start + sizes
    codes = vocabulary.codes_of(row["tokens"])
    assert codes[codes >= 0].reshape(composer.grid).tolist() == (
        codes_of(record).tolist()
    )


def test_a_picture_of_another_size_than_planned_is_refused():
    config = replace(prepared.SEQUENCES, canvas="original")
    record = prepared.record(0, np.random.default_rng(0))
    record["images"][0]["width"] = 33
    with pytest.raises(
        decoding.ImageError, match="32 × 32 pixels, but the record says"
    ):
        rows.show_record(record, config)
