"""Pre-tokenising: codes of every picture in order, atomically, once."""

from dataclasses import replace

import numpy as np
import pytest

from data_pipelines.images import decoding, transforms
from data_pipelines.pretokenize import PretokenizeError, pretokenize
from data_pipelines.storage import records
from data_pipelines.storage.directory import DirectoryError
from data_pipelines.storage.manifest import read_manifest
from data_pipelines.storage.shards import Split, write_split

OPTIONS = {"batch": 3, "image_size": 8, "tokenizer_id": "test"}


class Encoder:
    """Codes that tell the picture: the high bits of each quarter's mean."""

    def __init__(self, fault=None):
        self.calls = 0
        self.fault = fault

    def __call__(self, pixels):
        assert pixels.shape == (3, 8, 8, 3)
        assert pixels.dtype == np.uint8
        self.calls += 1
        if self.fault is not None:
            return self.fault
        quarters = pixels.reshape(3, 2, 4, 2, 4, 3).mean((2, 4, 5))
        return (quarters / 16).astype(np.int32)


def test_codes_belong_to_their_pictures(tmp_path, examples):
    source = examples.data_set(tmp_path / "set")
    encoder = Encoder()
    manifest = pretokenize(source, tmp_path / "out", encoder, **OPTIONS)
    assert encoder.calls == 3 + 1  # 7 and 2 pictures
    for name in ("train", "heldout"):
        before, after = Split(source, name), Split(tmp_path / "out", name, verify=True)
        assert len(after) == len(before)
        for old, new in zip(before, after, strict=True):
            picture = decoding.decode_image(old)
            pixels = np.stack([transforms.to_square(picture, 8)] * 3)
            np.testing.assert_array_equal(records.codes_of(new), Encoder()(pixels)[0])
            assert records.without_codes(new) == old
    shards = [shard.name for shard in manifest.splits["train"]]
    assert shards == [
        shard.name for shard in Split(source, "train").manifest.splits["train"]
    ]
    copied = (tmp_path / "out" / "tokenizer.json").read_bytes()
    assert copied == (source / "tokenizer.json").read_bytes()


def test_second_run_does_nothing_and_another_encoder_is_refused(tmp_path, examples):
    source = examples.data_set(tmp_path / "set")
    first = pretokenize(source, tmp_path / "out", Encoder(), **OPTIONS)
    encoder = Encoder()
    assert pretokenize(source, tmp_path / "out", encoder, **OPTIONS) == first
    assert encoder.calls == 0
    other = OPTIONS | {"tokenizer_id": "other"}
    with pytest.raises(DirectoryError, match="exists already"):
        pretokenize(source, tmp_path / "out", encoder, **other)
    pretokenize(source, tmp_path / "out", encoder, **other, overwrite=True)
    assert encoder.calls == 4


def _with_bad_pictures(directory, examples, count):
    """Writes a data set whose first training pictures are no pictures."""
    source = examples.data_set(directory)
    manifest = read_manifest(source)
    entries = list(Split(source, "train"))
    for entry in entries[:count]:
        entry["images"][0]["bytes"] = b"no picture"
    shards = write_split(
        source, "train", map(records.encode, entries), count=len(entries), shards=2
    )
    replace(manifest, splits=manifest.splits | {"train": shards}).write(source)
    return source


def test_one_bad_picture_gets_no_codes_and_the_others_go_on(tmp_path, examples):
    source = _with_bad_pictures(tmp_path / "set", examples, 1)
    manifest = pretokenize(source, tmp_path / "out", Encoder(), **OPTIONS)
    bad, *good = Split(tmp_path / "out", "train")
    assert not records.has_codes(bad)
    assert all(map(records.has_codes, good))
    (rejected,) = manifest.rejected
    assert rejected["record"] == bad["id"]
    assert "is not an image" in rejected["reason"]
    with pytest.raises(PretokenizeError, match=r"2 of 9 pictures .* is not an image"):
        pretokenize(
            _with_bad_pictures(tmp_path / "worse", examples, 2),
            tmp_path / "none",
            Encoder(),
            **OPTIONS,
        )
    assert not (tmp_path / "none").exists()


def test_codes_of_several_codebooks_need_no_names(tmp_path, examples):
    source = examples.data_set(tmp_path / "set")

    def encode(pixels):
        return np.stack([Encoder()(pixels), Encoder()(pixels) + 600], -1)

    options = OPTIONS | {"codebook": (2, 700)}
    manifest = pretokenize(source, tmp_path / "out", encode, **options)
    assert manifest.provenance["codebook"] == [2, 700]
    split = Split(tmp_path / "out", "train")
    codes = records.codes_of(split[1])
    assert codes.shape == (2, 2, 2)
    np.testing.assert_array_equal(codes[..., 1] - codes[..., 0], 600)
    split.close()
    with pytest.raises(PretokenizeError, match=r"the codebook has 0 … 599$"):
        pretokenize(source, tmp_path / "x", encode, **OPTIONS, codebook=(2, 600))
    with pytest.raises(PretokenizeError, match=r"must give \[batch, h, w, codebooks\]"):
        pretokenize(source, tmp_path / "x", Encoder(), **OPTIONS, codebook=(2, 600))


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (np.full((3, 2, 2), 16), "codes from 16 to 16"),
        (np.full((3, 2, 2), -1), "codes from -1"),
        (np.zeros((3, 4), int), "must give"),
        (np.zeros((1, 2, 2), int), "must give"),
        (np.zeros((3, 2, 2)), "integer matrix"),
    ],
)
def test_codes_that_do_not_fit_leave_nothing(tmp_path, examples, fault, message):
    source = examples.data_set(tmp_path / "set")
    with pytest.raises((PretokenizeError, records.RecordError), match=message):
        pretokenize(source, tmp_path / "out", Encoder(fault), **OPTIONS)
    assert [path.name for path in tmp_path.iterdir()] == ["set"]
