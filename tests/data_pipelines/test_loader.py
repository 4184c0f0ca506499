"""Streams of batches: functions of (seed, step), whatever the hosts and threads."""

import itertools
import threading
import time
from collections import Counter
from dataclasses import replace
from functools import partial

import numpy as np
import prepared
import pytest

from data_pipelines.errors import LoaderError
from data_pipelines.images.pairs import AugmentConfig
from data_pipelines.loader import make_loader
from data_pipelines.packing import IGNORE, NO_FEATURE
from data_pipelines.pretokenize import pretokenize
from data_pipelines.storage import readers
from data_pipelines.storage.readers import StorageError
from data_pipelines.storage.record_cache import BadRecordsError
from data_pipelines.storage.records import RecordError
from data_pipelines.storage.shards import ShardError, Split
from data_pipelines.unitoken.samples import MixtureConfig
from data_pipelines.unitoken.sequence import LayoutConfig

CONFIGS = {
    "images": replace(prepared.IMAGES, augment=AugmentConfig(flip=0.5, background=0.5)),
    "pairs": prepared.PAIRS,
    "sequences": prepared.SEQUENCES,
}
KINDS = pytest.mark.parametrize("kind", list(CONFIGS))


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return prepared.make(tmp_path_factory.mktemp("data") / "set")


@pytest.fixture(scope="module")
def vocabulary(directory):
    return prepared.vocabulary(directory)


def assert_equal(one, other):
    assert one.keys() == other.keys()
    for key in one:
        np.testing.assert_array_equal(one[key], other[key], err_msg=key)


def take(loader, count):
    with loader:
        return [next(loader) for _ in range(count)]


@KINDS
def test_shapes_and_types(kind, directory, vocabulary):
    (batch,) = take(
        make_loader(CONFIGS[kind], directory, vocabulary, batch=4, seed=0), 1
    )
    shapes = {key: (value.shape, str(value.dtype)) for key, value in batch.items()}
    widest = batch["record"].shape[-1]
    expected = {
        "images": {"image": ((4, 32, 32, 3), "uint8"), "record": ((4,), "int32")},
        "pairs": {
            "image": ((4, 32, 32, 3), "uint8"),
            "text": ((4, 8), "int32"),
            "record": ((4,), "int32"),
        },
        "sequences": {
            **dict.fromkeys(
                ("tokens", "segment_ids", "positions", "targets", "feature_index"),
                ((4, 160), "int32"),
            ),
            "pixels": ((4, 3, 32, 32, 3), "uint8"),
            "record": ((4, widest), "int32"),
        },
    }
    assert shapes == expected[kind]


@KINDS
def test_hosts_share_the_global_batch_in_order(kind, directory, vocabulary):
    def run(host, hosts):
        made = make_loader(
            CONFIGS[kind],
            directory,
            vocabulary,
            batch=4,
            seed=3,
            host=host,
            hosts=hosts,
        )
        return take(made, 5)

    whole = run(0, 1)
    for hosts in (2, 4):
        parts = [run(host, hosts) for host in range(hosts)]
        for step, batch in enumerate(whole):
            joined = {
                key: np.concatenate([part[step][key] for part in parts])
                for key in batch
            }
            assert_equal(joined, batch)


@KINDS
def test_the_digest_is_of_samples_and_their_order(
    kind, directory, vocabulary, tmp_path
):
    def digest(config=CONFIGS[kind], directory=directory, **options):
        options = {"batch": 4, "seed": 3} | options
        with make_loader(config, directory, vocabulary, **options) as loader:
            return loader.digest

    before = digest()
    assert digest(host=1, hosts=2) == before == digest(batch=8)
    dropped = {"prompt_drop": 0.5} if kind == "sequences" else {}
    assert digest(replace(CONFIGS[kind], threads=2, **dropped)) == digest()
    assert digest(seed=4) != digest()
    picture = {"bytes": prepared.picture_bytes(99, size=32)}
    other = prepared.make(tmp_path / "other", r3=picture)
    assert digest(directory=other) != before
    assert digest(directory=prepared.make(tmp_path / "same")) == before


