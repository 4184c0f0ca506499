"""What an evaluation found, as rows of a table and as examples to look at."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from unitoken_jax.report import pictures
from unitoken_jax.report.quantities import is_number, number, percent

_PICTURES = (".png", ".webp", ".jpg")
# What a measure means, by its name or by the part before the slash.
_MEANINGS = {
    "psnr": "of reconstructions beside their originals",
    "ssim": "of reconstructions beside their originals",
    "code_usage": "share of the codes that occur at all",
    "code_perplexity": "as many equally frequent codes have the same entropy",
    "image_to_text": "finding the caption of a picture",
    "text_to_image": "finding the picture of a caption",
    "top@": "the class whose description is nearest to the picture",
    "accuracy": "answers that match exactly",
    "accuracy_new_compositions": "known things as training never combines them",
    "accuracy_new_concepts": "things that training never shows",
    "bits_per_answer": "of the right answer that the model does not know",
    "caption_rank": "a picture is likelier under its own caption than under others",
    "bits_per_code": "to write a held-out picture, given its caption",
    "class_rank": "a picture is likeliest under its own class",
    "cycle": "answers about the model’s own drawings",
    "cycle_real": "the same questions about the real pictures",
    "reconstructions": "beside the held-out originals",
    "drawings": "beside held-out pictures",
}
_STRIP = 160.0  # width of the drawn interval, in its own units


@dataclasses.dataclass(frozen=True)
class Result:
    """One measure with what it stands beside; texts are ready for the page."""

    name: str
    meaning: str
    value: str
    interval: str
    baseline: str
    against: str
    count: int
    strip: "Strip | None"


@dataclasses.dataclass(frozen=True)
class Strip:
    """A fraction's place between 0 and 1, with interval and baseline, in pixels."""

    value: float | None
    low: float | None
    high: float | None
    baseline: float | None


@dataclasses.dataclass(frozen=True)
class Example:
    """Something to look at, of the list `name`: pictures, words, lists of examples."""

    name: str
    pictures: Mapping[str, pictures.Picture]
    words: Mapping[str, Any]
    lists: Mapping[str, Sequence["Example"]]


@dataclasses.dataclass(frozen=True)
class Group:
    """All that one evaluator found."""

    name: str
    results: Sequence[Result]
    examples: Mapping[str, Sequence[Example]]


def read(evaluation: Mapping[str, Any], folder: Path) -> tuple[Group, ...]:
    """Convert the content of an evaluation; what has another shape is left out.

    Args:
        evaluation: evaluators by name, each with `measures` and `samples`.
        folder: what the paths of pictures are relative to.
    """
    return tuple(
        Group(
            name=name,
            results=[
                _result(key, measure)
                for key, measure in _mapping(part.get("measures")).items()
                if isinstance(measure, Mapping) and is_number(measure.get("value"))
            ],
            examples={
                key: [_example(key, item, folder) for item in items if _mapping(item)]
                for key, items in _mapping(part.get("samples")).items()
                if isinstance(items, list)
            },
        )
        for name, part in evaluation.items()
        if isinstance(part, Mapping)
    )


def _result(name: str, measure: Mapping[str, Any]) -> Result:
    unit = str(measure.get("unit") or "")
    value = measure["value"]
    low, high, baseline = (
        measure[key] if is_number(measure.get(key)) else None
        for key in ("low", "high", "baseline")
    )

    def write(*values: float) -> str:
        if not unit:
            return percent(*values)
        words = " to ".join(map(number, values))
        return f"{words} {unit}" if len(values) == 1 else words

    def place(value: float | None) -> float | None:
        return None if value is None else _STRIP * min(1.0, max(0.0, value))

    return Result(
        name=name,
        meaning=_meaning(name),
        value=write(value),
        interval="" if low is None or high is None else write(low, high),
        baseline="" if baseline is None else write(baseline),
        against=str(measure.get("against") or ""),
        count=int(measure.get("count") or 0),
        strip=Strip(*map(place, (value, low, high, baseline))) if not unit else None,
    )


def _meaning(name: str) -> str:
    stem = name.partition("/")[0]
    return _MEANINGS.get(stem) or _MEANINGS.get(stem.rstrip("0123456789"), "")


def _example(name: str, item: Mapping[str, Any], folder: Path) -> Example:
    """Sort an example's values; strings that name a file of pictures become one."""
    found, words, lists = {}, {}, {}
    for key, value in item.items():
        if isinstance(value, str) and value.endswith(_PICTURES):
            picture = pictures.inline(folder / value)
            if picture:
                found[key] = picture
        elif isinstance(value, list) and all(isinstance(x, Mapping) for x in value):
            lists[key] = [_example(key, x, folder) for x in value]
        else:
            words[key] = value
    return Example(name, found, words, lists)


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
