"""A stage from beginning to end: files, resuming, devices, faults."""

import copy
import dataclasses
import json
import signal
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import miniature
import numpy as np
import pytest
import tiny_unitoken
from PIL import Image

from unitoken_jax.checkpoint import reader as checkpoints
from unitoken_jax.checkpoint.manager import Checkpointer
from unitoken_jax.checkpoint.reader import CheckpointError
from unitoken_jax.config import ConfigError, plain
from unitoken_jax.models import registry
from unitoken_jax.runtime.pytree import flatten
from unitoken_jax.train import stage
from unitoken_jax.train.components import StageComponents
from unitoken_jax.train.loop import DivergedError
from unitoken_jax.train.program import make_program


def _train(
    directory: Path, batches=None, pictures=None, devices=None, system=None, **fields
):
    job = miniature.job(**fields)
    batches = batches or miniature.Batches()
    system = system or miniature.system()
    parts = StageComponents(system, batches, pictures)
    return stage.run(job, parts, directory, devices=devices)


def _rows(directory: Path) -> list[dict]:
    lines = (directory / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def _losses(directory: Path) -> dict[int, float]:
    return {row["step"]: row["loss"] for row in _rows(directory)}


def test_the_program_of_a_step_does_not_grow_with_its_layers() -> None:
    """What it takes to compile follows from its length."""
    lengths = set()
    for layers in (2, 6):
        model = copy.deepcopy(tiny_unitoken.MODEL)
        for part in ("decoder", "vision"):
            model[part] |= {"layers": layers, "remat": "minimal"}
        job = miniature.job(
            model=model,
            train={"steps": 1, "batch": tiny_unitoken.ROWS},
            optimizer={"learning_rate": 1e-3},
        )
        system = registry.build(model)
        layout = make_program(job, system, "config", None)
        with jax.set_mesh(layout.mesh):
            lowered = layout.step.lower(layout.abstract, tiny_unitoken.batch(0), {})
        lengths.add(len(lowered.as_text().splitlines()))
    assert len(lengths) == 1


EVERY = {"train": {"steps": 6, "batch": 16, "log_every": 1}}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Six steps at once, on all eight devices."""
    directory = tmp_path_factory.mktemp("whole")
    _train(directory, **EVERY)
    return directory


def test_leaves_a_complete_record(whole) -> None:
    rows = _rows(whole)
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    expected = {"time", "loss", "grad_norm", "learning_rate", "weight", "skipped"}
    expected |= {"steps_per_second", "data_wait", "memory_bytes"}
    assert expected <= rows[0].keys()
    config = json.loads((whole / "config.json").read_text())
    assert config["model"] == {"kind": "miniature", "width": miniature.WIDTH}
    environment = json.loads((whole / "environment.json").read_text())
    assert environment["packages"]["jax"] == jax.__version__
    assert environment["devices"]["count"] == 8
    log = (whole / "log.txt").read_text()
    assert "config.train.steps = 6" in log
    assert "512 trainable and 256 frozen parameters" in log
    assert list((whole / "tensorboard").iterdir())
    assert json.loads((whole / "finished.json").read_text())["steps"] == 6
    assert stage.is_finished(whole, 6)
    assert not stage.is_finished(whole, 7)


def test_stored_with_every_checkpoint(whole) -> None:
    meta = json.loads((whole / "checkpoints" / "6" / "meta" / "metadata").read_text())
    assert meta["config"]["train"]["steps"] == 6
    assert meta["environment"]["packages"]["flax"]
    assert "revision" in meta["environment"]


def test_one_device_gives_the_same_curve(whole, tmp_path) -> None:
    _train(tmp_path, devices=jax.devices()[:1], **EVERY)
    assert _losses(tmp_path) == pytest.approx(_losses(whole), rel=1e-5)


def test_fsdp_gives_the_same_curve(whole, tmp_path) -> None:
    outcome = _train(tmp_path, mesh={"data": 2, "fsdp": 4}, **EVERY)
    kernel = outcome.state.params["first"]["kernel"]
    assert kernel.sharding.spec == jax.sharding.PartitionSpec("fsdp", None)
    assert _losses(tmp_path) == pytest.approx(_losses(whole), rel=1e-5)


class Terminated(miniature.Batches):
    """Sends SIGTERM to this process with a batch."""

    def __init__(self, number: int = 2) -> None:
        super().__init__()
        self._number = number

    def __next__(self):
        if self.index == self._number:
            signal.raise_signal(signal.SIGTERM)
        return super().__next__()


def test_preemption_saves_and_resumes_bit_equal(whole, tmp_path, caplog) -> None:
    before = signal.getsignal(signal.SIGTERM)
    outcome = _train(tmp_path, Terminated(), **EVERY)
    assert outcome.preempted == "SIGTERM"
    assert checkpoints.steps(tmp_path / "checkpoints") == [3]
    assert not stage.is_finished(tmp_path, 6)
    assert signal.getsignal(signal.SIGTERM) is before

    log = tmp_path / "log.txt"
    outcome = _train(tmp_path, **EVERY)
    assert outcome.preempted is None
    assert "resuming at step 3 of 6" in log.read_text()
    assert _losses(tmp_path) == _losses(whole)
    left, _ = checkpoints.restore_params(tmp_path)
    right, _ = checkpoints.restore_params(whole)
    jax.tree.map(np.testing.assert_array_equal, left, right)


def test_a_signal_at_the_last_step_is_not_forgotten(tmp_path) -> None:
    outcome = _train(tmp_path, Terminated(5), **EVERY)
    assert (outcome.complete, outcome.preempted) == (True, "SIGTERM")
    assert stage.is_finished(tmp_path, 6)


def test_a_signal_while_the_last_step_is_written_is_not_forgotten(
    tmp_path, monkeypatch
) -> None:
    wait = Checkpointer.wait

    def interrupted(self) -> None:
        signal.raise_signal(signal.SIGTERM)
        wait(self)

    monkeypatch.setattr(Checkpointer, "wait", interrupted)
    outcome = _train(tmp_path, **EVERY)
    assert (outcome.complete, outcome.preempted) == (True, "SIGTERM")
    assert stage.is_finished(tmp_path, 6)


def test_changes_of_the_config_are_reported_on_resume(tmp_path) -> None:
    _train(tmp_path, Terminated(), **EVERY)
    _train(tmp_path, **EVERY, guard={"limit": 5})
    log = (tmp_path / "log.txt").read_text()
    assert "WARNING changed since the checkpoint: guard.limit = 5" in log
    assert log.count("changed since") == 1


def test_another_stream_is_reported_on_resume(tmp_path) -> None:
    _train(tmp_path, Terminated(), **EVERY)
    log = tmp_path / "log.txt"
    sentence = "WARNING the data has other samples than at the checkpoint"
    _train(tmp_path, Terminated(4), **EVERY)
    assert sentence not in log.read_text()
    other = Terminated(5)
    other.digest = "fedcba9876543210"
    _train(tmp_path, other, **EVERY)
    assert sentence in log.read_text()


def make_old(folder: Path) -> None:
    """Make a checkpoint one of before it had digests, samples and a stream."""
    (folder / "digests.json").unlink()
    position = folder / "data" / "metadata"
    position.write_text(json.dumps({"position": int(folder.name)}))
    path = folder / "meta" / "metadata"
    meta = json.loads(path.read_text())
    assert meta.pop("stream") == miniature.Batches.digest
    path.write_text(json.dumps(meta))


def test_an_older_checkpoint_resumes(whole, tmp_path) -> None:
    _train(tmp_path, Terminated(), **EVERY)
    make_old(tmp_path / "checkpoints" / "3")
    assert _train(tmp_path, **EVERY).complete
    assert _losses(tmp_path) == _losses(whole)
    log = (tmp_path / "log.txt").read_text()
    assert "resuming at step 3 of 6, sample 48 of the data" in log
    assert "checkpoints/3 has no digests.json, like those that were written" in log
    assert "other samples" not in log


def test_another_batch_goes_on_at_the_next_sample(tmp_path) -> None:
    """The position counts samples, whatever batches they were given in."""
    _train(tmp_path, Terminated(), **EVERY)
    started = []

    class Seen(miniature.Batches):
        def __next__(self):
            started.append(self.position)
            return {k: x[:8] for k, x in super().__next__().items()}

    _train(tmp_path, Seen(), train={"steps": 4, "batch": 8, "log_every": 1})
    assert started == [48]  # none is eaten to compile for
    log = (tmp_path / "log.txt").read_text()
    assert "changed since the checkpoint: train.batch = 8" in log


def test_no_state_is_saved_that_is_not_known_to_be_good(tmp_path) -> None:
    """What falls due at a skipped step is saved after the next that is accepted."""
    saving = {"checkpoint": {"every": 2, "keep": 9}} | EVERY
    outcome = _train(tmp_path, miniature.Batches(poison=(1,)), **saving)
    assert checkpoints.steps(tmp_path / "checkpoints")[0] == 3
    assert outcome.saved == 6
    assert (
        "step 2 is not saved, as it was skipped" in (tmp_path / "log.txt").read_text()
    )


def test_a_skipped_last_step_is_judged_by_further_batches(tmp_path) -> None:
    """The state that is saved is that of before; the stream stands behind it."""
    optimizer = plain(miniature.job().optimizer) | {"schedule": "constant"}
    constant = {"optimizer": optimizer}
    train = {"batch": 16, "log_every": 1}
    _train(tmp_path / "five", **constant, train=train | {"steps": 5})
    poisoned = miniature.Batches(poison=(5,))
    _train(tmp_path / "six", poisoned, **constant, train=train | {"steps": 6})
    five, _ = checkpoints.restore_params(tmp_path / "five")
    six, step = checkpoints.restore_params(tmp_path / "six")
    assert step == 6
    jax.tree.map(np.testing.assert_array_equal, five, six)
    data = tmp_path / "six" / "checkpoints" / "6" / "data" / "metadata"
    assert json.loads(data.read_text())["samples"] == 96


def test_a_run_that_is_to_end_saves_the_next_good_state(tmp_path) -> None:
    class Poisoned(Terminated):
        def __next__(self):
            made = super().__next__()
            if self.index == 3:
                made["input"][:] = np.nan
            return made

    outcome = _train(tmp_path, Poisoned(), **EVERY)
    assert (outcome.preempted, outcome.saved) == ("SIGTERM", 4)
    assert checkpoints.steps(tmp_path / "checkpoints") == [4]


BROKEN_AT = 4


def _breaking(value: float):
    """A system whose update of one step leaves parameters of a value."""

    def settle(params, metrics):
        is_bad = metrics["number"] == BROKEN_AT
        kernel = params["first"]["kernel"]
        kernel = jnp.where(is_bad, jnp.full_like(kernel, value), kernel)
        params = params | {"first": {"kernel": kernel}}
        return params, metrics

    def loss(params, batch, key):
        value, metrics = miniature.loss(params, batch, key)
        # Values of this size are as good as none.
        value += jnp.where(jnp.abs(params["first"]["kernel"]).max() > 1e30, jnp.nan, 0)
        return value, metrics | {"number": batch["number"][0].astype(jnp.float32)}

    return dataclasses.replace(miniature.system(), loss=loss, post_update=settle)


class Numbered(miniature.Batches):
    """Says in each batch the number of its step; waits for what is being written."""

    def __init__(self, directory: Path) -> None:
        super().__init__()
        self._directory = directory / "checkpoints"

    @property
    def batch_spec(self):
        return super().batch_spec | {"number": ((miniature.ROWS,), np.int32)}

    def __next__(self):
        deadline = time.monotonic() + 60
        while any("tmp" in path.name for path in self._directory.iterdir()):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        number = np.full(miniature.ROWS, self.index + 1, np.int32)
        return super().__next__() | {"number": number}


@pytest.mark.parametrize("value", [np.nan, 1e32], ids=["not finite", "of no use"])
def test_an_update_that_breaks_the_parameters_costs_no_good_checkpoint(
    tmp_path, value
) -> None:
    """It is accepted, as its loss was good; what it breaks shows one step later."""
    fields = {
        "train": {"steps": 40, "batch": 16, "log_every": 1},
        "checkpoint": {"every": 2, "keep": 1},
        "guard": {"limit": 3},
    }
    with pytest.raises(DivergedError, match="--stage=run --restore_step=2 goes back"):
        _train(tmp_path, Numbered(tmp_path), system=_breaking(value), **fields)
    kept = [2] if np.isnan(value) else [2, 4]
    assert checkpoints.steps(tmp_path / "checkpoints") == kept
    if len(kept) > 1:  # nor does another start save anything, or lose the good one
        with pytest.raises(DivergedError, match="--restore_step=2 goes back"):
            _train(tmp_path, Numbered(tmp_path), system=_breaking(value), **fields)
        assert checkpoints.steps(tmp_path / "checkpoints") == kept
    job = miniature.job(**fields | {"train": {"steps": 5, "batch": 16}})
    for _ in range(2):  # whoever repeats the command goes on, and not back again
        parts = StageComponents(miniature.system(), miniature.Batches())
        stage.run(job, parts, tmp_path, restore_step=2)
    assert checkpoints.steps(tmp_path / "checkpoints") == [4, 5]
    moved = [4] if len(kept) > 1 else []
    assert checkpoints.steps(tmp_path / "checkpoints-abandoned") == moved
    assert stage.is_finished(tmp_path, 5)


def test_a_stage_whose_remaining_steps_were_skipped_is_not_complete(tmp_path) -> None:
    _train(tmp_path, Terminated(), **EVERY)
    poisoned = miniature.Batches(poison=(3, 4, 5))
    sentence = "each of the steps 4 to 6 was skipped, so that nothing was learned"
    with pytest.raises(DivergedError, match=sentence):
        _train(tmp_path, poisoned, **EVERY)
    assert checkpoints.steps(tmp_path / "checkpoints") == [3]
    assert not stage.is_finished(tmp_path, 6)


def test_fewer_steps_than_were_trained_are_refused(tmp_path) -> None:
    _train(tmp_path, **EVERY)
    (tmp_path / "finished.json").unlink()
    config = (tmp_path / "config.json").read_text()
    sentence = r"config\.train\.steps: 4, but the checkpoint in .* is of step 6; set it"
    with pytest.raises(ConfigError, match=sentence):
        _train(tmp_path, train={"steps": 4, "batch": 16})
    assert not (tmp_path / "finished.json").exists()
    assert (tmp_path / "config.json").read_text() == config


def test_a_stage_killed_before_it_was_marked_complete(tmp_path) -> None:
    _train(tmp_path, **EVERY)
    mark = tmp_path / "finished.json"
    before = json.loads(mark.read_text())
    mark.unlink()
    outcome = _train(tmp_path, **EVERY)
    assert (outcome.complete, int(outcome.state.step)) == (True, 6)
    assert json.loads(mark.read_text())["metrics"] == before["metrics"]
    assert len(_rows(tmp_path)) == 6


def test_a_refused_resume_leaves_the_record_of_the_run(tmp_path) -> None:
    _train(tmp_path, **EVERY)
    names = ("config.json", "environment.json")
    before = [(tmp_path / name).read_text() for name in names]
    with pytest.raises(CheckpointError, match="was made with another config"):
        _train(
            tmp_path,
            system=miniature.system(miniature.NetworkConfig(8)),
            **EVERY,
            seed=3,
        )
    assert [(tmp_path / name).read_text() for name in names] == before


def test_diverging_ends_with_the_ids_of_the_records(tmp_path) -> None:
    batches = miniature.Batches(poison=(1, 2, 3, 4))
    with pytest.raises(DivergedError) as caught:
        _train(tmp_path, batches, guard={"limit": 3})
    sentence = str(caught.value)
    assert "stage 'run': 3 steps in a row were skipped" in sentence
    assert "at step 4: loss nan" in sentence
    assert "records: record-3, record-4" in sentence
    log = (tmp_path / "log.txt").read_text()
    assert "step 2 skipped (loss nan" in log
    assert "Traceback" in log
    assert not (tmp_path / "finished.json").exists()


def test_a_skipped_step_is_counted_and_left_out_of_means(tmp_path) -> None:
    _train(tmp_path, miniature.Batches(poison=(3,)))
    rows = _rows(tmp_path)
    assert [row["skipped"] for row in rows] == [0, 1, 1]
    assert all(np.isfinite(row["loss"]) for row in rows)


def test_pictures_and_profile(tmp_path, monkeypatch) -> None:
    def pictures(params, batch):
        assert "record" not in batch
        assert params["first"]["kernel"].shape == (16, 16)
        return {"grid": np.full((4, 6, 3), 200, np.uint8)}

    train = {"steps": 5, "batch": 16, "image_every": 2, "log_every": 5}
    train |= {"profile_start": 2, "profile_steps": 2}

    def settle(params, metrics):  # takes longer than the host needs for a step
        factor = jnp.full((800, 800), 1e-3)
        busy = jax.lax.fori_loop(0, 20, lambda _, x: jnp.tanh(x @ x), factor)
        return params, metrics | {"busy": busy[0, 0]}

    done = []
    stop = jax.profiler.stop_trace

    def stop_trace():
        done.append(all(array.is_ready() for array in jax.live_arrays()))
        stop()

    monkeypatch.setattr(jax.profiler, "stop_trace", stop_trace)
    slow = dataclasses.replace(miniature.system(), post_update=settle)
    one = jax.devices()[:1]
    _train(tmp_path, pictures=pictures, train=train, system=slow, devices=one)
    assert done == [True]  # or the last step of the window is not in it
    names = sorted(path.name for path in (tmp_path / "samples").iterdir())
    assert names == [f"grid-000000{step}.png" for step in (2, 4, 5)]
    with Image.open(tmp_path / "samples" / names[0]) as image:
        assert (image.size, image.getpixel((0, 0))) == ((6, 4), (200, 200, 200))
    assert list((tmp_path / "profile").rglob("*.xplane.pb"))


@pytest.mark.parametrize(
    ("fields", "error", "sentence"),
    [
        ({"train": {"steps": 1, "batch": 12}}, ConfigError, "choose a multiple of 8"),
        ({"mesh": {"data": 3}}, ValueError, "needs 3 devices, there are 8"),
        (
            {"optimizer": {"learning_rate": 1.0, "groups": {"a": {"pattern": "x"}}}},
            ConfigError,
            r"config\.optimizer\.groups: 3 parameters match no group",
        ),
    ],
)
def test_faults_are_sentences(tmp_path, fields, error, sentence) -> None:
    with pytest.raises(error, match=sentence):
        _train(tmp_path, **fields)


def test_starts_from_parts_of_another_stage(whole, tmp_path, caplog) -> None:
    job = miniature.job(train={"steps": 1, "batch": 16})
    parts = StageComponents(miniature.system(), miniature.Batches())
    fitting = {"still": (whole, "first")}
    outcome = stage.run(job, parts, tmp_path / "good", sources=fitting)
    theirs, _ = checkpoints.restore_params(whole, "first")
    np.testing.assert_array_equal(
        outcome.state.params["still"]["kernel"], theirs["kernel"]
    )
    log = (tmp_path / "good" / "log.txt").read_text()
    assert "still: 1 arrays, 256 parameters, from first of" in log
    assert "fresh: first, second" in log
    parts.batches.position = 0
    with pytest.raises(CheckpointError, match="has no such part; did you mean 'still'"):
        stage.run(job, parts, tmp_path / "bad", sources={"stil": (whole, "first")})


def test_starts_from_all_of_another_stage(whole, tmp_path) -> None:
    job = miniature.job(train={"steps": 1, "batch": 16})
    state = make_program(job, miniature.system(), "config", None).init_state(
        {"all": (whole, "")}
    )
    theirs, _ = checkpoints.restore_params(whole)
    expected = flatten(theirs)
    assert expected.keys() == flatten(state.params).keys()
    for path, value in flatten(state.params).items():
        np.testing.assert_array_equal(value, expected[path])


def test_a_single_parameter_is_no_part(whole) -> None:
    program = make_program(miniature.job(), miniature.system(), "config", None)
    with pytest.raises(CheckpointError, match=r"single parameter.*init\.all"):
        program.init_state({"still/kernel": (whole, "still")})


@pytest.mark.parametrize("subtree", ["first", "still"])
def test_the_average_starts_from_parts_of_another_stage(whole, subtree) -> None:
    """Of a frozen part it would else stay the random start for long."""
    train = {"steps": 1, "batch": 16, "ema": 0.99}
    job = miniature.job(train=train, mesh={"data": 4, "fsdp": 2}, seed=1)
    layout = make_program(job, miniature.system(), "config", None)
    state = layout.init_state({subtree: (whole, subtree)})
    theirs, _ = checkpoints.restore_params(whole, subtree)
    averages = flatten(state.ema)
    np.testing.assert_array_equal(averages[f"{subtree}/kernel"], theirs["kernel"])
    for path, value in flatten(state.params).items():
        np.testing.assert_array_equal(averages[path], value)
        places = flatten(layout.shardings.ema)
        assert averages[path].sharding.is_equivalent_to(places[path], value.ndim)
        # A step gives up the buffers of both.
        ours, own = (x.addressable_shards[0].data for x in (value, averages[path]))
        assert ours.unsafe_buffer_pointer() != own.unsafe_buffer_pointer()
