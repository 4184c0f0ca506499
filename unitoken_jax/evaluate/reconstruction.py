"""How much of a picture survives its codes: PSNR, SSIM and use of the codebook."""

import dataclasses
import functools
from collections.abc import Iterable
from itertools import islice

import jax
import jax.numpy as jnp
import numpy as np

from unitoken_jax.config import Count, Natural
from unitoken_jax.evaluate.batches import batches, spread
from unitoken_jax.evaluate.measure import Evaluation, Measure, summarise
from unitoken_jax.generate.decode import Params, call
from unitoken_jax.models.unitok import UniTok
from unitoken_jax.models.vqgan import VQGAN
from unitoken_jax.ops import fidelity, pixels, quantization


@dataclasses.dataclass(frozen=True)
class ReconstructionConfig:
    """What to measure.

    Attributes:
        stage: The training stage whose tokenizer is measured; "" is the last of them.
        pictures: At most how many held-out pictures.
        batch: Pictures at once.
        rounding: How pixels become bytes where pictures are shown.
        examples: How many pairs to show.
    """

    stage: str = ""
    pictures: Count = 256
    batch: Count = 32
    rounding: pixels.Rounding = "truncate"
    examples: Natural = 16


@functools.partial(jax.jit, static_argnames=("model", "rounding"))
def reconstruct(
    model: VQGAN | UniTok,
    params: Params,
    pictures: jax.Array,
    rounding: pixels.Rounding = "truncate",
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Code and decode pictures, uint8 [B, H, W, 3].

    Returns:
        Codes [B, T, C] of C codebooks, reconstructions uint8 [B, H, W, 3], and of each
        its PSNR in dB and SSIM, [B].
    """
    images = pixels.normalize(pictures)
    codes = call(model, params, "encode", images)
    decoded = jnp.clip(call(model, params, "decode", codes), -1, 1)
    if isinstance(model, VQGAN):
        codes = codes.reshape(codes.shape[0], -1, 1)
    return (
        codes,
        pixels.to_bytes(decoded, rounding),
        fidelity.psnr(images, decoded),
        fidelity.ssim(images, decoded),
    )


def evaluate(
    model: VQGAN | UniTok,
    params: Params,
    pictures: Iterable[np.ndarray],
    config: ReconstructionConfig,
) -> Evaluation:
    """Measure a tokenizer on pictures it has not seen.

    Args:
        model: The tokenizer.
        params: Its parameters.
        pictures: uint8 [H, W, 3], all of one size, at least one.
        config: See `ReconstructionConfig`.

    Returns:
        Measures `psnr` and `ssim` (means over pictures), `code_usage` (share of the
        codes that occur at all) and `code_perplexity` (number of equally likely codes
        of the same entropy), both means over codebooks, and with several of them
        `code_usage/k` of each; samples `pairs` of {original, reconstruction, psnr}.
    """
    originals = np.stack(list(islice(pictures, config.pictures)))
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
    size = model.config.n_embed if isinstance(model, VQGAN) else model.config.codes
    counts = quantization.count_codes(jnp.asarray(codes), size)
    usage = [float(share) for share in quantization.usage(counts)]
    shown = spread(len(originals), config.examples)
    return Evaluation(
        measures={
            "psnr": summarise(psnr, unit="dB"),
            "ssim": summarise(ssim, unit="of 1"),
            "code_usage": Measure(float(np.mean(usage)), len(originals)),
            "code_perplexity": Measure(
                float(quantization.perplexity(counts).mean()),
                len(originals),
                unit="codes",
            ),
        }
        | (
            {
                f"code_usage/{k}": Measure(share, len(originals))
                for k, share in enumerate(usage)
            }
            if len(usage) > 1
            else {}
        ),
        samples={
            "pairs": [
                {
                    "original": originals[i],
                    "reconstruction": decoded[i],
                    "psnr": float(psnr[i]),
                }
                for i in shown
            ]
        },
    )
