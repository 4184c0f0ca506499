"""One interface of every measure, and what a run shows to it.

An `Evaluator` is made of its own config and an `EvaluatedRun`; `run` returns named
numbers with interval and baseline. Which evaluators a model has stands in its
`System.evaluators`, as entry points.
"""

import abc
import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import jax
import numpy as np
from PIL import Image
from tqdm import tqdm

from data_pipelines.config import DataConfig
from data_pipelines.errors import DataError
from data_pipelines.images import transforms
from data_pipelines.images.decoding import decode_image
from data_pipelines.images.pairs import PairsConfig, caption_encoder
from data_pipelines.prepare.scenes import NEW_COMPOSITION
from data_pipelines.prompts import ImageInputs, PromptError, short
from data_pipelines.storage.records import Question, Record, has_image
from data_pipelines.storage.shards import Split
from data_pipelines.tokenizers.chameleon import ChameleonVocabulary
from unitoken_jax.config import ConfigError, UserError
from unitoken_jax.evaluate.config import HeldOutConfig
from unitoken_jax.evaluate.statistics import accuracy
from unitoken_jax.evaluate.statistics.answers import RULES
from unitoken_jax.evaluate.statistics.intervals import Measure
from unitoken_jax.generate.load import find_stage, load, restore
from unitoken_jax.generate.sampler import Sampler, Trained
from unitoken_jax.models import registry
from unitoken_jax.models.system import System, resolve
from unitoken_jax.parallel.mesh import make_mesh
from unitoken_jax.train.config import ExperimentConfig

_SHOWN = 20  # records set aside that are named in the file

