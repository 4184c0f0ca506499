"""Batches as a function of (seed, position), on any number of hosts and threads.

Kinds and their arrays (B is the host's part of the global batch; `record` holds
indices into the split, −1 for none, and stays on the host):

  images       image uint8 [B, H, W, 3], record int32 [B]
  pairs        image uint8 [B, H, W, 3], text int32 [B, X] padded behind,
               record int32 [B]
  sequences    int32 [B, T]: tokens (0 at continuous positions and padding),
               segment_ids (1 … in a row, 0 is padding), positions (from 0 in each
               segment), targets (the label of the next position, −1 without loss),
               feature_index (into the row's continuous features [I·S], −1 for none);
               pixels uint8 [B, I, side, side, 3] (I = 0 if no encoder sees them),
               record int32 [B, M]
  unitok_mllm  the same without pixels, where feature_index is into the row's image
               tokens [I·S]; codes int32 [B, I, S, K] of its images, and
               image_target_positions int32 [B, I·S], the places whose next one is an
               image token with loss, −1 behind them
  classes      codes int32 [B, L, K], label int32 [B], record int32 [B]

The pipeline is one Grain MapDataset: shuffled per epoch, mixed, built with a random
generator of the element's number, cut to the host's part, batched. It has no filter
and no iterator state, so its position is a number of elements, whatever batches they
were given in.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import grain
import numpy as np

from data_pipelines.config import DataConfig, Source
from data_pipelines.elements import BatchSpec, CodeSpec, Element, Elements, TaskRows
from data_pipelines.errors import LoaderError
from data_pipelines.mixture import ENDLESS, Mixture, row_weights
from data_pipelines.storage.integrity import Watch
from data_pipelines.tokenizers.vocabulary import ImageTextVocabulary

Batch = dict[str, np.ndarray]


class HostShard(grain.transforms.DatasetSelectionMap):
    """Maps a host's elements to those of the stream: its part of every global batch.

    Attributes:
        batch: elements of a global batch.
        size: elements of a host's part.
        part: which elements of a global batch those are.
    """

    def __init__(self, batch: int, part: Sequence[int], first: int = 0) -> None:
        """Keeps how batches are shared; the first begins at element `first`."""
        self.batch, self.size = batch, len(part)
        self.part = [int(element) for element in part]
        self._first = first

    def __len__(self) -> int:
        return ENDLESS // self.batch * self.size

    def __getitem__(self, index: int) -> tuple[int, int]:
        step, offset = divmod(index, self.size)
        return 0, self._first + step * self.batch + self.part[offset]


def equal_part(batch: int, host: int, hosts: int) -> range:
    """Returns the elements of host `host` of `hosts`: neighbours, in their order.

    Raises:
        LoaderError: the batch cannot be shared equally.
    """
    if not 0 <= host < hosts or batch < 1 or batch % hosts:
        raise LoaderError(
            f"host {host} of {hosts} cannot take an equal part of a batch of "
            f"{batch}; choose a batch that is a multiple of the hosts"
        )
    size = batch // hosts
    return range(host * size, (host + 1) * size)


@dataclass(frozen=True)
class Stream:
    """Elements without end, before they are shared among hosts and batched.

    Attributes:
        dataset: element i is a function of i and the seed.
        epoch: elements after which every sample was seen, where components differ in
            that of the slowest.
        summary: what the stream is made of, in lines for a log.
        digest: see `Loader.digest`.
    """

    dataset: grain.MapDataset[Element]
    epoch: float
    summary: str
    digest: str


class Loader(Iterator[Batch]):
    """An endless stream of batches that can be set to any step.

    Attributes:
        steps_per_epoch: steps in which every sample is seen once; where components are
            of different length, each of the one that takes longest.
        summary: what the stream is made of, in lines for a log.
        digest: of the data set, which samples of it the stream has and in what order:
            the same on all hosts and at every start, unless they read other data.
        codes: of the kinds 'unitok_mllm' and 'classes', what a model must agree with.
        batch_spec: shape and type of the arrays of the host's batches, by name, but for
            `record`.
    """

    def __init__(
        self,
        stream: Stream,
        elements: Elements,
        source: Source,
        shard: HostShard,
        config: DataConfig,
    ) -> None:
        """Batch a stream; use `make_loader`."""
        self._options = grain.ReadOptions(
            num_threads=config.threads, prefetch_buffer_size=config.prefetch
        )
        self._dataset, self._shard = stream.dataset, shard
        self._begin(0)
        self._cache = elements.cache
        self._source = source
        self._watch: Watch | None = None
        self._watch_rate = config.watch_mib * 2**20 if source.partly_verified else 0.0
        self.steps_per_epoch = stream.epoch / shard.batch
        self.summary = stream.summary
        self.digest = stream.digest
        self.codes: CodeSpec | None = elements.codes
        self.batch_spec: BatchSpec = config.batch_spec(
            shard.size,
            tokens=elements.codes.tokens if elements.codes else None,
            codebooks=elements.codes.codebooks if elements.codes else 1,
        )

    def _begin(self, first: int) -> None:
        """Divide the stream into batches of which one begins at element `first`."""
        shard = HostShard(self._shard.batch, self._shard.part, first)
        mine = grain.MapDataset.select_from_datasets([self._dataset], shard)
        self._batches: grain.MapDataset[Batch] = mine.batch(shard.size)
        self._iterator = iter(self._batches.to_iter_dataset(self._options))
        self._first = self._position = first

    def __iter__(self) -> "Loader":
        return self

    def __next__(self) -> Batch:
        self._watch_files()
        batch = next(self._iterator)
        self._position += self._shard.batch
        return batch

    def _watch_files(self) -> None:
        """Compare, while batches are taken, what was not compared at the start."""
        if self._watch is None:
            if self._watch_rate:
                self._watch = Watch(self._source.unverified(), self._watch_rate)
        elif self._watch.fault is not None:
            raise self._watch.fault

    def batch_at(self, step: int) -> Batch:
        """Return the batch of any step, without moving the position."""
        return self._batches[step]  # pyright: ignore[reportReturnType]

    @property
    def position(self) -> int:
        """The elements of the stream that were given; set it to continue from there.

        It may be set to what batches of another size have left behind.
        """
        return self._position

    @position.setter
    def position(self, element: int) -> None:
        if element < 0:
            raise LoaderError(f"a position is an element from 0 on, not {element}")
        step, first = divmod(element, self._shard.batch)
        if first != self._first:
            self._iterator.close()
            self._begin(first)
        grain.experimental.set_next_index(self._iterator, step)
        self._position = element

    @property
    def bad_records(self) -> Mapping[str, str]:
        """The id of every record that was set aside so far → why."""
        return dict(self._cache.bad_records)

    def identify(self, record: np.ndarray) -> list[str]:
        """Return the ids of the records of a batch's `record`, each once, in order."""
        indices = dict.fromkeys(int(i) for i in np.ravel(record) if i >= 0)
        return [self._cache.identify(index) for index in indices]

    def close(self) -> None:
        """End the threads and close the files."""
        self._iterator.close()
        if self._watch is not None:
            self._watch.close()
        self._cache.close()
        self._source.close()

    def __enter__(self) -> "Loader":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def make_loader(
    config: DataConfig,
    data_dir: str | Path,
    vocabulary: ImageTextVocabulary | None = None,
    *,
    batch: int,
    seed: int,
    host: int = 0,
    hosts: int = 1,
    part: Sequence[int] | None = None,
    verify: bool = False,
) -> Loader:
    """Return the stream of batches that `config` describes.

    Args:
        config: of the data.
        data_dir: a prepared data set, unless `config.directory` names another; for
            classes also a directory of published code files.
        vocabulary: of the texts and codes; images and classes need none.
        batch: elements of a global batch (images, pairs or rows).
        seed: of shuffling, packing, mixing and augmentation.
        host: which host this is.
        hosts: how many hosts share each batch.
        part: the elements of each batch that this host builds, ascending, where they
            are not its equal part.
        verify: compare every byte of the data set with its manifest first.

    Raises:
        DataError: the data set is missing or damaged, does not have what the kind
            needs, or the batch cannot be shared equally.
    """
    shard = HostShard(batch, equal_part(batch, host, hosts) if part is None else part)
    source = config.open(Path(config.directory or data_dir), verify=verify)
    elements = config.elements(source, vocabulary, _seed(seed, _PACKING))
    stream = _stream(elements, source, seed)
    return Loader(stream, elements, source, shard, config)


