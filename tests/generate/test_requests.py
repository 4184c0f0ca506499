"""Files of requests: what each line may be, and that no line harms another.

The models are replaced by something that answers at once; prompts, pictures and files
are handled as they are.
"""

import errno
import json
import os
import struct
import zlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from data_pipelines.unitoken.prompts import UniTokenPrompts
from unitoken_jax.config import UserError
from unitoken_jax.files import json_lines
from unitoken_jax.generate import image_files, requests, worker


def _no_progress(done):
    """Count nothing."""


@pytest.fixture(scope="module")
def sampler(vocabulary, data_config):
    """Someone who knows the rules of prompts, and draws and answers without a model."""

    def draw(prompts, seeds, progress=_no_progress):
        if any("worse" in prompt for prompt in prompts):
            raise MemoryError("no room\nfor it")
        return np.stack([np.full((16, 16, 3), seed % 256, np.uint8) for seed in seeds])

    def answer(inputs, questions, progress=_no_progress):
        if any("worse" in question for question in questions):
            raise RuntimeError("RESOURCE_EXHAUSTED: out of memory\nallocating")
        # As a tokenizer may: ends of lines that JSON lines have none of.
        return [
            f"{each.whole.mean():.0f}\u2028\x85 {len(questions)}" for each in inputs
        ]

    return SimpleNamespace(
        config=SimpleNamespace(batch=2),
        prompts=UniTokenPrompts(vocabulary, data_config),
        draw=draw,
        answer=answer,
    )


def _chunk(kind, data):
    """Return a chunk of a PNG."""
    ends = struct.pack(">I", len(data)), struct.pack(">I", zlib.crc32(kind + data))
    return ends[0] + kind + data + ends[1]


@pytest.fixture
def files(tmp_path, monkeypatch):
    """A working directory with everything that a path may lead to."""
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (9, 7), (200, 0, 0)).save("heart.png")
    Path("broken.png").write_bytes(b"no picture at all")
    Path("empty.png").touch()
    Path("folder.png").mkdir()
    Path("loop.png").symlink_to("loop.png")
    os.mkfifo("pipe.png")
    header = _chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0))
    body = header + _chunk(b"IDAT", zlib.compress(bytes(100)))
    Path("bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    return tmp_path


def run(sampler, data, seed=0):
    """Do a file of requests and return its answers, read as they should be."""
    Path("in.jsonl").write_bytes(data)
    asked = requests.read(Path("in.jsonl"), Path("out.jsonl"), seed)
    worker.do_all(sampler, asked, lambda some: requests.write(Path("out.jsonl"), some))
    return read(Path("out.jsonl"))


def read(path):
    data = path.read_bytes()
    lines = list(json_lines(data))
    assert all(line.fault is None for line in lines)
    # Whoever splits at every end of line of Unicode reads the same.
    assert [json.loads(text) for text in data.decode().splitlines()] == [
        line.value for line in lines
    ]
    return [line.value for line in lines]


GOOD = {"prompt": "a red heart", "output": "good.png", "seed": 3}


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b'{"prompt": "half \\ud83d"}', "surrogate"),
        (b'{"prompt": "a", "output": "\\udc00.png"}', "surrogate"),
        (b"[" * 100_000, "too deeply"),
        (b"\xff\xfe", "UTF-8"),
        (b"{'prompt': 1}", "not JSON"),
        (b'["a"]', 'expected an object with a "prompt"'),
        (b'{"prompt": 3}', "'prompt' must be a text, found 3"),
        (b'{"prompt": null}', "must be a text"),
        (b'{"prompt": ""}', "'prompt' is empty"),
        (b'{"prompt": " \\n"}', "'prompt' is empty"),
        (b'{"prompt": "a", "imgae": "b"}', "unknown name 'imgae'; did you mean 'image"),
        (b'{"prompt": "a", "seed": -1}', "'seed' must lie"),
        (b'{"prompt": "a", "seed": 4294967296}', "'seed' must lie"),
        (b'{"prompt": "a", "seed": 1.5}', "whole number"),
        (b'{"prompt": "a", "seed": true}', "whole number"),
        (b'{"prompt": "a", "seed": ' + b"9" * 5000 + b"}", "digits"),
        (b'{"prompt": "a", "seed": NaN}', "NaN"),
        (b'{"prompt": "a", "output": "b.doc"}', "endings"),
        (b'{"prompt": "a", "output": "none/b.png"}', "does not exist"),
        (b'{"prompt": "a", "output": "folder.png"}', "is a directory"),
        (b'{"prompt": "a", "output": "heart.png/b.png"}', "cannot be written|no dir"),
        (b'{"prompt": "a", "output": "a\\u0000b.png"}', "NUL"),
        (b'{"prompt": "a", "output": ""}', "empty path"),
        (b'{"prompt": "a", "output": "' + b"x" * 260 + b'.png"}', "too long"),
        (b'{"prompt": "a", "output": "gs://bucket/b.png"}', "gs://"),
        (b'{"prompt": "a", "output": "./good.png"}', "output of line 1 already"),
        (b'{"prompt": "a", "image": "heart.png", "output": "c.png"}', "for drawings"),
        (b'{"prompt": "a", "image": "nowhere.png"}', "No such file"),
        (b'{"prompt": "a", "image": "a\\u0000b.png"}', "NUL"),
        (b'{"prompt": "a", "image": "' + b"x" * 249 + b'/y.png"}', "cannot be read"),
        (b'{"prompt": "a", "image": "' + b"x" * 300 + b'"}', "too long"),
        (b'{"prompt": "a", "image": "folder.png"}', "is a folder"),
        (b'{"prompt": "a", "image": "broken.png"}', "broken.png is not an image"),
        (b'{"prompt": "a", "image": "empty.png"}', "empty.png is not an image"),
        (b'{"prompt": "a", "image": "loop.png"}', "cannot be read"),
        (b'{"prompt": "a", "image": "pipe.png"}', "no regular file"),
        (b'{"prompt": "a", "image": "/dev/zero"}', "no regular file"),
        (b'{"prompt": "a", "image": "bomb.png"}', "pixels"),
        (b'{"prompt": "<|image|> a"}', "stands for a picture"),
        (b'{"prompt": "<|image|>?", "image": "heart.png"}', "<|image|>"),
        (b'{"prompt": "' + b"heart " * 100 + b'"}', "shorten it"),
        (b'{"prompt": "' + b"x" * 200_000 + b'"}', "shorten it"),
        (b'{"prompt": "worse"}', "MemoryError: no room"),
        (b'{"prompt": "worse?", "image": "heart.png"}', "RESOURCE_EXHAUSTED"),
    ],
)
def test_a_bad_line_says_why_and_the_others_go_on(sampler, files, line, said):
    good = json.dumps(GOOD).encode()
    question = b'{"prompt": "what is this?", "image": "heart.png"}'
    answers = run(sampler, b"\n".join((good, line, question, b'{"prompt": "a tree"}')))
    assert answers[0] == GOOD
    assert answers[1]["line"] == 2
    assert said in answers[1]["error"] or any(
        part in answers[1]["error"] for part in said.split("|")
    )
    assert answers[2]["answer"]
    assert answers[3]["output"] == "out-00004.png"
    assert len(answers) == 4
    with Image.open("good.png") as picture:
        assert picture.getpixel((0, 0)) == (3, 3, 3)
    assert Path("folder.png").is_dir()


