"""Elements of the kind 'classes': the codes of a picture with its class.

Classes of a prepared data set are the categories of its training records, in
alphabetical order; published code files bring numbers.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_pipelines.storage import records
from data_pipelines.storage.code_files import CodeFile
from data_pipelines.storage.manifest import read_manifest
from data_pipelines.storage.record_cache import Gallery
from data_pipelines.storage.records import Record, RecordError
from data_pipelines.storage.shards import Split

Element = dict[str, np.ndarray]
Build = Callable[[int, np.random.Generator], Element]

TRAIN = "train"


@dataclass(frozen=True)
class Labelled:
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
    split = Split(directory, TRAIN, pictures=False)
    names = {record["category"] for record in split}
    split.close()
    return tuple(sorted(names))


def label_record(record: Record, names: Sequence[str]) -> Labelled:
    """The codes of a record with its class.

    Raises:
        RecordError: it has no codes, or a category of no training record.
    """
    if record["category"] not in names:
        raise RecordError(
            f"record {record['id']!r} is of the category {record['category']!r}, which "
            "no training record has"
        )
    codes = records.codes_of(record)
    # [h, w, K] → [1, h · w, K]
    flat = codes.reshape(1, codes.shape[0] * codes.shape[1], -1)
    return Labelled(flat, names.index(record["category"]))


def label_file(file: CodeFile) -> Labelled:
    """A published file."""
    return Labelled(file["codes"], file["label"])


def class_elements(gallery: Gallery[Labelled]) -> Build:
    """Returns what builds {codes int32 [L, K], label, record int32 []}.

    One of a picture's views is drawn by chance; a bad record gives way to the next.
    """

    def build(index: int, rng: np.random.Generator) -> Element:
        number, labelled = gallery.good_from(index)
        return {
            "codes": labelled.codes[int(rng.integers(len(labelled.codes)))],
            "label": np.array(labelled.label, np.int32),
            "record": np.array(number, np.int32),
        }

    return build
