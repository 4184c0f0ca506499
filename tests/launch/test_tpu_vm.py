"""The slice of TPU VMs: made, used, and made again when it was taken away."""

import signal

import pytest
from fake_cloud import FakeCloud

from launch import tpu_vm
from launch.signals import PREEMPTED
from unitoken_jax.config import UserError

WORDS = [
    *("--tpu=t", "--zone=z", "--type=v5p-128", "--version=v", "--image=i", "--spot"),
    *("--", "--config=c.py", "--workdir=/data/a"),
]
# The slice's state stands in a file; what happens to it, in `ssh.sh`.
GCLOUD = """
shift 3
case "$1" in
  describe)
    if [ -f "$FOLDER/hiccup" ]; then rm "$FOLDER/hiccup"; exit 1; fi
    cat "$FOLDER/state" 2>/dev/null || { echo "NOT_FOUND: no t" >&2; exit 1; } ;;
  create) echo READY > "$FOLDER/state" ;;
  delete) rm "$FOLDER/state" ;;
  ssh) . "$FOLDER/ssh.sh" ;;
esac
"""


def run(folder, words, ssh: str) -> tuple[int, list[str]]:
    """The exit code, and the words of gcloud without those that say where."""
    cloud = FakeCloud(folder)
    cloud.decide("gcloud", GCLOUD)
    (folder / "ssh.sh").write_text(ssh)
    code = cloud.run(tpu_vm.render(words)[0])
    calls = [call.split()[4] if "gcloud" in call else call for call in cloud.calls]
    return code, [call for call in calls if call != "describe"]


def test_a_slice_is_made_and_used(tmp_path) -> None:
    code, calls = run(tmp_path, WORDS, "exit 0")
    assert (code, calls) == (0, ["create", "ssh"])
    lines = FakeCloud(tmp_path).calls
    assert "--accelerator-type=v5p-128 --version=v --spot --zone=z" in lines[1]
    assert "--worker=all" in lines[2]
    assert "python -m unitoken_jax.train --config=c.py" in lines[2]
    assert "--coordinator=auto" in lines[2]


def test_a_slice_that_exists_is_used_and_deleted(tmp_path) -> None:
    (tmp_path / "state").write_text("READY\n")
    code, calls = run(tmp_path, ["--delete", *WORDS], "exit 0")
    assert (code, calls) == (0, ["ssh", "delete"])


def test_a_preempted_slice_is_made_again(tmp_path) -> None:
    taken_twice = """
echo x >> "$FOLDER/tries"
if [ "$(wc -l < "$FOLDER/tries")" -le 2 ]; then
  echo PREEMPTED > "$FOLDER/state"
  exit 255
fi
"""
    code, calls = run(tmp_path, ["--retries=0", *WORDS], taken_twice)
    assert code == 0
    assert calls == ["create", "ssh", *("sleep 60", "delete", "create", "ssh") * 2]


@pytest.mark.parametrize("code", [75, 255])
def test_a_slice_is_called_ready_while_it_is_taken_away(tmp_path, code) -> None:
    """Its machines are told to end, or their connections end, before that."""
    once = f'rm "$FOLDER/first" 2>/dev/null && exit {code}; exit 0'
    (tmp_path / "first").touch()
    FakeCloud(tmp_path).decide("sleep", 'echo PREEMPTED > "$FOLDER/state"')
    code, calls = run(tmp_path, ["--retries=0", *WORDS], once)
    assert code == 0
    assert calls == ["create", "ssh", "sleep 60", "delete", "create", "ssh"]


def test_failures_on_a_slice_that_stays_are_counted(tmp_path) -> None:
    """In the end no worker runs on, and nothing costs more than it must."""
    code, calls = run(tmp_path, ["--retries=2", "--delete", *WORDS], "exit 3")
    assert code == 3
    assert calls == ["create", *("ssh", "sleep 60") * 3, "ssh", "delete"]
    assert "--command=sudo docker stop unitoken" in FakeCloud(tmp_path).calls[-2]


def test_a_run_that_others_stop_is_not_started_for_ever(tmp_path) -> None:
    """Nor does it stop the others once more, or take their slice, as it gives up."""
    code, calls = run(tmp_path, ["--retries=2", "--delete", *WORDS], "exit 75")
    assert (code, calls) == (75, ["create", *("ssh", "sleep 60") * 3])


def test_waiting_for_a_slice_has_an_end(tmp_path) -> None:
    (tmp_path / "state").write_text("REPAIRING\n")
    code, calls = run(tmp_path, ["--minutes=2", *WORDS], "exit 0")
    assert (code, calls) == (75, ["sleep 60", "sleep 60"])


@pytest.mark.parametrize("what", ["describe", "create"])
def test_faults_of_gcloud_end_it_at_once(tmp_path, capfd, what) -> None:
    cloud = FakeCloud(tmp_path)
    absent = "echo NOT_FOUND >&2; exit 1"
    denied = "echo PERMISSION_DENIED: p >&2; exit 1"
    cloud.decide("gcloud", f'if [ "$4" = {what} ]; then {denied}; fi; {absent}')
    assert cloud.run(tpu_vm.render(WORDS)[0]) == 1
    assert capfd.readouterr().err == "PERMISSION_DENIED: p\n"
    assert not any("sleep" in call for call in cloud.calls)


