"""Layouts and labels against the published code's, and their own rules."""

import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import vocabularies
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

from data_pipelines.images import anyres
from data_pipelines.images.anyres import UNITOKEN_GRIDS, ViewsConfig
from data_pipelines.packing import IGNORE, NO_FEATURE, shift_labels
from data_pipelines.unitoken import sequence
from data_pipelines.unitoken.sequence import (
    ImageContent,
    LayoutConfig,
    SequenceError,
    Turn,
)

GOLDEN = Path(__file__).parents[2] / "golden" / "unitoken_anyres_tiny"
ANYRES = ViewsConfig(grids=UNITOKEN_GRIDS)
RELEASED = LayoutConfig(labels="released")
chameleon = cache(vocabularies.chameleon)
small = cache(vocabularies.small)


def text(length, start=16400):
    return np.arange(start, start + length, dtype=np.int32)


def mark():
    return np.array([sequence.IMAGE_MARK], np.int32)


def picture(width, height, side=32):
    codes = np.arange(side * side).reshape(side, side) % 8192
    return ImageContent(codes, anyres.feature_indices(width, height, ANYRES))


def supervised(sample):
    return np.flatnonzero(sample.labels != IGNORE).tolist()


@pytest.mark.parametrize("index", range(4))
def test_splice_equals_the_published_labels(index):
    config = json.loads(GOLDEN.with_suffix(".json").read_text())
    golden = load_file(GOLDEN.with_suffix(".activations.safetensors"))
    width, height, _ = config["images"][index]
    views = ViewsConfig(config["vit_image"], 14, UNITOKEN_GRIDS)
    tokens = golden[f"tokens.{index}"].astype(np.int32)
    labels = golden[f"labels.{index}"].astype(np.int32)
    labels[labels == -100] = IGNORE
    block = anyres.feature_indices(width, height, views)
    sample = sequence.splice(tokens, labels, [block], chameleon(), "released")
    merged = golden["merged_labels"][index]
    ours = np.full_like(merged, -100)
    ours[: len(sample.labels)] = np.where(sample.labels == IGNORE, -100, sample.labels)
    np.testing.assert_array_equal(ours, merged)


def test_published_embeddings_stand_where_tokens_and_slots_say():
    # Rows of the input embeddings are rows of the table, wherever there is no slot.
    config = json.loads(GOLDEN.with_suffix(".json").read_text())
    golden = load_file(GOLDEN.with_suffix(".activations.safetensors"))
    width, height, _ = config["images"][0]
    block = anyres.feature_indices(width, height, ViewsConfig(56, 14, UNITOKEN_GRIDS))
    tokens = golden["tokens.0"].astype(np.int32)
    sample = sequence.splice(tokens, tokens, [block], chameleon(), "paper")
    embeddings = golden["inputs_embeds"][0][: len(sample.tokens)]
    at_slots = sample.feature_index != NO_FEATURE
    features = golden["adapter_features"].reshape(-1, embeddings.shape[-1])
    np.testing.assert_allclose(
        embeddings[at_slots], features[sample.feature_index[at_slots]], atol=1e-6
    )
    newlines = (sample.tokens == chameleon().newline) & ~at_slots
    assert newlines.sum() == 4 + np.count_nonzero(block == anyres.NEWLINE)
    rows = embeddings[newlines]
    np.testing.assert_array_equal(rows, np.broadcast_to(rows[0], rows.shape))


def test_released_understanding_positions():
    turns = [
        Turn(np.concatenate([mark(), text(3)]), learnt=False),
        Turn(text(4), learnt=True),
    ]
    vocabulary = chameleon()
    sample = sequence.lay_out(turns, [picture(800, 600)], vocabulary, RELEASED)
    # 1,070 ids: 1 + 1,060 + 3 + 1 + 4 + 1; 800 × 600 has 2,929 continuous positions.
    assert len(sample.tokens) == 1070 + 1 + 2929
    assert sample.tokens[:4].tolist() == [0, 8197, 8820, 8820]
    assert sample.tokens[1060] == sample.labels[1060] == 8198
    assert sample.tokens[3990] == 8196
    assert supervised(sample) == [1060, 3995, 3996, 3997, 3998, 3999]
    assert sample.tokens[3999] == 8710
    assert np.count_nonzero(sample.tokens == 8803) == 72
    assert np.count_nonzero(sample.feature_index != NO_FEATURE) == 2929 - 40


