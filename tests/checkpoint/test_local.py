"""Checkpoints on a host's own disk: newer ones are used, where they fit."""

import gc
import shutil
from pathlib import Path

import jax
import miniature
import numpy as np
import pytest
from safetensors import SafetensorError

from unitoken_jax.checkpoint import local as tier
from unitoken_jax.checkpoint import reader as checkpoints
from unitoken_jax.checkpoint import state as states
from unitoken_jax.checkpoint.local import LocalConfig
from unitoken_jax.checkpoint.manager import CheckpointConfig, Checkpointer
from unitoken_jax.runtime import processes
from unitoken_jax.train.update.guard import GuardConfig
from unitoken_jax.train.update.step import make_train_step, make_update

# See test_manager.py.
pytestmark = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)

OPTIMIZER = miniature.make_optimizer()
STEP = jax.jit(
    make_train_step(make_update(miniature.loss, OPTIMIZER), GuardConfig()),
    donate_argnums=0,
)


def _meta(note: object) -> dict:
    return {"config": {"train": {"batch": 16}}, "note": note}


def _mesh(shape: tuple[int, ...]) -> jax.sharding.Mesh:
    axes = ("data", "fsdp")
    types = (jax.sharding.AxisType.Auto,) * 2
    devices = jax.devices()[: int(np.prod(shape))]
    return jax.make_mesh(shape, axes, axis_types=types, devices=devices)


def _abstract(mesh: jax.sharding.Mesh) -> states.TrainState:
    """The state with its matrices divided over fsdp, the rest whole."""
    rows = jax.sharding.NamedSharding(mesh, jax.P("fsdp"))
    whole = jax.sharding.NamedSharding(mesh, jax.P())
    fresh = miniature.make_state(OPTIMIZER)
    places = states.shardings(fresh, jax.tree.map(lambda _: rows, fresh.params), whole)
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), fresh, places
    )


def _open(path: Path, **fields) -> Checkpointer:
    local = LocalConfig(str(path / "fast"), every=1)
    config = CheckpointConfig(**{"every": 1, "local": local, **fields})
    return Checkpointer(path / "run" / "checkpoints", config)


@pytest.fixture(autouse=True)
def _collect():
    yield
    gc.collect()


@pytest.fixture
def run(tmp_path):
    """A run that has saved step 2 for all and step 4 locally, and step 4's state."""
    mesh = _mesh((2, 4))
    places = jax.tree.map(lambda x: x.sharding, _abstract(mesh))
    state = jax.device_put(miniature.make_state(OPTIMIZER), places)
    with _open(tmp_path) as checkpointer:
        for step in range(1, 5):
            batch = jax.device_put(miniature.batch(step), places.step)
            state, _ = STEP(state, batch)
            if step == 2:
                checkpointer.save(state, 32, _meta("two"))
            if step in (3, 4):
                checkpointer.save_local(state, 16 * step, _meta(step))
        expected = jax.tree.map(np.asarray, state.params)
        STEP(state, batch)  # gives up the buffers that are being written
    return tmp_path, expected


def _fast(path: Path) -> Path:
    (folder,) = (path / "fast").glob("unitoken-*/process-0-of-1")
    return folder


def test_the_newer_local_checkpoint_is_used(run) -> None:
    path, expected = run
    assert checkpoints.steps(path / "run" / "checkpoints") == [2]
    assert checkpoints.steps(_fast(path)) == [3, 4]
    with _open(path) as checkpointer:
        restored = checkpointer.restore(_abstract(_mesh((2, 4))))
    assert (restored.position, restored.meta) == (64, _meta(4))
    assert int(restored.state.step) == 4
    jax.tree.map(np.testing.assert_array_equal, restored.state.params, expected)
    kernel = restored.state.params["first"]["kernel"]
    assert kernel.sharding.spec == jax.P("fsdp")
    STEP(restored.state, miniature.batch(4))  # its key is one


def test_on_another_mesh_the_shared_one_is_used(run, caplog) -> None:
    path, _ = run
    with _open(path) as checkpointer:
        restored = checkpointer.restore(_abstract(_mesh((4, 2))))
    assert (restored.position, restored.meta) == (32, _meta("two"))
    assert "it was saved on another mesh" in caplog.text


def test_a_damaged_local_one_is_not_used(run, caplog) -> None:
    path, _ = run
    file = _fast(path) / "4" / "shards.safetensors"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with _open(path) as checkpointer:
        restored = checkpointer.restore(_abstract(_mesh((2, 4))))
    assert restored.position == 48
    assert "the checkpoint of step 4 on this host cannot be used" in caplog.text


@pytest.mark.parametrize("removed", ["run", "run/checkpoints", "run/checkpoints/2"])
def test_without_what_it_went_on_from_a_run_begins_anew(run, removed) -> None:
    path, _ = run
    shutil.rmtree(path / removed)
    with _open(path) as checkpointer:
        assert checkpointer.restore(_abstract(_mesh((2, 4)))) is None


