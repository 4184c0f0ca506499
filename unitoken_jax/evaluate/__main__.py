"""Evaluate a run: python -m unitoken_jax.evaluate --workdir DIR [--config FILE].

Prints a table and writes WORKDIR/evaluation/default.json, with examples as pictures in
WORKDIR/evaluation/default/; what is measured with another config than the run's own
gets a name of its own beside it. Or compare two folders of pictures:

    --real DIR --generated DIR --inception WEIGHTS

This module wires data pipelines and trained stages to the evaluators; training calls
`run` when it is done.
"""

import contextlib
import dataclasses
import functools
import itertools
import json
import logging
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

import absl.logging
import numpy as np
from absl import flags
from tqdm import tqdm

from data_pipelines.classes import class_names
from data_pipelines.config import PairsConfig, build_data
from data_pipelines.errors import DataError
from data_pipelines.images import decoding, transforms
from data_pipelines.images.pairs import caption_encoder
from data_pipelines.prepare.scenes import NEW_COMPOSITION
from data_pipelines.storage.directory import atomic_directory
from data_pipelines.storage.records import Record
from data_pipelines.storage.shards import Split
from data_pipelines.tokenizers.chameleon import ChameleonVocabulary
from data_pipelines.unitoken.prompts import PromptError, short
from unitoken_jax import config as configs
from unitoken_jax import convert
from unitoken_jax.config import ConfigError, UserError
from unitoken_jax.evaluate import (
    answers,
    classes,
    features,
    folders,
    generation,
    networks,
    perception,
    preprocessing,
    reconstruction,
    reproduction,
    retrieval,
    shelf,
    understanding,
    zero_shot,
)
from unitoken_jax.evaluate.batches import batches
from unitoken_jax.evaluate.config import EvaluationConfig
from unitoken_jax.evaluate.distribution import DistributionConfig
from unitoken_jax.evaluate.measure import Evaluation, Measure, table
from unitoken_jax.evaluate.zero_shot import ZeroShotConfig
from unitoken_jax.files import (
    define_path_flag,
    read_json,
    read_user_file,
    write_bytes,
)
from unitoken_jax.generate.__main__ import (
    LARGEST_PICTURE,
    Trained,
    find_stage,
    load,
    restore,
)
from unitoken_jax.generate.assistant import GenerationConfig, Speaker, View
from unitoken_jax.generate.pictures import save
from unitoken_jax.models.siglip import SiglipVision
from unitoken_jax.parallel.mesh import make_mesh
from unitoken_jax.train.console import log_to_console
from unitoken_jax.train.environment import (
    COMPILE_CACHE,
    let_cpu_devices_meet,
    use_compile_cache,
)
from unitoken_jax.train.job import CONFIG, Chain, Job, build_chain, chain_of

log = logging.getLogger("unitoken_jax.evaluate")

T = TypeVar("T")

_TOKENIZERS = ("vqgan", "unitok")
_ALIGNED = ("siglip", "unitok")
# What each evaluator needs a stage to train, one of them.
_NEEDS = {
    "reconstruction": _TOKENIZERS,
    "retrieval": _ALIGNED,
    "zero_shot": _ALIGNED,
    "understanding": ("unitoken", "unitok_mllm"),
    "generation": ("unitoken", "unitok_mllm"),
    "classes": ("llamagen",),
    "perception": _TOKENIZERS,
    "features": ("unitoken",),
    "reproduction": ("unitoken",),
}
_DRAWN = ("generation", "classes", "perception")  # the last looks at their drawings
_SHOWN = 20  # records set aside that are named in the file


class EvaluationError(UserError):
    """Parts of an evaluation have failed; the others are written."""


class Aside:
    """Records that could not be taken for a part of an evaluation, and why."""

    def __init__(self) -> None:
        self.looked = 0
        self.faults: list[tuple[str, str]] = []

    def take(self, name: str, build: Callable[[], T]) -> T | None:
        """Return what is made of a record, or None and remember why not."""
        self.looked += 1
        try:
            return build()
        except Exception as error:
            self.faults.append((name, _reason(error)))
            return None

    def __str__(self) -> str:
        """How many, what share, and the first of them."""
        count, (name, reason) = len(self.faults), self.faults[0]
        return (
            f"{count:,} of {self.looked:,} ({count / self.looked:.1%}) set aside, the "
            f"first is {name}: {reason}"
        )

    def content(self) -> dict[str, Any]:
        """Return what the file says of them."""
        records = [{"id": name, "reason": reason} for name, reason in self.faults]
        some = records[:_SHOWN]
        return {"count": len(records), "of": self.looked, "records": some}


