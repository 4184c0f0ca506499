"""The layouts of UniTok's LLM, against the table of the published code."""

import coded
import numpy as np
import pytest

from data_pipelines.packing import IGNORE, NO_FEATURE
from data_pipelines.tokenizers.tokenizer import read_vocabulary
from data_pipelines.unitok_mllm import sequence
from data_pipelines.unitok_mllm.sequence import MLLMMixture, PromptsConfig

S = 4
PUBLISHED = PromptsConfig()
SHORT = PromptsConfig(question="ask: <|image|>{question}", markers_in_question=True)


@pytest.fixture(scope="module")
def v(tmp_path_factory):
    path = tmp_path_factory.mktemp("llama") / "tokenizer.json"
    path.write_text(coded.llama_tokenizer())
    return read_vocabulary(path)


def sample(turns, v):
    spans = sequence.spans_of(turns, v)
    laid = sequence.lay_out(spans, S, v)
    assert {len(laid.tokens)} == {len(laid.labels), len(laid.feature_index)}
    assert len(laid.tokens) == sequence.length(spans, S)
    image = laid.feature_index != NO_FEATURE
    assert (laid.tokens[image] == 0).all()
    assert (laid.labels[image] == IGNORE).all()
    return laid


def kept(laid):
    return laid.labels[laid.labels != IGNORE].tolist()


@pytest.mark.parametrize("caption", ["a red heart", None])
def test_drawing_keeps_the_three_published_labels(v, caption):
    laid = sample(sequence.draw_turns(caption, v, PUBLISHED), v)
    suffix = " Generate an image based on this description."
    text = "<unconditional>" if caption is None else caption + suffix
    ids = [v.bos, *v.encode(text), v.boi]
    assert laid.tokens.tolist() == [*ids, *[0] * S, v.eoi, v.end]
    assert kept(laid) == [v.boi, v.eoi, v.end] == [3, 4, 2]
    # The state that predicts image token 0 is that of BOI.
    boi = len(ids) - 1
    assert laid.image_target_positions.tolist() == list(range(boi, boi + S))
    assert laid.feature_index[laid.image_target_positions + 1].tolist() == list(
        range(S)
    )


def test_long_requests_are_cut(v):
    turns = sequence.draw_turns("heart " * 900, v, PUBLISHED)
    assert len(turns.given) + 1 == 1750


def test_captions_and_questions_learn_the_answer(v):
    laid = sample(sequence.caption_turns("a heart", v), v)
    answer = [*v.encode("a heart"), v.end]
    head = [v.bos, v.boi, *[0] * S, v.eoi]
    assert laid.tokens.tolist() == [*head, *answer]
    assert kept(laid) == answer
    assert not len(laid.image_target_positions)

    laid = sample(sequence.question_turns("is {it}?", "yes", v, SHORT), v)
    given = [v.bos, *v.encode("ask: "), v.boi, *[0] * S, v.eoi, *v.encode("is {it}?")]
    assert laid.tokens.tolist() == [*given, *v.encode("yes"), v.end]
    assert kept(laid) == [*v.encode("yes"), v.end]
    laid = sample(sequence.question_turns("is it?", "yes", v, PUBLISHED), v)
    assert v.boi not in laid.tokens
    assert v.decode(laid.tokens[laid.feature_index == NO_FEATURE]).endswith(
        "is it? ASSISTANT: yes"
    )


def test_text_is_learnt_whole(v):
    laid = sample(sequence.text_turns("a heart", v), v)
    assert kept(laid) == laid.tokens[1:].tolist() == [*v.encode("a heart"), v.end]
    assert not len(laid.image_target_positions)


def test_wrong_fields_are_refused():
    for field in ({"request": "draw"}, {"question": "{question}"}):
        with pytest.raises(ValueError, match=r"must hold \{"):
            PromptsConfig(**field)
    with pytest.raises(ValueError, match="request_limit must be positive"):
        PromptsConfig(request_limit=0)
    with pytest.raises(ValueError, match="one must be positive"):
        MLLMMixture(draw=0, caption=0, question=0)
    assert MLLMMixture(question=0).ratios == {"draw": 2.0, "caption": 1.0}
    assert np.isclose(sum(MLLMMixture().ratios.values()), 4)
