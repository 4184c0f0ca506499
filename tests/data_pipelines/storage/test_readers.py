"""Open shards: few at once, never closed in use, and a file system's faults by name."""

import os
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import prepared
import pytest

from data_pipelines.storage import readers
from data_pipelines.storage.readers import READERS, Readers, ShardError, StorageError
from data_pipelines.storage.shards import Split, shard_name, write_shard


@pytest.fixture
def many(tmp_path):
    """Forty shards of three entries."""
    return tmp_path, [
        write_shard(
            tmp_path / shard_name("x", i, 40), [f"{i} {e}".encode() for e in range(3)]
        )
        for i in range(40)
    ]


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_few_files_are_open_and_all_are_read(many, monkeypatch):
    directory, shards = many
    monkeypatch.setattr(readers, "_MOST_OPEN", 6)
    pool, before = Readers(), descriptors()
    for turn in range(3):
        for number, shard in enumerate(shards):
            assert (
                pool.read(str(directory / shard.name), shard, turn)
                == f"{number} {turn}".encode()
            )
            assert len(pool) <= 6
    assert descriptors() - before <= 6
    pool.forget([str(directory / shard.name) for shard in shards])
    assert (len(pool), descriptors()) == (0, before)


def test_threads_share_them_and_none_is_closed_in_use(many, monkeypatch):
    directory, shards = many
    monkeypatch.setattr(readers, "_MOST_OPEN", 3)
    pool, wrong = Readers(), []

    def work(first: int) -> None:
        for turn in range(400):
            number, entry = (first * 7 + turn * 11) % 40, turn % 3
            path = str(directory / shards[number].name)
            content = pool.read(path, shards[number], entry)
            if content != f"{number} {entry}".encode():
                wrong.append((number, entry))
            if turn % 50 == 0:
                pool.forget([path])

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert len(pool) <= 3


def test_one_that_is_read_stays_open(many, monkeypatch):
    directory, shards = many
    monkeypatch.setattr(readers, "_MOST_OPEN", 1)
    pool = Readers()
    path = str(directory / shards[0].name)
    place = pool._take(path)
    place.reader = readers._open(Path(path), shards[0])
    pool.read(str(directory / shards[1].name), shards[1], 0)
    pool.forget([path])
    assert place.reader.read([2]) == [b"0 2"]
    pool._give_back(path, place)
    assert place.reader is None


def test_opening_reads_no_more_than_the_footer(tmp_path):
    entries = [os.urandom(1000) for _ in range(2000)]
    shards = [write_shard(tmp_path / f"{i}.array_record", entries) for i in range(2)]

    def read_bytes() -> int:
        with open("/proc/self/io") as lines:
            return int(next(lines).split()[1])

    pool = Readers()
    pool.read(str(tmp_path / shards[0].name), shards[0], 0)
    before = read_bytes()
    pool.read(str(tmp_path / shards[1].name), shards[1], 0)
    # A block of 64 KiB for the footer's place, the footer, and the entry; by default
    # ArrayRecord reads 1 MiB.
    assert read_bytes() - before < 160_000


FEW_DESCRIPTORS = """
    import resource, sys
    from data_pipelines.storage.shards import Split
    resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))
    split = Split(sys.argv[1], "train")
    for index in range(len(split)):
        split[index]
    held = [open("/dev/null") for _ in range(100 if len(sys.argv) > 2 else 0)]
"""


def run(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *arguments],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def forty_shards(tmp_path_factory):
    return prepared.make(tmp_path_factory.mktemp("data") / "set", count=40, shards=40)


def test_a_low_limit_of_open_files_is_kept(forty_shards):
    done = run(FEW_DESCRIPTORS, str(forty_shards))
    assert (done.returncode, done.stderr) == (0, "")


