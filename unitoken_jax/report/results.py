"""What an evaluation found, as rows of a table and as examples to look at."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

from unitoken_jax.report import images
from unitoken_jax.report.quantities import is_number, number, percent, preference
from unitoken_jax.report.run import Content

_IMAGES = (".png", ".webp", ".jpg")
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
    "bits_per_code": "to write a picture, given its caption",
    "class_rank": "a picture is likeliest under its own class",
    "cycle": "answers about the model’s own drawings",
    "cycle_real": "the same questions about the real pictures",
    "reconstructions": "beside the originals",
    "drawings": "beside the real pictures",
    "captions": "that come back word for word",
}
_OF = "of"  # says what an evaluation is of
_REASONS = 3  # of records that were set aside
_STRIP = 160.0  # width of the drawn interval, in its own units


@dataclasses.dataclass(frozen=True)
class Result:
    """One measure with what it stands beside; texts are ready for the page.

    `worse` says that it is on the wrong side of its baseline, or nothing.
    """

    name: str
    meaning: str
    value: str
    interval: str
    baseline: str
    against: str
    worse: str
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
    """Something to look at, of the list `name`: images, words, lists of examples."""

    name: str
    images: Mapping[str, images.InlineImage]
    words: Content
    lists: Mapping[str, Sequence["Example"]]


@dataclasses.dataclass(frozen=True)
class Group:
    """All that one evaluator found.

    Attributes:
        name: of the evaluator.
        results: what it measured.
        examples: what it shows.
        error: why it failed, or nothing.
        aside: what it could not take, or nothing.
    """

    name: str
    results: Sequence[Result]
    examples: Mapping[str, Sequence[Example]]
    error: str = ""
    aside: str = ""


def read(evaluation: Content, folder: Path) -> tuple[Group, ...]:
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
            error=str(part.get("error") or ""),
            aside=_aside(_mapping(part.get("set_aside"))),
        )
        for name, part in evaluation.items()
        if isinstance(part, Mapping) and name != _OF
    )


def _aside(said: Content) -> str:
    """Say how much an evaluator could not take, and why."""
    count, of = said.get("count"), said.get("of")
    if not (is_number(count) and is_number(of) and of > 0):
        return ""
    records = said.get("records")
    reasons = [
        f"{record.get('id')}: {record.get('reason')}"
        for record in (records if isinstance(records, list) else ())[:_REASONS]
        if isinstance(record, Mapping)
    ]
    more = ["…"] if count > len(reasons) else []
    shares = f"{number(count)} of {number(of)} ({percent(count / of)})"
    return f"{shares} set aside: {'; '.join([*reasons, *more])}"


def _result(name: str, measure: Content) -> Result:
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
        worse=_worse(name, measure, baseline),
        count=int(measure.get("count") or 0),
        strip=Strip(*map(place, (value, low, high, baseline))) if not unit else None,
    )


def _worse(name: str, measure: Content, baseline: float | None) -> str:
    if baseline is None:
        return ""
    less = measure.get("less_is_better")
    # Earlier versions have not written down which way is better.
    if bool(preference(name)) if less is None else less:
        return "above its baseline" if measure["value"] > baseline else ""
    return "below its baseline" if measure["value"] < baseline else ""


def _meaning(name: str) -> str:
    stem = name.partition("/")[0]
    return _MEANINGS.get(stem) or _MEANINGS.get(stem.rstrip("0123456789"), "")


def _example(name: str, item: Content, folder: Path) -> Example:
    """Sort an example's values; strings that name a file of pictures become one."""
    found, words, lists = {}, {}, {}
    for key, value in item.items():
        if isinstance(value, str) and value.endswith(_IMAGES):
            image = images.inline(folder / value)
            if image:
                found[key] = image
        elif isinstance(value, list) and all(isinstance(x, Mapping) for x in value):
            lists[key] = [_example(key, x, folder) for x in value]
        else:
            words[key] = value
    return Example(name, found, words, lists)


def _mapping(value: object) -> Content:
    return value if isinstance(value, Mapping) else {}