def test_records_that_cannot_be_read_change_the_digest(
    directory, vocabulary, monkeypatch
):
    def digest(record, times):
        read, left = Split.__getitem__, [times]

        def failing(self, index):
            if index == record and left[0]:
                left[0] -= 1
                raise ShardError("pread() failed: Input/output error")
            return read(self, index)

        with monkeypatch.context() as patch:
            patch.setattr(Split, "__getitem__", failing)
            with make_loader(
                prepared.SEQUENCES, directory, vocabulary, batch=4, seed=3
            ) as loader:
                return loader.digest, list(loader.bad_records)

    whole, lacking = digest(0, 0), [digest(record, 1) for record in (7, 8)]
    assert [bad for _, bad in lacking] == [["picture/00007"], ["picture/00008"]]
    assert len({whole[0], *(x for x, _ in lacking)}) == 3


@KINDS
def test_threads_and_position_change_nothing(kind, directory, vocabulary):
    config = CONFIGS[kind]
    whole = take(make_loader(config, directory, vocabulary, batch=2, seed=1), 12)
    threaded = make_loader(
        replace(config, threads=3, prefetch=4), directory, vocabulary, batch=2, seed=1
    )
    with threaded as loader:
        for step in range(5):
            assert loader.position == 2 * step
            assert_equal(next(loader), whole[step])
        loader.position = 18
        assert_equal(next(loader), whole[9])
        assert loader.position == 20
        loader.position = 4
        for step in range(2, 12):
            assert_equal(next(loader), whole[step])
        assert_equal(loader.batch_at(7), whole[7])
        assert loader.position == 24


@KINDS
def test_batches_of_another_size_go_on_at_the_next_sample(kind, directory, vocabulary):
    """None is shown twice or left out, and each is drawn alike, on any hosts."""
    config = CONFIGS[kind]
    whole = take(make_loader(config, directory, vocabulary, batch=1, seed=1), 21)
    make = partial(make_loader, config, directory, vocabulary, seed=1)
    with make(batch=3) as loader:
        for _ in range(3):
            next(loader)
        position = loader.position
    assert position == 9
    for host in range(2):
        with make(batch=4, host=host, hosts=2) as loader:
            loader.position = position
            for step in range(3):
                batch = next(loader)
                for row in range(2):
                    element = whole[9 + 4 * step + 2 * host + row]
                    assert_equal(
                        {k: x[row : row + 1] for k, x in batch.items()}, element
                    )
            assert loader.position == 21
            loader.position = 0
            assert_equal({k: x[:1] for k, x in next(loader).items()}, whole[2 * host])


@KINDS
def test_seed_changes_the_stream(kind, directory, vocabulary):
    one, other = (
        take(make_loader(CONFIGS[kind], directory, vocabulary, batch=8, seed=seed), 1)[
            0
        ]
        for seed in (0, 1)
    )
    assert not np.array_equal(one["record"], other["record"])


def test_an_epoch_shows_every_picture_once_and_the_next_in_another_order(directory):
    loader = make_loader(prepared.IMAGES, directory, batch=4, seed=0)
    assert loader.steps_per_epoch == 6
    batches = take(loader, 12)
    first, second = (
        np.concatenate([batch["record"] for batch in batches[start : start + 6]])
        for start in (0, 6)
    )
    assert sorted(first) == sorted(second) == list(range(24))
    assert first.tolist() != second.tolist()


def samples_of(batch):
    """Yields (record, tokens) of every sample of a batch."""
    for row in range(len(batch["tokens"])):
        records = [r for r in batch["record"][row] if r >= 0]
        for segment, record in enumerate(records, 1):
            at = batch["segment_ids"][row] == segment
            yield int(record), batch["tokens"][row][at]


