"""Directories that appear whole or not at all."""

import errno
import fcntl
import os
from pathlib import Path

import pytest

from data_pipelines.storage.directory import DirectoryError, atomic_directory


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


def _make(destination, **options):
    with atomic_directory(destination, **{"overwrite": True} | options) as partial:
        (partial / "new").touch()


def test_something_else_is_never_replaced(tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis").touch()
    with pytest.raises(DirectoryError, match=r"home holds no manifest\.json"):
        _make(tmp_path / "home", mark="manifest.json")
    (tmp_path / "file").write_text("kept")
    with pytest.raises(DirectoryError, match="file is a file"):
        _make(tmp_path / "file")
    with pytest.raises(DirectoryError):
        _make(Path("/"), mark="manifest.json")
    left = {p.name for p in tmp_path.rglob("*")}
    assert left == {"home", "thesis", "file"}


def test_an_empty_directory_is_taken(tmp_path):
    (tmp_path / "set").mkdir()
    _make(tmp_path / "set", overwrite=False, mark="manifest.json")
    assert [p.name for p in tmp_path.rglob("*")] == ["set", "new"]


def test_a_link_is_followed(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk" / "old").touch()
    (tmp_path / "set").symlink_to(tmp_path / "disk")
    (tmp_path / "ahead").symlink_to(tmp_path / "made")
    for name, target in (("set", "disk"), ("ahead", "made")):
        _make(tmp_path / name)
        assert (tmp_path / name).is_symlink()
        assert [p.name for p in (tmp_path / target).iterdir()] == ["new"]
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    with pytest.raises(DirectoryError, match="cannot be written"):
        _make(tmp_path / "circle")


def test_a_run_killed_while_it_published_lost_nothing(tmp_path):
    (tmp_path / ".set.old").mkdir()
    (tmp_path / ".set.old" / "old").touch()
    with pytest.raises(DirectoryError, match="exists already"):
        _make(tmp_path / "set", overwrite=False)
    assert [p.name for p in tmp_path.rglob("*")] == ["set", "old"]


def test_parents_made_for_nothing_are_removed(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        _fail(tmp_path / "a" / "b" / "set", KeyboardInterrupt())
    assert not list(tmp_path.iterdir())
