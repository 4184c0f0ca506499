"""Batches as a function of (seed, position), on any number of hosts and threads.

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
  liquid     the same without pixels, where slots index the row's image tokens [I·S];
             codes int32 [B, I, S, K] of its pictures, and draws int32 [B, I·S], the
             places whose next one is an image token with loss, −1 behind them
  classes    codes int32 [B, L, K], label int32 [B], record int32 [B]

The pipeline is one Grain MapDataset: shuffled per epoch, mixed, built with a random
generator of the element's number, cut to the host's share, batched. It has no filter
and no iterator state, so its position is a number of elements, whatever batches they
were given in.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import grain
import numpy as np

from data_pipelines.classes import (
    Labelled,
    class_elements,
    class_names,
    label_file,
    label_record,
)
from data_pipelines.config import (
    ClassesConfig,
    DataConfig,
    LiquidRowsConfig,
    PairsConfig,
    PicturesConfig,
    SequencesConfig,
)
from data_pipelines.errors import DataError
from data_pipelines.images import pairs
from data_pipelines.mixture import ENDLESS, Mixture, row_weights
from data_pipelines.packing import Plan
from data_pipelines.storage.code_files import CodeFiles, find_code_files
from data_pipelines.storage.integrity import Watch
from data_pipelines.storage.manifest import file_digest
from data_pipelines.storage.record_cache import Gallery
from data_pipelines.storage.records import Record
from data_pipelines.storage.shards import Split
from data_pipelines.tokenizers.chameleon import ChameleonVocabulary
from data_pipelines.tokenizers.vocabulary import ImageTextVocabulary
from data_pipelines.unitok_mllm.rows import LiquidRows, read_codes
from data_pipelines.unitoken import rows

Batch = dict[str, np.ndarray]


class LoaderError(DataError):
    """A stream of batches cannot be made as asked; the message says why."""


class HostShare(grain.transforms.DatasetSelectionMap):
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
        elements: element i is a function of i and the seed.
        gallery: what they are built from.
        epoch: elements after which every sample was seen, where components differ in
            that of the slowest.
        summary: what the stream is made of, in lines for a log.
        digest: see `Loader.digest`.
        codes: see `Loader.codes`.
    """

    elements: grain.MapDataset
    gallery: Gallery
    epoch: float
    summary: str
    digest: str
    codes: "CodeFacts | None" = None


@dataclass(frozen=True)
class CodeFacts:
    """What a model must agree with in the codes of a stream.

    Attributes:
        tokens: tokens of a picture.
        codebooks: codes of a token.
        size: codes in a codebook; None if the data set does not say.
        classes: number of classes; None if there are none, or it does not say.
    """

    tokens: int
    codebooks: int
    size: int | None
    classes: int | None = None


