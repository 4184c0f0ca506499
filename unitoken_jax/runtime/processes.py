"""The processes of one run: joining them, agreeing, and ending when one is lost.

Every process runs the same program on one mesh and feeds its rows of each batch. They
must take every decision alike, so whatever only one of them can know (a signal, a file
that it cannot read) is agreed on here. With one process all of this does nothing.
"""

import os
import platform
import signal
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NoReturn

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from unitoken_jax.config import Bounds
from unitoken_jax.errors import (
    FAILED,
    ConfigError,
    FailedError,
    UserError,
    exit_code,
    sentence,
)

AUTO = "auto"
_NUMBERS = Bounds(0, most=2**20)  # numbers of processes, and how many
_LAST_PORT = 65_535


class LostError(FailedError):
    """Another process of the run has ended or cannot be reached."""


@contextmanager
def joined(coordinator: str, count: int, index: int) -> Iterator[None]:
    """Be one process of a run while the context lasts; Ctrl-C ends it in a sentence.

    Of several, one that fails ends at once, with a sentence: Python's ordinary end
    would wait for the others, who may be waiting for this one.

    Args:
        coordinator: 'HOST:PORT' of process 0; 'auto' asks the cluster that JAX finds
            (TPU slice, SLURM, Kubernetes, MPI); '' for a process of its own.
        count: how many processes there are; not needed with 'auto'.
        index: which of them this is, from 0.

    Raises:
        ConfigError: numbers that do not fit each other.
        FailedError: no device of JAX_PLATFORMS starts.
        LostError: the others did not come within five minutes.
    """
    if not coordinator:
        if count > 1:
            raise ConfigError(
                f"--processes={count} needs --coordinator=HOST:PORT, the address of "
                "process 0, the same for all of them."
            )
        if fault := _missing_platform():
            raise FailedError(fault)
        try:
            yield
        except KeyboardInterrupt:
            _end_interrupted()
        return
    _join(coordinator, count, index)
    if fault := _missing_platform():
        _leave(f"error: {fault}")
    try:
        yield
    except UserError as error:
        _leave(f"error: process {jax.process_index()}: {error}", exit_code(error))
    except OSError as error:
        _leave(f"error: process {jax.process_index()}: {sentence(error)}")
    except KeyboardInterrupt:
        _end_interrupted()
    except Exception:
        _leave(traceback.format_exc())
    jax.distributed.shutdown()


def _join(coordinator: str, count: int, index: int) -> None:
    # Its SIGTERM handler would stand in the way of ours.
    jax.config.update("jax_enable_preemption_service", False)
    if coordinator == AUTO:
        where: dict[str, object] = {"local_device_ids": []} if _has_node() else {}
    elif not (0 <= index < count and _is_address(coordinator)):
        raise ConfigError(
            f"--process={index} of --processes={count} at --coordinator="
            f"{coordinator}: expected HOST:PORT, a port from 1 to {_LAST_PORT}, and a "
            f"process from 0 to {max(count - 1, 0)}."
        )
    else:
        where = {
            "coordinator_address": coordinator,
            "num_processes": count,
            "process_id": index,
        }
    try:
        jax.distributed.initialize(**where)  # pyright: ignore[reportArgumentType]
    except (ValueError, RuntimeError) as error:
        if coordinator == AUTO:
            raise ConfigError(
                f"--coordinator=auto: no cluster is found here ({_brief(error)}). Name "
                "HOST:PORT of process 0, --processes and --process."
            ) from error
        raise LostError(
            f"process {index} could not join the run at {coordinator} "
            f"({_brief(error)}). Start all processes within five minutes of each "
            "other, with the same --coordinator."
        ) from error


def _missing_platform() -> str:
    """Return why the platform that the environment names is not there; '' if it is."""
    named = os.environ.get("JAX_PLATFORMS", "")
    if named in ("", "cpu"):
        return ""
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:  # the latter without a word
        why = f" ({_brief(error)})" if str(error) else ""
        return (
            f"JAX_PLATFORMS={named}, but no such device starts on "
            f"{platform.node()}{why}. Mend its driver, or name another platform "
            "(--platform of the launchers)."
        )
    return ""


def _has_node() -> bool:
    """Say whether SLURM gave this process a node of its own, with all its devices.

    Of any task that SLURM starts, JAX takes one GPU: that of the task's number.
    """
    count = os.environ.get("SLURM_NTASKS")
    alone = count is not None and count == os.environ.get("SLURM_STEP_NUM_NODES")
    # SLURM starts mpirun's daemons one a node, whose processes share it.
    by_mpirun = "OMPI_COMM_WORLD_SIZE" in os.environ
    return alone and not by_mpirun and "JAX_LOCAL_DEVICE_IDS" not in os.environ


