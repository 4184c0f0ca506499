"""Compiled programs are kept for the next process, and survive a restart."""

import os
import subprocess
import sys
import types
from pathlib import Path

import jaxlib.version
import pytest

from unitoken_jax.config import ConfigError
from unitoken_jax.runtime import environment
from unitoken_jax.runtime.environment import (
    COMPILE_CACHE,
    let_cpu_devices_meet,
    use_compile_cache,
)

PROGRAM = """
import sys
import jax
import jax.numpy as jnp
from unitoken_jax.runtime.environment import use_compile_cache

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


SERIAL = "--xla_cpu_enable_concurrency_optimized_scheduler=false"
EIGHT = "--xla_force_host_platform_device_count=8"
MESH = """
import os
import jax
import jax.numpy as jnp
from unitoken_jax.runtime.environment import let_cpu_devices_meet

let_cpu_devices_meet()
print(os.environ["XLA_FLAGS"])
compiled = jax.jit(jnp.tanh).lower(jnp.ones(4)).compile()
print(jax.device_count())
"""


def test_the_flag_of_several_cpu_devices_is_known_to_xla() -> None:
    """XLA would end the process over one that it does not know."""
    done = subprocess.run(
        [sys.executable, "-c", MESH],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "XLA_FLAGS": EIGHT, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines() == [f"{EIGHT} {SERIAL}", "8"]


@pytest.mark.parametrize(
    ("given", "devices", "expected"),
    [
        ("", -1, ""),
        ("", 1, ""),
        ("", 2, SERIAL),
        ("--xla_x=1", 4, f"--xla_x=1 {SERIAL}"),
        ("--xla_x=1 ", 1, "--xla_x=1 "),
        (EIGHT, -1, f"{EIGHT} {SERIAL}"),
        ("--xla_force_host_platform_device_count=1", -1, None),
        (f"{EIGHT} {SERIAL.replace('false', 'true')}", 8, None),
        ("/a/file/of/flags", 8, None),
    ],
)
def test_flags_of_the_user_stay(monkeypatch, given, devices, expected) -> None:
    monkeypatch.setenv("XLA_FLAGS", given)
    monkeypatch.setattr(
        environment.jax, "config", types.SimpleNamespace(jax_num_cpu_devices=devices)
    )
    let_cpu_devices_meet()
    assert os.environ["XLA_FLAGS"] == (given if expected is None else expected)


def test_another_jaxlib_is_left_alone(monkeypatch) -> None:
    monkeypatch.setenv("XLA_FLAGS", EIGHT)
    monkeypatch.setattr(jaxlib.version, "__version_info__", (0, 11, 0))
    let_cpu_devices_meet()
    assert os.environ["XLA_FLAGS"] == EIGHT


def test_without_a_home_programs_are_not_kept(monkeypatch, caplog) -> None:
    """An unknown user of a container has neither HOME nor an entry of its own."""
    monkeypatch.delenv("HOME", raising=False)

    def unknown(uid: int) -> None:
        raise KeyError(uid)

    monkeypatch.setattr("pwd.getpwuid", unknown)
    use_compile_cache(COMPILE_CACHE)
    assert "compiled programs are not kept" in caplog.text
    assert "no such home directory" in caplog.text


def test_another_place_is_a_path(tmp_path) -> None:
    use_compile_cache("")
    for text in (" ", "gs://bucket/programs", "~no-such-user-here/programs"):
        with pytest.raises(ConfigError, match="--compile_cache"):
            use_compile_cache(text)
