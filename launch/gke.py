"""TPU slices on Kubernetes: python -m launch.gke --accelerator … --topology 4x4x4 ….

Without `--cluster` a JobSet is applied with kubectl; with it, xpk submits the same
command to a cluster that xpk made. One job of the set is one slice, one pod one host.
Pods that were asked to end and saved restart the whole set without counting, a pod that
refuses its config ends it, and other failures count.
"""

import argparse
import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from functools import partial

import yaml

from launch import script, storage
from launch.signals import PREEMPTED
from launch.storage import LOCAL, Bucket, Claim
from unitoken_jax.errors import REFUSED, UserError

_SUMMARY = "Run on TPU slices of a Kubernetes cluster."
_GRACE = 300  # seconds between being asked to end and being ended
_LONGEST_NAME = 40
_PORTS = (8471, 8080, 8431)  # of libtpu: slices, coordinator, metrics
_NODEPOOL = "cloud.google.com/gke-nodepool"
_FUSE = "gke-gcsfuse"  # annotations by which Cloud Storage FUSE is there
_FUSE_DRIVER = "gcsfuse.csi.storage.gke.io"
_PULLS = {"always": "Always", "missing": "IfNotPresent", "never": "Never"}
_FAILED_BY_RULE = "FailJobSetFailurePolicyAction"  # reason of a failed JobSet
_QUANTITY = re.compile(r"\d+(\.\d+)?(m|[kMGTP]|[KMGTP]i)?")


@dataclasses.dataclass(frozen=True)
class Pods:
    """What every pod of a JobSet has and may, besides TPUs.

    Attributes:
        variables: of the environment.
        secret: a Kubernetes secret whose entries become variables.
        pull: the image, a policy of `script.PULLS`.
        pull_secret: a Kubernetes secret for the registry.
        service_account: of Kubernetes, '' is the namespace's default.
        claims: volume claims; many pods write to them.
        buckets: that are mounted by Cloud Storage FUSE.
        fuse_claims: whether the claims are mounted by it as well.
        fuse_limits: 'cpu', 'memory', 'ephemeral-storage' → that of its container; '0'
            is none, which Autopilot does not take.
        host_network: whether they use the network of their nodes. Then Cloud Storage
            FUSE is the service account only from version 1.17.2 of its driver on, and
            if the volume says so, as those of `buckets` do.
        scratch: a directory of the nodes that is mounted at /local; unlike /dev/shm of
            a pod it is there for the next one.
    """

    variables: Mapping[str, str] = dataclasses.field(default_factory=dict)
    secret: str = ""
    pull: str = "always"
    pull_secret: str = ""
    service_account: str = ""
    claims: Sequence[Claim] = ()
    buckets: Sequence[Bucket] = ()
    fuse_claims: bool = True
    fuse_limits: Mapping[str, str] = dataclasses.field(default_factory=dict)
    host_network: bool = True
    scratch: str = ""

    @property
    def fuse(self) -> bool:
        """Whether Cloud Storage FUSE mounts anything."""
        return bool(self.buckets or (self.claims and self.fuse_claims))


