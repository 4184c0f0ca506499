"""How long a step waits for a checkpoint, against the bare copy to the host.

python -m benchmarks.checkpoint_stall [--mib=512] [--saves=4]

A state of that size is trained by a step that takes about as long as writing it does
not; every tenth step is saved. Printed are the median step, the longest step with a
save in it, the time of a synchronous save, and the time to copy the same arrays to the
host: an asynchronous save must cost a step no more than that.
"""

import argparse
import functools
import statistics
import tempfile
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from unitoken_jax.train import guard
from unitoken_jax.train.checkpoint import CheckpointConfig, Checkpointer
from unitoken_jax.train.local import LocalConfig
from unitoken_jax.train.state import TrainState

_ARRAYS = 16  # as many as the parameters of a scanned decoder


@functools.partial(jax.jit, static_argnums=0)
def make_state(mib: int) -> TrainState:
    """Return a state whose parameters hold `mib` MiB."""
    size = mib * 2**20 // 4 // _ARRAYS
    keys = jax.random.split(jax.random.key(0), _ARRAYS)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params={f"w{i}": jax.random.normal(k, (size,)) for i, k in enumerate(keys)},
        optimizer={},
        key=jax.random.key(1),
        guard=guard.init(),
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
    return TrainState(state.step + 1, params, {}, state.key, state.guard)


def seconds_to_copy(state: TrainState) -> float:
    """Return how long it takes to have the parameters in host memory."""
    params = jax.block_until_ready(copy_out(state.params))
    began = time.perf_counter()
    jax.tree.map(np.array, params)
    return time.perf_counter() - began


def seconds_of_steps(
    step: jax.stages.Wrapped, mib: int, saves: int, tier: str
) -> tuple[list[float], list[float], float]:
    """Return the times of steps without and with a save, and of a save alone."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = CheckpointConfig(
            every=1, keep=1, local=LocalConfig(str(folder / "local"), 1)
        )
        state = jax.block_until_ready(step(make_state(mib)))
        with Checkpointer(folder / "checkpoints", config) as checkpointer:
            save = checkpointer.save if tier == "durable" else checkpointer.save_local
            began = time.perf_counter()
            save(state, 0, {})
            checkpointer.wait()
            alone = time.perf_counter() - began
            plain: list[float] = []
            saved: list[float] = []
            while len(saved) < saves:
                for number in range(10):
                    began = time.perf_counter()
                    state = jax.block_until_ready(step(state))
                    if number == 9:
                        save(state, 0, {})
                    (saved if number == 9 else plain).append(
                        time.perf_counter() - began
                    )
                    if number == 0:  # the plain steps run with nothing being written
                        checkpointer.wait()
    return plain, saved, alone


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mib", type=int, default=512, help="size of the state")
    parser.add_argument("--saves", type=int, default=4, help="saves to measure")
    arguments = parser.parse_args()
    step = jax.jit(advance, donate_argnums=0)
    copy = min(seconds_to_copy(make_state(arguments.mib)) for _ in range(3))
    print(f"state {arguments.mib} MiB, copied to the host in {copy * 1e3:.0f} ms")
    for tier in ("durable", "local"):
        plain, saved, alone = seconds_of_steps(
            step, arguments.mib, arguments.saves, tier
        )
        usual = statistics.median(plain)
        longest = max(saved)
        print(
            f"{tier}: step {usual * 1e3:.0f} ms, with a save {longest * 1e3:.0f} ms "
            f"at most; it waits {(longest - usual) * 1e3:.0f} ms, "
            f"{(longest - usual) / copy:.2f} copies; a save alone takes "
            f"{alone * 1e3:.0f} ms"
        )


if __name__ == "__main__":
    main()
