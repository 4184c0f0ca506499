"""The published UniTok (ViTamin-L) with hashed weights, in a process of its own.

    python tests/models/full_size_unitok.py OUT.npz

Runs the encoder on two images, the text tower, codes and pictures, and the whole
training forward; writes what a test compares, and this process's peak memory in bytes.
"""

import math
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import jax
import numpy as np
from hash_weights import hash_images, hash_weight

from unitoken_jax.convert.files.sources import Source
from unitoken_jax.convert.formats import network_of
from unitoken_jax.convert.published import unitok as layout
from unitoken_jax.convert.table import expected_shapes, import_tensors
from unitoken_jax.convert.tensors import Spec
from unitoken_jax.models.unitok import UniTok, UniTokConfig

GOLDEN = Path(__file__).parents[1] / "golden" / "unitok_hashinit.npz"
CONFIG = UniTokConfig()


class HashedWeights(Source):
    """Published names whose numbers are made when they are read."""

    def __init__(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Takes name → shape."""
        float32 = np.dtype(np.float32)
        specs = {key: Spec(shape, float32) for key, shape in shapes.items()}
        super().__init__("hash", specs, {})

    def __getitem__(self, key: str) -> np.ndarray:
        """The tensor of a name."""
        if key == "logit_scale":
            return np.float32(math.log(1 / 0.07)).reshape(())
        return hash_weight(key, self.spec(key).shape)


def parameters() -> dict:
    """Hashed parameters on the device, of which no second copy is held."""
    abstract = network_of(CONFIG).abstract(CONFIG)
    table, counts = layout.table(CONFIG), layout.counts(CONFIG)
    source = HashedWeights(expected_shapes(table, abstract, counts))
    tree = import_tensors(table, source, abstract, counts)
    leaves, structure = jax.tree.flatten(tree)
    del tree

    def moved() -> Iterator[jax.Array]:
        while leaves:
            yield jax.device_put(leaves.pop(0)).block_until_ready()

    return structure.unflatten(moved())


def peak() -> int:
    """Largest resident memory of this process so far, in bytes."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) * 1024


def main() -> None:
    """Run and write."""
    params, model = parameters(), UniTok(CONFIG)
    images = hash_images()
    with np.load(GOLDEN) as golden:
        text = golden["ids"]

    def run(method, *inputs):
        apply = jax.jit(lambda params, *x: model.apply(params, *x, method=method))
        return jax.device_get(apply({"params": params}, *inputs))

    result = {"tokens": run(lambda module, x: module.encoder(x), images)}
    result["text"] = run(lambda module, x: module.text(x), text)
    result["codes"] = run(UniTok.encode, images)
    result["decoded"] = run(UniTok.decode, result["codes"])
    forward = run(UniTok.__call__, images, text)
    for name in ("codes", "reconstruction", "image_features", "text_features"):
        result[f"forward_{name}"] = forward[name]
    np.savez(sys.argv[1], **result, peak=peak())


if __name__ == "__main__":
    main()
