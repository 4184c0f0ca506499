"""Strict configs: what is accepted, what is refused and in which words."""

import dataclasses
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ml_collections import ConfigDict

from unitoken_jax.config import (
    NONE_IS_DEFAULT,
    Amount,
    Bounds,
    ConfigError,
    Count,
    Name,
    Positive,
    Seed,
    Share,
    ShareBelowOne,
    build,
    check_seed,
    load_file,
    nearest,
    plain,
    render,
    set_field,
    set_fields,
    shown,
)
from unitoken_jax.errors import REFUSED
from unitoken_jax.files import OptionalPath, UserPath


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


def test_of_several_types_a_value_has_its_own() -> None:
    @dataclasses.dataclass(frozen=True)
    class Mixed:
        value: bool | Annotated[int, Bounds(0, most=9)] | float | str

    for value in (True, 7, 0.5, "a"):
        assert type(build(Mixed, {"value": value}).value) is type(value)
    with pytest.raises(ConfigError, match="must be at least 0 and at most 9, not 10"):
        build(Mixed, {"value": 10})


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


@dataclasses.dataclass(frozen=True)
class Bounded:
    """Fields whose annotations say more than a type."""

    count: Count = 1
    seed: Seed = 0
    amount: Amount = 0.0
    positive: Positive = 1.0
    share: Share = 0.0
    decay: ShareBelowOne = 0.0
    least: Annotated[int, Bounds(-1)] = -1
    whole: int = 0
    real: float = 0.0
    sizes: tuple[Count, ...] = ()
    maybe: Count | None = None
    name: Name = "a"
    text: str = ""
    path: UserPath | None = None
    place: OptionalPath = ""
    starts: Annotated[Mapping[str, UserPath], NONE_IS_DEFAULT] = dataclasses.field(
        default_factory=dict
    )


@pytest.mark.parametrize(
    ("field", "good"),
    [
        ("count", [1, 2**31 - 1]),
        ("seed", [0, 2**32 - 1]),
        ("amount", [0, 0.5, 3e38]),
        ("positive", [1e-30, 2]),
        ("share", [0, 1]),
        ("decay", [0, 0.999]),
        ("least", [-1, 7]),
        ("whole", [-(2**31), 2**31 - 1]),
        ("real", [-3e38, 1e-300]),
        ("sizes", [(), (1, 2)]),
        ("maybe", [None, 3]),
        ("name", ["a", "stage-1", "7b.x"]),
        ("place", ["", "runs/a b"]),
        ("starts", [None, {"decoder": "base:decoder"}]),
    ],
)
def test_numbers_and_names_within_bounds_pass(field: str, good: list) -> None:
    for value in good:
        built = getattr(build(Bounded, {field: value}), field)
        assert built == ({} if field == "starts" and value is None else value)


@pytest.mark.parametrize(
    ("field", "bad"),
    [
        ("count", [0, -1, 2**31, 10**400, True, 1.0]),
        ("seed", [-1, 2**32, 2**63]),
        ("amount", [-1e-9, float("nan"), float("inf"), 1e39, 10**400]),
        ("positive", [0, -1.0, 1e-40, float("nan"), float("inf")]),
        ("share", [-0.1, 1.1, float("nan")]),
        ("decay", [1, -0.1, float("nan")]),
        ("least", [-2]),
        ("whole", [2**31, -(2**32)]),
        ("real", [float("nan"), float("inf"), -float("inf"), 1e39, 10**400]),
        ("sizes", [(1, 0), (2**40,)]),
        ("maybe", [0]),
        ("name", ["", ".", "..", "a/b", "/a", " a", "a b", "-a", "a\n"]),
        ("text", ["\ud83d", "a\0b"]),
        ("path", ["", " ", "gs://b/x", "gs:/b", "file:///x", "x ", "~no-such-user/x"]),
        ("place", [" ", "s3://b/x", "a\0"]),
        ("starts", [{"decoder": "gs://b/run:decoder"}, 1, "None"]),
    ],
)
def test_what_is_out_of_bounds_is_refused_at_its_path(field: str, bad: list) -> None:
    for value in bad:
        with pytest.raises(ConfigError, match=rf"^config\.{field}") as caught:
            build(Bounded, {field: value})
        assert len(str(caught.value)) < 400