def test_too_many_open_files_are_not_called_damage(forty_shards):
    code = """
        import resource, sys
        from data_pipelines.storage import readers
        from data_pipelines.storage.shards import Split
        readers._PAUSES = (0.0,)
        split = Split(sys.argv[1], "train")
        resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))
        held = []
        try:
            while True:
                held.append(open("/dev/null"))
        except OSError:
            pass
        try:
            split[0]
        except readers.StorageError as error:
            print(error)
        held.clear()
        print(split[0]["id"])
    """
    said, record = run(code, str(forty_shards)).stdout.splitlines()
    assert "Too many open files" in said
    assert "raise the limit (ulimit -n 4096)" in said
    assert "damage" not in said
    assert record == "picture/00000"


def test_missing_permission_is_not_called_damage(forty_shards, tmp_path):
    code = """
        import os, sys
        from pathlib import Path
        from data_pipelines.storage import readers
        from data_pipelines.storage.shards import Split
        readers._PAUSES = (0.0,)
        (path,) = Path(sys.argv[1]).glob("train-00003-*")
        path.chmod(0)
        if not os.getuid():
            os.seteuid(65534)
        try:
            Split(sys.argv[1], "train")
        except readers.StorageError as error:
            print(error)
        if not os.getuid():
            os.seteuid(0)
        path.chmod(0o644)
    """
    os.chmod(forty_shards, 0o755)
    for folder in forty_shards.parents:
        if "pytest-of-" in str(folder):  # which only its owner may enter
            os.chmod(folder, 0o755)
    done = run(code, str(forty_shards))
    assert "train-00003-of-00040.array_record cannot be read (Permission" in done.stdout
    assert "this user may not read it" in done.stdout
    assert "damage" not in done.stdout


@pytest.mark.parametrize(
    ("words", "advice"),
    [
        ("pread() failed: Input/output error", "the file system failed, which says no"),
        ("Stale file handle; at byte 3", "the file system failed, which says nothing"),
        ("Corrupted Riegeli/records file: hash", "the file is damaged: copy it again"),
    ],
)
def test_errors_of_reading_are_told_apart(words, advice, many, monkeypatch):
    directory, shards = many

    def failing(*_):
        raise RuntimeError(words)

    monkeypatch.setattr(Readers, "_read", failing)
    with pytest.raises(ShardError, match=advice) as caught:
        READERS.read(str(directory / shards[0].name), shards[0], 1)
    assert f"{shards[0].name}, entry 1" in str(caught.value)
    assert not isinstance(caught.value, StorageError)


def test_a_missing_shard_ends_a_run_and_is_not_set_aside(tmp_path, monkeypatch):
    monkeypatch.setattr(readers, "_PAUSES", (0.0, 0.0))
    directory = prepared.make(tmp_path / "set")
    split = Split(directory, "train")
    (directory / "train-00001-of-00002.array_record").unlink()
    with pytest.raises(StorageError, match=r"it is missing: removed, moved or never"):
        split[23]
    assert split[0]["id"]


def test_the_time_of_a_read_does_not_grow_with_shards(forty_shards, monkeypatch):
    """No text is made and no list is walked through for a read that succeeds."""
    split = Split(forty_shards, "train")
    counted = []
    shards = split._shards

    class Counting(list):
        def __getitem__(self, index):
            counted.append(index)
            return super().__getitem__(index)

        def __iter__(self):
            raise AssertionError("walked through all shards")

    monkeypatch.setattr(split, "_shards", Counting(shards))
    assert split[39]["id"] == "picture/00039"
    assert counted == [39]


def test_a_damaged_footer_is_a_sentence_wherever_the_damage_is(many):
    directory, shards = many
    path, found = directory / shards[0].name, set()
    content = path.read_bytes()
    last = len(content) - 65_536
    for at in (*range(0, 600, 3), *range(last, last + 120, 3)):
        changed = bytearray(content)
        changed[at] ^= 0x10
        path.write_bytes(changed)
        try:
            Readers().check(str(path), shards[0])
        except StorageError as error:
            found.add(str(error))
    (message,) = found
    assert "its footer is damaged or another file's" in message
