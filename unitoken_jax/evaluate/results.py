"""Evaluations of a run side by side: evaluation/NAME.json, images in NAME/ beside it.

The run's own, by the config it was trained with, is called `default`; one with another
config has a name that says what differs, and never takes the place of the first. Each
says what it is of: the stages, by digests of their content, and the complete config.
"""

import dataclasses
import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_pipelines.errors import DataError
from data_pipelines.storage.directory import atomic_directory
from unitoken_jax.config import ConfigError, UserError
from unitoken_jax.evaluate.evaluator import Evaluation, reason
from unitoken_jax.files import write_bytes
from unitoken_jax.generate.image_files import save

log = logging.getLogger(__name__)

Content = Mapping[str, Any]
"""JSON: an evaluation, one of its parts, or a config."""
Part = dict[str, Any]
"""What an evaluator has found, as JSON: measures and samples, or an error."""

FOLDER = "evaluation"
OWN = "default"
OF = "of"
"""The key of an evaluation that says what it is of; all other groups are its parts."""
EARLIER = "evaluation.json"
"""What runs of earlier versions have, beside the folder; it says not what it is of."""

_NAME = re.compile(r"[A-Za-z0-9_=+,-][A-Za-z0-9._=+,-]{0,99}")
_LONGEST = 72  # letters of a name that is made
_FINISHED = "finished.json"  # of a stage, written when it is complete
_SMALL = 2**16  # bytes of a checkpoint's files that are read whole


@dataclasses.dataclass(frozen=True)
class Subject:
    """What an evaluation is of.

    Attributes:
        stages: A digest of what each stage has come to, by name.
        config: All fields that change what is measured, with their defaults.
    """

    stages: Mapping[str, str]
    config: Content

    @classmethod
    def of(cls, workdir: Path, stages: Sequence[str], config: Content) -> "Subject":
        """Look at the stages of a run.

        Args:
            workdir: Of the run.
            stages: Their names.
            config: Plain values.
        """
        digests = {name: digest(workdir / name) for name in stages}
        # As it is read again: without tuples.
        return cls(digests, json.loads(json.dumps(config)))


def digest(stage: Path) -> str:
    """Digest what a stage has come to: how it ended, or its newest checkpoint.

    It is of content alone: a copy of a run has the same.
    """
    found = hashlib.sha256()
    mark = _read_bytes(stage / _FINISHED)
    steps = _steps(stage / "checkpoints")
    ended = _ended(mark)
    if mark is not None:
        found.update(mark)
    if steps and steps[-1] != ended:  # it has been trained on since, or not to its end
        newest = stage / "checkpoints" / str(steps[-1])
        for path in sorted(p for p in newest.rglob("*") if p.is_file()):
            size = path.stat().st_size
            found.update(f"{path.relative_to(newest)} {size}\n".encode())
            if size <= _SMALL:
                found.update(path.read_bytes())
    return found.hexdigest()


def _steps(folder: Path) -> list[int]:
    try:
        names = [path.name for path in folder.iterdir()]
    except OSError:
        return []
    return sorted(int(name) for name in names if name.isdecimal())


def _ended(mark: bytes | None) -> int | None:
    """Return the step at which a stage was complete."""
    try:
        return json.loads(mark or b"{}").get("steps")
    except (ValueError, AttributeError):
        return None


