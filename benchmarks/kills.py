"""Whether a training that is killed again and again ends as one that is left alone.

python -m benchmarks.kills [--kills=20] [--seed=0] [--directory=DIR]

One stage of the quickstart, few steps long, is trained once without interruption and
once killed with SIGKILL at random moments: while it starts, compiles, trains or saves.
Printed is where each kill met it; the exit status is 1 unless every array of both
last checkpoints is the same to the last bit.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from unitoken_jax.checkpoint.reader import restore_params
from unitoken_jax.runtime.pytree import flatten

STAGE, STEPS, EVERY = "tokenizer", 60, 4
FIELDS = {
    "finish": False,
    f"stages.{STAGE}.train.steps": STEPS,
    f"stages.{STAGE}.train.log_every": 1,
    f"stages.{STAGE}.optimizer.warmup": 5,
    f"stages.{STAGE}.checkpoint.every": EVERY,
}


def start(workdir: Path) -> subprocess.Popen[bytes]:
    """Start or resume the training of a folder."""
    command = [sys.executable, "-m", "unitoken_jax.train"]
    command += ["--config", "configs/quickstart.py", "--stage", STAGE]
    command += [f"--workdir={workdir}"]
    command += [f"--config.{name}={value}" for name, value in FIELDS.items()]
    with (workdir.parent / f"{workdir.name}.out").open("ab") as output:
        return subprocess.Popen(command, stdout=output, stderr=output)


def last_step(workdir: Path) -> int:
    """Return how many steps have been written down."""
    try:
        return len((workdir / STAGE / "metrics.jsonl").read_bytes().splitlines())
    except OSError:
        return 0


def kill_often(workdir: Path, kills: int, chance: random.Random) -> int:
    """Train a folder to its end through kills; return how many met it."""
    done = 0
    while True:
        process = start(workdir)
        if done < kills:
            # Half of the kills wait for steps, of which every fourth is saved.
            seen = last_step(workdir)
            if chance.random() < 0.5:
                while process.poll() is None and last_step(workdir) == seen:
                    time.sleep(0.01)
                time.sleep(chance.uniform(0, 2))
            else:
                time.sleep(chance.uniform(1, 15))
            if process.poll() is None:
                os.kill(process.pid, signal.SIGKILL)
                done += 1
                print(f"kill {done} after {last_step(workdir)} lines of steps")
                process.wait()
                continue
        if process.wait() == 0:
            return done
        raise SystemExit(f"a training ended with {process.returncode}: see {workdir}")


def differences(one: Path, other: Path) -> list[str]:
    """Return the parameters of two runs that are not the same to the last bit."""
    left, right = (flatten(restore_params(each / STAGE)[0]) for each in (one, other))
    return [
        path
        for path in sorted(left.keys() | right.keys())
        if path not in left
        or path not in right
        or np.asarray(left[path]).tobytes() != np.asarray(right[path]).tobytes()
    ]


def main() -> None:
    """Train twice and compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--directory", type=Path)
    values = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        directory = values.directory or Path(made)
        alone, killed = directory / "alone", directory / "killed"
        for each in (alone, killed):
            each.mkdir(parents=True)
        if start(alone).wait():
            raise SystemExit(f"the training ended: see {alone}.out")
        met = kill_often(killed, values.kills, random.Random(values.seed))
        found = differences(alone, killed)
    print(f"{met} kills, {len(found)} arrays differ", *found)
    raise SystemExit(bool(found))


if __name__ == "__main__":
    main()
