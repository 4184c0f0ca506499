"""Pictures and pairs: what is drawn, and that augmentation keeps the text true."""

from dataclasses import replace

import numpy as np
import prepared
import pytest

from data_pipelines import images, pairs
from data_pipelines.config import AugmentConfig
from data_pipelines.gallery import Gallery
from data_pipelines.records import RecordError


@pytest.fixture
def record():
    return prepared.record(3, np.random.default_rng(0))


def rng(seed=0):
    return np.random.default_rng(seed)


def test_without_augmentation_a_picture_is_what_the_tokenizer_is_given(record):
    config = prepared.PICTURES
    fitted = pairs.fit_record(record, config.image_size)
    expected = images.to_square(images.decode(record["image"], "it"), 32)
    np.testing.assert_array_equal(pairs.place(fitted, config, rng()), expected)


def test_flips_mirror_unless_the_text_names_a_side(record):
    config = replace(prepared.PAIRS, augment=AugmentConfig(flip=1.0))
    fitted = pairs.fit_record(record, config.image_size)
    plain = pairs.place(fitted, prepared.PAIRS, rng())
    mirrored = pairs.place(fitted, config, rng(), "a red heart")
    np.testing.assert_array_equal(mirrored, plain[:, ::-1])
    for text in ("left arrow", "Right-facing fist", "leftwards", "anticlockwise"):
        kept = pairs.place(fitted, config, rng(), text)
        np.testing.assert_array_equal(kept, plain)
    upright = pairs.place(fitted, config, rng(), "a bright upright piano")
    np.testing.assert_array_equal(upright, mirrored)


def test_backgrounds_change_only_what_is_transparent(record):
    config = replace(prepared.PICTURES, augment=AugmentConfig(background=1.0))
    fitted = pairs.fit_record(record, config.image_size)
    plain = pairs.place(fitted, prepared.PICTURES, rng())
    changed = pairs.place(fitted, config, rng())
    assert not np.array_equal(plain, changed)
    opaque = np.asarray(fitted.picture)[..., 3] == 255
    assert opaque.any()
    np.testing.assert_array_equal(plain[opaque], changed[opaque])
    np.testing.assert_array_equal(changed, pairs.place(fitted, config, rng()))


def test_texts_are_captions_cut_or_padded(record, tmp_path):
    vocabulary = prepared.vocabulary(prepared.make(tmp_path / "set", 1))
    record["captions"] = ["heart", "red " * 20]
    gallery = Gallery(
        [record],
        lambda r: pairs.fit_record(r, 32),
        cache_bytes=10**6,
        bad_limit=0,
    )
    build = pairs.pair_elements(gallery, vocabulary, prepared.PAIRS)
    texts = {tuple(build(0, rng(seed))["text"].tolist()) for seed in range(20)}
    short = vocabulary.encode("heart")
    assert texts == {
        (*short, *[vocabulary.pad] * (8 - len(short))),
        tuple(vocabulary.encode("red " * 20)[:8]),
    }


def test_pairs_need_captions(record):
    record["captions"] = []
    with pytest.raises(RecordError, match="has no caption to pair it with"):
        pairs.require_caption(record)
