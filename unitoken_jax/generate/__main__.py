"""Draw and answer: python -m unitoken_jax.generate --workdir DIR [--config FILE].

    --prompt "a red heart" --output heart.png          draws
    --prompt animals --output animal.png               draws a class (LlamaGen)
    --image heart.png --prompt "What is this?"         answers
    --input prompts.jsonl --output answers.jsonl       does many at once

This module wires models, checkpoints and the data's prompt rules together; `load` is
how evaluation and notebooks get a trained model to speak to.
"""

import contextlib
import dataclasses
import functools
import logging
import os
import shlex
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import absl.logging
import numpy as np
from absl import flags
from jax.sharding import Mesh
from PIL import Image
from tqdm import tqdm

from data_pipelines.classes import class_names
from data_pipelines.config import build_data
from data_pipelines.errors import DataError
from data_pipelines.images import decoding
from data_pipelines.prompts import ClassPrompts
from data_pipelines.storage.code_files import find_code_files
from data_pipelines.storage.integrity import check_tokenizer
from data_pipelines.tokenizers.chameleon import ChameleonVocabulary
from data_pipelines.tokenizers.tokenizer import read_vocabulary
from data_pipelines.unitok_mllm.prompts import MLLMPrompts
from data_pipelines.unitoken.prompts import UniTokenPrompts
from unitoken_jax import config as configs
from unitoken_jax.checkpoint import reader as checkpoints
from unitoken_jax.config import ConfigError, UserError, nearest
from unitoken_jax.files import define_path_flag, read_user_file
from unitoken_jax.generate import pictures, requests
from unitoken_jax.generate.artist import Artist
from unitoken_jax.generate.assistant import Assistant, GenerationConfig, Speaker, View
from unitoken_jax.generate.decode import Params
from unitoken_jax.generate.liquid_assistant import LiquidAssistant
from unitoken_jax.models import registry
from unitoken_jax.parallel import rules
from unitoken_jax.parallel.mesh import make_mesh
from unitoken_jax.runtime.pytree import flatten
from unitoken_jax.train.environment import (
    COMPILE_CACHE,
    let_cpu_devices_meet,
    use_compile_cache,
)
from unitoken_jax.train.job import Chain, chain_of

log = logging.getLogger("unitoken_jax.generate")

Voice = Assistant | LiquidAssistant | Artist
SPEAKERS = ("unitoken", "unitok_mllm", "llamagen")
"""Kinds of model that draw or answer."""
LARGEST_PICTURE = 512 * 2**20
"""Bytes of a picture's file; a larger one is refused."""
# Fields of `GenerationConfig` that a kind of model does not read.
_UNREAD = {
    "unitoken": ("guidance_interval",),
    "unitok_mllm": ("guidance_interval", "unconditional", "lead"),
    "llamagen": ("unconditional", "lead", "answer_limit"),
}
_CHUNK = 16  # batches whose pictures are held in memory at once
_PATIENCE = 60.0  # seconds after which the answers there are are written

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclasses.dataclass(frozen=True)
class Trained:
    """A trained stage: its model, parameters and data rules."""

    system: registry.System
    params: Params
    data: Any


def find_stage(chain: Chain, name: str, kind: str | tuple[str, ...], at: str) -> str:
    """Return the stage `name`, or the last one of a kind of model if it is ''.

    Args:
        chain: The experiment.
        name: Of a stage, or ''.
        kind: Of model, such as 'unitoken', or several that will do.
        at: Dotted path of the field that names it, for messages.

    Raises:
        ConfigError: There is no such stage, or it trains another kind of model.
    """
    wanted = (kind,) if isinstance(kind, str) else kind
    *others, last = wanted
    kind = f"{', '.join(others)} or {last}" if others else last
    kinds = {key: chain.stages[key].model.get("kind") for key in chain.order}
    fitting = [key for key, found in kinds.items() if found in wanted]
    if not name:
        if not fitting:
            raise ConfigError(f"{at}: no stage of the config trains a {kind}.")
        return fitting[-1]
    if name not in kinds:
        raise ConfigError(f"{at}: there is no stage {name!r}{nearest(name, fitting)}")
    if kinds[name] not in wanted:
        raise ConfigError(
            f"{at}: stage {name!r} trains a {kinds[name]}, but a {kind} is needed"
            f"{nearest(name, fitting)}"
        )
    return name


