"""A TPU slice of VMs: python -m launch.tpu_vm --tpu NAME --zone Z --type v5p-128 ….

The script makes the slice unless it exists, runs the container on all its workers by
`gcloud … ssh --worker=all`, and makes it anew when it was preempted. The processes find
each other by what the slice tells them.
"""

import argparse
from collections.abc import Sequence
from functools import partial

from launch import script
from launch.signals import PREEMPTED

_SUMMARY = "Run on every worker of a TPU slice of VMs."
_ENV_FILE = "unitoken.env"  # on the workers

# Filled by script.fill: shell's own braces stay as they are.
_SCRIPT = """\
#!/bin/bash
set -u
tpu=@NAME@
if ! command -v gcloud >/dev/null; then
  echo "error: there is no gcloud here: install the Google Cloud CLI" >&2
  exit 1
fi
said=$(mktemp)
trap 'rm "$said"' EXIT
asked=""
trap 'asked=yes' HUP TERM INT
vm() { gcloud compute tpus tpu-vm "$@" @WHERE@; }
# Sets the state; it is ABSENT only if gcloud says so.
patience=0
look() {
  misses=0
  until state=$(vm describe "$tpu" --format='value(state)' 2>"$said"); do
    state=ABSENT
    if grep -q NOT_FOUND "$said" || [ -n "$asked" ]; then break; fi
    misses=$((misses + 1))
    if [ "$misses" -gt "$patience" ]; then cat "$said" >&2; exit 1; fi
    sleep 60
  done
  patience=5  # gcloud has answered: what it cannot say later is a passing fault
}
# Succeeds when the slice can be used; makes it if there is none.
ready() {
  look
  case "$state" in
    READY) return 0 ;;
    PREEMPTED | TERMINATED) vm delete "$tpu" --quiet || return 1 ;;
    ABSENT) ;;
    *) return 1 ;;
  esac
  if vm create "$tpu" @CREATE@ 2>"$said"; then return 0; fi
  cat "$said" >&2
  if [ -n "$asked" ] || grep -qiE '@PASSING@' "$said"; then return 1; fi
  exit 1
}
# Ends the run on all workers.
stop() { vm ssh "$tpu" --worker=all --command=@STOP@; }
leave() {
  @DELETE@exit "$1"
}
failures=0
while true; do
  waits=0
  until ready; do
    if [ -n "$asked" ]; then leave @PREEMPTED@; fi
    waits=$((waits + 1))
    if [ "$waits" -gt @WAITS@ ]; then
      echo "no slice $tpu after @WAITS@ minutes; its state is $state" >&2
      leave @PREEMPTED@
    fi
    sleep 60
  done
  if [ -n "$asked" ]; then leave @PREEMPTED@; fi
  code=0
  # A group of its own: a signal reaches this script, which then tells the workers.
  set -m
  { @ENVIRONMENT@vm ssh "$tpu" --worker=all --command=@COMMAND@; } </dev/null &
  running=$!
  set +m
  wait "$running" || code=$?
  # A slice that is being taken away is called ready for a moment.
  if [ "$code" -ne 0 ] && [ -z "$asked" ]; then sleep 60; fi
  if [ -n "$asked" ]; then
    trap '' HUP TERM INT
    echo "the run is asked to end; the same command goes on" >&2
    stop
    wait "$running"
    leave @PREEMPTED@
  fi
  if [ "$code" -eq 0 ]; then leave 0; fi
  look
  if [ "$state" != READY ]; then
    echo "the slice is $state, which is no failure; it is made again" >&2
    continue
  fi
  # Of a run that somebody stopped, too: it may be another launcher's turn.
  failures=$((failures + 1))
  echo "failure $failures: code $code" >&2
  if [ "$failures" -le @RETRIES@ ]; then continue; fi
  # Whoever stopped the run has the slice now.
  if [ "$code" -eq @PREEMPTED@ ]; then exit "$code"; fi
  # Workers whose connection ended may run on.
  stop
  leave "$code"
done
"""
_DELETE = 'vm delete "$tpu" --quiet || [ "$1" -ne 0 ] || exit 1\n  '
# What gcloud says of slices that there may be later.
_PASSING = "capacity|stockout|quota|RESOURCE_EXHAUSTED|UNAVAILABLE|ALREADY_EXISTS"


