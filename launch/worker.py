"""One process under a scheduler: python -m launch.worker -- COMMAND.

Training that is asked to end saves and exits with 0, as one that is complete. For a
scheduler that restarts what has failed these are different things, so this process
passes SIGTERM and SIGINT on and exits with PREEMPTED (75, `EX_TEMPFAIL`: "run the same
command again") if the command then ended well or by that signal. Any other code is the
command's own, and 128 + N for signal N.
"""

import subprocess
import sys
from collections.abc import Sequence

from launch import signals


def run(command: Sequence[str]) -> int:
    """Run a command to its end and return the code that says how it ended."""
    if not command:
        print("error: nothing to run: put a command behind --.", file=sys.stderr)
        return 1
    children: list[subprocess.Popen[bytes]] = []

    def send(number: int) -> None:
        for child in children:
            child.send_signal(number)

    with signals.passed_on(send) as asked:
        try:
            # A session of its own: a Ctrl-C reaches it once, through `send`.
            children.append(subprocess.Popen(command, start_new_session=True))
            if asked:  # before there was a child to tell
                children[0].send_signal(asked[-1])
            code = children[0].wait()
        except OSError as error:
            print(f"error: {command[0]}: {error.strerror}.", file=sys.stderr)
            return 127
    return signals.exit_code(code, asked)


if __name__ == "__main__":
    words = sys.argv[1:]
    sys.exit(run(words[1:] if words[:1] == ["--"] else words))
