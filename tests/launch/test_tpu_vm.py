"""The slice of TPU VMs: made, used, and made again when it was taken away."""

import signal
import time

import pytest
from fake_cloud import FakeCloud

from launch import tpu_vm
from launch.signals import PREEMPTED
from unitoken_jax.errors import REFUSED, UserError

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
    script, _ = tpu_vm.render(WORDS)
    assert "--workdir=/data/a lies on nothing" in capfd.readouterr().err
    assert cloud.run(script) == 1
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
    script, _ = tpu_vm.render(WORDS)
    capfd.readouterr()  # a warning of the folder
    assert cloud.run(f"PATH={tmp_path}\n{script}") == 1
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
        '  *"docker run"*) : > "$FOLDER/up"\n'
        '    until [ -f "$FOLDER/told" ]; do /bin/sleep 0.02; done\n'
        '    echo saved >> "$FOLDER/calls"; exit 75 ;;\n'
        '  *"docker stop"*) touch "$FOLDER/told" ;;\n'
        "esac\n"
    )
    code, said = cloud.interrupt("tpu_vm", ["--name=n", "--delete", *WORDS], number)
    assert code == PREEMPTED
    if number != signal.SIGHUP:
        assert said.endswith("the run is asked to end; the same command goes on\n")
    *_, stop, saved, delete = cloud.calls
    assert "--worker=all --command=sudo docker stop n" in stop
    assert (saved, delete.split()[4]) == ("saved", "delete")


def test_a_killed_launcher_leaves_no_orphan(tmp_path) -> None:
    (tmp_path / "state").write_text("READY\n")
    cloud = FakeCloud(tmp_path)
    cloud.decide("gcloud", GCLOUD)
    (tmp_path / "ssh.sh").write_text(
        'case "$*" in\n'
        '  *"docker run"*) : > "$FOLDER/up"\n'
        '    until [ -f "$FOLDER/told" ]; do /bin/sleep 0.02; done ;;\n'
        '  *"docker stop"*) touch "$FOLDER/told" ;;\n'
        "esac\n"
    )
    code, _ = cloud.interrupt("tpu_vm", ["--name=n", *WORDS], signal.SIGKILL)
    assert code == -signal.SIGKILL
    limit = time.monotonic() + 30
    while not (tmp_path / "told").exists():
        assert time.monotonic() < limit
        time.sleep(0.02)


def test_asking_the_launcher_before_it_starts_again(tmp_path) -> None:
    """Some workers may run on."""
    (tmp_path / "state").write_text("READY\n")
    cloud = FakeCloud(tmp_path)
    cloud.decide("gcloud", GCLOUD)
    (tmp_path / "ssh.sh").write_text("exit 255")
    cloud.decide("sleep", ': > "$FOLDER/up"; exec /bin/sleep 30')
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
        ("--mount=volume:/data", "--mount: expected SOURCE:TARGET, both from the root"),
        ("--mount=/a:/", "'/' is no directory below the root"),
        ("--mount=/a:/b:rw,x", "docker knows no option 'x'"),
        ("--mount=gs://b:/data", "is a bucket and no directory.*--bucket mounts it"),
        ("--bucket=B:/data", "'B' is no name of a bucket"),
        ("--bucket=my-bucket:data", "'data' is no directory below the root"),
        ("--scratch=local", "--scratch=local: expected a path from the root"),
        ("--best_effort", "--best_effort is of a request in the queue: add --queued"),
        ("--guaranteed", "--guaranteed is of a request in the queue"),
        ("--request=r", "--request is of a request in the queue"),
        ("--valid_until_duration=6h", "--valid_until_duration is of a request"),
        ("--reserved", "--spot and --reserved exclude each other"),
        ("--pull=sometimes", "--pull: invalid choice: 'sometimes'"),
        ("--registry_login=gcloud", "--image=i names no registry"),
        ("--setup=echo 'a", "--setup is no bash: .*unexpected EOF"),
        ("--gcloud_flag=labels=a", "--gcloud_flag='labels=a': expected a flag of"),
        ("--gcloud_flag=", "--gcloud_flag='': expected a flag of"),
        ("--gcloud_flag=--zone=b", "--zone is set by the launcher; use --zone"),
        ("--gcloud_flag=--async", "it waits until there is a slice"),
        ("--ssh_flag=--command=ls", "--command is set by the launcher"),
        ("--platform=gpu", "--platform: invalid choice: 'gpu'"),
        ("--name= ", "--name: is empty"),
        ("--minutes=-1", "--minutes: expected a whole number of 0 or more"),
    ],
)
def test_wrong_options_are_found_before_a_slice_is_made(option, sentence) -> None:
    with pytest.raises(UserError, match=sentence):
        tpu_vm.render([option, *WORDS])


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--spot", "--guaranteed"], "--spot and --guaranteed exclude each other"),
        (["--best_effort", "--reserved"], "--best_effort and --reserved exclude"),
        (["--valid_until_duration=soon"], "expected a time such as 90m"),
        (["--valid_until_duration=-6h"], "expected a time such as 90m"),
        (["--best_effort", "--track=beta"], "leave out --track=beta"),
        (["--mount=/a:/data", "--bucket=a-b:/data/"], "two directories are mounted at"),
        (["--registry_login=gcloud", "--pull=never"], "--pull=never does not"),
    ],
)
def test_options_that_exclude_each_other(options, sentence) -> None:
    words = [word for word in WORDS if word != "--spot"]
    with pytest.raises(UserError, match=sentence):
        tpu_vm.render(["--queued", *options, *words])


