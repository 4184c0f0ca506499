"""How much of an image survives its codes: PSNR, SSIM and use of the codebook."""

import functools
from collections.abc import Iterable
from itertools import islice
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from unitoken_jax.evaluate.config import ReconstructionConfig
from unitoken_jax.evaluate.evaluator import (
    Evaluation,
    Evaluator,
    batches,
    evenly_spaced,
)
from unitoken_jax.evaluate.statistics.intervals import Measure, summarize
from unitoken_jax.models.image_tokenizer import ImageTokenizer
from unitoken_jax.models.system import Params, call
from unitoken_jax.ops import fidelity, pixels, quantization


@functools.partial(jax.jit, static_argnames=("model", "rounding"))
def reconstruct(
    model: ImageTokenizer,
    params: Params,
    images: jax.Array,
    rounding: pixels.Rounding = "truncate",
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Code and decode images, uint8 [B, H, W, 3].

    Returns:
        Codes [B, T, C] of C codebooks, reconstructions uint8 [B, H, W, 3], and of each
        its PSNR in dB and SSIM, [B].
    """
    originals = pixels.normalize(images)
    codes = call(model, params, "encode_grid", originals)
    decoded = jnp.clip(call(model, params, "decode_grid", codes), -1, 1)
    # [B, h, w] or [B, h, w, C] → [B, T, C]
    codes = codes.reshape(codes.shape[0], -1, model.num_codebooks or 1)
    return (
        codes,
        pixels.to_bytes(decoded, rounding),
        fidelity.psnr(originals, decoded),
        fidelity.ssim(originals, decoded),
    )


class Reconstruction(Evaluator[ReconstructionConfig]):
    """Show held-out images to a stage's image tokenizer."""

    name: ClassVar[str] = "reconstruction"

    def run(self) -> Evaluation:
        """Code and decode the images."""
        trained = self.source.restore(self.name, self.config.stage)
        squares = self.source.squares(trained.data)
        some = self.source.nonempty(squares, "pictures")
        tokenizer = trained.system.image_tokenizer
        assert tokenizer is not None  # without one, none has this evaluator
        return evaluate(tokenizer, trained.params, some, self.config)


def evaluate(
    model: ImageTokenizer,
    params: Params,
    images: Iterable[np.ndarray],
    config: ReconstructionConfig,
) -> Evaluation:
    """Measure a tokenizer on images it has not seen.

    Args:
        model: The tokenizer.
        params: Its parameters.
        images: uint8 [H, W, 3], all of one size, at least one.
        config: See `ReconstructionConfig`.

    Returns:
        Measures `psnr` and `ssim` (means over images), `code_usage` (share of the
        codes that occur at all) and `code_perplexity` (number of equally likely codes
        of the same entropy), both means over codebooks, and with several of them
        `code_usage/k` of each; samples `pairs` of {original, reconstruction, psnr}.
    """
    originals = np.stack(list(islice(images, config.images)))
    outputs = [
        [
            np.asarray(part)[:count]
            for part in reconstruct(model, params, batch, config.rounding)
        ]
        for batch, count in batches(originals, config.batch)
    ]
    codes, decoded, psnr, ssim = (
        np.concatenate(part) for part in zip(*outputs, strict=True)
    )
    pairs = [
        {
            "original": originals[i],
            "reconstruction": decoded[i],
            "psnr": float(psnr[i]),
        }
        for i in evenly_spaced(len(originals), config.examples)
    ]
    measures = {
        "psnr": summarize(psnr, unit="dB"),
        "ssim": summarize(ssim, unit="of 1"),
    }
    return Evaluation(
        measures | code_measures(codes, model.codebook_size), {"pairs": pairs}
    )


def code_measures(codes: np.ndarray, size: int) -> dict[str, Measure]:
    """Measure how the codes of images, [N, T, C], use C codebooks of a size."""
    count = len(codes)
    counts = quantization.count_codes(jnp.asarray(codes), size)
    usage = [float(share) for share in quantization.usage(counts)]
    perplexity = float(quantization.perplexity(counts).mean())
    measures = {
        "code_usage": Measure(float(np.mean(usage)), count),
        "code_perplexity": Measure(perplexity, count, unit="codes"),
    }
    if len(usage) > 1:
        of_each = {f"code_usage/{k}": Measure(u, count) for k, u in enumerate(usage)}
        measures |= of_each
    return measures