def test_every_sample_comes_once_an_epoch_and_tasks_in_proportion(
    directory, vocabulary
):
    mixture = MixtureConfig(caption=0.5, question=0.5, draw=1.0)
    config = replace(prepared.SEQUENCES, mixture=mixture, prompt_drop=0.0)
    loader = make_loader(config, directory, vocabulary, batch=1, seed=0)
    lines = loader.summary.splitlines()
    counts = {line.split(":")[0]: int(line.split()[1]) for line in lines}
    batches = take(loader, 800)
    seen = {"caption": Counter(), "question": Counter(), "draw": Counter()}
    asked = vocabulary.encode("Describe the image.")
    for batch in batches:
        for record, tokens in samples_of(batch):
            text = [int(t) for t in tokens if vocabulary.is_text[t]]
            if tokens[1] != vocabulary.boi:
                task = "draw"
            else:
                task = "caption" if text[: len(asked)] == asked else "question"
            seen[task][(record, tuple(text))] += 1
    totals = {task: sum(counter.values()) for task, counter in seen.items()}
    understanding = totals["caption"] + totals["question"]
    # Exact over whole epochs; here to within the rows of the epochs that are under way.
    assert abs(understanding / totals["draw"] - 1) < 0.02
    assert abs(totals["caption"] / totals["question"] - 1) < 0.04
    for task, counter in seen.items():
        assert len(counter) <= counts[task]
        epochs = totals[task] / counts[task]
        samples_alike = max(counter.values()) / epochs
        assert min(counter.values()) >= int(epochs)
        assert samples_alike < 3.5  # equal captions of one record count together


def test_rows_hold_what_was_laid_out(directory, vocabulary):
    loader = make_loader(prepared.SEQUENCES, directory, vocabulary, batch=4, seed=5)
    for batch in take(loader, 6):
        for row in range(4):
            segments = batch["segment_ids"][row]
            used = np.count_nonzero(segments)
            assert (np.diff(segments[:used]) >= 0).all()
            assert (segments[used:] == 0).all()
            assert (batch["targets"][row][used:] == IGNORE).all()
            slots = batch["feature_index"][row]
            shown = slots[slots != NO_FEATURE]
            # Every feature of every view in order, views packed from the front.
            assert shown.tolist() == list(range(len(shown)))
            views = len(shown) // 16
            assert batch["pixels"][row][:views].any(axis=(1, 2, 3)).all()
            assert not batch["pixels"][row][views:].any()
            for segment in range(1, segments.max() + 1):
                at = segments == segment
                positions = batch["positions"][row][at]
                np.testing.assert_array_equal(positions, np.arange(at.sum()))
                tokens, targets = (batch[k][row][at] for k in ("tokens", "targets"))
                learnt = targets[:-1] != IGNORE
                np.testing.assert_array_equal(targets[:-1][learnt], tokens[1:][learnt])
                assert targets[-1] == IGNORE
                assert tokens[0] == vocabulary.bos
                assert tokens[-1] == vocabulary.end


def test_prompts_are_dropped_as_often_as_asked(directory, vocabulary):
    mixture = MixtureConfig(caption=1, question=0, draw=1)
    config = replace(prepared.SEQUENCES, mixture=mixture, prompt_drop=0.25)
    batches = take(make_loader(config, directory, vocabulary, batch=8, seed=0), 40)
    drawn = dropped = 0
    for batch in batches:
        for _, tokens in samples_of(batch):
            if tokens[1] == vocabulary.boi:
                # Understanding: the question is never dropped.
                assert vocabulary.is_text[tokens].sum() > 5
                continue
            drawn += 1
            dropped += tokens[1] == vocabulary.end
    assert abs(dropped / drawn - 0.25) < 0.05


def test_discrete_rows_hold_no_pixels_and_decode_none(tmp_path):
    directory = prepared.make(
        tmp_path / "set", **{f"r{i}": {"bytes": b"no picture"} for i in range(24)}
    )
    vocabulary = prepared.vocabulary(directory)
    config = replace(
        prepared.SEQUENCES,
        layout=LayoutConfig(encoding="discrete", code_stride=8),
        bad_limit=0,
    )
    (batch,) = take(make_loader(config, directory, vocabulary, batch=2, seed=0), 1)
    assert batch["pixels"].shape == (2, 0, 32, 32, 3)
    assert (batch["feature_index"] == NO_FEATURE).all()


