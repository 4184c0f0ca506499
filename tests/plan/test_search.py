"""A search over settings: greedy, resumable, with faults in its table."""

import dataclasses
import importlib
import math
import subprocess
import sys
from pathlib import Path

import pytest

from unitoken_jax.config import UserError
from unitoken_jax.parallel import topology
from unitoken_jax.plan import search
from unitoken_jax.plan.search import Trial
from unitoken_jax.train.experiment import build_experiment

SPACE = {
    "remat": [{"remat": "full"}, {"remat": "none"}, {"remat": "minimal"}],
    "block": [{"block": 512}, {"block": 1024}],
}
TIMES = {"full": 3.0, "minimal": 2.0}


def attempt(setting) -> Trial:
    remat = setting.get("remat", "full")
    if remat == "none":
        return Trial(setting, math.inf, fault="does not fit")
    seconds = TIMES[remat] - setting.get("block", 0) / 1024 / 10
    return Trial(setting, seconds, peak=2.0**30)


def test_keeps_the_best_of_each_axis_and_writes_down_all(tmp_path):
    trials = search.search(SPACE, attempt, tmp_path / "trials.jsonl")
    best = min(trials, key=lambda each: each.seconds)
    assert best.setting == {"remat": "minimal", "block": 1024}
    assert len(trials) == 6
    assert search.read(tmp_path / "trials.jsonl") == trials
    lines = [search.describe(each) for each in trials]
    assert "as configured: 3.000 s, 1.0 GiB" in lines
    assert "remat=none: does not fit" in lines
    assert "remat=minimal block=1024: 1.900 s, 1.0 GiB" in lines


def test_goes_on_where_it_was(tmp_path):
    journal = tmp_path / "trials.jsonl"
    calls = []

    def interrupted(setting) -> Trial:
        if len(calls) == 2:
            raise KeyboardInterrupt
        calls.append(setting)
        return attempt(setting)

    with pytest.raises(KeyboardInterrupt):
        search.search(SPACE, interrupted, journal)
    again = []
    trials = search.search(SPACE, lambda s: again.append(s) or attempt(s), journal)
    assert len(trials) == 6
    assert len(again) == 4


def test_a_killed_search_repeats_the_trial_it_was_writing(tmp_path):
    journal = tmp_path / "trials.jsonl"
    search.search(SPACE, attempt, journal)
    lines = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join(lines[:-1]) + lines[-1][:9])
    again = []
    trials = search.search(SPACE, lambda s: again.append(s) or attempt(s), journal)
    assert len(again) == 1
    assert search.read(journal) == trials
    assert len(trials) == 6


def test_a_journal_is_that_of_one_command(tmp_path):
    journal = tmp_path / "trials.jsonl"
    search.search(SPACE, attempt, journal, command=["--topology=v5e:16x16"])
    with pytest.raises(UserError, match=r"another command .*v5e:16x16"):
        search.search(SPACE, attempt, journal, command=["--topology=v5p:4x4x4"])
    journal.write_text("a story\n")
    with pytest.raises(UserError, match="no journal"):
        search.read(journal)


def test_a_journal_is_that_of_one_config_and_compiler(tmp_path, monkeypatch):
    monkeypatch.setattr(search.importlib.metadata, "version", lambda _: "1")
    journal = tmp_path / "trials.jsonl"
    first = search.fingerprint({"a": 1})
    trials = search.search(SPACE, attempt, journal, searched=first)
    again = search.search(
        SPACE, attempt, journal, searched=search.fingerprint({"a": 1})
    )
    assert again == trials
    with pytest.raises(UserError, match="of another config, and"):
        search.search({}, attempt, journal, searched=search.fingerprint({"a": 2}))
    monkeypatch.setattr(search.importlib.metadata, "version", lambda _: "2")
    with pytest.raises(UserError, match="of another jax, libtpu, and"):
        search.search({}, attempt, journal, searched=search.fingerprint({"a": 1}))


def test_a_journal_without_a_config_is_refused(tmp_path):
    journal = tmp_path / "trials.jsonl"
    search.search({}, attempt, journal)
    with pytest.raises(UserError, match="of another config, and"):
        search.search({}, attempt, journal, searched={"config": "0"})


def test_the_config_stands_until_something_is_faster(tmp_path):
    def slower(setting) -> Trial:
        return Trial(setting, 1.0 + len(setting))

    trials = search.search(SPACE, slower, tmp_path / "trials.jsonl")
    assert min(trials, key=lambda each: each.seconds).setting == {}
    assert {"block": 512} in [each.setting for each in trials]


def test_a_trial_that_had_too_little_time_runs_again_with_more(tmp_path):
    calls = []

    def timed(limit):
        def attempt(setting) -> Trial:
            calls.append(limit)
            if limit < 100:
                return Trial(setting, math.inf, fault="not within", given_up=limit)
            return Trial(setting, 1.0)

        return attempt

    journal = tmp_path / "trials.jsonl"
    for limit in (50, 50, 200, 300):
        search.search({}, timed(limit), journal, limit=limit)
    assert calls == [50, 200]


def test_what_says_nothing_of_a_setting_runs_again(tmp_path):
    faults = {
        "error: compiling for a TPU needs libtpu, which is not installed": True,
        "killed by signal 9 (Killed): no message": True,
        "killed by signal 6 (Aborted): F1128 check failed": False,
        "error: the step of 17 GiB does not fit the 16 GiB of a v5e chip": False,
        "error: the compiler refuses the step: INTERNAL: x": False,
    }
    for number, (fault, again) in enumerate(faults.items()):
        journal = tmp_path / f"{number}.jsonl"
        search.search({}, lambda s, f=fault: Trial(s, math.inf, fault=f), journal)
        trials = search.search({}, lambda s: Trial(s, 1.0), journal)
        assert math.isfinite(trials[0].seconds) == again
        assert search.read(journal) == trials