def restore(chain: Chain, name: str, workdir: Path, mesh: Mesh) -> Trained:
    """Read the newest checkpoint of a stage.

    Args:
        chain: The experiment.
        name: Of the stage.
        workdir: Of the run.
        mesh: Where to put the parameters.

    Raises:
        UserError: There is no checkpoint (the message says how to make one), or it was
            made with another config.
    """
    job, at = chain.stages[name], f"config.stages.{name}"
    system = registry.build(job.model, f"{at}.model")
    data = build_data(job.data, f"{at}.data")
    directory = workdir / name
    if not checkpoints.steps(directory / "checkpoints"):
        raise UserError(
            f"stage {name!r} has no checkpoint in {directory}; train it first: "
            f"python -m unitoken_jax.train --config FILE --workdir "
            f"{shlex.quote(str(workdir))}"
        )
    shapes = registry.abstract_params(system)
    wanted = {path: leaf.shape for path, leaf in flatten(shapes).items()}
    found = checkpoints.parameter_shapes(directory)
    if problems := checkpoints.describe_differences(found, wanted):
        raise UserError(
            f"the checkpoint in {directory} was made with another config: {problems}. "
            "Give the config it was trained with."
        )
    places = rules.shardings(registry.logical_axes(system), shapes, mesh)
    params, step = checkpoints.restore_params(
        directory, shardings=places, average=bool(job.train.average)
    )
    log.info("%s: step %d of stage %s", system.kind, step, name)
    return Trained(system, params, data)


def check_fields(config: GenerationConfig, kind: str) -> None:
    """Refuse fields that a kind of model does not read.

    Raises:
        ConfigError: One of them is set.
    """
    for name in _UNREAD[kind]:
        default = GenerationConfig.__dataclass_fields__[name].default
        if getattr(config, name) != default:
            readers = [repr(k) for k, names in _UNREAD.items() if name not in names]
            raise ConfigError(
                f"config.generation.{name}: a {kind} does not read it, only "
                f"{' or '.join(readers)}; leave it out."
            )


def load(chain: Chain, workdir: Path, **changes: Any) -> Voice:
    """Return a trained model with its tokenizer, ready to draw and answer.

    Args:
        chain: The experiment; its `generation` group says which stages and how.
        workdir: Of its run.
        **changes: Fields of `GenerationConfig` to set; None leaves one as it is.

    Raises:
        UserError: Something is missing or does not fit, in a sentence.
    """
    fields = dict(chain.generation) | {
        key: value for key, value in changes.items() if value is not None
    }
    config = configs.build(GenerationConfig, fields, "config.generation")
    mesh = make_mesh(config.mesh)
    name = find_stage(chain, config.model, SPEAKERS, "config.generation.model")
    check_fields(config, chain.stages[name].model["kind"])
    codes = chain.stages[name].codes
    source = config.tokenizer or (codes.stage if codes else "")
    kind = "vqgan" if chain.stages[name].model["kind"] == "unitoken" else "unitok"
    source = find_stage(chain, source, kind, "config.generation.tokenizer")
    model, tokenizer = (
        restore(chain, stage, workdir, mesh) for stage in (name, source)
    )
    directory = Path(model.data.directory or chain.data_dir)
    parts: dict[str, Any] = {
        "model": model.system.module,
        "params": model.params,
        "tokenizer": tokenizer.system.module,
        "tokenizer_params": tokenizer.params,
        "config": config,
        "mesh": mesh,
    }
    try:
        check_tokenizer(directory, "tokenizer.json")
        if model.system.kind == "unitoken":
            vocabulary = ChameleonVocabulary.from_file(directory / "tokenizer.json")
            return Assistant(composer=UniTokenPrompts(vocabulary, model.data), **parts)
        stride = tokenizer.system.config.vision.factor
        if model.system.kind == "unitok_mllm":
            words = read_vocabulary(directory / "tokenizer.json")
            composer = MLLMPrompts(words, model.data, stride)
            return LiquidAssistant(composer=composer, **parts)
        numbered = find_code_files(directory) is not None
        names = None if numbered else class_names(directory)
        classes = model.system.config.classes
        composer = ClassPrompts(names, classes, model.data, stride)
        return Artist(composer=composer, **parts)
    except DataError as error:
        raise UserError(f"config.stages.{name}.data: {error}.") from error


