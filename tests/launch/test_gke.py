"""The JobSet: valid for Kubernetes, and waited for."""

import signal

import jsonschema
import kubernetes_validate
import pytest
import yaml
from fake_cloud import FakeCloud

from launch import gke
from launch.signals import PREEMPTED
from unitoken_jax.config import UserError

VERSION = "1.34"  # of Kubernetes
TRAIN = ["--", "--config=c.py", "--workdir=/data/a"]
WORDS = ["--image=host/i:1", "--accelerator=tpu-v5p-slice", "--topology=4x4x4"]

_NAME = {"type": "string", "pattern": "^[a-z]([a-z0-9-]*[a-z0-9])?$"}
_REASONS = ("BackoffLimitExceeded", "DeadlineExceeded", "FailedIndexes")
# JobSet's own fields (jobset.x-k8s.io/v1alpha2) as far as they may be used here; the
# templates in it are jobs, which kubernetes_validate knows.
JOBSET = {
    "type": "object",
    "additionalProperties": False,
    "required": ["apiVersion", "kind", "metadata", "spec"],
    "properties": {
        "apiVersion": {"const": "jobset.x-k8s.io/v1alpha2"},
        "kind": {"const": "JobSet"},
        "metadata": {"type": "object", "required": ["name"]},
        "spec": {
            "type": "object",
            "additionalProperties": False,
            "required": ["replicatedJobs"],
            "properties": {
                "failurePolicy": {
                    "type": "object",
                    "additionalProperties": False,
                    "properties": {
                        "maxRestarts": {"type": "integer", "minimum": 0},
                        "rules": {
                            "type": "array",
                            "maxItems": 20,
                            "items": {
                                "type": "object",
                                "additionalProperties": False,
                                "required": ["name", "action"],
                                "properties": {
                                    "name": {
                                        "type": "string",
                                        "pattern": "^[A-Za-z]([A-Za-z0-9_,:]*)$",
                                    },
                                    "action": {
                                        "enum": [
                                            "FailJobSet",
                                            "RestartJobSet",
                                            "RestartJobSetAndIgnoreMaxRestarts",
                                        ]
                                    },
                                    "onJobFailureReasons": {
                                        "type": "array",
                                        "items": {
                                            "enum": [
                                                *_REASONS,
                                                "MaxFailedIndexesExceeded",
                                                "PodFailurePolicy",
                                            ]
                                        },
                                    },
                                },
                            },
                        },
                    },
                },
                "replicatedJobs": {
                    "type": "array",
                    "minItems": 1,
                    "items": {
                        "type": "object",
                        "additionalProperties": False,
                        "required": ["name", "template"],
                        "properties": {
                            "name": _NAME,
                            "replicas": {"type": "integer", "minimum": 1},
                            "template": {"type": "object", "required": ["spec"]},
                        },
                    },
                },
            },
        },
    },
}


def manifest(*options: str) -> dict:
    text, _ = gke.render([*WORDS, *options, *TRAIN])
    (document,) = text.split("<<'END'\n")[1:]
    return yaml.safe_load(document.split("\nEND\n")[0])


def validate(content: dict) -> None:
    jsonschema.validate(content, JOBSET)
    for replicated in content["spec"]["replicatedJobs"]:
        job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "job"}}
        job["spec"] = replicated["template"]["spec"]
        kubernetes_validate.validate(job, VERSION, strict=True)


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--spot", "--secret=s", "--claim=c", "--slices=4", "--retries=9"),
        ("--scratch=/dev/shm/unitoken",),
    ],
    ids=["bare", "full", "scratch"],
)
def test_the_manifest_is_valid(options) -> None:
    validate(manifest(*options))


def test_a_wrong_manifest_is_noticed() -> None:
    content = manifest()
    content["spec"]["replicatedJobs"][0]["template"]["spec"]["paralellism"] = 1
    with pytest.raises(kubernetes_validate.ValidationError, match="paralellism"):
        validate(content)
    content = manifest()
    content["spec"]["failurePolicy"]["maxRestart"] = 1
    with pytest.raises(jsonschema.ValidationError, match="maxRestart"):
        validate(content)


