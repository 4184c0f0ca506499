"""How long training waits for a checkpoint, against the bare copy to the host.

python -m benchmarks.checkpoint_stall [--mib=512] [--saves=8]

A state of that size is trained; every ninth step is saved, and right before each save
the same arrays are copied to the host, which is the least that a step that gives up its
buffers must wait for. Printed are, for both tiers, what a save waits before the next
step may begin; that with what the next step takes longer than those before, since on a
CPU it computes on the cores that write; and that with how late the thread that gives
out the steps comes back from a step elsewhere, as it would beside an accelerator: it
sleeps as long as a step takes. All are multiples of the copy beside them, as other
programs on the machine slow all of them alike.
"""

import argparse
import dataclasses
import functools
import statistics
import tempfile
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from unitoken_jax.checkpoint.local import LocalConfig
from unitoken_jax.checkpoint.manager import CheckpointConfig, Checkpointer
from unitoken_jax.checkpoint.state import TrainState, init_guard

_ARRAYS = 16  # as many as the parameters of a scanned decoder


@functools.partial(jax.jit, static_argnums=0)
def make_state(mib: int) -> TrainState:
    """Return a state whose parameters hold `mib` MiB."""
    size = mib * 2**20 // 4 // _ARRAYS
    keys = jax.random.split(jax.random.key(0), _ARRAYS)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params={f"w{i}": jax.random.normal(k, (size,)) for i, k in enumerate(keys)},
        opt_state={},
        ema=None,
        discriminator=None,
        key=jax.random.key(1),
        guard=init_guard(),
    )


@jax.jit
def copy_out(params: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """Return new buffers, whose first reading by the host is a true copy."""
    return jax.tree.map(lambda x: x * 1, params)


def advance(state: TrainState) -> TrainState:
    """Take one step that touches every parameter some times."""
    params = state.params
    for _ in range(4):
        params = jax.tree.map(lambda x: x + 1e-6 * jnp.sin(x), params)
    return dataclasses.replace(state, step=state.step + 1, params=params)


def seconds_to_copy(state: TrainState) -> float:
    """Return how long it takes to have the parameters in host memory."""
    params = jax.block_until_ready(copy_out(state.params))
    began = time.perf_counter()
    jax.tree.map(np.array, params)
    return time.perf_counter() - began


@dataclasses.dataclass(frozen=True)
class Save:
    """Seconds of one save and of what stands beside it.

    Attributes:
        step: median of the steps before.
        copy: of the same arrays to the host.
        call: until the save returns.
        next: of the step after it, or of the sleep in its place.
        written: until all is written.
    """

    step: float
    copy: float
    call: float
    next: float
    written: float

    @property
    def stall(self) -> float:
        """What the save costs the steps."""
        return self.call + max(0.0, self.next - self.step)


def measure(
    step: jax.stages.Wrapped, mib: int, saves: int, *, tier: str, elsewhere: bool
) -> list[Save]:
    """Return what each save took, beside a step here or `elsewhere`."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = CheckpointConfig(
            every=1, keep=1, local=LocalConfig(str(folder / "local"), 1)
        )
        state = jax.block_until_ready(step(make_state(mib)))
        measured: list[Save] = []
        with Checkpointer(folder / "checkpoints", config) as checkpointer:
            save = checkpointer.save if tier == "durable" else checkpointer.save_local

            def take_step() -> float:
                nonlocal state
                began = time.perf_counter()
                state = jax.block_until_ready(step(state))
                return time.perf_counter() - began

            for _ in range(saves + 1):
                usual = statistics.median(take_step() for _ in range(8))
                copy = seconds_to_copy(state)
                began = time.perf_counter()
                save(state, 0, {})
                call = time.perf_counter() - began
                if elsewhere:
                    time.sleep(usual)
                else:
                    take_step()
                after = time.perf_counter() - began - call
                checkpointer.wait()
                written = time.perf_counter() - began
                measured.append(Save(usual, copy, call, after, written))
        return measured[1:]  # the first save sets up what the others use


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mib", type=int, default=512, help="size of the state")
    parser.add_argument("--saves", type=int, default=8, help="saves to measure")
    arguments = parser.parse_args()
    step = jax.jit(advance, donate_argnums=0)
    for tier in ("durable", "local"):
        for elsewhere in (False, True):
            saves = measure(
                step, arguments.mib, arguments.saves, tier=tier, elsewhere=elsewhere
            )
            where = "elsewhere" if elsewhere else "on the cores that write"
            print(
                f"{tier} tier, {arguments.mib} MiB, the next step {where}, "
                f"medians of {len(saves)} saves:"
            )
            for field in dataclasses.fields(Save):
                seconds = statistics.median(getattr(save, field.name) for save in saves)
                print(f"  {field.name:8} {seconds * 1e3:7.0f} ms")
            for name in ("call", "stall"):
                ratios = sorted(getattr(save, name) / save.copy for save in saves)
                print(
                    f"  {name} / copy: {statistics.median(ratios):.2f}, "
                    f"from {ratios[0]:.2f} to {ratios[-1]:.2f}"
                )


if __name__ == "__main__":
    main()