def _reason(error: Exception) -> str:
    """Say what is wrong, without a full stop."""
    said = str(error).rstrip(".")
    if isinstance(error, UserError | DataError):
        return said
    return f"{type(error).__name__}: {said.partition(chr(10))[0]}"


class Bench:
    """Held-out records in a fixed order, and the stages they are shown to.

    Attributes:
        aside: Records that the part under way could not take.
    """

    def __init__(self, chain: Chain, workdir: Path, config: EvaluationConfig) -> None:
        """Open the data set.

        Raises:
            DataError: It is missing or damaged.
        """
        self._chain, self._workdir, self._config = chain, workdir, config
        self._reduce = answers.RULES[config.comparison]
        self.aside = Aside()
        self._split = Split(chain.data_dir, config.split)
        order = np.random.default_rng(config.seed).permutation(len(self._split))
        self._order = [int(i) for i in order]
        if not self._order:
            raise DataError(f"split {config.split!r} of {chain.data_dir} is empty")
        sampler = configs.build(GenerationConfig, chain.generation, "config.generation")
        self._mesh = make_mesh(sampler.mesh)
        self._assistant: Speaker | None = None
        self._counts: understanding.Counts | None = None
        self._drawings: list[np.ndarray] = []

    @property
    def assistant(self) -> Speaker:
        """The model that draws and answers, loaded when it is first asked for."""
        if self._assistant is None:
            self._assistant = load(self._chain, self._workdir)
        return self._assistant

    @property
    def counts(self) -> understanding.Counts:
        """How often training gives each answer, by kind of question."""
        if self._counts is None:
            train = Split(
                self._chain.data_dir, self._config.train_split, pictures=False
            )
            self._counts = understanding.count_answers(
                (
                    (question["kind"], question["answer"])
                    for _, record in self._records(train, range(len(train)))
                    for question in record["questions"]
                ),
                self._reduce,
            )
            train.close()
        return self._counts

    def close(self) -> None:
        """Close the files."""
        self._split.close()

    def _captioned_view(self, record: Record, picture: Any) -> View:
        """Look at a picture whose first caption can be drawn."""
        self.assistant.composer.request(record["captions"][0])
        return self.assistant.composer.view(picture)

    def _questions(
        self, record: Record, view: View, config: generation.GenerationTestConfig
    ) -> list[tuple[str, str, str]]:
        """List kinds, questions and answers of a record that a test will ask."""
        found = []
        for question in record["questions"]:
            if question["kind"] not in config.kinds:
                continue
            text = question["question"]
            room = self.aside.take(
                record["id"], lambda t=text: self._check_room(view, t)
            )
            if room is not None:
                found.append((question["kind"], text, question["answer"]))
        return found

    def _check_room(self, view: View, question: str, answer: str = "") -> int:
        """Return the tokens that a question and its answer take.

        Raises:
            DataError: They do not fit into a row, or are no text.
        """
        composer: Any = self.assistant.composer
        grid = np.zeros(composer.grid, int)
        tokens, _ = composer.question(grid, view.size, question)
        length = len(tokens) + len(composer.reply(answer))
        if length > composer.row_length:
            raise PromptError(
                f"the answer {short(answer)} and its question {short(question)} take "
                f"{length} tokens, but the model was trained on rows of "
                f"{composer.row_length}"
            )
        return length

    def reconstruction(self, config: reconstruction.ReconstructionConfig) -> Evaluation:
        """Measure the tokenizer."""
        trained = self._restore("reconstruction", config.stage)
        module: Any = trained.system.module
        some = self._some(self._squares(trained), "pictures")
        return reconstruction.evaluate(module, trained.params, some, config)

    def retrieval(self, config: retrieval.RetrievalConfig) -> Evaluation:
        """Measure how pictures and captions find each other."""
        trained = self._restore("retrieval", config.stage)
        data = trained.data
        encode = self._caption_encoder(trained, "retrieval")

        def pairs() -> Iterator[retrieval.Pair]:
            for record, picture in self._pictures():
                if not record["captions"] or record["category"] in config.without:
                    continue
                caption = record["captions"][0]
                text = self.aside.take(record["id"], lambda c=caption: encode(c))
                if text is not None:
                    image = transforms.to_square(
                        picture, data.image_size, data.background
                    )
                    yield retrieval.Pair(image, caption, text)

        module: Any = trained.system.module
        some = self._some(pairs(), "captioned pictures")
        return retrieval.evaluate(module, trained.params, some, config)

    def zero_shot(self, config: zero_shot.ZeroShotConfig) -> Evaluation:
        """Measure whether pictures are known by the names of their classes."""
        trained = self._restore("zero_shot", config.stage)
        data = trained.data
        if config.folder:
            read = _reader(config.orientation, data.background)
            found, names = zero_shot.read_folder(config, data.image_size, read)
        else:
            labelled = self._some(self._labelled(trained, config), "classes")
            chosen = list(itertools.islice(labelled, config.pictures))
            names = sorted({name for _, name in chosen})
            found = [zero_shot.Labelled(x, names.index(name)) for x, name in chosen]
        return zero_shot.evaluate(
            trained.system.module,
            trained.params,
            found,
            names,
            encode=self._caption_encoder(trained, "zero_shot"),
            config=zero_shot.with_templates(config),
        )

    def _caption_encoder(
        self, trained: Trained, evaluator: str
    ) -> Callable[[str], np.ndarray]:
        """Return what turns captions into ids as a stage has learnt them."""
        if not isinstance(trained.data, PairsConfig):
            raise ConfigError(
                f"config.evaluation.{evaluator}: the stage learns from data of kind "
                f"{trained.data.kind!r}, which has no captions; name another stage, or "
                "leave the evaluator out."
            )
        vocabulary = ChameleonVocabulary.from_file(
            self._split.directory / "tokenizer.json"
        )
        return caption_encoder(vocabulary, trained.data)

    def _labelled(
        self, trained: Trained, config: ZeroShotConfig
    ) -> Iterator[tuple[np.ndarray, str]]:
        """Yield held-out pictures with the names of their classes."""
        data = trained.data
        for record, picture in self._pictures():
            label = record[config.classes]
            if label and record["category"] not in config.without:
                image = transforms.to_square(picture, data.image_size, data.background)
                yield image, label.replace("_", " ")

    def understanding(self, config: understanding.UnderstandingConfig) -> Evaluation:
        """Ask questions, taken in random order so that no picture prevails."""
        assistant = self.assistant
        outlines = self._split.without_pictures()
        every = [
            (number, question)
            for number, record in self._records(outlines, range(len(outlines)))
            for question in record["questions"]
        ]
        rng = np.random.default_rng(self._config.seed)
        every = [every[i] for i in rng.permutation(len(every))]
        built: dict[int, understanding.Question] = {}

        def usable(place: int) -> bool:
            number, question = every[place]
            record = self._split[number]

            def build() -> understanding.Question:
                picture = decoding.decode(record["image"], f"record {record['id']!r}")
                view = assistant.composer.view(picture)
                texts = question["question"], question["answer"]
                self._check_room(view, *texts)
                novelty = self._novelty(record)
                return understanding.Question(view, question["kind"], *texts, novelty)

            found = self.aside.take(record["id"], build)
            if found is not None:
                built[place] = found
            return found is not None

        kinds = [question["kind"] for _, question in every]
        places = understanding.choose(kinds, config, usable)
        questions = [built[place] for place in places]
        if not questions:
            raise DataError(
                f"split {self._config.split!r} has no questions of the kinds wanted by "
                "evaluation.understanding.kinds"
            )
        # Each is answered, then its right answer is scored.
        with _bar("answering", 2 * len(questions)) as bar:
            return understanding.evaluate(
                assistant,
                questions,
                self.counts,
                config,
                bar.update,
                reduce=self._reduce,
            )

    def generation(self, config: generation.GenerationTestConfig) -> Evaluation:
        """Score, draw and ask about drawings."""
        assistant = self.assistant
        items: dict[str, generation.Captioned] = {}
        for record, picture in self._pictures():
            if len(items) == config.items:
                break
            for caption in record["captions"][:1]:
                if caption in items:
                    continue
                view = self.aside.take(
                    record["id"],
                    lambda r=record, p=picture: self._captioned_view(r, p),
                )
                if view is not None:
                    questions = self._questions(record, view, config)
                    items[caption] = generation.Captioned(
                        view, caption, questions, self._novelty(record)
                    )
        chosen = list(items.values())
        if len(chosen) < 2:
            raise DataError(
                f"split {self._config.split!r} has fewer than two captioned pictures"
            )
        with _bar("drawing", generation.amount(chosen, config)) as bar:
            return generation.evaluate(
                assistant,
                chosen,
                understanding.majority(self.counts),
                config,
                bar.update,
                keep=self._drawings.extend,
                reduce=self._reduce,
            )

    def perception(self, config: perception.PerceptionConfig) -> Evaluation:
        """Show reconstructions, and drawings if there are any, to other networks."""
        judges = _judges(config)
        if not judges.features and not judges.pairs:
            log.info(
                "perception: left out, it has no weights; get some by "
                "python -m unitoken_jax.convert.perceptual"
            )
            return Evaluation({}, {})
        trained = self._restore("perception", config.stage)
        some = self._some(self._squares(trained), "pictures")
        real = np.stack(list(itertools.islice(some, config.pictures)))
        side = min(real.shape[1:3])
        judges = judges.of_side(side)
        if not judges.features and not judges.pairs:
            log.info("perception: left out, %d pixels are too few to be seen", side)
            return Evaluation({}, {})
        module: Any = trained.system.module
        coded = []
        for batch, count in batches(real, config.distribution.batch):
            _, decoded, *_ = reconstruction.reconstruct(
                module, trained.params, batch, config.rounding
            )
            coded.append(np.asarray(decoded)[:count])
        drawn = {"drawings": np.stack(self._drawings)} if self._drawings else {}
        return perception.evaluate(judges, real, np.concatenate(coded), drawn, config)

    def _restore(self, evaluator: str, stage: str) -> Trained:
        """Read the stage that an evaluator names, or the last of a kind it needs."""
        at = f"config.evaluation.{evaluator}.stage"
        name = find_stage(self._chain, stage, _NEEDS[evaluator], at)
        return restore(self._chain, name, self._workdir, self._mesh)

    def _squares(self, trained: Trained) -> Iterator[np.ndarray]:
        """Yield held-out pictures as a stage is trained on them."""
        data = trained.data
        for _, picture in self._pictures():
            yield transforms.to_square(picture, data.image_size, data.background)

    def _novelty(self, record: Record) -> str:
        """Say what training has not shown of a held-out record.

        Scenes of known things in a new composition say so; all else that is held out
        shows concepts that training never does.
        """
        if self._config.split == self._config.train_split:
            return ""
        if NEW_COMPOSITION in record["keywords"][:1]:
            return "new compositions"
        return "new concepts"

    def classes(self, config: classes.ClassTestConfig) -> Evaluation:
        """Tell held-out pictures of classes apart, and draw some of each."""
        artist = self.assistant
        names = class_names(self._chain.data_dir)
        items: list[classes.Classified] = []
        for record, picture in self._pictures():
            name = record["category"]
            if name in names and name not in config.without:
                view = self._view(record, picture)
                items += [classes.Classified(view.whole, name)] if view else []
            if len(items) == config.pictures:
                break
        if not items:
            raise DataError(
                f"split {self._config.split!r} has no picture of a known class"
            )
        with _bar("drawing", classes.amount(items, names, config)) as bar:
            return classes.evaluate(
                artist, items, names, config, bar.update, keep=self._drawings.extend
            )

    def features(self, config: features.FeaturesConfig) -> Evaluation:
        """Measure whether the image tower of a UniToken tells pictures apart."""
        trained = self._restore("features", config.stage)
        vision = trained.system.config.vision
        if vision is None:
            raise ConfigError(
                "config.evaluation.features: the UniToken has no image tower; "
                "leave it out."
            )
        views = (view.tiles[0] for view in self._views())
        some = self._some(views, "pictures")
        params = trained.params["vision"]
        return features.evaluate(SiglipVision(vision), params, some, config)

    def reproduction(self, config: reproduction.ReproductionConfig) -> Evaluation:
        """Caption and draw what was learnt by heart."""
        assistant = self.assistant
        wanted = self._chain.generation.get("model", "")
        needed = _NEEDS["reproduction"]
        name = find_stage(self._chain, wanted, needed, "config.generation.model")
        job = self._chain.stages[name]
        data: Any = build_data(job.data, f"config.stages.{name}.data")
        question = data.layout.caption_question

        def build(record: Record, picture: Any) -> reproduction.Pair:
            view = self._captioned_view(record, picture)
            caption = record["captions"][0]
            self._check_room(view, question, caption)
            return reproduction.Pair(view, question, caption)

        pairs = (
            pair
            for record, picture in self._pictures()
            if record["captions"]
            and (
                pair := self.aside.take(
                    record["id"], lambda r=record, p=picture: build(r, p)
                )
            )
        )
        some = self._some(pairs, "captioned pictures")
        chosen = list(itertools.islice(some, config.pairs))
        return reproduction.evaluate(assistant, chosen, config, reduce=self._reduce)

    def _views(self) -> Iterator[View]:
        for record, picture in self._pictures():
            if view := self._view(record, picture):
                yield view

    def _view(self, record: Record, picture: Any) -> View | None:
        look = functools.partial(self.assistant.composer.view, picture)
        return self.aside.take(record["id"], look)

    def _some(self, items: Iterator[T], what: str) -> Iterator[T]:
        """Return the items, or refuse if there are none."""
        for first in items:
            return itertools.chain([first], items)
        raise DataError(f"split {self._config.split!r} has no {what} to evaluate")

    def _pictures(self) -> Iterator[tuple[Record, Any]]:
        """Yield held-out records with their pictures; broken ones are set aside."""
        for _, record in self._records(self._split, self._order):
            where = f"record {record['id']!r}"
            decode = functools.partial(decoding.decode, record["image"], where)
            picture = self.aside.take(record["id"], decode)
            if picture is not None:
                yield record, picture

    def _records(
        self, split: Split, order: Sequence[int]
    ) -> Iterator[tuple[int, Record]]:
        """Yield records with their numbers; those that cannot be read are set aside."""
        for number in order:
            try:
                yield number, split[number]
            except DataError as error:
                name = f"number {number} of {split.name}"
                self.aside.looked += 1
                self.aside.faults.append((name, _reason(error)))


