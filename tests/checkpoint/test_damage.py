"""Checkpoints whose files were damaged: every reader says which, and none is silent."""

import gc
import json
import os
import random
import re
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import miniature
import pytest

from unitoken_jax.checkpoint import digests, reader
from unitoken_jax.checkpoint.digests import DamagedError
from unitoken_jax.checkpoint.local import LocalConfig
from unitoken_jax.checkpoint.manager import CheckpointConfig, Checkpointer
from unitoken_jax.checkpoint.reader import CheckpointError

# See test_manager.py; here only of checkpoints without digests.
pytestmark = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)

META = {"config": {"train": {"batch": 16}}}
DAMAGES = ("gone", "empty", "cut", "zeroed", "longer", "folder")


@pytest.fixture(autouse=True)
def _collect():
    yield
    gc.collect()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run with a checkpoint of step 0 and a local one, and its abstract state."""
    path = tmp_path_factory.mktemp("run")
    state = miniature.make_state(miniature.make_optimizer())
    local = LocalConfig(str(path / "fast"))
    config = CheckpointConfig(local=local)
    with Checkpointer(path / "checkpoints", config) as checkpointer:
        checkpointer.save_local(state, 0, META)
        checkpointer.save(state, 0, META)
    abstract = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
    )
    return path, abstract


def _names(folder: Path) -> list[str]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return [str(path.relative_to(folder)) for path in files]


def _damage(file: Path, how: str) -> None:
    data = file.read_bytes()
    file.unlink()
    if how == "folder":
        file.mkdir()
    elif how != "gone":
        changed = {"empty": b"", "cut": data[:-1], "longer": data + b"\0"}
        file.write_bytes(changed.get(how, bytes(len(data))))


def _flip(file: Path, bit: int) -> None:
    data = bytearray(file.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    file.write_bytes(data)


def _bits(folder: Path, count: int, seed: int) -> list[tuple[str, int]]:
    """Return bits of files, half of them drawn by file and half by size."""
    rng = random.Random(seed)
    names = _names(folder)
    sizes = [(folder / name).stat().st_size for name in names]
    drawn = rng.choices(names, k=count // 2)
    drawn += rng.choices(names, sizes, k=count - len(drawn))
    return [(n, rng.randrange(8 * (folder / n).stat().st_size)) for n in drawn]


@pytest.mark.parametrize("how", DAMAGES)
def test_every_damaged_file_is_named(run, tmp_path, how) -> None:
    """By whoever trains, draws or converts; nothing is given to Orbax."""
    path, abstract = run
    folder = path / "checkpoints" / "0"
    names = _names(folder)
    assert {"digests.json", "commit_success.txt", "data/metadata"} < set(names)
    for name in names:
        copy = tmp_path / "checkpoints" / "0"
        shutil.copytree(folder, copy)
        _damage(copy / name, how)
        with pytest.raises(DamagedError, match=rf"^{name}: "):
            reader.read(copy, abstract)
        for read in (reader.restore_params, reader.find_intact):
            with pytest.raises(CheckpointError, match="there is no readable"):
                read(tmp_path)
        shutil.rmtree(copy)


def test_every_flipped_bit_is_noticed(run, tmp_path) -> None:
    path, abstract = run
    folder = path / "checkpoints" / "0"
    copy = tmp_path / "0"
    shutil.copytree(folder, copy)
    for name, bit in _bits(folder, 300, seed=0):
        _flip(copy / name, bit)
        with pytest.raises(DamagedError, match=rf"^{name}: "):
            reader.read(copy, abstract)
        _flip(copy / name, bit)
    assert reader.read(copy, abstract).position == 0


def test_local_checkpoints_are_compared_as_well(run, tmp_path) -> None:
    path, _ = run
    (folder,) = (path / "fast").glob("*/*/0")
    for name, bit in _bits(folder, 40, seed=1):
        copy = tmp_path / "0"
        shutil.copytree(folder, copy)
        _flip(copy / name, bit)
        with pytest.raises(DamagedError, match=rf"^{name}: "):
            digests.verify(copy)
        shutil.rmtree(copy)


def test_a_damaged_local_checkpoint_gives_way(run, tmp_path, caplog) -> None:
    path, abstract = run
    shutil.copytree(path, tmp_path, dirs_exist_ok=True)
    (file,) = (tmp_path / "fast").glob("*/*/0/shards.safetensors")
    shutil.rmtree(tmp_path / "checkpoints" / "0")
    config = CheckpointConfig(local=LocalConfig(str(tmp_path / "fast")))
    with Checkpointer(tmp_path / "checkpoints", config) as checkpointer:
        assert checkpointer.restore(abstract) is not None
    _flip(file, 8 * (file.stat().st_size - 40))
    with Checkpointer(tmp_path / "checkpoints", config) as checkpointer:
        assert checkpointer.restore(abstract) is None
    assert "cannot be used (DamagedError: shards.safetensors: its bytes" in caplog.text


@pytest.mark.parametrize("how", DAMAGES[:4])
def test_an_older_checkpoint_with_damaged_arrays_is_damaged(run, tmp_path, how) -> None:
    """Without digests whatever Orbax raises is taken for what it came from."""
    path, abstract = run
    copy = tmp_path / "checkpoints" / "0"
    shutil.copytree(path / "checkpoints" / "0", copy)
    (copy / "digests.json").unlink()
    (copy / "data" / "metadata").write_text('{"position": 0}')
    assert reader.read(copy, abstract).position == 0
    for file in copy.rglob("d/*"):
        _damage(file, how)
    with pytest.raises(reader.DAMAGE):
        reader.read(copy, abstract)
    with pytest.raises(CheckpointError, match="there is no readable checkpoint"):
        reader.restore_params(tmp_path)


OLD = {"position": 0}
NEW = {"step": 0, "samples": 0, "sealed": True}


@pytest.mark.parametrize(
    ("item", "content"),
    [
        *(("data", {"position": x}) for x in (5, -5, True, "0", 0.0, None, [])),
        *(("data", NEW | {"step": x}) for x in (5, -1, "0", False, None)),
        *(("data", NEW | {"samples": x}) for x in (-1, 1.5, "0", None, True)),
        *(("data", x) for x in ({}, [], None, 0, "position")),
        *(("meta", x) for x in ({}, [], None, "config", {"config": []})),
        *(("meta", META | {x: 1}) for x in ("environment", "goodput", "stream")),
    ],
    ids=str,
)
def test_position_and_description_are_checked_by_what_they_say(
    run, tmp_path, item, content
) -> None:
    """Also where the digests are of what is there."""
    path, abstract = run
    copy = tmp_path / "0"
    shutil.copytree(path / "checkpoints" / "0", copy)
    (copy / item / "metadata").write_text(json.dumps(content))
    (copy / "digests.json").unlink()
    digests.seal(copy)
    with pytest.raises(ValueError, match=rf"^{item}/metadata: "):
        reader.read(copy, abstract)


def test_a_checkpoint_under_another_steps_name_is_refused(
    run, tmp_path, caplog
) -> None:
    path, abstract = run
    shutil.copytree(path / "checkpoints" / "0", tmp_path / "7")
    with pytest.raises(ValueError, match=r"^state: it is of step 0, not of 7"):
        reader.read(tmp_path / "7", abstract)
    for read in (reader.restore_params, reader.parameter_shapes, reader.find_intact):
        with pytest.raises(CheckpointError, match="no readable checkpoint"):
            read(tmp_path)
        assert "7 is damaged (ValueError: data/metadata: it is of step 0" in caplog.text
        caplog.clear()


def test_what_was_added_is_said_and_not_read(run, tmp_path, caplog) -> None:
    path, abstract = run
    shutil.copytree(path / "checkpoints" / "0", tmp_path / "0")
    (tmp_path / "0" / "state" / "notes.txt").write_text("mine")
    (tmp_path / "0" / ".nfs0001").write_text("")
    assert reader.read(tmp_path / "0", abstract).position == 0
    assert "holds what was not written there (state/notes.txt)" in caplog.text


def test_processes_share_what_is_compared(tmp_path, monkeypatch) -> None:
    """Each block of large files by one of them, small files by all."""
    monkeypatch.setattr(digests, "_BLOCK", 64)
    monkeypatch.setattr(digests, "_SMALL", 16)
    (tmp_path / "large").write_bytes(bytes(range(256)))
    (tmp_path / "small").write_bytes(b"small")
    digests.seal(tmp_path)

    def read(index: int) -> bytes:
        with digests.verified(tmp_path, share=(index, 2)):
            return (tmp_path / "large").read_bytes()

    for block in range(4):
        _flip(tmp_path / "large", 8 * 64 * block)
        for index in range(2):
            if block % 2 == index:
                with pytest.raises(DamagedError, match=r"^large: its bytes"):
                    read(index)
            else:
                assert read(index)
        digests.verify(tmp_path, contents=False)
        _flip(tmp_path / "large", 8 * 64 * block)
    _flip(tmp_path / "small", 3)
    for index in range(2):
        with pytest.raises(DamagedError, match=r"^small: its bytes"):
            read(index)


def test_damage_explains_what_its_reader_meets(tmp_path, monkeypatch) -> None:
    """But not what has nothing to do with it."""
    monkeypatch.setattr(digests, "_SMALL", 16)
    (tmp_path / "large").write_bytes(bytes(64))
    digests.seal(tmp_path)
    _flip(tmp_path / "large", 100)
    for fault, raised in ((OSError, DamagedError), (CheckpointError, CheckpointError)):
        with pytest.raises(raised), digests.verified(tmp_path):
            raise fault("as Orbax says it")
    _flip(tmp_path / "large", 100)
    with pytest.raises(OSError, match="as"), digests.verified(tmp_path):
        raise OSError("as Orbax says it")


QUIET = """
import sys
from pathlib import Path
import jax, miniature
from unitoken_jax.checkpoint import reader
state = miniature.make_state(miniature.make_optimizer())
abstract = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
)
for _ in range(3):
    try:
        reader.read(Path(sys.argv[1]), abstract)
    except reader.DAMAGE as error:
        print(reader.brief(error))
