"""The layouts of UniTok's LLM, against the table of the published code."""

import coded
import numpy as np
import pytest

from data_pipelines.tokenizers.tokenizer import read_vocabulary
from data_pipelines.unitok_mllm import sequence as liquid
from data_pipelines.unitok_mllm.sequence import LiquidConfig, LiquidMixture
from data_pipelines.unitoken.sequence import IGNORE, NO_SLOT

S = 4
PUBLISHED = LiquidConfig()
SHORT = LiquidConfig(question="ask: <|image|>{question}", markers_in_question=True)


@pytest.fixture(scope="module")
def v(tmp_path_factory):
    path = tmp_path_factory.mktemp("llama") / "tokenizer.json"
    path.write_text(coded.llama_tokenizer())
    return read_vocabulary(path)


def sample(turns, v):
    laid = liquid.lay_out(turns, S, v)
    assert {len(laid.tokens)} == {len(laid.labels), len(laid.slots)}
    assert len(laid.tokens) == liquid.length(turns, S)
    image = laid.slots != NO_SLOT
    assert (laid.tokens[image] == 0).all()
    assert (laid.labels[image] == IGNORE).all()
    return laid


def kept(laid):
    return laid.labels[laid.labels != IGNORE].tolist()


@pytest.mark.parametrize("caption", ["a red heart", None])
def test_drawing_keeps_the_three_published_labels(v, caption):
    laid = sample(liquid.draw_turns(caption, v, PUBLISHED), v)
    suffix = " Generate an image based on this description."
    text = "<unconditional>" if caption is None else caption + suffix
    ids = [v.bos, *v.encode(text), v.boi]
    assert laid.tokens.tolist() == [*ids, *[0] * S, v.eoi, v.end]
    assert kept(laid) == [v.boi, v.eoi, v.end] == [3, 4, 2]
    # The state that predicts image token 0 is that of BOI.
    boi = len(ids) - 1
    assert laid.draws.tolist() == list(range(boi, boi + S))
    assert laid.slots[laid.draws + 1].tolist() == list(range(S))


def test_long_requests_are_cut(v):
    turns = liquid.draw_turns("heart " * 900, v, PUBLISHED)
    assert len(turns.given) + 1 == 1750


def test_captions_and_questions_learn_the_answer(v):
    laid = sample(liquid.caption_turns("a heart", v), v)
    answer = [*v.encode("a heart"), v.end]
    head = [v.bos, v.boi, *[0] * S, v.eoi]
    assert laid.tokens.tolist() == [*head, *answer]
    assert kept(laid) == answer
    assert not len(laid.draws)

    laid = sample(liquid.question_turns("is {it}?", "yes", v, SHORT), v)
    given = [v.bos, *v.encode("ask: "), v.boi, *[0] * S, v.eoi, *v.encode("is {it}?")]
    assert laid.tokens.tolist() == [*given, *v.encode("yes"), v.end]
    assert kept(laid) == [*v.encode("yes"), v.end]
    laid = sample(liquid.question_turns("is it?", "yes", v, PUBLISHED), v)
    assert v.boi not in laid.tokens
    assert v.decode(laid.tokens[laid.slots == NO_SLOT]).endswith(
        "is it? ASSISTANT: yes"
    )


def test_text_is_learnt_whole(v):
    laid = sample(liquid.text_turns("a heart", v), v)
    assert kept(laid) == laid.tokens[1:].tolist() == [*v.encode("a heart"), v.end]
    assert not len(laid.draws)


def test_wrong_fields_are_refused():
    for field in ({"request": "draw"}, {"question": "{question}"}):
        with pytest.raises(ValueError, match=r"must hold \{"):
            LiquidConfig(**field)
    with pytest.raises(ValueError, match="request_limit must be positive"):
        LiquidConfig(request_limit=0)
    with pytest.raises(ValueError, match="one must be positive"):
        LiquidMixture(draw=0, caption=0, question=0)
    assert LiquidMixture(question=0).ratios == {"draw": 2.0, "caption": 1.0}
    assert np.isclose(sum(LiquidMixture().ratios.values()), 4)
