"""What a read costs in data sets of few and of very many shards.

    python -m benchmarks.shard_reads [--many 10000] [--reads 5000]

Writes tiny shards, opens them as a split and reads records at random. Prints, for 10
shards and for many, seconds to open the split with all that is compared at a start,
microseconds and bytes a read while the shards are open and where each must be opened,
and the descriptors that are open in the end, as a table and as one line of JSON. The
numbers of grain's own source, which has every shard open, stand beside them.
"""

import argparse
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from grain.sources import ArrayRecordDataSource

from data_pipelines.storage import integrity, records
from data_pipelines.storage.manifest import Manifest, Shard
from data_pipelines.storage.readers import READERS
from data_pipelines.storage.shards import Split, shard_name, write_split

FEW, OF_EACH = 10, 8  # shards, and records in each


def _record(index: int) -> bytes:
    picture = records.picture(bytes([index % 251]) * 200, 8, 8)
    record = records.make(
        f"picture/{index}", images=[picture], captions=["a red heart"]
    )
    return records.encode(record)


def write(directory: Path, shards: int) -> None:
    """Writes a data set of `shards` shards that are links to one."""
    entries = map(_record, range(OF_EACH))
    (first,) = write_split(directory, "one", entries, count=OF_EACH, shards=1)

    def link(shard: Shard, split: str, number: int) -> dict[str, Any]:
        name = shard_name(split, number, shards)
        os.link(directory / shard.name, directory / name)
        return {**vars(shard), "name": name}

    rows = []
    for number in range(shards):
        assert first.pictures is not None
        pictures = Shard(**link(first.pictures, "train.pictures", number))
        rows.append(Shard(**link(first, "train", number) | {"pictures": pictures}))
    Manifest({"train": tuple(rows)}, {}, {}, (), {}).write(directory)


def _bytes_read() -> int:
    with open("/proc/self/io", encoding="ascii") as lines:
        return int(next(lines).split()[1])


def timed(read: Callable[[int], object], order: Sequence[int]) -> dict[str, float]:
    """Microseconds and bytes of a read."""
    before, began = _bytes_read(), time.perf_counter()
    for index in order:
        read(index)
    seconds, count = time.perf_counter() - began, len(order)
    return {
        "microseconds": 1e6 * seconds / count,
        "bytes": (_bytes_read() - before) / count,
    }


def measure(shards: int, reads: int) -> dict[str, Any]:
    """Numbers of a data set of `shards` shards."""
    folder = tempfile.mkdtemp()
    try:
        directory = Path(folder)
        write(directory, shards)
        began = time.perf_counter()
        split = Split(directory, "train", images=False)
        opened = time.perf_counter() - began
        integrity._SMALL = 0  # pyright: ignore[reportPrivateUsage]
        began = time.perf_counter()
        split = Split(directory, "train", images=False)
        in_parts = time.perf_counter() - began
        rng = np.random.default_rng(0)
        near = rng.integers(0, FEW * OF_EACH, reads).tolist()
        far = rng.integers(0, len(split), reads).tolist()
        timed(split.__getitem__, near[: FEW * OF_EACH])
        found = {
            "shards": shards,
            "start_s": opened,
            "start_in_parts_s": in_parts,
            "open": timed(split.__getitem__, near),
            "anywhere": timed(split.__getitem__, far),
            "descriptors": len(READERS),
        }
        split.close()
        paths = [os.fspath(path) for path in sorted(directory.glob("train-*"))]
        began = time.perf_counter()
        source = ArrayRecordDataSource(paths)
        found["grain_start_s"] = time.perf_counter() - began
        before = len(os.listdir("/proc/self/fd"))
        timed(source.__getitem__, near[: FEW * OF_EACH])
        found["grain_open"] = timed(source.__getitem__, near)
        found["grain_anywhere"] = timed(source.__getitem__, far)
        found["grain_descriptors"] = len(os.listdir("/proc/self/fd")) - before
        source.__exit__(None, None, None)
    finally:
        shutil.rmtree(folder)
    return found


def main() -> None:
    """Measure few and many shards."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--many", type=int, default=10_000, help="shards")
    parser.add_argument("--reads", type=int, default=5000)
    options = parser.parse_args()
    rows = [measure(shards, options.reads) for shards in (FEW, options.many)]
    for row in rows:
        for name, value in row.items():
            shown = value if isinstance(value, dict) else {"": value}
            text = "  ".join(f"{v:,.2f} {k}" for k, v in shown.items())
            print(f"{row['shards']:6d} shards  {name:18s} {text}")
    few, many = (row["open"]["microseconds"] for row in rows)
    print(f"a read of an open shard: {many / few:.2f} of that among {FEW} shards")
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
