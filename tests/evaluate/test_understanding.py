"""Answers beside what the frequencies of training's answers reach."""

from types import SimpleNamespace

import numpy as np
import pytest

from data_pipelines.unitoken import samples, sequence
from unitoken_jax.evaluate import understanding
from unitoken_jax.evaluate.statistics.accuracy import count_answers
from unitoken_jax.evaluate.understanding import Question, UnderstandingConfig


def test_choose_takes_the_first_of_each_wanted_kind():
    config = UnderstandingConfig(questions=2, kinds=("a", "b"))
    assert understanding.choose("abcaaab", config) == [0, 1, 3, 6]
    odd = understanding.choose("abcaaab", config, lambda place: place % 2 == 1)
    assert odd == [1, 3, 5]


def counted(*answers):
    """Counts of training answers, from words 'KIND ANSWER'."""
    return count_answers(tuple(a.split()) for a in answers)


def echo(truths):
    """A sampler that answers as told, and finds any answer likely to one in four."""
    return SimpleNamespace(
        answer=lambda views, questions, progress: [truths[q] for q in questions],
        score_answers=lambda views, questions, answers, progress: np.full(
            len(answers), np.log(0.25)
        ),
    )


def test_understanding_counts_right_answers_beside_the_majority(views):
    truth = {"q1": "red", "q2": "Blue!", "q3": "green", "q4": "cat"}
    asked = [
        Question(views[0], "color", "q1", "red"),
        Question(views[1], "color", "q2", "blue"),
        Question(views[2], "color", "q3", "blue"),
        Question(views[3], "name", "q4", "dog"),
    ]
    found = understanding.evaluate(
        echo(truth), asked, counted("color blue"), UnderstandingConfig(examples=1)
    )
    color, name = (found.measures[f"accuracy/{k}"] for k in ("color", "name"))
    assert (color.value, color.baseline, color.count) == (2 / 3, 2 / 3, 3)
    assert (name.value, name.baseline) == (0, 0)
    assert found.measures["accuracy/all"].value == 0.5
    (right,), (wrong,) = found.samples["right"], found.samples["wrong"]
    assert right["correct"]
    assert not wrong["correct"]
    assert wrong["expected"] != wrong["answer"]
    np.testing.assert_array_equal(right["image"], views[0].whole)


def test_accuracies_tell_new_compositions_from_new_concepts(views):
    truth = {"q1": "red", "q2": "blue", "q3": "green", "q4": "cat"}
    asked = [
        Question(views[0], "color", "q1", "red", "new concepts"),
        Question(views[1], "color", "q2", "red", "new concepts"),
        Question(views[2], "color", "q3", "green", "new compositions"),
        Question(views[3], "name", "q4", "dog", "new concepts"),
    ]
    found = understanding.evaluate(
        echo(truth), asked, counted("color green"), UnderstandingConfig()
    )
    parts = {
        name: (m.value, m.count, m.baseline)
        for name, m in found.measures.items()
        if name.startswith("accuracy_")
    }
    # Names are asked for new concepts only, so that `accuracy/name` says it all.
    assert parts == {
        "accuracy_new_compositions/all": (1, 1, 1),
        "accuracy_new_compositions/color": (1, 1, 1),
        "accuracy_new_concepts/all": (1 / 3, 3, 0),
        "accuracy_new_concepts/color": (1 / 2, 2, 0),
    }
    alike = [q._replace(novelty="new concepts") for q in asked]
    found = understanding.evaluate(echo(truth), alike, {}, UnderstandingConfig())
    assert not any(name.startswith("accuracy_") for name in found.measures)


def test_likelihood_of_answers_is_that_of_uncached_next_tokens(
    sampler, next_logits, vocabulary, views
):
    views, questions = views[:3], ["what is this?", "a", "a red heart on a tree"]
    answers = ["a red heart", "", "blue"]
    found = sampler.score_answers(views, questions, answers)
    codes = sampler.encode([view.whole for view in views])
    for view, grid, question, answer, score in zip(
        views, codes, questions, answers, found, strict=True
    ):
        tokens, slots = sampler.prompts.question(grid, view.size, question)
        tokens, total = list(tokens), 0.0
        for token in [*vocabulary.encode(answer), vocabulary.end]:
            logits = next_logits(tokens, slots, view.tiles)
            logits = np.asarray(logits, np.float64)
            total += logits[token] - np.log(np.exp(logits).sum())
            tokens.append(token)
        assert score == pytest.approx(total, rel=1e-4)
    # What is read of the picture counts, not its codes alone.
    other = [view._replace(tiles=255 - view.tiles) for view in views]
    changed = sampler.score_answers(other, questions, answers)
    assert not np.allclose(found, changed, rtol=1e-3)


def test_scored_answers_are_as_training_lays_them_out(sampler, vocabulary, views):
    """Prompt and reply together are the sample that the loss is of."""
    layout = sampler.prompts._config.layout
    codes = sampler.encode([views[0].whole])[0]
    tokens, slots = sampler.prompts.question(codes, views[0].size, "what?")
    reply = sampler.prompts.reply("a bird")
    messages = [samples.ask("what?", layout), "a bird"]
    turns = sequence.encode_conversation(messages, 1, vocabulary)
    picture = sequence.ImageContent(codes, slots[slots >= 0])
    sample = sequence.lay_out(turns, [picture], vocabulary, layout)
    np.testing.assert_array_equal(np.append(tokens, reply), sample.tokens)
    assert sample.labels[sample.labels >= 0].tolist() == reply.tolist()
