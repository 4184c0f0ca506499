"""What a kind of data gives the loader: elements of batches at random access.

An element is built of a place and a random generator, whatever was built before, so
that the loader can shuffle, mix and share elements as it likes.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from data_pipelines.packing import PackingPlan
from data_pipelines.storage.record_cache import RecordCache

Element = dict[str, np.ndarray]
"""The arrays of one element of a batch, by name."""

ArraySpec = tuple[tuple[int, ...], type[np.generic]]
"""Shape and type of an array."""

BatchSpec = dict[str, ArraySpec]
"""What a batch brings to the devices, by name."""

BuildRecord = Callable[[int, np.random.Generator], Element]
"""(index of a record, generator) → the element of it."""


@dataclass(frozen=True)
class CodeSpec:
    """What a model must agree with in the codes of a stream.

    Attributes:
        tokens: tokens of an image.
        codebooks: codes of a token.
        size: codes in a codebook; None if the data set does not say.
        classes: number of classes; None if there are none, or it does not say.
    """

    tokens: int
    codebooks: int
    size: int | None
    classes: int | None = None


@dataclass(frozen=True)
class TaskRows:
    """The packed rows of one task.

    Attributes:
        ratio: samples of the task in the stream, relative to those of others.
        plan: which samples share a row.
        records: the record of each sample of the plan, row after row.
        drawing: how many of the samples teach to draw an image.
    """

    ratio: float
    plan: PackingPlan
    records: np.ndarray
    drawing: int = 0


@dataclass(frozen=True)
class Elements:
    """The elements of a data set.

    Attributes:
        cache: the records that they are built of.
        build: (place, generator) → an element; a place is (task, number of its row)
            where there are rows, and the index of a record where there are none.
        rows: the packed rows of every task that takes part.
        codes: what a model must agree with in the codes, where there are any.
        summary: what elements of single records are, a line for a log.
        made_with: what they depend on beside the data set and the config.
    """

    cache: RecordCache[Any]
    build: Callable[[Any, np.random.Generator], Element]
    rows: Mapping[str, TaskRows] = field(default_factory=dict)
    codes: CodeSpec | None = None
    summary: str = ""
    made_with: tuple[str, ...] = ()
