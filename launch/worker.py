"""One process under a scheduler: python -m launch.worker -- COMMAND.

Training that is asked to end saves and exits with 0, as one that is complete. For a
scheduler that restarts what has failed these are different things, so this process
passes SIGTERM and SIGINT on and exits with PREEMPTED (75, `EX_TEMPFAIL`: "run the same
command again") if the command then ended well or by that signal. Any other code is the
command's own, and 128 + N for signal N.
"""

import os
import sys
from collections.abc import Sequence

from launch import signals
from unitoken_jax.errors import REFUSED


def run(command: Sequence[str]) -> int:
    """Run a command to its end and return the code that says how it ended."""
    if not command:
        print("error: nothing to run: put a command behind --.", file=sys.stderr)
        return REFUSED
    try:
        return signals.supervise(command, os.kill)
    except OSError as error:
        print(f"error: {command[0]}: {error.strerror}.", file=sys.stderr)
        return 127


if __name__ == "__main__":
    words = sys.argv[1:]
    sys.exit(run(words[1:] if words[:1] == ["--"] else words))