def test_before_its_first_shared_checkpoint_a_run_resumes(tmp_path) -> None:
    mesh = _mesh((2, 4))
    places = jax.tree.map(lambda x: x.sharding, _abstract(mesh))
    state = jax.device_put(miniature.make_state(OPTIMIZER), places)
    state, _ = STEP(state, jax.device_put(miniature.batch(0), places.step))
    with _open(tmp_path) as checkpointer:
        checkpointer.save_local(state, 16, _meta(1))
    with _open(tmp_path) as checkpointer:
        assert checkpointer.restore(_abstract(mesh)).position == 16


def test_later_steps_are_forgotten_when_the_run_goes_back(run) -> None:
    """They would pass for newer ones of the run, and have its own removed."""
    path, _ = run
    shutil.copytree(_fast(path), _fast(path).with_name("process-0-of-2"))
    other = _mesh((4, 2))
    with _open(path) as checkpointer:
        state = checkpointer.restore(_abstract(other)).state
        assert checkpoints.steps(_fast(path)) == []
        assert [p.name for p in _fast(path).parent.iterdir()] == ["process-0-of-1"]
        batch = jax.device_put(miniature.batch(2), state.step.sharding)
        state, _ = STEP(state, batch)
        checkpointer.save_local(state, 48, _meta("again"))
    with _open(path) as checkpointer:
        assert checkpointer.restore(_abstract(other)).meta == _meta("again")


def test_steps_of_different_starts_are_not_put_together(
    run, monkeypatch, caplog
) -> None:
    path, _ = run

    def gather(values):
        other = list(values)
        if len(values) == 2 and values[1]:  # what can be read, and the start's number
            other[1] -= 1
        return np.asarray([values, other])

    with _open(path) as checkpointer:
        monkeypatch.setattr(processes, "gather", gather)
        restored = checkpointer.restore(_abstract(_mesh((2, 4))))
        monkeypatch.undo()
    assert restored.position == 32
    assert "what the hosts hold of step 4 does not go together" in caplog.text


def test_a_local_one_below_a_damaged_shared_one_is_used(run) -> None:
    path, expected = run
    with _open(path) as checkpointer:
        state = checkpointer.restore(_abstract(_mesh((2, 4)))).state
        batch = jax.device_put(miniature.batch(5), state.step.sharding)
        state, _ = STEP(state, batch)
        checkpointer.save(state, 80, _meta(5))
    shared = path / "run" / "checkpoints"
    for file in (shared / "5").rglob("manifest.ocdbt"):
        file.write_bytes(b"")
    with _open(path) as checkpointer:
        restored = checkpointer.restore(_abstract(_mesh((2, 4))))
    assert restored.position == 64
    jax.tree.map(np.testing.assert_array_equal, restored.state.params, expected)
    assert checkpoints.steps(shared) == [2]
    assert (path / "run" / "checkpoints-damaged" / "5").is_dir()


def test_a_full_disk_is_done_without(run, monkeypatch, caplog) -> None:
    path, _ = run
    lying: list[int] = []

    def full(*_):
        lying.append(len(list(_fast(path).iterdir())))
        raise SafetensorError("I/O error: No space left on device")

    with _open(path) as checkpointer:
        state = checkpointer.restore(_abstract(_mesh((2, 4)))).state
        monkeypatch.setattr(tier, "save_file", full)
        for step in (5, 6, 7):
            batch = jax.device_put(miniature.batch(step), state.step.sharding)
            state, _ = STEP(state, batch)
            checkpointer.save_local(state, 16 * step, _meta(step))
        checkpointer.save(state, 112, _meta(7))
    assert checkpoints.steps(path / "run" / "checkpoints") == [2, 7]
    assert caplog.text.count(f"nothing more is saved in {_fast(path)}") == 1
    assert lying == [2]  # the newest and what is being written
    assert [p.name for p in _fast(path).iterdir()] == ["4"]


def test_a_place_that_cannot_be_made_is_done_without(tmp_path, caplog) -> None:
    (tmp_path / "fast").write_text("a file")
    state = miniature.make_state(OPTIMIZER)
    with _open(tmp_path) as checkpointer:
        assert checkpointer.restore(_abstract(_mesh((2, 4)))) is None
        checkpointer.save_local(state, 0, _meta(0))
        checkpointer.discard_local()
    assert "checkpoint.local.directory" in caplog.text


def test_a_complete_run_leaves_nothing_behind(run) -> None:
    path, _ = run
    with _open(path) as checkpointer:
        checkpointer.discard_local()
    assert list((path / "fast").iterdir()) == []


@pytest.mark.parametrize(
    ("saved", "kept"),
    [((1, 2, 3, 4, 5), [2, 4, 5]), ((1, 3, 5, 6, 7, 9), [3, 5, 6, 7, 9])],
    ids=["in time", "late"],
)
def test_multiples_are_kept_for_ever(tmp_path, saved, kept) -> None:
    state = miniature.make_state(OPTIMIZER)
    with _open(tmp_path, keep=1, keep_every=2) as checkpointer:
        for step in range(1, max(saved) + 1):
            state, _ = STEP(state, miniature.batch(step))
            if step in saved:
                checkpointer.save(state, 16 * step, _meta(step))
    assert checkpoints.steps(tmp_path / "run" / "checkpoints") == kept
    with pytest.raises(ValueError, match="keep_every must be a multiple of every"):
        CheckpointConfig(every=2, keep_every=3)
