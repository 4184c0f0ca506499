"""What the points of a sweep share, and what is left for each."""

import json

import pytest
from example_sweep import write

from launch.sweep import experiment, tasks
from launch.sweep.config import points
from unitoken_jax.config import ConfigError


def test_common_stages_are_tasks_of_their_own(tmp_path) -> None:
    plan = tasks.plan(points(write(tmp_path)), tmp_path / "s")
    shared = [task for task in plan if task.point is None]
    assert [task.name.split("-")[0] for task in shared] == ["tokenizer", "base"]
    first, second = shared
    assert second.needs == (first.name,)
    assert second.links[second.workdir / "tokenizer"] == first.workdir / "tokenizer"
    assert second.codes == second.links[second.workdir / "codes"]
    runs = [task for task in plan if task.point is not None]
    assert len(runs) == 4
    for run in runs:
        assert run.needs == (first.name, second.name)
        assert run.codes == second.codes
        assert set(run.links) == {
            run.workdir / name for name in ("tokenizer", "base", "codes")
        }
        assert not any(word.startswith("--stage") for word in run.arguments)


def test_only_what_chosen_points_need(tmp_path) -> None:
    sweep = write(tmp_path)
    everything = points(sweep)
    plan = tasks.plan(everything, tmp_path, points(sweep, ["rate=low", "seed=1"]))
    assert [task.name.split("-")[0] for task in plan][:2] == ["tokenizer", "base"]
    assert [task.name for task in plan][2:] == ["low_seed1"]
    # The directory is that of the whole sweep.
    same = [t for t in tasks.plan(everything, tmp_path) if t.name == "low_seed1"]
    assert same == plan[2:]


def test_stages_differ_if_what_they_start_from_does(tmp_path) -> None:
    write(tmp_path)
    file = str(tmp_path / "chain.py")
    plain = experiment.read(file, []).stages
    changed = experiment.read(file, ["stages.tokenizer.train.steps=4"]).stages
    assert [a.digest == b.digest for a, b in zip(plain, changed, strict=True)] == [
        False,
        False,
        False,
    ]
    seeded = experiment.read(file, ["stages.base.seed=7"]).stages
    assert [a.digest == b.digest for a, b in zip(plain, seeded, strict=True)] == [
        True,
        False,
        False,
    ]
    worded = experiment.read(f"{file}:other", [])
    assert worded.digest != experiment.read(file, []).digest


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("(1, 'a')", (1, "a")),
        ("None", None),
        ("a:b", "a:b"),
        ("false", False),
    ],
)
def test_values_are_those_of_the_command_line(tmp_path, text, value) -> None:
    write(tmp_path)
    fields = [f"stages.last.new.deep={text}"]
    (*_, last) = experiment.read(str(tmp_path / "chain.py"), fields).stages
    assert last.job["new"]["deep"] == value


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        (["stages.last.seed"], "does not set a field"),
        (["stages.last.seed.a=1"], "seed is a value"),
        (["order=('lats',)"], "no stage 'lats'; did you mean 'last'"),
        (["order=('last',)"], "starts from 'base' before it"),
    ],
)
def test_fields_that_cannot_be_set(tmp_path, fields, sentence) -> None:
    write(tmp_path)
    with pytest.raises(ConfigError, match=sentence):
        experiment.read(str(tmp_path / "chain.py"), fields)


def test_a_missing_file(tmp_path) -> None:
    write(tmp_path)
    with pytest.raises(ConfigError, match=r"did you mean .*chain\.py"):
        experiment.read(str(tmp_path / "chian.py"), [])


def test_a_single_job_shares_nothing(tmp_path) -> None:
    (tmp_path / "job.py").write_text(
        "from ml_collections import ConfigDict\n"
        "def get_config():\n"
        "    return ConfigDict(dict(name='j', model={'kind': 'k'}, rate=1.0,\n"
        "                           train={'steps': 2}))\n"
    )
    axis = {"name": "a", "values": ({"label": "x", "set": ("rate=2",)}, {"label": "y"})}
    changes = {"seeds": (0,), "seed_fields": (), "config": str(tmp_path / "job.py")}
    plan = tasks.plan(points(write(tmp_path, axes=(axis,), **changes)), tmp_path)
    assert [task.name for task in plan] == ["x_seed0", "y_seed0"]
    assert all(task.stages == {"j": 2} and not task.needs for task in plan)


def finish(run, name: str, complete: dict) -> None:
    (run / name).mkdir(parents=True)
    (run / name / "finished.json").write_text('{"steps": 3}')
    (run / name / "config.json").write_text(json.dumps(complete))


def test_equal_stages_of_an_earlier_run_are_taken(tmp_path) -> None:
    chosen = points(write(tmp_path))
    plan = tasks.plan(chosen, tmp_path / "s")
    job = {"name": "x", "seed": 0, "model": {"kind": "plain", "width": 8}, "new": 1}
    complete = job | {"train": {"steps": 3, "batch": 2}}
    finish(tmp_path / "run", "tokenizer", complete)
    finish(tmp_path / "run", "base", complete | {"seed": 1})
    # To look does nothing.
    found = tasks.equal_stages(plan, chosen, tmp_path / "run")
    assert found == {plan[0].name: "tokenizer"}
    assert not plan[0].is_done()
    taken = tasks.adopt(plan, chosen, tmp_path / "run")
    assert taken == [plan[0].name]  # base was trained with another seed
    assert plan[0].is_done()
    assert not plan[1].is_done()
    finish(tmp_path / "two", "tokenizer", complete)
    finish(tmp_path / "two", "base", complete | {"codes": {"stage": "tokenizer"}})
    assert tasks.adopt(plan, chosen, tmp_path / "two") == [plan[1].name]
    assert tasks.adopt(plan, chosen, tmp_path / "two") == []


def test_a_run_without_a_page_is_done_when_its_stages_are(tmp_path) -> None:
    chosen = points(write(tmp_path))
    quiet = points(write(tmp_path, set=("finish=False",)))
    for run, done in ((chosen, False), (quiet, True)):
        task = tasks.plan(run, tmp_path / "s")[-1]
        for name in task.stages:
            finish(task.workdir, name, {})
        assert task.is_done() == done
