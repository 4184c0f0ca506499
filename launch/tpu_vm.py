"""A TPU slice of VMs: python -m launch.tpu_vm --tpu NAME --zone Z --type v5p-128 ….

The script makes the slice unless it exists, at once or by a request in the queue, runs
the container on all its workers by `gcloud … ssh --worker=all`, and makes it anew when
it was preempted. The processes find each other by what the slice tells them.
"""

import argparse
import re
import subprocess
from collections.abc import Sequence
from functools import partial

from launch import script, storage
from launch.signals import PREEMPTED
from launch.storage import LOCAL
from unitoken_jax.errors import REFUSED, UserError

_SUMMARY = "Run on every worker of a TPU slice of VMs."
_ENV_FILE = "unitoken.env"  # on the workers
_BUCKETS = "/mnt/unitoken"  # where the workers mount buckets

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
vm() { gcloud @TRACK@compute tpus tpu-vm "$@" @WHERE@; }
# Sets what is found of a slice or request; it is ABSENT only if gcloud says so.
patience=0
see() {
  misses=0
  until found=$("$@" 2>"$said"); do
    found=ABSENT
    if grep -q NOT_FOUND "$said" || [ -n "$asked" ]; then break; fi
    misses=$((misses + 1))
    if [ "$misses" -gt "$patience" ]; then cat "$said" >&2; exit 1; fi
    sleep 60
  done
  patience=5  # gcloud has answered: what it cannot say later is a passing fault
}
look() {
  see vm describe "$tpu" --format='value(state)'
  state=$found
}
@READY@# Ends the run on all workers.
stop() { vm ssh "$tpu" --worker=all @SSH@--command=@STOP@; }
command=$(cat @COMMAND@)
leave() {
  @LEAVE@exit "$1"
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
  { @ENVIRONMENT@vm ssh "$tpu" --worker=all @SSH@--command="$command"; } </dev/null &
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
  # A worker lacks something, or the training is refused: so would the next try be.
  # Other workers may have begun.
  if [ "$code" -eq @REFUSED@ ]; then
    stop
    leave "$code"
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
_AT_ONCE = """\
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
"""
_QUEUED = """\
request=@REQUEST@
@UNMADE@queue() { gcloud @TRACK@compute tpus queued-resources "$@" @WHERE@; }
# Succeeds when the slice can be used; asks for it if nothing does, or did in vain.
ready() {
  look
  if [ "$state" = READY ]; then return 0; fi
  see queue describe "$request" --format='value(state.state)'
  case "$found-$state" in
    ABSENT-ABSENT) ;;
    # Without a request: it was made at once, by another command.
    ABSENT-PREEMPTED | ABSENT-TERMINATED)
      vm delete "$tpu" --quiet || return 1 ;;
    SUSPENDED-* | ACTIVE-PREEMPTED | ACTIVE-TERMINATED)
      queue delete "$request" --force --quiet || return 1 ;;
    FAILED-*)
      echo "the request $request for the slice has failed:" >&2
      queue describe "$request" >&2
      queue delete "$request" --force --quiet
      exit 1 ;;
    *) return 1 ;;
  esac
  if queue create "$request" @CREATE@ 2>"$said"; then @MADE@return 1; fi
  cat "$said" >&2
  if [ -n "$asked" ] || grep -qiE '@PASSING@' "$said"; then return 1; fi
  exit 1
}
"""
_DELETE = 'vm delete "$tpu" --quiet || [ "$1" -ne 0 ] || exit 1\n  '
_DELETE_QUEUED = """\
see queue describe "$request" --format='value(state.state)'
  if [ "$found" = ABSENT ]; then
    vm delete "$tpu" --quiet
  else
    queue delete "$request" --force --quiet
  fi || [ "$1" -ne 0 ] || exit 1
  """
# A slice that comes when nobody waits for it any more would cost for nothing.
_WITHDRAW = """\
if [ -n "$made" ] && [ "$state" != READY ]; then
    echo "the request $request is taken back" >&2
    queue delete "$request" --force --quiet
  fi
  """
# What gcloud says of slices that there may be later.
_PASSING = "capacity|stockout|quota|RESOURCE_EXHAUSTED|UNAVAILABLE|ALREADY_EXISTS"

# On every worker, each in one line. `unfit` ends the try, and all further ones.
_UNFIT_IF = """\
unfit() { echo "error: $(hostname): $1" >&2; exit @REFUSED@; };
"""
# A directory that is not there yet belongs to the file system of the one above it.
_MOUNTED = """\
source=@SOURCE@; above=$source;
until [ -e "$above" ]; do above=$(dirname -- "$above"); done;
if [ "$(findmnt --noheadings --output=TARGET --target="$above" | tail -n 1)" = / ] &&
{ [ ! -e "$source" ] || [ -z "$(ls -A -- "$source")" ]; };
then unfit "nothing is mounted at $source and nothing lies there: mount it by --setup,
or a bucket by --bucket"; fi;
"""
# What has lost its process is no mount point, but in the way.
_FUSE = """\
command -v gcsfuse >/dev/null || unfit "there is no gcsfuse: install it by --setup";
place=@PLACE@; mountpoint --quiet "$place" ||
{ sudo umount --lazy "$place" 2>/dev/null;
sudo mkdir --parents "$place" && sudo gcsfuse @OPTIONS@ "$place"; } || exit;
"""
_LOGINS = {
    "": "",
    "gcloud": "sudo gcloud auth configure-docker @HOST@ --quiet || exit;\n",
    "metadata": """\
curl --silent --show-error --fail --header 'Metadata-Flavor: Google'
http://metadata.google.internal/computeMetadata/v1/instance/service-accounts/default/token
| sed -n 's/.*"access_token" *: *"\\([^"]*\\)".*/\\1/p'
| sudo docker login --username oauth2accesstoken --password-stdin @HOST@ || exit;
""",
}

# Of gcloud's flags, those that every command takes.
_WIDE = {
    *("--access-token-file", "--account", "--billing-project", "--configuration"),
    *("--impersonate-service-account", "--log-http", "--no-log-http"),
    *("--trace-token", "--user-output-enabled", "--no-user-output-enabled"),
    "--verbosity",
}
_TAKEN = {
    "--zone": "use --zone",
    "--project": "use --project",
    "--accelerator-type": "use --type",
    "--version": "use --version",
    "--runtime-version": "use --version",
    "--spot": "use --spot",
    "--best-effort": "use --best_effort",
    "--guaranteed": "use --guaranteed",
    "--reserved": "use --reserved",
    "--valid-until-duration": "use --valid_until_duration",
    "--service-account": "use --service_account",
    "--network": "use --network",
    "--subnetwork": "use --subnetwork",
    "--internal-ips": "use --internal_ips",
    "--node-id": "the slice's is that of --tpu",
    "--node-count": "it runs on one slice",
    "--async": "it waits until there is a slice",
    "--format": "it reads what gcloud says",
    "--quiet": "nobody is asked",
}
_TAKEN_SSH = {
    "--worker": "it runs on all",
    "--command": "put the arguments of the training behind --",
    "--tunnel-through-iap": "use --tunnel_through_iap",
    "--zone": "use --zone",
    "--project": "use --project",
}


def _parser() -> argparse.ArgumentParser:
    parser = script.parser("tpu_vm", _SUMMARY)
    count, filled = script.at_least(0), script.filled
    slices = parser.add_argument_group("the slice")
    slices.add_argument("--tpu", required=True, type=filled, help="its name")
    parser.add_argument("--image", required=True, type=filled, help="in a registry")
    parser.add_argument(
        "--pull",
        choices=script.PULLS,
        default="",
        help="the image before each run; by default always, a digest if missing",
    )
    parser.add_argument(
        "--registry_login",
        choices=[name for name in _LOGINS if name],
        default="",
        help="of the workers, as their service account: by a token of the metadata "
        "server, or by gcloud's helper",
    )
    parser.add_argument(
        "--mount",
        action="append",
        type=storage.mount,
        default=[],
        metavar="SOURCE:TARGET",
        help="directories of the workers in the container; run and data must be shared",
    )
    parser.add_argument(
        "--bucket",
        action="append",
        type=storage.bucket,
        default=[],
        metavar="NAME:TARGET",
        help="buckets that the workers mount by gcsfuse; NAME/FOLDER:TARGET:OPTION,…",
    )
    parser.add_argument(
        "--scratch", default="", help="directory of the workers, mounted at /local"
    )
    parser.add_argument(
        "--setup", default="", help="bash, run on every worker before the container"
    )
    parser.add_argument("--env_file", default="", help="variables and secrets, local")
    parser.add_argument("--retries", type=count, default=3, help="after failures")
    parser.add_argument(
        "--minutes", type=count, default=720, help="to wait for a slice"
    )
    parser.add_argument("--delete", action="store_true", help="the slice afterwards")
    slices.add_argument("--zone", required=True, type=filled, help="of the slice")
    slices.add_argument("--project", default="", help="'' is gcloud's")
    slices.add_argument(
        "--type", required=True, type=filled, help="accelerator, such as v5p-128"
    )
    slices.add_argument(
        "--version", required=True, type=filled, help="VM image, such as v2-alpha-tpuv5"
    )
    slices.add_argument("--spot", action="store_true", help="may be preempted")
    slices.add_argument("--reserved", action="store_true", help="from a reservation")
    slices.add_argument(
        "--service_account", default="", help="of the workers, NAME@…; '' is default"
    )
    slices.add_argument("--network", default="", help="'' is gcloud's")
    slices.add_argument("--subnetwork", default="", help="'' is gcloud's")
    slices.add_argument(
        "--internal_ips", action="store_true", help="workers have no others"
    )
    slices.add_argument(
        "--tunnel_through_iap",
        action="store_true",
        help="reach workers through Identity-Aware Proxy (gcloud alpha)",
    )
    slices.add_argument(
        "--gcloud_flag",
        action="append",
        default=[],
        metavar=script.FLAG,
        help="of the command that makes the slice, --gcloud_flag=--labels=team=a; "
        "flags such as --account go to all commands",
    )
    slices.add_argument(
        "--ssh_flag",
        action="append",
        default=[],
        metavar=script.FLAG,
        help="of gcloud's ssh and scp, --ssh_flag=--ssh-key-file=KEY",
    )
    slices.add_argument(
        "--track",
        choices=("alpha", "beta"),
        default="",
        help="of gcloud, for flags that others lack",
    )
    queue = parser.add_argument_group("a slice by a request in the queue")
    queue.add_argument("--queued", action="store_true", help="as queued resource")
    queue.add_argument("--request", default="", help="its name; '' is the slice's")
    queue.add_argument(
        "--best_effort", action="store_true", help="may be preempted (gcloud alpha)"
    )
    queue.add_argument("--guaranteed", action="store_true", help="not preempted")
    queue.add_argument(
        "--valid_until_duration", default="", help="after which it fails, such as 6h"
    )
    return parser


def _check(given: argparse.Namespace) -> None:
    """Refuse options that make no sense together."""
    _check_slice(given)
    _check_mounts(given)
    script.check_flags("--gcloud_flag", given.gcloud_flag, _TAKEN, "gcloud")
    script.check_flags("--ssh_flag", given.ssh_flag, _TAKEN_SSH, "gcloud … ssh")
    if given.registry_login and given.pull == "never":
        raise UserError("--registry_login is for pulling, and --pull=never does not.")
    if given.registry_login and not _registry(given.image):
        raise UserError(
            f"--registry_login: --image={given.image} names no registry, such as "
            "us-docker.pkg.dev/PROJECT/REPOSITORY/NAME."
        )
    if given.setup:
        done = subprocess.run(
            ["bash", "-n", "-c", given.setup], capture_output=True, check=False
        )
        if done.returncode:
            said = done.stderr.decode(errors="replace").strip().splitlines()
            raise UserError(f"--setup is no bash: {(said or ['it ends early'])[0]}.")


def _check_slice(given: argparse.Namespace) -> None:
    for option in ("request", "best_effort", "guaranteed", "valid_until_duration"):
        if getattr(given, option) and not given.queued:
            raise UserError(f"--{option} is of a request in the queue: add --queued.")
    tiers = ("spot", "best_effort", "guaranteed")
    chosen = [f"--{tier}" for tier in tiers if getattr(given, tier)]
    if given.reserved and not given.guaranteed:
        chosen.append("--reserved")
    if len(chosen) > 1:
        raise UserError(f"{' and '.join(chosen)} exclude each other: leave one out.")
    until = given.valid_until_duration
    if until and not re.fullmatch(r"([0-9]+(\.[0-9]+)?[wdhms])+", until):
        raise UserError(
            f"--valid_until_duration={until}: expected a time such as 90m, 6h or 2d."
        )
    if given.track == "beta" and (given.best_effort or given.tunnel_through_iap):
        raise UserError(
            "--best_effort and --tunnel_through_iap are of gcloud alpha: leave out "
            "--track=beta."
        )


def _check_mounts(given: argparse.Namespace) -> None:
    if given.scratch and not given.scratch.startswith("/"):
        raise UserError(
            f"--scratch={given.scratch}: expected a path from the root of the workers, "
            "such as /dev/shm/unitoken."
        )
    targets = [place.path for place in (*given.mount, *given.bucket)]
    script.warn_of_loss(given.arguments, targets)
    targets += [LOCAL] if given.scratch else []
    if twice := {path for path in targets if targets.count(path) > 1}:
        raise UserError(f"two directories are mounted at {twice.pop()}; name others.")


def _registry(image: str) -> str:
    """Return the host of an image, '' for Docker Hub's short names."""
    host, slash, _ = image.partition("/")
    return host if slash and ("." in host or ":" in host) else ""


def _place(bucket: storage.Bucket, number: int) -> str:
    """Return where the workers mount a bucket."""
    return f"{_BUCKETS}/{number}-{bucket.name}"


def _command(given: argparse.Namespace, name: str, stop: str) -> str:
    """Return what every worker runs: checks, mounts, then the container."""
    container = ["sudo", "docker", "run", "--rm", f"--name={name}"]
    container += [f"--pull={script.pull(given.pull, given.image)}"]
    container += ["--privileged", "--network=host", "--shm-size=16g"]
    container += ["--stop-timeout=120"]
    container += [f"--env-file={_ENV_FILE}"] if given.env_file else []
    variables = script.platform(given.platform)
    container += [f"--env={key}={value}" for key, value in variables.items()]
    container += [f"--volume={mount.volume}" for mount in given.mount]
    container += [f"--volume={given.scratch}:{LOCAL}"] if given.scratch else []
    text = ""
    if given.setup:
        text += f"bash -c {script.quote([given.setup])} || exit; "
    if given.mount or given.bucket:
        text += _line(_UNFIT_IF, REFUSED=str(REFUSED))
    for mount in given.mount:
        text += _line(_MOUNTED, SOURCE=script.quote([mount.source]))
    for number, bucket in enumerate(given.bucket):
        place = _place(bucket, number)
        options = ["-o", "allow_other", "--implicit-dirs"]
        options += [f"--only-dir={bucket.directory}"] if bucket.directory else []
        options += [f"--{option.removeprefix('--')}" for option in bucket.options]
        text += _line(
            _FUSE,
            PLACE=script.quote([place]),
            OPTIONS=script.quote([*options, bucket.name]),
        )
        container += [f"--volume={place}:{bucket.path}"]
    host = script.quote([_registry(given.image)])
    text += _line(_LOGINS[given.registry_login], HOST=host)
    train = script.train_command(given.arguments, joined=True)
    container += [given.image, *script.WORKER, *train]
    # An earlier try may run on: its connection ended, not the container.
    return f"{text}{stop}; {script.quote(container)}"


def _line(template: str, **values: str) -> str:
    """Fill a template, in one line as far as the values are."""
    return script.fill(template.replace("\n", " "), **values)


def _create(given: argparse.Namespace) -> list[str]:
    """Return the flags by which the slice, or the request for it, is made."""
    version = "runtime-version" if given.queued else "version"
    made = [f"--node-id={given.tpu}"] if given.queued else []
    made += [f"--accelerator-type={given.type}", f"--{version}={given.version}"]
    for name in ("spot", "best_effort", "guaranteed", "reserved", "internal_ips"):
        made += [f"--{name.replace('_', '-')}"] if getattr(given, name) else []
    for name in ("valid_until_duration", "service_account", "network", "subnetwork"):
        if value := getattr(given, name):
            made.append(f"--{name.replace('_', '-')}={value}")
    return made + [flag for flag in given.gcloud_flag if not _is_wide(flag)]


def _is_wide(flag: str) -> bool:
    return flag.partition("=")[0] in _WIDE


def render(words: Sequence[str]) -> tuple[str, bool]:
    """Return the script that runs the job, and whether to print it only.

    Raises:
        UserError: there is nothing to run, no such file of variables, or options make
            no sense.
    """
    given = _parser().parse_args(words)
    given.env_file = script.env_file(given.env_file)
    _check(given)
    # As docker takes it.
    name = re.sub("[^A-Za-z0-9_.-]+", "-", given.name).strip("-._") or "run"
    stop = f"sudo docker stop {script.quote([name])} >/dev/null 2>&1 || true"
    where = [f"--zone={given.zone}"]
    where += [f"--project={given.project}"] if given.project else []
    where += filter(_is_wide, given.gcloud_flag)
    reach = [flag for flag in given.ssh_flag if not flag.startswith("--scp-flag")]
    copy_by = [flag for flag in given.ssh_flag if not flag.startswith("--ssh-flag")]
    if given.tunnel_through_iap:
        way = ["--tunnel-through-iap"]
    else:
        way = ["--internal-ip"] if given.internal_ips else []
    alpha = given.best_effort or given.tunnel_through_iap
    track = "alpha" if alpha else given.track
    copy = ""
    if given.env_file:
        copied = script.quote([given.env_file])
        to = f'"$tpu:{_ENV_FILE}" --worker=all {_flags([*way, *copy_by])}'
        copy = f"vm scp {copied} {to}&& "
    queued = _WITHDRAW if given.queued else ""
    delete = _DELETE_QUEUED if given.queued else _DELETE
    common = {
        "TRACK": f"{track} " if track else "",
        "WHERE": script.quote(where),
        "PASSING": _PASSING,
        "CREATE": script.quote(_create(given)),
        "REQUEST": script.quote([given.request or given.tpu]),
        "UNMADE": "" if given.delete else 'made=""\n',
        "MADE": "" if given.delete else "made=yes; ",
    }
    text = script.fill(
        _SCRIPT,
        NAME=script.quote([given.tpu]),
        READY=script.fill(_QUEUED if given.queued else _AT_ONCE, **common),
        WAITS=str(given.minutes),
        ENVIRONMENT=copy,
        SSH=_flags([*way, *reach]),
        COMMAND=script.document(_command(given, name, stop)),
        STOP=script.quote([stop]),
        RETRIES=str(given.retries),
        PREEMPTED=str(PREEMPTED),
        REFUSED=str(REFUSED),
        LEAVE=delete if given.delete else queued,
        **common,
    )
    return text, given.dry_run


def slice_of(words: Sequence[str]) -> str:
    """Name the slice that a command line uses.

    Raises:
        UserError: the words cannot be read.
    """
    given = _parser().parse_args(words)
    where = filter(None, [given.project, given.zone])
    return f"slice {given.tpu} of {'/'.join(where)}"


def _flags(words: Sequence[str]) -> str:
    """Return words that stand before others."""
    return f"{script.quote(words)} " if words else ""


run = partial(script.run, render)

if __name__ == "__main__":
    script.main(run)
