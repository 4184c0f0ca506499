"""The JobSet: valid for Kubernetes, and waited for."""

import re
import shlex
import signal
import tempfile
from pathlib import Path

import jsonschema
import kubernetes_validate
import pytest
import yaml
from fake_cloud import FakeCloud
from hypothesis import given, settings
from hypothesis import strategies as st

from launch import gke
from launch.signals import PREEMPTED
from unitoken_jax.errors import REFUSED, UserError

VERSION = "1.34"  # of Kubernetes
TRAIN = ["--", "--config=c.py", "--workdir=/data/a"]
WORDS = ["--image=host/i:1", "--accelerator=tpu-v5p-slice", "--topology=4x4x4"]

_NAME = {"type": "string", "pattern": "^[a-z]([a-z0-9-]*[a-z0-9])?$"}
_REASONS = ("BackoffLimitExceeded", "DeadlineExceeded", "FailedIndexes")
MESSAGES = "onJobFailureMessagePatterns"
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
                                    # From version 0.10 on.
                                    "onJobFailureMessagePatterns": {
                                        "type": "array",
                                        "items": {"type": "string"},
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
        (
            *("--service_account=s", "--bucket=my-data:/data:uid=1", "--bucket=b-2:/b"),
            *("--pull_secret=p", "--pull=never", "--fuse_limit=memory=4Gi"),
        ),
        ("--claim=c:/a", "--claim=d:/b", "--plain_claims", "--host_network=off"),
    ],
    ids=["bare", "full", "scratch", "buckets", "claims"],
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


def pod_of(*options: str) -> tuple[dict, dict]:
    """The annotations and the specification of the pods."""
    (replicated,) = manifest(*options)["spec"]["replicatedJobs"]
    template = replicated["template"]["spec"]["template"]
    return template.get("metadata", {}).get("annotations", {}), template["spec"]


def test_a_bucket_is_mounted_as_the_service_account() -> None:
    annotations, pod = pod_of(
        "--bucket=gs://my-data/a:/data:uid=7,gid=8", "--service_account=trainer"
    )
    assert annotations == {
        "gke-gcsfuse/volumes": "true",
        "gke-gcsfuse/cpu-limit": "0",
        "gke-gcsfuse/memory-limit": "0",
        "gke-gcsfuse/ephemeral-storage-limit": "0",
    }
    assert pod["serviceAccountName"] == "trainer"
    (volume,) = (v for v in pod["volumes"] if "csi" in v)
    assert volume["csi"] == {
        "driver": "gcsfuse.csi.storage.gke.io",
        "volumeAttributes": {
            "bucketName": "my-data",
            "mountOptions": "implicit-dirs,only-dir=a,uid=7,gid=8",
        },
    }
    mount = {"name": volume["name"], "mountPath": "/data"}
    assert mount in pod["containers"][0]["volumeMounts"]
    # On its nodes' network the pod could not be that account.
    assert "hostNetwork" not in pod


def test_a_bucket_on_the_network_of_the_nodes() -> None:
    _, pod = pod_of("--bucket=my-data", "--host_network=on")
    (volume,) = (v for v in pod["volumes"] if "csi" in v)
    assert volume["csi"]["volumeAttributes"]["hostNetworkPodKSA"] == "true"
    assert (pod["hostNetwork"], pod["dnsPolicy"]) == (True, "ClusterFirstWithHostNet")


@pytest.mark.parametrize(
    ("options", "fuse"),
    [(["--claim=c"], True), (["--claim=c", "--plain_claims"], False), ([], False)],
)
def test_a_claim_is_of_cloud_storage_fuse_unless_it_is_not(options, fuse) -> None:
    annotations, pod = pod_of(*options)
    assert (annotations.get("gke-gcsfuse/volumes") == "true") == fuse
    assert pod.get("hostNetwork", False) != fuse
    assert "serviceAccountName" not in pod


def test_limits_of_cloud_storage_fuse() -> None:
    annotations, _ = pod_of("--claim=c", "--fuse_limit=cpu=500m")
    assert annotations["gke-gcsfuse/cpu-limit"] == "500m"
    assert annotations["gke-gcsfuse/memory-limit"] == "0"