def manifest(
    name: str,
    image: str,
    command: Sequence[str],
    *,
    accelerator: str,
    topology: str,
    slices: int = 1,
    chips_per_host: int = 4,
    restarts: int = 3,
    spot: bool = False,
    pods: Pods | None = None,
) -> dict[str, object]:
    """Return a JobSet.

    Args:
        name: of the set.
        image: the container.
        command: of every host's process.
        accelerator: label of the nodes, 'tpu-v5p-slice'.
        topology: of a slice, '4x4x4'.
        slices: how many.
        chips_per_host: of the nodes.
        restarts: after failures.
        spot: whether nodes may be preempted.
        pods: what else there is to say of them; None is nothing.

    Raises:
        UserError: a topology that hosts cannot share equally.
    """
    pods = pods or Pods()
    sides = topology.split("x")
    if not all(side.isdecimal() and side.isascii() and int(side) for side in sides):
        raise UserError(f"--topology={topology}: expected sides such as 4x4x4.")
    chips = math.prod(map(int, sides))
    if chips % chips_per_host:
        raise UserError(
            f"--topology={topology} has {chips} chips, which hosts of "
            f"{chips_per_host} cannot share; set --chips_per_host."
        )
    selector = {
        "cloud.google.com/gke-tpu-accelerator": accelerator,
        "cloud.google.com/gke-tpu-topology": topology,
    }
    selector |= {"cloud.google.com/gke-spot": "true"} if spot else {}
    volumes = _volumes(pods)
    container: dict[str, object] = {
        "name": "train",
        "image": image,
        "imagePullPolicy": _PULLS[pods.pull],
        "command": list(command),
        "ports": [{"containerPort": port} for port in _PORTS],
        "securityContext": {"privileged": True},
        "resources": {"limits": {"google.com/tpu": chips_per_host}},
        "env": [{"name": key, "value": text} for key, text in pods.variables.items()],
        "volumeMounts": [
            {"name": volume["name"], "mountPath": path} for path, volume in volumes
        ],
    }
    if pods.secret:
        container["envFrom"] = [{"secretRef": {"name": pods.secret}}]
    pod: dict[str, object] = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": _GRACE,
        "nodeSelector": selector,
        "tolerations": [{"key": "google.com/tpu", "operator": "Exists"}],
        "containers": [container],
        "volumes": [volume for _, volume in volumes],
    }
    if pods.host_network:
        pod |= {"hostNetwork": True, "dnsPolicy": "ClusterFirstWithHostNet"}
    if pods.service_account:
        pod["serviceAccountName"] = pods.service_account
    if pods.pull_secret:
        pod["imagePullSecrets"] = [{"name": pods.pull_secret}]
    template: dict[str, object] = {"spec": pod}
    if pods.fuse:
        limits = {f"{_FUSE}/{k}-limit": v for k, v in pods.fuse_limits.items()}
        template["metadata"] = {"annotations": {f"{_FUSE}/volumes": "true"} | limits}
    hosts = chips // chips_per_host
    job = {
        "parallelism": hosts,
        "completions": hosts,
        "completionMode": "Indexed",
        "backoffLimit": 0,
        "podFailurePolicy": {"rules": _ENDED},
        "template": template,
    }
    return {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": {
            "name": name,
            "annotations": {"alpha.jobset.sigs.k8s.io/exclusive-topology": _NODEPOOL},
        },
        "spec": {
            "failurePolicy": {
                "maxRestarts": restarts,
                "rules": [
                    {
                        "name": "refused",
                        "action": "FailJobSet",
                        "onJobFailureReasons": ["PodFailurePolicy"],
                        "onJobFailureMessagePatterns": [_REFUSED_MESSAGE],
                    },
                    {
                        "name": "preempted",
                        "action": "RestartJobSetAndIgnoreMaxRestarts",
                        "onJobFailureReasons": ["PodFailurePolicy"],
                    },
                ],
            },
            "replicatedJobs": [
                {"name": "slice", "replicas": slices, "template": {"spec": job}}
            ],
        },
    }


# What Kubernetes says of a job that a pod's refusal has ended. Jobs that fail by their
# policy all fail for one reason, so only the message tells this from a preemption.
_REFUSED_MESSAGE = f"failed with exit code {REFUSED} matching FailJob rule"
# A pod that is refused, one that saved because it was asked to end, or whose node is
# taken away.
_ENDED = [
    {
        "action": "FailJob",
        "onExitCodes": {
            "containerName": "train",
            "operator": "In",
            "values": [PREEMPTED, REFUSED],
        },
    },
    {
        "action": "FailJob",
        "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}],
    },
]


def _volumes(pods: Pods) -> list[tuple[str, Mapping[str, object]]]:
    """Return the volumes of a pod, each behind its path in the container."""
    memory = {"name": "memory", "emptyDir": {"medium": "Memory"}}
    found: list[tuple[str, Mapping[str, object]]] = [("/dev/shm", memory)]
    for number, claim in enumerate(pods.claims):
        name = f"data-{number}" if number else "data"
        volume = {"persistentVolumeClaim": {"claimName": claim.name}}
        found.append((claim.path, {"name": name} | volume))
    for number, bucket in enumerate(pods.buckets):
        options = ["implicit-dirs"]
        options += [f"only-dir={bucket.directory}"] if bucket.directory else []
        attributes = {
            "bucketName": bucket.name,
            "mountOptions": ",".join([*options, *bucket.options]),
        }
        # Else it would be the nodes' service account there, if any.
        attributes |= {"hostNetworkPodKSA": "true"} if pods.host_network else {}
        volume = {"csi": {"driver": _FUSE_DRIVER, "volumeAttributes": attributes}}
        found.append((bucket.path, {"name": f"bucket-{number}"} | volume))
    if pods.scratch:
        place = {"path": pods.scratch, "type": "DirectoryOrCreate"}
        found.append((LOCAL, {"name": "scratch", "hostPath": place}))
    return found


