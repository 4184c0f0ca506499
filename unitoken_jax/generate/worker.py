"""Requests done in chunks, so that what cannot be done leaves the others alone."""

import contextlib
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeVar

import numpy as np
from tqdm import tqdm

from data_pipelines.errors import DataError
from data_pipelines.prompts import ImageInputs
from unitoken_jax.config import UserError
from unitoken_jax.generate import image_files, requests
from unitoken_jax.generate.sampler import Sampler

log = logging.getLogger("unitoken_jax.generate")

_CHUNK = 16  # batches whose images are held in memory at once
_PATIENCE = 60.0  # seconds after which the answers there are are written

Item = TypeVar("Item")
Result = TypeVar("Result")


def do_all(
    sampler: Sampler,
    asked: Sequence[requests.Request | requests.Refusal],
    keep: Callable[[Sequence[dict[str, object]]], object] = lambda answers: None,
) -> list[dict[str, object]]:
    """Draw and answer requests, in chunks; what cannot be done says why in `error`.

    A question about an image that an earlier line draws is asked after that drawing.

    Args:
        sampler: Who draws and answers.
        asked: From `requests.read`.
        keep: Called now and then, and however it ends, with the answers there are.

    Returns:
        For each line its prompt and image, and `answer`, `output` or `error`.
    """
    done = {r.line: r.answer() for r in asked if isinstance(r, requests.Refusal)}
    able = [r for r in asked if isinstance(r, requests.Request)]
    lost: dict[str, int] = {}  # drawings that failed
    saved = time.monotonic()
    try:
        with tqdm(total=len(able), desc="requests", unit="", disable=None) as bar:
            for chunk in _chunks(able, _CHUNK * sampler.config.batch):
                questions = [r for r in chunk if r.image]
                done |= _answer_all(sampler, questions, lost, bar)
                drawings = [r for r in chunk if not r.image]
                done |= _draw_all(sampler, drawings, lost, bar)
                if time.monotonic() - saved > _PATIENCE:
                    with contextlib.suppress(UserError):  # the last one counts
                        keep([done[line] for line in sorted(done)])
                    saved = time.monotonic()
    finally:
        keep([done[line] for line in sorted(done)])
    return [done[r.line] for r in asked]


def _chunks(
    asked: Sequence[requests.Request], size: int
) -> Iterator[list[requests.Request]]:
    """Cut requests, at most `size` at a time, so that questions follow drawings."""
    chunk: list[requests.Request] = []
    drawn: set[str] = set()
    for request in asked:
        is_late = request.image and os.path.realpath(request.image) in drawn
        if chunk and (is_late or len(chunk) == size):
            yield chunk
            chunk, drawn = [], set()
        chunk.append(request)
        if request.output:
            drawn.add(os.path.realpath(request.output))
    if chunk:
        yield chunk


def _answer_all(
    sampler: Sampler,
    asked: Sequence[requests.Request],
    lost: Mapping[str, int],
    bar: tqdm,
) -> dict[int, dict[str, object]]:
    prompts = sampler.prompts
    done: dict[int, dict[str, object]] = {}
    kept: list[tuple[requests.Request, ImageInputs]] = []
    for request in asked:
        try:
            assert request.image is not None
            if line := lost.get(os.path.realpath(request.image)):
                raise UserError(f"{request.image}: line {line} should have drawn it.")
            inputs = prompts.view(image_files.read(request.image))
            # Only to see that it fits: the codes come later, for many at once.
            prompts.question(np.zeros(prompts.grid, int), inputs.size, request.prompt)
            kept.append((request, inputs))
        except Exception as error:
            done[request.line] = _refused(request, error)
            bar.update()

    def answer(some: Sequence[tuple[requests.Request, ImageInputs]]) -> Sequence[str]:
        inputs, questions = [each for _, each in some], [r.prompt for r, _ in some]
        return sampler.answer(inputs, questions, bar.update)

    for (request, _), said in zip(kept, _each(answer, kept), strict=True):
        done[request.line] = (
            _refused(request, said)
            if isinstance(said, Exception)
            else request.described() | {"answer": said}
        )
    return done


def _draw_all(
    sampler: Sampler,
    asked: Sequence[requests.Request],
    lost: dict[str, int],
    bar: tqdm,
) -> dict[int, dict[str, object]]:
    done: dict[int, dict[str, object]] = {}
    kept: list[requests.Request] = []
    for request in asked:
        try:
            sampler.prompts.request(request.prompt)
            kept.append(request)
        except Exception as error:
            assert request.output is not None
            done[request.line] = _refused(request, error)
            lost[os.path.realpath(request.output)] = request.line
            bar.update()

    def draw(some: Sequence[requests.Request]) -> Sequence[np.ndarray]:
        prompts, seeds = [r.prompt for r in some], [r.seed for r in some]
        return list(sampler.draw(prompts, seeds, bar.update))

    for request, drawn in zip(kept, _each(draw, kept), strict=True):
        assert request.output is not None
        try:
            if isinstance(drawn, Exception):
                raise drawn
            image_files.save(request.output, drawn)
        except Exception as error:
            done[request.line] = _refused(request, error)
            lost[os.path.realpath(request.output)] = request.line
        else:
            made = {"output": str(request.output), "seed": request.seed}
            done[request.line] = request.described() | made
    return done


def _each(
    run: Callable[[Sequence[Item]], Sequence[Result]], items: Sequence[Item]
) -> list[Result | Exception]:
    """Run over items together; if that fails, over halves, so that the others go on."""
    if not items:
        return []
    try:
        return list(run(items))
    except Exception as error:
        log.info("%d requests fail together", len(items), exc_info=True)
        if len(items) == 1:
            return [error]
    middle = len(items) // 2
    return [*_each(run, items[:middle]), *_each(run, items[middle:])]


def _refused(request: requests.Request, error: Exception) -> dict[str, object]:
    """Return the answer to a request that cannot be done."""
    said = str(error)
    if isinstance(error, DataError):
        said = f"{said}."
    elif not isinstance(error, UserError):
        said = f"{type(error).__name__}: {said.partition(chr(10))[0]}"
    return requests.Refusal(request.line, said, request.described()).answer()
