"""Dialogues in rows of UniToken: what stands where, what is learnt, what is shown."""

from dataclasses import replace

import conversations
import numpy as np
import prepared
import pytest
from conversations import CASES

from data_pipelines.errors import DataError
from data_pipelines.images import decoding
from data_pipelines.images.anyres import NEWLINE, ViewsConfig, feature_indices
from data_pipelines.loader import make_loader
from data_pipelines.packing import IGNORE, NO_FEATURE
from data_pipelines.storage import records
from data_pipelines.storage.manifest import Manifest, file_digest
from data_pipelines.storage.record_cache import RecordCache
from data_pipelines.storage.shards import write_split
from data_pipelines.unitoken import rows, sequence
from data_pipelines.unitoken.inspection import describe_row
from data_pipelines.unitoken.samples import MixtureConfig

ALONE = MixtureConfig(caption=0.0, question=0.0, draw=0.0, dialogue=1.0)
CONFIG = replace(
    prepared.SEQUENCES, mixture=ALONE, row_length=500, row_views=9, prompt_drop=1.0
)


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory):
    return prepared.vocabulary(prepared.make(tmp_path_factory.mktemp("v") / "set", 1))


def packed(made, vocabulary, config=CONFIG):
    cache = RecordCache(
        made,
        lambda record: rows.show_record(record, config),
        cache_bytes=10**7,
        bad_limit=9,
    )
    return rows.packed_rows(cache, vocabulary, config, 0), cache


def row_of(record, vocabulary, config=CONFIG):
    found, _ = packed([record], vocabulary, config)
    assert len(found.plans["dialogue"]) == 1
    return found.build(("dialogue", 0), np.random.default_rng(0))


def expected(case, record, vocabulary, config):
    """Tokens, labels and features, written out in plain loops."""
    turns = [list(turn) for turn in case.turns]
    if case.system:
        text = case.system[0] + "\n"
        rest = turns[0]
        joined = isinstance(rest[0], str)
        turns[0] = [text + rest[0], *rest[1:]] if joined else [text, *rest]
    tokens, labels, index, views = [vocabulary.bos], [IGNORE], [NO_FEATURE], 0
    for number, turn in enumerate(turns):
        learnt = number % 2 == 1
        for part in [*turn, None]:
            ids, features = [vocabulary.end], []
            if isinstance(part, str):
                ids = vocabulary.encode(part)
            elif isinstance(part, int):
                codes = records.codes_of(record, part)
                has_codes, has_features = config.layout.parts(drawn=learnt)
                ids = sequence.image_ids(
                    codes if has_codes else None, vocabulary, config.layout
                ).tolist()
                if has_features:
                    block = feature_indices(32, 32, config.views)
                    before = views * config.views.features
                    features = [n if n == NEWLINE else n + before for n in block]
                    views += 1 + block.max() // config.views.features
                    between = [vocabulary.newline if n < 0 else 0 for n in features]
                    features = [NO_FEATURE, *features]
                    ids = [*ids[:-1], vocabulary.sep, *between, ids[-1]]
            at = len(ids) - 1 - len(features)
            has_loss = [learnt] * len(ids)
            has_loss[at : at + len(features)] = [False] * len(features)
            tokens += ids
            labels += [t if yes else IGNORE for t, yes in zip(ids, has_loss)]  # noqa: B905
            index += [NO_FEATURE] * at + features
            index += [NO_FEATURE] * (len(ids) - at - len(features))
    return tokens, labels, index, views


@pytest.mark.parametrize("encoding", ["dual", "discrete", "continuous"])
@pytest.mark.parametrize("grids", [(), ((1, 2), (2, 2))])
@pytest.mark.parametrize("name", CASES)
def test_a_dialogue_is_laid_out_turn_by_turn(vocabulary, name, grids, encoding):
    layout = replace(CONFIG.layout, encoding=encoding, continuous_in_generation=False)
    config = replace(
        CONFIG, layout=layout, views=ViewsConfig(32, 8, grids), row_views=20
    )
    case = CASES[name]
    record = conversations.record(name, case)
    row = row_of(record, vocabulary, config)
    tokens, labels, index, views = expected(case, record, vocabulary, config)
    length = len(tokens)
    assert row["tokens"][:length].tolist() == tokens
    assert row["targets"][: length - 1].tolist() == labels[1:]
    assert (row["targets"][length - 1 :] == IGNORE).all()
    assert row["feature_index"][:length].tolist() == index
    assert (row["segment_ids"] == 1).sum() == length
    if encoding == "discrete":
        return
    read = case.shown
    if not layout.parts(drawn=True)[1]:
        read = [p for turn in case.turns[::2] for p in turn if isinstance(p, int)]
    expect = [
        rows.show_image(decoding.decode_image(record, image), config) for image in read
    ]
    assert views == sum(map(len, expect))
    if expect:
        np.testing.assert_array_equal(row["pixels"][:views], np.concatenate(expect))
    assert not row["pixels"][views:].any()


