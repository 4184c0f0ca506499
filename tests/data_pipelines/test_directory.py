"""Directories that appear whole or not at all."""

import errno
import fcntl
import os

import pytest

from data_pipelines.directory import DirectoryError, atomic_directory, write_file


def test_appears_whole(tmp_path):
    with atomic_directory(tmp_path / "a" / "set", overwrite=False) as partial:
        (partial / "x").write_text("1")
        assert not (tmp_path / "a" / "set").exists()
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["set"]
    assert (tmp_path / "a" / "set" / "x").read_text() == "1"


def test_refuses_then_replaces(tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "old").touch()
    with (
        pytest.raises(DirectoryError, match="--overwrite"),
        atomic_directory(tmp_path / "set", overwrite=False),
    ):
        pass
    with atomic_directory(tmp_path / "set", overwrite=True) as partial:
        (partial / "new").touch()
    assert [p.name for p in tmp_path.rglob("*")] == ["set", "new"]


def _fail(directory, error):
    with atomic_directory(directory, overwrite=True) as partial:
        (partial / "new").touch()
        raise error


def test_fault_leaves_the_old_directory(tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "old").touch()
    full = OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(DirectoryError, match="No space left on device; nothing was"):
        _fail(tmp_path / "set", full)
    with pytest.raises(KeyboardInterrupt):
        _fail(tmp_path / "set", KeyboardInterrupt())
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["old", "set"]


def test_rest_of_a_killed_run_is_removed_but_not_of_a_living_one(tmp_path):
    left = tmp_path / ".set.partial"
    (left / "deep").mkdir(parents=True)
    (left / "deep" / "x").touch()
    with atomic_directory(tmp_path / "set", overwrite=False) as partial:
        assert list(partial.iterdir()) == []
    left.mkdir()
    lock = os.open(left, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    with (
        pytest.raises(DirectoryError, match="another process"),
        atomic_directory(tmp_path / "set", overwrite=True),
    ):
        pass
    os.close(lock)


def test_unwritable_parent_is_a_sentence(tmp_path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(DirectoryError, match="cannot be written"),
        atomic_directory(tmp_path / "file" / "set", overwrite=False),
    ):
        pass


def test_file_is_replaced_whole(tmp_path):
    write_file(tmp_path / "a", b"1")
    write_file(tmp_path / "a", b"22")
    assert (tmp_path / "a").read_bytes() == b"22"
    assert len(list(tmp_path.iterdir())) == 1
