"""What the points of a sweep share, and what is left for each."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from example_sweep import write
from hypothesis import example, given, settings
from hypothesis import strategies as st

from launch.sweep import experiment, tasks
from launch.sweep.config import points
from unitoken_jax.config import ConfigError

ROOT = Path(__file__).parents[3]


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


COMMAND_LINE = """
import json
from absl import flags
from unitoken_jax import config

def main():
    print(json.dumps(flags.FLAGS.config))

config.define_flag()
config.run(main)
"""
TEXTS = [
    *("'quoted'", '"twice"', "None", "True", "true", "false", "none", "1e5", "1e-4"),
    *(
        "007",
        "1_000",
        "0x10",
        "-1",
        "+1",
        ".5",
        "1.",
        "nan",
        "inf",
        "1j",
        "",
        " ",
        " 1",
    ),
    *(
        "(1, 'a')",
        "1,",
        "[1, 2]",
        "{'a': 1}",
        "{}",
        "()",
        "a:b",
        "a=b",
        "--x",
        "-",
        "é",
    ),
    *("\u2028", "a\nb", "'", "(", "b'x'", "{1}", "...", "f(1)", "10 ** 3", "#", "\\n"),
]


def read_both(folder, fields: list[str]) -> tuple[object, object]:
    """A config with fields set by the sweep and by the command line; or the fault."""
    write(folder)
    file = str(folder / "chain.py")
    done = subprocess.run(
        [
            *(sys.executable, "-c", COMMAND_LINE, f"--config={file}"),
            *(f"--config.{field}" for field in fields),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    try:
        found = json.loads(json.dumps(experiment.evaluate(file, fields)))
    except ConfigError:
        found = None
    return found, json.loads(done.stdout) if done.returncode == 0 else None


@settings(max_examples=2, deadline=None)
@given(
    texts=st.lists(
        st.text(st.characters(exclude_characters="\0", codec="utf-8")), max_size=200
    )
)
@example(texts=TEXTS)
def test_values_are_those_of_the_command_line(texts) -> None:
    """Of fields that hold a text, a number or a group, or are not there."""
    fields = [f"stages.last.new{n}={text}" for n, text in enumerate(texts)]
    fields += [f"{name}={text}" for text in texts for name in ("name", "stages.a.rate")]
    with tempfile.TemporaryDirectory() as place:
        sweep, line = read_both(Path(place), fields)
    assert line == sweep


@pytest.mark.parametrize("text", ["None", "{}", "{'kind': 'a'}", "1", "a", "(1,)"])
def test_groups_are_set_as_by_the_command_line(tmp_path, text) -> None:
    sweep, line = read_both(tmp_path, [f"stages.last.model={text}"])
    assert line == sweep
    assert (sweep is None) == (text in ("1", "a", "(1,)"))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("(1, 'a')", (1, "a")),
        ("'a'", "a"),
        ("None", None),
        ("a:b", "a:b"),
        ("false", False),
        ("1e5", 1e5),
        ("007", "007"),
        ("", ""),
    ],
)
def test_some_values(tmp_path, text, value) -> None:
    write(tmp_path)
    fields = [f"stages.last.new.deep={text}"]
    (*_, last) = experiment.read(str(tmp_path / "chain.py"), fields).stages
    assert last.job["new"]["deep"] == value


def test_texts_stay_as_they_are(tmp_path) -> None:
    write(tmp_path)
    node = experiment.evaluate(str(tmp_path / "chain.py"), ["name='a'", "data_dir=1"])
    assert (node["name"], node["data_dir"]) == ("'a'", "1")


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        (["stages.last.seed"], "does not set a field"),
        (["stages.last.seed.a=1"], "stages.last.seed is a value"),
        (["stages..seed=1"], "is not a path of names"),
        (["=1"], "is not a path of names"),
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


@pytest.mark.parametrize(
    ("content", "word", "sentence"),
    [
        ("X = 1", "", r"x\.py has no get_config\(\)"),
        ("def get_config(): pass", ":a", r"x\.py: get_config\('a'\) fails: "),
        ("def get_config(w):\n    raise ValueError('w is not b.')", ":a", "w is not b"),
    ],
)
def test_a_config_that_gives_none(tmp_path, content, word, sentence) -> None:
    (tmp_path / "x.py").write_text(content)
    with pytest.raises(ConfigError, match=sentence):
        experiment.read(f"{tmp_path / 'x.py'}{word}", [])


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
    found = tasks.reuse(plan, chosen, tmp_path / "run")
    assert found.taken == {plan[0].name: "tokenizer"}
    assert found.refused == {
        "base": "codes is not set and not {'stage': 'tokenizer'}, seed is 1 and not 0"
    }
    assert not plan[0].is_done()
    tasks.adopt(plan, found.taken, tmp_path / "run")
    assert plan[0].is_done()
    assert not plan[1].is_done()
    finish(tmp_path / "two", "tokenizer", complete)
    finish(tmp_path / "two", "base", complete | {"codes": {"stage": "tokenizer"}})
    found = tasks.reuse(plan, chosen, tmp_path / "two")
    assert found == tasks.Reuse({plan[1].name: "base"}, {})
    tasks.adopt(plan, found.taken, tmp_path / "two")
    assert tasks.reuse(plan, chosen, tmp_path / "two") == tasks.Reuse({}, {})


def test_why_a_complete_stage_is_not_taken(tmp_path) -> None:
    chosen = points(write(tmp_path))
    plan = tasks.plan(chosen, tmp_path / "s")
    job = {"seed": 0, "model": {"kind": "plain"}, "train": {"steps": 3}}
    run = tmp_path / "run"
    finish(run, "tokenizer", job | {"model": {"kind": "other"}})
    finish(run, "base", job | {"codes": {"stage": "tokenizer"}})
    assert tasks.reuse(plan, chosen, run).refused == {
        "tokenizer": "model.kind is 'other' and not 'plain'",
        "base": f"it starts from {plan[0].name}, which is not taken",
    }
    (run / "tokenizer" / "finished.json").write_text('{"steps": 2}')
    (run / "base" / "config.json").unlink()
    assert tasks.reuse(plan, chosen, run).refused == {
        "tokenizer": "train.steps is 2 and not 3",
        "base": "its config.json cannot be read",
    }


@pytest.mark.parametrize(
    ("name", "sentence"),
    [("none", "none is no directory"), ("s", "s holds no complete stage")],
)
def test_a_run_with_nothing_to_take(tmp_path, name, sentence) -> None:
    chosen = points(write(tmp_path))
    plan = tasks.plan(chosen, tmp_path / "s")
    (tmp_path / "s").mkdir()
    with pytest.raises(ConfigError, match=f"{sentence}: name the workdir of a run"):
        tasks.reuse(plan, chosen, tmp_path / name)


def test_a_run_without_a_page_is_done_when_its_stages_are(tmp_path) -> None:
    chosen = points(write(tmp_path))
    quiet = points(write(tmp_path, set=("finish=False",)))
    for run, done in ((chosen, False), (quiet, True)):
        task = tasks.plan(run, tmp_path / "s")[-1]
        for name in task.stages:
            finish(task.workdir, name, {})
        assert task.is_done() == done


def test_a_link_to_a_run_that_is_gone_is_replaced(tmp_path) -> None:
    chosen = points(write(tmp_path))
    plan = tasks.plan(chosen, tmp_path / "s")
    job = {"seed": 0, "model": {"kind": "plain"}, "train": {"steps": 3}}
    for name in ("old", "new"):
        finish(tmp_path / name, "tokenizer", job)
        found = tasks.reuse(plan, chosen, tmp_path / name)
        assert found.taken == {plan[0].name: "tokenizer"}
        tasks.adopt(plan, found.taken, tmp_path / name)
        assert plan[0].is_done()
        (tmp_path / name).rename(tmp_path / f"{name} elsewhere")


def alone_and_together(folder) -> tuple[tasks.Task, tasks.Task, tasks.Task]:
    """The only point of a sweep, then it and its tokenizer once it has company."""
    sweep = write(folder)
    (alone,) = tasks.plan(points(sweep, ["rate=low", "seed=1"]), folder / "s")
    tokenizer, _, together, *_ = tasks.plan(points(sweep), folder / "s")
    assert alone.workdir == together.workdir
    assert not alone.links
    return alone, together, tokenizer


def test_what_becomes_common_moves_to_where_it_is_shared(tmp_path) -> None:
    alone, together, tokenizer = alone_and_together(tmp_path)
    alone.prepare()
    finish(alone.workdir, "tokenizer", {})
    (alone.workdir / "codes" / "tokenizer").mkdir(parents=True)
    assert together.codes is not None
    together.codes.mkdir(parents=True)  # empty
    together.share()
    assert tokenizer.is_done()
    assert (together.codes / "tokenizer").is_dir()
    assert (alone.workdir / "tokenizer").is_symlink()
    assert (alone.workdir / "tokenizer" / "finished.json").is_file()
    assert not together.unshared
    together.prepare()
    assert not (alone.workdir / "aside").exists()


def test_what_is_shared_already_sets_aside_what_a_point_has(tmp_path) -> None:
    alone, together, tokenizer = alone_and_together(tmp_path)
    finish(tokenizer.workdir, "tokenizer", {})
    for number in (1, 2):
        (alone.workdir / "tokenizer").unlink(missing_ok=True)
        finish(alone.workdir, "tokenizer", {"number": number})
        together.share()
        assert together.unshared == [alone.workdir / "tokenizer"]
        together.prepare()
        assert (alone.workdir / "tokenizer").is_symlink()
        kept = alone.workdir / "aside" / f"tokenizer-{number}" / "config.json"
        assert json.loads(kept.read_text()) == {"number": number}
