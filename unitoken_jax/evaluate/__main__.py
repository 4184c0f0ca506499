"""Evaluate a run: python -m unitoken_jax.evaluate --config FILE --workdir DIR.

Prints a table and writes WORKDIR/evaluation.json, with examples as pictures in
WORKDIR/evaluation/. This module wires data pipelines and trained stages to the
evaluators; training calls `run` when it is done.
"""

import dataclasses
import itertools
import json
import logging
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from absl import flags
from tqdm import tqdm

from data_pipelines import images
from data_pipelines.directory import atomic_directory, write_file
from data_pipelines.errors import DataError
from data_pipelines.records import Record
from data_pipelines.shards import Split
from data_pipelines.vocabulary import Vocabulary
from unitoken_jax import config as configs
from unitoken_jax.config import UserError
from unitoken_jax.evaluate import (
    generation,
    reconstruction,
    retrieval,
    understanding,
)
from unitoken_jax.evaluate.config import EvaluationConfig
from unitoken_jax.evaluate.measure import Evaluation, table
from unitoken_jax.generate.__main__ import find_stage, load, restore
from unitoken_jax.generate.assistant import Assistant, GenerationConfig
from unitoken_jax.generate.pictures import save
from unitoken_jax.parallel.mesh import make_mesh
from unitoken_jax.train.console import log_to_console
from unitoken_jax.train.environment import use_compile_cache
from unitoken_jax.train.job import Chain, build_chain

log = logging.getLogger("unitoken_jax.evaluate")

T = TypeVar("T")


class Bench:
    """Held-out records in a fixed order, and the stages they are shown to."""

    def __init__(self, chain: Chain, workdir: Path, config: EvaluationConfig) -> None:
        """Open the data set.

        Raises:
            DataError: It is missing or damaged.
        """
        self._chain, self._workdir, self._config = chain, workdir, config
        self._split = Split(chain.data_dir, config.split)
        order = np.random.default_rng(config.seed).permutation(len(self._split))
        self._order = [int(i) for i in order]
        if not self._order:
            raise DataError(f"split {config.split!r} of {chain.data_dir} is empty")
        sampler = configs.build(GenerationConfig, chain.generation, "config.generation")
        self._mesh = make_mesh(sampler.mesh)
        self._assistant: Assistant | None = None
        self._majorities: Mapping[str, str] | None = None

    @property
    def assistant(self) -> Assistant:
        """The trained UniToken, loaded when it is first asked for."""
        if self._assistant is None:
            self._assistant = load(self._chain, self._workdir)
        return self._assistant

    @property
    def majorities(self) -> Mapping[str, str]:
        """The most frequent training answer of each kind of question."""
        if self._majorities is None:
            train = Split(self._chain.data_dir, self._config.train_split)
            self._majorities = understanding.majority(
                (question["kind"], question["answer"])
                for record in train
                for question in record["questions"]
            )
            train.close()
        return self._majorities

    def close(self) -> None:
        """Close the files."""
        self._split.close()

    def reconstruction(self, config: reconstruction.ReconstructionConfig) -> Evaluation:
        """Measure the tokenizer."""
        at = "config.evaluation.reconstruction.stage"
        name = find_stage(self._chain, config.stage, "vqgan", at)
        trained = restore(self._chain, name, self._workdir, self._mesh)
        size, background = trained.data.image_size, trained.data.background
        pictures = (
            images.to_square(picture, size, background)
            for _, picture in self._pictures()
        )
        module: Any = trained.system.module
        some = self._some(pictures, "pictures")
        return reconstruction.evaluate(module, trained.params, some, config)

    def retrieval(self, config: retrieval.RetrievalConfig) -> Evaluation:
        """Measure SigLIP."""
        at = "config.evaluation.retrieval.stage"
        name = find_stage(self._chain, config.stage, "siglip", at)
        trained = restore(self._chain, name, self._workdir, self._mesh)
        data = trained.data
        vocabulary = Vocabulary.from_file(self._split.directory / "tokenizer.json")

        def pairs() -> Iterator[retrieval.Pair]:
            for record, picture in self._pictures():
                if not record["captions"] or record["category"] in config.without:
                    continue
                caption = record["captions"][0]
                text = np.full(data.text_length, vocabulary.pad, np.int32)
                ids = vocabulary.encode(caption)[: data.text_length]
                text[: len(ids)] = ids
                image = images.to_square(picture, data.image_size, data.background)
                yield retrieval.Pair(image, caption, text)

        module: Any = trained.system.module
        some = self._some(pairs(), "captioned pictures")
        return retrieval.evaluate(module, trained.params, some, config)

    def understanding(self, config: understanding.UnderstandingConfig) -> Evaluation:
        """Ask questions, taken in random order so that no picture prevails."""
        assistant = self.assistant
        every = [
            (number, question)
            for number, record in enumerate(self._split)
            for question in record["questions"]
        ]
        rng = np.random.default_rng(self._config.seed)
        every = [every[i] for i in rng.permutation(len(every))]
        questions = []
        for i in understanding.choose([q["kind"] for _, q in every], config):
            number, question = every[i]
            record = self._split[number]
            picture = images.decode(record["image"], f"record {record['id']!r}")
            questions.append(
                understanding.Question(
                    assistant.composer.view(picture),
                    question["kind"],
                    question["question"],
                    question["answer"],
                )
            )
        if not questions:
            raise DataError(
                f"split {self._config.split!r} has no questions of the kinds wanted by "
                "evaluation.understanding.kinds"
            )
        with _bar("answering", len(questions)) as bar:
            return understanding.evaluate(
                assistant, questions, self.majorities, config, bar.update
            )

    def generation(self, config: generation.GenerationTestConfig) -> Evaluation:
        """Score, draw and ask about drawings."""
        assistant = self.assistant
        items: dict[str, generation.Captioned] = {}
        for record, picture in self._pictures():
            if len(items) == config.items:
                break
            for caption in record["captions"][:1]:
                if caption not in items:
                    items[caption] = generation.Captioned(
                        assistant.composer.view(picture),
                        caption,
                        [
                            (q["kind"], q["question"], q["answer"])
                            for q in record["questions"]
                        ],
                    )
        chosen = list(items.values())
        if len(chosen) < 2:
            raise DataError(
                f"split {self._config.split!r} has fewer than two captioned pictures"
            )
        with _bar("drawing", generation.amount(chosen, config)) as bar:
            return generation.evaluate(
                assistant, chosen, self.majorities, config, bar.update
            )

    def _some(self, items: Iterator[T], what: str) -> Iterator[T]:
        """Return the items, or refuse if there are none."""
        for first in items:
            return itertools.chain([first], items)
        raise DataError(f"split {self._config.split!r} has no {what} to evaluate")

    def _pictures(self) -> Iterator[tuple[Record, Any]]:
        """Yield held-out records with their pictures; broken ones are left out."""
        for number in self._order:
            record = self._split[number]
            try:
                picture = images.decode(record["image"], f"record {record['id']!r}")
            except DataError as error:
                log.warning("left out: %s", error)
                continue
            yield record, picture


