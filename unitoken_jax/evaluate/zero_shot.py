"""Classification without training: the class whose description is nearest wins.

arXiv 2103.00020, section 3.1: every class name is put into every template, the text
embeddings of a class are averaged and scaled to length one.
"""

import dataclasses
import functools
import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar, NamedTuple

import jax
import numpy as np
from flax import linen as nn

from data_pipelines.config import DataConfig
from data_pipelines.images import transforms
from unitoken_jax.config import ConfigError, nearest
from unitoken_jax.evaluate.config import ZeroShotConfig
from unitoken_jax.evaluate.evaluator import (
    Evaluation,
    Evaluator,
    batches,
    evenly_spaced,
)
from unitoken_jax.evaluate.feature_networks import folders, preprocessing
from unitoken_jax.evaluate.statistics.intervals import Measure, proportion
from unitoken_jax.files import read_user_file
from unitoken_jax.models.system import Params, call
from unitoken_jax.ops import pixels

_SHOWN = 5  # classes shown with a picture
_LONGEST = 2**26  # bytes of a file of names or templates

Encode = Callable[[str], np.ndarray]
"""A text to its ids, int32 [X]."""


class Labelled(NamedTuple):
    """An image, uint8 [H, W, 3], and which class it is of."""

    image: np.ndarray
    label: int


def with_templates(config: ZeroShotConfig) -> ZeroShotConfig:
    """Return the config with the templates of its file, if it names one.

    Raises:
        ConfigError: There are none, or one of them does not have {} once.
    """
    if not config.templates_file:
        return config
    templates = tuple(_lines(Path(config.templates_file), "templates"))
    try:
        return dataclasses.replace(config, templates=templates, templates_file="")
    except ValueError as error:
        raise ConfigError(f"{config.templates_file}: {error}.") from error


def read_folder(
    config: ZeroShotConfig, size: int, read: folders.Read
) -> tuple[list[Labelled], Sequence[str]]:
    """Read the pictures of `config.folder`, one folder a class; of many, some of each.

    Args:
        config: See `ZeroShotConfig`.
        size: Side of the squares they become, in pixels.
        read: How a file becomes a picture.

    Returns:
        Pictures with their classes, without those that cannot be read; the names of
        the classes.

    Raises:
        UserError: A file of names is missing, no picture can be read, or names are too
            many or too few.
    """
    if config.preprocess not in preprocessing.VARIANTS:
        raise ConfigError(
            f"config.evaluation.zero_shot.preprocess is {config.preprocess!r}"
            f"{nearest(config.preprocess, preprocessing.VARIANTS)}"
        )
    names = _lines(Path(config.names), "names of classes") if config.names else []
    directory = Path(config.folder)
    every, names = folders.labelled(directory, names)
    chosen = [every[i] for i in evenly_spaced(len(every), config.images)]
    paths = [path for path, _ in chosen]
    folder = folders.Folder(directory, paths, read, config.preprocess, size)
    found = [Labelled(image, chosen[i][1]) for i, image in folder.numbered()]
    folder.report()
    return found, names


def _lines(path: Path, what: str) -> list[str]:
    try:
        text = read_user_file(path, _LONGEST).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text ({error}).") from error
    lines = [line.strip() for line in text.split("\n")]
    if not (found := [line for line in lines if line]):
        raise ConfigError(f"{path} is empty: give {what}, one a line.")
    return found


@functools.partial(jax.jit, static_argnames=("model", "method"))
def _embed(
    model: nn.Module, params: Params, inputs: jax.Array, method: str
) -> jax.Array:
    if method == "encode_image":
        inputs = pixels.normalize(inputs)
    return call(model, params, method, inputs)


def _embeddings(
    model: nn.Module, params: Params, inputs: np.ndarray, method: str, size: int
) -> np.ndarray:
    """Unit vectors float64 [N, E] of pictures or texts."""
    parts = [
        np.asarray(_embed(model, params, batch, method), np.float64)[:count]
        for batch, count in batches(inputs, size)
    ]
    return _unit(np.concatenate(parts))


