"""Numbers as a reader wants them: few digits, units, minutes, gibibytes."""

import itertools
import math
import re
from collections.abc import Sequence
from typing import TypeGuard

_THIN_SPACE = "\u202f"  # narrow, no break
_NO_BREAK_SPACE = "\u00a0"
_TITLES = {
    "accuracy/all": "Accuracy, all questions",
    "accuracy_new_compositions": "Accuracy, new compositions",
    "accuracy_new_concepts": "Accuracy, new concepts",
    "bits_per_answer": "Bits per answer",
    "bits_per_answer/all": "Bits per answer, all questions",
    "bits_per_code": "Bits per code",
    "caption_rank": "Own caption ranked first",
    "caption_rank_new_compositions": "The same, new compositions",
    "caption_rank_new_concepts": "The same, new concepts",
    "classified": "Zero-shot class",
    "commit": "Commitment loss",
    "cycle": "Cycle accuracy",
    "cycle/all": "Cycle accuracy, all questions",
    "cycle_new_compositions": "Cycle accuracy, new compositions",
    "cycle_new_concepts": "Cycle accuracy, new concepts",
    "cycle_real": "The same on real pictures",
    "cycle_real/all": "The same on real pictures, all questions",
    "cycle_real_new_compositions": "The same on real pictures, new compositions",
    "cycle_real_new_concepts": "The same on real pictures, new concepts",
    "data_wait": "Waiting for data",
    "device_memory_bytes": "Device memory",
    "device_memory_peak_bytes": "Device memory, peak",
    "fid": "FID",
    "frechet_alexnet": "Fréchet distance, AlexNet",
    "goodput": "Goodput",
    "grad_norm": "Gradient norm",
    "image_accuracy": "Accuracy on image codes",
    "image_loss": "Loss on image codes",
    "images_per_second": "Images/s",
    "inception_score": "Inception score",
    "kernel_alexnet": "kernel distance, AlexNet",
    "kid": "KID",
    "l1": "L1 loss",
    "l2": "L2 loss",
    "latent_rank": "Directions of the latents",
    "lpips": "LPIPS",
    "memory_bytes": "Memory",
    "perception": "In the eyes of other networks",
    "perplexity": "Code perplexity",
    "precision_alexnet": "precision, AlexNet",
    "precision_inception": "precision, Inception",
    "psnr": "PSNR",
    "recall_alexnet": "recall, AlexNet",
    "recall_inception": "recall, Inception",
    "ssim": "SSIM",
    "steps_per_second": "Steps/s",
    "stlpips_alexnet": "ST-LPIPS, AlexNet",
    "text_accuracy": "Accuracy on text",
    "text_loss": "Loss on text",
    "tokens_per_second": "Tokens/s",
    "usage": "Code usage",
    "top@1": "Right class first",
    "top@5": "Right class among the first five",
    "z_loss": "z-loss",
    "zero_shot": "Zero-shot classification",
}
_UNITS = {
    "psnr": "dB",
    "bits_per_code": "bits",
    "data_wait": "share of the time",
    "goodput": "share of the time",
    "device_memory_bytes": "GiB",
    "device_memory_peak_bytes": "GiB",
    "memory_bytes": "GiB",
    "cross_entropy": "nats",
    "text_loss": "nats",
    "image_loss": "nats",
}


# By the end or the beginning of their names; of others more is better, or neither.
_LESS_IS_BETTER = re.compile(
    r"_loss$|^bits_per_|^similarity$|median_rank$|^fid$|^kid$|^lpips$|(frechet|kernel)_"
)


LARGEST = 1e300
"""Beyond it numbers are none that a page can draw: their differences overflow."""


def is_number(value: object) -> TypeGuard[float]:
    """Tell numbers from all else; True, False and whole ones beyond floats are none."""
    if isinstance(value, bool):
        return False
    return isinstance(value, float) or (isinstance(value, int) and abs(value) < LARGEST)


def number(value: float) -> str:
    """Write a number in three or four digits that count, thousands set apart."""
    if not math.isfinite(value):
        return "not finite"
    magnitude = abs(value)
    if value == int(value) and magnitude < 1e7:
        words = f"{int(value):,}"
    elif magnitude >= 1e7 or magnitude < 1e-3:
        mantissa, exponent = f"{value:.2e}".split("e")
        words = f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"
    else:
        power = math.floor(math.log10(magnitude))
        words = f"{value:,.{max(0, min(2, 3 - power) if power >= 0 else 2 - power)}f}"
    return words.replace(",", _THIN_SPACE).replace("-", "−")


def tick(value: float) -> str:
    """Write a round number without the zeros that only fill it up."""
    words = number(value)
    if "e" in words or "." not in words:
        return words
    return words.rstrip("0").rstrip(".")


def ticks(values: Sequence[float]) -> list[str]:
    """Write evenly spaced round numbers, with as many decimals as tell them apart."""
    largest = max(map(abs, values))
    stride = min((abs(b - a) for a, b in itertools.pairwise(values)), default=1.0)
    if largest >= 1e7 or stride < 1e-4:
        return list(map(tick, values))
    decimals = max(0, -math.floor(math.log10(stride) + 1e-9))
    words = [f"{v:,.{decimals}f}" if v else "0" for v in values]
    return [w.replace(",", _THIN_SPACE).replace("-", "−") for w in words]


def duration(seconds: float) -> str:
    """Write a time span: "48 s", "3 min 12 s", "2 h 05 min"."""
    whole = round(seconds)
    minutes, rest = divmod(whole, 60)
    hours, sixtieths = divmod(minutes, 60)
    if hours:
        words = f"{hours} h {sixtieths:02d} min"
    elif minutes:
        words = f"{minutes} min {rest:02d} s"
    else:
        words = f"{whole} s" if whole >= 10 else f"{seconds:.1f} s"
    return words.replace(" ", _NO_BREAK_SPACE)


def size(count: float) -> str:
    """Write a number of bytes in binary units."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count) < 1024 or unit == "GiB":
            break
        count /= 1024
    return f"{count:.2f} {unit}" if unit == "GiB" else f"{count:.0f} {unit}"


def percent(*fractions: float) -> str:
    """Write a fraction, or the ends of an interval of fractions, as percentages."""
    if not all(map(math.isfinite, fractions)):
        return "not finite"
    words = " to ".join(f"{100 * fraction:.1f}" for fraction in fractions)
    return f"{words}{_THIN_SPACE}%".replace("-", "−")


def title(key: str) -> str:
    """Turn a name into words: "image_to_text/recall@1" → "Image to text: recall@1"."""
    if key in _TITLES:
        return _TITLES[key]
    first, *rest = key.split("/")
    words = _TITLES.get(first, first.replace("_", " "))
    words = words[:1].upper() + words[1:]
    parts = (_TITLES.get(part, part.replace("_", " ")) for part in rest)
    return ": ".join([words, *parts])


def preference(key: str) -> str:
    """Say that less of a measure is better, "" where that is not so."""
    return "less is better" if _LESS_IS_BETTER.search(key) else ""


def unit(key: str) -> str:
    """Return the unit of a metric by its name, or "" where it has none."""
    return _UNITS.get(key.rsplit("/", 1)[-1], "")
