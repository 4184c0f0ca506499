"""A TPU slice of VMs: python -m launch.tpu_vm --tpu NAME --zone Z --type v5p-128 ….

The script makes the slice unless it exists, runs the container on all its workers by
`gcloud … ssh --worker=all`, and makes it anew when it was preempted. The processes find
each other by what the slice tells them.
"""

from collections.abc import Sequence
from functools import partial

from launch import script
from launch.signals import PREEMPTED

_SUMMARY = "Run on every worker of a TPU slice of VMs."
_ENV_FILE = "unitoken.env"  # on the workers

# Filled by str.replace: shell's own braces stay as they are.
_SCRIPT = """\
#!/bin/bash
set -u
tpu=@NAME@
vm() { gcloud compute tpus tpu-vm "$@" @WHERE@; }
state() { vm describe "$tpu" --format='value(state)' 2>/dev/null || echo ABSENT; }
# Succeeds when the slice can be used; makes it if there is none.
ready() {
  case "$(state)" in
    READY) return 0 ;;
    PREEMPTED | TERMINATED) vm delete "$tpu" --quiet || return 1 ;;
    ABSENT) ;;
    *) return 1 ;;
  esac
  vm create "$tpu" @CREATE@
}
failures=0
while true; do
  waits=0
  until ready; do
    waits=$((waits + 1))
    if [ "$waits" -gt @WAITS@ ]; then
      echo "no slice $tpu after $waits minutes; its state is $(state)" >&2
      exit @PREEMPTED@
    fi
    sleep 60
  done
  code=0
  { @ENVIRONMENT@vm ssh "$tpu" --worker=all --command=@COMMAND@; } || code=$?
  if [ "$code" -eq 0 ]; then break; fi
  if [ "$code" -eq @PREEMPTED@ ]; then
    echo "the run was asked to end and has saved; it goes on" >&2
  elif [ "$(state)" = READY ]; then
    failures=$((failures + 1))
    echo "failure $failures: code $code" >&2
    if [ "$failures" -gt @RETRIES@ ]; then exit "$code"; fi
  else
    echo "the slice is $(state), which is no failure; it is made again" >&2
  fi
done
@DELETE@"""


def render(words: Sequence[str]) -> tuple[str, bool]:
    """Return the script that runs the job, and whether to print it only.

    Raises:
        UserError: there is nothing to run.
    """
    parser = script.parser("tpu_vm", _SUMMARY)
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
        default=[],
        metavar="SOURCE:TARGET",
        help="directories of the workers in the container; run and data must be shared",
    )
    parser.add_argument(
        "--setup", default=":", help="shell run on every worker before the container"
    )
    parser.add_argument("--env_file", default="", help="variables and secrets, local")
    parser.add_argument("--retries", type=int, default=3, help="after failures")
    parser.add_argument("--minutes", type=int, default=720, help="to wait for a slice")
    parser.add_argument("--delete", action="store_true", help="the slice afterwards")
    given = parser.parse_args(words)

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
    text = _SCRIPT
    for name, value in {
        "NAME": script.quote([given.tpu]),
        "WHERE": script.quote(where),
        "CREATE": script.quote(create),
        "WAITS": str(given.minutes),
        "ENVIRONMENT": copy,
        "COMMAND": script.quote([remote]),
        "RETRIES": str(given.retries),
        "PREEMPTED": str(PREEMPTED),
        "DELETE": 'vm delete "$tpu" --quiet\n' if given.delete else "",
    }.items():
        text = text.replace(f"@{name}@", value)
    return text, given.dry_run


run = partial(script.run, render)

if __name__ == "__main__":
    script.main(run)
