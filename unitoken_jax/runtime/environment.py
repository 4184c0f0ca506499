"""What a run ran on: versions, devices, revision and command, for its record."""

import importlib.metadata
import json
import logging
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jaxlib.version

from unitoken_jax.errors import ConfigError
from unitoken_jax.files import user_path

log = logging.getLogger(__name__)

COMPILE_CACHE = "~/.cache/unitoken_jax/xla"
"""Where compiled programs are kept unless another place is named."""
_CONCURRENT = "--xla_cpu_enable_concurrency_optimized_scheduler"
_KNOWN_JAXLIB = (0, 10)  # versions that have this flag
_PACKAGES = (
    *("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "array-record"),
    *("numpy", "ml_collections", "tokenizers"),
)


def describe() -> dict[str, Any]:
    """Return versions, devices, git revision and command line as plain values."""
    devices = jax.devices()
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": [sys.executable, *sys.argv],
        "revision": revision(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "host": platform.node(),
        "cpu_count": os.cpu_count(),
        "memory_bytes": _memory_bytes(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "devices": {
            "count": len(devices),
            "processes": jax.process_count(),
            "platform": devices[0].platform,
            "kind": devices[0].device_kind,
        },
    }


def revision() -> str | None:
    """Return the git commit of this code, marked if files differ; None without git."""

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(Path(__file__).parent), *arguments],
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        ).stdout.strip()

    try:
        commit = git("rev-parse", "HEAD")
        changed = git("status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return None
    return f"{commit}, with changes" if changed else commit


def write_json(path: Path, content: Mapping[str, object]) -> None:
    """Write a JSON file as `write_text` does."""
    write_text(path, json.dumps(content, indent=2, sort_keys=True) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a file so that readers see the old or the new one, never a part."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def let_cpu_devices_meet() -> None:
    """Keep several CPU devices of this process from waiting for each other for ever.

    XLA's scheduler for the CPU may start their collectives in different orders, which
    ends the process after a minute. To be called before JAX looks for devices; flags of
    the user stay as they are.
    """
    given = os.environ.get("XLA_FLAGS", "").strip()
    asked = re.findall(r"--xla_force_host_platform_device_count=(\d+)", given)
    configured: int = jax.config.jax_num_cpu_devices  # pyright: ignore[reportAttributeAccessIssue]
    count = max([1, configured, *map(int, asked)])
    is_file = bool(given) and not given.startswith("-")
    # XLA aborts the process over a flag that it does not know.
    known = jaxlib.version.__version_info__[:2] == _KNOWN_JAXLIB
    if count > 1 and known and not is_file and _CONCURRENT not in given:
        os.environ["XLA_FLAGS"] = f"{given} {_CONCURRENT}=false".lstrip()


def use_compile_cache(directory: str) -> None:
    """Keep compiled programs in `directory` for later runs; '' keeps none.

    Args:
        directory: as a user writes it. The default is done without where there is no
            home, as under an unknown user in a container.

    Raises:
        ConfigError: another one cannot be a path.
    """
    if not directory:
        return
    try:
        path = user_path(directory, "--compile_cache")
    except ConfigError as error:
        if directory != COMPILE_CACHE:
            raise
        log.warning("compiled programs are not kept: %s", error)
        return
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        log.warning("compiled programs are not kept: %s: %s", path, error.strerror)
    else:
        jax.config.update("jax_compilation_cache_dir", str(path))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 1.0)


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