"""


def test_no_traceback_stands_beside_the_sentence(run, tmp_path) -> None:
    """In a process of its own, as it is Python that would print it."""
    path, _ = run
    copy = tmp_path / "0"
    shutil.copytree(path / "checkpoints" / "0", copy)
    (copy / "digests.json").unlink()
    (copy / "data" / "metadata").write_text('{"position": 0}')
    for file in copy.rglob("d/*"):
        _damage(file, "zeroed")
    helpers = Path(miniature.__file__).parent
    ended = subprocess.run(
        [sys.executable, "-c", QUIET, copy],
        env=os.environ | {"PYTHONPATH": f"{Path.cwd()}:{helpers}"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert ended.stdout.count("\n") == 3
    assert "Traceback" not in ended.stdout + ended.stderr
    assert "Exception ignored" not in ended.stderr


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_a_run_resumes_from_the_one_before_whatever_bit_is_flipped(
    tmp_path, caplog, seed
) -> None:
    state = miniature.make_state(miniature.make_optimizer())
    first = tmp_path / "first" / "checkpoints"
    with Checkpointer(first, CheckpointConfig()) as checkpointer:
        for step in (0, 1):
            moved = type(state)(**{**vars(state), "step": state.step + step})
            checkpointer.save(moved, 16 * step, META)
    abstract = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
    )
    changes = [(name, bit) for name, bit in _bits(first / "1", 100, seed)]
    changes += [(name, how) for name in _names(first / "1") for how in DAMAGES]
    for name, change in changes:
        copy = tmp_path / "copy" / "checkpoints"
        shutil.copytree(first, copy)
        if isinstance(change, int):
            _flip(copy / "1" / name, change)
        else:
            _damage(copy / "1" / name, change)
        caplog.clear()
        with Checkpointer(copy, CheckpointConfig()) as checkpointer:
            restored = checkpointer.restore(abstract)
        assert restored is not None
        assert int(restored.state.step) == 0
        said = rf"checkpoints/1 is damaged \((DamagedError: )?{re.escape(name)}: "
        assert re.search(said, caplog.text)
        assert (tmp_path / "copy" / "checkpoints-damaged" / "1").is_dir()
        shutil.rmtree(tmp_path / "copy")