def _read_bytes(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None


def read(workdir: Path, name: str = OWN) -> Content | None:
    """Read an evaluation of a run; None if there is none that can be read."""
    return _read(workdir / FOLDER / f"{name}.json")


def read_earlier(workdir: Path) -> Content | None:
    """Read the evaluation that an earlier version has made."""
    return _read(workdir / EARLIER)


def _read(path: Path) -> Content | None:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def is_of(content: Content | None, subject: Subject) -> bool:
    """Say whether an evaluation is of these stages with this config."""
    of = content.get(OF) if content else None
    return isinstance(of, Mapping) and (
        of.get("stages") == subject.stages and of.get("config") == subject.config
    )


def parts(content: Content | None) -> dict[str, Part]:
    """Return the parts of an evaluation that have found something."""
    return {
        name: dict(part)
        for name, part in (content or {}).items()
        if isinstance(part, Mapping) and part.get("measures")
    }


def failures(content: Content) -> dict[str, str]:
    """Return the parts of an evaluation that have failed, with what they said."""
    return {
        name: str(part["error"])
        for name, part in content.items()
        if isinstance(part, Mapping) and "error" in part
    }


def changes(own: Content, config: Content) -> list[str]:
    """Say in which fields a complete config differs from the run's own.

    Returns:
        Lines as a command line would have them, without dashes:
        "evaluation.understanding.questions=200".
    """
    return list(_changes(own, config, ""))


def _changes(own: object, other: object, path: str) -> Iterator[str]:
    if own == other:
        return
    if isinstance(own, Mapping) and isinstance(other, Mapping):
        for key in {**own, **other}:
            field = f"{path}.{key}" if path else str(key)
            if key not in other:
                yield f"{field} is not set"
            elif key not in own:
                yield f"{field}={_value(other[key])}"
            else:
                yield from _changes(own[key], other[key], field)
    else:
        yield f"{path}={_value(other)}"


def _value(value: object) -> str:
    text = value if isinstance(value, str) and value else repr(value)
    return text if len(text) <= 60 else f"{text[:59]}…"


def name_of(changed: Sequence[str], config: Content) -> str:
    """Make a name of what differs from the run's own config.

    Args:
        changed: From `changes`; if nothing is, it is the run's own name.
        config: The complete config; two have one name only if they are equal.
    """
    if not changed:
        return OWN
    said = ",".join(line.removeprefix("evaluation.") for line in changed)
    name = re.sub(r"[^A-Za-z0-9._=+,-]+", "-", said).strip(".-")
    if name == said and len(name) <= _LONGEST and name != OWN:
        return name
    mark = hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()
    return f"{name[:_LONGEST].rstrip('.-')}-{mark[:8]}"


def check_name(
    workdir: Path, name: str, changed: Sequence[str], subject: Subject
) -> None:
    """Refuse a name that is none, or is that of an evaluation of another config.

    Raises:
        UserError: Saying which it is.
    """
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"--name={name!r} is no name; give up to 100 letters, digits and any of "
            "._=+,- of which the first is no dot."
        )
    if name == OWN and changed:
        raise ConfigError(
            f"--name={OWN} is the evaluation by the run's own config, but this one "
            f"has {', '.join(changed[:3])}; give it another name, or none."
        )
    there = read(workdir, name)
    of = there.get(OF) if there else None
    if name != OWN and isinstance(of, Mapping) and of.get("config") != subject.config:
        raise UserError(
            f"{workdir / FOLDER / name}.json is an evaluation with another config; "
            "give another --name, or remove it first."
        )


def describe(name: str, changed: Sequence[str], subject: Subject) -> dict[str, Part]:
    """Return what stands in an evaluation beside its parts."""
    return {OF: {"name": name, "changes": list(changed), **dataclasses.asdict(subject)}}


def store(
    folder: Path, found: Mapping[str, Evaluation], kept: Mapping[str, Part]
) -> dict[str, Part]:
    """Return parts for the file; the examples' images are written to a folder.

    Args:
        folder: What takes the images; that of an earlier evaluation is replaced.
        found: What evaluators have found, by their names.
        kept: Parts of the same evaluation that there are already.
    """
    content: dict[str, Part] = {
        part: {
            "measures": {
                key: dataclasses.asdict(measure)
                for key, measure in evaluation.measures.items()
            },
            "samples": {},
        }
        for part, evaluation in found.items()
    }
    place = f"{folder.parent.name}/{folder.name}"
    try:
        with atomic_directory(folder, overwrite=True) as partial:
            for part in kept:
                for path in folder.glob(f"{part}-*.png"):
                    shutil.copyfile(path, partial / path.name)
            stored = {
                part: {
                    key: [
                        _store(sample, partial, place, f"{part}-{key}-{number:02d}")
                        for number, sample in enumerate(samples)
                    ]
                    for key, samples in evaluation.samples.items()
                }
                for part, evaluation in found.items()
            }
    except (UserError, DataError, OSError) as error:
        # The numbers are worth more than the images.
        log.warning("examples are left out: %s", reason(error))
        return content | dict(kept)
    for part, samples in stored.items():
        content[part]["samples"] = samples
    return content | dict(kept)


def _store(value: object, folder: Path, place: str, name: str) -> object:
    """Return a sample with its images written as files and named by their paths."""
    if isinstance(value, np.ndarray):
        name = f"{name.replace('/', '-')}.png"
        save(folder / name, value)
        return f"{place}/{name}"
    if isinstance(value, Mapping):
        return {k: _store(v, folder, place, f"{name}-{k}") for k, v in value.items()}
    if isinstance(value, list):
        return [_store(v, folder, place, f"{name}-{i}") for i, v in enumerate(value)]
    return value


def check_place(workdir: Path) -> None:
    """Refuse a run in whose folder no evaluation can be written.

    Raises:
        UserError: Before anything is measured.
    """
    folder = workdir / FOLDER
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is no folder; remove it or rename it.")
    place = folder if folder.is_dir() else workdir
    if not os.access(place, os.W_OK | os.X_OK):
        raise UserError(f"{folder} cannot be written: {place} is not yours to change.")


def write(workdir: Path, name: str, content: Content) -> Path:
    """Write an evaluation whole and return its path.

    Raises:
        UserError: It cannot be written.
    """
    path = workdir / FOLDER / f"{name}.json"
    text = json.dumps(content, indent=1, ensure_ascii=False)
    try:
        path.parent.mkdir(exist_ok=True)
        write_bytes(path, (text + "\n").encode())
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}.") from error
    return path