def test_a_slice_that_is_not_free_is_waited_for(tmp_path) -> None:
    cloud = FakeCloud(tmp_path)
    cloud.decide(
        "gcloud",
        'if [ "$4" = create ]; then echo "no more capacity in z" >&2; exit 1; fi\n'
        'if [ "$4" = describe ]; then echo NOT_FOUND >&2; exit 1; fi\n',
    )
    assert cloud.run(tpu_vm.render(["--minutes=2", *WORDS])[0]) == 75
    assert cloud.calls.count("sleep 60") == 2


def test_without_gcloud_there_is_a_sentence(tmp_path, capfd) -> None:
    cloud = FakeCloud(tmp_path)
    (tmp_path / "gcloud").unlink()
    assert cloud.run(f"PATH={tmp_path}\n{tpu_vm.render(WORDS)[0]}") == 1
    assert capfd.readouterr().err.startswith("error: there is no gcloud here")


def test_a_state_that_cannot_be_read_for_a_moment(tmp_path) -> None:
    """It is not taken for a slice that is gone: the failure counts."""
    ssh = 'touch "$FOLDER/hiccup"; exit 3'
    code, calls = run(tmp_path, ["--retries=0", *WORDS], ssh)
    assert (code, calls) == (3, ["create", "ssh", "sleep 60", "sleep 60", "ssh"])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_asking_the_launcher_stops_the_containers(tmp_path, number) -> None:
    (tmp_path / "state").write_text("READY\n")
    cloud = FakeCloud(tmp_path)
    cloud.decide("gcloud", GCLOUD)
    (tmp_path / "ssh.sh").write_text(
        'case "$*" in\n'
        '  *"docker run"*) touch "$FOLDER/up"\n'
        '    until [ -f "$FOLDER/told" ]; do /bin/sleep 0.02; done\n'
        '    echo saved >> "$FOLDER/calls"; exit 75 ;;\n'
        '  *"docker stop"*) touch "$FOLDER/told" ;;\n'
        "esac\n"
    )
    code, said = cloud.interrupt("tpu_vm", ["--name=n", "--delete", *WORDS], number)
    assert code == PREEMPTED
    if number != signal.SIGHUP:
        assert said == "the run is asked to end; the same command goes on\n"
    *_, stop, saved, delete = cloud.calls
    assert "--worker=all --command=sudo docker stop n" in stop
    assert (saved, delete.split()[4]) == ("saved", "delete")


def test_asking_the_launcher_before_it_starts_again(tmp_path) -> None:
    """Some workers may run on."""
    (tmp_path / "state").write_text("READY\n")
    cloud = FakeCloud(tmp_path)
    cloud.decide("gcloud", GCLOUD)
    (tmp_path / "ssh.sh").write_text("exit 255")
    cloud.decide("sleep", 'touch "$FOLDER/up"; exec /bin/sleep 30')
    words = ["--name=n", "--delete", *WORDS]
    code, _ = cloud.interrupt("tpu_vm", words, signal.SIGTERM)
    assert code == PREEMPTED
    *_, pause, stop, delete = cloud.calls
    assert pause == "sleep 60"
    assert "--worker=all --command=sudo docker stop n" in stop
    assert delete.split()[4] == "delete"


def test_a_slice_that_never_comes_is_deleted_too(tmp_path) -> None:
    (tmp_path / "state").write_text("REPAIRING\n")
    code, calls = run(tmp_path, ["--minutes=1", "--delete", *WORDS], "exit 0")
    assert (code, calls) == (75, ["sleep 60", "delete"])


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        ("--env_file=none.env", "--env_file=none.env: there is no such file"),
        ("--mount=nope", "--mount: expected SOURCE:TARGET"),
        ("--mount=/a:b", "--mount: expected SOURCE:TARGET"),
        ("--minutes=-1", "--minutes: expected a whole number of 0 or more"),
    ],
)
def test_wrong_options_are_found_before_a_slice_is_made(option, sentence) -> None:
    with pytest.raises(UserError, match=sentence):
        tpu_vm.render([option, *WORDS])


@pytest.mark.parametrize("given", [True, False])
def test_secrets_are_copied_not_shown(tmp_path, given) -> None:
    file = tmp_path / "my.env"
    file.write_text("TOKEN=hidden\n")
    words = [f"--env_file={file}", *WORDS] if given else WORDS
    assert "hidden" not in tpu_vm.render(words)[0]
    _, calls = run(tmp_path, words, "exit 0")
    assert calls == (["create", "scp", "ssh"] if given else ["create", "ssh"])
    assert ("--env-file=unitoken.env" in FakeCloud(tmp_path).calls[-1]) == given
