"""Dialogues in rows of UniTok's LLM: Vicuna's template, and images in it."""

from dataclasses import replace

import coded
import conversations
import numpy as np
import prepared
import pytest
from conversations import CASES

from data_pipelines.loader import make_loader
from data_pipelines.packing import IGNORE, NO_FEATURE
from data_pipelines.storage import records
from data_pipelines.storage.record_cache import RecordCache
from data_pipelines.tokenizers.chameleon import train_vocabulary
from data_pipelines.tokenizers.tokenizer import read_vocabulary
from data_pipelines.unitok_mllm import sequence
from data_pipelines.unitok_mllm.rows import MLLMFormat, MLLMRowsConfig, read_codes
from data_pipelines.unitok_mllm.sequence import MLLMMixture, PromptsConfig

S, BOOKS = 16, 4
ALONE = MLLMMixture(draw=0.0, caption=0.0, question=0.0, dialogue=1.0)
SHORT = PromptsConfig(system="be kind", images_first=False, mixture=ALONE)


@pytest.fixture(scope="module")
def v(tmp_path_factory):
    path = tmp_path_factory.mktemp("llama") / "tokenizer.json"
    path.write_text(coded.llama_tokenizer())
    return read_vocabulary(path)


def lay_out(messages, v, prompts=SHORT):
    said = sequence.dialogue_spans(messages, v, prompts)
    laid = sequence.lay_out(said.spans, S, v)
    assert len(laid.tokens) == sequence.length(said.spans, S)
    return laid, said


def expected(case, v):
    """Tokens without images and labels, written out in plain loops."""
    parts, system = [], list(case.system) or ["be kind"]
    for number, turn in enumerate(case.turns):
        if number % 2:
            parts += [(part, True) for part in turn] + [(None, True)]
            continue
        given = system
        if turn or parts:
            given = [*given, " ", "USER: ", *turn] if given else ["USER: ", *turn]
        given, system = [*given, " ", "ASSISTANT:"], []
        text = ""
        for part in [*given, 0.5]:
            if isinstance(part, str):
                text += part
                continue
            parts += [(text, False)] if text else []
            text = ""
            parts += [(part, False)] if isinstance(part, int) else []
    tokens, labels = [v.bos], [IGNORE]
    for part, learnt in parts:
        if part is None:
            ids = [v.end]
        elif isinstance(part, int):
            ids = [v.boi, *[-9] * S, v.eoi] if learnt else [-9] * S
        else:
            ids = v.encode(part)
        tokens += [max(i, 0) for i in ids]
        labels += [i if learnt and i >= 0 else IGNORE for i in ids]
    return tokens, labels


@pytest.mark.parametrize("name", CASES)
def test_a_dialogue_is_laid_out_turn_by_turn(v, name):
    case = CASES[name]
    laid, said = lay_out(case.messages, v)
    tokens, labels = expected(case, v)
    assert laid.tokens.tolist() == tokens
    assert laid.labels.tolist() == labels
    assert said.images == case.shown
    assert said.drawn == len(case.drawn)
    places = np.flatnonzero(laid.feature_index != NO_FEATURE)
    assert laid.feature_index[places].tolist() == list(range(S * len(case.shown)))
    # The state before an image's token predicts it: BOI's the first one.
    targets = laid.image_target_positions
    assert len(targets) == S * len(case.drawn)
    assert (laid.tokens[targets[::S]] == v.boi).all()
    assert (laid.feature_index[targets + 1] != NO_FEATURE).all()


def test_one_question_is_laid_out_as_the_task_does(v):
    prompts = PromptsConfig()
    messages = [
        records.message("user", records.image(0), "is it a heart?"),
        records.message("assistant", "a heart"),
    ]
    laid, _ = lay_out(messages, v, prompts)
    turns = sequence.question_turns("is it a heart?", "a heart", v, prompts)
    theirs = sequence.lay_out(sequence.spans_of(turns, v), S, v)
    for one, two in zip(laid, theirs, strict=True):
        np.testing.assert_array_equal(one, two)


