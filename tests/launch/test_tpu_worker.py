"""What every worker of a TPU slice runs: checks, mounts, a login, the container."""

import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from launch import script, tpu_vm

SHELLCHECK = Path(sys.executable).with_name("shellcheck")
# Programs of a worker. Those that are asked write down their words, each ended by NUL;
# what lies below $MOUNTED is mounted.
NOTE = """
number=$(find "$FOLDER" -name 'words.*' | wc -l)
printf '%s\\0' "${0##*/}" "$@" > "$FOLDER/words.$number"
"""
PROGRAMS = {
    "sudo": 'exec "$@"',
    "docker": f'{NOTE}if [ "$1" = login ]; then cat > "$FOLDER/password"; fi',
    "gcloud": NOTE,
    "gcsfuse": f"{NOTE}exit $GCSFUSE",
    "findmnt": '[[ "$3" = --target="$MOUNTED"* ]] && echo "$MOUNTED" || echo /',
    "mountpoint": '[ -e "$FOLDER/mounted" ]',
    "umount": "exit 1",
    "mkdir": NOTE,
    "curl": """echo '{"access_token":"a.b-c_","expires_in":3599}'""",
    "hostname": "echo host",
}


class Worker:
    """A folder of such programs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name, program in PROGRAMS.items():
            path = folder / name
            path.write_text(f"#!/bin/bash\n{program}\n")
            path.chmod(0o755)

    def run(
        self, *options: str, image: str = "h.io/i:1", mounted: str = "/m", gcsfuse=0
    ) -> tuple[int, list[list[str]]]:
        """Run a worker's command; return its code, and the words of what it ran."""
        words = ["--tpu=t", "--zone=z", "--type=v5p-128", "--version=v"]
        words += [f"--image={image}", *options, "--", "--config=c.py"]
        text, _ = tpu_vm.render(words)
        _, command = text.split("command=$(cat <<'END'\n")
        self.command = command.split("\nEND\n)")[0]
        variables = {"FOLDER": str(self.folder), "MOUNTED": mounted}
        variables |= {"PATH": f"{self.folder}:/usr/bin:/bin", "GCSFUSE": str(gcsfuse)}
        done = subprocess.run(
            ["/bin/bash", "-c", self.command], env=variables, check=False
        )
        files = sorted(self.folder.glob("words.*"), key=lambda p: int(p.suffix[1:]))
        found = [file.read_bytes().decode().split("\0")[:-1] for file in files]
        return done.returncode, found


@pytest.fixture
def worker(tmp_path) -> Worker:
    (tmp_path / "worker").mkdir()
    return Worker(tmp_path / "worker")


@pytest.mark.parametrize(
    ("image", "options", "policy"),
    [
        ("h.io/i", [], "always"),
        ("h.io/i:1", [], "always"),
        (f"h.io/i@sha256:{'0' * 64}", [], "missing"),
        (f"h.io/i:1@sha256:{'0' * 64}", ["--pull=never"], "never"),
        ("h.io/i:1", ["--pull=missing"], "missing"),
    ],
)
def test_a_tag_is_pulled_before_each_run(worker, image, options, policy) -> None:
    code, (stop, run) = worker.run(*options, image=image)
    assert code == 0
    assert stop == ["docker", "stop", "unitoken"]
    assert f"--pull={policy}" in run[: run.index(image)]
    assert run[run.index(image) + 1] == "python"


@pytest.mark.parametrize(("platform", "value"), [("tpu", "tpu"), ("any", "")])
def test_jax_uses_the_tpu_or_fails(worker, platform, value) -> None:
    _, (*_, run) = worker.run(f"--platform={platform}")
    assert f"--env=JAX_PLATFORMS={value}" in run


def test_directories_that_are_there_are_mounted(worker, tmp_path) -> None:
    """A mount, what is to be made below one, and a plain folder with content."""
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "data").touch()
    (tmp_path / "m").mkdir()
    options = [f"--mount={tmp_path}/m:/a", f"--mount={tmp_path}/m/new:/b:ro"]
    options += [f"--mount={tmp_path}/full:/c", "--scratch=/not/there"]
    code, (*_, run) = worker.run(*options, mounted=f"{tmp_path}/m")
    assert code == 0
    volumes = [word for word in run if word.startswith("--volume=")]
    assert volumes == [
        f"--volume={tmp_path}/m:/a",
        f"--volume={tmp_path}/m/new:/b:ro",
        f"--volume={tmp_path}/full:/c",
        "--volume=/not/there:/local",
    ]


