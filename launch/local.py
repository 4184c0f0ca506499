"""Several processes on this machine: python -m launch.local --processes 2 -- ARGUMENTS.

They join over a free port of the loopback interface, as the processes of a cluster do.
If one fails the others are ended, and all are started again from the newest checkpoint,
`--retries` times, but for what would be refused again. SIGTERM, Ctrl-C and the end of
the terminal are passed on: all save the same step and end, and so they do if this
process is killed.
"""

import argparse
import contextlib
import os
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from typing import IO

from launch import script, signals
from unitoken_jax.errors import REFUSED, UserError

_GRACE = 60.0  # seconds between being asked to end and being ended
_POLL = 0.1


class Group:
    """Processes that run and end together."""

    def __init__(
        self, commands: Sequence[Sequence[str]], env: Mapping[str, str]
    ) -> None:
        """Start the processes; the first one speaks for itself, the others are named.

        Args:
            commands: one for each process.
            env: their environment.
        """
        self._processes: list[subprocess.Popen[bytes]] = []
        self._readers: list[threading.Thread] = []
        for number, command in enumerate(commands):
            process = signals.start(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE if number else None,
                stderr=subprocess.STDOUT if number else None,
                env=env,
            )
            self._processes.append(process)
        # Not before all have been started.
        for number, process in enumerate(self._processes):
            if process.stdout is not None:
                reader = threading.Thread(target=_echo, args=(number, process.stdout))
                reader.start()
                self._readers.append(reader)

    def send(self, number: int) -> None:
        """Send a signal to all that still run."""
        for process in self._processes:
            if process.poll() is None:
                process.send_signal(number)

    def wait(self) -> int:
        """Wait until all have ended.

        Returns:
            0, `REFUSED` if one of them was refused, or else the code of the first that
            failed.
        """
        failed, limit = 0, float("inf")
        while any(process.poll() is None for process in self._processes):
            codes = [process.poll() for process in self._processes]
            if not failed and (bad := [code for code in codes if code]):
                failed, limit = bad[0], time.monotonic() + _GRACE
                self.send(signal.SIGTERM)
            if time.monotonic() > limit:
                self.send(signal.SIGKILL)
            time.sleep(_POLL)
        for reader in self._readers:
            reader.join()
        codes = [process.wait() for process in self._processes]
        if REFUSED in codes:  # the others may have noticed its end before we did
            return REFUSED
        return failed or next(filter(None, codes), 0)


def _echo(number: int, stream: IO[bytes]) -> None:
    with stream:
        for line in stream:
            text = line.decode(errors="replace")
            # If the terminal is closed, the process can still speak, and save.
            with contextlib.suppress(OSError):
                sys.stdout.write(f"process {number}: {text}")
                sys.stdout.flush()


def commands(arguments: Sequence[str], processes: int, port: int) -> list[list[str]]:
    """Return the command of each process.

    Raises:
        UserError: there are no arguments.
    """
    train = [sys.executable, *script.train_command(arguments, joined=False)[1:]]
    if processes == 1:
        return [train]
    return [
        [
            *train,
            f"--coordinator=localhost:{port}",
            f"--processes={processes}",
            f"--process={number}",
        ]
        for number in range(processes)
    ]


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("localhost", 0))
        return found.getsockname()[1]


def _parser() -> argparse.ArgumentParser:
    summary = "Run several processes on this machine."
    parser = script.parser("local", summary, platform=None)
    count = script.at_least(0)
    parser.add_argument(
        "--processes", type=script.at_least(1), default=1, help="how many"
    )
    parser.add_argument(
        "--port",
        type=script.at_least(0, 65535),
        default=0,
        help="they meet at; 0: a free one",
    )
    parser.add_argument(
        "--devices", type=count, default=0, help="CPU devices of each process; 0: JAX's"
    )
    parser.add_argument(
        "--retries", type=count, default=0, help="new starts of failed runs"
    )
    return parser


def port_of(words: Sequence[str]) -> str:
    """Name the port that a command line uses, '' if it finds a free one.

    Raises:
        UserError: the words cannot be read.
    """
    given = _parser().parse_args(words)
    return f"port {given.port}" if given.port else ""


def run(words: Sequence[str]) -> int:
    """Run, or print, what the words of a command line say; return the exit code."""
    given = _parser().parse_args(words)
    added = _variables(given.platform, given.devices)
    if given.dry_run:
        port = given.port or _free_port()
        shown = [f"{name}={value}" for name, value in added.items()]
        for command in commands(given.arguments, given.processes, port):
            print(shlex.join([*shown, *command]), "&")
        print("wait")
        return 0
    return _supervise(given, os.environ | added)


def _variables(platform: str | None, devices: int) -> dict[str, str]:
    """Return what is added to the environment."""
    added = {} if platform is None else script.platform(platform)
    if not devices:
        return added
    if platform not in (None, "cpu", "any"):
        raise UserError(
            f"--devices are of the CPU, and --platform={platform} does not use it: "
            "leave one out."
        )
    # Else a GPU or TPU that is there would be used, and the devices left alone.
    if platform is None and "JAX_PLATFORMS" not in os.environ:
        added = script.platform("cpu")
    return {"JAX_NUM_CPU_DEVICES": str(devices)} | added


def _supervise(given: argparse.Namespace, env: Mapping[str, str]) -> int:
    """Run the processes, again if they fail; return the exit code."""
    group: list[Group] = []

    def send(number: int) -> None:
        for running in group:
            running.send(number)

    code = 0
    with signals.passed_on(send) as asked:
        for attempt in range(given.retries + 1):
            port = given.port or _free_port()
            group[:] = [Group(commands(given.arguments, given.processes, port), env)]
            if asked:  # before there was a group to tell
                send(asked[-1])
            code = group[0].wait()
            if code == 0 or asked:
                break
            again = "starting again" if attempt < given.retries else "giving up"
            if code == REFUSED:
                again = "it would be refused again"
            print(f"launch.local: a process ended with {code}; {again}", flush=True)
            if code == REFUSED:
                break
    return signals.exit_code(code, asked)


if __name__ == "__main__":
    script.main(run)
