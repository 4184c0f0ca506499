"""Does as if it trained: python stand_in.py ARGUMENTS.

It understands the arguments of `python -m unitoken_jax.train` as far as sweeps use them
and leaves the files that a run leaves. Tests start dozens: it imports nothing of ours.
"""

import json
import sys
from pathlib import Path


def train(words: list[str]) -> None:
    """Do as if a chain was trained: what is complete stays, the rest is marked."""
    given = dict(word.removeprefix("--").split("=", 1) for word in words)
    workdir = Path(given["workdir"])
    stages = [given["stage"]] if "stage" in given else ["tokenizer", "base", "last"]
    behavior = json.loads((workdir.parents[1] / "behaviour.json").read_text())
    for name in stages:
        folder = workdir / name
        if (folder / "finished.json").exists():
            continue
        what = behavior.get(f"{name}:{given.get('config.stages.last.rate')}")
        if what == "fail":
            raise RuntimeError("the chip is lost")
        if what == "refuse":
            print("error: the data is not there.")
            sys.exit(78)
        if what == "full":
            print(f"error: {workdir}: No space left on device.")
            sys.exit(1)
        if what == "end":
            sys.exit(0)
        if "preempt once" in str(what) and not (workdir / "once").exists():
            (workdir / "once").touch()
            (folder / "checkpoints" / "1").mkdir(parents=True)
            sys.exit(75 if "75" in str(what) else 0)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "trained").write_text(str(workdir))
        (folder / "finished.json").write_text(json.dumps({"steps": 3}))
    if "stage" not in given:
        (workdir / "report.html").touch()


if __name__ == "__main__":
    train(sys.argv[1:])
