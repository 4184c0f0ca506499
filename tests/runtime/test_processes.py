"""What the processes of a run have in common, seen from the only one."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unitoken_jax.config import ConfigError
from unitoken_jax.runtime import processes


def test_one_process_needs_nobody() -> None:
    with processes.joined("", 0, 0):
        assert processes.is_first()
    assert processes.gather([3, 4]).tolist() == [[3, 4]]
    assert (processes.all_say(True), processes.all_say(False)) == (True, False)
    poll = processes.Poll()
    assert [poll(0, 1), poll(15, 0)] == [(0, 1), (15, 0)]
    batch = {"image": np.arange(3)}
    assert processes.of_first(batch)["image"] is batch["image"]
    np.testing.assert_array_equal(processes.fetch(jnp.arange(3)), [0, 1, 2])


INTERRUPTED = """
import signal
from unitoken_jax.runtime import processes
# A suite in the background of a shell inherits that Ctrl-C is ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
with processes.joined("", 0, 0):
    signal.raise_signal(signal.SIGINT)
"""


def test_ctrl_c_ends_it_in_a_sentence() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", INTERRUPTED], capture_output=True, text=True, check=False
    )
    assert ended.returncode == -signal.SIGINT
    (line,) = ended.stderr.splitlines()
    assert line.startswith("error: interrupted; the same command resumes")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("", 2, 0), "--processes=2 needs --coordinator=HOST:PORT"),
        (("localhost:1", 2, 2), "a process from 0 to 1"),
        (("localhost:1", 0, 0), "a process from 0 to 0"),
        (("localhost", 2, 0), "expected HOST:PORT"),
        (("localhost:abc", 2, 0), "localhost:abc: expected HOST:PORT, a port from 1"),
        (("localhost:70000", 2, 0), "a port from 1 to 65535"),
        ((":80", 2, 0), "expected HOST:PORT"),
    ],
)
def test_numbers_that_do_not_fit_are_refused(arguments, sentence) -> None:
    with pytest.raises(ConfigError, match=sentence), processes.joined(*arguments):
        pass


IN_SLURM = """
import jax
from jax._src.xla_bridge import CUDA_VISIBLE_DEVICES
from unitoken_jax.runtime import processes
with processes.joined("auto", 0, 0):
    print(jax.process_index(), CUDA_VISIBLE_DEVICES.value)
"""


@pytest.mark.parametrize(
    ("nodes", "added", "seen"),
    [
        (2, {}, ["all", "all"]),
        (1, {}, ["0", "1"]),
        (2, {"JAX_LOCAL_DEVICE_IDS": "4,5"}, ["4,5", "4,5"]),
        (2, {"OMPI_COMM_WORLD_SIZE": "2"}, ["0", "1"]),
    ],
    ids=["a node each", "one node", "devices are named", "mpirun"],
)
def test_a_task_that_has_a_node_sees_all_its_gpus(nodes, added, seen) -> None:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    started = []
    for number in range(2):
        said = {
            "SLURM_JOB_ID": "17",
            "SLURM_STEP_NODELIST": "localhost",
            "SLURM_STEP_NUM_NODES": str(nodes),
            "SLURM_NTASKS": "2",
            "SLURM_PROCID": str(number),
            "SLURM_LOCALID": str(number),
            "JAX_COORDINATOR_PORT": str(port),
        }
        started.append(
            subprocess.Popen(
                [sys.executable, "-c", IN_SLURM],
                env={**os.environ, **said, **added, "JAX_PLATFORMS": "cpu"},
                stdout=subprocess.PIPE,
                text=True,
            )
        )
    found = [process.communicate(timeout=120)[0].split() for process in started]
    assert found == [[str(number), ids] for number, ids in enumerate(seen)]


def test_a_file_that_cannot_be_written_is_a_sentence(monkeypatch) -> None:
    """A process of several ends at once, and still without a traceback."""

    def leave(message: str, code: int = 1) -> NoReturn:
        raise SystemExit(message)

    monkeypatch.setattr(processes, "_join", lambda *_: None)
    monkeypatch.setattr(processes, "_leave", leave)
    with (
        pytest.raises(SystemExit, match="error: process 0: /no/a: Permission denied"),
        processes.joined("localhost:1", 2, 0),
    ):
        raise PermissionError(13, "Permission denied", "/no/a")


def test_only_what_others_cause_is_called_their_loss(monkeypatch) -> None:
    failure = ValueError("UNKNOWN: Gloo all-reduce failed: Connection reset by peer")
    with pytest.raises(ValueError, match="Gloo"), processes.others_needed("x"):
        raise failure
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with (
        pytest.raises(processes.LostError, match="step 3 failed, as another process"),
        processes.others_needed("step 3"),
    ):
        raise failure
    for own in (
        ValueError("a fault of this process"),
        jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory"),
    ):
        with pytest.raises(type(own)) as caught, processes.others_needed("x"):
            raise own
        assert caught.value is own


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_a_platform_that_is_not_there_is_a_sentence(platform) -> None:
    """JAX would go on with the CPU, or end without a word."""
    program = (
        "from unitoken_jax.runtime import processes\n"
        "from unitoken_jax.config import UserError\n"
        "try:\n"
        "    with processes.joined('', 0, 0): print('went on')\n"
        "except UserError as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=Path(__file__).parents[2],
        env=os.environ | {"JAX_PLATFORMS": platform},
        capture_output=True,
        text=True,
        check=True,
    )
    start = f"JAX_PLATFORMS={platform}, but no such device starts on "
    assert done.stdout.startswith(start)