def test_a_home_is_written_out(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    node = {"path": "~/x", "place": "~/y", "starts": {"decoder": "~/run/base:decoder"}}
    built = build(Bounded, node)
    assert built.path == f"{tmp_path}/x"
    assert built.place == f"{tmp_path}/y"
    assert built.starts == {"decoder": f"{tmp_path}/run/base:decoder"}


def test_seeds_are_those_that_a_key_tells_apart() -> None:
    assert check_seed(2**32 - 1, "--seed") == 2**32 - 1
    for seed in (-1, 2**32, 2**32 + 5):
        with pytest.raises(
            ConfigError, match="--seed: must be at least 0 and at most 4294967295"
        ):
            check_seed(seed, "--seed")


def test_values_in_messages_are_short() -> None:
    assert shown("a") == "'a'"
    assert len(shown("a" * 9999)) < 120
    assert shown(10**9999) == "a int too long to print"


NODE_TEXTS: dict[str, Any] = {
    "name": "old",
    "steps": 3,
    "inner": {"rate": 1.0},
    "none": None,
    "plan": {"a": {"b": 1}},
}


@pytest.mark.parametrize(
    ("path", "text", "value"),
    [
        ("name", "123", "123"),
        ("name", "None", None),
        ("name", '"new"', '"new"'),
        ("name", "", ""),
        ("steps", "7", 7),
        ("steps", "1e5", 1e5),
        ("steps", "many", "many"),
        ("steps", "None", None),
        ("steps", "true", True),
        ("new", "False", False),
        ("new", "(1, 2)", (1, 2)),
        ("new", "[1, [2]]", (1, (2,))),
        ("new", "'7'", "7"),
        ("new", "{'x': 1}", {"x": 1}),
        ("new", "9" * 5000, "9" * 5000),
        ("new", "[" * 5000, "[" * 5000),
        ("inner", "None", None),
        ("inner", "{}", {}),
        ("inner", "{'rate': 2}", {"rate": 2}),
        ("inner.rate", "2", 2),
        ("none.deep.er", "1", 1),
    ],
)
def test_fields_are_set_as_they_are_written(path: str, text: str, value) -> None:
    node = plain(NODE_TEXTS)
    set_field(node, path, text)
    for name in path.split("."):
        node = node[name]
    assert node == value
    assert type(node) is type(value)


@pytest.mark.parametrize(
    ("path", "text", "sentence"),
    [
        ("inner", "3", "inner is a group of fields, found 3; set one of its fields"),
        ("inner", "low", "found 'low'"),
        ("steps.x", "1", "steps is a value, so there is no steps.x."),
        ("", "1", "'' is not a path of names."),
        ("a..b", "1", "is not a path of names."),
        ("a b", "1", "is not a path of names."),
        ("inner.9", "1", "is not a path of names: '9' is none."),
        (".".join("a" * 99), "1", "is not a path of names."),
        ("new", "{1, 2}", "new: '{1, 2}' is no value that a config can hold."),
        ("new", "b'x'", "no value that a config can hold"),
        ("new", "1j", "no value that a config can hold"),
        ("new", "...", "no value that a config can hold"),
    ],
)
def test_what_is_no_field_cannot_be_set(path: str, text: str, sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        set_field(plain(NODE_TEXTS), path, text)
    assert sentence in str(caught.value)


def test_the_flag_is_named_when_a_field_cannot_be_set() -> None:
    with pytest.raises(ConfigError, match=r"^--config\.steps\.x: steps is a value"):
        set_fields(plain(NODE_TEXTS), [("name", "a"), ("steps.x", "1")])


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("import sys\nsys.exit(0)\n", "line 2: it fails: SystemExit: 0."),
        ("import no_such_module\n", "line 1: it fails: ModuleNotFoundError: No module"),
        ("def get_config(:\n", "line 1: it fails: SyntaxError"),
        ("x = 1 / 0\n", "line 1: it fails: ZeroDivisionError: division by zero."),
        (
            "def get_config():\n    raise KeyError('a')\n",
            "line 2: get_config() fails: K",
        ),
        ("def get_config():\n    exit(3)\n", "line 2: get_config() fails: SystemExit"),
        ("def get_config():\n    return get_config()\n", "fails: RecursionError"),
        ("def get_config():\n    return {}\n", "returned dict, but a ConfigDict is ne"),
        ("get_config = 3\n", "has no get_config(), which returns the config."),
        ("x = '\0'\n", "it fails: "),
        ("class Odd(BaseException): pass\nraise Odd\n", "line 2: it fails: Odd."),
        (
            "from ml_collections import ConfigDict\n"
            "def get_config():\n    return ConfigDict({'a': {'b': (1, len)}})\n",
            "config.a.b[1] is <built-in function len>, no value that a config can",
        ),
        ("", "has no get_config()"),
    ],
)
def test_files_that_fail_are_a_sentence(tmp_path, content: str, sentence: str) -> None:
    file = tmp_path / "bad.py"
    file.write_text(content)
    with pytest.raises(ConfigError) as caught:
        load_file(str(file))
    assert sentence in str(caught.value)
    assert "bad.py" in str(caught.value)


