"""A file of requests: one JSON object a line, in and out.

A line that is no good request becomes a `Refusal`, which takes its place among the
answers; the others go on.
"""

import dataclasses
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from unitoken_jax.config import UserError, nearest
from unitoken_jax.files import json_lines, read_user_file, user_path, write_bytes
from unitoken_jax.generate.image_files import check_file, check_target

_MOST = 2**30  # bytes of a file of requests
_SEEDS = 2**32
_TYPES = {"prompt": str, "image": str, "output": str, "seed": int}
_NAMES = {str: "a text", int: "a whole number"}
# Of these, str.splitlines and others make ends of lines where JSON lines have none.
_ENDS = {ord(letter): f"\\u{ord(letter):04x}" for letter in "\u0085\u2028\u2029"}


@dataclasses.dataclass(frozen=True)
class Request:
    """One thing to do.

    Attributes:
        line: Its line in the file, from 1.
        prompt: What to draw, or the question about `image`.
        image: The image that is asked about; None asks for a drawing.
        output: Where a drawing goes.
        seed: Of a drawing.
    """

    line: int
    prompt: str
    image: Path | None
    output: Path | None
    seed: int

    def described(self) -> dict[str, object]:
        """Return what the answer repeats of it."""
        image = {"image": str(self.image)} if self.image else {}
        return {"prompt": self.prompt, **image}


@dataclasses.dataclass(frozen=True)
class Refusal:
    """A line that cannot be done.

    Attributes:
        line: Its number in the file, from 1.
        error: What is wrong with it, in a sentence.
        said: What the answer repeats of it, as far as it can be read.
    """

    line: int
    error: str
    said: Mapping[str, object]

    def answer(self) -> dict[str, object]:
        """Return what stands in its place among the answers."""
        return {"line": self.line, **self.said, "error": self.error}


def read(path: Path, answers: Path, seed: int) -> list[Request | Refusal]:
    """Read requests and check each of them, before anything is done.

    Args:
        path: Lines of {"prompt": …, "image"?: path, "output"?: path, "seed"?: number};
            empty lines are left out. With an image it is a question, else a drawing.
        answers: The file of answers; drawings without `output` go beside it.
        seed: Of the drawing on line 1; the following lines count up.

    Raises:
        UserError: The file cannot be read, holds nothing, or is that of the answers.
    """
    if os.path.realpath(path) == os.path.realpath(answers):
        raise UserError(f"--output {answers} is --input itself; name another file.")
    data = read_user_file(path, _MOST)
    found = list(_each(data, answers, seed))
    if not found:
        raise UserError(f"--input {path} holds no requests.")
    return _without_conflicts(found, (path, answers))


def write(path: Path, answers: Sequence[Mapping[str, object]]) -> None:
    """Write one JSON object a line, so that the file is there whole or not at all.

    What is written can be read again with `files.json_lines`, and by what splits lines
    at every end of line that Unicode knows.

    Raises:
        UserError: It cannot be written.
    """
    check_file(path)
    lines = [json.dumps(answer, ensure_ascii=False) for answer in answers]
    text = "\n".join(line.translate(_ENDS) for line in lines) + "\n"
    try:
        # Bytes of a file's name that are no letters cannot be told in JSON.
        write_bytes(path, text.encode(errors="replace"))
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}.") from error


def _each(data: bytes, answers: Path, seed: int) -> Iterator[Request | Refusal]:
    for line in json_lines(data):
        if line.fault is not None:
            yield Refusal(line.number, f"{line.fault}.", {})
            continue
        try:
            yield _request(line.number, line.value, answers, seed)
        except UserError as error:
            said = line.value if isinstance(line.value, dict) else {}
            said = {
                key: said[key]
                for key in ("prompt", "image")
                if isinstance(said.get(key), str)
            }
            yield Refusal(line.number, str(error), said)


def _request(number: int, fields: Any, answers: Path, seed: int) -> Request:
    """Make a request of what a line says."""
    _check(fields)
    image = output = None
    if "image" in fields:
        image = user_path(fields["image"], "image")
        if "output" in fields:
            raise UserError("'output' is for drawings, not for questions.")
    else:
        beside = answers.with_name(f"{answers.stem}-{number:05d}.png")
        given = fields.get("output")
        output = beside if given is None else user_path(given, "output")
        check_target(output)
    order = fields.get("seed", (seed + number - 1) % _SEEDS)
    return Request(number, fields["prompt"], image, output, order)


def _check(fields: object) -> None:
    if not isinstance(fields, dict) or "prompt" not in fields:
        raise UserError('expected an object with a "prompt".')
    for key, value in fields.items():
        if key not in _TYPES:
            raise UserError(f"unknown name {_short(key)}{nearest(key, _TYPES)}")
        if not isinstance(value, _TYPES[key]) or isinstance(value, bool):
            wanted = _NAMES[_TYPES[key]]
            raise UserError(f"{key!r} must be {wanted}, found {_short(value)}.")
    if not fields["prompt"].strip():
        raise UserError("'prompt' is empty; say what to draw, or ask something.")
    if not 0 <= fields.get("seed", 0) < _SEEDS:
        raise UserError(f"'seed' must lie between 0 and {_SEEDS - 1}.")


def _short(value: object) -> str:
    """Quote a value for a message, its beginning if it is long."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:59]}…"


def _without_conflicts(
    found: Sequence[Request | Refusal], kept: Sequence[Path]
) -> list[Request | Refusal]:
    """Refuse drawings that would be written over something that is needed."""
    taken = {
        os.path.realpath(path): f"{path} is needed for the answers" for path in kept
    }
    checked: list[Request | Refusal] = []
    for item in found:
        if isinstance(item, Request) and item.output is not None:
            place = os.path.realpath(item.output)
            if place in taken:
                error = f"{item.output} cannot be the output: {taken[place]}."
                checked.append(Refusal(item.line, error, item.described()))
                continue
            taken[place] = f"it is the output of line {item.line} already"
        elif isinstance(item, Request) and item.image is not None:
            # Of a drawing that stands above, the question is about the drawing.
            place = os.path.realpath(item.image)
            taken.setdefault(place, f"line {item.line} asks about it")
        checked.append(item)
    return checked