def _is_address(text: str) -> bool:
    host, _, port = text.rpartition(":")
    return bool(host) and port.isdecimal() and 1 <= int(port) <= _LAST_PORT


def _leave(message: str, code: int = FAILED) -> NoReturn:
    print(message, file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _end_interrupted() -> None:
    """End by Ctrl-C's signal, as its sender expects, with a sentence."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    print(
        "error: interrupted; the same command resumes at the newest checkpoint.",
        file=sys.stderr,
    )
    sys.stdout.flush()
    sys.stderr.flush()
    signal.raise_signal(signal.SIGINT)


def is_first() -> bool:
    """Say whether this is the process that writes what is written once."""
    return jax.process_index() == 0


def gather(values: Sequence[int]) -> np.ndarray:
    """Return what each process says, int32 [processes, values]; all must ask."""
    with others_needed("an agreement"):
        said = np.asarray(values, np.int32)
        return np.asarray(multihost_utils.process_allgather(said)).reshape(
            jax.process_count(), -1
        )


def all_say(yes: bool) -> bool:
    """Say whether every process does; all must ask."""
    return bool(gather([int(yes)]).all())


def wait_for_all(name: str) -> None:
    """Go on when every process has come here; `name` is the same for all."""
    with others_needed(name):
        multihost_utils.sync_global_devices(name)


def of_first(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the arrays that the first process has, of one shape; all must ask."""
    if jax.process_count() == 1:
        return dict(arrays)
    return multihost_utils.broadcast_one_to_all(dict(arrays))


def fetch(array: jax.Array) -> np.ndarray:
    """Return the whole of an array, wherever its parts live; all must ask."""
    if array.is_fully_addressable or array.is_fully_replicated:
        return np.asarray(array)
    return np.asarray(multihost_utils.process_allgather(array, tiled=True))


class Poll:
    """The largest of what the processes say, known one call later.

    The answer is computed behind the step that was dispatched before the question, and
    read after the next: no step waits for it. All processes call it equally often.
    """

    def __init__(self) -> None:
        self._asked: jax.Array | None = None
        if jax.process_count() > 1:
            mesh = Mesh(np.asarray(jax.devices()), ("all",), (AxisType.Auto,))
            self._rows = NamedSharding(mesh, PartitionSpec("all"))
            whole = NamedSharding(mesh, PartitionSpec())
            self._largest = jax.jit(lambda x: jnp.max(x, 0), out_shardings=whole)

    def __call__(self, *values: int) -> tuple[int, ...]:
        """Ask with integers ≥ 0; return the answers to the question before, or zeros.

        With one process the answers are the values.
        """
        if jax.process_count() == 1:
            return values
        before, row = self._asked, np.asarray([values], np.int32)
        shape = (jax.device_count(), len(values))
        asked = jax.make_array_from_callback(shape, self._rows, lambda _: row)
        self._asked = self._largest(asked)
        if before is None:
            return (0,) * len(values)
        return tuple(int(x) for x in np.asarray(before))


@contextmanager
def others_needed(what: str) -> Iterator[None]:
    """Turn the failure of what all processes compute together into a sentence.

    Raises:
        LostError: in place of the runtime's error, if there are several processes and
            memory is not what was lacking.
    """
    try:
        yield
    except (jax.errors.JaxRuntimeError, ValueError) as error:
        if not _is_of_others(error):
            raise
        raise LostError(
            f"{what} failed, as another process of the run has ended or cannot be "
            f"reached ({_brief(error)}). Its own output says why; the same command "
            "for all processes resumes at the newest checkpoint."
        ) from error


def _is_of_others(error: Exception) -> bool:
    """Tell the failure of a collective from faults of this process."""
    text = str(error)
    # Arriving with the value of an array, the runtime's error is a plain ValueError.
    from_runtime = isinstance(error, jax.errors.JaxRuntimeError) or "Gloo" in text
    return jax.process_count() > 1 and from_runtime and "RESOURCE_EXH" not in text


def _brief(error: Exception) -> str:
    lines = str(error).splitlines() or [type(error).__name__]
    return lines[0][:200]


def number(given: int | None, variable: str) -> int:
    """Return what a flag says, or else a variable of the environment, or else 0."""
    if given is not None:
        return _NUMBERS(given, "--processes or --process")
    text = os.environ.get(variable) or "0"
    try:
        number = int(text)
    except ValueError as error:
        raise ConfigError(
            f"{variable}={text} in the environment: expected a whole number; correct "
            "it or leave it out."
        ) from error
    return _NUMBERS(number, variable)