def look(path: Path) -> Image.Image:
    """Read a picture from a file, turned upright as its EXIF says.

    Raises:
        UserError: There is no such file, or it is no picture or an enormous one.
    """
    data = read_user_file(path, LARGEST_PICTURE)
    try:
        return decoding.decode(data, str(path), policy="upright")
    except DataError as error:
        raise UserError(f"{error}.") from error


def draw_grid(
    assistant: Speaker, prompt: str, output: Path, *, seed: int, count: int
) -> None:
    """Draw a prompt `count` times with consecutive seeds into one picture."""
    with tqdm(total=count, desc="drawing", unit="picture", disable=None) as bar:
        drawn = assistant.draw(
            [prompt] * count, range(seed, seed + count), progress=bar.update
        )
    pictures.save(output, pictures.grid(drawn))


def do_all(
    assistant: Speaker,
    asked: Sequence[requests.Request | requests.Refusal],
    keep: Callable[[Sequence[dict[str, Any]]], object] = lambda answers: None,
) -> list[dict[str, Any]]:
    """Draw and answer requests, in chunks; what cannot be done says why in `error`.

    A question about a picture that an earlier line draws is asked after that drawing.

    Args:
        assistant: Who does it.
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
            for chunk in _chunks(able, _CHUNK * assistant.config.batch):
                questions = [r for r in chunk if r.image]
                done |= _answer_all(assistant, questions, lost, bar)
                drawings = [r for r in chunk if not r.image]
                done |= _draw_all(assistant, drawings, lost, bar)
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
    assistant: Speaker,
    asked: Sequence[requests.Request],
    lost: Mapping[str, int],
    bar: tqdm,
) -> dict[int, dict[str, Any]]:
    composer = assistant.composer
    done: dict[int, dict[str, Any]] = {}
    kept: list[tuple[requests.Request, View]] = []
    for request in asked:
        try:
            assert request.image is not None
            if line := lost.get(os.path.realpath(request.image)):
                raise UserError(f"{request.image}: line {line} should have drawn it.")
            view = composer.view(look(request.image))
            # Only to see that it fits: the codes come later, for many at once.
            composer.question(np.zeros(composer.grid, int), view.size, request.prompt)
            kept.append((request, view))
        except Exception as error:
            done[request.line] = _refused(request, error)
            bar.update()

    def answer(some: Sequence[tuple[requests.Request, View]]) -> Sequence[str]:
        views, prompts = [view for _, view in some], [r.prompt for r, _ in some]
        return assistant.answer(views, prompts, bar.update)

    for (request, _), said in zip(kept, _each(answer, kept), strict=True):
        done[request.line] = (
            _refused(request, said)
            if isinstance(said, Exception)
            else request.described() | {"answer": said}
        )
    return done


def _draw_all(
    assistant: Speaker,
    asked: Sequence[requests.Request],
    lost: dict[str, int],
    bar: tqdm,
) -> dict[int, dict[str, Any]]:
    done: dict[int, dict[str, Any]] = {}
    kept: list[requests.Request] = []
    for request in asked:
        try:
            assistant.composer.request(request.prompt)
            kept.append(request)
        except Exception as error:
            assert request.output is not None
            done[request.line] = _refused(request, error)
            lost[os.path.realpath(request.output)] = request.line
            bar.update()

    def draw(some: Sequence[requests.Request]) -> Sequence[np.ndarray]:
        prompts, seeds = [r.prompt for r in some], [r.seed for r in some]
        return list(assistant.draw(prompts, seeds, bar.update))

    for request, drawn in zip(kept, _each(draw, kept), strict=True):
        assert request.output is not None
        try:
            if isinstance(drawn, Exception):
                raise drawn
            pictures.save(request.output, drawn)
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


def _refused(request: requests.Request, error: Exception) -> dict[str, Any]:
    """Return the answer to a request that cannot be done."""
    said = str(error)
    if isinstance(error, DataError):
        said = f"{said}."
    elif not isinstance(error, UserError):
        said = f"{type(error).__name__}: {said.partition(chr(10))[0]}"
    return requests.Refusal(request.line, said, request.described()).answer()


def _check_flags(given: Any) -> None:
    """Refuse flags that do not go together, before anything is loaded."""
    if given.input:
        if given.prompt is not None or given.image:
            raise UserError("--input goes without --prompt and --image.")
        if not given.output:
            raise UserError("--input needs --output FILE.jsonl for the answers.")
        pictures.check_file(Path(given.output))
    elif not (given.prompt or "").strip():
        raise UserError(
            "nothing to do: give --prompt TEXT --output FILE.png to draw, --image FILE "
            "--prompt QUESTION to ask, or --input FILE.jsonl --output FILE.jsonl."
        )
    elif given.image and given.output:
        raise UserError("an answer is printed; leave --output out, or use --input.")
    elif not given.image:
        if not given.output:
            raise UserError("a drawing needs --output FILE.png.")
        pictures.check_target(Path(given.output))
    if given.count > 1 and (given.input or given.image):
        raise UserError("--count is of drawings; leave it out.")
    try:
        (given.prompt or "").encode()
    except UnicodeEncodeError as error:
        raise UserError(f"--prompt is not text ({error}); write it again.") from error


def main(given: Any) -> None:
    """Do what the flags say.

    Args:
        given: The parsed flags.
    """
    _check_flags(given)
    workdir = Path(given.workdir)
    chain = chain_of(given.config, workdir)
    asked: Sequence[requests.Request | requests.Refusal] = []
    view = look(Path(given.image)) if given.image else None
    if given.input:
        asked = requests.read(Path(given.input), Path(given.output), given.seed)
    names = ("guidance", "top_k", "top_p", "temperature")
    changes = {name: getattr(given, name) for name in names}
    if asked and not any(isinstance(r, requests.Request) for r in asked):
        refused = [r.answer() for r in asked if isinstance(r, requests.Refusal)]
        requests.write(Path(given.output), refused)
        _count(refused, Path(given.output))
        return
    let_cpu_devices_meet()
    use_compile_cache(given.compile_cache)
    assistant = load(chain, workdir, **changes)
    try:
        if asked:
            _do_file(assistant, asked, Path(given.output))
        elif view is not None:
            print(assistant.answer([assistant.composer.view(view)], [given.prompt])[0])
        else:
            output = Path(given.output)
            draw_grid(
                assistant, given.prompt, output, seed=given.seed, count=given.count
            )
            print(output)
    except DataError as error:
        raise UserError(f"{error}.") from error


def _do_file(
    assistant: Speaker,
    asked: Sequence[requests.Request | requests.Refusal],
    output: Path,
) -> None:
    """Do the requests of a file and write the answers, also of what is done till then.

    Raises:
        UserError: Some could not be done, or the answers cannot be written.
    """
    answers = do_all(assistant, asked, functools.partial(requests.write, output))
    _count(answers, output)


def _count(answers: Sequence[Mapping[str, Any]], output: Path) -> None:
    """Say how many requests are done.

    Raises:
        UserError: Some are not.
    """
    failed = sum("error" in answer for answer in answers)
    print(f"{len(answers) - failed} of {len(answers)} done: {output}")
    if failed:
        raise UserError(
            f"{failed} of {len(answers)} requests could not be done; their 'error' in "
            f"{output} says why."
        )


def _define_flags() -> None:
    """Define the flags; only where this is the program: others import its functions."""
    configs.define_flag(required=False)
    define_path_flag("workdir", None, "Directory of the run.", required=True)
    flags.DEFINE_string("prompt", None, "What to draw, or the question about --image.")
    define_path_flag("image", None, "Picture to ask about.")
    define_path_flag("output", None, "The drawing, or the answers to --input.")
    define_path_flag("input", None, "Many requests: JSON lines.")
    flags.DEFINE_integer("count", 1, "Drawings, in one grid.", 1, 1024)
    flags.DEFINE_integer("seed", 0, "Of the first drawing.", 0, 2**32 - 1025)
    flags.DEFINE_float("guidance", None, "Scale of guidance; 1 is none.")
    flags.DEFINE_integer("top_k", None, "Codes to draw from; 0 is all.")
    flags.DEFINE_float("top_p", None, "Probability mass to draw from.")
    flags.DEFINE_float("temperature", None, "Of drawing; 0 is greedy.")
    flags.DEFINE_string("compile_cache", COMPILE_CACHE, "Compiled programs; '': none.")


def _run() -> None:
    # The answer is all that is printed; of the libraries only warnings.
    absl.logging.set_verbosity(absl.logging.WARNING)
    main(flags.FLAGS)


if __name__ == "__main__":
    _define_flags()
    configs.run(_run)