def run(
    chain: Chain,
    workdir: Path,
    name: str | None = None,
    *,
    resume: bool = False,
) -> dict[str, Any]:
    """Evaluate a run and write what was found to its directory.

    Evaluators whose kind of model the chain does not train are left out. One that
    fails leaves the others what they have found.

    Args:
        chain: The experiment, its `evaluation` group saying what to measure.
        workdir: Of its run; its stages must have checkpoints.
        name: Of the evaluation; None makes one, see `shelf.name_of`.
        resume: Keep what an evaluation of the same stages with the same config has
            found already.

    Returns:
        The content of WORKDIR/evaluation/NAME.json.

    Raises:
        UserError: Something is missing, damaged or cannot be written.
        EvaluationError: A part has failed; what the others found is written.
    """
    config = configs.build(EvaluationConfig, chain.evaluation, "config.evaluation")
    wanted = dict(evaluators(chain, config))
    subject = shelf.Subject.of(workdir, chain.order, _complete(chain, config))
    changed = _changed(workdir, subject, wanted)
    if name is None:
        name = shelf.name_of(changed, subject.config)
    else:
        shelf.check_name(workdir, name, changed, subject)
    before = shelf.read(workdir, name)
    if before is None or not shelf.is_of(before, subject):
        before = {}
    content: dict[str, Any]
    failed: dict[str, str] = {}
    if resume and before and not shelf.failures(before):
        log.info("evaluated already: %s", workdir / shelf.FOLDER / f"{name}.json")
        content = before
    else:
        known = shelf.parts(before)
        if resume:
            # The last one looks at the drawings of the others, which are not kept.
            lost = _DRAWN if "perception" in shelf.failures(before) else ()
            known = {part: known[part] for part in known if part not in lost}
            wanted = {part: wanted[part] for part in wanted if part not in known}
        began = time.perf_counter()
        with contextlib.closing(_bench(chain, workdir, config)) as bench:
            folder = workdir / shelf.FOLDER / name
            parts, failed = _measure(bench, wanted, known, folder)
        content = {"seconds": round(time.perf_counter() - began, 1)}
        content |= shelf.describe(name, changed, subject) | parts
        log.info("%s", shelf.write(workdir, name, content))
    if failed:
        raise EvaluationError(
            f"evaluation: {len(failed)} of {len(failed) + len(shelf.parts(content))} "
            f"parts failed, the others are written: {_listed(failed)}."
        )
    if config.reproduction is not None and "reproduction" in shelf.parts(content):
        log.info("%s", _verdict(content["reproduction"], config.reproduction))
    return content


