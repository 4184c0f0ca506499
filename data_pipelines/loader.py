"""Batches as a function of (seed, step), on any number of hosts and threads.

Kinds and their arrays (B is the host's share of the global batch; `record` holds
indices into the split, −1 for none, and stays on the host):

  pictures   image uint8 [B, H, W, 3], record int32 [B]
  pairs      image uint8 [B, H, W, 3], text int32 [B, X] padded behind, record int32 [B]
  sequences  int32 [B, T]: tokens (0 at continuous positions and padding), segment_ids
             (1 … in a row, 0 is padding), positions (from 0 in each segment), targets
             (the label of the next position, −1 without loss), slots (index into the
             row's continuous features [I·S], −1 for none);
             pixels uint8 [B, I, side, side, 3] (I = 0 if no encoder sees them),
             record int32 [B, M]

The pipeline is one Grain MapDataset: shuffled per epoch, mixed, built with a random
generator of the element's number, cut to the host's share, batched. It has no filter
and no iterator state, so its position is the number of the next step.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grain
import numpy as np

from data_pipelines import pairs, rows
from data_pipelines.config import DataConfig
from data_pipelines.errors import DataError
from data_pipelines.gallery import Gallery
from data_pipelines.mixture import ENDLESS, Mixture, row_weights
from data_pipelines.records import Record
from data_pipelines.samples import Task
from data_pipelines.shards import Split
from data_pipelines.vocabulary import Vocabulary

Batch = dict[str, np.ndarray]


class LoaderError(DataError):
    """A stream of batches cannot be made as asked; the message says why."""


class HostShare(grain.transforms.DatasetSelectionMap):
    """Maps a host's elements to those of the stream: its part of every global batch.

    Hosts' parts are contiguous, in the order of the hosts.

    Attributes:
        batch: elements of a global batch.
        size: elements of a host's part.
    """

    def __init__(self, batch: int, host: int, hosts: int) -> None:
        """Keeps the size of the global batch and which part of how many this is."""
        if not 0 <= host < hosts or batch < 1 or batch % hosts:
            raise LoaderError(
                f"host {host} of {hosts} cannot take an equal part of a batch of "
                f"{batch}; choose a batch that is a multiple of the hosts"
            )
        self.batch, self.size = batch, batch // hosts
        self._first = host * self.size

    def __len__(self) -> int:
        return ENDLESS // self.batch * self.size

    def __getitem__(self, index: int) -> tuple[int, int]:
        step, offset = divmod(index, self.size)
        return 0, step * self.batch + self._first + offset


@dataclass(frozen=True)
class Stream:
    """Elements without end, before they are shared among hosts and batched.

    Attributes:
        elements: element i is a function of i and the seed.
        gallery: what they are built from.
        epoch: elements after which every sample was seen, where components differ in
            that of the slowest.
        summary: what the stream is made of, in lines for a log.
    """

    elements: grain.MapDataset
    gallery: Gallery
    epoch: float
    summary: str


class Loader(Iterator[Batch]):
    """An endless stream of batches that can be set to any step.

    Attributes:
        steps_per_epoch: steps in which every sample is seen once; where components are
            of different length, each of the one that takes longest.
        summary: what the stream is made of, in lines for a log.
    """

    def __init__(
        self,
        stream: Stream,
        split: Split,
        share: HostShare,
        *,
        threads: int,
        prefetch: int,
    ) -> None:
        """Batches a stream; use `make_loader`."""
        mine = grain.MapDataset.select_from_datasets([stream.elements], share)
        self._batches: grain.MapDataset[Any] = mine.batch(share.size)
        options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=prefetch)
        self._iterator = iter(self._batches.to_iter_dataset(options))
        self._gallery = stream.gallery
        self._split = split
        self._position = 0
        self.steps_per_epoch = stream.epoch / share.batch
        self.summary = stream.summary

    def __iter__(self) -> "Loader":
        return self

    def __next__(self) -> Batch:
        batch = next(self._iterator)
        self._position += 1
        return batch

    def batch_at(self, step: int) -> Batch:
        """Returns the batch of any step, without moving the position."""
        return self._batches[step]  # pyright: ignore[reportReturnType]

    @property
    def position(self) -> int:
        """The step whose batch comes next; set it to continue from there."""
        return self._position

    @position.setter
    def position(self, step: int) -> None:
        if step < 0:
            raise LoaderError(f"a position is a step from 0 on, not {step}")
        grain.experimental.set_next_index(self._iterator, step)
        self._position = step

    @property
    def bad_records(self) -> Mapping[str, str]:
        """The id of every record that was set aside so far → why."""
        return dict(self._gallery.bad_records)

    def identify(self, record: np.ndarray) -> list[str]:
        """Returns the ids of the records of a batch's `record`, each once, in order."""
        indices = dict.fromkeys(int(i) for i in np.ravel(record) if i >= 0)
        return [self._gallery.identify(index) for index in indices]

    def close(self) -> None:
        """Ends the threads and closes the files."""
        self._iterator.close()
        self._gallery.close()
        self._split.close()

    def __enter__(self) -> "Loader":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def make_loader(
    config: DataConfig,
    data_dir: str | Path,
    vocabulary: Vocabulary | None = None,
    *,
    batch: int,
    seed: int,
    host: int = 0,
    hosts: int = 1,
) -> Loader:
    """Returns the stream of batches that `config` describes.

    Args:
        config: of the data.
        data_dir: a prepared data set, unless `config.directory` names another.
        vocabulary: of the texts and codes; pictures alone need none.
        batch: elements of a global batch (pictures, pairs or rows).
        seed: of shuffling, packing, mixing and augmentation.
        host: which host this is.
        hosts: how many hosts share each batch.

    Raises:
        DataError: the data set is missing or damaged, does not have what the kind
            needs, or the batch cannot be shared equally.
    """
    share = HostShare(batch, host, hosts)
    if vocabulary is None and config.kind != "pictures":
        raise LoaderError(f"data of kind {config.kind!r} needs a vocabulary")
    split = Split(config.directory or data_dir, config.split)
    if not len(split):
        raise LoaderError(f"split {config.split!r} of {split.directory} is empty")
    if config.kind == "sequences" and vocabulary is not None:
        stream = _sequences(split, vocabulary, config, seed)
    else:
        stream = _pictures(split, vocabulary, config, seed)
    return Loader(
        stream, split, share, threads=config.threads, prefetch=config.prefetch
    )


