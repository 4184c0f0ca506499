"""Scripts of the launchers: sound shell, whatever the arguments are."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launch import gke, script, slurm, tpu_vm
from unitoken_jax.config import UserError

ARGUMENTS = [
    "--",
    "--config",
    "configs/quickstart.py",
    "--workdir",
    "runs/it's a name",
]
SHELLCHECK = Path(sys.executable).with_name("shellcheck")
RENDERED = {
    "slurm": (
        slurm.render,
        "--nodes=2 --env_file=my.env --partition=p --gpus=4 --wait",
    ),
    "slurm, one node": (slurm.render, "--cpus=8"),
    "tpu_vm": (
        tpu_vm.render,
        "--tpu=t --zone=z --project=p --type=v5p-128 --version=v2-alpha-tpuv5 --spot "
        "--image=host/name:1 --mount=/mnt/a:/data --env_file=my.env --delete",
    ),
    "tpu_vm, bare": (
        tpu_vm.render,
        "--tpu=t --zone=z --type=v5e-8 --version=v --image=i",
    ),
    "gke": (
        gke.render,
        "--image=i --accelerator=tpu-v5p-slice --topology=4x4x4 --slices=2 --wait "
        "--secret=s --claim=c --spot",
    ),
    "xpk": (
        gke.render,
        "--image=i --cluster=c --type=v5p-128 --wait --spot --env_file=my.env",
    ),
}


def inner_scripts(text: str) -> list[str]:
    """The scripts inside a script's here-documents."""
    found = re.findall(r"<<'END'\n(.*?)\nEND\n", text, re.DOTALL)
    return [document for document in found if document.startswith("#!")]


@pytest.mark.parametrize("name", RENDERED)
def test_shellcheck_finds_nothing(name) -> None:
    render, options = RENDERED[name]
    text, dry_run = render([*shlex.split(options), *ARGUMENTS])
    assert not dry_run
    for one in [text, *inner_scripts(text)]:
        done = subprocess.run(
            [SHELLCHECK, "--shell=bash", "--severity=style", "-"],
            input=one,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.stdout == ""
        assert done.returncode == 0


@pytest.mark.parametrize("name", RENDERED)
def test_dry_run_prints_what_would_run(name, capsys) -> None:
    render, options = RENDERED[name]
    words = [*shlex.split(options), *ARGUMENTS]
    text, _ = render(words)
    assert sys.modules[render.__module__].run(["--dry_run", *words]) == 0
    assert capsys.readouterr().out == text


@pytest.mark.parametrize("name", RENDERED)
def test_nothing_to_run(name) -> None:
    render, options = RENDERED[name]
    with pytest.raises(UserError, match="behind --, such as"):
        render(shlex.split(options))


@given(st.lists(st.text(st.characters(exclude_characters="\0", codec="utf-8"))))
def test_words_come_through_the_shell(words) -> None:
    text = f"printf '%s\\0' {script.quote(words)}" if words else "true"
    done = subprocess.run(["bash", "-c", text], capture_output=True, check=True)
    assert done.stdout == b"".join(word.encode() + b"\0" for word in words)


def test_a_document_cannot_end_early() -> None:
    with pytest.raises(UserError, match="would end it"):
        script.document("a\nEND\nb")
