"""Programs of the clouds that only write down how they were called."""

import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]

# Each call is a line of `calls`; FOLDER/NAME.sh may decide on output and exit code.
PROGRAM = """#!/bin/bash
echo "$(basename "$0") $*" >> FOLDER/calls
decide=FOLDER/$(basename "$0").sh
if [ -f "$decide" ]; then . "$decide"; fi
"""
NAMES = (
    *("gcloud", "kubectl", "xpk", "sleep"),
    *("sbatch", "srun", "scontrol", "scancel", "squeue"),
)
# A suite under nohup inherits that the end of the terminal is ignored, one that a
# shell runs in the background that Ctrl-C is.
HEARS = ("env", "--default-signal=HUP,INT,TERM")


class FakeCloud:
    """A folder of such programs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in NAMES:
            path = folder / name
            path.write_text(PROGRAM.replace("FOLDER", str(folder)))
            path.chmod(path.stat().st_mode | stat.S_IXUSR)

    def decide(self, name: str, program: str) -> None:
        """Let a program run some shell, in which `$FOLDER` is this one."""
        (self.folder / f"{name}.sh").write_text(f"FOLDER={self.folder}\n{program}")

    def run(self, script: str) -> int:
        """Run a script where these programs come first; return its exit code."""
        command = ["bash", "-c", script]
        return subprocess.run(
            command, env=self._environment(), check=False, timeout=60
        ).returncode

    def interrupt(
        self, module: str, words: Sequence[str], number: int
    ) -> tuple[int, str]:
        """Send a launcher a signal when the file `up` is made.

        With SIGHUP nothing can be said any more, as in a terminal that is closed.

        Returns:
            Its exit code, and what it said on the standard error output.
        """
        hangs_up = number == signal.SIGHUP
        with (
            open("/dev/full", "w") as gone,
            subprocess.Popen(
                [*HEARS, sys.executable, "-m", f"launch.{module}", *words],
                cwd=ROOT,
                env=self._environment(),
                stderr=gone if hangs_up else subprocess.PIPE,
                text=True,
            ) as launcher,
        ):
            limit = time.monotonic() + 30
            while not (self.folder / "up").exists() and time.monotonic() < limit:
                time.sleep(0.02)
            launcher.send_signal(number)
            said = launcher.communicate(timeout=30)[1]
        return launcher.returncode, said or ""

    def _environment(self) -> dict[str, str]:
        return os.environ | {"PATH": f"{self.folder}:{os.environ['PATH']}"}

    @property
    def calls(self) -> list[str]:
        """Everything that was called, in order."""
        return (self.folder / "calls").read_text().splitlines()