def _listed(failed: Mapping[str, str]) -> str:
    return "; ".join(f"{part}: {said}" for part, said in failed.items())


def _verdict(part: Mapping[str, Any], config: reproduction.ReproductionConfig) -> str:
    measures = {name: Measure(**fields) for name, fields in part["measures"].items()}
    return reproduction.verdict(Evaluation(measures, part["samples"]), config)


def _complete(chain: Chain, config: EvaluationConfig) -> dict[str, Any]:
    """Return all that changes what is measured, with defaults, as plain values."""
    sampler = configs.build(GenerationConfig, chain.generation, "config.generation")
    return {
        "data_dir": chain.data_dir,
        "evaluation": configs.plain(config),
        "generation": configs.plain(sampler),
        "stages": {
            name: {
                "data": configs.plain(
                    build_data(job.data, f"config.stages.{name}.data")
                ),
                "codes": configs.plain(job.codes),
                "average": bool(job.train.average),
            }
            for name, job in chain.stages.items()
        },
    }


def _changed(workdir: Path, subject: shelf.Subject, parts: Iterable[str]) -> list[str]:
    """Say what of a config is not the run's own."""
    own = _own(workdir)
    if own is not None:
        return shelf.changes(own, subject.config)
    # An earlier version has not written down its config: what it has found stays the
    # run's own beside what is less, or was asked for with fields set.
    earlier = shelf.parts(shelf.read_earlier(workdir))
    less = [f"evaluation.{part}=None" for part in earlier if part not in parts]
    said = [f"{field}={value}" for field, value in configs.overrides()]
    return (said or less) if earlier else []


