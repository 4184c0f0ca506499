"""Programs of the clouds that only write down how they were called."""

import os
import stat
import subprocess
from pathlib import Path

# Each call is a line of `calls`; FOLDER/NAME.sh may decide on output and exit code.
PROGRAM = """#!/bin/bash
echo "$(basename "$0") $*" >> FOLDER/calls
decide=FOLDER/$(basename "$0").sh
if [ -f "$decide" ]; then . "$decide"; fi
"""
NAMES = ("gcloud", "kubectl", "xpk", "sbatch", "srun", "scontrol", "sleep")


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
        path = f"{self.folder}:{os.environ['PATH']}"
        command = ["bash", "-c", script]
        env = os.environ | {"PATH": path}
        return subprocess.run(command, env=env, check=False, timeout=60).returncode

    @property
    def calls(self) -> list[str]:
        """Everything that was called, in order."""
        return (self.folder / "calls").read_text().splitlines()