T = TypeVar("T")
Tree = TypeVar("Tree")
ConfigT = TypeVar("ConfigT")


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What an evaluator returns.

    Attributes:
        measures: Numbers by name.
        samples: Lists of examples by name; an example is a dict of JSON values and of
            images, uint8 [H, W, 3].
    """

    measures: Mapping[str, Measure]
    samples: Mapping[str, Sequence[Mapping[str, object]]]


class SetAside:
    """Records that could not be taken by an evaluator, and why.

    Attributes:
        looked: How many records were looked at.
        faults: The names of those that could not be taken, and what is wrong.
    """

    def __init__(self) -> None:
        self.looked = 0
        self.faults: list[tuple[str, str]] = []

    def take(self, name: str, build: Callable[[], T]) -> T | None:
        """Return what is made of a record, or None and remember why not."""
        self.looked += 1
        try:
            return build()
        except Exception as error:
            self.faults.append((name, reason(error)))
            return None

    def add(self, name: str, error: Exception) -> None:
        """Remember a record that could not even be read."""
        self.looked += 1
        self.faults.append((name, reason(error)))

    def __str__(self) -> str:
        """Say how many, what share, and which is the first of them."""
        count, (name, why) = len(self.faults), self.faults[0]
        return (
            f"{count:,} of {self.looked:,} ({count / self.looked:.1%}) set aside, the "
            f"first is {name}: {why}"
        )

    def content(self) -> dict[str, object]:
        """Return what the file says of them."""
        records = [{"id": name, "reason": why} for name, why in self.faults]
        some = records[:_SHOWN]
        return {"count": len(records), "of": self.looked, "records": some}


def reason(error: Exception) -> str:
    """Say what is wrong, without a full stop."""
    said = str(error).rstrip(".")
    if isinstance(error, UserError | DataError):
        return said
    return f"{type(error).__name__}: {said.partition(chr(10))[0]}"


class EvaluatedRun:
    """A run under evaluation: held-out records in a fixed order, and trained stages.

    Attributes:
        experiment: The experiment.
        config: Which records are taken.
        heldout: The held-out records.
        reduce: What of an answer counts when it is compared.
        set_aside: Records that the evaluator under way could not take.
        drawings: What the evaluators before have drawn, uint8 [H, W, 3] each.
    """

    def __init__(self, experiment: ExperimentConfig, workdir: Path) -> None:
        """Open the data set.

        Raises:
            DataError: It is missing or damaged.
        """
        self.experiment = experiment
        config: HeldOutConfig = experiment.evaluation
        self.config = config
        self._workdir = workdir
        self.reduce = RULES[config.comparison]
        self.set_aside = SetAside()
        self.drawings: list[np.ndarray] = []
        self.heldout = Split(experiment.data_dir, config.split)
        order = np.random.default_rng(config.seed).permutation(len(self.heldout))
        self._order = [int(i) for i in order]
        if not self._order:
            raise DataError(f"split {config.split!r} of {experiment.data_dir} is empty")
        self._mesh = make_mesh(experiment.generation.mesh)

    def close(self) -> None:
        """Close the files."""
        self.heldout.close()

    @functools.cached_property
    def sampler(self) -> Sampler:
        """The model that draws and answers, loaded when it is first asked for."""
        return load(self._workdir, self.experiment)

    @functools.cached_property
    def answer_counts(self) -> accuracy.Counts:
        """How often training gives each answer, by kind of question."""
        train = Split(self.experiment.data_dir, self.config.train_split, images=False)
        counts = accuracy.count_answers(
            (
                (question["kind"], question["answer"])
                for _, record in self._records(train, range(len(train)))
                for question in record["questions"]
            ),
            self.reduce,
        )
        train.close()
        return counts

    def find_stage(self, evaluator: str, name: str, config_path: str) -> str:
        """Return a stage that an evaluator can measure: the named one, or the last.

        Args:
            evaluator: The evaluator's name.
            name: The stage's name, or "" for the last one.
            config_path: The field that names the stage, for messages.

        Raises:
            ConfigError: There is none.
        """
        kinds = measured_kinds(evaluator, self.experiment)
        return find_stage(self.experiment, name, kinds, config_path)

    def restore(self, evaluator: str, stage: str) -> Trained:
        """Read the stage that an evaluator names, or the last one it can measure."""
        config_path = f"config.evaluation.{evaluator}.stage"
        name = self.find_stage(evaluator, stage, config_path)
        return restore(self.experiment, name, self._workdir, self._mesh)

    def images(self) -> Iterator[tuple[Record, Image.Image]]:
        """Yield held-out records with their first images; broken ones are set aside.

        Records of text alone are passed over.
        """
        policy = self.heldout.manifest.image_policy
        for _, record in self._records(self.heldout, self._order):
            if not has_image(record):
                continue
            decode = functools.partial(decode_image, record, policy=policy)
            image = self.set_aside.take(record["id"], decode)
            if image is not None:
                yield record, image

    def squares(self, data: DataConfig) -> Iterator[np.ndarray]:
        """Yield held-out images as a stage is trained on them, uint8 [H, W, 3]."""
        for _, image in self.images():
            yield transforms.to_square(image, data.image_size, data.background)

    def view(self, record: Record, image: Image.Image) -> ImageInputs | None:
        """Return an image as the sampler's networks see it; None is set aside."""
        make = functools.partial(self.sampler.prompts.view, image)
        return self.set_aside.take(record["id"], make)

    def captioned_view(self, record: Record, image: Image.Image) -> ImageInputs:
        """Return the view of an image whose first caption can be drawn."""
        self.sampler.prompts.request(record["captions"][0])
        return self.sampler.prompts.view(image)

    def questions(self) -> list[tuple[int, Question]]:
        """List all held-out questions with the numbers of their records, shuffled.

        They are those about a record's first image; dialogues are not asked.
        """
        outlines = self.heldout.without_images()
        every = [
            (number, question)
            for number, record in self._records(outlines, range(len(outlines)))
            if has_image(record)
            for question in record["questions"]
        ]
        rng = np.random.default_rng(self.config.seed)
        return [every[i] for i in rng.permutation(len(every))]

    def check_room(self, view: ImageInputs, question: str, answer: str = "") -> int:
        """Return the tokens that a question and its answer take.

        Raises:
            DataError: They do not fit into a row, or are no text.
        """
        prompts: Any = self.sampler.prompts
        grid = np.zeros(prompts.grid, int)
        tokens, _ = prompts.question(grid, view.size, question)
        length = len(tokens) + len(prompts.reply(answer))
        if length > prompts.row_length:
            raise PromptError(
                f"the answer {short(answer)} and its question {short(question)} take "
                f"{length} tokens, but the model was trained on rows of "
                f"{prompts.row_length}"
            )
        return length

    def caption_encoder(
        self, evaluator: str, data: DataConfig
    ) -> Callable[[str], np.ndarray]:
        """Return what turns captions into ids as a stage has learnt them.

        Args:
            evaluator: The evaluator that needs it, for messages.
            data: The config of the stage's data.

        Raises:
            ConfigError: The stage has not learnt any captions.
        """
        if not isinstance(data, PairsConfig):
            raise ConfigError(
                f"config.evaluation.{evaluator}: the stage learns from data of kind "
                f"{data.kind!r}, which has no captions; name another stage, or "
                "leave the evaluator out."
            )
        vocabulary = ChameleonVocabulary.from_file(
            self.heldout.directory / "tokenizer.json"
        )
        return caption_encoder(vocabulary, data)

    def novelty(self, record: Record) -> str:
        """Say what training has not shown of a held-out record.

        Scenes of known things in a new composition say so; all else that is held out
        shows concepts that training never does.
        """
        if self.config.split == self.config.train_split:
            return ""
        if NEW_COMPOSITION in record["keywords"][:1]:
            return "new compositions"
        return "new concepts"

    def nonempty(self, items: Iterator[T], what: str) -> Iterator[T]:
        """Return the items, or refuse if there are none."""
        for first in items:
            return itertools.chain([first], items)
        raise DataError(f"split {self.config.split!r} has no {what} to evaluate")

    def _records(
        self, split: Split, order: Sequence[int]
    ) -> Iterator[tuple[int, Record]]:
        """Yield records with their numbers; those that cannot be read are set aside."""
        for number in order:
            try:
                yield number, split[number]
            except DataError as error:
                self.set_aside.add(f"number {number} of {split.name}", error)