def _unit(vectors: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / np.maximum(length, 1e-12)


def classifier(
    model: nn.Module,
    params: Params,
    names: Sequence[str],
    templates: Sequence[str],
    *,
    encode: Encode,
    batch: int,
) -> np.ndarray:
    """Embed classes by their names.

    Args:
        model: Has a method `encode_text` from int32 [B, X] to [B, E].
        params: Its parameters.
        names: Of the classes.
        templates: Texts with {} once.
        encode: A text to its ids.
        batch: Texts at once; classes are embedded as many at a time as fit into it.

    Returns:
        Unit vectors float64 [classes, E].
    """
    chunk = max(1, batch // len(templates))
    rows = []
    for start in range(0, len(names), chunk):
        some = names[start : start + chunk]
        texts = [t.replace("{}", name) for name in some for t in templates]
        ids = np.stack([encode(text) for text in texts])
        vectors = _embeddings(model, params, ids, "encode_text", batch)
        # [classes · templates, E] → [classes, templates, E]
        vectors = vectors.reshape(len(some), len(templates), -1)
        rows.append(_unit(vectors.mean(1)))
    return np.concatenate(rows)


class ZeroShot(Evaluator[ZeroShotConfig]):
    """Classify held-out images, or those of a folder, by the names of classes."""

    name: ClassVar[str] = "zero_shot"

    def run(self) -> Evaluation:
        """Embed names and images with the towers of a stage."""
        config = self.config
        trained = self.source.restore(self.name, config.stage)
        data = trained.data
        if config.folder:
            read = folders.reader(config.orientation, data.background)
            found, names = read_folder(config, data.image_size, read)
        else:
            labelled = self.source.nonempty(self._labelled(data), "classes")
            chosen = list(itertools.islice(labelled, config.images))
            names = sorted({name for _, name in chosen})
            found = [Labelled(image, names.index(name)) for image, name in chosen]
        return evaluate(
            trained.system.module,
            trained.params,
            found,
            names,
            encode=self.source.caption_encoder(self.name, data),
            config=with_templates(config),
        )

    def _labelled(self, data: DataConfig) -> Iterator[tuple[np.ndarray, str]]:
        """Yield held-out images with the names of their classes."""
        for record, image in self.source.images():
            classes = self.config.classes
            label = record["group" if classes == "concept" else classes]
            if label and record["category"] not in self.config.without:
                square = transforms.to_square(image, data.image_size, data.background)
                yield square, label.replace("_", " ")


def evaluate(
    model: nn.Module,
    params: Params,
    labelled: Iterable[Labelled],
    names: Sequence[str],
    *,
    encode: Encode,
    config: ZeroShotConfig,
) -> Evaluation:
    """Classify images by the names of their classes.

    Args:
        model: Has methods `encode_image`, from [B, H, W, 3] in [-1, 1], and
            `encode_text`, from int32 [B, X], both to [B, E].
        params: Its parameters.
        labelled: Images with the places of their classes in `names`; at least one, all
            of one size.
        names: The names of all classes that can be answered.
        encode: Turns a text into its ids.
        config: See `ZeroShotConfig`.

    Returns:
        Measures `top@k` beside the most frequent k classes; samples `classified` of
        {image, caption, rank, found}, where found are the best classes, {caption,
        right}.
    """
    shown = list(labelled)
    labels = np.array([item.label for item in shown])
    classes = classifier(
        model, params, names, config.templates, encode=encode, batch=config.batch
    )
    squares = np.stack([item.image for item in shown])
    seen = _embeddings(model, params, squares, "encode_image", config.batch)
    similarity = seen @ classes.T  # [images, classes]
    # Of classes that tie the first one is answered: two may have the same name.
    order = np.argsort(-similarity, axis=1, kind="stable")
    ranks = (order == labels[:, None]).argmax(1)
    examples = [
        {
            "image": squares[i],
            "caption": names[labels[i]],
            "rank": int(ranks[i]) + 1,
            "found": [
                {"caption": names[j], "right": bool(j == labels[i])}
                for j in order[i, :_SHOWN]
            ],
        }
        for i in evenly_spaced(len(shown), config.examples)
    ]
    measures = top_measures(ranks, labels, len(names), config.ranks)
    return Evaluation(measures, {"classified": examples})


def top_measures(
    ranks: np.ndarray, labels: np.ndarray, classes: int, tops: Sequence[int]
) -> Mapping[str, Measure]:
    """Measure how often the right class is among the first k.

    Args:
        ranks: The places of the right classes among the answers, int [N]; 0 is first.
        labels: The right classes, int [N].
        classes: How many classes can be answered.
        tops: The k.
    """
    count = len(labels)
    frequent = sorted(Counter(labels.tolist()).values(), reverse=True)
    return {
        f"top@{k}": proportion(
            int((ranks < k).sum()),
            count,
            sum(frequent[:k]) / count,
            f"most frequent of {classes} classes"
            if k == 1
            else f"{k} most frequent of {classes} classes",
        )
        for k in tops
    }