@pytest.mark.parametrize("name", ["empty", "none", "none/deeper", "it's $(none)"])
def test_a_directory_that_nothing_mounts_ends_it(worker, tmp_path, capfd, name) -> None:
    """Docker would make an empty one, on every worker its own."""
    (tmp_path / "empty").mkdir()
    code, ran = worker.run(f"--mount={tmp_path}/{name}:/data")
    assert (code, ran) == (78, [])
    said = capfd.readouterr().err
    assert said.startswith(f"error: host: nothing is mounted at {tmp_path}/{name} and")


@pytest.mark.parametrize("mounted", [True, False])
def test_buckets_are_mounted_once(worker, mounted) -> None:
    if mounted:
        (worker.folder / "mounted").touch()
    code, ran = worker.run("--bucket=gs://my-data/a dir:/data:uid=7,rename-dir-limit=9")
    assert code == 0
    place = "/mnt/unitoken/0-my-data"
    assert f"--volume={place}:/data" in ran[-1]
    assert ran[:-2] == (
        []
        if mounted
        else [
            ["mkdir", "--parents", place],
            [
                *("gcsfuse", "-o", "allow_other", "--implicit-dirs"),
                *("--only-dir=a dir", "--uid=7", "--rename-dir-limit=9", "my-data"),
                place,
            ],
        ]
    )


def test_a_bucket_that_cannot_be_mounted_ends_the_try(worker) -> None:
    code, ran = worker.run("--bucket=my-data", gcsfuse=3)
    assert code == 3
    assert not any(words[0] == "docker" for words in ran)


def test_a_worker_without_gcsfuse(worker, capfd) -> None:
    (worker.folder / "gcsfuse").unlink()
    assert worker.run("--bucket=my-data") == (78, [])
    assert "there is no gcsfuse: install it by --setup" in capfd.readouterr().err


def test_a_token_of_the_service_account_logs_in(worker) -> None:
    code, (login, *_) = worker.run("--registry_login=metadata", image="a.dev/p/r/i:1")
    assert code == 0
    user = ["--username", "oauth2accesstoken", "--password-stdin"]
    assert login == ["docker", "login", *user, "a.dev"]
    assert (worker.folder / "password").read_text() == "a.b-c_\n"


def test_the_helper_of_gcloud_logs_in(worker) -> None:
    code, (login, *_) = worker.run("--registry_login=gcloud", image="a.dev:5/p/r/i")
    assert (code, login[:3]) == (0, ["gcloud", "auth", "configure-docker"])
    assert login[3:] == ["a.dev:5", "--quiet"]


@pytest.mark.parametrize(
    "setup", ["false", "exit 3", "true; false # why", "echo 'a b' >&2 && false"]
)
def test_a_setup_that_fails_ends_the_try(worker, setup) -> None:
    code, ran = worker.run(f"--setup={setup}")
    assert code in (1, 3)
    assert ran == []


def test_a_setup_stands_alone(worker) -> None:
    code, ran = worker.run("--setup=cd / # and no more")
    assert (code, len(ran)) == (0, 2)


def test_shellcheck_finds_nothing(worker) -> None:
    options = ["--mount=/a b:/data", "--bucket=my-data:/b", "--setup=true"]
    worker.run(*options, "--registry_login=metadata")
    done = subprocess.run(
        [SHELLCHECK, "--shell=bash", "--severity=style", "-"],
        input=worker.command,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == ""


TEXT = st.text(st.characters(exclude_characters="\0", codec="utf-8"), min_size=1)


@settings(max_examples=10, deadline=None)
@given(words=st.lists(TEXT), folder=TEXT, variable=TEXT)
def test_values_arrive_as_they_are(words, folder, variable) -> None:
    """Through two shells; also as directories, and as what is set up."""
    with tempfile.TemporaryDirectory() as place:
        path = f"{place}/x{folder.replace(':', '')}x"
        worker = Worker(Path(place))
        setup = script.quote(["docker", "setup", variable])
        options = [f"--mount={path}:/data", f"--setup={setup}", "--", *words]
        code, ran = worker.run(*options, mounted=place)
    assert code == 0
    assert ran[0] == ["docker", "setup", variable]
    assert f"--volume={path}:/data" in ran[-1]
    end = [*words, "--", "--config=c.py", "--coordinator=auto"]
    assert ran[-1][-len(end) :] == end