def test_an_interruption_of_a_file_is_none_of_its_faults(tmp_path) -> None:
    file = tmp_path / "slow.py"
    file.write_text("raise KeyboardInterrupt\n")
    with pytest.raises(KeyboardInterrupt):
        load_file(str(file))


def test_paths_of_files_may_hold_colons(tmp_path, monkeypatch) -> None:
    folder = tmp_path / "a:b"
    folder.mkdir()
    (folder / "c:d.py").write_text(WORDED_FILE)
    monkeypatch.chdir(tmp_path)
    assert load_file("a:b/c:d.py:new") == {"word": "new"}
    assert load_file(f"{folder}/c:d.py:x:y") == {"word": "x:y"}
    assert load_file("a:b/c:d.py") == {"word": "none"}
    with pytest.raises(ConfigError, match=r"no such file; did you mean 'a:b/c:d\.py'"):
        load_file("a:b/cd.py:new")
    for address in ("gs://bucket/c.py", "gs://bucket/c.py:new"):
        with pytest.raises(ConfigError, match="gs:// is no path"):
            load_file(address)


def test_a_file_may_define_dataclasses(tmp_path) -> None:
    (tmp_path / "own.py").write_text(
        "from __future__ import annotations\nimport dataclasses\n"
        "@dataclasses.dataclass\nclass A:\n    x: int = 1\n" + WORDED_FILE
    )
    assert load_file(str(tmp_path / "own.py")) == {"word": "none"}


WORDED_FILE = """
from ml_collections import ConfigDict

def get_config(word="none"):
    return ConfigDict({"word": word})
"""
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
    (folder / "exits.py").write_text("raise SystemExit(0)\n")
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


def test_words_of_the_command_line(command) -> None:
    """Values that stand apart, truth without one, groups as a whole, any order."""
    code, output, errors = command(
        *("--config.inner.rate", "-2", "--config.name", "None of these"),
        *("--config.parts={}", "--config.parts.new.rate=7", "--config=small.py"),
        *("--noconfig.flag", "--config.bound=None", "--config.rest={'x': [1, None]}"),
    )
    assert code == REFUSED
    assert "error: config.inner: rate must not be negative, not -2.0." in errors
    code, output, errors = command(
        *("--config.inner.rate", "2", "--config.name", "None of these"),
        *("--config.parts={}", "--config.parts.new.rate=7", "--config=small.py"),
        *("--noconfig.flag", "--config.bound=None", "--config.rest={'x': [1, None]}"),
    )
    assert (code, errors) == (0, "")
    lines = set(output.splitlines())
    assert lines >= {
        "config.inner.rate = 2.0",
        "config.name = 'None of these'",
        "config.parts.new.rate = 7.0",
        "config.flag = False",
        "config.rest.x = (1, None)",
    }
    assert not any("parts.a" in line for line in lines)


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
        (["--config=small.py", "--noconfig.flag=1"], "--noconfig.flag takes no value"),
        (
            ["--config=small.py", "--config.inner.rate=1", "--config.inner={}"],
            "--config.inner comes after --config.inner.rate and would undo it; put it",
        ),
        (["--config=small.py", f"--config.steps={'9' * 400}"], "config.steps: must be"),
        (
            ["--config=small.py", "--config.inner.rate=nan"],
            "expected float, found 'nan'",
        ),
        (["--config=small.py", "--config.inner.rate=1e999"], "not inf."),
        (["--config=exits.py"], "exits.py, line 1: it fails: SystemExit: 0."),
        (["--config=gs://bucket/small.py"], "gs:// is no path of a file system"),
        (["--config="], "is an empty path"),
        (["--flagfile=nowhere"], "nowhere"),
    ],
)
def test_the_command_line_refuses_in_one_line(command, arguments, sentence) -> None:
    code, output, errors = command(*arguments)
    assert (code, output) == (REFUSED, "")
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
    assert (done.returncode, done.stdout) == (REFUSED, "")
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
