"""Checkpoints: exact, partial, damaged, of another config, and no space left."""

import errno
import gc
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import miniature
import numpy as np
import orbax.checkpoint as ocp
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from unitoken_jax.checkpoint import reader as checkpoints
from unitoken_jax.checkpoint import state as states
from unitoken_jax.checkpoint import warm_start
from unitoken_jax.checkpoint.manager import CheckpointConfig, Checkpointer
from unitoken_jax.checkpoint.reader import CheckpointError, Restored
from unitoken_jax.runtime import processes
from unitoken_jax.train.update.guard import GuardConfig
from unitoken_jax.train.update.step import make_train_step, make_update

# When one read of a damaged checkpoint fails, Orbax closes the event loop that the
# other reads still want to report to; Python mentions it when it collects them.
pytestmark = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)

OPTIMIZER = miniature.make_optimizer()
STEP = jax.jit(
    make_train_step(make_update(miniature.loss, OPTIMIZER), GuardConfig()),
    donate_argnums=0,
)


def _meta(step: int) -> dict:
    """The description of a run, as far as it is looked at."""
    return {"config": {"name": "run", "train": {"batch": 16}}, "note": step}


def _advance(state, first, last):
    losses = []
    for index in range(first, last):
        state, metrics = STEP(state, miniature.batch(index))
        losses.append(float(metrics["loss"]))
    return state, losses


def _abstract(state, sharding=None):
    sharding = sharding or jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), state
    )