def test_hosts_slices_and_secrets() -> None:
    content = manifest("--slices=2", "--secret=s", "--claim=c", "--spot")
    (replicated,) = content["spec"]["replicatedJobs"]
    job = replicated["template"]["spec"]
    pod = job["template"]["spec"]
    assert replicated["replicas"] == 2
    assert job["parallelism"] == job["completions"] == 16
    assert pod["nodeSelector"]["cloud.google.com/gke-spot"] == "true"
    (container,) = pod["containers"]
    assert container["envFrom"] == [{"secretRef": {"name": "s"}}]
    assert container["command"][-3:] == [*TRAIN[1:], "--coordinator=auto"]
    mounts = {volume["mountPath"] for volume in container["volumeMounts"]}
    assert mounts == {"/dev/shm", "/data"}


def test_a_directory_of_the_nodes_outlives_the_pods() -> None:
    (replicated,) = manifest("--scratch=/mnt/disks/a")["spec"]["replicatedJobs"]
    pod = replicated["template"]["spec"]["template"]["spec"]
    (volume,) = (v for v in pod["volumes"] if v["name"] == "scratch")
    assert volume["hostPath"]["path"] == "/mnt/disks/a"
    (container,) = pod["containers"]
    assert {"name": "scratch", "mountPath": "/local"} in container["volumeMounts"]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--topology=4x4"], "name --accelerator and --topology"),
        (["--accelerator=a", "--topology=4by4"], "expected sides such as"),
        (["--accelerator=a", "--topology=1x1"], "set --chips_per_host"),
        ([*WORDS, "--scratch=local"], "--scratch=local: expected a path from the root"),
        (["--cluster=c", "--scratch=/l"], "--scratch is of .* --cluster"),
        (["--cluster=c"], "xpk needs --type"),
        (["--cluster=c", "--claim=d"], "--claim is of .* --cluster of a workload"),
        (["--cluster=c", "--secret=s"], "--secret is of .* --cluster of a workload"),
        (["--cluster=c", "--topology=4x4"], "--topology is of .* --cluster"),
        ([*WORDS, "--env_file=e"], "--env_file is of .* needs --cluster"),
        ([*WORDS, "--zone=z"], "--zone is of .* needs --cluster"),
        (["--cluster=c", "--type=t", "--env_file=e"], "--env_file=e: there is no such"),
    ],
)
def test_options_that_do_not_fit(options, sentence) -> None:
    with pytest.raises(UserError, match=sentence):
        gke.render(["--image=i", *options, *TRAIN])


@pytest.mark.parametrize(("state", "code"), [("Completed", 0), ("Failed", 1)])
def test_waiting_for_the_end(tmp_path, state, code) -> None:
    cloud = FakeCloud(tmp_path)
    cloud.decide(
        "kubectl",
        'if [ "$1" = apply ]; then cat > "$FOLDER/applied"; exit; fi\n'
        'if [ "$3" = --ignore-not-found ]; then exit; fi\n'
        'if [ -f "$FOLDER/asked" ]; then echo ' + state + "; fi\n"
        'touch "$FOLDER/asked"\n',
    )
    text, _ = gke.render([*WORDS, "--name=n", "--wait", *TRAIN])
    assert cloud.run(text) == code
    validate(yaml.safe_load((tmp_path / "applied").read_text()))
    output = "--output=jsonpath={.status.terminalState}"
    get, look = (
        f"kubectl get jobset/n{x} {output}" for x in ("", " --ignore-not-found")
    )
    assert cloud.calls == [look, "kubectl apply --filename=-", get, "sleep 30", get]


