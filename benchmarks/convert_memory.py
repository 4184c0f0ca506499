"""Peak memory and time of converting UniToken-7B, random numbers for its weights.

    python benchmarks/convert_memory.py --folder DIR [--layers 32]

Writes a checkpoint of exactly the published names, shapes and type (871 tensors, 14.9
GB of bfloat16 in shards) into DIR, converts it unitoken → jax → unitoken, each in a
process of its own, and compares every tensor bit by bit with what was written. At most
two of the three copies are on the disk at once; all are removed at the end. Prints a
line of JSON: seconds, and peak resident memory of each process above its start.
"""

import argparse
import json
import shutil
import subprocess
import sys
import time
import zlib
from dataclasses import replace
from pathlib import Path

import ml_dtypes
import numpy as np

from unitoken_jax.convert.files.sinks import write_weights
from unitoken_jax.convert.files.sources import open_source
from unitoken_jax.convert.formats import network_of
from unitoken_jax.convert.published import unitoken
from unitoken_jax.convert.published.unitoken import write_unitoken
from unitoken_jax.convert.table import expected_shapes
from unitoken_jax.convert.tensors import Spec
from unitoken_jax.files import path_argument
from unitoken_jax.models.unitoken import UniTokenConfig

BAR_BYTES = 3 * 2**30
_CONVERT = """
import json, re, sys, time
def memory(name):
    status = open("/proc/self/status").read()
    return int(re.search(name + r":\\s+(\\d+) kB", status)[1]) * 1024
start, begun = memory("VmRSS"), time.monotonic()
from unitoken_jax import convert
convert.convert(*sys.argv[1:])
seconds = round(time.monotonic() - begun, 1)
print(json.dumps({"seconds": seconds, "start": start, "peak": memory("VmHWM")}))
"""


def generate(path: Path, layers: int) -> dict[str, int]:
    """Write the checkpoint; the checksum of every tensor."""
    config = UniTokenConfig()
    config = replace(config, decoder=replace(config.decoder, layers=layers))
    shapes = expected_shapes(
        unitoken.table(config),
        network_of(config).abstract(config),
        unitoken.counts(config),
    )
    bfloat16 = np.dtype(ml_dtypes.bfloat16)
    specs = {key: Spec(shape, bfloat16) for key, shape in shapes.items()}
    checksums = {}

    def tensor(key: str) -> np.ndarray:
        rng = np.random.default_rng(zlib.crc32(key.encode()))
        # Any bits but those of infinities and NaNs: sign, a small exponent, mantissa.
        bits = rng.integers(0, 2**14, shapes[key], np.uint16)
        checksums[key] = zlib.crc32(bits.reshape(-1).view(np.uint8))
        return bits.view(bfloat16)

    values = write_unitoken(config, {})
    write_weights(path, specs, tensor, values)
    return checksums


def verify(path: Path, checksums: dict[str, int]) -> int:
    """How many tensors are missing, unexpected or changed."""
    source = open_source(path)
    faults = len(set(source) ^ set(checksums))
    for key, checksum in checksums.items():
        faults += zlib.crc32(source[key].reshape(-1).view(np.uint8)) != checksum
    return faults


def convert(source_format: str, target_format: str, source: Path, path: Path) -> dict:
    """Run one conversion in a process of its own; its time and memory."""
    command = [sys.executable, "-c", _CONVERT, source_format, target_format]
    command += [str(source), str(path)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    measured = json.loads(done.stdout.splitlines()[-1])
    measured["above_start"] = measured["peak"] - measured["start"]
    return measured


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--folder",
        type=path_argument("--folder"),
        required=True,
        help="about 30 GB free",
    )
    parser.add_argument("--layers", type=int, default=32, help="fewer for a trial")
    arguments = parser.parse_args()
    folder = arguments.folder / f"convert-memory-{time.time_ns()}"
    folder.mkdir(parents=True)
    try:
        checksums = generate(folder / "published", arguments.layers)
        size = sum(file.stat().st_size for file in (folder / "published").iterdir())
        there = convert("unitoken", "jax", folder / "published", folder / "jax")
        shutil.rmtree(folder / "published")
        back = convert("jax", "unitoken", folder / "jax", folder / "back")
        shutil.rmtree(folder / "jax")
        faults = verify(folder / "back", checksums)
    finally:
        shutil.rmtree(folder)
    result = {
        "tensors": len(checksums),
        "bytes": size,
        "changed_tensors": faults,
        "unitoken_to_jax": there,
        "jax_to_unitoken": back,
        "bar_bytes": BAR_BYTES,
    }
    print(json.dumps(result))
    over = max(there["above_start"], back["above_start"]) > BAR_BYTES
    sys.exit("a tensor changed" if faults else "over the bar" if over else 0)


if __name__ == "__main__":
    main()
