"""Fit a tokenizer's codebook to its latents: python -m unitoken_jax.train.codebook.

A stage that trains encoder and decoder without codes (`model.quantizes=False`) leaves
latents of several directions. A codebook that lies where they lie (k-means: Lloyd 1982,
seeded as in Arthur & Vassilvitskii 2007) keeps all its codes in use from the first step
with codes on; one that has to find them wakes few of its codes.
"""

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags, logging
from scipy.cluster.vq import kmeans2

from data_pipelines.errors import DataError
from data_pipelines.images import decoding, transforms
from data_pipelines.storage import records
from data_pipelines.storage.shards import Split
from unitoken_jax import config as configs
from unitoken_jax import convert
from unitoken_jax.errors import UserError
from unitoken_jax.files import define_path_flag
from unitoken_jax.models.system import Params, call
from unitoken_jax.models.vqgan import VQGAN
from unitoken_jax.ops import pixels

_BATCH = 64  # images at once
_SHOWN = 40  # latents for each code that k-means looks at
_ROUNDS = 15


def fit(
    model: VQGAN, params: Params, images: Iterable[np.ndarray], seed: int = 0
) -> Params:
    """Return the parameters with a codebook fitted to the latents of images.

    Args:
        model: the tokenizer.
        params: its parameters, nested.
        images: uint8 [H, W, 3], of one size; their latents must be more than the codes.
        seed: of the choice of latents, and of k-means.

    Raises:
        UserError: there are too few images.
    """
    run = jax.jit(lambda shown: call(model, params, "latent", pixels.normalize(shown)))
    size, width = model.config.n_embed, model.config.embed_dim
    found = [
        # [B, h, w, E] → [B · h · w, E]
        np.asarray(run(jnp.asarray(batch)))[:count].reshape(-1, width)
        for batch, count in _batches(images)
    ]
    latents = np.concatenate(found) if found else np.zeros((0, width), np.float32)
    if len(latents) < size:
        raise UserError(
            f"{len(latents):,} latents are too few for {size:,} codes; give more images"
        )
    rng = np.random.default_rng(seed)
    chosen = rng.permutation(len(latents))[: _SHOWN * size]
    book, _ = kmeans2(latents[chosen], size, _ROUNDS, minit="++", rng=rng)
    return {**params, "codebook": book.astype(np.float32)}


def _batches(images: Iterable[np.ndarray]) -> Iterator[tuple[np.ndarray, int]]:
    """Yield batches [B, H, W, 3], the last one filled up, with how many count."""
    iterator = iter(images)
    while some := list(islice(iterator, _BATCH)):
        count = len(some)
        yield np.stack([*some, *[some[-1]] * (_BATCH - count)]), count


def read_images(directory: Path, split: str, side: int) -> Iterator[np.ndarray]:
    """Yield the images of a data set, fitted into squares; what is broken is left out.

    Args:
        directory: the prepared data set.
        split: of it.
        side: of the squares, pixels.
    """
    with_images = Split(directory, split)
    try:
        for record in with_images:
            if records.has_image(record):
                data = records.first_image(record)["bytes"]
                try:
                    image = decoding.decode(data, f"record {record['id']!r}")
                except decoding.ImageError as error:
                    logging.warning("left out: %s", error)
                    continue
                yield transforms.to_square(image, side, transforms.WHITE)
    finally:
        with_images.close()


def define_flags() -> None:
    """Define the flags of the command."""
    define_path_flag(
        "input", None, "Stage or weights of the tokenizer, see convert.", required=True
    )
    define_path_flag("data", None, "Prepared data set.", required=True)
    define_path_flag("output", None, "File of weights to write.", required=True)
    flags.DEFINE_integer("images", 1000, "At most how many images.", lower_bound=1)


def main() -> None:
    """Fit the codebook of a stage and write its weights."""
    flag = flags.FLAGS
    model, params = convert.load("jax", flag.input)
    if not isinstance(model, VQGAN):
        raise UserError(
            f"{flag.input} holds a {type(model).__name__}; only a VQGAN's codebook is "
            "fitted to latents."
        )
    side = model.config.resolution
    try:
        images = islice(read_images(flag.data, "train", side), flag.images)
        fitted = fit(model, params, images)
    except DataError as error:
        raise UserError(f"{error}.") from error
    convert.save("jax", model, fitted, flag.output)
    print(f"{flag.output}: {model.config.n_embed} codes")


if __name__ == "__main__":
    define_flags()
    configs.run(main)
