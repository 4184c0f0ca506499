"""The page of a sweep: complete, self-contained, and honest about what is missing."""

import json
import math
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from unitoken_jax.report import comparison
from unitoken_jax.report.run import RunError

RATIOS, ENCODINGS, SEEDS = ("4:1", "1:1", "1:2"), ("dual", "discrete"), (5, 6)


def write_sweep(folder: Path, **changes) -> Path:
    """Write a sweep of 12 runs; 1:2 of the discrete encoding has failed."""
    tasks = {"base-1234": task("shared/base-1234", None, None)}
    for encoding in ENCODINGS:
        for place, ratio in enumerate(RATIOS):
            for seed in SEEDS:
                name = f"{encoding}_{ratio.replace(':', '-')}_seed{seed}"
                labels = {"encoding": encoding, "ratio": ratio}
                tasks[name] = task(f"points/{name}-0", labels, seed)
                if (encoding, ratio) == ("discrete", "1:2"):
                    tasks[name] |= {
                        "status": "failed",
                        "failures": 2,
                        "error": "the <loss> is not finite.",
                    }
                    continue
                write_run(folder / tasks[name]["run"], place, seed)
    page = {
        "x": "understanding/accuracy/all",
        "y": "generation/bits_per_code",
        "measures": ["generation/caption_rank"],
        "curves": ["stage2/image_loss"],
        "color": "ratio",
        "facet": "encoding",
        "collapse": "",
        "collapse_share": 0.5,
    }
    state = {
        "name": "example",
        "title": "An <example>",
        "config": "configs/quickstart.py",
        "axes": [
            {"name": "encoding", "labels": ENCODINGS},
            {"name": "ratio", "labels": RATIOS},
        ],
        "page": page | changes,
        "tasks": tasks,
    }
    folder.mkdir(exist_ok=True)
    (folder / "sweep.json").write_text(json.dumps(state))
    return folder


@contextmanager
def tasks_of(folder: Path) -> Iterator[dict[str, Any]]:
    """How the tasks of a sweep stand, to be changed."""
    state = json.loads((folder / "sweep.json").read_text())
    yield state["tasks"]
    (folder / "sweep.json").write_text(json.dumps(state))


def task(run: str, labels, seed) -> dict:
    return {
        "run": run,
        "labels": labels,
        "seed": seed,
        "status": "done",
        "failures": 0,
        "preemptions": 0,
        "seconds": 60.0,
        "error": "",
        "arguments": [],
    }


def write_run(run: Path, place: int, seed: int) -> None:
    stage = run / "stage2"
    stage.mkdir(parents=True)
    lines = [
        {"step": step, "time": 1.0 + step, "image_loss": 5.0 - place - step / 100}
        for step in range(10, 60, 10)
    ]
    (stage / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))
    measure = {"count": 9, "low": None, "high": None, "against": "chance"}
    accuracy = measure | {"value": 0.1 * place + 0.01 * seed, "baseline": 0.25}
    bits = measure | {"value": 4.0 + place + seed / 10, "unit": "bits"}
    rank = measure | {"value": 0.8 / (1 + 3 * place), "baseline": None}
    evaluation = {
        "understanding": {"measures": {"accuracy/all": accuracy | {"unit": ""}}},
        "generation": {
            "measures": {
                "bits_per_code": bits | {"baseline": None},
                "caption_rank": rank | {"unit": ""},
            }
        },
    }
    (run / "evaluation.json").write_text(json.dumps(evaluation))


def test_means_ranges_and_failures_are_told(tmp_path) -> None:
    folder = write_sweep(tmp_path / "s")
    html = comparison.build(folder).read_text()
    assert "6 settings of configs/quickstart.py with 2 seeds each: 10 of 12" in html
    assert "5.50 % to" not in html
    assert "5.5\u202f%<small>5.0 to 6.0\u202f%</small>" in html
    assert "chance: 25.0\u202f%" in html
    assert "4.55 bits<small>4.50 to 4.60 bits</small>" in html
    assert html.count("the &lt;loss&gt; is not finite.") == 2
    assert "An &lt;example&gt;" in html
    assert html.count("<svg") == 2 + 2  # a plot of each kind for each encoding
    assert html.count('class="mark c') == 3 + 2
    assert "base-1234" not in html
    assert "http" not in html.replace("http://www.w3.org", "")
    assert "Collapsed" not in html
    assert "Not finite" not in html


def change(run: Path, measure: str, value: float | None) -> None:
    """Give a measure of a run another value; None takes it away."""
    evaluator, _, key = measure.partition("/")
    path = run / "evaluation.json"
    evaluation = json.loads(path.read_text())
    measures = evaluation[evaluator]["measures"]
    measures[key]["value"] = value
    if value is None:
        del measures[key]
    path.write_text(json.dumps(evaluation))


def row(html: str, *labels: str) -> str:
    """Return the cells of one setting."""
    start = "".join(f'<th scope="row">{label}</th>' for label in labels)
    return html.partition(start)[2].partition("</tr>")[0]