def test_lines_end_with_line_feeds_alone(sampler, files):
    prompts = ["a red\u2028heart", "a\x85tree", "\u2029 bird"]
    lines = [json.dumps({"prompt": p}, ensure_ascii=False) for p in prompts]
    data = b"\xef\xbb\xbf" + "\r\n".join(lines).encode()
    answers = run(sampler, data)
    assert [a["prompt"] for a in answers] == prompts
    # The answers are requests again, but for what is new in them.
    again = [{k: a[k] for k in ("prompt", "seed")} for a in answers]
    requests.write(Path("again.jsonl"), again)
    assert [r.prompt for r in requests.read(Path("again.jsonl"), Path("x"), 0)] == (
        prompts
    )


def test_seeds_count_up_and_begin_again(sampler, files):
    data = b'{"prompt": "a"}\n\n{"prompt": "b"}\n{"prompt": "c"}'
    answers = run(sampler, data, seed=2**32 - 2)
    assert [a["seed"] for a in answers] == [2**32 - 2, 0, 1]


def test_questions_about_drawings_come_after_them(sampler, files):
    asked = [
        {"prompt": "a tree", "output": "new.png", "seed": 40},
        {"prompt": "what?", "image": "./new.png"},
        {"prompt": "worse", "output": "lost.png"},
        {"prompt": "what?", "image": "lost.png"},
        {"prompt": "what?", "image": "heart.png"},
        {"prompt": "a heart", "output": "heart.png"},
    ]
    before = Path("heart.png").read_bytes()
    Path("lost.png").write_bytes(before)  # of an earlier day
    answers = run(sampler, "\n".join(map(json.dumps, asked)).encode())
    assert answers[1]["answer"].startswith("40")
    assert "line 3 should have drawn it" in answers[3]["error"]
    assert "answer" in answers[4]
    assert "line 5 asks about it" in answers[5]["error"]
    assert Path("heart.png").read_bytes() == before


def test_nothing_is_drawn_over_requests_and_answers(files):
    Path("in.png").write_text('{"prompt": "a", "output": "in.png"}\n{"prompt": "b"}')
    first, second = requests.read(Path("in.png"), Path("out.jsonl"), 0)
    assert isinstance(first, requests.Refusal)
    assert isinstance(second, requests.Request)
    with pytest.raises(UserError, match="is --input itself"):
        requests.read(Path("in.png"), files / "in.png", 0)


