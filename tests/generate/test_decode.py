"""Answers with the cache equal the most likely tokens of full forward passes."""

import numpy as np
import pytest

from unitoken_jax.generate.decode import answer, pad_left, trim

LIMIT = 7


@pytest.fixture
def asked(sampler, views):
    """Prompts of different lengths, with slots, as lists and as one batch."""
    codes = sampler.encode([each.whole for each in views])
    questions = ["what?", "a", "what is this?", "a red heart on a tree", "", "bird"]
    rows = [
        sampler.prompts.question(grid, each.size, question)
        for grid, each, question in zip(codes, views, questions, strict=True)
    ]
    tiles = np.stack([each.tiles for each in views])
    return rows, tiles


def uncached(next_logits, tokens, slots, tiles, end):
    """Append the most likely token of a full forward pass until the end token."""
    tokens, said = list(tokens), []
    while len(said) < LIMIT:
        token = int(next_logits(tokens, slots, tiles).argmax())
        if token == end:
            break
        said.append(token)
        tokens.append(token)
    return said


def test_cached_answers_equal_uncached_ones_token_for_token(
    unitoken, next_logits, asked, vocabulary
):
    rows, tiles = asked
    expected = [
        uncached(next_logits, *row, t, vocabulary.end)
        for row, t in zip(rows, tiles, strict=True)
    ]
    # Which token ends a turn is free: take one that some answers hold and some not.
    said = {token for row in expected for token in row}
    ends = [t for t in said if 0 < sum(t in row for row in expected) < len(rows)]
    assert ends, "all answers alike: the test would show nothing"
    for end in (vocabulary.end, ends[0]):
        prompts = pad_left(*zip(*rows, strict=True), pad=vocabulary.pad, length=64)
        ids = answer(*unitoken, prompts, tiles, end=end, limit=LIMIT)
        cut = [row[: row.index(end)] if end in row else row for row in expected]
        assert [row.tolist() for row in trim(np.asarray(ids))] == cut


def test_an_answer_depends_on_its_picture_through_both_encoders(
    unitoken, asked, vocabulary
):
    rows, tiles = asked
    prompts = pad_left(
        [rows[0][0]] * 6, [rows[0][1]] * 6, pad=vocabulary.pad, length=64
    )
    # Equal codes and question, different pixels for the continuous encoder.
    ids = answer(*unitoken, prompts, tiles, end=vocabulary.end, limit=LIMIT)
    assert len({tuple(row) for row in np.asarray(ids).tolist()}) > 1
    same = np.repeat(tiles[:1], 6, axis=0)
    ids = answer(*unitoken, prompts, same, end=vocabulary.end, limit=LIMIT)
    assert len({tuple(row) for row in np.asarray(ids).tolist()}) == 1


def test_trim_cuts_at_the_end():
    answers = np.array([[5, 6, -1], [-1, -1, -1], [7, 8, 9]], np.int32)
    assert [row.tolist() for row in trim(answers)] == [[5, 6], [], [7, 8, 9]]


def test_a_prompt_longer_than_the_batch_is_refused():
    with pytest.raises(ValueError, match="9 tokens exceeds 8"):
        pad_left([np.arange(9)], pad=0, length=8)