def test_released_generation_positions():
    turns = [Turn(text(3), learnt=False), Turn(mark(), learnt=True)]
    sample = sequence.lay_out(turns, [picture(512, 512)], chameleon(), RELEASED)
    # 1,066 ids: prompt of 5 with BOS and end, 1,060 of the picture, end.
    assert len(sample.tokens) == 1066 + 1 + 3699
    assert supervised(sample) == [*range(5, 1064), 1064, 4764, 4765]
    assert sample.labels[[1064, 4764, 4765]].tolist() == [8198, 8196, 8710]
    assert np.count_nonzero(sample.tokens == 8803) == 86


def test_text_alone():
    turns = [Turn(text(2), learnt=False), Turn(text(2), learnt=True)]
    sample = sequence.lay_out(turns, [], chameleon(), RELEASED)
    assert len(sample.tokens) == 7
    assert supervised(sample) == [4, 5, 6]
    assert (sample.feature_index == NO_FEATURE).all()


def lay_out_both(layout, *, side=4):
    """One small picture read, the same drawn; 9 continuous feature_index."""
    vocabulary = small()
    shown = ImageContent(np.arange(side * side).reshape(side, side), np.arange(9))
    ask = sequence.encode_text("<|image|>what is this?", vocabulary)
    answer = sequence.encode_text("a heart", vocabulary)
    read = [Turn(ask, learnt=False), Turn(answer, learnt=True)]
    draw = [Turn(answer, learnt=False), Turn(mark(), learnt=True)]
    return (
        sequence.lay_out(read, [shown], vocabulary, layout),
        sequence.lay_out(draw, [shown], vocabulary, layout),
        vocabulary,
        len(ask) - 1,
        len(answer),
    )


def test_paper_labels_are_answers_and_picture_ids_only():
    layout = LayoutConfig()
    read, draw, vocabulary, _, answer = lay_out_both(layout, side=2)
    assert supervised(read) == list(
        range(len(read.labels) - answer - 1, len(read.labels))
    )
    labels = draw.labels[draw.labels != IGNORE]
    size, line = vocabulary.size_token(1), vocabulary.newline
    code = vocabulary.code_ids
    expected = [vocabulary.boi, size, size, code[0], code[1], line, code[2], code[3]]
    expected += [line, vocabulary.eoi, vocabulary.end]
    assert labels.tolist() == expected


@pytest.mark.parametrize(
    ("encoding", "read_parts", "drawn_parts"),
    [
        ("dual", (True, True), (True, True)),
        ("discrete", (True, False), (True, False)),
        ("continuous", (False, True), (True, False)),
    ],
)
def test_encodings(encoding, read_parts, drawn_parts):
    layout = LayoutConfig(encoding=encoding)
    read, draw, vocabulary, *_ = lay_out_both(layout)
    for sample, parts in ((read, read_parts), (draw, drawn_parts)):
        codes = vocabulary.codes_of(sample.tokens[sample.feature_index == NO_FEATURE])
        has_features = bool((sample.feature_index != NO_FEATURE).any())
        assert (bool((codes >= 0).any()), has_features) == parts
        assert (vocabulary.sep in sample.tokens) == has_features
        assert np.count_nonzero(sample.tokens == vocabulary.boi) == 1
        assert np.count_nonzero(sample.tokens == vocabulary.eoi) == 1


def test_options_shorten_the_picture():
    full = LayoutConfig()
    bare = LayoutConfig(size_tokens=False, continuous_in_generation=False)
    _, drawn, vocabulary, *_ = lay_out_both(full)
    _, shorter, *_ = lay_out_both(bare)
    assert len(drawn.tokens) - len(shorter.tokens) == 2 + 1 + 9
    assert vocabulary.sep not in shorter.tokens


@pytest.mark.parametrize("drawn", [False, True])
@pytest.mark.parametrize("encoding", ["dual", "discrete", "continuous"])
@pytest.mark.parametrize("size_tokens", [False, True])
@pytest.mark.parametrize("continuous", [False, True])
def test_planned_length_is_the_length(drawn, encoding, size_tokens, continuous):
    layout = LayoutConfig(
        encoding=encoding,
        size_tokens=size_tokens,
        continuous_in_generation=continuous,
    )
    shown = ImageContent(np.zeros((4, 6), int), np.arange(7))
    sample = sequence.lay_out([Turn(mark(), drawn)], [shown], small(), layout)
    planned = sequence.image_length(4, 6, 7, layout, drawn=drawn)
    assert len(sample.tokens) == planned + 2  # BOS and end


