"""The container file, as far as it can be tried without a container engine."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

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


def test_what_is_copied_is_enough_to_run(image) -> None:
    """The recipe is found, and the first thing it lacks is weights to start from."""
    config = ("--config=configs/unitoken_7b_base_stage1.py", "--workdir=run")
    worker = [sys.executable, "-m", "launch.worker", "--", sys.executable]
    done = subprocess.run(
        [*worker, "-m", "unitoken_jax.train", *config, "--compile_cache="],
        cwd=image,
        env={**os.environ, "PYTHONPATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: init: 'weights/"), done.stderr