def run(chain: Chain, workdir: Path) -> dict[str, Any]:
    """Evaluate a run and write what was found to its directory.

    Evaluators whose kind of model the chain does not train are left out.

    Args:
        chain: The experiment, its `evaluation` group saying what to measure.
        workdir: Of its run; its stages must have checkpoints.

    Returns:
        The content of WORKDIR/evaluation.json.

    Raises:
        UserError: Something is missing, damaged or cannot be written.
    """
    config = configs.build(EvaluationConfig, chain.evaluation, "config.evaluation")
    began = time.perf_counter()
    found: dict[str, Evaluation] = {}
    try:
        bench = Bench(chain, workdir, config)
        try:
            for name, evaluate in _evaluators(chain, config, bench):
                start = time.perf_counter()
                found[name] = evaluate()
                log.info("%s: %.0f s", name, time.perf_counter() - start)
        finally:
            bench.close()
        content = _write(workdir, found, time.perf_counter() - began)
    except DataError as error:
        raise UserError(f"evaluation: {error}.") from error
    rows = {
        f"{name} {key}": measure
        for name, evaluation in found.items()
        for key, measure in evaluation.measures.items()
    }
    log.info("%s\n%s", table(rows), workdir / "evaluation.json")
    return content


def _evaluators(
    chain: Chain, config: EvaluationConfig, bench: Bench
) -> Iterator[tuple[str, Any]]:
    """Yield the name and the call of each evaluator that applies."""
    trained = {job.model.get("kind") for job in chain.stages.values()}
    for name, kind in (
        ("reconstruction", "vqgan"),
        ("retrieval", "siglip"),
        ("understanding", "unitoken"),
        ("generation", "unitoken"),
    ):
        part = getattr(config, name)
        if part is None:
            continue
        if kind not in trained and name not in chain.evaluation:
            log.info("%s: left out, the config trains no %s", name, kind)
            continue
        yield name, lambda name=name, part=part: getattr(bench, name)(part)


def _write(
    workdir: Path, found: Mapping[str, Evaluation], seconds: float
) -> dict[str, Any]:
    """Write the examples' pictures, then the JSON that names them."""
    content: dict[str, Any] = {"seconds": round(seconds, 1)}
    with atomic_directory(workdir / "evaluation", overwrite=True) as partial:
        for name, evaluation in found.items():
            content[name] = {
                "measures": {
                    key: dataclasses.asdict(measure)
                    for key, measure in evaluation.measures.items()
                },
                "samples": {
                    key: [
                        _store(sample, partial, f"{name}-{key}-{number:02d}")
                        for number, sample in enumerate(samples)
                    ]
                    for key, samples in evaluation.samples.items()
                },
            }
    text = json.dumps(content, indent=1, ensure_ascii=False)
    try:
        write_file(workdir / "evaluation.json", (text + "\n").encode())
    except OSError as error:
        path = workdir / "evaluation.json"
        raise UserError(f"{path} cannot be written: {error.strerror}.") from error
    return content


def _store(value: Any, folder: Path, name: str) -> Any:
    """Return a sample with its pictures written as files and named by their paths."""
    if isinstance(value, np.ndarray):
        name = f"{name.replace('/', '-')}.png"
        save(folder / name, value)
        return f"evaluation/{name}"
    if isinstance(value, Mapping):
        return {k: _store(v, folder, f"{name}-{k}") for k, v in value.items()}
    if isinstance(value, list):
        return [_store(v, folder, f"{name}-{i}") for i, v in enumerate(value)]
    return value


def _bar(what: str, total: int) -> tqdm:
    return tqdm(total=total, desc=what, unit="", disable=None, leave=False)


def main() -> None:
    """Evaluate the run that the flags name."""
    use_compile_cache(flags.FLAGS.compile_cache)
    with log_to_console():
        run(build_chain(flags.FLAGS.config), Path(flags.FLAGS.workdir))


if __name__ == "__main__":
    configs.define_flag()
    flags.DEFINE_string("workdir", None, "Directory of the run.", required=True)
    flags.DEFINE_string(
        "compile_cache", "~/.cache/unitoken_jax/xla", "Compiled programs; '': none."
    )
    configs.run(main)