@pytest.mark.parametrize(
    ("options", "policy"),
    [
        (["--image=i"], "Always"),
        (["--image=host:5/i:1"], "Always"),
        ([f"--image=i@sha256:{'0' * 64}"], "IfNotPresent"),
        (["--image=i", "--pull=missing"], "IfNotPresent"),
        (["--image=i", "--pull=never"], "Never"),
    ],
)
def test_tags_are_always_pulled(options, policy) -> None:
    assert pod_of(*options)[1]["containers"][0]["imagePullPolicy"] == policy


@pytest.mark.parametrize(("platform", "value"), [("tpu", "tpu"), ("any", "")])
def test_jax_uses_the_tpu_or_fails(platform, value) -> None:
    container = pod_of(f"--platform={platform}")[1]["containers"][0]
    assert container["env"] == [{"name": "JAX_PLATFORMS", "value": value}]


# An "@" begins the digest of an image, which is refused unless it is one.
TEXT = st.text(st.characters(exclude_characters="\0@", codec="utf-8"), min_size=1)


@settings(max_examples=10, deadline=None)
@given(words=st.lists(TEXT), value=TEXT)
def test_values_arrive_as_they_are(words, value) -> None:
    """What kubectl gets, and what xpk gets and its pods run."""
    value = f"x{value}"
    options = [f"--secret={value}", f"--service_account={value}", f"--scratch=/{value}"]
    options += [f"--image={value}x", "--accelerator=a", "--topology=2x2x1"]
    with tempfile.TemporaryDirectory() as folder:
        cloud = FakeCloud(Path(folder))
        cloud.decide("kubectl", '[ "$1" = get ] || cat > "$FOLDER/applied"')
        assert cloud.run(gke.render([*options, "--", *words, "-"])[0]) == 0
        content = yaml.safe_load((Path(folder) / "applied").read_bytes())
        cloud.decide("xpk", 'printf "%s\\0" "$@" > "$FOLDER/words"')
        options = ["--cluster=c", f"--type={value}", "--image=i"]
        assert cloud.run(gke.render([*options, "--", *words, "-"])[0]) == 0
        given = (Path(folder) / "words").read_bytes().decode().split("\0")
    pod = content["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
    assert pod["serviceAccountName"] == value
    assert pod["volumes"][-1]["hostPath"]["path"] == f"/{value}"
    (container,) = pod["containers"]
    assert container["image"] == f"{value}x"
    assert container["envFrom"] == [{"secretRef": {"name": value}}]
    end = ["unitoken_jax.train", *words, "-", "--coordinator=auto"]
    assert container["command"][-len(end) :] == end
    assert f"--tpu-type={value}" in given
    (command,) = (word for word in given if word.startswith("--command="))
    assert shlex.split(command.removeprefix("--command="))[-len(end) :] == end


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
        ([*WORDS, "--claim=c", "--bucket=my-data"], "two volumes are mounted at /data"),
        ([*WORDS, "--claim=:/data"], "--claim: expected NAME"),
        ([*WORDS, "--claim=c:data"], "'data' is no directory below the root"),
        ([*WORDS, "--bucket=Data"], "'Data' is no name of a bucket"),
        ([*WORDS, "--bucket=my-data:/dev/shm"], "two volumes are mounted at /dev/shm"),
        ([*WORDS, "--plain_claims"], "--plain_claims says what --claim is"),
        ([*WORDS, "--fuse_limit=cpu=1"], "--fuse_limit is of Cloud Storage FUSE"),
        ([*WORDS, "--claim=c", "--fuse_limit=gpu=1"], "expected NAME=QUANTITY"),
        ([*WORDS, "--claim=c", "--fuse_limit=cpu=much"], "expected NAME=QUANTITY"),
        ([*WORDS, "--topology=²x2"], "expected sides such as"),
        ([*WORDS, "--image=i@sha256:12"], "a digest is @sha256: and 64 digits"),
        ([*WORDS, "--image=-i"], "'-i' is no name of a container"),
        ([*WORDS, "--xpk_flag=--storage=s"], "--xpk_flag is of a workload by xpk"),
        (["--cluster=c", "--pull=always"], "--pull is of .* --cluster"),
        (
            ["--cluster=c", "--service_account=s"],
            "--service_account is of .* --cluster",
        ),
        (["--cluster=c", "--bucket=my-data"], "--bucket is of .* --cluster"),
        (["--cluster=c", "--host_network=off"], "xpk's pods are always on it"),
        (["--cluster=c", "--xpk_flag=--spot"], "--spot is set by the launcher"),
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
    calls = [look, "kubectl apply --filename=-", get, "sleep 30", get]
    assert cloud.calls[: len(calls)] == calls
    assert len(cloud.calls) == len(calls) + (state == "Failed")  # why it has


def test_what_is_refused_ends_the_set_and_the_wait(tmp_path, capfd) -> None:
    cloud = FakeCloud(tmp_path)
    cloud.decide(
        "kubectl",
        'case "$1 $*" in\n'
        "  *--ignore-not-found*) ;;\n"
        "  *.reason*) echo FailJobSetFailurePolicyAction ;;\n"
        "  get*) echo Failed ;;\n"
        '  logs*) printf "step 1\\nerror: config.a: unknown.\\n" ;;\n'
        "esac\n",
    )
    code = cloud.run(gke.render([*WORDS, "--name=n", "--wait", *TRAIN])[0])
    assert code == REFUSED
    said = capfd.readouterr().err
    assert "error: config.a: unknown.\nthe job is refused, and would be again" in said
    assert "step 1" not in said


def test_a_refusal_is_told_from_a_preemption() -> None:
    """Kubernetes words a job's failure like this, and JobSet takes the first rule."""
    rules = manifest()["spec"]["failurePolicy"]["rules"]

    def action(code: int) -> str:
        said = (
            f"Container train for pod default/n-slice-0-0-x failed with exit code "
            f"{code} matching FailJob rule at index 0"
        )
        return next(
            rule["action"]
            for rule in rules
            if all(re.search(p, said) for p in rule.get(MESSAGES, []))
        )

    assert action(REFUSED) == "FailJobSet"
    assert action(PREEMPTED) == "RestartJobSetAndIgnoreMaxRestarts"


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
    cloud.decide("sleep", ': > "$FOLDER/up"; exec /bin/sleep 30')
    words = [*WORDS, "--name=n", "--wait", *TRAIN]
    code, said = cloud.interrupt("gke", words, number)
    assert code == PREEMPTED
    if number != signal.SIGHUP:
        assert "jobset/n is deleted once it has saved; the same command goes" in said
    assert "Traceback" not in said
    assert cloud.calls[-1] == "kubectl delete jobset/n --cascade=foreground"


def test_asking_the_launcher_deletes_the_workload(tmp_path) -> None:
    cloud = FakeCloud(tmp_path)
    wait = 'if [ "$2" = list ]; then : > "$FOLDER/up"; exec /bin/sleep 30; fi'
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
    assert "--env=JAX_PLATFORMS=tpu" in create
    assert wait == (
        "xpk workload list --cluster=c --wait-for-job-completion=n --zone=z"
    )


def test_xpk_takes_variables_of_a_file_or_of_flags(tmp_path) -> None:
    file = tmp_path / "my.env"
    file.touch()
    words = ["--image=i", "--cluster=c", "--type=t", f"--env_file={file}"]
    text, _ = gke.render([*words, *TRAIN])
    assert "--env=" not in text
    assert "--command=env JAX_PLATFORMS=tpu python -m launch.worker" in text


@pytest.mark.parametrize(
    ("image", "warned"),
    [("h:5/i:1", True), ("h:5/i", False), ("i:latest", False), ("i:1@", False)],
)
def test_a_tag_that_xpk_may_not_pull(tmp_path, capfd, image, warned) -> None:
    cloud = FakeCloud(tmp_path)
    image += f"sha256:{'0' * 64}" if image.endswith("@") else ""
    options = [f"--image={image}", "--cluster=c", "--type=t", "--pull_secret=p"]
    options += ["--xpk_flag", "--storage=s"]
    assert cloud.run(gke.render([*options, *TRAIN])[0]) == 0
    assert ("name it by its digest" in capfd.readouterr().err) == warned
    (call,) = cloud.calls
    assert "--docker-image-pull-secret=p --storage=s" in call