@pytest.mark.parametrize("name", ["folder.png", "pipe.png", "nowhere", "/dev/zero"])
def test_an_input_that_is_no_file_is_refused_at_once(files, name):
    with pytest.raises(UserError, match="cannot be read"):
        requests.read(Path(name), Path("out.jsonl"), 0)


def test_long_names_are_allowed_as_far_as_the_system_does(sampler, files):
    name = "é" * 125 + ".png"  # 254 bytes
    asked = [{"prompt": "a", "output": name}, {"prompt": "b?", "image": name}]
    answers = run(sampler, "\n".join(map(json.dumps, asked)).encode())
    assert [sorted(a) for a in answers] == [
        ["output", "prompt", "seed"],
        ["answer", "image", "prompt"],
    ]
    requests.write(Path("x" * 249 + ".jsonl"), answers)


def test_a_full_disk_leaves_what_is_done(sampler, files, monkeypatch):
    save = image_files.save

    def full(path, picture):
        if path.name != "good.png":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        save(path, picture)

    monkeypatch.setattr(image_files, "save", full)
    lines = [json.dumps(GOOD), '{"prompt": "a"}', '{"prompt": "b"}']
    answers = run(sampler, "\n".join(lines).encode())
    assert answers[0] == GOOD
    assert all("No space left" in answer["error"] for answer in answers[1:])
    assert Path("good.png").is_file()


def test_what_is_done_is_kept_when_it_is_interrupted(sampler, files, monkeypatch):
    done = []

    def stop(path, picture):
        if done:
            raise KeyboardInterrupt
        done.append(path)

    monkeypatch.setattr(image_files, "save", stop)
    monkeypatch.setattr(worker, "_CHUNK", 1)  # of two requests
    lines = [{"prompt": "a", "output": f"{n}.png"} for n in range(2)]
    questions = [{"prompt": "b?", "image": "heart.png"}] * 2
    with pytest.raises(KeyboardInterrupt):
        run(sampler, "\n".join(map(json.dumps, [*questions, *lines])).encode())
    assert [a["prompt"] for a in read(Path("out.jsonl"))] == ["b?", "b?"]


PATHS = st.sampled_from(
    [
        *("heart.png", "broken.png", "empty.png", "folder.png", "loop.png", "pipe.png"),
        *("bomb.png", "none/x.png", "in.jsonl", "out.jsonl", "good.png", "~nobody/x"),
        *("", " ", "a\0b.png", "x" * 300 + ".png", "out-00001.png", "a.WEBP", "/"),
        *("gs://b/x.png", ".", "..", "é.jpg", "a.jpeg/b.png", "/dev/null", "\ud800"),
    ]
)
VALUES = st.one_of(
    *(st.none(), st.booleans(), st.floats(), st.text(max_size=20), PATHS),
    st.integers(-2, 2**33),
    st.sampled_from(["a red heart", "what?", "<|image|>", "heart " * 90, "\u2028"]),
    st.lists(st.integers(), max_size=2),
)
OBJECTS = st.one_of(
    st.fixed_dictionaries({"prompt": st.text(max_size=30)}, optional={"seed": VALUES}),
    st.fixed_dictionaries({"prompt": VALUES}, optional={"image": PATHS}),
    st.fixed_dictionaries({"prompt": st.just("a tree")}, optional={"output": PATHS}),
    st.dictionaries(
        st.sampled_from(["prompt", "image", "output", "seed", "sede", ""]), VALUES
    ),
    VALUES,
)
LINES = st.one_of(
    OBJECTS.map(json.dumps).map(str.encode),
    OBJECTS.map(json.dumps).map(lambda text: text[: len(text) // 2].encode()),
    st.binary(max_size=20).map(lambda data: data.replace(b"\n", b"")),
)


def _fuzz(sampler, lines):
    good = json.dumps(GOOD).encode()
    answers = run(sampler, b"\n".join([good, *lines]))
    assert answers[0] == GOOD
    assert len(answers) == 1 + sum(bool(line.strip()) for line in lines)
    for answer in answers:
        assert len(answer.keys() & {"answer", "output", "error"}) == 1
    Path("out.jsonl").unlink()


_settings = settings(
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@given(lines=st.lists(LINES, max_size=8))
@settings(_settings, max_examples=60)
def test_whatever_the_lines_are_each_is_answered(sampler, files, lines):
    _fuzz(sampler, lines)


@pytest.mark.slow
@given(lines=st.lists(LINES, min_size=5, max_size=8))
@settings(_settings, max_examples=500)
def test_whatever_thousands_of_lines_are_each_is_answered(sampler, files, lines):
    _fuzz(sampler, lines)
