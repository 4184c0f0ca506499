"""A training stage as the page shows it: facts, curves, sample sheets, config."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from unitoken_jax.config import render
from unitoken_jax.report import chart, images, quantities
from unitoken_jax.report.run import Content, Curve, Stage

_SPEED = {
    "steps_per_second": quantities.number,
    "tokens_per_second": quantities.number,
    "images_per_second": quantities.number,
    "data_wait": quantities.percent,
    "goodput": quantities.percent,
    "memory_bytes": quantities.size,
    "device_memory_bytes": quantities.size,
    "device_memory_peak_bytes": quantities.size,
}
_COUNTS = ("skipped", "consecutive_skips")  # told in a sentence, not drawn
# Whatever they span.
_LINEAR = ("learning_rate", "accuracy", "usage", "data_wait", "goodput")
_FIRST_CHARTS = 6


@dataclasses.dataclass(frozen=True)
class View:
    """What the template needs to know of one stage."""

    name: str
    share: float  # of the run's training time, 0 to 1
    facts: Sequence[tuple[str, str]]
    faults: Sequence[str]
    charts: Sequence[chart.Chart]
    more_charts: Sequence[chart.Chart]
    speed_charts: Sequence[chart.Chart]
    samples: Sequence[tuple[str, images.InlineImage]]
    config: str


def view(stage: Stage, run_seconds: float) -> View:
    """Arrange one stage of a run whose stages took `run_seconds` together."""
    charts = [
        _draw(curve)
        for key, curve in sorted(stage.curves.items(), key=lambda item: _rank(item[0]))
        if curve.values.size and key not in _SPEED and key not in _COUNTS
    ]
    return View(
        name=stage.name,
        share=stage.seconds / run_seconds if run_seconds else 0.0,
        facts=_facts(stage),
        faults=(*stage.faults, *_warnings(stage)),
        charts=charts[:_FIRST_CHARTS],
        more_charts=charts[_FIRST_CHARTS:],
        speed_charts=[
            _draw(stage.curves[key])
            for key in _SPEED
            if key in stage.curves and stage.curves[key].values.size
        ],
        samples=images.sheets(stage.samples),
        config=render(stage.config) if stage.config else "",
    )


def speed_table(
    stages: Sequence[Stage],
) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
    """Return the column titles and, for each stage, its name and its cells."""
    keys = [key for key in _SPEED if any(key in stage.curves for stage in stages)]
    columns = ["Steps", "Time", *map(quantities.title, keys)]
    rows = [
        [
            stage.name,
            quantities.number(stage.steps),
            quantities.duration(stage.seconds),
            *(_speed(stage, key) for key in keys),
        ]
        for stage in stages
    ]
    return columns, rows


def _facts(stage: Stage) -> list[tuple[str, str]]:
    facts = []
    model = stage.config.get("model")
    if isinstance(model, Mapping) and model.get("kind"):
        facts.append(("Model", str(model["kind"])))
    if origins := _origins(stage.config):
        facts.append(("Starts from", ", ".join(origins)))
    facts.append(("Steps", quantities.number(stage.steps)))
    if stage.seconds:
        facts.append(("Time", quantities.duration(stage.seconds)))
    for key in ("steps_per_second", "tokens_per_second", "images_per_second"):
        if key in stage.curves:
            facts.append((quantities.title(key), _speed(stage, key)))
    if "memory_bytes" in stage.curves:
        facts.append(("Memory", _speed(stage, "memory_bytes")))
    return facts


def _origins(config: Content) -> Sequence[str]:
    """Name the stages (or runs) whose parameters or codes a stage starts from."""
    init, codes = config.get("init"), config.get("codes")
    sources = list(init.values()) if isinstance(init, Mapping) else []
    if isinstance(codes, Mapping):
        sources.append(codes.get("stage"))
    return list(dict.fromkeys(str(source).split(":", 1)[0] for source in sources))


def _speed(stage: Stage, key: str) -> str:
    curve = stage.curves.get(key)
    if curve is None or not curve.values.size:
        return "–"
    if key.endswith("_bytes"):
        return _SPEED[key](curve.values.max())
    if key == "goodput":  # of all the time so far
        return _SPEED[key](float(curve.values[-1]))
    return _SPEED[key](float(np.median(curve.values)))


def _warnings(stage: Stage) -> Iterable[str]:
    skipped = stage.curves.get("skipped")
    if skipped and skipped.values.size and skipped.values[-1] > 0:
        count = quantities.number(skipped.values[-1])
        yield f"Steps that were skipped as not finite or as spikes: {count}."
    lost = [curve.key for curve in stage.curves.values() if curve.lost]
    if lost:
        yield f"Values that were not finite are missing from: {', '.join(lost)}."


def _rank(key: str) -> tuple[int, str]:
    """Sort the loss first, then aims, then parts of the loss, the optimizer last."""
    if key == "loss":
        return 0, key
    if key.endswith(("psnr", "accuracy", "usage", "text_loss", "image_loss")):
        return 1, key
    last = key.startswith(("grad", "learning_rate")) or key.endswith("weight")
    return (3 if last else 2), key


def _draw(curve: Curve) -> chart.Chart:
    values, unit = curve.values, quantities.unit(curve.key)
    if unit == "GiB":
        values = values / 2**30
    return chart.draw(
        curve.steps,
        values,
        quantities.title(curve.key),
        unit,
        may_be_logarithmic=not curve.key.endswith(_LINEAR),
    )
