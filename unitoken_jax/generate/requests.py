"""A file of requests: one JSON object a line, in and out."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from unitoken_jax.config import UserError, nearest
from unitoken_jax.generate.pictures import check_directory, check_target


@dataclasses.dataclass(frozen=True)
class Request:
    """One thing to do.

    Attributes:
        line: Its line in the file, from 1.
        prompt: What to draw, or the question about `image`.
        image: The picture that is asked about; None asks for a drawing.
        output: Where a drawing goes.
        seed: Of a drawing.
    """

    line: int
    prompt: str
    image: Path | None
    output: Path | None
    seed: int


_TYPES = {"prompt": str, "image": str, "output": str, "seed": int}


def read(path: Path, answers: Path, seed: int) -> list[Request]:
    """Read requests and check each of them, before anything is done.

    Args:
        path: Lines of {"prompt": …, "image"?: path, "output"?: path, "seed"?: number};
            empty lines are left out. With an image it is a question, else a drawing.
        answers: The file of answers; drawings without `output` go beside it.
        seed: Of the drawing on line 1; the following lines count up.

    Raises:
        UserError: Naming the line that is malformed and what is wrong with it.
    """
    try:
        lines = path.read_text("utf-8").splitlines()
    except OSError as error:
        raise UserError(f"--input {path} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise UserError(f"--input {path} is not UTF-8 text ({error}).") from error
    requests = []
    for number, text in enumerate(lines, 1):
        if not text.strip():
            continue
        try:
            fields = _check(json.loads(text))
            output = None
            if "image" not in fields:
                beside = answers.with_name(f"{answers.stem}-{number:05d}.png")
                output = Path(fields.get("output", beside))
                check_target(output)
            elif "output" in fields:
                raise UserError("'output' is for drawings, not for questions")
        except json.JSONDecodeError as error:
            raise UserError(f"{path}, line {number}: not JSON ({error}).") from error
        except UserError as error:
            raise UserError(f"{path}, line {number}: {error}") from error
        image = Path(fields["image"]) if "image" in fields else None
        order = fields.get("seed", seed + number - 1)
        requests.append(Request(number, fields["prompt"], image, output, order))
    if not requests:
        raise UserError(f"--input {path} holds no requests.")
    taken: dict[Path, int] = {}
    for request in requests:
        if request.output is None:
            continue
        if request.output in taken:
            raise UserError(
                f"{path}, line {request.line}: {request.output} is the output of line "
                f"{taken[request.output]} already."
            )
        taken[request.output] = request.line
    return requests


def write(path: Path, answers: Sequence[Mapping[str, Any]]) -> None:
    """Write one JSON object a line, so that the file is there whole or not at all.

    Raises:
        UserError: It cannot be written.
    """
    check_directory(path)
    partial = path.with_name(f".{path.name}.partial")
    lines = [json.dumps(answer, ensure_ascii=False) for answer in answers]
    try:
        partial.write_text("\n".join(lines) + "\n", "utf-8")
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise UserError(f"{path} cannot be written: {error.strerror}.") from error


def _check(fields: Any) -> dict[str, Any]:
    if not isinstance(fields, dict) or "prompt" not in fields:
        raise UserError('expected an object with a "prompt".')
    for key, value in fields.items():
        if key not in _TYPES:
            raise UserError(f"unknown name {key!r}{nearest(key, _TYPES)}")
        if not isinstance(value, _TYPES[key]) or isinstance(value, bool):
            wanted = _TYPES[key].__name__
            raise UserError(f"{key!r} must be a {wanted}, found {value!r}.")
    if not 0 <= fields.get("seed", 0) < 2**32:
        raise UserError("'seed' must lie between 0 and 4294967295.")
    return fields