def _stream(elements: Elements, source: Source, seed: int) -> Stream:
    """Return the stream of a data set, which its digest names as well."""
    if elements.rows:
        made = _packed(elements, elements.rows, seed)
    else:
        made = _one_by_one(elements, seed)
    digest = made.digest
    for what in elements.made_with:
        digest = _digest(digest, what)
    return replace(made, digest=_digest(source.digest, digest))


def _one_by_one(elements: Elements, seed: int) -> Stream:
    """Return the stream of which each record is an element."""
    count = len(elements.cache)
    order = _shuffled(count, _seed(seed, _ORDER))
    dataset = order.random_map(elements.build, seed=_seed(seed, _CHANCE))
    return Stream(dataset, count, f"{elements.summary}\n", _digest(seed, count))


def _packed(elements: Elements, rows: Mapping[str, TaskRows], seed: int) -> Stream:
    """Return the stream of packed rows whose samples are mixed by task."""
    elements.cache.check_share()
    plans = [task.plan for task in rows.values()]
    weights = row_weights(
        [task.ratio for task in rows.values()],
        samples=[len(plan.samples) for plan in plans],
        rows=[len(plan) for plan in plans],
    )
    components = [
        _shuffled(len(plan), _seed(seed, _ORDER, number)).map(_of_task(task))
        for number, (task, plan) in enumerate(zip(rows, plans, strict=True))
    ]
    mixed = grain.MapDataset.select_from_datasets(components, Mixture(weights))
    dataset = mixed.random_map(elements.build, seed=_seed(seed, _CHANCE))
    shares = [weight / sum(weights) for weight in weights]
    epoch = max(len(p) / share for p, share in zip(plans, shares, strict=True))
    summary = "".join(
        f"{name}: {len(task.plan.samples):,} samples{_drawing(task)} in "
        f"{len(task.plan):,} rows, {task.plan.filled:.1%} filled; {share:.1%} of the "
        "rows\n"
        for (name, task), share in zip(rows.items(), shares, strict=True)
    )
    # A record that could not be read has no samples, which changes all rows.
    order = [(task.records, task.plan.starts) for task in rows.values()]
    digest = _digest(seed, weights, *(array for pair in order for array in pair))
    return Stream(dataset, epoch, summary, digest)


def _drawing(task: TaskRows) -> str:
    """Return how many of a task's samples draw, where some do and others do not."""
    mixed = 0 < task.drawing < len(task.plan.samples)
    return f" ({task.drawing:,} of them draw)" if mixed else ""


def _of_task(task: str) -> Callable[[int], tuple[str, int]]:
    return lambda row: (task, row)


def _shuffled(length: int, seed: int) -> grain.MapDataset[int]:
    """Return 0 … length − 1, endlessly, in a new order every epoch."""
    return grain.MapDataset.range(length).shuffle(seed=seed).repeat()


def _digest(*plan: object) -> str:
    """Return 16 hexadecimal digits for what a stream was planned to be."""
    content = hashlib.sha256()
    for part in plan:
        is_array = isinstance(part, np.ndarray)
        content.update(part.tobytes() if is_array else repr(part).encode())
    return content.hexdigest()[:16]


# What a seed is derived for.
_ORDER, _CHANCE, _PACKING = range(3)


def _seed(seed: int, *use: int) -> int:
    """Return an independent 32-bit seed for each use.

    Grain adds the epoch to a shuffle's seed, so that neighbouring seeds would repeat
    each other's orders.
    """
    return int(np.random.SeedSequence((seed, *use)).generate_state(1)[0])
