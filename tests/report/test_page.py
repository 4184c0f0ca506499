"""The page of a run: complete, self-contained, readable, and never a crash."""

import errno
import json
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from unitoken_jax.errors import REFUSED
from unitoken_jax.report import build, page
from unitoken_jax.report.run import RunError

VOID = {"meta", "link", "img", "br"}
SECTIONS = (
    "drawings",
    "reconstructions",
    "questions",
    "results",
    "pipeline",
    "curves",
    "speed",
    "config",
)


class Outline(HTMLParser):
    """Collects tags with their attributes, and checks that elements are closed."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.open, self.words = [], [], []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"</{tag}> at {self.getpos()}"

    def handle_data(self, data):
        self.words.append(data)

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]

    @property
    def text(self):
        return re.sub(r"[ \n]+", " ", " ".join(self.words))


@pytest.fixture(scope="module")
def outline(finished):
    return Outline(build(finished).read_text(encoding="utf-8"))


@pytest.fixture
def copy(finished, tmp_path):
    return Path(shutil.copytree(finished, tmp_path / "copy"))


def test_every_section_is_there_and_linked(outline):
    sections = {*SECTIONS, "searches"}  # the example has some
    assert {s["id"] for s in outline.all("section")} >= sections
    assert {a["href"] for a in outline.all("a")} == {f"#{name}" for name in sections}
    assert len(outline.all("h1")) == 1


def test_pictures_come_before_numbers(outline):
    ids = [s["id"] for s in outline.all("section")]
    assert ids[:4] == ["drawings", "reconstructions", "questions", "searches"]
    assert ids[4] == "results"
    opened = outline.text.split("All 47 measures")[0]
    assert "Accuracy, all questions" in opened
    assert "Accuracy, new concepts: gender" not in opened
    assert "Accuracy, new concepts: gender" in outline.text


def test_what_is_worse_than_its_baseline_is_marked(finished):
    html = build(finished).read_text(encoding="utf-8")
    rows = re.findall(r'<tr class="worse">.*?</tr>', html, re.DOTALL)
    assert any("yes no" in row and "below its baseline" in row for row in rows)
    found = json.loads((finished / "evaluation" / "default.json").read_text())
    measures = found["understanding"]["measures"]
    worse = [
        name
        for name, m in measures.items()
        if m["value"] != m["baseline"]
        and (m["value"] > m["baseline"]) == m.get("less_is_better", False)
    ]
    words = f"wrong side of the baseline:</span> {len(worse)} of 47 measures"
    assert words in html
    bits = [row for row in rows if "above its baseline" in row]
    assert len(bits) == sum("bits" in name for name in worse)
    assert len(rows) == len(worse) > len(bits) > 0
    # Of 9 among 256 less is better, which earlier versions have not written down.
    assert not any("median rank" in row for row in rows)


def test_other_evaluations_say_what_they_changed(outline):
    assert "understanding.questions=200" in outline.text
    assert "evaluation.understanding.questions=200; generation.guidance=5.0" in (
        outline.text
    )
    assert "These are not the run’s own numbers" in outline.text


def test_what_failed_and_what_was_set_aside_is_named(outline):
    assert "Features failed: the UniToken has no image tower" in outline.text
    assert "Understanding: 2 of 212 (0.9\u202f%) set aside: scene/0007" in outline.text


def test_evaluations_of_earlier_versions_are_read(copy):
    own = copy / "evaluation" / "default.json"
    own.rename(copy / "evaluation.json")
    text = Outline(build(copy).read_text(encoding="utf-8")).text
    assert "21.37 dB" in text
    assert "a red heart" in text
    own.write_text(json.dumps({"reconstruction": {"measures": {}}}))
    assert "21.37 dB" not in build(copy).read_text(encoding="utf-8")


def test_what_was_learnt_by_heart_is_not_called_held_out(copy):
    own = copy / "evaluation" / "default.json"
    found = json.loads(own.read_text())
    assert "Measured on held-out records" in build(copy).read_text(encoding="utf-8")
    part = {"measures": {"captions": {"value": 1.0, "count": 1}}, "samples": {}}
    own.write_text(json.dumps({"of": {}, "memorization": part}))
    html = build(copy).read_text(encoding="utf-8")
    assert "learnt by heart" in html
    assert "held-out" not in html
    splits = {"split": "train", "train_split": "train"}
    found["of"]["config"] = {"evaluation": splits}
    own.write_text(json.dumps(found))
    assert "learnt by heart" in build(copy).read_text(encoding="utf-8")


def test_the_page_needs_nothing_else(finished, outline):
    for tag, attributes in outline.tags:
        assert tag not in {"script", "iframe", "object", "embed"}
        for name in ("src", "href", "srcset", "data"):
            assert attributes.get(name, "#").startswith(("data:", "#")), (tag, name)
    style = (Path(page.__file__).parent / "style.css").read_text(encoding="utf-8")
    assert "url(" not in style
    assert "@import" not in style
    # The style stands in the page as it is, not escaped.
    assert style in build(finished).read_text(encoding="utf-8")


def test_pictures_and_charts_have_words(outline):
    pictures = outline.all("img")
    assert len(pictures) > 40
    assert all(picture["alt"].strip() for picture in pictures)
    charts = [s for s in outline.all("svg") if "aria-hidden" not in s]
    assert len(charts) > 15
    assert all(c["role"] == "img" and "→" in c["aria-label"] for c in charts)


def test_table_headers_name_their_scope(outline):
    assert all(header.get("scope") for header in outline.all("th"))


def test_numbers_prompts_and_verdicts_are_shown(outline):
    for words in (
        "21.37 dB",
        "beside 2.0\u202f% (chance)",
        "35.0 to 47.0\u202f%",
        "a red heart",
        "✓ right",
        "✗ wrong",
        "expected: food & drink",
        "Steps that were skipped as not finite or as spikes: 3.",
        "1.40 GiB",
        "config.optimizer.learning_rate = 0.001",
        "Environment of tokenizer, siglip, base, stage1 and stage2",
        "packages.jax",
        "begun on 18 November 2026 at 11:06 UTC, on 1 × cpu with 2 cores",
        "revision 42cbc704b1 with changes",
        "Reconstructions, step 450",
        "log axis",
    ):
        assert words in outline.text, words


def test_words_of_the_run_are_escaped(copy):
    path = copy / "evaluation" / "default.json"
    hostile = '<script>alert("x")</script>'
    path.write_text(path.read_text().replace("a red heart", json.dumps(hostile)[1:-1]))
    html = build(copy).read_text(encoding="utf-8")
    assert "<script" not in html
    assert "&lt;script&gt;" in html


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        ("evaluation/default.json", "has not been evaluated yet"),
        ("evaluation/default", "21.37 dB"),
        ("evaluation", "has not been evaluated yet"),
        ("base/metrics.jsonl", "no curves"),
        ("base/config.json", "There is no config.json"),
        ("base/environment.json", "There is no environment.json"),
        ("base/samples", "21.37 dB"),
    ],
)
def test_a_missing_part_costs_only_itself(copy, damage, sentence):
    path = copy / damage
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert sentence in Outline(build(copy).read_text(encoding="utf-8")).text


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"\xff\xfe\x00",
        b"3",
        b'{"a": 3}',
        b'{"a": {"measures": 3, "samples": [1]}}',
        b'{"of": 3, "a": {"error": ["x"], "set_aside": {"count": 1, "of": 0}}}',
        b'{"of": {"changes": 3}, "a": {"set_aside": {"count": 2, "of": 3}}}',
        b"[" * 100_000,
        b'{"a": {"measures": {"psnr": {"value": NaN, "low": "x"}, "b": {}, "c": 1}}}',
        b'{"a": {"samples": {"b": [{"question": "?"}, 3, {"found": [{}]}], "c": 1}}}',
        b'{"a": {"samples": {"b": [{"caption": "", "rank": 1, "found": [{}]}]}}}',
        b'{"a": {"samples": {"b": [{"original": "no.png", "reconstruction": 1}]}}}',
    ],
)
@pytest.mark.parametrize(
    "name",
    [
        "evaluation/default.json",
        "evaluation/understanding.questions=200.json",
        "base/config.json",
        "base/environment.json",
        "base/metrics.jsonl",
    ],
)
def test_damaged_files_never_stop_the_page(copy, name, content):
    (copy / name).write_bytes(content)
    Outline(build(copy).read_text(encoding="utf-8"))


def test_a_cut_off_picture_is_left_out(copy):
    for picture in (copy / "tokenizer" / "samples").iterdir():
        picture.write_bytes(picture.read_bytes()[:200])
    html = build(copy).read_text(encoding="utf-8")
    assert "Samples of stage tokenizer" not in html
    assert "Samples of stage base" in html


def test_an_empty_directory_gives_a_page_that_says_so(tmp_path):
    text = Outline(build(tmp_path).read_text(encoding="utf-8")).text
    assert "Nothing has run here yet" in text
    assert "No stage has started" in text


def test_a_full_disk_leaves_the_older_page(copy, monkeypatch):
    before = build(copy).read_bytes()

    def refuse(path, text, **_):
        path.write_bytes(text[:100].encode())
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_text", refuse)
    with pytest.raises(
        RunError, match=r"report\.html cannot be written: No space left"
    ):
        build(copy)
    assert (copy / "report.html").read_bytes() == before
    assert not list(copy.glob(".report*"))


def test_the_command_names_the_page_or_the_fault(copy):
    command = [sys.executable, "-m", "unitoken_jax.report", "--workdir"]
    done = subprocess.run([*command, copy], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"Report: {copy / 'report.html'}\n"
    done = subprocess.run(
        [*command, copy / "nowhere"], capture_output=True, text=True, check=False
    )
    assert done.returncode == REFUSED
    assert re.fullmatch(r"error: .*nowhere is not a directory: .*\n", done.stderr)


def contrast(one, two):
    """Return the contrast ratio of two colors (WCAG 2.2, relative luminance)."""

    def luminance(color):
        parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [
            x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in parts
        ]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((luminance(one), luminance(two)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_words_can_be_read_in_light_and_dark():
    style = (Path(page.__file__).parent / "style.css").read_text(encoding="utf-8")
    modes = [
        dict(re.findall(r"--(\w+): (#\w{6})", part))
        for part in style.split("@media")[:2]
    ]
    for colors in modes:
        for ink in ("ink", "muted", "accent", "good", "bad"):
            for paper in ("page", "card"):
                assert contrast(colors[ink], colors[paper]) >= 4.5, (ink, paper)
