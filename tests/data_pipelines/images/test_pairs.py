"""Pictures and pairs: what is drawn, and that augmentation keeps the text true."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import prepared
import pytest
from PIL import Image

from data_pipelines.images import decoding, pairs, transforms
from data_pipelines.images.pairs import AugmentConfig
from data_pipelines.storage.record_cache import RecordCache
from data_pipelines.storage.records import RecordError


@pytest.fixture
def record():
    return prepared.record(3, np.random.default_rng(0))


def rng(seed=0):
    return np.random.default_rng(seed)


def test_without_augmentation_a_picture_is_what_the_tokenizer_is_given(record):
    config = prepared.IMAGES
    fitted = pairs.fit_record(record, config.image_size)
    expected = transforms.to_square(decoding.decode_image(record), 32)
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
    config = replace(prepared.IMAGES, augment=AugmentConfig(background=1.0))
    fitted = pairs.fit_record(record, config.image_size)
    plain = pairs.place(fitted, prepared.IMAGES, rng())
    changed = pairs.place(fitted, config, rng())
    assert not np.array_equal(plain, changed)
    opaque = np.asarray(fitted.picture)[..., 3] == 255
    assert opaque.any()
    np.testing.assert_array_equal(plain[opaque], changed[opaque])
    np.testing.assert_array_equal(changed, pairs.place(fitted, config, rng()))


def test_texts_are_captions_cut_or_padded(record, tmp_path):
    vocabulary = prepared.vocabulary(prepared.make(tmp_path / "set", 1))
    record["captions"] = ["heart", "red " * 20]
    gallery = RecordCache(
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


@pytest.mark.parametrize("shape", [(40, 40), (64, 30), (9, 120)])
def test_random_crops_keep_their_share_and_fill_the_square(shape):
    y, x = np.mgrid[: shape[1], : shape[0]]
    ramp = np.stack([x, y, 0 * x], -1).astype(np.uint8)
    picture = Image.fromarray(ramp).convert("RGBA")
    for seed in range(20):
        cut = np.asarray(transforms.random_crop(picture, 32, 0.64, rng(seed)))
        assert cut.shape == (32, 32, 4)
        spans = [np.ptp(cut[..., i].astype(float)) + 2 for i in (0, 1)]
        if max(shape) < 2.5 * min(shape):
            assert np.prod(spans) > 0.5 * np.prod(shape)
            assert 0.6 < spans[0] / spans[1] < 1.6


def test_a_crop_is_cut_from_a_picture_that_is_large_enough(record):
    config = replace(prepared.IMAGES, augment=AugmentConfig(crop=0.5))
    fitted = pairs.fit_record(record, 32, 0.5)
    assert min(fitted.picture.size) >= min(46, *decoding.decode_image(record).size)
    placed = {pairs.place(fitted, config, rng(seed)).tobytes() for seed in range(3)}
    assert len(placed) == 3
    assert pairs.place(fitted, config, rng()).shape == (32, 32, 3)


def test_captions_end_with_the_largest_id(tmp_path):
    vocabulary = prepared.vocabulary(prepared.make(tmp_path / "set", 1))
    config = replace(prepared.PAIRS, text_length=5, text_end=True)
    encode = pairs.caption_encoder(vocabulary, config)
    short, long = encode("a"), encode("a red heart with a long name beside it")
    assert short.max() == long[-1] == vocabulary.size
    assert (short[np.argmax(short) + 1 :] == vocabulary.pad).all()
    assert len(short) == len(long) == 5


def test_captions_in_clip_ids():
    path = Path(__file__).parents[2] / "golden" / "clip_merges.txt.gz"
    config = replace(prepared.PAIRS, text_length=6, clip_tokenizer=str(path))
    ids = pairs.caption_encoder(None, config)("a photo of a very long thing")
    assert len(ids) == 6
    assert ids[-1] == ids.max()