def _own(workdir: Path) -> Mapping[str, Any] | None:
    """Return the complete config that a run was trained with, or first evaluated."""
    try:
        chain = build_chain(configs.plain(read_json((workdir / CONFIG).read_bytes())))
        config = configs.build(EvaluationConfig, chain.evaluation, "config.evaluation")
        own = _complete(chain, config)
        return shelf.Subject.of(workdir, (), own).config
    except (OSError, ValueError, UserError):
        of = (shelf.read(workdir) or {}).get(shelf.OF)
        return of.get("config") if isinstance(of, Mapping) else None


def _bench(chain: Chain, workdir: Path, config: EvaluationConfig) -> Bench:
    try:
        return Bench(chain, workdir, config)
    except DataError as error:
        raise UserError(f"evaluation: {error}.") from error


def _measure(
    bench: Bench, wanted: Mapping[str, Any], known: Mapping[str, Any], folder: Path
) -> tuple[dict[str, Any], dict[str, str]]:
    """Run evaluators; what one that fails has found before is kept.

    Args:
        bench: What they are shown.
        wanted: Their configs by name.
        known: Parts of the same evaluation that there are already.
        folder: Of the examples' pictures.

    Returns:
        The parts for the file, and the reasons of those that failed.

    Raises:
        EvaluationError: All have failed, and nothing is known.
    """
    found: dict[str, Evaluation] = {}
    asides: dict[str, Aside] = {}
    failed: dict[str, str] = {}
    for part, fields in wanted.items():
        start = time.perf_counter()
        evaluation, asides[part] = _tried(bench, part, fields)
        if isinstance(evaluation, str):
            failed[part] = evaluation
        elif evaluation.measures:
            found[part] = evaluation
        log.info("%s: %.0f s", part, time.perf_counter() - start)
    rows = {
        f"{part} {key}": measure
        for part, evaluation in found.items()
        for key, measure in evaluation.measures.items()
    }
    kept = {part: known[part] for part in known if part not in found}
    if failed and not found and not kept:
        raise EvaluationError(f"evaluation: {_listed(failed)}.")
    log.info("%s", table(rows))
    parts: dict[str, Any] = {part: {"error": said} for part, said in failed.items()}
    parts |= _stored(folder, found, kept)
    for part in found:
        if asides[part].faults:
            parts[part]["set_aside"] = asides[part].content()
    return {part: parts[part] for part in _NEEDS if part in parts}, failed


