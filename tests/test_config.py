"""Strict configs: what is accepted, what is refused and in which words."""

import dataclasses
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ml_collections import ConfigDict

from unitoken_jax.config import ConfigError, build, nearest, plain, render


@dataclasses.dataclass(frozen=True)
class Inner:
    """One level down."""

    rate: float
    kind: Literal["red", "green"] = "red"
    sizes: tuple[int, ...] = (1, 2)

    def __post_init__(self) -> None:
        if self.rate < 0:
            raise ValueError(f"rate must not be negative, not {self.rate}.")


@dataclasses.dataclass(frozen=True)
class Outer:
    """A config with every kind of field."""

    steps: int
    inner: Inner
    flag: bool = False
    name: str = "x"
    bound: float | None = None
    either: int | str = 0
    pair: tuple[int, float] = (1, 1.0)
    parts: Mapping[str, Inner] = dataclasses.field(default_factory=dict)
    rest: Any = None


NODE = {"steps": 3, "inner": {"rate": 1}}


@pytest.mark.parametrize("wrap", [dict, ConfigDict])
def test_builds_nested_dataclasses(wrap) -> None:
    node = NODE | {
        "bound": 2,
        "pair": [4, 5],
        "parts": {"a": {"rate": 0.5, "sizes": [7]}},
        "rest": {"deep": [1, {"b": 2}]},
    }
    built = build(Outer, wrap(node))
    assert built.inner == Inner(1.0)
    assert isinstance(built.inner.rate, float)
    assert (built.bound, built.pair) == (2.0, (4, 5.0))
    assert built.parts == {"a": Inner(0.5, sizes=(7,))}
    assert built.rest == {"deep": (1, {"b": 2})}
    assert build(Outer, built) is built


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"stepz": 3}, "config.stepz: unknown name; did you mean 'steps'? Known: "),
        ({"inner": {"rat": 1}}, "config.inner.rat: unknown name; did you mean 'rate'"),
        ({"inner": {}}, "config.inner.rate: missing, and it has no default."),
        ({"inner": 3}, "config.inner: expected a group of fields, found 3."),
        ({"steps": 1.5}, "config.steps: expected int, found 1.5."),
        ({"steps": True}, "config.steps: expected int, found True."),
        ({"steps": None}, "config.steps: expected int, found None."),
        ({"flag": 1}, "config.flag: expected bool, found 1."),
        ({"bound": "high"}, "config.bound: expected float, found 'high'."),
        ({"either": 1.5}, "config.either: expected int or str, found 1.5."),
        ({"pair": (1,)}, "config.pair: expected 2 values, found 1: (1,)."),
        ({"pair": 4}, "config.pair: expected a tuple, found 4."),
        ({"parts": {"a": {"rate": "x"}}}, "config.parts.a.rate: expected float"),
        ({"parts": [1]}, "config.parts: expected a group of names, found [1]."),
        (
            {"inner": {"rate": 1, "kind": "rad"}},
            "config.inner.kind: 'rad' is not among the choices; did you mean 'red'?",
        ),
        ({"inner": {"rate": 1, "sizes": (1, "2")}}, "config.inner.sizes[1]: expected"),
        ({"inner": {"rate": -1}}, "config.inner: rate must not be negative, not -1.0."),
    ],
)
def test_refuses_in_a_sentence(fields, sentence) -> None:
    with pytest.raises(ConfigError) as caught:
        build(Outer, NODE | fields)
    assert sentence in str(caught.value)


@given(
    st.builds(
        Outer,
        steps=st.integers(-(2**31), 2**31 - 1),
        inner=st.builds(Inner, rate=st.floats(0, 9), sizes=st.just((3,))),
        bound=st.none() | st.floats(-1, 1),
        either=st.integers(0, 9)
        | st.text(st.characters(exclude_characters="\0", codec="utf-8")),
        parts=st.dictionaries(
            st.text("ab", min_size=1), st.builds(Inner, st.just(1.0))
        ),
        rest=st.none() | st.integers(),
    )
)
def test_plain_and_build_are_inverse(config) -> None:
    assert build(Outer, plain(config)) == config
    assert render(build(Outer, plain(config))) == render(config)


def test_prints_in_full_and_in_stable_order() -> None:
    parts = {"b": Inner(2.0), "a": Inner(1.0, sizes=())}
    shuffled = dict(reversed(parts.items()))
    first, second = (
        render(Outer(1, Inner(0.5), parts=p, rest={"z": 1, "y": {}}))
        for p in (parts, shuffled)
    )
    assert first == second
    assert first.splitlines() == [
        "config.steps = 1",
        "config.inner.rate = 0.5",
        "config.inner.kind = 'red'",
        "config.inner.sizes = (1, 2)",
        "config.flag = False",
        "config.name = 'x'",
        "config.bound = None",
        "config.either = 0",
        "config.pair = (1, 1.0)",
        "config.parts.a.rate = 1.0",
        "config.parts.a.kind = 'red'",
        "config.parts.a.sizes = ()",
        "config.parts.b.rate = 2.0",
        "config.parts.b.kind = 'red'",
        "config.parts.b.sizes = (1, 2)",
        "config.rest.y = {}",
        "config.rest.z = 1",
    ]