def test_a_picture_drawn_is_laid_out_as_the_task_draw_does(vocabulary):
    record = prepared.record(3, np.random.default_rng(3))
    record["captions"] = ["a red heart"]
    request = CONFIG.layout.prompt_template.format(caption="a red heart")
    record["messages"] = [
        records.message("user", request),
        records.message("assistant", records.image(0)),
    ]
    mixture = MixtureConfig(caption=0.0, question=0.0, draw=1.0, dialogue=1.0)
    config = replace(CONFIG, mixture=mixture, prompt_drop=0.0)
    found, _ = packed([record], vocabulary, config)
    one, two = (
        found.build((task, 0), np.random.default_rng(0))
        for task in ("draw", "dialogue")
    )
    for key in one:
        np.testing.assert_array_equal(one[key], two[key])


def test_a_text_that_spells_a_mark_never_becomes_one(vocabulary):
    case = CASES["texts that spell marks"]
    row = row_of(conversations.record("x", case), vocabulary)
    assert (row["tokens"] == vocabulary.boi).sum() == 1
    turns, images = sequence.encode_dialogue(case.messages, vocabulary)
    assert images == [0]
    assert vocabulary.decode(turns[1].ids) == "<|image|><image></s>"
    text = vocabulary.decode(turns[0].ids[turns[0].ids != sequence.IMAGE_MARK])
    assert text == "<image><|image|> <s>"


def test_what_draws_is_generation_and_the_rest_understanding(vocabulary):
    made = [conversations.record(name, case) for name, case in CASES.items()]
    found, _ = packed(made, vocabulary)
    draws = found.table.draws[np.argsort(found.table.record)]
    assert draws.tolist() == [bool(case.drawn) for case in CASES.values()]
    assert found.tasks["dialogue"].drawing == sum(draws)


def test_what_fits_no_row_or_lacks_codes_is_refused_and_the_rest_stays(vocabulary):
    made = [conversations.record(name, case) for name, case in CASES.items()]
    names = list(CASES)
    two = names.index("two images in one question")
    made[two]["images"][1]["codes"] = []
    story = names.index("an interleaved story")
    found, cache = packed(made, vocabulary, replace(CONFIG, row_views=2))
    assert set(range(len(made))) - set(found.table.record.tolist()) == {
        two,
        story,
        names.index("draw again"),
    }
    assert "holds no codes" in cache.bad_records[names[two]]
    assert (
        "a sample shows 3 views, but a row holds 2" in cache.bad_records[names[story]]
    )


def test_codes_alone_have_no_views(vocabulary):
    record = conversations.record("x", CASES["completing"])
    bare = records.picture(b"", codes=record["images"][0]["codes"])
    record["images"] = [bare, bare]
    config = replace(CONFIG, canvas="original")
    with pytest.raises(DataError, match="codes alone of a picture"):
        packed([record], vocabulary, config)
    layout = replace(CONFIG.layout, encoding="discrete")
    row = row_of(record, vocabulary, replace(config, layout=layout))
    assert (row["tokens"] == vocabulary.boi).sum() == 2


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """Pictures with captions, and one record of each conversation."""
    directory = tmp_path_factory.mktemp("data") / "set"
    prepared.make(directory, 6)
    rng = np.random.default_rng(0)
    made = [prepared.record(i, rng) for i in range(6)]
    made += [conversations.record(name, case) for name, case in CASES.items()]
    for path in directory.glob("train*"):
        path.unlink()
    entries = map(records.encode, made)
    shards = write_split(directory, "train", entries, count=len(made), shards=2)
    files = {"tokenizer.json": file_digest(directory / "tokenizer.json")}
    Manifest({"train": shards}, {"source": "test"}, {}, (), files).write(directory)
    return directory


def test_a_stream_mixes_dialogues_with_the_other_tasks(directory, vocabulary):
    mixture = MixtureConfig(dialogue=1.0)
    config = replace(CONFIG, mixture=mixture, row_length=200, prompt_drop=0.25)
    with make_loader(config, directory, vocabulary, batch=2, seed=0) as stream:
        batches = [next(stream) for _ in range(round(stream.steps_per_epoch) + 1)]
        draws = sum(bool(case.drawn) for case in CASES.values())
        assert (
            f"dialogue: {len(CASES)} samples ({draws} of them draw)" in stream.summary
        )
        assert not stream.bad_records
    seen = np.concatenate([batch["record"].ravel() for batch in batches])
    assert set(seen.tolist()) == set(range(-1, 6 + len(CASES)))
    text = describe_row(batches[0], 0, vocabulary)
    assert text.startswith("row 0: ")


def test_without_dialogues_conversations_change_nothing(
    directory, vocabulary, tmp_path
):
    plain = prepared.make(tmp_path / "set", 6)
    batches = []
    for at in (directory, plain):
        config = replace(prepared.SEQUENCES, row_length=200)
        with make_loader(config, at, vocabulary, batch=2, seed=0) as stream:
            batches.append([next(stream) for _ in range(4)])
            assert not stream.bad_records
    for one, two in zip(*batches, strict=True):
        for key in one:
            np.testing.assert_array_equal(one[key], two[key])