@pytest.mark.parametrize(
    ("said", "tries"), [("Error from server (NotFound)", 1), ("no route to host", 20)]
)
def test_faults_of_kubectl_while_waiting(tmp_path, capfd, said, tries) -> None:
    cloud = FakeCloud(tmp_path)
    cloud.decide(
        "kubectl",
        'if [ "$1" != get ] || [ "$3" = --ignore-not-found ]; then exit; fi\n'
        f'echo "{said}" >&2; exit 1\n',
    )
    assert cloud.run(gke.render([*WORDS, "--name=n", "--wait", *TRAIN])[0]) == 1
    looks = [call for call in cloud.calls if call.startswith("kubectl get")]
    assert len(looks) == 1 + tries
    assert (
        "deleted by somebody else" if tries == 1 else said
    ) in capfd.readouterr().err


def test_a_passing_fault_does_not_end_the_wait(tmp_path) -> None:
    cloud = FakeCloud(tmp_path)
    cloud.decide(
        "kubectl",
        'if [ "$1" != get ] || [ "$3" = --ignore-not-found ]; then exit; fi\n'
        'echo x >> "$FOLDER/looks"\n'
        'if [ "$(wc -l < "$FOLDER/looks")" -lt 5 ]; then exit 1; fi; echo Completed\n',
    )
    assert cloud.run(gke.render([*WORDS, "--wait", *TRAIN])[0]) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_asking_the_launcher_deletes_the_set(tmp_path, number) -> None:
    cloud = FakeCloud(tmp_path)
    cloud.decide("sleep", 'touch "$FOLDER/up"; exec /bin/sleep 30')
    words = [*WORDS, "--name=n", "--wait", *TRAIN]
    code, said = cloud.interrupt("gke", words, number)
    assert code == PREEMPTED
    if number != signal.SIGHUP:
        assert "jobset/n is deleted once it has saved; the same command goes" in said
    assert "Traceback" not in said
    assert cloud.calls[-1] == "kubectl delete jobset/n --cascade=foreground"


def test_asking_the_launcher_deletes_the_workload(tmp_path) -> None:
    cloud = FakeCloud(tmp_path)
    wait = 'if [ "$2" = list ]; then touch "$FOLDER/up"; exec /bin/sleep 30; fi'
    cloud.decide("xpk", wait)
    words = ["--image=i", "--cluster=c", "--type=t", "--name=n", "--wait", *TRAIN]
    code, said = cloud.interrupt("gke", words, signal.SIGTERM)
    assert code == PREEMPTED
    assert "the workload is deleted once it has saved" in said
    assert cloud.calls[-1] == "xpk workload delete --cluster=c --workload=n"


def test_a_set_that_has_ended_is_replaced(tmp_path) -> None:
    cloud = FakeCloud(tmp_path)
    cloud.decide("kubectl", 'if [ "$1" = get ]; then echo Failed; fi\n')
    assert cloud.run(gke.render([*WORDS, "--name=n", *TRAIN])[0]) == 0
    verbs = [call.split()[1] for call in cloud.calls]
    assert verbs == ["get", "delete", "apply"]


def test_names_become_those_of_kubernetes() -> None:
    assert manifest("--name=dual_4-1_Seed5")["metadata"]["name"] == "dual-4-1-seed5"
    assert manifest("--name=1e-4_seed5")["metadata"]["name"] == "run-1e-4-seed5"
    with pytest.raises(UserError, match="longer than 40"):
        manifest(f"--name={'a' * 41}")


def test_xpk_gets_one_command(tmp_path) -> None:
    cloud = FakeCloud(tmp_path)
    words = ["--image=i", "--cluster=c", "--type=v5p-128", "--zone=z", "--wait"]
    assert cloud.run(gke.render([*words, "--name=n", *TRAIN])[0]) == 0
    create, wait = cloud.calls
    assert create.startswith("xpk workload create --cluster=c --workload=n --tpu-type")
    assert "--command=python -m launch.worker -- python -m unitoken_jax" in create
    assert "--restart-on-exit-codes=1,75" in create
    assert wait == (
        "xpk workload list --cluster=c --wait-for-job-completion=n --zone=z"
    )
