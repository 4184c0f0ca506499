"""Nearest codes at UniTok's published size: all distances at once against chunks.

    python benchmarks/code_search.py [--batch 8] [--repeat 3]

Searches 8 codebooks of 4,096 codes for 256 tokens a picture and prints, for every chunk
(token positions whose distances are held at once, 0 is all), seconds and the memory
that the compiled program needs beside its inputs, as a table and as one line of JSON.
"""

import argparse
import json
import time

import jax
import numpy as np

from unitoken_jax.ops.quantization import nearest

CHUNKS = (0, 64, 16, 4)
POSITIONS, BOOKS, CODES, WIDTH = 256, 8, 4096, 8


def measure(chunk: int, batch: int, repeat: int) -> dict[str, float]:
    """Seconds of the fastest run, and MiB of temporary memory."""
    rng = np.random.default_rng(0)
    latents = rng.standard_normal((batch, POSITIONS, BOOKS, WIDTH)).astype(np.float32)
    codebooks = rng.standard_normal((BOOKS, CODES, WIDTH)).astype(np.float32)
    search = jax.jit(lambda x, books: nearest(x, books, chunk))
    program = search.lower(latents, codebooks).compile()
    jax.block_until_ready(program(latents, codebooks))
    seconds = []
    for _ in range(repeat):
        began = time.perf_counter()
        jax.block_until_ready(program(latents, codebooks))
        seconds.append(time.perf_counter() - began)
    analysis = program.memory_analysis()
    size = 0 if analysis is None else analysis.temp_size_in_bytes
    return {"chunk": chunk, "seconds": min(seconds), "mebibytes": size / 2**20}


def main() -> None:
    """Measure every chunk."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=8, help="pictures")
    parser.add_argument("--repeat", type=int, default=3)
    options = parser.parse_args()
    rows = [measure(chunk, options.batch, options.repeat) for chunk in CHUNKS]
    plain = rows[0]["seconds"]
    for row in rows:
        ratio = row["seconds"] / plain
        print(
            f"chunk {row['chunk']:3d}  {row['seconds']:7.3f} s ({ratio:.2f} of all at "
            f"once)  {row['mebibytes']:8.1f} MiB"
        )
    print(json.dumps({"batch": options.batch, "rows": rows}))


if __name__ == "__main__":
    main()