@pytest.fixture(autouse=True)
def _collect():
    yield
    gc.collect()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Checkpoints of steps 2 and 4 of a run, and the losses of steps 4 to 6."""
    path = tmp_path_factory.mktemp("run")
    checkpointer = Checkpointer(path / "checkpoints", CheckpointConfig(keep=2))
    state = miniature.make_state(OPTIMIZER)
    for last in (1, 2, 4):
        state, _ = _advance(state, int(state.step), last)
        checkpointer.save(state, 16 * last, _meta(last))
    _, losses = _advance(state, 4, 7)  # reuses the buffers while they are written
    checkpointer.close()
    return path, losses


@pytest.fixture
def saved(run, tmp_path: Path):
    """A copy of the run, to be damaged."""
    shutil.copytree(run[0], tmp_path, dirs_exist_ok=True)
    return tmp_path, run[1]


def _reopen(path: Path, keep: int = 2) -> Checkpointer:
    return Checkpointer(path / "checkpoints", CheckpointConfig(keep=keep))


def test_resume_is_bit_equal(saved) -> None:
    path, losses = saved
    assert checkpoints.steps(path / "checkpoints") == [2, 4]
    checkpointer = _reopen(path)
    restored = checkpointer.restore(_abstract(miniature.make_state(OPTIMIZER, 1)))
    checkpointer.close()
    assert (restored.position, restored.meta) == (64, _meta(4))
    assert _advance(restored.state, 4, 7)[1] == losses


def test_an_unknown_user_resumes(saved, monkeypatch) -> None:
    """In a container nobody may have the number of the user a name."""

    def unknown(uid: int) -> None:
        raise KeyError(uid)

    monkeypatch.setattr("pwd.getpwuid", unknown)
    monkeypatch.setattr("grp.getgrgid", unknown)
    path, losses = saved
    with _reopen(path) as checkpointer:
        restored = checkpointer.restore(_abstract(miniature.make_state(OPTIMIZER, 1)))
        state, after = _advance(restored.state, 4, 6)
        checkpointer.save(state, 96, _meta(6))
    assert after == losses[:2]
    assert checkpoints.steps(path / "checkpoints") == [4, 6]


@pytest.mark.parametrize(
    "content",
    [
        None,
        "",
        '{"x":1',
        "[]",
        '{"commit_timestamp_nsecs": "x"}',
        "\xff\0",
        "[" * 10**5,
    ],
)
def test_an_unknown_user_resumes_beside_damaged_metadata(
    saved, monkeypatch, caplog, content
) -> None:
    def unknown(number: int) -> None:
        raise KeyError(number)

    monkeypatch.setattr("pwd.getpwuid", unknown)
    monkeypatch.setattr("grp.getgrgid", unknown)
    path, _ = saved
    file = path / "checkpoints" / "4" / "_CHECKPOINT_METADATA"
    file.unlink()
    if content is not None:
        file.write_text(content, "latin-1")
    with _reopen(path) as checkpointer:
        restored = checkpointer.restore(_abstract(miniature.make_state(OPTIMIZER, 1)))
    assert int(restored.state.step) == 2
    assert "_CHECKPOINT_METADATA" in caplog.text


def test_a_fresh_directory_restores_nothing(tmp_path: Path) -> None:
    checkpointer = _reopen(tmp_path)
    assert checkpointer.restore(_abstract(miniature.make_state(OPTIMIZER))) is None
    checkpointer.close()


def test_restores_on_another_mesh(saved) -> None:
    path, losses = saved
    mesh = jax.make_mesh((8,), ("fsdp",), axis_types=(AxisType.Auto,))
    rows = NamedSharding(mesh, PartitionSpec("fsdp"))
    whole = NamedSharding(mesh, PartitionSpec())
    fresh = miniature.make_state(OPTIMIZER, 1)
    places = states.shardings(fresh, jax.tree.map(lambda _: rows, fresh.params), whole)
    abstract = jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), fresh, places
    )
    checkpointer = _reopen(path)
    restored = checkpointer.restore(abstract)
    checkpointer.close()
    kernel = restored.state.params["first"]["kernel"]
    assert kernel.sharding == rows
    _, metrics = jax.jit(
        make_train_step(make_update(miniature.loss, OPTIMIZER), GuardConfig())
    )(restored.state, jax.device_put(miniature.batch(4), whole))
    assert float(metrics["loss"]) == pytest.approx(losses[0], rel=1e-6)


def _files(path: Path) -> list[Path]:
    folder = path / "checkpoints" / "4"
    return sorted(
        file
        for file in folder.rglob("*")
        if file.is_file() and file.stat().st_size and file.name != "commit_success.txt"
    )


@pytest.mark.parametrize("victim", ["data", "state/_METADATA", "state/manifest.ocdbt"])
@pytest.mark.parametrize("damage", ["cut", "gone"])
def test_a_damaged_newest_checkpoint_is_set_aside(
    saved, caplog, victim, damage
) -> None:
    path, _ = saved
    for file in _files(path):
        if victim in str(file.relative_to(path / "checkpoints" / "4")):
            if damage == "gone":
                file.unlink()
            else:
                file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    checkpointer = _reopen(path)
    restored = checkpointer.restore(_abstract(miniature.make_state(OPTIMIZER, 1)))
    assert (int(restored.state.step), restored.position) == (2, 32)
    assert "checkpoints/4 is damaged" in caplog.text
    assert (path / "checkpoints-damaged" / "4").is_dir()
    state, _ = _advance(restored.state, 2, 4)
    checkpointer.save(state, 64, _meta(4))
    checkpointer.close()
    assert checkpoints.steps(path / "checkpoints") == [2, 4]


def test_cut_arrays_are_noticed_by_readers_of_params(saved, caplog) -> None:
    path, _ = saved
    for file in _files(path):
        if "/d/" in str(file):
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    params, step = checkpoints.restore_params(path, "first")
    assert (step, list(params)) == (2, ["kernel"])
    assert "is damaged" in caplog.text


@pytest.mark.parametrize("victim", ["state/_METADATA", "/d/"])
def test_another_stage_starts_from_the_newest_readable(saved, caplog, victim) -> None:
    """Shapes and values are of the same step, whatever of a newer one is damaged."""
    caplog.set_level("INFO")
    path, _ = saved
    for file in _files(path):
        if victim in str(file):
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    params = miniature.make_state(OPTIMIZER).params
    places = jax.tree.map(lambda x: x.sharding, params)
    started = warm_start.warm_start(params, places, {"still": (path, "first")})
    theirs, step = checkpoints.restore_params(path, "first")
    assert step == 2
    np.testing.assert_array_equal(started["still"]["kernel"], theirs["kernel"])
    assert "from first of" in caplog.text
    assert "at step 2" in caplog.text
    assert checkpoints.parameter_shapes(path, "first") == {"kernel": (16, 16)}


def test_processes_start_from_one_checkpoint(saved, monkeypatch, caplog) -> None:
    """Though this process could read the newest, another could not."""
    caplog.set_level("INFO")
    path, _ = saved
    answers = [(0, 0), (1, 0)]  # of the other, for steps 4 and 2

    def gather(values):
        other = answers.pop(0) if len(values) == 2 else values
        return np.asarray([values, other])

    monkeypatch.setattr(processes, "gather", gather)
    params = miniature.make_state(OPTIMIZER).params
    places = jax.tree.map(lambda x: x.sharding, params)
    warm_start.warm_start(params, places, {"still": (path, "first")})
    assert "checkpoints/4 is damaged (for another process)" in caplog.text
    assert "at step 2" in caplog.text
    # Who reads while the others wait for it asks nobody.
    assert checkpoints.restore_params(path, "first")[1] == 4


def test_half_written_checkpoints_are_not_seen(saved) -> None:
    path, _ = saved
    folder = path / "checkpoints"
    (folder / "4").rename(folder / "4.orbax-checkpoint-tmp-0")
    assert checkpoints.steps(folder) == [2]
    checkpointer = _reopen(path)
    restored = checkpointer.restore(_abstract(miniature.make_state(OPTIMIZER)))
    checkpointer.close()
    assert restored.position == 32


def _restore(path: Path) -> Restored | None:
    with _reopen(path) as checkpointer:
        return checkpointer.restore(_abstract(miniature.make_state(OPTIMIZER)))


def test_a_run_goes_back_once(saved, caplog) -> None:
    """What is newer is set aside; a repeated command goes on at the newest."""
    path, losses = saved
    abstract = _abstract(miniature.make_state(OPTIMIZER))
    with _reopen(path) as checkpointer:
        sentence = r"--restore_step=3: .* is not there in .*There are: 2, 4\."
        with pytest.raises(CheckpointError, match=sentence):
            checkpointer.restore(abstract, 3)
    assert checkpoints.steps(path / "checkpoints") == [2, 4]
    for kept, expected in (([2], 2), ([2, 4], 4)):
        with _reopen(path) as checkpointer:
            restored = checkpointer.restore(abstract, 2)
            assert restored is not None
            assert int(restored.state.step) == expected
            if expected == 2:
                assert checkpoints.steps(path / "checkpoints") == kept
                state, _ = _advance(restored.state, 2, 4)
                checkpointer.save(state, 64, _meta(4))
        assert checkpoints.steps(path / "checkpoints") == [2, 4]
    assert "--restore_step=2 was followed by an earlier start" in caplog.text
    with _reopen(path) as checkpointer:  # without the flag it is forgotten
        assert checkpointer.restore(abstract).position == 64
    with _reopen(path) as checkpointer:
        assert checkpointer.restore(abstract, 2).position == 32
    aside = path / "checkpoints-abandoned"
    assert sorted(folder.name for folder in aside.iterdir()) == ["4", "4-2"]
    assert _advance(checkpoints.read(aside / "4", abstract).state, 4, 7)[1] == losses


def test_a_run_does_not_go_back_to_what_is_damaged(saved) -> None:
    path, _ = saved
    (path / "checkpoints" / "2" / "data" / "metadata").write_text("{}")
    with (
        pytest.raises(CheckpointError, match=r"--restore_step=2: .*cannot be read"),
        _reopen(path) as checkpointer,
    ):
        checkpointer.restore(_abstract(miniature.make_state(OPTIMIZER)), 2)
    assert checkpoints.steps(path / "checkpoints") == [2, 4]


@pytest.mark.parametrize("name", ["04", "٤", "4²", "-4", "4.0", "4-2"])
def test_names_that_are_no_steps_are_not_taken_for_them(tmp_path, name) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / "10").mkdir()
    assert checkpoints.steps(tmp_path) == [10]


def test_nothing_readable_is_a_sentence_at_every_start(saved) -> None:
    path, _ = saved
    for file in (path / "checkpoints").rglob("manifest.ocdbt"):
        file.write_bytes(b"")
    for _ in range(2):
        with pytest.raises(CheckpointError, match="none of the 2 checkpoints in"):
            _restore(path)
        assert checkpoints.steps(path / "checkpoints") == [2, 4]
    with pytest.raises(CheckpointError, match="no readable checkpoint"):
        checkpoints.restore_params(path)
    with pytest.raises(CheckpointError, match="no readable checkpoint"):
        checkpoints.parameter_shapes(path)


def test_nothing_begins_anew_beside_what_was_set_aside(saved) -> None:
    path, _ = saved
    (path / "checkpoints").rename(path / "checkpoints-damaged")
    sentence = "there is no checkpoint in .*Move a good one back, or remove that folder"
    with pytest.raises(CheckpointError, match=sentence):
        _restore(path)
    shutil.rmtree(path / "checkpoints-damaged")
    assert _restore(path) is None


def test_a_failure_of_the_file_system_is_no_damage(saved, monkeypatch, caplog) -> None:
    path, _ = saved
    errors: list[Exception] = []
    restore = ocp.StandardCheckpointHandler.restore

    def failing(*arguments, **named):
        if errors:
            raise errors.pop()
        return restore(*arguments, **named)

    monkeypatch.setattr(ocp.StandardCheckpointHandler, "restore", failing)
    stale = OSError(errno.ESTALE, os.strerror(errno.ESTALE))
    errors += [stale]
    restored = _restore(path)
    assert restored is not None
    assert restored.position == 64
    assert "Stale file handle); it is tried once more" in caplog.text
    errors += [ValueError("ABORTED: as TensorStore says it"), stale]
    with pytest.raises(CheckpointError, match=r"checkpoints/4 could not be read \(OSE"):
        _restore(path)
    assert checkpoints.steps(path / "checkpoints") == [2, 4]
    assert not (path / "checkpoints-damaged").exists()


def test_a_failure_that_tensorstore_meets_is_no_damage(saved) -> None:
    path, _ = saved
    for file in _files(path):
        if "/d/" in str(file):
            file.unlink()
            file.symlink_to(file.name)  # "too many levels of symbolic links"
    with pytest.raises(CheckpointError, match=r"checkpoints/4 could not be read"):
        _restore(path)
    with pytest.raises(CheckpointError, match=r"checkpoints/4 could not be read"):
        checkpoints.restore_params(path)
    assert checkpoints.steps(path / "checkpoints") == [2, 4]


@pytest.mark.parametrize(
    ("other", "sentence"),
    [((0, 1), "another process could not read"), ((0, 0), "none of the 2 checkpoints")],
)
def test_another_process_cannot_read(saved, monkeypatch, other, sentence) -> None:
    """It decides for all, though this one can read."""
    path, _ = saved

    def gather(values):
        return np.asarray([values, other if len(values) == 2 else values])

    monkeypatch.setattr(processes, "gather", gather)
    with pytest.raises(CheckpointError, match=sentence):
        _restore(path)
    assert checkpoints.steps(path / "checkpoints") == [2, 4]


def test_what_another_process_does_not_see_is_set_aside(saved, monkeypatch) -> None:
    """Or this one would save step 4 no more, and the other wait for it."""
    path, _ = saved

    def gather(values):
        other = [2, *[-1] * (len(values) - 1)] if len(values) > 2 else values
        return np.asarray([values, other])

    with monkeypatch.context() as patch:
        patch.setattr(processes, "gather", gather)
        restored = _restore(path)
    assert restored is not None
    assert restored.position == 32
    assert checkpoints.steps(path / "checkpoints") == [2]
    assert (path / "checkpoints-damaged" / "4").is_dir()
    state, _ = _advance(restored.state, 2, 4)

    # One that is listed all the same is not taken for saved by one process alone.
    (path / "checkpoints-damaged" / "4").rename(path / "checkpoints" / "4")
    monkeypatch.setattr(processes, "gather", lambda values: np.asarray([values, [0]]))
    with (
        pytest.raises(CheckpointError, match="Checkpoint for step 4 already exists"),
        _reopen(path) as checkpointer,
    ):
        checkpointer.save(state, 64, _meta(4))


@pytest.mark.parametrize("own", [[2, 4], []])
def test_a_directory_that_is_not_shared_is_a_sentence(
    saved, monkeypatch, tmp_path, own
) -> None:
    """Nothing begins anew, in whatever process the checkpoints are."""
    path = saved[0] if own else tmp_path / "elsewhere"

    def gather(values):
        if len(values) == 1:  # whether it is new
            return np.asarray([values, [int(bool(own))]])
        other = [-1] * len(values) if own else [2, *values[1:]]
        return np.asarray([values, other])

    monkeypatch.setattr(processes, "gather", gather)
    with pytest.raises(CheckpointError, match="processes see different checkpoints"):
        _restore(path)
    assert checkpoints.steps(path / "checkpoints") == own


def test_another_config_is_a_sentence_and_harms_nothing(saved) -> None:
    path, _ = saved
    fresh = miniature.make_state(OPTIMIZER)
    params = fresh.params | {"first": {"kernel": jnp.zeros((16, 8))}}
    other = states.TrainState(**{**vars(fresh), "params": params})
    checkpointer = _reopen(path)
    with pytest.raises(CheckpointError, match=r"'params/first/kernel' is \[16, 16\]"):
        checkpointer.restore(_abstract(other))
    checkpointer.close()
    assert checkpoints.steps(path / "checkpoints") == [2, 4]


def test_params_alone(saved) -> None:
    path, _ = saved
    checkpointer = _reopen(path)
    whole = checkpointer.restore(_abstract(miniature.make_state(OPTIMIZER))).state
    checkpointer.close()
    params, step = checkpoints.restore_params(path)
    assert step == 4
    jax.tree.map(np.testing.assert_array_equal, params, whole.params)
    mesh = jax.make_mesh((8,), ("fsdp",), axis_types=(AxisType.Auto,))
    rows = NamedSharding(mesh, PartitionSpec("fsdp"))
    second, _ = checkpoints.restore_params(
        path / "checkpoints", "second", {"kernel": rows}
    )
    assert second["kernel"].sharding == rows
    np.testing.assert_array_equal(second["kernel"], whole.params["second"]["kernel"])
    shapes = checkpoints.parameter_shapes(path, "second")
    assert shapes == {"kernel": (16, 16)}
    with pytest.raises(
        CheckpointError, match=r"hold no 'secnd'; did you mean 'second'"
    ):
        checkpoints.restore_params(path, "secnd")


FULL_DISK = """
import resource, sys
from pathlib import Path
import jax.numpy as jnp
import miniature
from unitoken_jax.checkpoint.manager import *
state = miniature.make_state(miniature.make_optimizer())
state = type(state)(**{**vars(state), "step": jnp.int32(5)})
checkpointer = Checkpointer(Path(sys.argv[1]), CheckpointConfig())
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
checkpointer.save(state, 5, {})
try:
    checkpointer.wait()
except CheckpointError as error:
    print(error)
"""


def test_a_full_disk_is_a_sentence(saved) -> None:
    """In a process of its own, because Orbax never recovers its writing threads."""
    path, helpers = saved[0] / "checkpoints", Path(miniature.__file__).parent
    output = subprocess.run(
        [sys.executable, "-c", FULL_DISK, path],
        env=os.environ | {"PYTHONPATH": f"{Path.cwd()}:{helpers}"},
        capture_output=True,
        text=True,
        check=False,
    ).stdout
    assert f"a checkpoint in {path} could not be written" in output
    assert "the newest complete one is 4" in output
    assert checkpoints.steps(path) == [2, 4]