@KINDS
def test_a_bad_picture_is_set_aside_and_the_run_goes_on(kind, tmp_path):
    directory = prepared.make(tmp_path / "set", r5={"bytes": b"no picture"})
    vocabulary = prepared.vocabulary(directory)
    config = CONFIGS[kind]

    def run(hosts):
        loader = make_loader(
            config, directory, vocabulary, batch=4, seed=0, hosts=hosts
        )
        with loader:
            batches = [next(loader) for _ in range(30)]
            return batches, loader.bad_records

    batches, bad = run(1)
    assert list(bad) == ["picture/00005"]
    assert "is not an image" in bad["picture/00005"]
    seen = np.concatenate([batch["record"].ravel() for batch in batches])
    assert 5 not in seen
    assert set(seen.tolist()) - {-1} == set(range(24)) - {5}
    for one, other in zip(batches, run(1)[0], strict=True):
        assert_equal(one, other)


@pytest.mark.parametrize("threads", [0, 2])
def test_more_bad_records_than_allowed_end_the_run(threads, tmp_path):
    changes = {f"r{i}": {"bytes": b"no picture"} for i in range(3)}
    directory = prepared.make(tmp_path / "set", **changes)
    config = replace(prepared.IMAGES, bad_limit=2, threads=threads)
    # Eight steps are three epochs: whichever comes first meets all bad records.
    loader = make_loader(config, directory, batch=8, seed=0)
    message = r"3 records had to be set aside and bad_limit is 2; the first is picture/"
    with loader, pytest.raises(BadRecordsError, match=message):
        take(loader, 10)


@KINDS
def test_half_of_the_records_gone_is_not_set_aside(kind, tmp_path):
    changes = {f"r{i}": {"bytes": b"no picture"} for i in range(0, 24, 2)}
    if kind == "sequences":  # found as rows are planned, all at once
        changes = {f"r{i}": {"captions": ["red apple " * 60]} for i in range(0, 24, 2)}
    directory = prepared.make(tmp_path / "set", **changes)
    vocabulary = prepared.vocabulary(directory)
    count = 12 if kind == "sequences" else 6
    message = rf"{count} of 24 records .* bad_share is 10.0%; the first is picture/"
    with pytest.raises(BadRecordsError, match=message):
        take(make_loader(CONFIGS[kind], directory, vocabulary, batch=8, seed=0), 10)


@pytest.mark.parametrize("threads", [0, 2])
def test_a_file_that_goes_away_ends_the_run_in_a_sentence(
    threads, tmp_path, monkeypatch
):
    monkeypatch.setattr(readers, "_PAUSES", (0.0,))
    monkeypatch.setattr(readers, "_MOST_OPEN", 1)  # so that files are opened again
    directory = prepared.make(tmp_path / "set")
    config = replace(prepared.IMAGES, cache_mib=0, threads=threads)
    loader = make_loader(config, directory, batch=4, seed=0)
    path = directory / "train.pictures-00001-of-00002.array_record"
    with loader:
        next(loader)
        path.unlink()
        with pytest.raises(StorageError, match=rf"{path} cannot be read .*is missing"):
            list(itertools.islice(loader, 8))
        assert not loader.bad_records


def test_a_sample_longer_than_the_row_is_named_and_left_out(tmp_path):
    directory = prepared.make(tmp_path / "set", r7={"captions": ["red apple " * 60]})
    vocabulary = prepared.vocabulary(directory)
    loader = make_loader(prepared.SEQUENCES, directory, vocabulary, batch=2, seed=0)
    assert list(loader.bad_records) == ["picture/00007"]
    message = loader.bad_records["picture/00007"]
    assert "record 'picture/00007': a sample takes" in message
    assert "but a row has 160; raise data.row_length" in message
    loader.close()
    strict = replace(prepared.SEQUENCES, bad_limit=0)
    with pytest.raises(BadRecordsError, match="a sample takes"):
        make_loader(strict, directory, vocabulary, batch=2, seed=0)