class Loader(Iterator[Batch]):
    """An endless stream of batches that can be set to any step.

    Attributes:
        steps_per_epoch: steps in which every sample is seen once; where components are
            of different length, each of the one that takes longest.
        summary: what the stream is made of, in lines for a log.
        digest: of the data set, which samples of it the stream has and in what order:
            the same on all hosts and at every start, unless they read other data.
        codes: of the kinds 'liquid' and 'classes', what a model must agree with.
    """

    def __init__(
        self,
        stream: Stream,
        split: Split | CodeFiles,
        share: HostShare,
        *,
        threads: int,
        prefetch: int,
        watch_rate: float = 0.0,
    ) -> None:
        """Batches a stream; use `make_loader`."""
        self._options = grain.ReadOptions(
            num_threads=threads, prefetch_buffer_size=prefetch
        )
        self._elements, self._share = stream.elements, share
        self._begin(0)
        self._gallery = stream.gallery
        self._split = split
        self._watch: Watch | None = None
        self._watch_rate = watch_rate
        self.steps_per_epoch = stream.epoch / share.batch
        self.summary = stream.summary
        self.digest = stream.digest
        self.codes = stream.codes

    def _begin(self, first: int) -> None:
        """Divide the stream into batches of which one begins at element `first`."""
        share = HostShare(self._share.batch, self._share.part, first)
        mine = grain.MapDataset.select_from_datasets([self._elements], share)
        self._batches: grain.MapDataset[Any] = mine.batch(share.size)
        self._iterator = iter(self._batches.to_iter_dataset(self._options))
        self._first = self._position = first

    def __iter__(self) -> "Loader":
        return self

    def __next__(self) -> Batch:
        self._watch_files()
        batch = next(self._iterator)
        self._position += self._share.batch
        return batch

    def _watch_files(self) -> None:
        """Compares, while batches are taken, what was not compared at the start."""
        if self._watch is None:
            if self._watch_rate:
                self._watch = Watch(self._split.unverified(), self._watch_rate)
        elif self._watch.fault is not None:
            raise self._watch.fault

    def batch_at(self, step: int) -> Batch:
        """Returns the batch of any step, without moving the position."""
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
        step, first = divmod(element, self._share.batch)
        if first != self._first:
            self._iterator.close()
            self._begin(first)
        grain.experimental.set_next_index(self._iterator, step)
        self._position = element

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
        if self._watch is not None:
            self._watch.close()
        self._gallery.close()
        self._split.close()

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
    """Returns the stream of batches that `config` describes.

    Args:
        config: of the data.
        data_dir: a prepared data set, unless `config.directory` names another; for
            classes also a directory of published code files.
        vocabulary: of the texts and codes; pictures and classes need none.
        batch: elements of a global batch (pictures, pairs or rows).
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
    share = HostShare(batch, equal_part(batch, host, hosts) if part is None else part)
    directory = Path(config.directory or data_dir)
    if isinstance(config, ClassesConfig) and find_code_files(directory) is not None:
        _check_unsplit(config, directory)
        split = CodeFiles(directory)
        stream = _labelled(split, label_file, config, seed)
        stream = replace(stream, digest=_digest(split.digest, stream.digest))
    else:
        split = Split(
            directory, config.split, pictures=config.reads_pictures, verify=verify
        )
        if not len(split):
            raise LoaderError(f"split {config.split!r} of {split.directory} is empty")
        stream = _stream(split, vocabulary, config, seed)
    return Loader(
        stream,
        split,
        share,
        threads=config.threads,
        prefetch=config.prefetch,
        watch_rate=config.watch_mib * 2**20 if split.partly_verified else 0.0,
    )


def _check_unsplit(config: ClassesConfig, directory: Path) -> None:
    """Refuse to choose a split where there is none."""
    if config.split != ClassesConfig.split:
        raise LoaderError(
            f"data.split is {config.split!r}, but {directory} holds published code "
            "files, which have no splits; leave it out"
        )


def _stream(
    split: Split, vocabulary: ImageTextVocabulary | None, config: DataConfig, seed: int
) -> Stream:
    """Returns the stream of a prepared data set, which its digest names as well."""
    stream = _of_kind(split, vocabulary, config, seed)
    return replace(stream, digest=_digest(split.digest, stream.digest))


def _of_kind(
    split: Split, vocabulary: ImageTextVocabulary | None, config: DataConfig, seed: int
) -> Stream:
    makes = _STREAMS[type(config)]
    return makes(split, vocabulary, config, seed)


def _need(
    vocabulary: ImageTextVocabulary | None, config: DataConfig
) -> ImageTextVocabulary:
    """Returns the vocabulary that a kind needs."""
    if vocabulary is None:
        raise LoaderError(f"data of kind {config.kind!r} needs a vocabulary")
    return vocabulary


def _need_chameleon(
    vocabulary: ImageTextVocabulary | None, config: DataConfig
) -> ChameleonVocabulary:
    """Returns the vocabulary that a kind needs, with names for codes and padding."""
    needed = _need(vocabulary, config)
    if not isinstance(needed, ChameleonVocabulary):
        raise LoaderError(
            f"data of kind {config.kind!r} needs a tokenizer.json of Chameleon's layout"
        )
    return needed


def _pictures(
    split: Split, _: ImageTextVocabulary | None, config: PicturesConfig, seed: int
) -> Stream:
    def prepare(record: Record) -> pairs.Fitted:
        return pairs.fit_record(record, config.image_size, config.augment.crop)

    gallery = _gallery(split, prepare, config)
    build = pairs.picture_elements(gallery, config)
    return _one_by_one(gallery, build, config, seed)


def _pairs(
    split: Split, vocabulary: ImageTextVocabulary | None, config: PairsConfig, seed: int
) -> Stream:
    words = _need_chameleon(vocabulary, config)

    def prepare(record: Record) -> pairs.Fitted:
        checked = pairs.require_caption(record)
        return pairs.fit_record(checked, config.image_size, config.augment.crop)

    gallery = _gallery(split, prepare, config)
    build = pairs.pair_elements(gallery, words, config)
    stream = _one_by_one(gallery, build, config, seed)
    if config.clip_tokenizer is None:
        return stream
    tokenizer = file_digest(Path(config.clip_tokenizer))
    return replace(stream, digest=_digest(stream.digest, tokenizer))


def _one_by_one(
    gallery: Gallery[Any], build: pairs.Build, config: DataConfig, seed: int
) -> Stream:
    """Returns the stream of which each record is an element."""
    count = len(gallery)
    order = _shuffled(count, _seed(seed, _ORDER))
    elements = order.random_map(build, seed=_seed(seed, _CHANCE))
    summary = f"{config.kind}: {count:,} records\n"
    return Stream(elements, gallery, count, summary, _digest(seed, count))


def _sequences(
    split: Split,
    vocabulary: ImageTextVocabulary | None,
    config: SequencesConfig,
    seed: int,
) -> Stream:
    words = _need_chameleon(vocabulary, config)
    if config.canvas == "square":  # codes of pictures in their own shapes have none
        _check_codes(split, config, config.layout.code_stride)
    gallery = _gallery(split, lambda r: rows.show_record(r, config), config)
    tasks = list(config.mixture.ratios)
    packed = rows.PackedRows(gallery, words, config, tasks, _seed(seed, _PACKING))
    return _packed(packed, config.mixture.ratios, gallery, seed)


def _liquid(
    split: Split,
    vocabulary: ImageTextVocabulary | None,
    config: LiquidRowsConfig,
    seed: int,
) -> Stream:
    words = _need(vocabulary, config)
    _check_codes(split, config)
    gallery = _gallery(split, read_codes, config)
    packed = LiquidRows(gallery, words, config, _seed(seed, _PACKING))
    stream = _packed(packed, config.liquid.mixture.ratios, gallery, seed)
    facts = CodeFacts(packed.size, packed.grid[2], _codebook_size(split))
    return replace(stream, codes=facts)


class _Rows(Protocol):
    """Packed rows of several tasks at random access."""

    @property
    def plans(self) -> Mapping[Any, Plan]:
        """The rows of each task."""
        ...

    @property
    def records(self) -> np.ndarray:
        """The record of every sample."""
        ...

    def build(self, place: Any, rng: np.random.Generator, /) -> dict[str, np.ndarray]:
        """Returns one row of (task, number)."""
        ...


def _packed(
    packed: _Rows, ratios: Mapping[Any, float], gallery: Gallery[Any], seed: int
) -> Stream:
    """Returns the stream of packed rows whose samples are mixed by task."""
    gallery.check_share()
    tasks = list(ratios)
    plans = [packed.plans[task] for task in tasks]
    weights = row_weights(
        list(ratios.values()),
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
    # A record that could not be read has no samples, which changes all rows.
    order = [(packed.records[plan.samples], plan.starts) for plan in plans]
    digest = _digest(seed, weights, *(array for pair in order for array in pair))
    return Stream(elements, gallery, epoch, summary, digest)


def _classes(
    split: Split, _: ImageTextVocabulary | None, config: ClassesConfig, seed: int
) -> Stream:
    _check_codes(split, config)
    names = class_names(split.directory)
    label = partial(label_record, names=names)
    return _labelled(split, label, config, seed, classes=len(names))


def _labelled(
    split: Split | CodeFiles,
    label: Callable[[Any], Labelled],
    config: ClassesConfig,
    seed: int,
    classes: int | None = None,
) -> Stream:
    shape = label(split[0]).codes.shape[1:]

    def prepare(item: Any) -> Labelled:
        labelled = label(item)
        if labelled.codes.shape[1:] != shape:
            raise LoaderError(
                f"{item['id']!r} has codes of {list(labelled.codes.shape[1:])} tokens "
                f"and codebooks, the first has {list(shape)}; encode all alike"
            )
        return labelled

    gallery = _gallery(split, prepare, config)
    order = _shuffled(len(split), _seed(seed, _ORDER))
    elements = order.random_map(class_elements(gallery), seed=_seed(seed, _CHANCE))
    size = _codebook_size(split) if isinstance(split, Split) else None
    facts = CodeFacts(shape[0], shape[1], size, classes)
    named = f" of {classes} classes" if classes else ""
    summary = f"classes: {len(split):,} pictures{named}\n"
    digest = _digest(seed, len(split))
    return Stream(elements, gallery, len(split), summary, digest, facts)


def _codebook_size(split: Split) -> int | None:
    """Codes in a codebook, if the data set was made by `pretokenize`."""
    codebook = split.manifest.provenance.get("codebook")
    return None if codebook is None else codebook[1]


def _check_codes(split: Split, config: DataConfig, stride: int | None = None) -> None:
    """Refuse codes of pictures that were shown otherwise than the config shows them.

    `stride` is that of the codes, where rows are laid out by it.
    """
    made = split.manifest.provenance
    if "tokenizer_id" not in made:
        return
    side = made["image_size"]
    compared = [
        ("image_size", config.image_size, side),
        ("background", list(config.background), made["background"]),
    ]
    grid = split[0]["grid"]
    if stride is not None and grid is not None:
        compared.append(("layout.code_stride", stride, side // grid[0]))
    for name, ours, theirs in compared:
        if ours != theirs:
            raise LoaderError(
                f"data.{name} is {ours}, but the codes in {split.directory} were made "
                f"with {theirs}; set data.{name} to that, or train with codes of a "
                "tokenizer that sees the same pictures"
            )


# What makes the stream of each kind.
_STREAMS: dict[type[DataConfig], Callable[..., Stream]] = {
    PicturesConfig: _pictures,
    PairsConfig: _pairs,
    SequencesConfig: _sequences,
    LiquidRowsConfig: _liquid,
    ClassesConfig: _classes,
}


def _of_task(task: str) -> Callable[[int], tuple[str, int]]:
    return lambda row: (task, row)


def _gallery(
    split: Any, prepare: Callable[[Any], Any], config: DataConfig
) -> Gallery[Any]:
    return Gallery(
        split,
        prepare,
        outlines=split.without_pictures() if isinstance(split, Split) else None,
        cache_bytes=config.cache_mib * 2**20,
        bad_limit=config.bad_limit,
        bad_share=config.bad_share,
    )


def _shuffled(length: int, seed: int) -> grain.MapDataset[int]:
    """Returns 0 … length − 1, endlessly, in a new order every epoch."""
    return grain.MapDataset.range(length).shuffle(seed=seed).repeat()


def _digest(*plan: Any) -> str:
    """Returns 16 hexadecimal digits for what a stream was planned to be."""
    content = hashlib.sha256()
    for part in plan:
        is_array = isinstance(part, np.ndarray)
        content.update(part.tobytes() if is_array else repr(part).encode())
    return content.hexdigest()[:16]


# What a seed is derived for.
_ORDER, _CHANCE, _PACKING = range(3)


def _seed(seed: int, *use: int) -> int:
    """Returns an independent 32-bit seed for each use.

    Grain adds the epoch to a shuffle's seed, so that neighbouring seeds would repeat
    each other's orders.
    """
    return int(np.random.SeedSequence((seed, *use)).generate_state(1)[0])