def _tried(bench: Bench, part: str, config: Any) -> tuple[Evaluation | str, Aside]:
    """Run an evaluator; return what it found or why it failed, and what it left out."""
    bench.aside = aside = Aside()
    try:
        evaluation = getattr(bench, part)(config)
    except Exception as error:
        said = _reason(error) + (f" ({aside})" if aside.faults else "")
        log.warning("%s failed: %s", part, said)
        log.info("why", exc_info=True, extra={"file_only": True})
        return said, aside
    if aside.faults:
        log.warning("%s: %s", part, aside)
    return evaluation, aside


def evaluators(chain: Chain, config: EvaluationConfig) -> Iterator[tuple[str, Any]]:
    """Yield the name and the config of each evaluator that applies."""
    jobs = chain.stages.values()
    trained = {job.model.get("kind") for job in jobs}
    captioned = {job.model.get("kind") for job in jobs if _sees_captions(job)}
    for name, kinds in _NEEDS.items():
        part = getattr(config, name)
        if part is None:
            continue
        there = captioned if kinds == _ALIGNED else trained
        if there.isdisjoint(kinds) and name not in chain.evaluation:
            what = " or ".join(kinds) + (" on captions" if kinds == _ALIGNED else "")
            log.info("%s: left out, the config trains no %s", name, what)
            continue
        yield name, part


