"""TPU slices on Kubernetes: python -m launch.gke --accelerator … --topology 4x4x4 ….

Without `--cluster` a JobSet is applied with kubectl; with it, xpk submits the same
command to a cluster that xpk made. One job of the set is one slice, one pod one host.
Pods that were asked to end and saved restart the whole set without counting; other
failures count.
"""

import argparse
import math
import re
from collections.abc import Sequence
from functools import partial
from typing import Any

import yaml

from launch import script
from launch.signals import PREEMPTED
from unitoken_jax.config import UserError

_SUMMARY = "Run on TPU slices of a Kubernetes cluster."
_GRACE = 300  # seconds between being asked to end and being ended
_LONGEST_NAME = 40
_PORTS = (8471, 8080, 8431)  # of libtpu: slices, coordinator, metrics
_NODEPOOL = "cloud.google.com/gke-nodepool"


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
    secret: str = "",
    claim: str = "",
    scratch: str = "",
) -> dict[str, Any]:
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
        secret: a Kubernetes secret whose entries become variables.
        claim: a volume claim that is mounted at /data; many pods write to it.
        scratch: a directory of the nodes that is mounted at /local; unlike /dev/shm of
            a pod it is there for the next one.

    Raises:
        UserError: a topology that hosts cannot share equally, or no such path.
    """
    if scratch and not scratch.startswith("/"):
        raise UserError(
            f"--scratch={scratch}: expected a path from the root of the nodes, such as "
            "/dev/shm/unitoken."
        )
    sides = topology.split("x")
    if not all(side.isdigit() and int(side) for side in sides):
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
    container: dict[str, Any] = {
        "name": "train",
        "image": image,
        "command": list(command),
        "ports": [{"containerPort": port} for port in _PORTS],
        "securityContext": {"privileged": True},
        "resources": {"limits": {"google.com/tpu": chips_per_host}},
        "volumeMounts": [{"name": "memory", "mountPath": "/dev/shm"}],
    }
    volumes: list[dict[str, Any]] = [
        {"name": "memory", "emptyDir": {"medium": "Memory"}}
    ]
    if secret:
        container["envFrom"] = [{"secretRef": {"name": secret}}]
    if claim:
        container["volumeMounts"].append({"name": "data", "mountPath": "/data"})
        volumes.append({"name": "data", "persistentVolumeClaim": {"claimName": claim}})
    if scratch:
        container["volumeMounts"].append({"name": "scratch", "mountPath": "/local"})
        place = {"path": scratch, "type": "DirectoryOrCreate"}
        volumes.append({"name": "scratch", "hostPath": place})
    pod = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": _GRACE,
        "hostNetwork": True,
        "dnsPolicy": "ClusterFirstWithHostNet",
        "nodeSelector": selector,
        "tolerations": [{"key": "google.com/tpu", "operator": "Exists"}],
        "containers": [container],
        "volumes": volumes,
    }
    hosts = chips // chips_per_host
    # A pod that saved because it was asked to end, or whose node is taken away.
    ended = [
        {
            "action": "FailJob",
            "onExitCodes": {
                "containerName": "train",
                "operator": "In",
                "values": [PREEMPTED],
            },
        },
        {
            "action": "FailJob",
            "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}],
        },
    ]
    job = {
        "parallelism": hosts,
        "completions": hosts,
        "completionMode": "Indexed",
        "backoffLimit": 0,
        "podFailurePolicy": {"rules": ended},
        "template": {"spec": pod},
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
                        "name": "preempted",
                        "action": "RestartJobSetAndIgnoreMaxRestarts",
                        "onJobFailureReasons": ["PodFailurePolicy"],
                    }
                ],
            },
            "replicatedJobs": [
                {"name": "slice", "replicas": slices, "template": {"spec": job}}
            ],
        },
    }


def render(words: Sequence[str]) -> tuple[str, bool]:
    """Return the script that submits the job, and whether to print it only.

    Raises:
        UserError: options that do not go together, or nothing to run.
    """
    parser = script.parser("gke", _SUMMARY)
    parser.add_argument("--image", required=True, help="container in a registry")
    one, none = script.at_least(1), script.at_least(0)
    parser.add_argument("--slices", type=one, default=1, help="TPU slices")
    parser.add_argument("--retries", type=none, default=3, help="after failures")
    parser.add_argument("--spot", action="store_true", help="nodes may be preempted")
    jobset = parser.add_argument_group("a JobSet by kubectl")
    jobset.add_argument("--accelerator", default="", help="such as tpu-v5p-slice")
    jobset.add_argument("--topology", default="", help="of a slice, such as 4x4x4")
    jobset.add_argument("--chips_per_host", type=one, default=4, help="of the nodes")
    jobset.add_argument("--secret", default="", help="Kubernetes secret of variables")
    jobset.add_argument("--claim", default="", help="volume claim mounted at /data")
    jobset.add_argument(
        "--scratch", default="", help="directory of the nodes, mounted at /local"
    )
    xpk = parser.add_argument_group("a workload by xpk")
    xpk.add_argument("--cluster", default="", help="made by xpk")
    xpk.add_argument("--type", default="", help="TPU type, such as v5p-128")
    xpk.add_argument("--zone", default="", help="'' is gcloud's")
    xpk.add_argument("--project", default="", help="'' is gcloud's")
    xpk.add_argument("--env_file", default="", help="variables and secrets, local")
    given = parser.parse_args(words)
    _check_together(given)
    given.name = _clean(given.name)
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
        secret=given.secret,
        claim=given.claim,
        scratch=given.scratch,
    )
    document = script.document(yaml.safe_dump(content, sort_keys=False, width=10_000))
    text = script.fill(_CLEAR, NAME=name) + f"kubectl apply --filename=- {document}"
    if given.wait:
        text += script.fill(_WAIT, NAME=name, PREEMPTED=str(PREEMPTED))
    return text, given.dry_run


# A set that has ended makes room for its successor; one that runs is left alone.
_CLEAR = """\
#!/bin/bash
set -eu
query='jsonpath={.status.terminalState}'
state=$(kubectl get @NAME@ --ignore-not-found --output="$query")
if [ -n "$state" ]; then kubectl delete @NAME@; fi
"""
# kubectl can wait for one condition only, and a failed set never completes.
_WAIT = """\
asked=""
trap 'asked=yes' HUP TERM INT
misses=0
while [ -z "$asked" ]; do
  if state=$(kubectl get @NAME@ --output="$query" 2>&1); then
    misses=0
    case "$state" in
      *Completed) exit 0 ;;
      *Failed) echo "the job has failed: kubectl describe @NAME@" >&2; exit 1 ;;
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
_OF_JOBSET = ("accelerator", "topology", "secret", "claim", "scratch")
_OF_XPK = ("type", "zone", "project", "env_file")


