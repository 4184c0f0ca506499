"""The container file, as far as it can be tried without a container engine."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from launch.sweep.experiment import evaluate
from unitoken_jax.errors import REFUSED
from unitoken_jax.train.experiment import build_experiment

ROOT = Path(__file__).parents[2]
LINES = (ROOT / "launch" / "Containerfile").read_text().replace("\\\n", " ").split("\n")


def instructions(name: str) -> list[str]:
    return [line.split(maxsplit=1)[1] for line in LINES if line.startswith(f"{name} ")]


@pytest.fixture(scope="module")
def image(tmp_path_factory) -> Path:
    """What COPY puts into the image."""
    folder = tmp_path_factory.mktemp("image")
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    for copy in instructions("COPY"):
        source, target = copy.split()
        assert f"!{source}" in ignored
        if (ROOT / source).is_dir():
            leave = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / source, folder / target, ignore=leave)
        else:
            shutil.copy(ROOT / source, folder / target)
    return folder


@pytest.mark.parametrize("extra", ["tpu", "cuda12"])
def test_jax_and_its_extra_are_of_one_version(image, tmp_path, extra) -> None:
    (tmp_path / "pip").write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    (tmp_path / "pip").chmod(0o755)
    (command,) = instructions("RUN")
    printed = subprocess.run(
        ["sh", "-c", command],
        cwd=image,
        env={"PATH": f"{tmp_path}:{os.environ['PATH']}", "JAX_EXTRA": extra},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    pinned = re.search(r"^jax(==\S+)", (ROOT / "requirements.txt").read_text(), re.M)
    assert printed == [
        *("install", "--requirement", "requirements.txt"),
        f"jax[{extra}]{pinned[1]}",
    ]


def documented() -> dict[str, list[str]]:
    """Training's arguments of each documented command that runs in the container."""
    found: dict[str, list[str]] = {}
    for page in ("README.md", "docs/launch.md"):
        text = (ROOT / page).read_text().replace("\\\n", " ")
        for command in re.findall(r"^python -m launch.* --image .*", text, re.M):
            arguments = shlex.split(command.split(" -- ")[1])
            found[f"{page}, {command.split()[2]}"] = arguments
    return found


def test_documented_commands_of_the_container_are_found() -> None:
    names = ["README.md, launch.tpu_vm", "docs/launch.md, launch.tpu_vm"]
    assert list(documented()) == [*names, "docs/launch.md, launch.gke"]


@pytest.mark.parametrize("name", documented())
def test_documented_commands_name_what_is_mounted(name) -> None:
    """No path of theirs lies in the image."""
    arguments = documented()[name]
    file = arguments[arguments.index("--config") + 1]
    assert arguments[arguments.index("--workdir") + 1].startswith("/data/")
    prefix = "--config."
    fields = [word.removeprefix(prefix) for word in arguments if prefix in word]
    node = evaluate(str(ROOT / file), fields)
    job = build_experiment(node).stages["stage1"]
    assert job.init == node["init"]
    assert job.mesh.sizes(64)  # chips of v5p-128, which is 4x4x4
    for path in (node["data_dir"], *node["init"].values()):
        assert path.startswith("/data/")
    whole = evaluate(str(ROOT / file), ())
    assert node["init"].keys() == whole["init"].keys()
    mounted = [whole["data_dir"].removeprefix("data/"), *whole["init"].values()]
    assert [node["data_dir"], *node["init"].values()] == [f"/data/{p}" for p in mounted]


def test_what_is_copied_is_enough_to_run(image) -> None:
    """The recipe is found, and the first thing it lacks is weights to start from."""
    arguments = documented()["docs/launch.md, launch.gke"]
    arguments[arguments.index("--workdir") + 1] = "run"
    worker = [sys.executable, "-m", "launch.worker", "--", sys.executable]
    done = subprocess.run(
        [*worker, "-m", "unitoken_jax.train", *arguments, "--compile_cache="],
        cwd=image,
        env={**os.environ, "PYTHONPATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == REFUSED
    assert done.stderr.startswith("error: init: '/data/weights/"), done.stderr
