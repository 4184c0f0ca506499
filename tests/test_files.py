"""Paths of users, whole files, lines of JSON."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unitoken_jax.config import ConfigError
from unitoken_jax.files import (
    json_lines,
    read_json,
    replaced,
    user_path,
    write_bytes,
)


def test_paths_are_kept_as_they_are(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert user_path("runs/my run", "--workdir") == Path("runs/my run")
    assert user_path("C:data", "--workdir") == Path("C:data")
    assert user_path("~/run", "--workdir") == tmp_path / "run"
    assert user_path("run~", "--workdir") == Path("run~")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "empty"),
        (" \t", "empty"),
        (" runs", "white space"),
        ("gs://bucket/run", "gs://"),
        ("gs:/bucket/run", "gs://"),
        ("S3://bucket/run", "S3://"),
        ("a\0b", "NUL"),
        ("~nobody-of-this-name/x", "home directory"),
        ("\ud83d", "half a character"),
    ],
)
def test_what_is_no_path_is_refused_by_name(text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        user_path(text, "--workdir")
    assert "--workdir" in str(caught.value)


def test_files_appear_whole_or_not_at_all(tmp_path) -> None:
    path = tmp_path / "file"
    write_bytes(path, b"old")

    def write_half() -> None:
        with replaced(path) as partial:
            partial.write_bytes(b"ha")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write_half()
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_lines_end_with_line_feeds_alone() -> None:
    data = b'\xef\xbb\xbf"a\xe2\x80\xa8b"\r\n\n"\xc2\x85"\n'
    assert [(x.number, x.value) for x in json_lines(data)] == [
        (1, "a\u2028b"),
        (3, "\x85"),
    ]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b'"\\ud83d"', "half a surrogate"),
        (b'{"\\udc00": 1}', "half a surrogate"),
        (b"[" * 100_000, "too deeply"),
        (b"\xff", "UTF-8"),
        (b"{", "not JSON"),
        (b"NaN", "NaN"),
        (b"1" * 5000, "has too many digits"),
    ],
)
def test_a_bad_line_is_named_and_the_others_go_on(line: bytes, said: str) -> None:
    bad, good = json_lines(line + b"\n1")
    assert good.value == 1
    assert bad.fault is not None
    assert said in bad.fault


@given(st.binary())
def test_no_bytes_end_in_a_traceback(data: bytes) -> None:
    for line in json_lines(data):
        assert (line.value is None) or line.fault is None


@given(st.lists(st.text()))
def test_what_is_written_is_read(texts: list[str]) -> None:
    data = "\n".join(json.dumps(text) for text in texts).encode()
    assert [x.value for x in json_lines(data)] == texts


def test_a_key_that_stands_twice_is_refused_by_name():
    with pytest.raises(ValueError, match="the key 'a' stands twice in one object"):
        read_json(b'{"b": [{"a": 1, "c": 2, "a": 1}]}')
    assert read_json(b'{"a": {"a": 1}, "b": {"a": 2}}') == {
        "a": {"a": 1},
        "b": {"a": 2},
    }