def test_records_without_codes_are_refused_with_what_to_do(tmp_path):
    changes = {f"r{i}": {"codes": []} for i in range(24)}
    directory = prepared.make(tmp_path / "set", **changes)
    vocabulary = prepared.vocabulary(directory)
    with pytest.raises(RecordError, match=r"no samples.*pre-tokenise the data set"):
        make_loader(prepared.SEQUENCES, directory, vocabulary, batch=2, seed=0)
    mixture = MixtureConfig(caption=1, question=1, draw=0)
    layout = replace(prepared.SEQUENCES.layout, encoding="continuous")
    read_only = replace(prepared.SEQUENCES, mixture=mixture, layout=layout)
    (batch,) = take(make_loader(read_only, directory, vocabulary, batch=2, seed=0), 1)
    assert (batch["feature_index"] != NO_FEATURE).any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_size": 64}, r"data.image_size is 64, but the codes in .* with 32;"),
        ({"background": (0, 0, 0)}, r"data.background is \[0, 0, 0\], .* 255\];"),
        ({"layout": LayoutConfig(code_stride=16)}, r"code_stride is 16, .* with 8;"),
    ],
)
def test_codes_of_pictures_shown_otherwise_are_refused(
    change, message, directory, vocabulary, tmp_path
):
    def encode(pixels):
        return np.zeros((len(pixels), 4, 4), np.int32)

    coded = tmp_path / "coded"
    pretokenize(directory, coded, encode, batch=8, image_size=32, tokenizer_id="zero")
    config = prepared.SEQUENCES
    make_loader(config, coded, vocabulary, batch=2, seed=0).close()
    with pytest.raises(LoaderError, match=message):
        make_loader(replace(config, **change), coded, vocabulary, batch=2, seed=0)


def test_identify_names_records_once(directory):
    with make_loader(prepared.IMAGES, directory, batch=4, seed=0) as loader:
        names = loader.identify(np.array([[3, -1], [0, 3]]))
    assert names == ["picture/00003", "picture/00000"]


def test_closing_leaves_no_threads(directory, vocabulary):
    before = set(threading.enumerate())
    config = replace(prepared.SEQUENCES, threads=4, prefetch=8)
    loader = make_loader(config, directory, vocabulary, batch=4, seed=0)
    for _ in range(3):
        next(loader)
    started = set(threading.enumerate()) - before
    assert started
    loader.close()
    loader.close()
    deadline = time.monotonic() + 10
    while started & set(threading.enumerate()) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not started & set(threading.enumerate())
    with pytest.raises(RuntimeError, match="after the loader was closed"):
        loader.identify(np.array([1]))


def test_refusals(directory, tmp_path):
    with pytest.raises(LoaderError, match="host 0 of 3 cannot take an equal part of a"):
        make_loader(prepared.IMAGES, directory, batch=4, seed=0, hosts=3)
    with pytest.raises(LoaderError, match="kind 'pairs' needs a vocabulary"):
        make_loader(prepared.PAIRS, directory, batch=4, seed=0)
    with pytest.raises(ShardError, match="no split 'test'"):
        make_loader(replace(prepared.IMAGES, split="test"), directory, batch=4, seed=0)
    with (
        make_loader(prepared.IMAGES, directory, batch=4, seed=0) as loader,
        pytest.raises(LoaderError, match="a position is an element from 0 on, not -1"),
    ):
        loader.position = -1
    elsewhere = replace(prepared.IMAGES, directory=str(directory))
    make_loader(elsewhere, tmp_path / "absent", batch=4, seed=0).close()


def test_targets_never_cross_segments(directory, vocabulary):
    # With released labels SEP is supervised too, from the last newline.
    layout = replace(prepared.SEQUENCES.layout, labels="released")
    config = replace(prepared.SEQUENCES, layout=layout)
    (batch,) = take(make_loader(config, directory, vocabulary, batch=8, seed=0), 1)
    separators = np.count_nonzero(batch["tokens"] == vocabulary.sep)
    assert np.count_nonzero(batch["targets"] == vocabulary.sep) == separators > 0
    last = np.diff(batch["segment_ids"], append=0) != 0
    assert (batch["targets"][last] == IGNORE).all()