def _parser() -> argparse.ArgumentParser:
    parser = script.parser("gke", _SUMMARY)
    one, none, filled = script.at_least(1), script.at_least(0), script.filled
    parser.add_argument("--image", required=True, type=filled, help="in a registry")
    parser.add_argument("--slices", type=one, default=1, help="TPU slices")
    parser.add_argument("--retries", type=none, default=3, help="after failures")
    parser.add_argument("--spot", action="store_true", help="nodes may be preempted")
    parser.add_argument(
        "--pull_secret", default="", help="Kubernetes secret for the registry"
    )
    jobset = parser.add_argument_group("a JobSet by kubectl")
    jobset.add_argument("--accelerator", default="", help="such as tpu-v5p-slice")
    jobset.add_argument("--topology", default="", help="of a slice, such as 4x4x4")
    jobset.add_argument("--chips_per_host", type=one, default=4, help="of the nodes")
    jobset.add_argument("--secret", default="", help="Kubernetes secret of variables")
    jobset.add_argument(
        "--pull",
        choices=script.PULLS,
        default="",
        help="the image; by default always, a digest if missing",
    )
    jobset.add_argument(
        "--service_account", default="", help="of Kubernetes; '' is default"
    )
    jobset.add_argument(
        "--claim",
        action="append",
        type=storage.claim,
        default=[],
        metavar="NAME[:PATH]",
        help="volume claims, mounted at /data",
    )
    jobset.add_argument(
        "--plain_claims",
        action="store_true",
        help="claims are not of Cloud Storage FUSE",
    )
    jobset.add_argument(
        "--bucket",
        action="append",
        type=storage.bucket,
        default=[],
        metavar="NAME[:PATH]",
        help="buckets, mounted at /data; NAME/FOLDER:PATH:OPTION,…",
    )
    jobset.add_argument(
        "--fuse_limit",
        action="append",
        default=[],
        metavar="NAME=QUANTITY",
        help="of cpu, memory or ephemeral-storage for Cloud Storage FUSE; 0: none, "
        "which Autopilot does not take",
    )
    jobset.add_argument(
        "--host_network",
        choices=("auto", "on", "off"),
        default="auto",
        help="auto: off with Cloud Storage FUSE, which then is the service account",
    )
    jobset.add_argument(
        "--scratch", default="", help="directory of the nodes, mounted at /local"
    )
    xpk = parser.add_argument_group("a workload by xpk")
    xpk.add_argument("--cluster", default="", help="made by xpk")
    xpk.add_argument("--type", default="", help="TPU type, such as v5p-128")
    xpk.add_argument("--zone", default="", help="'' is gcloud's")
    xpk.add_argument("--project", default="", help="'' is gcloud's")
    xpk.add_argument("--env_file", default="", help="variables and secrets, local")
    xpk.add_argument(
        "--xpk_flag",
        action="append",
        default=[],
        metavar=script.FLAG,
        help="of xpk workload create, --xpk_flag=--storage=NAME",
    )
    return parser


def render(words: Sequence[str]) -> tuple[str, bool]:
    """Return the script that submits the job, and whether to print it only.

    Raises:
        UserError: options that do not go together, or nothing to run.
    """
    given = _parser().parse_args(words)
    _check_together(given)
    given.name = clean(given.name)
    command = [*script.WORKER, *script.train_command(given.arguments, joined=True)]
    if given.cluster:
        return _by_xpk(given, command), given.dry_run
    if not (given.accelerator and given.topology):
        raise UserError(
            "name --accelerator and --topology for a JobSet by kubectl, or --cluster "
            "and --type for a workload by xpk."
        )
    name = f"jobset/{given.name}"
    content = manifest(
        given.name,
        given.image,
        command,
        accelerator=given.accelerator,
        topology=given.topology,
        slices=given.slices,
        chips_per_host=given.chips_per_host,
        restarts=given.retries,
        spot=given.spot,
        pods=_pods(given),
    )
    document = script.document(yaml.safe_dump(content, sort_keys=False, width=10_000))
    text = script.fill(_CLEAR, NAME=name) + f"kubectl apply --filename=- {document}"
    if given.wait:
        text += script.fill(
            _WAIT,
            NAME=name,
            PODS=f"jobset.sigs.k8s.io/jobset-name={given.name}",
            RULE=_FAILED_BY_RULE,
            PREEMPTED=str(PREEMPTED),
            REFUSED=str(REFUSED),
        )
    return text, given.dry_run