def _mount(text: str) -> str:
    """Check SOURCE:TARGET, or SOURCE:TARGET:OPTIONS, as docker takes it."""
    source, _, target = text.partition(":")
    if not source or not target.startswith("/"):
        raise argparse.ArgumentTypeError(
            f"expected SOURCE:TARGET, such as /mnt/bucket:/data, found {text!r}"
        )
    return text


def render(words: Sequence[str]) -> tuple[str, bool]:
    """Return the script that runs the job, and whether to print it only.

    Raises:
        UserError: there is nothing to run, or no such file of variables.
    """
    parser = script.parser("tpu_vm", _SUMMARY)
    count = script.at_least(0)
    parser.add_argument("--tpu", required=True, help="name of the slice")
    parser.add_argument("--zone", required=True, help="of the slice")
    parser.add_argument("--project", default="", help="'' is gcloud's")
    parser.add_argument("--type", required=True, help="accelerator, such as v5p-128")
    parser.add_argument(
        "--version", required=True, help="VM image, such as v2-alpha-tpuv5"
    )
    parser.add_argument("--spot", action="store_true", help="may be preempted")
    parser.add_argument("--image", required=True, help="container in a registry")
    parser.add_argument(
        "--mount",
        action="append",
        type=_mount,
        default=[],
        metavar="SOURCE:TARGET",
        help="directories of the workers in the container; run and data must be shared",
    )
    parser.add_argument(
        "--setup", default=":", help="shell run on every worker before the container"
    )
    parser.add_argument("--env_file", default="", help="variables and secrets, local")
    parser.add_argument("--retries", type=count, default=3, help="after failures")
    parser.add_argument(
        "--minutes", type=count, default=720, help="to wait for a slice"
    )
    parser.add_argument("--delete", action="store_true", help="the slice afterwards")
    given = parser.parse_args(words)
    script.check_env_file(given.env_file)

    command = [*script.WORKER, *script.train_command(given.arguments, joined=True)]
    container = ["sudo", "docker", "run", "--rm", f"--name={given.name}"]
    container += ["--privileged", "--network=host", "--shm-size=16g"]
    container += ["--stop-timeout=120"]
    container += [f"--env-file={_ENV_FILE}"] if given.env_file else []
    container += [f"--volume={mount}" for mount in given.mount]
    container += [given.image, *command]
    # An earlier try may run on: its connection ended, not the container.
    stop = f"sudo docker stop {script.quote([given.name])} >/dev/null 2>&1 || true"
    remote = f"{given.setup} && {{ {stop}; }} && {script.quote(container)}"
    where = [f"--zone={given.zone}"]
    where += [f"--project={given.project}"] if given.project else []
    create = [f"--accelerator-type={given.type}", f"--version={given.version}"]
    create += ["--spot"] if given.spot else []
    copy = ""
    if given.env_file:
        file = script.quote([given.env_file])
        copy = f'vm scp {file} "$tpu:{_ENV_FILE}" --worker=all && '
    text = script.fill(
        _SCRIPT,
        NAME=script.quote([given.tpu]),
        WHERE=script.quote(where),
        CREATE=script.quote(create),
        PASSING=_PASSING,
        WAITS=str(given.minutes),
        ENVIRONMENT=copy,
        COMMAND=script.quote([remote]),
        STOP=script.quote([stop]),
        RETRIES=str(given.retries),
        PREEMPTED=str(PREEMPTED),
        DELETE=_DELETE if given.delete else "",
    )
    return text, given.dry_run


run = partial(script.run, render)

if __name__ == "__main__":
    script.main(run)