@pytest.mark.parametrize(
    ("options", "flags"),
    [
        (["--service_account=a@b"], "--service-account=a@b --zone"),
        (["--network=n", "--subnetwork=s"], "--network=n --subnetwork=s --zone"),
        (["--internal_ips"], "--spot --internal-ips --zone"),
        (["--gcloud_flag=--labels=a=b"], "--spot --labels=a=b --zone"),
        (["--gcloud_flag", "--labels=a=b"], "--spot --labels=a=b --zone"),
        (["--gcloud_flag=--account=me", "--project=p"], "--project=p --account=me"),
    ],
)
def test_flags_of_the_command_that_makes_the_slice(tmp_path, options, flags) -> None:
    assert run(tmp_path, [*options, *WORDS], "exit 0")[0] == 0
    _, create, ssh = FakeCloud(tmp_path).calls
    assert flags in create
    assert ("--account" in ssh) == ("--account" in create)
    assert "--labels" not in ssh
    assert ("--internal-ip " in ssh) == ("--internal_ips" in options)


def test_workers_that_are_reached_through_a_proxy(tmp_path) -> None:
    file = tmp_path / "my.env"
    file.touch()
    words = ["--tunnel_through_iap", f"--env_file={file}"]
    words += ["--ssh_flag", "--ssh-key-file=k", "--ssh_flag=--ssh-flag=-v", *WORDS]
    cloud = FakeCloud(tmp_path)
    cloud.decide("gcloud", f"shift\n{GCLOUD}")
    (tmp_path / "ssh.sh").write_text("exit 0")
    assert cloud.run(tpu_vm.render(words)[0]) == 0
    describe, create, scp, ssh = cloud.calls
    assert describe.startswith("gcloud alpha compute tpus tpu-vm describe t")
    assert "iap" not in create
    assert "--tunnel-through-iap --ssh-key-file=k --zone" in scp
    assert "--tunnel-through-iap --ssh-key-file=k --ssh-flag=-v --command" in ssh


# The request's state stands in a file; WAITING becomes ACTIVE at the third look.
QUEUE = """
if [ "$3" = queued-resources ]; then
  case "$4" in
    describe)
      state=$(cat "$FOLDER/request" 2>/dev/null) || { echo NOT_FOUND >&2; exit 1; }
      echo "$state"
      echo x >> "$FOLDER/looks"
      if [ "$state" = WAITING_FOR_RESOURCES ] &&
        [ "$(wc -l < "$FOLDER/looks")" -ge 2 ] && [ ! -f "$FOLDER/never" ]; then
        echo ACTIVE > "$FOLDER/request"; echo READY > "$FOLDER/state"
      fi ;;
    create) echo WAITING_FOR_RESOURCES > "$FOLDER/request"; : > "$FOLDER/looks" ;;
    delete) rm -f "$FOLDER/request" "$FOLDER/state" ;;
  esac
  exit
fi
"""


def run_queued(folder, options, ssh: str) -> tuple[int, list[str]]:
    """The exit code; 'queue VERB', 'VERB' of the slice and pauses, without looks."""
    cloud = FakeCloud(folder)
    cloud.decide("gcloud", f"{QUEUE}{GCLOUD}")
    (folder / "ssh.sh").write_text(ssh)
    code = cloud.run(tpu_vm.render(["--queued", *options, *WORDS])[0])
    calls = []
    for call in cloud.calls:
        words = call.split()
        if words[0] == "gcloud" and words[4] != "describe":
            calls.append(f"{'queue ' * (words[3] != 'tpu-vm')}{words[4]}")
        elif words[0] != "gcloud":
            calls.append(call)
    return code, calls