def _pods(given: argparse.Namespace) -> Pods:
    """Return what the options say of the pods of a JobSet."""
    pods = Pods(
        variables=script.platform(given.platform),
        secret=given.secret,
        pull=script.pull(given.pull, given.image),
        pull_secret=given.pull_secret,
        service_account=given.service_account,
        claims=given.claim,
        buckets=given.bucket,
        fuse_claims=not given.plain_claims,
        fuse_limits=_limits(given.fuse_limit),
        host_network=given.host_network == "on",
        scratch=given.scratch,
    )
    if given.fuse_limit and not pods.fuse:
        raise UserError(
            "--fuse_limit is of Cloud Storage FUSE: name a --bucket, or a --claim "
            "without --plain_claims."
        )
    if given.host_network == "auto":
        pods = dataclasses.replace(pods, host_network=not pods.fuse)
    return pods


def _limits(given: Sequence[str]) -> dict[str, str]:
    """Return the limits of Cloud Storage FUSE's container; none unless one is named."""
    limits: dict[str, str] = dict.fromkeys(("cpu", "memory", "ephemeral-storage"), "0")
    for limit in given:
        name, _, quantity = limit.partition("=")
        if name not in limits or not _QUANTITY.fullmatch(quantity):
            raise UserError(
                f"--fuse_limit={limit}: expected NAME=QUANTITY, such as cpu=2, "
                "memory=4Gi or ephemeral-storage=20Gi."
            )
        limits[name] = quantity
    return limits


# A set that has ended makes room for its successor; one that runs is left alone.
_CLEAR = """\
#!/bin/bash
set -eu
query='jsonpath={.status.terminalState}'
state=$(kubectl get @NAME@ --ignore-not-found --output="$query")
if [ -n "$state" ]; then kubectl delete @NAME@; fi
"""
# kubectl can wait for one condition only, and a failed set never completes. Its own
# failure policy fails it by one rule, that of a refusal, which a pod says why.
_WAIT = """\
failed() {
  reason='jsonpath={.status.conditions[?(@.type=="Failed")].reason}'
  if [ "$(kubectl get @NAME@ --output="$reason")" = @RULE@ ]; then
    kubectl logs --selector=@PODS@ --tail=1 | grep "^error: " | sort -u >&2 || true
    echo "the job is refused, and would be again: kubectl describe @NAME@" >&2
    exit @REFUSED@
  fi
  echo "the job has failed: kubectl describe @NAME@" >&2
  exit 1
}
asked=""
trap 'asked=yes' HUP TERM INT
misses=0
while [ -z "$asked" ]; do
  if state=$(kubectl get @NAME@ --output="$query" 2>&1); then
    misses=0
    case "$state" in
      *Completed) exit 0 ;;
      *Failed) failed ;;
    esac
  else
    misses=$((misses + 1))
    case "$state" in
      *NotFound*) echo "@NAME@ was deleted by somebody else" >&2; exit 1 ;;
    esac
    if [ "$misses" -ge 20 ]; then echo "$state" >&2; exit 1; fi
  fi
  sleep 30 || true
done
trap '' HUP TERM INT
# The terminal may be closed.
echo "@NAME@ is deleted once it has saved; the same command goes on" >&2 || true
kubectl delete @NAME@ --cascade=foreground
exit @PREEMPTED@
"""
_WAIT_XPK = """\
asked=""
trap 'asked=yes' HUP TERM INT
# A group of its own: a signal reaches this script, which then deletes the workload.
set -m
@LIST@ </dev/null &
waiting=$!
set +m
code=0
wait "$waiting" || code=$?
if [ -n "$asked" ]; then
  trap '' HUP TERM INT
  # The terminal may be closed.
  echo "the workload is deleted once it has saved; the same command goes on" >&2 ||
    true
  kill "$waiting" 2>/dev/null || true
  @DELETE@
  exit @PREEMPTED@
fi
exit "$code"
"""
# Kubernetes' rule where nothing is said, and xpk has no flag to say it.
_NOT_PULLED = """\
echo "warning: a node that has an image of this tag runs it, also if the registry has \
another: name it by its digest, by :latest or by a new tag" >&2
"""
_OF_JOBSET = (
    *("accelerator", "topology", "secret", "pull", "service_account", "claim"),
    *("plain_claims", "bucket", "fuse_limit", "scratch"),
)
_OF_XPK = ("type", "zone", "project", "env_file", "xpk_flag")
_TAKEN = {
    "--cluster": "use --cluster",
    "--workload": "use --name",
    "--tpu-type": "use --type",
    "--num-slices": "use --slices",
    "--docker-image": "use --image",
    "--docker-image-pull-secret": "use --pull_secret",
    "--base-docker-image": "use --image",
    "--command": "put the arguments of the training behind --",
    "--max-restarts": "use --retries",
    "--restart-on-exit-codes": "others end the run",
    "--termination-grace-period-seconds": "it is what saving needs",
    "--spot": "use --spot",
    "--env-file": "use --env_file",
    "--zone": "use --zone",
    "--project": "use --project",
}


