"""One process of a run over the miniature network: python worker.py OPTIONS.

OPTIONS is JSON: `coordinator`, `count`, `index`, `devices` of this process, `directory`
of the stage, `delay` of every batch in seconds, `asked`, the batch with which process 1
is asked to end (−1: none), `digest` of this process's stream, and `fields` of the job.
"""

import json
import signal
import sys
import time
from pathlib import Path

import jax
import miniature
import numpy as np
import pytest

from unitoken_jax.parallel.mesh import make_mesh
from unitoken_jax.parallel.rows import local_rows
from unitoken_jax.runtime import processes
from unitoken_jax.runtime.console import log_to_console
from unitoken_jax.train import stage
from unitoken_jax.train.components import StageComponents


class Part(miniature.Batches):
    """This process's rows of every batch."""

    def __init__(self, rows: np.ndarray, delay: float, asked: int) -> None:
        super().__init__()
        self._rows, self._delay, self._asked = rows, delay, asked

    def __next__(self) -> dict[str, np.ndarray]:
        time.sleep(self._delay)
        if self.index == self._asked and jax.process_index() == 1:
            signal.raise_signal(signal.SIGTERM)
        whole = super().__next__()
        record = whole.pop("record")
        return {name: x[self._rows] for name, x in whole.items()} | {"record": record}


def train(options: dict) -> None:
    """Train the stage and print how it ended."""
    miniature.register(pytest.MonkeyPatch())
    job = miniature.job(**options["fields"])
    rows = local_rows(job.train.batch, make_mesh(job.mesh))
    batches = Part(rows, options["delay"], options["asked"])
    batches.digest = options["digest"]
    parts = StageComponents(miniature.system(), batches)
    outcome = stage.run(job, parts, Path(options["directory"]))
    print(f"ended at {int(outcome.state.step)}: {outcome.preempted}")


if __name__ == "__main__":
    options = json.loads(sys.argv[1])
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", options["devices"])
    where = (options["coordinator"], options["count"], options["index"])
    with (
        processes.joined(*where),
        log_to_console(warnings_only=not processes.is_first()),
    ):
        train(options)
