"""Scripts of the launchers: sound shell, whatever the arguments are."""

import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from fake_cloud import FakeCloud
from hypothesis import given
from hypothesis import strategies as st

from launch import gke, script, slurm, tpu_vm
from launch.signals import PREEMPTED
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
    "slurm, one node": (
        slurm.render,
        "--cpus=8 --name='my run' --account=a --qos=q --sbatch='#SBATCH --exclusive'",
    ),
    "tpu_vm": (
        tpu_vm.render,
        "--tpu=t --zone=z --project=p --type=v5p-128 --version=v2-alpha-tpuv5 --spot "
        "--image=host/name:1 --mount=/mnt/a:/data --env_file=my.env --delete",
    ),
    "tpu_vm, bare": (
        tpu_vm.render,
        "--tpu=t --zone=z --type=v5e-8 --version=v --image=i",
    ),
    "tpu_vm, queued": (
        tpu_vm.render,
        "--tpu=t --zone=z --type=v5e-8 --version=v --image=h.io/i --queued "
        "--guaranteed --valid_until_duration=6h --request=r "
        "--tunnel_through_iap --internal_ips "
        "--bucket=my-data:/data --registry_login=metadata --setup='echo \"$HOME\"'",
    ),
    "tpu_vm, queued and deleted": (
        tpu_vm.render,
        "--tpu=t --zone=z --type=v5e-8 --version=v --image=i --queued --spot --delete",
    ),
    "gke, buckets": (
        gke.render,
        "--image=i --accelerator=a --topology=2x2x1 --bucket=my-data:/data "
        "--service_account=s --pull_secret=p --fuse_limit=cpu=2",
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


@pytest.fixture(autouse=True)
def _env_file(tmp_path, monkeypatch) -> None:
    """Launchers that copy a file of variables look for it first."""
    (tmp_path / "my.env").touch()
    monkeypatch.chdir(tmp_path)


def inner_scripts(text: str) -> list[str]:
    """The scripts inside a script's here-documents."""
    found = re.findall(r"<<'END'(?: &)?\n(.*?)\nEND\n", text, re.DOTALL)
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


@pytest.mark.parametrize("name", RENDERED)
@pytest.mark.parametrize(
    "words",
    [
        ["--config=c.py", "--workdir=gs://bucket/run"],
        ["--config", "c.py", "--workdir", "gs://bucket/run"],
        ["--config=c.py", "--workdir=w", "--config.data_dir=s3://bucket/data"],
    ],
)
def test_buckets_are_refused_before_anything_is_launched(name, words) -> None:
    render, options = RENDERED[name]
    with pytest.raises(UserError, match=r"(gs|s3):// is no path of a file system"):
        render([*shlex.split(options), "--", *words])


@given(st.lists(st.text(st.characters(exclude_characters="\0", codec="utf-8"))))
def test_words_come_through_the_shell(words) -> None:
    text = f"printf '%s\\0' {script.quote(words)}" if words else "true"
    done = subprocess.run(["bash", "-c", text], capture_output=True, check=True)
    assert done.stdout == b"".join(word.encode() + b"\0" for word in words)


def test_values_are_not_searched_for_names() -> None:
    assert script.fill("@A@ @B@ a@b.c", A="@B@", B="2") == "@B@ 2 a@b.c"


@pytest.mark.parametrize(
    ("render", "options", "sentence"),
    [
        (slurm.render, "--nodes 0", "--nodes: expected a whole number of 1 or more"),
        (slurm.render, "--cpus=-1", "--cpus: expected a whole number of 0 or more"),
        (slurm.render, "--nodse 1", "unrecognized arguments: --nodse"),
        (tpu_vm.render, "--zone=z", "the following arguments are required: --tpu"),
        (gke.render, "--image=i --retries=-1", "--retries: expected a whole number"),
        (gke.render, "--image=i --slices=two", "or more, found 'two'"),
        (gke.render, "--image=i --chips_per_host=0", "--chips_per_host: expected"),
    ],
)
def test_wrong_words_are_one_sentence(render, options, sentence) -> None:
    with pytest.raises(UserError, match=f"{sentence}.*[.]$"):
        render([*shlex.split(options), *ARGUMENTS])


@pytest.mark.parametrize(
    ("workdir", "targets", "is_lost"),
    [
        (["--workdir=/data/a"], ["/data"], False),
        (["--workdir", "/data"], ["/data/"], False),
        (["--workdir=/data//x/../b"], ["/mnt", "/data"], False),
        (["--config=c", "--stage=base"], ["/data"], False),
        (["--workdir=/data/../b"], ["/data"], True),
        (["--workdir", "/database/a"], ["/data"], True),
        (["--workdir=runs/a"], ["/data"], True),
        (["--workdir=/data/a", "--workdir=/b"], ["/data"], True),
        (["--workdir=/data/a"], [], True),
    ],
)
def test_a_folder_that_is_lost_with_its_container_is_said(
    workdir, targets, is_lost, capsys
) -> None:
    script.warn_of_loss(workdir, targets)
    said = capsys.readouterr().err
    assert ("every checkpoint is lost with the container" in said) == is_lost


def test_a_signal_reaches_what_runs(tmp_path) -> None:
    """A script without a trap ends with what it runs, and at once."""
    cloud = FakeCloud(tmp_path)
    cloud.decide("sbatch", 'echo $$ > "$FOLDER/up"; exec /bin/sleep 60')
    code, said = cloud.interrupt("slurm", ARGUMENTS, signal.SIGINT)
    assert (code, said) == (PREEMPTED, "")
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "up").read_text()), 0)


def test_a_document_cannot_end_early() -> None:
    text = "a\nEND\nEND1\nb"
    done = subprocess.run(
        ["bash", "-c", f"cat {script.document(text)}"], capture_output=True, check=True
    )
    assert done.stdout.decode() == f"{text}\n"
