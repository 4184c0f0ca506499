"""Evaluate a run: python -m unitoken_jax.evaluate --workdir DIR [--config FILE].

Prints a table and writes WORKDIR/evaluation.json, with examples as pictures in
WORKDIR/evaluation/. Or compare two folders of pictures:

    --real DIR --generated DIR --inception WEIGHTS

This module wires data pipelines and trained stages to the evaluators; training calls
`run` when it is done.
"""

import dataclasses
import itertools
import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import absl.logging
import numpy as np
from absl import flags
from tqdm import tqdm

from data_pipelines import images
from data_pipelines.classes import class_names
from data_pipelines.config import PairsConfig, build_data
from data_pipelines.directory import atomic_directory, write_file
from data_pipelines.errors import DataError
from data_pipelines.pairs import caption_encoder
from data_pipelines.prepare.scenes import NEW_COMPOSITION
from data_pipelines.records import Record
from data_pipelines.shards import Split
from data_pipelines.vocabulary import Vocabulary
from unitoken_jax import config as configs
from unitoken_jax import convert
from unitoken_jax.config import ConfigError, UserError
from unitoken_jax.evaluate import (
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
    understanding,
    zero_shot,
)
from unitoken_jax.evaluate.batches import batches
from unitoken_jax.evaluate.config import EvaluationConfig
from unitoken_jax.evaluate.distribution import DistributionConfig
from unitoken_jax.evaluate.measure import Evaluation, Measure, table
from unitoken_jax.evaluate.zero_shot import ZeroShotConfig
from unitoken_jax.files import define_path_flag
from unitoken_jax.generate.__main__ import Trained, find_stage, load, restore
from unitoken_jax.generate.assistant import GenerationConfig, Speaker, View
from unitoken_jax.generate.pictures import save
from unitoken_jax.models.siglip import SiglipVision
from unitoken_jax.parallel.mesh import make_mesh
from unitoken_jax.train.console import log_to_console
from unitoken_jax.train.environment import COMPILE_CACHE, use_compile_cache
from unitoken_jax.train.job import Chain, Job, chain_of

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
            train = Split(self._chain.data_dir, self._config.train_split)
            self._counts = understanding.count_answers(
                (question["kind"], question["answer"])
                for record in train
                for question in record["questions"]
            )
            train.close()
        return self._counts

    def close(self) -> None:
        """Close the files."""
        self._split.close()

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
                image = images.to_square(picture, data.image_size, data.background)
                yield retrieval.Pair(image, caption, encode(caption))

        module: Any = trained.system.module
        some = self._some(pairs(), "captioned pictures")
        return retrieval.evaluate(module, trained.params, some, config)

    def zero_shot(self, config: zero_shot.ZeroShotConfig) -> Evaluation:
        """Measure whether pictures are known by the names of their classes."""
        trained = self._restore("zero_shot", config.stage)
        data = trained.data
        if config.folder:
            found, names = zero_shot.read_folder(config, data.image_size)
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
        vocabulary = Vocabulary.from_file(self._split.directory / "tokenizer.json")
        return caption_encoder(vocabulary, trained.data)

    def _labelled(
        self, trained: Trained, config: ZeroShotConfig
    ) -> Iterator[tuple[np.ndarray, str]]:
        """Yield held-out pictures with the names of their classes."""
        data = trained.data
        for record, picture in self._pictures():
            label = record[config.classes]
            if label and record["category"] not in config.without:
                image = images.to_square(picture, data.image_size, data.background)
                yield image, label.replace("_", " ")

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
                    self._novelty(record),
                )
            )
        if not questions:
            raise DataError(
                f"split {self._config.split!r} has no questions of the kinds wanted by "
                "evaluation.understanding.kinds"
            )
        # Each is answered, then its right answer is scored.
        with _bar("answering", 2 * len(questions)) as bar:
            return understanding.evaluate(
                assistant, questions, self.counts, config, bar.update
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
                        self._novelty(record),
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
            yield images.to_square(picture, data.image_size, data.background)

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
                view = artist.composer.view(picture)
                items.append(classes.Classified(view.whole, name))
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
        wanted = self._chain.generation.get("model", "")
        needed = _NEEDS["reproduction"]
        name = find_stage(self._chain, wanted, needed, "config.generation.model")
        job = self._chain.stages[name]
        data: Any = build_data(job.data, f"config.stages.{name}.data")
        question = data.layout.caption_question
        pairs = (
            reproduction.Pair(self.assistant.composer.view(picture), question, caption)
            for record, picture in self._pictures()
            for caption in record["captions"][:1]
        )
        some = self._some(pairs, "captioned pictures")
        chosen = list(itertools.islice(some, config.pairs))
        return reproduction.evaluate(self.assistant, chosen, config)

    def _views(self) -> Iterator[View]:
        for _, picture in self._pictures():
            yield self.assistant.composer.view(picture)

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
            for name, evaluate in evaluators(chain, config, bench):
                start = time.perf_counter()
                evaluation = evaluate()
                if evaluation.measures:
                    found[name] = evaluation
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
    if config.reproduction is not None and "reproduction" in found:
        log.info("%s", reproduction.verdict(found["reproduction"], config.reproduction))
    return content


def evaluators(
    chain: Chain, config: EvaluationConfig, bench: Bench
) -> Iterator[tuple[str, Any]]:
    """Yield the name and the call of each evaluator that applies."""
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
        yield name, lambda name=name, part=part: getattr(bench, name)(part)


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
    real, generated = (
        folders.Folder(folders.find(Path(path)), given.preprocess, given.size)
        for path in (given.real, given.generated)
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
        write_file(Path(given.output), (text + "\n").encode())
    return found


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
    """Evaluate the run, or compare the folders, that the flags name."""
    given = flags.FLAGS
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
        run(chain_of(given.config, given.workdir), given.workdir)


def _define_flags() -> None:
    """Define the flags; only where this is the program: training imports `run`."""
    configs.define_flag(required=False)
    define_path_flag("workdir", None, "Directory of the run.")
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
    flags.DEFINE_integer("size", 256, "Side after --preprocess, in pixels.", 16)
    flags.DEFINE_integer("batch", 32, "Pictures in a network at once.", 1)
    flags.DEFINE_boolean(
        "keep", True, "Hold features in memory, for more than the Fréchet distance."
    )
    define_path_flag("output", None, "JSON file for the numbers of two folders.")
    flags.DEFINE_string("compile_cache", COMPILE_CACHE, "Compiled programs; '': none.")


if __name__ == "__main__":
    _define_flags()
    configs.run(main)