def _sees_captions(job: Job) -> bool:
    """Say whether a stage is not a UniTok that learns from pictures alone."""
    objective = job.model.get("objective") or {}
    return objective.get("supervision") != "reconstruction"


def _judges(config: perception.PerceptionConfig) -> networks.Judges:
    """Open the networks whose weights are there."""
    features, pairs = [], []
    if config.alexnet and Path(config.alexnet).exists():
        module, params = _weights("stlpips", config.alexnet)
        features.append(networks.alexnet(module, params))
        pairs.append(networks.alexnet_distance(module, params))
    if config.inception:
        features.append(networks.inception(*_weights("inception", config.inception)))
    if config.lpips:
        pairs.append(networks.PairNetwork("lpips", *_weights("lpips", config.lpips)))
    return networks.Judges(features, pairs)


def _weights(kind: str, path: str) -> tuple[Any, Any]:
    """Read weights, published or converted, in float32."""
    converted = (Path(path) / "checkpoints").is_dir()
    return convert.load("jax" if converted else kind, path, dtype=np.float32)


def _reader(
    orientation: decoding.Policy, background: tuple[int, int, int]
) -> folders.Read:
    """Return what reads files as training reads records: over a plain background."""

    def read(path: Path) -> Any:
        data = read_user_file(path, LARGEST_PICTURE)
        try:
            picture = decoding.decode(data, str(path), policy=orientation)
        except DataError as error:
            raise UserError(f"{error}.") from error
        return transforms.composite(picture, background)

    return read


def compare_folders(given: Any) -> dict[str, Measure]:
    """Compare the folders of pictures that the flags name.

    Args:
        given: The parsed flags.

    Raises:
        UserError: A folder or weights are missing, damaged or do not fit.
    """
    config = perception.PerceptionConfig(
        alexnet=str(given.alexnet or ""),
        inception=str(given.inception or ""),
        lpips=str(given.lpips or ""),
    )
    read = _reader(given.orientation, transforms.WHITE)
    real, generated = (
        folders.Folder(path, folders.find(path), read, given.preprocess, given.size)
        for path in (Path(given.real), Path(given.generated))
    )
    judges = _judges(config)
    if not judges.features:
        raise UserError(
            "comparing folders needs a network's weights: --inception FILE for the "
            "FID, or --alexnet FILE, which python -m unitoken_jax.convert.perceptual "
            "fetches."
        )
    total = len(judges.features) * (len(real.files) + len(generated.files))
    with _bar("looking", total) as bar:
        found = folders.measure(
            real,
            generated,
            judges,
            DistributionConfig(batch=given.batch, keep=given.keep),
            bar.update,
        )
    print(table(found))
    if given.output:
        content = {key: dataclasses.asdict(value) for key, value in found.items()}
        text = json.dumps(content, indent=1, ensure_ascii=False)
        write_bytes(Path(given.output), (text + "\n").encode())
    return found