def _check_together(given: argparse.Namespace) -> None:
    """Refuse options of the other way to submit, which would be dropped."""
    for option in _OF_JOBSET if given.cluster else ():
        if getattr(given, option):
            raise UserError(
                f"--{option} is of a JobSet by kubectl and --cluster of a workload by "
                "xpk: leave one out."
            )
    if given.cluster and given.host_network != "auto":
        raise UserError(
            "--host_network is of a JobSet by kubectl; xpk's pods are always on it."
        )
    for option in () if given.cluster else _OF_XPK:
        if getattr(given, option):
            raise UserError(
                f"--{option} is of a workload by xpk, which needs --cluster as well; "
                "a JobSet by kubectl does without."
            )
    given.env_file = script.env_file(given.env_file)
    script.check_flags("--xpk_flag", given.xpk_flag, _TAKEN, "xpk workload create")
    script.is_digest(given.image)
    if given.plain_claims and not given.claim:
        raise UserError("--plain_claims says what --claim is; name one.")
    if given.scratch and not given.scratch.startswith("/"):
        raise UserError(
            f"--scratch={given.scratch}: expected a path from the root of the nodes, "
            "such as /dev/shm/unitoken."
        )
    kept = [place.path for place in (*given.claim, *given.bucket)]
    if not given.cluster:  # of xpk's workloads the cluster says what is mounted
        script.warn_of_loss(given.arguments, kept)
    paths = ["/dev/shm", *kept]
    paths += [LOCAL] if given.scratch else []
    if twice := {path for path in paths if paths.count(path) > 1}:
        raise UserError(f"two volumes are mounted at {twice.pop()}; name other paths.")


def clean(name: str) -> str:
    """Return a name that Kubernetes accepts, with room for the suffixes of pods."""
    cleaned = re.sub("[^a-z0-9]+", "-", name.lower()).strip("-")
    if not cleaned[:1].isalpha():
        cleaned = f"run-{cleaned}".rstrip("-")
    if len(cleaned) > _LONGEST_NAME:
        raise UserError(f"--name={name} is longer than {_LONGEST_NAME} characters.")
    return cleaned


def _by_xpk(given: argparse.Namespace, command: Sequence[str]) -> str:
    """Return the script that submits the command with xpk."""
    if not given.type:
        raise UserError("xpk needs --type, such as v5p-128.")
    # xpk takes variables of a file or of flags, not both.
    variables = [f"{k}={text}" for k, text in script.platform(given.platform).items()]
    if given.env_file:
        command = ["env", *variables, *command]
        variables = []
    create = ["xpk", "workload", "create"]
    create += [f"--cluster={given.cluster}", f"--workload={given.name}"]
    create += [f"--tpu-type={given.type}", f"--num-slices={given.slices}"]
    create += [f"--docker-image={given.image}", f"--command={script.quote(command)}"]
    create += [f"--max-restarts={given.retries}"]
    create += [f"--restart-on-exit-codes=1,{PREEMPTED}"]  # besides 42 and signals
    create += [f"--termination-grace-period-seconds={_GRACE}"]
    create += ["--spot"] if given.spot else []
    create += [f"--env-file={given.env_file}"] if given.env_file else []
    create += [f"--env={variable}" for variable in variables]
    if given.pull_secret:
        create += [f"--docker-image-pull-secret={given.pull_secret}"]
    create += given.xpk_flag
    where = [f"--zone={given.zone}"] if given.zone else []
    where += [f"--project={given.project}"] if given.project else []
    text = "#!/bin/bash\nset -eu\n"
    if not _is_pulled(given.image):
        text += _NOT_PULLED
    text += f"{script.quote([*create, *where])}\n"
    if given.wait:
        cluster = f"--cluster={given.cluster}"
        listed = ["xpk", "workload", "list", cluster]
        listed += [f"--wait-for-job-completion={given.name}", *where]
        delete = ["xpk", "workload", "delete", cluster]
        delete += [f"--workload={given.name}", *where]
        text += script.fill(
            _WAIT_XPK,
            LIST=script.quote(listed),
            DELETE=script.quote(delete),
            PREEMPTED=str(PREEMPTED),
        )
    return text


def _is_pulled(image: str) -> bool:
    """Say whether nodes run what the registry has, with no policy to say so."""
    _, colon, tag = image.rpartition("/")[2].partition(":")
    return script.is_digest(image) or not colon or tag == "latest"


run = partial(script.run, render)

if __name__ == "__main__":
    script.main(run)
