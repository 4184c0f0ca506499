"""What digests take of saving and restoring a checkpoint.

python -m benchmarks.checkpoint_digests [--mib=1024] [--times=5] [--directory=DIR]

A state of that size is saved, with a clock around what writes the digests, and then
restored in turn without and with a comparison beside it. Printed are the medians of the
seconds on the clock and of all cores: other programs on the machine slow all of them
alike. Saving is until the checkpoint has its name, behind the steps of a training.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from unittest import mock

import jax
import numpy as np

from benchmarks.checkpoint_stall import make_state
from unitoken_jax.checkpoint import digests
from unitoken_jax.checkpoint.manager import CheckpointConfig, Checkpointer

META = {"config": {"train": {"batch": 1}}}


def timed(work: Callable[..., object], *arguments: object) -> np.ndarray:
    """Return seconds on the clock and of all cores."""
    began, used = time.perf_counter(), time.process_time()
    jax.block_until_ready(work(*arguments))
    return np.array([time.perf_counter() - began, time.process_time() - used])


def measure(mib: int, times: int, directory: Path) -> dict[str, list[np.ndarray]]:
    """Return what saving, its digests, and restoring without and with them take."""
    state = jax.block_until_ready(make_state(mib))
    abstract = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
    )
    found: dict[str, list[np.ndarray]] = {}

    def note(name: str, work: Callable[[], object]) -> None:
        found.setdefault(name, []).append(timed(work))

    seal = digests.seal
    with (
        mock.patch.object(digests, "seal", lambda at: note("seal", lambda: seal(at))),
        Checkpointer(directory, CheckpointConfig()) as checkpointer,
    ):

        def save() -> None:
            checkpointer.save(state, 0, META)
            checkpointer.wait()

        def restore() -> object:
            restored = checkpointer.restore(abstract)
            return restored and restored.state

        note("save", save)
        restore()  # compiles, and fills the cache of the disk
        for _ in range(times):
            with mock.patch.object(digests, "verified", return_value=nullcontext()):
                note("without", restore)
            note("with", restore)
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mib", type=int, default=1024)
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--directory", help="where to write; default: the system's")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.directory) as directory:
        found = measure(given.mib, given.times, Path(directory) / "checkpoints")
    median = {name: np.median(seconds, axis=0) for name, seconds in found.items()}
    rest = median["save"] - median["seal"]
    for unit, of in enumerate(("clock", "cores")):
        print(
            f"save, {of}: {rest[unit]:.2f} s, and {median['seal'][unit]:.2f} s for "
            f"digests: {median['seal'][unit] / rest[unit]:+.1%}"
        )
    for unit, of in enumerate(("clock", "cores")):
        before, after = median["without"][unit], median["with"][unit]
        print(
            f"restore, {of}: {before:.2f} s without, {after:.2f} s with digests: "
            f"{after / before - 1:+.1%}"
        )


if __name__ == "__main__":
    main()