def _stored(
    folder: Path, found: Mapping[str, Evaluation], kept: Mapping[str, Any]
) -> dict[str, Any]:
    """Return parts for the file; the examples' pictures are written to a folder."""
    content: dict[str, Any] = {
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
        # The numbers are worth more than the pictures.
        log.warning("examples are left out: %s", _reason(error))
        return content | dict(kept)
    for part, samples in stored.items():
        content[part]["samples"] = samples
    return content | dict(kept)


def _store(value: Any, folder: Path, place: str, name: str) -> Any:
    """Return a sample with its pictures written as files and named by their paths."""
    if isinstance(value, np.ndarray):
        name = f"{name.replace('/', '-')}.png"
        save(folder / name, value)
        return f"{place}/{name}"
    if isinstance(value, Mapping):
        return {k: _store(v, folder, place, f"{name}-{k}") for k, v in value.items()}
    if isinstance(value, list):
        return [_store(v, folder, place, f"{name}-{i}") for i, v in enumerate(value)]
    return value


def _bar(what: str, total: int) -> tqdm:
    return tqdm(total=total, desc=what, unit="", disable=None, leave=False)


def main() -> None:
    """Evaluate the run, or compare the folders, that the flags name."""
    given = flags.FLAGS
    let_cpu_devices_meet()
    use_compile_cache(given.compile_cache)
    if given.real or given.generated:
        if not (given.real and given.generated):
            raise UserError("give both folders: --real DIR --generated DIR.")
        if given.config or given.workdir:
            raise UserError("--real and --generated go without --config and --workdir.")
        # The table is all that is printed; of the libraries only warnings.
        absl.logging.set_verbosity(absl.logging.WARNING)
        compare_folders(given)
        return
    if not given.workdir:
        raise UserError(
            "nothing to do: give --workdir DIR to evaluate a run, or --real DIR "
            "--generated DIR to compare two folders of pictures."
        )
    with log_to_console():
        run(chain_of(given.config, given.workdir), given.workdir, given.name)


def _define_flags() -> None:
    """Define the flags; only where this is the program: training imports `run`."""
    configs.define_flag(required=False)
    define_path_flag("workdir", None, "Directory of the run.")
    flags.DEFINE_string(
        "name", None, "Of the evaluation; by default it says what differs."
    )
    define_path_flag("real", None, "Folder of real pictures.")
    define_path_flag("generated", None, "Folder of pictures to judge.")
    default = perception.PerceptionConfig()
    for name, fallback, meaning in (
        ("inception", "", "Weights of the FID's Inception, or none."),
        ("alexnet", default.alexnet, "Weights of AlexNet, if there."),
        ("lpips", "", "Weights of LPIPS, for folders of equal names."),
    ):
        define_path_flag(name, fallback, meaning, optional=True)
    names = list(preprocessing.VARIANTS)
    flags.DEFINE_enum("preprocess", "none", names, "How pictures get their size.")
    policies = list(get_args(decoding.Policy))
    flags.DEFINE_enum(
        "orientation", "released", policies, "Whether EXIF turns pictures upright."
    )
    flags.DEFINE_integer("size", 256, "Side after --preprocess, in pixels.", 16, 4096)
    flags.DEFINE_integer("batch", 32, "Pictures in a network at once.", 1, 65536)
    flags.DEFINE_boolean(
        "keep", True, "Hold features in memory, for more than the Fréchet distance."
    )
    define_path_flag("output", None, "JSON file for the numbers of two folders.")
    flags.DEFINE_string("compile_cache", COMPILE_CACHE, "Compiled programs; '': none.")


if __name__ == "__main__":
    _define_flags()
    configs.run(main)
