"""ArrayRecord splits: random access, determinism, damage and full disks."""

import pickle
import subprocess
import sys
import textwrap

import grain
import pytest

from data_pipelines.storage import integrity, readers, records
from data_pipelines.storage.manifest import ManifestError, read_manifest
from data_pipelines.storage.shards import ShardError, Split, find_made, write_split


def test_random_access_in_the_order_written(tmp_path, examples):
    directory = examples.data_set(tmp_path / "set")
    split = Split(directory, "train", verify=True)
    assert len(split) == 7
    assert [r["id"] for r in split] == [f"picture/{i:05d}" for i in range(7)]
    assert split[-1] == split[6] == examples.record(6)
    with pytest.raises(IndexError, match="no number 7"):
        split[7]
    split.close()
    assert split[5] == examples.record(5)


def test_split_is_a_source_for_grain_and_survives_pickling(tmp_path, examples):
    directory = examples.data_set(tmp_path / "set")
    split = pickle.loads(pickle.dumps(Split(directory, "heldout")))
    dataset = grain.MapDataset.source(split).map(lambda record: record["id"])
    assert list(dataset) == ["picture/00100", "picture/00101"]


def test_same_records_give_same_bytes(tmp_path, examples):
    first = read_manifest(examples.data_set(tmp_path / "a"))
    assert read_manifest(examples.data_set(tmp_path / "b")) == first
    assert first.digest != read_manifest(examples.data_set(tmp_path / "c", 6)).digest


def test_empty_split_and_more_shards_than_records(tmp_path, examples):
    directory = examples.data_set(tmp_path / "set", train=1, heldout=0)
    assert len(Split(directory, "heldout")) == 0
    assert Split(directory, "train")[0] == examples.record(0)


@pytest.mark.parametrize("count", [2, 4])
def test_announced_count_is_held(tmp_path, count):
    with pytest.raises(ShardError, match=f"announced with {count}"):
        write_split(tmp_path, "x", [b"1", b"2", b"3"], count=count, shards=2)


def test_truncated_and_missing_shards_are_named(tmp_path, examples):
    directory = examples.data_set(tmp_path / "set")
    path = directory / "train-00001-of-00002.array_record"
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(ShardError, match=r"train-00001.* was cut off"):
        Split(directory, "train")
    path.unlink()
    with pytest.raises(ShardError, match=r"train-00001.* is missing"):
        Split(directory, "train")
    assert len(Split(directory, "heldout")) == 2
    with pytest.raises(ShardError, match="no split 'test'; it has heldout, train"):
        Split(directory, "test")


def test_a_read_that_fails_once_is_tried_again(tmp_path, examples, caplog, monkeypatch):
    split = Split(examples.data_set(tmp_path / "set"), "train")
    read = readers.Readers._read
    left = [1]

    def failing(*arguments):
        """A file system that fails `left` times."""
        if left[0]:
            left[0] -= 1
            raise RuntimeError("pread() failed: Input/output error")
        return read(*arguments)

    monkeypatch.setattr(readers.Readers, "_read", failing)
    assert split[5] == examples.record(5)
    (line,) = caplog.messages
    assert "train-00001-of-00002.array_record, entry 2 could be read another" in line
    left[0] = 2
    with pytest.raises(ShardError, match=r"the file system failed, which says nothing"):
        split[5]


def test_changed_contents_are_noticed(tmp_path, examples, monkeypatch):
    directory = examples.data_set(tmp_path / "set")
    path = directory / "train-00000-of-00002.array_record"
    data = bytearray(path.read_bytes())
    at = data.index(b"picture/00001")
    data[at + 3] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(ShardError, match="digest"):
        Split(directory, "train")
    monkeypatch.setattr(integrity, "_SMALL", 0)
    monkeypatch.setattr(integrity, "probe", lambda path: "0" * 64)
    with pytest.raises(ShardError, match=r"contents that its manifest says"):
        Split(directory, "train")
    with pytest.raises(ShardError, match="digest"):
        Split(directory, "train", verify=True)
    monkeypatch.setattr(integrity, "_check_parts", lambda *_: "")
    split = Split(directory, "train")
    assert split[0] == examples.record(0)
    with pytest.raises((ShardError, records.RecordError), match="train-00000"):
        split[1]


def test_manifest_faults_are_sentences(tmp_path):
    with pytest.raises(ManifestError, match="not a prepared data set"):
        Split(tmp_path, "train")
    for text, message in (
        ("{", "cannot be read"),
        ('{"format": 9}', "has format 9"),
        ('{"format": 1}', "lacks"),
        ("[]", "lacks"),
    ):
        (tmp_path / "manifest.json").write_text(text)
        with pytest.raises(ManifestError, match=message):
            read_manifest(tmp_path)


def test_full_disk_leaves_nothing(tmp_path):
    """A limit on the size of files stands for the full disk: both fail in write()."""
    code = """
        import os, resource, signal, sys
        from pathlib import Path
        from data_pipelines.storage.shards import ShardError, write_shard
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        try:
            write_shard(Path(sys.argv[1]), (os.urandom(1000) for _ in range(1000)))
        except ShardError as error:
            print(error)
    """
    path = tmp_path / "a.array_record"
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), str(path)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "a.array_record could not be written" in run.stdout
    assert "nothing was left behind" in run.stdout
    assert list(tmp_path.iterdir()) == []


def test_only_a_whole_data_set_of_the_same_is_kept(tmp_path, examples):
    directory = examples.data_set(tmp_path / "set")
    same = {"source": "test"}
    assert find_made(directory, same) == read_manifest(directory)
    assert find_made(directory, {"source": "other"}) is None
    assert find_made(tmp_path / "nothing", same) is None
    tokenizer = (directory / "tokenizer.json").read_text()
    (directory / "tokenizer.json").write_text(tokenizer + " ")
    assert find_made(directory, same) is None
    (directory / "tokenizer.json").write_text(tokenizer)
    (directory / "train-00000-of-00002.array_record").write_bytes(b"")
    assert find_made(directory, same) is None