def _check_together(given: argparse.Namespace) -> None:
    """Refuse options of the other way to submit, which would be dropped."""
    for option in _OF_JOBSET if given.cluster else ():
        if getattr(given, option):
            raise UserError(
                f"--{option} is of a JobSet by kubectl and --cluster of a workload by "
                "xpk: leave one out."
            )
    for option in () if given.cluster else _OF_XPK:
        if getattr(given, option):
            raise UserError(
                f"--{option} is of a workload by xpk, which needs --cluster as well; "
                "a JobSet by kubectl does without."
            )
    script.check_env_file(given.env_file)


def _clean(name: str) -> str:
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
    create = ["xpk", "workload", "create"]
    create += [f"--cluster={given.cluster}", f"--workload={given.name}"]
    create += [f"--tpu-type={given.type}", f"--num-slices={given.slices}"]
    create += [f"--docker-image={given.image}", f"--command={script.quote(command)}"]
    create += [f"--max-restarts={given.retries}"]
    create += [f"--restart-on-exit-codes=1,{PREEMPTED}"]  # besides 42 and signals
    create += [f"--termination-grace-period-seconds={_GRACE}"]
    create += ["--spot"] if given.spot else []
    create += [f"--env-file={given.env_file}"] if given.env_file else []
    where = [f"--zone={given.zone}"] if given.zone else []
    where += [f"--project={given.project}"] if given.project else []
    text = f"#!/bin/bash\nset -eu\n{script.quote([*create, *where])}\n"
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


run = partial(script.run, render)

if __name__ == "__main__":
    script.main(run)