def test_a_slice_is_asked_for_in_the_queue(tmp_path) -> None:
    options = ["--valid_until_duration=6h", "--request=r"]
    code, calls = run_queued(tmp_path, options, "exit 0")
    assert (code, calls) == (0, ["queue create", *["sleep 60"] * 3, "ssh"])
    create = next(call for call in FakeCloud(tmp_path).calls if " create " in call)
    assert create.startswith(
        "gcloud compute tpus queued-resources create r --node-id=t"
    )
    assert "--accelerator-type=v5p-128 --runtime-version=v --spot" in create
    assert "--valid-until-duration=6h --zone=z" in create


def test_a_preempted_slice_is_asked_for_again(tmp_path) -> None:
    once = (
        'if [ ! -f "$FOLDER/once" ]; then touch "$FOLDER/once"\n'
        'echo PREEMPTED > "$FOLDER/state"; echo SUSPENDED > "$FOLDER/request"\n'
        "exit 255; fi\n"
    )
    code, calls = run_queued(tmp_path, ["--retries=0"], once)
    assert code == 0
    made = ["queue create", *["sleep 60"] * 3, "ssh"]
    assert calls == [*made, "sleep 60", "queue delete", *made]
    deleted = [call for call in FakeCloud(tmp_path).calls if " delete " in call]
    assert "queued-resources delete t --force --quiet" in deleted[0]


def test_a_request_that_fails_ends_it(tmp_path, capfd) -> None:
    (tmp_path / "request").write_text("FAILED\n")
    code, calls = run_queued(tmp_path, [], "exit 0")
    assert (code, calls) == (1, ["queue delete"])
    assert "the request t for the slice has failed:\nFAILED" in "\n".join(
        "".join(capfd.readouterr()[::-1]).splitlines()
    )


@pytest.mark.parametrize("delete", [[], ["--delete"]])
def test_a_request_that_is_not_met_is_taken_back(tmp_path, delete) -> None:
    """A slice that comes later would stand there, and cost."""
    (tmp_path / "never").touch()
    code, calls = run_queued(tmp_path, ["--minutes=1", *delete], "exit 0")
    assert (code, calls) == (75, ["queue create", "sleep 60", "queue delete"])


def test_a_request_of_somebody_else_is_not_taken_back(tmp_path) -> None:
    (tmp_path / "never").touch()
    (tmp_path / "request").write_text("WAITING_FOR_RESOURCES\n")
    code, calls = run_queued(tmp_path, ["--minutes=1"], "exit 0")
    assert (code, calls) == (75, ["sleep 60"])


def test_a_slice_of_a_request_is_deleted_with_it(tmp_path) -> None:
    (tmp_path / "state").write_text("READY\n")
    (tmp_path / "request").write_text("ACTIVE\n")
    code, calls = run_queued(tmp_path, ["--delete"], "exit 0")
    assert (code, calls) == (0, ["ssh", "queue delete"])


def test_a_slice_without_a_request_is_deleted_too(tmp_path) -> None:
    (tmp_path / "state").write_text("READY\n")
    assert run_queued(tmp_path, ["--delete"], "exit 0") == (0, ["ssh", "delete"])


def test_best_effort_is_of_alpha() -> None:
    words = [word for word in WORDS if word != "--spot"]
    text, _ = tpu_vm.render(["--queued", "--best_effort", *words])
    assert "gcloud alpha compute tpus queued-resources" in text
    assert "--best-effort" in text


def test_what_a_worker_lacks_is_not_tried_again(tmp_path) -> None:
    """Other workers may have begun, and wait for it."""
    code, calls = run(tmp_path, WORDS, f"exit {REFUSED}")
    assert (code, calls) == (REFUSED, ["create", "ssh", "sleep 60", "ssh"])
    assert "docker stop" in FakeCloud(tmp_path).calls[-1]


@pytest.mark.parametrize("given", [True, False])
def test_secrets_are_copied_not_shown(tmp_path, given) -> None:
    file = tmp_path / "my.env"
    file.write_text("TOKEN=hidden\n")
    words = [f"--env_file={file}", *WORDS] if given else WORDS
    assert "hidden" not in tpu_vm.render(words)[0]
    _, calls = run(tmp_path, words, "exit 0")
    assert calls == (["create", "scp", "ssh"] if given else ["create", "ssh"])
    assert ("--env-file=unitoken.env" in FakeCloud(tmp_path).calls[-1]) == given
