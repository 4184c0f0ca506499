"""The step that training runs, compiled for chips that are not there."""

import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from unitoken_jax.config import UserError
from unitoken_jax.models.system import FrozenModels, System
from unitoken_jax.parallel.rows import abstract
from unitoken_jax.parallel.topology import Topology, devices
from unitoken_jax.train.config import StageConfig
from unitoken_jax.train.program import TrainProgram, make_program

Shapes = Mapping[str, tuple[tuple[int, ...], type[np.generic]]]

_EXCEEDS = re.compile(
    r"(?:Used |required for HLO temporaries \()([\d.]+[KMG])\)? "
    r"(?:of|exceeds)[^\d]*([\d.]+[KMG])"
)
_SIZES = {"K": 2**10, "M": 2**20, "G": 2**30}
_SPOKEN = re.compile(r"[Ii]nvoluntary full rematerialization.*")
_SHOWN = 10  # last lines of the compiler's that are shown where it refuses a step
# Runs beside the compiler: if nobody says that it ended, it took this process with it.
_WATCH = 'read -r ended || { cat "$0" >&2; rm -f "$0"; }'


class CompileError(UserError):
    """The compiler refuses the step; the message says why."""


class TooLargeError(CompileError):
    """The step does not fit the memory of a chip.

    Attributes:
        needed: bytes it would take, None if the compiler does not say.
    """

    def __init__(self, message: str, needed: float | None) -> None:
        """Keeps the size."""
        super().__init__(message)
        self.needed = needed


@dataclass(frozen=True)
class Memory:
    """Bytes of HBM on one chip.

    Attributes:
        parameters: masters, trained and frozen.
        optimizer: moments and the like.
        batch: the rows of the step.
        temporary: what the step needs besides: activations, gathered weights.
        code: the program.
        peak: the most that is in use at once, of everything; 0 if not known.
        host: bytes that wait in host memory.
        others: arguments besides, frozen networks and the padding of all of them.
    """

    parameters: float
    optimizer: float
    batch: float
    temporary: float
    code: float
    peak: float
    host: float
    others: float = 0.0

    @property
    def needed(self) -> float:
        """What must be there: the peak, with the program."""
        return self.peak + self.code

    @property
    def unexplained(self) -> float:
        """The peak without the categories; negative where they never meet."""
        known = self.parameters + self.optimizer + self.batch + self.others
        return self.peak - known - self.temporary


@dataclass(frozen=True)
class Compiled:
    """A step, compiled.

    Attributes:
        text: its scheduled HLO.
        memory: what it takes.
        mesh: sizes of the mesh's axes.
        layout: where everything lives.
        batch: shapes and shardings of a batch.
        lower_seconds: to trace and lower it.
        compile_seconds: to compile it.
        peak_rss: bytes of host memory that this process has needed so far.
        warnings: what the compiler said about resharding.
    """

    text: str
    memory: Memory
    mesh: Mapping[str, int]
    layout: TrainProgram
    batch: Mapping[str, jax.ShapeDtypeStruct]
    lower_seconds: float
    compile_seconds: float
    peak_rss: float
    warnings: tuple[str, ...] = field(default=())