def test_a_seed_that_is_not_finite_is_counted_and_named(tmp_path) -> None:
    bits, rank = "generation/bits_per_code", "generation/caption_rank"
    view = {"measures": [], "collapse": rank, "collapse_share": 0.0}
    folder = write_sweep(tmp_path / "s", **view)
    change(folder / "points" / "dual_4-1_seed5-0", bits, math.nan)
    change(folder / "points" / "dual_4-1_seed6-0", rank, math.inf)
    change(folder / "points" / "dual_1-1_seed5-0", bits, math.nan)
    change(folder / "points" / "dual_1-1_seed6-0", bits, -math.inf)
    change(folder / "points" / "dual_1-2_seed6-0", bits, None)
    html = comparison.build(folder).read_text()
    cells = row(html, "dual", "4:1")
    assert "4.60 bits<small>1 of 2 finite</small>" in cells
    assert cells.endswith('<td class="figure">2</td>\n      ')
    assert "not finite</td>" in row(html, "dual", "1:1")
    assert "6.50 bits<small>1 seed</small>" in row(html, "dual", "1:2")
    named = re.sub(r"<.*?>", "", html[html.index("Not finite:") :])
    assert named.startswith(
        "Not finite: dual_4-1_seed5 (Bits per code); "
        "dual_4-1_seed6 (Own caption ranked first); "
        "dual_1-1_seed5 (Bits per code); dual_1-1_seed6 (Bits per code).\n"
    )


def test_one_failure_is_no_plural(tmp_path) -> None:
    folder = write_sweep(tmp_path / "s")
    with tasks_of(folder) as tasks:
        tasks["dual_4-1_seed5"] |= {"failures": 1}
        tasks["discrete_1-2_seed5"] |= {"failures": 1}
        tasks["discrete_1-2_seed6"] |= {"status": "blocked", "failures": 0}
    html = comparison.build(folder).read_text()
    assert "dual_4-1_seed5 failed once before it was done." in html
    assert "failed</span> after 1 try: the" in html
    assert "blocked</span>: the" in html


def test_a_mark_is_of_seeds_that_have_both_measures(tmp_path) -> None:
    """A seed that lacks one of them counts as if it lacked both."""
    x, y = "understanding/accuracy/all", "generation/bits_per_code"
    marks = []
    for name, lost in (("one", [y]), ("both", [x, y])):
        folder = write_sweep(tmp_path / name)
        for measure in lost:
            change(folder / "points" / "dual_4-1_seed5-0", measure, math.nan)
        html = comparison.build(folder).read_text()
        marks.append(re.findall(r'<g class="mark.*?</g>', html, re.DOTALL))
    assert len(marks[0]) == 3 + 2
    assert marks[0] == marks[1]


def test_further_plots_and_what_is_better(tmp_path) -> None:
    other = ("understanding/accuracy/all", "generation/caption_rank")
    folder = write_sweep(tmp_path / "s", others=[other], measures=[])
    html = comparison.build(folder).read_text()
    assert html.count('class="mark c') == 2 * (3 + 2)
    titles = ("Bits per code, less is better", "Own caption ranked first")
    for encoding in ENCODINGS:
        for title in titles:
            assert f"<strong>{encoding}: {title}</strong>" in html
    # Each measure has one column, whichever plots show it.
    head = html[html.index("<thead>") : html.index("</thead>")]
    assert head.count("Accuracy, all questions") == 1
    assert head.count("<small>less is better</small>") == 1


def test_facets_share_their_axes(tmp_path) -> None:
    html = comparison.build(write_sweep(tmp_path / "s")).read_text()
    plots = re.findall(r"<svg.*?</svg>", html, re.DOTALL)
    ticks = [re.findall(r"<text.*?</text>", drawn, re.DOTALL) for drawn in plots]
    # A trade-off and curves for each encoding, though one of them lacks a setting.
    assert ticks[0] == ticks[1]
    assert ticks[2] == ticks[3]
    assert ticks[0] != ticks[2]
    places = [re.findall(r"translate\((.*?)\)", drawn) for drawn in plots[:2]]
    assert places[0][:2] == places[1]


def test_collapsed_settings_are_named(tmp_path) -> None:
    changes = {"collapse": "generation/caption_rank", "collapse_share": 0.5}
    html = comparison.build(write_sweep(tmp_path / "s", **changes)).read_text()
    assert "Collapsed:</span> dual, 1:1; dual, 1:2; discrete, 1:1." in html
    assert "Caption rank is below 0.5" in html or "Own caption ranked first is" in html


def test_a_sweep_that_has_just_begun(tmp_path) -> None:
    folder = write_sweep(tmp_path / "s")
    with tasks_of(folder) as tasks:
        for name, each in tasks.items():
            each |= {"status": "waiting", "run": f"points/{name}-none"}
    html = comparison.build(folder).read_text()
    assert "No run has the two measures yet." in html
    assert "Nothing has been logged yet." in html
    assert "Not run yet: dual_4-1_seed5, " in html


def test_without_curves_there_is_no_section_for_them(tmp_path) -> None:
    html = comparison.build(write_sweep(tmp_path / "s", curves=[])).read_text()
    assert "Curves" not in html
    assert html.count("<section") == html.count("</section>") == 3


def test_sweeps_of_earlier_versions_are_read(tmp_path) -> None:
    html = comparison.build(write_sweep(tmp_path / "s")).read_text()
    path = tmp_path / "s" / "sweep.json"
    state = json.loads(path.read_text())
    state["page"]["colour"] = state["page"].pop("color")
    path.write_text(json.dumps(state))
    assert comparison.build(tmp_path / "s").read_text() == html


def test_no_sweep(tmp_path) -> None:
    with pytest.raises(RunError, match=r"sweep\.json cannot be read"):
        comparison.build(tmp_path)


def test_the_report_command_knows_sweeps(tmp_path) -> None:
    folder = write_sweep(tmp_path / "s")
    command = [sys.executable, "-m", "unitoken_jax.report", "--workdir", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == f"Report: {folder / 'report.html'}\n"
    assert "sweep report" in (folder / "report.html").read_text()
