"""The package as it is imported in a notebook, and as it is installed."""

import os
import subprocess
import sys
import tomllib
import venv
from pathlib import Path

import pytest

import unitoken_jax
from unitoken_jax import commands
from unitoken_jax.config import ConfigError, split_file
from unitoken_jax.errors import REFUSED

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]


def test_importing_it_imports_nothing_large():
    program = (
        "import sys, unitoken_jax; dir(unitoken_jax)\n"
        "print({'jax', 'numpy', 'flax', 'absl'} & sys.modules.keys())"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    assert done.stdout == "set()\n"


@pytest.mark.parametrize("name", unitoken_jax.__all__)
def test_what_it_names_is_there(name):
    assert getattr(unitoken_jax, name) is not None
    assert name in dir(unitoken_jax)


def test_what_it_does_not_name_is_an_error():
    with pytest.raises(AttributeError, match="no attribute 'load_wieghts'"):
        unitoken_jax.__getattr__("load_wieghts")


def test_scripts_name_functions():
    for name, place in PROJECT["scripts"].items():
        module, _, function = place.partition(":")
        assert name.startswith("unitoken-")
        assert module == commands.__name__
        assert callable(getattr(commands, function))


def test_the_lock_is_within_the_ranges():
    packaging = pytest.importorskip("packaging.requirements")
    lock = dict(
        line.split("#")[0].split("==")
        for line in (ROOT / "requirements.txt").read_text("utf-8").splitlines()
        if "==" in line
    )
    ranges = {}
    for text in PROJECT["dependencies"]:
        found = packaging.Requirement(text)
        ranges[found.name] = found.specifier
    assert ranges.keys() == lock.keys() - {"jaxlib"}  # which jax pins itself
    for name, specifier in ranges.items():
        assert lock[name].strip() in specifier, name


@pytest.mark.parametrize(
    ("given", "file", "word"),
    [
        ("quickstart", "quickstart.py", None),
        ("quickstart.py", "quickstart.py", None),
        ("configs/quickstart.py", "quickstart.py", None),
        ("sweeps/data_ratio", "sweeps/data_ratio.py", None),
        ("llamagen:XL", "llamagen.py", "XL"),
        ("configs/llamagen.py:XL", "llamagen.py", "XL"),
    ],
)
def test_configs_are_found_by_name_from_anywhere(
    tmp_path, monkeypatch, given, file, word
):
    monkeypatch.chdir(tmp_path)
    assert split_file(given) == (ROOT / "configs" / file, word)


def test_a_file_of_the_user_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("quickstart").touch()
    assert split_file("quickstart") == (Path("quickstart"), None)


@pytest.mark.parametrize("given", ["../configs/quickstart", "common", "configs", "x/y"])
def test_what_is_no_name_of_a_config(tmp_path, monkeypatch, given):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="there is n"):
        split_file(given)


def test_a_name_that_is_nearly_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="did you mean 'quickstart'"):
        split_file("quickstrat")


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The scripts of a wheel, in an environment with what this one has."""
    folder = tmp_path_factory.mktemp("installed")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    wheel = [*pip, "wheel", "--no-deps", "--wheel-dir", str(folder), str(ROOT)]
    subprocess.run(wheel, check=True)
    venv.create(folder / "venv", with_pip=False)
    site = next((folder / "venv").glob("lib/python*/site-packages"))
    (file,) = folder.glob("*.whl")
    install = [*pip, f"--python={folder / 'venv/bin/python'}", "install", "--no-deps"]
    subprocess.run([*install, "--no-index", str(file)], check=True)
    here = next(Path(p) for p in sys.path if p.endswith("site-packages"))
    (site / "lock.pth").write_text(f"{here}\n")
    return folder / "venv" / "bin"


@pytest.mark.slow
def test_an_installed_package_trains_from_anywhere(installed, tmp_path):
    def run(*words):
        return subprocess.run(
            [installed / words[0], *words[1:]],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": "", "JAX_PLATFORMS": "cpu"},
            capture_output=True,
            text=True,
            check=False,
        )

    done = run("unitoken-train", "--config", "quickstart", "--help")
    assert done.returncode == 0, done.stderr
    assert "--workdir" in done.stdout
    prepared = ["--input", ROOT / "data" / "pictures.zip", "--output", "pictures"]
    done = run("unitoken-prepare", *prepared)
    assert done.returncode == 0, done.stderr
    train = ["unitoken-train", "--config", "quickstart:scratch", "--workdir", "run"]
    train += ["--stage", "tokenizer", "--config.data_dir=pictures"]
    train += ["--config.stages.tokenizer.train.steps=2"]
    train += ["--config.stages.tokenizer.optimizer.warmup=1"]
    done = run(*train)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "tokenizer" / "finished.json").is_file()
    assert run("unitoken-launch", "slrm").returncode == REFUSED