@pytest.mark.skipif(topology.is_available(), reason="libtpu is installed")
def test_without_libtpu_nothing_is_tried(tmp_path):
    journal = tmp_path / "trials.jsonl"
    ended = subprocess.run(
        [
            *(sys.executable, "-m", "unitoken_jax.plan", f"--search={journal}"),
            *("--config=configs/llama_2_7b.py", "--topology=v5p:4x4x4"),
        ],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "pip install -r requirements-plan.txt" in ended.stderr
    assert not journal.exists()


def test_without_a_time_the_first_fault_is_named():
    lost = Trial({}, math.inf, fault="needs libtpu")
    with pytest.raises(UserError, match=r"could be compiled; the first: needs libtpu"):
        search.fastest([lost, Trial({"block": 1}, math.inf, fault="another")])
    with pytest.raises(UserError, match="none of these settings fits"):
        search.fastest([lost, Trial({"block": 1}, math.inf, fault="does not fit")])


def test_what_the_config_has_is_not_tried_again(tmp_path):
    calls = []

    def counted(setting) -> Trial:
        calls.append(dict(setting))
        return attempt({"remat": "minimal", "block": 512, **setting})

    own = {"remat": "minimal", "block": 512}
    trials = search.search(SPACE, counted, tmp_path / "trials.jsonl", own=own)
    assert calls == [{}, {"remat": "full"}, {"remat": "none"}, {"block": 1024}]
    assert len(trials) == 4


def test_what_does_not_fit_is_tried_with_less_to_keep(tmp_path):
    """The large mesh is the fastest, but only with what the second axis finds."""

    def sizes(setting) -> Trial:
        remat = setting.get("model.decoder.remat", "minimal")
        if setting.get("mesh") == "large" and remat == "minimal":
            return Trial(setting, math.inf, fault="the step of 17 GiB does not fit")
        seconds = {"full": 3.0, "attention": 2.0, "minimal": 1.0}[remat]
        return Trial(setting, seconds + (0.0 if setting.get("mesh") else 4.0))

    space = {
        "mesh": [{"mesh": "large"}],
        "remat": [{"model.decoder.remat": name} for name in ("attention", "minimal")],
    }
    lean = {"model.decoder.remat": "full"}
    trials = search.search(space, sizes, tmp_path / "trials.jsonl", lean=lean)
    best = min(trials, key=lambda each: each.seconds)
    assert best.setting == {"mesh": "large", "model.decoder.remat": "attention"}
    assert len(trials) == 5


def test_a_command_that_fails_is_a_trial():
    trial = search.in_process(["--config=/nowhere.py"], timeout=60)({"seed": 1})
    assert math.isinf(trial.seconds)
    assert "nowhere" in trial.fault


def test_a_command_that_is_killed_says_by_what():
    stack = "W0101 a warning\nF0101 Check failed: x\n    @ 0x1 main\n"
    fault = "killed by signal 6 (Aborted): F0101 Check failed: x"
    assert search._fault(-6, stack) == fault
    assert search._fault(-9, "") == "killed by signal 9 (Killed): no message"
    assert search._fault(1, "more\nerror: a sentence\n") == "error: a sentence"


def test_meshes_share_the_rows_equally():
    from configs import unitoken_7b_anyres_stage2

    (job,) = build_experiment(unitoken_7b_anyres_stage2.get_config()).stages.values()
    lean = {"model.decoder.remat": "full", "model.vision.remat": "full"}
    assert search.leanest(job) == lean
    own = search.current(job, search.axes(job, topology.parse("v5p:4x4x4")))
    assert own["model.decoder.remat"] == "minimal"
    assert (own["mesh.data"], own["mesh.fsdp"]) == (4, 16)
    space = search.axes(job, topology.parse("v5e:16x16"))
    meshes = [tuple(each.values()) for each in space["mesh"]]
    assert (1, 1, 64, 4, 1) in meshes  # 64 rows
    assert (1, 1, 64, 1, 4) in meshes
    assert all(64 % (sizes[0] * sizes[2]) == 0 for sizes in meshes)
    assert {"decoder_remat", "vision_remat", "block", "options"} <= space.keys()


@pytest.mark.parametrize(
    ("name", "changes", "counts"),
    [
        ("unitoken_7b_anyres_stage2", {}, [1, 2, 4]),
        ("unitok_vitamin_l", {}, [1]),
        ("unitok_vitamin_l", {"discriminator": None}, [1]),
        ("unitok_vitamin_l", {"discriminator": None, "contrasts": False}, [1, 2, 4]),
        ("unitok_vitamin_l", {"contrasts": False}, [1]),
    ],
)
def test_microbatches_are_tried_where_they_change_nothing(name, changes, counts):
    config = importlib.import_module(f"configs.{name}").get_config()
    (job,) = build_experiment(config).stages.values()
    if not changes.pop("contrasts", True):
        objective = dataclasses.replace(
            job.model.objective, supervision="reconstruction"
        )
        changes["model"] = dataclasses.replace(job.model, objective=objective)
    space = search.axes(
        dataclasses.replace(job, **changes), topology.parse("v5p:4x4x4")
    )
    assert [each["train.microbatches"] for each in space["microbatches"]] == counts
