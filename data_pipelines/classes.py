"""The kind 'classes': the codes of an image with its class, for LlamaGen.

Classes of a prepared data set are the categories of its training records, in
alphabetical order; published code files bring numbers.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np

from data_pipelines.config import DataConfig, GridConfig, Source
from data_pipelines.elements import BatchSpec, BuildRecord, CodeSpec, Element, Elements
from data_pipelines.errors import LoaderError
from data_pipelines.storage import records
from data_pipelines.storage.code_files import CodeFile, CodeFiles, find_code_files
from data_pipelines.storage.manifest import read_manifest
from data_pipelines.storage.record_cache import RecordCache
from data_pipelines.storage.records import Record, RecordError
from data_pipelines.storage.shards import Split
from data_pipelines.tokenizers.vocabulary import ImageTextVocabulary

TRAIN = "train"


@dataclass(frozen=True)
class ClassesConfig(DataConfig):
    """Codes with a class.

    Attributes:
        layout: how images become grids of codes.
    """

    kind: Literal["classes"] = "classes"
    layout: GridConfig = field(default_factory=GridConfig)

    @property
    def reads_images(self) -> bool:
        """Whether batches depend on the bytes of images."""
        return False

    def open(self, directory: Path, *, verify: bool = False) -> Source:
        """Open a prepared data set, or published code files."""
        if find_code_files(directory) is None:
            return super().open(directory, verify=verify)
        if self.split != DataConfig.split:
            raise LoaderError(
                f"data.split is {self.split!r}, but {directory} holds published code "
                "files, which have no splits; leave it out"
            )
        return CodeFiles(directory)

    def elements(
        self, source: Source, vocabulary: ImageTextVocabulary | None, seed: int
    ) -> Elements:
        """Return an element for each image: its codes and its class."""
        del vocabulary, seed
        classes = size = None
        label: Callable[[Any], Labeled] = label_file
        items = cast(Sequence[Any], source)
        if isinstance(source, Split):
            self.check_codes(source)
            names = class_names(source.directory)
            label = partial(label_record, names=names)
            classes, size = len(names), source.codebook_size
        shape = label(items[0]).codes.shape[1:]

        def prepare(item: Any) -> Labeled:
            labeled = label(item)
            if labeled.codes.shape[1:] != shape:
                raise LoaderError(
                    f"{item['id']!r} has codes of {list(labeled.codes.shape[1:])} "
                    f"tokens and codebooks, the first has {list(shape)}; encode all "
                    "alike"
                )
            return labeled

        cache = self.record_cache(source, prepare)
        of = f" of {classes} classes" if classes else ""
        return Elements(
            cache,
            class_elements(cache),
            codes=CodeSpec(shape[0], shape[1], size, classes),
            summary=f"{self.kind}: {len(source):,} pictures{of}",
        )

    def batch_spec(
        self, batch: int, *, tokens: int | None = None, codebooks: int = 1
    ) -> BatchSpec:
        """Return shape and type of every array that a batch brings to the devices."""
        size = self.layout.tokens(self.image_size) if tokens is None else tokens
        return {
            "codes": ((batch, size, codebooks), np.int32),
            "label": ((batch,), np.int32),
        }


@dataclass(frozen=True)
class Labeled:
    """Equally good views of a picture as codes, int32 [N, L, K], and its class."""

    codes: np.ndarray
    label: int

    @property
    def nbytes(self) -> int:
        """Bytes of the codes."""
        return self.codes.nbytes


def class_names(directory: str | Path) -> tuple[str, ...]:
    """The classes of a prepared data set by number.

    Data sets of earlier programs do not list them: every training record is read.
    """
    if listed := read_manifest(Path(directory)).categories:
        return listed
    split = Split(directory, TRAIN, images=False)
    names = {record["category"] for record in split}
    split.close()
    return tuple(sorted(names))


def label_record(record: Record, names: Sequence[str]) -> Labeled:
    """The codes of a record's first picture, of all equally good crops, with its class.

    Raises:
        RecordError: it has no codes, or a category of no training record.
    """
    if record["category"] not in names:
        raise RecordError(
            f"record {record['id']!r} is of the category {record['category']!r}, which "
            "no training record has"
        )
    crops = np.stack(records.equal_crops(record))  # [N, h, w] or [N, h, w, K]
    # [N, h, w, K] → [N, h · w, K]
    flat = crops.reshape(len(crops), crops.shape[1] * crops.shape[2], -1)
    return Labeled(flat, names.index(record["category"]))


def label_file(file: CodeFile) -> Labeled:
    """A published file."""
    return Labeled(file["codes"], file["label"])


def class_elements(cache: RecordCache[Labeled]) -> BuildRecord:
    """Returns what builds {codes int32 [L, K], label, record int32 []}.

    One of a picture's views is drawn by chance; a bad record gives way to the next.
    """

    def build(index: int, rng: np.random.Generator) -> Element:
        number, labeled = cache.good_from(index)
        return {
            "codes": labeled.codes[int(rng.integers(len(labeled.codes)))],
            "label": np.array(labeled.label, np.int32),
            "record": np.array(number, np.int32),
        }

    return build