def test_nearest_gives_a_hint_or_none() -> None:
    assert nearest("stpes", ["steps", "batch"]) == (
        "; did you mean 'steps'? Known: batch, steps."
    )
    assert nearest("q", ["steps"]) == ". Known: steps."
    assert nearest("q", []) == "."


CONFIG_FILE = """
from ml_collections import ConfigDict

def get_config():
    shared = {"rate": 1e-3}
    return ConfigDict(
        {"steps": 3, "inner": shared, "name": "old", "parts": {"a": shared}}
    )
"""
PROGRAM = """
import dataclasses
from test_config import Outer
from unitoken_jax import config

FLAG = config.define_flag()

def main():
    print(config.render(config.build(Outer, FLAG.value)))

if __name__ == "__main__":
    config.run(main)
"""


@pytest.fixture(scope="module")
def command(tmp_path_factory):
    """Runs a small command line over `Outer`; returns its code and both outputs."""
    folder = tmp_path_factory.mktemp("command")
    (folder / "small.py").write_text(CONFIG_FILE)
    (folder / "bare.py").write_text("config = 1\n")
    (folder / "worded.py").write_text(
        "def get_config(word):\n    raise ValueError(f'{word} is not known: a or b.')\n"
    )
    (folder / "program.py").write_text(PROGRAM)
    root = Path(__file__).parent

    def run(*arguments: str) -> tuple[int, str, str]:
        done = subprocess.run(
            [sys.executable, str(folder / "program.py"), *arguments],
            cwd=folder,
            env={"PYTHONPATH": f"{root}:{root.parent}"},
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode, done.stdout, done.stderr

    return run


def test_any_field_can_be_overridden(command) -> None:
    """Fields the file writes down, and fields that it leaves at their defaults."""
    code, output, errors = command(
        "--config=small.py",
        "--config.inner.rate=2",
        "--config.name=123",
        "--config.bound=0.5",
        "--config.inner.sizes=(4,5)",
        "--config.parts.new.rate=7",
        "--config.flag",
    )
    assert (code, errors) == (0, "")
    lines = set(output.splitlines())
    assert lines >= {
        "config.inner.rate = 2.0",
        "config.name = '123'",
        "config.bound = 0.5",
        "config.inner.sizes = (4, 5)",
        "config.parts.new.rate = 7.0",
        "config.flag = True",
    }


def test_a_group_used_twice_is_overridden_once(command) -> None:
    code, output, _ = command("--config=small.py", "--config.inner.rate=9")
    assert code == 0
    assert "config.inner.rate = 9.0" in output
    assert "config.parts.a.rate = 0.001" in output


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ["--config=small.py", "--config.inner.rte=1"],
            "error: config.inner.rte: unknown name; did you mean 'rate'?",
        ),
        (
            ["--config=small.py", "--config.iner.rate=1"],
            "error: config.iner: unknown name; did you mean 'inner'?",
        ),
        (
            ["--config=small.py", "--config.steps=many"],
            "error: config.steps: expected int, found 'many'.",
        ),
        (
            ["--config=small.py", "--config.steps.x=1"],
            "steps is a value, so there is no steps.x.",
        ),
        (
            ["--config=smal.py"],
            "there is no such file; did you mean 'small.py'? Known: ",
        ),
        ([], "error: flag --config=None: name a file: --config=configs/FILE.py."),
        (["--confg=small.py"], "there is no flag --confg; did you mean 'config'?"),
        (["--config=bare.py"], "bare.py has no get_config(), which returns the config"),
        (["--config=worded.py:c"], "get_config('c') fails: c is not known: a or b."),
        (["--config=small.py:c"], "get_config('c') fails: get_config() takes 0"),
        (["--config=small.py", "extra"], "error: unexpected argument 'extra'"),
        (["--config=small.py", "--config.9x=1"], "'9x' is not a path of names."),
    ],
)
def test_the_command_line_refuses_in_one_line(command, arguments, sentence) -> None:
    code, output, errors = command(*arguments)
    assert (code, output) == (1, "")
    assert sentence in errors
    assert len(errors.splitlines()) == 1


def test_help_is_no_fault(command) -> None:
    code, output, errors = command("--help")
    assert (code, errors) == (0, "")
    assert "--config" in output


def test_a_flag_that_is_missing_is_named() -> None:
    program = (
        "from absl import flags\nfrom unitoken_jax import config\n"
        "flags.DEFINE_string('place', None, 'Where it is.', required=True)\n"
        "config.run(print)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "error: --place is missing: where it is.\n"


@pytest.mark.parametrize("words", [[], ["--verbosity=0"]])
def test_what_libraries_merely_mention_is_not_printed(words) -> None:
    """JAX's line on a TPU that is not there, on every laptop."""
    program = (
        "from absl import logging\n"
        "from unitoken_jax.config import run\n"
        "def main():\n"
        "    logging.info('merely mentioned')\n"
        "    logging.warning('a warning')\n"
        "run(main)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *words],
        capture_output=True,
        text=True,
        check=True,
    )
    assert ("merely mentioned" in done.stderr) == bool(words)
    assert "a warning" in done.stderr