def test_one_image_moves_to_the_front_as_published_and_several_stay(v):
    prompts = replace(SHORT, images_first=True)
    one = CASES["an image in the midst of a later question"].messages
    _, said = lay_out(one, v, prompts)
    assert said.images == [0, 1]
    later = v.decode(said.spans[2].ids[said.spans[2].ids != sequence.IMAGE_MARK])
    assert "\nand is  an apple? ASSISTANT:" in later
    several = CASES["two images in one question"].messages
    for options in (prompts, SHORT):
        spans = lay_out(several, v, options)[1].spans
        np.testing.assert_array_equal(spans[0].ids, lay_out(several, v)[1].spans[0].ids)


def test_a_text_that_spells_a_mark_never_becomes_one(v):
    laid, said = lay_out(CASES["texts that spell marks"].messages, v)
    assert said.images == [0]
    assert np.count_nonzero(laid.feature_index != NO_FEATURE) == S
    assert (laid.tokens == v.end).sum() == 1
    assert v.decode(said.spans[1].ids) == "<|image|><image></s>"


def test_rows_hold_the_codes_of_every_image(v):
    made = [
        conversations.record(name, case, (BOOKS,), coded.CODES)
        for name, case in CASES.items()
    ]
    config = MLLMRowsConfig(row_length=512, row_views=4, prompts=SHORT)
    cache = RecordCache(
        made, lambda r: read_codes(r, every=True), cache_bytes=10**6, bad_limit=0
    )
    rows = MLLMFormat(v, config)
    table = rows.tabulate(cache)
    assert len(table) == len(made)
    assert table.draws.tolist() == [bool(case.drawn) for case in CASES.values()]
    for number, case in enumerate(CASES.values()):
        prepared_codes = cache[int(table.record[number])]
        assert prepared_codes is not None
        laid = rows.lay_out(number, prepared_codes, drop_prompt=False)
        assert len(laid.sample.tokens) == table.length[number]
        assert len(laid.images) == table.views[number] == len(case.shown)
        for place, image in enumerate(case.shown):
            codes = records.codes_of(made[number], image).reshape(S, BOOKS)
            np.testing.assert_array_equal(laid.images[place], codes)


def test_a_stream_mixes_dialogues_and_names_what_it_leaves_out(tmp_path):
    made = [
        conversations.record(name, case, (BOOKS,), coded.CODES)
        for name, case in CASES.items()
    ]
    names = list(CASES)
    two = names.index("two images in one question")
    made[two]["images"][1]["codes"] = []
    story = names.index("an interleaved story")
    tokenizer = train_vocabulary(prepared.TEXTS, 16, 270, 2)
    directory = coded.write(tmp_path / "set", made, tokenizer)
    vocabulary = read_vocabulary(directory / "tokenizer.json")
    config = MLLMRowsConfig(
        image_size=32, row_length=256, row_views=2, prompts=SHORT, threads=0
    )
    more = replace(config, row_views=3, row_length=400)
    for options, missing in ((config, 3), (more, 1)):
        with make_loader(options, directory, vocabulary, batch=1, seed=0) as stream:
            steps = round(stream.steps_per_epoch)
            rows = [next(stream) for _ in range(steps)]
            bad = stream.bad_records
        assert "holds no codes of its image 1" in bad[names[two]]
        assert (names[story] in bad) == (missing == 3)
        seen = np.concatenate([row["record"].ravel() for row in rows])
        assert len(set(seen[seen >= 0].tolist())) == len(made) - missing
        for row in rows:
            places = row["image_target_positions"][row["image_target_positions"] >= 0]
            assert (row["feature_index"][0, places + 1] != NO_FEATURE).all()
            assert (row["targets"][0, places] == IGNORE).all()