class Evaluator(abc.ABC, Generic[ConfigT]):
    """A measure of a run.

    Attributes:
        name: The field of the evaluation's config that it reads, and its part in what
            is written.
        draws: Whether it adds to `EvaluatedRun.drawings`.
        sees_drawings: Whether it looks at the drawings of those before it.
    """

    name: ClassVar[str]
    draws: ClassVar[bool] = False
    sees_drawings: ClassVar[bool] = False

    def __init__(self, config: ConfigT, source: EvaluatedRun) -> None:
        """Prepare to measure a run.

        Args:
            config: How it measures.
            source: The run.
        """
        self.config, self.source = config, source

    @abc.abstractmethod
    def run(self) -> Evaluation:
        """Measure; without measures there is nothing that can be told.

        Raises:
            UserError, DataError: What it needs is missing, in a sentence.
        """


def offered(systems: Iterable[System]) -> dict[str, type[Evaluator[Any]]]:
    """Return the evaluators of models by name."""
    every = [resolve(entry) for system in systems for entry in system.evaluators]
    return {evaluator.name: evaluator for evaluator in every}


def known_evaluators() -> dict[str, type[Evaluator[Any]]]:
    """Return the evaluators of all models as they are by default."""
    return offered(_default_systems())


def measured_kinds(
    evaluator: str, experiment: ExperimentConfig | None = None
) -> tuple[str, ...]:
    """Return the kinds of model that an evaluator measures.

    Args:
        evaluator: The evaluator's name.
        experiment: An experiment whose models are asked, too.
    """
    stages = experiment.stages.values() if experiment else ()
    systems = [*_default_systems(), *(stage.system for stage in stages)]
    kinds = [system.kind for system in systems if evaluator in offered([system])]
    return tuple(dict.fromkeys(kinds))


def _default_systems() -> list[System]:
    """Return systems of all kinds whose config has defaults."""
    systems = []
    for kind in registry.KINDS:
        try:
            systems.append(registry.build({"kind": kind}))
        except UserError:
            continue
    return systems


def batches(arrays: Tree, size: int) -> Iterator[tuple[Tree, int]]:
    """Cut arrays into batches along their first axis; the last one is filled up.

    Args:
        arrays: A tree of arrays [N, ...], all of the same N.
        size: Examples a batch.

    Yields:
        The batch, a tree of arrays [size, ...], and how many of its examples count;
        the rest repeats the last example.
    """
    count = len(jax.tree.leaves(arrays)[0])
    for start in range(0, count, size):
        index = np.minimum(np.arange(start, start + size), count - 1)
        yield jax.tree.map(lambda a, i=index: a[i], arrays), min(size, count - start)


def evenly_spaced(count: int, wanted: int) -> Sequence[int]:
    """Choose `wanted` indices (fewer if there are fewer) evenly out of `count`."""
    return [int(i) for i in np.linspace(0, count - 1, min(wanted, count)).round()]


def progress_bar(what: str, total: int) -> tqdm:
    """Return a bar that shows how far a measurement is."""
    return tqdm(total=total, desc=what, unit="", disable=None, leave=False)
