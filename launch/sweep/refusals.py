"""Which points training would refuse, and the sentence by which a run has ended."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence

from launch.sweep.config import Point
from unitoken_jax.config import UserError

_SENTENCE = re.compile(r"(?:process \d+: )?error: (.*)")


def find(points: Sequence[Point]) -> dict[str, str]:
    """Return name of a point → why training would refuse it; of most there is nothing.

    One process checks them all: none of what JAX takes meanwhile is missed by the runs.

    Raises:
        UserError: they cannot be checked.
    """
    asked = [(point.name, point.config, point.set) for point in points]
    done = subprocess.run(
        [sys.executable, "-m", "launch.sweep.check"],
        input=json.dumps(asked),
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"it ends with {done.returncode}"]
        raise UserError(f"the points cannot be checked: {said[-1]}.")
    return json.loads(done.stdout)


def sentence(output: str) -> str:
    """Return the fault that a run's output ends with, in a sentence; '' is none."""
    found = [_SENTENCE.fullmatch(line) for line in output.splitlines()]
    spoken = [match[1] for match in found if match]
    return spoken[-1] if spoken else ""
