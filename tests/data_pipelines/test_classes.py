"""Codes with their classes, of prepared data sets and of published files."""

from dataclasses import replace

import coded
import numpy as np
import pytest

from data_pipelines.classes import ClassesConfig, class_names
from data_pipelines.elements import CodeSpec
from data_pipelines.errors import LoaderError
from data_pipelines.loader import make_loader
from data_pipelines.storage import records
from data_pipelines.storage.code_files import CodeFileError, CodeFiles
from data_pipelines.storage.shards import Split

CONFIG = ClassesConfig(image_size=32, threads=0)


def make(directory, config=CONFIG, batch=4):
    return make_loader(config, directory, batch=batch, seed=0)


def test_codes_and_categories_of_records(tmp_path):
    directory = coded.make(tmp_path / "set", texts=1)
    assert class_names(directory) == ("animals", "food", "signs")
    split = Split(directory, "train")
    with make(directory, batch=6) as loader:
        batches = [next(loader) for _ in range(5)]
        facts = CodeSpec(coded.SIZE, coded.CODEBOOKS, coded.CODES, 3)
        assert loader.codes == facts
        assert list(loader.bad_records) == ["text/00000"]
    for batch in batches:
        for codes, label, number in zip(
            batch["codes"], batch["label"], batch["record"], strict=True
        ):
            record = split[int(number)]
            assert record["category"] == class_names(directory)[label]
            expected = records.codes_of(record).reshape(-1, coded.CODEBOOKS)
            np.testing.assert_array_equal(codes, expected)
    split.close()


@pytest.fixture
def published(tmp_path):
    """Ten-crop files as UniTok's fork of LlamaGen extracts them."""
    rng = np.random.default_rng(0)
    for kind in ("codes", "labels"):
        (tmp_path / f"imagenet256_{kind}").mkdir()
    for number in range(12):
        codes = rng.integers(0, 4096, (1, 10, 8, 256))
        np.save(tmp_path / "imagenet256_codes" / f"{number}.npy", codes)
        np.save(tmp_path / "imagenet256_labels" / f"{number}.npy", np.array([number]))
    return tmp_path


def test_published_files_give_one_of_ten_crops(published):
    files = CodeFiles(published)
    assert [item["id"] for item in files] == [str(n) for n in range(12)]
    stored = np.load(published / "imagenet256_codes" / "7.npy")
    np.testing.assert_array_equal(files[7]["codes"][3], stored[0, 3].T)
    crops = set()
    with make(published, batch=6) as loader:
        assert loader.codes == CodeSpec(256, 8, None)
        for _ in range(12):
            batch = next(loader)
            assert batch["codes"].shape == (6, 256, 8)
            for codes, label in zip(batch["codes"], batch["label"], strict=True):
                equal = (files[label]["codes"] == codes).all((1, 2))
                assert equal.sum() == 1
                crops.add(int(equal.argmax()))
    assert len(crops) > 6


def test_damaged_files_are_set_aside(published):
    folder = published / "imagenet256_codes"
    (folder / "3.npy").write_bytes(b"no array")
    np.save(folder / "4.npy", np.zeros((2, 10, 8, 256), int))
    (published / "imagenet256_labels" / "5.npy").unlink()
    np.save(folder / "6.npy", np.zeros((1, 10, 4, 256), int))
    np.save(folder / "7.npy", np.zeros((1, 10, 8, 256)))
    with make(published, batch=12) as loader:
        for _ in range(3):
            next(loader)
        found = loader.bad_records
    messages = " ".join(found.values())
    assert sorted(found) == ["6", "entry 3", "entry 4", "entry 5", "entry 7"]
    assert "3.npy cannot be read" in messages
    assert "must be [1, crops, codebooks, tokens]" in messages
    assert "codes of [256, 4] tokens and codebooks" in messages
    assert "values that are no codes" in messages


def test_published_files_have_no_splits_to_choose_from(published):
    with pytest.raises(LoaderError, match=r"data.split is 'heldout', but .* no splits"):
        make(published, replace(CONFIG, split="heldout"))


def test_folders_must_be_a_pair(published):
    (published / "other_codes").mkdir()
    with pytest.raises(CodeFileError, match="must hold one folder"):
        make(published)
    with pytest.raises(CodeFileError, match="no folders"):
        CodeFiles(published / "other_codes")


def test_hosts_share_the_stream(published):
    def run(host, hosts):
        loader = make_loader(
            replace(CONFIG, threads=1),
            published,
            batch=4,
            seed=1,
            host=host,
            hosts=hosts,
        )
        with loader:
            return [next(loader) for _ in range(3)]

    whole, halves = run(0, 1), [run(host, 2) for host in (0, 1)]
    for step, batch in enumerate(whole):
        for key, value in batch.items():
            joined = np.concatenate([half[step][key] for half in halves])
            np.testing.assert_array_equal(joined, value)