def _pictures(
    split: Split, vocabulary: Vocabulary | None, config: DataConfig, seed: int
) -> Stream:
    with_text = config.kind == "pairs"

    def prepare(record: Record) -> pairs.Fitted:
        checked = pairs.require_caption(record) if with_text else record
        return pairs.fit_record(checked, config.image_size)

    gallery = _gallery(split, prepare, config)
    if vocabulary is not None and with_text:
        build = pairs.pair_elements(gallery, vocabulary, config)
    else:
        build = pairs.picture_elements(gallery, config)
    order = _shuffled(len(split), _seed(seed, _ORDER))
    elements = order.random_map(build, seed=_seed(seed, _CHANCE))
    summary = f"{config.kind}: {len(split):,} records\n"
    return Stream(elements, gallery, len(split), summary)


def _sequences(
    split: Split, vocabulary: Vocabulary, config: DataConfig, seed: int
) -> Stream:
    gallery = _gallery(split, lambda r: rows.show_record(r, config), config)
    tasks = list(config.mixture.ratios)
    packed = rows.PackedRows(gallery, vocabulary, config, tasks, _seed(seed, _PACKING))
    plans = [packed.plans[task] for task in tasks]
    weights = row_weights(
        list(config.mixture.ratios.values()),
        samples=[len(plan.samples) for plan in plans],
        rows=[len(plan) for plan in plans],
    )
    components = [
        _shuffled(len(plan), _seed(seed, _ORDER, number)).map(_of_task(task))
        for number, (task, plan) in enumerate(zip(tasks, plans, strict=True))
    ]
    mixed = grain.MapDataset.select_from_datasets(components, Mixture(weights))
    elements = mixed.random_map(packed.build, seed=_seed(seed, _CHANCE))
    shares = [weight / sum(weights) for weight in weights]
    epoch = max(len(p) / share for p, share in zip(plans, shares, strict=True))
    summary = "".join(
        f"{task}: {len(plan.samples):,} samples in {len(plan):,} rows, "
        f"{plan.filled:.1%} filled; {share:.1%} of the rows\n"
        for task, plan, share in zip(tasks, plans, shares, strict=True)
    )
    return Stream(elements, gallery, epoch, summary)


def _of_task(task: Task) -> Callable[[int], tuple[Task, int]]:
    return lambda row: (task, row)


def _gallery(
    split: Split, prepare: Callable[[Record], Any], config: DataConfig
) -> Gallery[Any]:
    return Gallery(
        split,
        prepare,
        cache_bytes=config.cache_mib * 2**20,
        bad_limit=config.bad_limit,
    )


def _shuffled(length: int, seed: int) -> grain.MapDataset[int]:
    """Returns 0 … length − 1, endlessly, in a new order every epoch."""
    return grain.MapDataset.range(length).shuffle(seed=seed).repeat()


# What a seed is derived for.
_ORDER, _CHANCE, _PACKING = range(3)


def _seed(seed: int, *use: int) -> int:
    """Returns an independent 32-bit seed for each use.

    Grain adds the epoch to a shuffle's seed, so that neighbouring seeds would repeat
    each other's orders.
    """
    return int(np.random.SeedSequence((seed, *use)).generate_state(1)[0])