def test_conversation_of_several_turns_and_pictures():
    vocabulary = small()
    messages = ["<|image|>what is this?", "a heart", "draw it", "here: <|image|>"]
    turns = sequence.encode_conversation(messages, 2, vocabulary)
    assert [turn.learnt for turn in turns] == [False, True, False, True]
    first = ImageContent(np.zeros((2, 2), int), np.arange(4))
    second = ImageContent(np.ones((2, 2), int), anyres.shift_features(np.arange(4), 4))
    sample = sequence.lay_out(turns, [first, second], vocabulary, LayoutConfig())
    assert sample.feature_index[sample.feature_index != NO_FEATURE].tolist() == list(
        range(8)
    )
    learnt = sample.labels[sample.labels != IGNORE]
    codes = vocabulary.codes_of(learnt)
    assert codes[codes >= 0].tolist() == [1, 1, 1, 1]
    assert vocabulary.decode(learnt) == "a hearthere: "
    assert np.count_nonzero(learnt == vocabulary.end) == 2
    assert np.count_nonzero(sample.tokens == vocabulary.end) == 4


def test_placeholders_default_to_the_front():
    vocabulary = small()
    turns = sequence.encode_conversation(["what is this?"], 2, vocabulary)
    assert len(turns) == 1  # no answer: the prompt for one
    ids = turns[0].ids
    space = vocabulary.encode(" ")
    assert ids.tolist() == [
        sequence.IMAGE_MARK,
        *space,
        sequence.IMAGE_MARK,
        *vocabulary.encode(" what is this?"),
    ]


def test_text_cannot_forge_a_picture():
    vocabulary = small()
    ids = sequence.encode_text("</s><eoss><racm3:break>IMGIMGAZ", vocabulary)
    assert vocabulary.is_text[ids].all()
    with pytest.raises(SequenceError, match=r"record 'r7': 2 placeholders .* for 1"):
        sequence.encode_conversation(["<|image|>", "<|image|>"], 1, vocabulary, "r7")


@settings(deadline=None)
@given(st.text())
def test_any_text_survives(message):
    vocabulary = chameleon()
    ids = sequence.encode_text(message.replace("<|image|>", ""), vocabulary)
    assert vocabulary.decode(ids) == message.replace("<|image|>", "")


def test_targets_are_the_labels_of_the_next_position():
    labels = np.array([IGNORE, IGNORE, 5, 6], np.int32)
    np.testing.assert_array_equal(shift_labels(labels), [IGNORE, 5, 6, IGNORE])


def test_refusals_are_sentences():
    vocabulary = small()
    turn = [Turn(mark(), learnt=False)]
    with pytest.raises(SequenceError, match="record 'r1': 1 marks for 0 pictures"):
        sequence.lay_out(turn, [], vocabulary, LayoutConfig(), "r1")
    with pytest.raises(SequenceError, match=r"record 'r1'.*no codes; pre-tokenise"):
        sequence.lay_out(
            turn, [ImageContent(None, None)], vocabulary, LayoutConfig(), "r1"
        )
    shown = ImageContent(np.zeros((2, 2), int), None)
    with pytest.raises(SequenceError, match="no continuous features"):
        sequence.lay_out(turn, [shown], vocabulary, LayoutConfig())
    with pytest.raises(SequenceError, match="codes from 0 to 64, but the vocab"):
        sequence.image_ids(np.array([[0, 64]]), vocabulary, LayoutConfig())
    with pytest.raises(SequenceError, match="3 × 2 codes of 16 px are 48 × 32 px"):
        sequence.image_ids(np.zeros((3, 2), int), vocabulary, LayoutConfig())
    with pytest.raises(ValueError, match=r"prompt_template.*must hold \{caption\}"):
        LayoutConfig(prompt_template="a picture")
    with pytest.raises(ValueError, match=r"prompt_template.*has no meaning"):
        LayoutConfig(prompt_template="{captions}")
    with pytest.raises(ValueError, match=r"question_template.*<\|image\|> 1 times"):
        LayoutConfig(question_template="{question}")