def compile_job(
    stage: StageConfig,
    system: System,
    shapes: Shapes,
    topology: Topology,
    *,
    at: str = "config",
    frozen_models: FrozenModels | None = None,
) -> Compiled:
    """Compiles the train step of a stage; nothing is computed, no data is needed.

    Args:
        stage: the stage's config; its `tpu_options` are the compiler's.
        system: its model.
        shapes: (shape, type) of every array of a batch.
        topology: to compile for.
        at: dotted path of the config, for messages.
        frozen_models: frozen networks with abstract parameters.

    Raises:
        TooLargeError: the step does not fit the chips.
        CompileError: the compiler refuses it otherwise.
        UserError: mesh, batch or axes do not fit.
    """
    layout = make_program(stage, system, at, devices(topology))
    batch = abstract(shapes, layout.mesh)
    networks = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=layout.replicated),
        dict(frozen_models or {}),
    )
    began = time.monotonic()
    with jax.set_mesh(layout.mesh):
        lowered = layout.step.lower(layout.abstract, batch, networks)
        middle = time.monotonic()
        try:
            with listening() as heard:
                compiled = lowered.compile(compiler_options=layout.compiler_options)
        except jax.errors.JaxRuntimeError as error:
            fault = refusal(str(error), topology)
            if not isinstance(fault, TooLargeError):
                lines = "".join(heard).splitlines(keepends=True)
                sys.stderr.writelines(lines[-_SHOWN:])
            raise fault from error
    done = time.monotonic()
    return Compiled(
        text=compiled.as_text() or "",
        memory=_memory(compiled.memory_analysis(), layout, batch),
        mesh=dict(layout.mesh.shape),
        layout=layout,
        batch=batch,
        lower_seconds=middle - began,
        compile_seconds=done - middle,
        peak_rss=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0,
        warnings=tuple(dict.fromkeys(_SPOKEN.findall("".join(heard)))),
    )


def shard_bytes(leaf: jax.Array | jax.ShapeDtypeStruct) -> float:
    """Bytes of one chip's part of an array with a sharding."""
    if not isinstance(leaf.sharding, NamedSharding):
        return float(np.prod(leaf.shape)) * _itemsize(leaf.dtype)
    return float(np.prod(leaf.sharding.shard_shape(leaf.shape))) * _itemsize(leaf.dtype)


def _itemsize(dtype: np.dtype) -> int:
    if jnp.issubdtype(dtype, jax.dtypes.prng_key):
        return 8
    return np.dtype(dtype).itemsize


def _memory(analysis: Any, layout: TrainProgram, batch: Mapping[str, object]) -> Memory:
    def total(tree: object) -> float:
        return sum(map(shard_bytes, jax.tree.leaves(tree)))

    parameters = total(layout.abstract.params)
    optimizer = total({**layout.abstract.learned, "params": None})
    rows = total(batch)
    arguments = float(analysis.argument_size_in_bytes)
    return Memory(
        parameters=parameters,
        optimizer=optimizer,
        batch=rows,
        others=max(0.0, arguments - parameters - optimizer - rows),
        temporary=float(analysis.temp_size_in_bytes),
        code=float(analysis.generated_code_size_in_bytes),
        peak=float(analysis.peak_memory_in_bytes),
        host=float(analysis.host_temp_size_in_bytes),
    )


def refusal(message: str, topology: Topology) -> CompileError:
    """Returns what the compiler's message says of a step for chips of `topology`."""
    first = message.strip().splitlines()[0]
    if "RESOURCE_EXHAUSTED" not in message or "hbm" not in message.lower():
        return CompileError(f"the compiler refuses the step: {first}")
    match = _EXCEEDS.search(message)
    needed = float(match[1][:-1]) * _SIZES[match[1][-1]] if match else None
    size = "" if needed is None else f" of {needed / 2**30:.1f} GiB"
    return TooLargeError(
        f"the step{size} does not fit the {topology.chip.memory / 2**30:.0f} GiB of a "
        f"{topology.chip.name} chip: use another remat policy, more shards, or "
        "more microbatches or chunks where the model takes them",
        needed,
    )


@contextmanager
def listening() -> Iterator[list[str]]:
    """Collect what the compiler writes to the error stream, which it does in C++.

    A compiler that aborts ends this process, and no `finally` runs: another one then
    writes what was said to the error stream.
    """
    heard: list[str] = []
    sys.stderr.flush()
    with tempfile.NamedTemporaryFile() as file:
        watch = subprocess.Popen(
            ["/bin/sh", "-c", _WATCH, file.name], stdin=subprocess.PIPE
        )
        before = os.dup(2)
        os.dup2(file.fileno(), 2)
        try:
            yield heard
        finally:
            os.dup2(before, 2)
            os.close(before)
            watch.communicate(b"ended\n")
            file.seek(0)
            heard.append(file.read().decode(errors="replace"))
