"""Packed rows of UniTok's LLM: nothing crosses, every sample once, drops by chance."""

from dataclasses import replace

import coded
import numpy as np
import prepared
import pytest

from data_pipelines.elements import CodeSpec
from data_pipelines.errors import LoaderError
from data_pipelines.loader import make_loader
from data_pipelines.packing import IGNORE, NO_FEATURE
from data_pipelines.storage import records
from data_pipelines.storage.record_cache import BadRecordsError
from data_pipelines.storage.records import RecordError
from data_pipelines.storage.shards import Split
from data_pipelines.tokenizers.chameleon import train_vocabulary
from data_pipelines.tokenizers.tokenizer import read_vocabulary
from data_pipelines.unitok_mllm.rows import MLLMRowsConfig
from data_pipelines.unitok_mllm.sequence import MLLMMixture, PromptsConfig

MIXTURE = MLLMMixture(draw=2.0, caption=1.0, question=1.0, text=1.0)
CONFIG = MLLMRowsConfig(
    image_size=32,
    row_length=96,
    row_views=3,
    prompts=PromptsConfig(
        request="draw {caption}", question="<|image|>{question}", mixture=MIXTURE
    ),
    prompt_drop=0.25,
    threads=0,
)


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return coded.make(tmp_path_factory.mktemp("data") / "set", texts=9)


@pytest.fixture(scope="module")
def vocabulary(directory):
    return read_vocabulary(directory / "tokenizer.json")


def loader(config, directory, vocabulary, batch=4, seed=0):
    return make_loader(config, directory, vocabulary, batch=batch, seed=seed)


def test_shapes_and_facts(directory, vocabulary):
    with loader(CONFIG, directory, vocabulary) as made:
        batch = next(made)
        assert made.codes == CodeSpec(coded.SIZE, coded.CODEBOOKS, coded.CODES)
    shapes = {k: x.shape[1:] for k, x in batch.items() if k != "record"}
    assert shapes == {
        **dict.fromkeys(
            ("tokens", "segment_ids", "positions", "targets", "feature_index"), (96,)
        ),
        "codes": (3, coded.SIZE, coded.CODEBOOKS),
        "image_target_positions": (3 * coded.SIZE,),
    }
    assert {x.dtype for x in batch.values()} == {np.dtype(np.int32)}


def test_rows_hold_what_their_records_say(directory, vocabulary):
    """Slots lead to the codes of the segment's record; draws stand before them."""
    split = Split(directory, "train")
    drawn = dropped = texts = 0
    empty = [vocabulary.bos, *vocabulary.encode("<unconditional>"), vocabulary.boi]
    with loader(CONFIG, directory, vocabulary) as made:
        for _ in range(24):
            batch = next(made)
            for row in range(4):
                get = {k: x[row] for k, x in batch.items()}
                flat = get["codes"].reshape(-1, coded.CODEBOOKS)
                draws = get["image_target_positions"][
                    get["image_target_positions"] >= 0
                ]
                here = set((draws + 1).tolist())
                for segment in range(1, get["segment_ids"].max() + 1):
                    at = np.flatnonzero(get["segment_ids"] == segment)
                    assert get["positions"][at].tolist() == list(range(len(at)))
                    image = at[get["feature_index"][at] != NO_FEATURE]
                    record = split[int(get["record"][segment - 1])]
                    if not records.has_image(record):
                        assert not len(image)
                        texts += 1
                        continue
                    codes = records.codes_of(record).reshape(-1, coded.CODEBOOKS)
                    assert (flat[get["feature_index"][image]] == codes).all()
                    is_drawn = set(image.tolist()) <= here
                    assert is_drawn or not set(image.tolist()) & here
                    drawn += is_drawn
                    start = get["tokens"][at[: len(empty)]].tolist()
                    dropped += is_drawn and start == empty
                # A target is the next label of the same segment.
                last = np.diff(get["segment_ids"], append=0) != 0
                assert (get["targets"][last] == IGNORE).all()
                known = np.flatnonzero(get["targets"] != IGNORE)
                assert (get["targets"][known] == get["tokens"][known + 1]).all()
    split.close()
    assert texts
    assert 0.1 < dropped / drawn < 0.45


def test_the_digest_is_of_samples_and_their_order(directory, vocabulary):
    digests = []
    for options in ({}, {"batch": 2}, {"seed": 1}):
        with loader(CONFIG, directory, vocabulary, **options) as made:
            digests.append(made.digest)
    assert digests[0] == digests[1] != digests[2]


def test_an_epoch_shows_every_sample_once(directory, vocabulary):
    mixture = MLLMMixture(draw=1.0, caption=0.0, question=0.0)
    config = replace(CONFIG, prompts=replace(CONFIG.prompts, mixture=mixture))
    with loader(config, directory, vocabulary, batch=1) as made:
        seen = [next(made)["record"] for _ in range(round(made.steps_per_epoch))]
    found = np.bincount(np.concatenate([x[x >= 0] for x in seen]), minlength=24)
    split = Split(directory, "train")
    captions = [len(split[i]["captions"]) for i in range(24)]
    split.close()
    assert found.tolist() == captions


def test_records_that_do_not_fit_are_set_aside(tmp_path, caplog):
    rng = np.random.default_rng(0)
    made = [coded.record(i, rng) for i in range(4)]
    made[2] = records.with_codes(made[2], np.zeros((2, 2, coded.CODEBOOKS), int))
    made[3]["captions"] = ["heart " * 200]
    tokenizer = train_vocabulary(prepared.TEXTS, 16, 270, 2)
    directory = coded.write(tmp_path / "set", made, tokenizer)
    vocabulary = read_vocabulary(directory / "tokenizer.json")
    mixture = MLLMMixture(question=0.0)
    config = replace(CONFIG, prompts=replace(CONFIG.prompts, mixture=mixture))
    with loader(config, directory, vocabulary) as stream:
        reasons = " ".join(stream.bad_records.values())
    assert "codes of shape [2, 2, 4], those before have [3, 2, 4]" in reasons
    assert "raise data.row_length" in reasons
    with pytest.raises(BadRecordsError, match="bad_limit is 0"):
        loader(replace(config, bad_limit=0), directory, vocabulary)


def test_refusals(directory, vocabulary, tmp_path):
    with pytest.raises(LoaderError, match=r"data.image_size is 64, but the codes"):
        loader(replace(CONFIG, image_size=64), directory, vocabulary)
    bare = coded.make(tmp_path / "bare")
    with pytest.raises(RecordError, match=r"no samples for the task 'text'"):
        loader(CONFIG, bare, vocabulary)
    # UniToken's rows spell codes as ids.
    layout = replace(prepared.SEQUENCES.layout, code_stride=10)
    rows = replace(prepared.SEQUENCES, layout=layout)
    with pytest.raises(RecordError, match="codes of 4 codebooks, which no ids"):
        loader(rows, directory, vocabulary)
