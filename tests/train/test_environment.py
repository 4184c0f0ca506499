"""Compiled programs are kept for the next process, and survive a restart."""

import subprocess
import sys
from pathlib import Path

from unitoken_jax.train.environment import use_compile_cache

PROGRAM = """
import sys
import jax
import jax.numpy as jnp
from unitoken_jax.train.environment import use_compile_cache

found = []
jax.monitoring.register_event_listener(lambda name, **_: found.append(name))
use_compile_cache(sys.argv[1])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)  # small as it is
jax.jit(lambda x: jnp.tanh(x @ x)).lower(jnp.ones((8, 8))).compile()
for outcome in ("cache_hits", "cache_misses"):
    print(found.count(f"/jax/compilation_cache/{outcome}"))
"""


def test_a_second_process_compiles_nothing_again(tmp_path) -> None:
    outcomes = []
    for _ in range(2):
        process = subprocess.run(
            [sys.executable, "-c", PROGRAM, tmp_path / "programs"],
            cwd=Path(__file__).parents[2],
            capture_output=True,
            text=True,
            check=True,
        )
        outcomes.append([int(count) for count in process.stdout.split()])
    (before, compiled), after = outcomes
    assert (before, after) == (0, [compiled, 0])
    assert compiled > 0


def test_a_place_that_cannot_be_is_no_fault(tmp_path, caplog) -> None:
    (tmp_path / "file").write_text("")
    use_compile_cache(str(tmp_path / "file" / "programs"))
    assert "compiled programs are not kept" in caplog.text
