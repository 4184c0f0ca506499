"""Evaluators on tiny models: the arithmetic of each, against counting by hand."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest

from data_pipelines.unitoken import samples, sequence
from unitoken_jax.evaluate import generation, reconstruction, retrieval, understanding
from unitoken_jax.evaluate.batches import batches, spread
from unitoken_jax.evaluate.generation import Captioned, GenerationTestConfig
from unitoken_jax.evaluate.reconstruction import ReconstructionConfig
from unitoken_jax.evaluate.retrieval import Pair, RetrievalConfig
from unitoken_jax.evaluate.understanding import Question, UnderstandingConfig


def test_batches_have_one_size_and_say_what_counts():
    found = [(b["a"].tolist(), n) for b, n in batches({"a": np.arange(5)}, 2)]
    assert found == [([0, 1], 2), ([2, 3], 2), ([4, 4], 1)]


def test_examples_are_spread_over_all():
    assert spread(10, 4) == [0, 3, 6, 9]
    assert spread(2, 5) == [0, 1]
    assert spread(0, 5) == []


def test_reconstruction_measures_what_it_shows(tokenizer):
    model, params = tokenizer
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (7, 16, 16, 3), np.uint8)
    config = ReconstructionConfig(pictures=5, batch=2, examples=5)
    found = reconstruction.evaluate(model, params, iter(pictures), config)
    pairs = found.samples["pairs"]
    assert [m.count for m in found.measures.values()] == [5] * 4
    for pair, picture in zip(pairs, pictures, strict=False):
        np.testing.assert_array_equal(pair["original"], picture)
        error = pair["reconstruction"].astype(float) - picture
        # Shown pictures are rounded to bytes, the measured ones are not.
        expected = 20 * np.log10(255) - 10 * np.log10((error**2).mean())
        assert pair["psnr"] == pytest.approx(expected, abs=0.1)
    mean = np.mean([pair["psnr"] for pair in pairs])
    assert found.measures["psnr"].value == pytest.approx(mean, rel=1e-6)
    coded, *_ = reconstruction.reconstruct(model, params, pictures[:5])
    codes = np.unique(coded)
    assert found.measures["code_usage"].value == pytest.approx(len(codes) / 16)
    assert 1 <= found.measures["code_perplexity"].value <= len(codes) + 1e-3


def test_rank_counts_ties_against_the_right_answer():
    similarity = np.array([[3.0, 1.0, 2.0], [5.0, 5.0, 0.0], [9.0, 8.0, 7.0]])
    assert retrieval.rank(similarity).tolist() == [0, 1, 2]


def test_retrieval_of_a_perfect_and_a_collapsed_model(siglip, monkeypatch):
    model, params = siglip
    images = np.arange(6, dtype=np.uint8)[:, None, None, None] * np.ones(
        (16, 16, 3), np.uint8
    )
    pairs = [
        Pair(image, f"caption {i % 5}", np.full(12, i, np.int32))
        for i, image in enumerate(images)
    ]
    config = RetrievalConfig(pairs=8, batch=4, ranks=(1, 2), examples=2)

    def embed(perfect):
        def one_hot(_, __, images, text):
            at = images[:, 0, 0, 0].astype(int)
            picture, caption = np.eye(8)[at], np.eye(8)[text[:, 0]]
            return (picture, caption) if perfect else (picture * 0, caption * 0)

        return one_hot

    monkeypatch.setattr(retrieval, "embed", embed(perfect=True))
    found = retrieval.evaluate(model, params, iter(pairs), config)
    recall = found.measures["text_to_image/recall@1"]
    # The sixth pair repeats a caption and is left out.
    assert (recall.value, recall.count, recall.baseline) == (1.0, 5, 0.2)
    assert found.measures["image_to_text/recall@2"].baseline == 0.4
    assert found.measures["image_to_text/median_rank"].value == 1
    example = found.samples["image_to_text"][0]
    assert example["rank"] == 1
    assert example["found"][0]["right"]
    assert len(example["found"]) == 5

    monkeypatch.setattr(retrieval, "embed", embed(perfect=False))
    found = retrieval.evaluate(model, params, iter(pairs), config)
    assert found.measures["text_to_image/recall@2"].value == 0
    monkeypatch.undo()
    found = retrieval.evaluate(model, params, iter(pairs), config)
    assert 0 <= found.measures["text_to_image/recall@2"].value <= 1


def test_majority_counts_normalized_answers_of_each_kind():
    counts = counted("a Yes", "a no", "a yes.", "b y", "b x")
    assert counts == {"a": {"yes": 2, "no": 1}, "b": {"y": 1, "x": 1}}
    assert understanding.majority(counts) == {"a": "yes", "b": "x"}


def test_choose_takes_the_first_of_each_wanted_kind():
    config = UnderstandingConfig(questions=2, kinds=("a", "b"))
    assert understanding.choose("abcaaab", config) == [0, 1, 3, 6]
    odd = understanding.choose("abcaaab", config, lambda place: place % 2 == 1)
    assert odd == [1, 3, 5]


def counted(*answers):
    """Counts of training answers, from words 'KIND ANSWER'."""
    return understanding.count_answers(tuple(a.split()) for a in answers)


def echo(truths):
    """An assistant that answers as told, and finds any answer likely to one in four."""
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


def test_bits_of_answers_stand_beside_those_of_their_frequencies():
    counts = counted("color red", "color red", "color blue", "name dog")
    kinds, truths = ["color", "color", "name", "count"], ["Red", "green", "cat", "2"]
    nats = np.log([1.0, 0.5, 0.125, 0.25])
    found = understanding.answer_bits(kinds, truths, nats, counts)
    values = {name: (m.value, m.baseline, m.count) for name, m in found.items()}
    # One of four is for what training does not show: red 2/4, green 1/4, cat 1/2.
    assert values == {
        "all": (pytest.approx(6 / 4), pytest.approx((1 + 2 + 1 + 0) / 4), 4),
        "color": (pytest.approx(0.5), pytest.approx(1.5), 2),
        "name": (pytest.approx(3.0), pytest.approx(1.0), 1),
        "count": (pytest.approx(2.0), pytest.approx(0.0), 1),
    }
    assert {m.unit for m in found.values()} == {"bits"}


def test_likelihood_of_answers_is_that_of_uncached_next_tokens(
    assistant, next_logits, vocabulary, views
):
    views, questions = views[:3], ["what is this?", "a", "a red heart on a tree"]
    answers = ["a red heart", "", "blue"]
    found = assistant.score_answers(views, questions, answers)
    codes = assistant.encode([view.whole for view in views])
    for view, grid, question, answer, score in zip(
        views, codes, questions, answers, found, strict=True
    ):
        tokens, slots = assistant.composer.question(grid, view.size, question)
        tokens, total = list(tokens), 0.0
        for token in [*vocabulary.encode(answer), vocabulary.end]:
            logits = next_logits(tokens, slots, view.tiles)
            logits = np.asarray(logits, np.float64)
            total += logits[token] - np.log(np.exp(logits).sum())
            tokens.append(token)
        assert score == pytest.approx(total, rel=1e-4)
    # What is read of the picture counts, not its codes alone.
    other = [view._replace(tiles=255 - view.tiles) for view in views]
    changed = assistant.score_answers(other, questions, answers)
    assert not np.allclose(found, changed, rtol=1e-3)


def test_scored_answers_are_as_training_lays_them_out(assistant, vocabulary, views):
    """Prompt and reply together are the sample that the loss is of."""
    layout = assistant.composer._config.layout
    codes = assistant.encode([views[0].whole])[0]
    tokens, slots = assistant.composer.question(codes, views[0].size, "what?")
    reply = assistant.composer.reply("a bird")
    messages = [samples.ask("what?", layout), "a bird"]
    turns = sequence.encode_conversation(messages, 1, vocabulary)
    picture = sequence.Picture(codes, slots[slots >= 0])
    sample = sequence.lay_out(turns, [picture], vocabulary, layout)
    np.testing.assert_array_equal(np.append(tokens, reply), sample.tokens)
    assert sample.labels[sample.labels >= 0].tolist() == reply.tolist()


@pytest.fixture
def captioned(views):
    questions = [("color", "what color?", "red"), ("other", "why?", "because")]
    texts = ["a red heart", "bird", "a tree", "what", "blue", "on"]
    return [
        Captioned(view, text, questions)
        for view, text in zip(views, texts, strict=True)
    ]


def test_generation_measures_ranks_and_cycles(assistant, captioned):
    config = GenerationTestConfig(
        pictures=6, captions=3, drawings=2, kinds=("color",), examples=2
    )
    done, drawn = [], []
    novelties = ["new concepts", "new compositions"] * 3
    captioned = [
        item._replace(novelty=novelty)
        for item, novelty in zip(captioned, novelties, strict=True)
    ]
    found = generation.evaluate(
        assistant, captioned, {"color": "red"}, config, done.append, keep=drawn.extend
    )
    assert sum(done) == generation.amount(captioned, config) == 6 * 3 + 2 + 2 * 2
    rank = found.measures["caption_rank"]
    assert (rank.count, rank.baseline) == (6, 1 / 3)
    assert found.measures["cycle/color"].count == 2
    assert found.measures["cycle_real/color"].baseline == 1.0
    assert "cycle/other" not in found.measures
    assert found.measures["cycle_new_concepts/all"].count == 1
    assert found.measures["cycle_real_new_compositions/all"].count == 1
    places = ("caption_rank_new_concepts", "caption_rank_new_compositions")
    assert [found.measures[name].count for name in places] == [3, 3]
    assert drawn[0].shape == (16, 16, 3)
    one, two = found.samples["drawings"]
    assert (one["prompt"], one["seed"], two["seed"]) == ("a red heart", 0, 1)
    assert one["image"].shape == one["real"].shape == (16, 16, 3)
    # The picture is a function of prompt and seed.
    again = assistant.draw(["bird"], [1])
    np.testing.assert_array_equal(again[0], two["image"])


def test_likelihood_is_that_of_uncached_next_tokens(
    assistant, next_logits, vocabulary, captioned
):
    v, layout = vocabulary, assistant.layout
    codes = assistant.encode([item.view.whole for item in captioned[:3]])
    prompts = ["a red heart", "", "a blue bird on a tree"]
    found = assistant.score(prompts, codes)
    for prompt, picture, score in zip(
        prompts, layout.tokens(codes), found, strict=True
    ):
        context = [v.bos, *assistant.composer.request(prompt), v.end, v.boi]
        total = 0.0
        for step in layout.drawn:
            logits = np.asarray(next_logits([*context, *picture[:step]]), np.float64)
            total += logits[picture[step]] - np.log(np.exp(logits).sum())
        assert score == pytest.approx(total, rel=1e-4)


def test_a_picture_is_ranked_under_its_own_caption(assistant, captioned, monkeypatch):
    """With a likelihood that knows the truth every picture finds its caption."""
    config = GenerationTestConfig(pictures=6, captions=4, drawings=1, kinds=())
    owner = {item.caption: i for i, item in enumerate(captioned)}

    def oracle(_, prompts, codes, progress):
        rows = enumerate(prompts)  # four captions a picture
        return np.array([float(owner[prompt] == n // 4) for n, prompt in rows])

    monkeypatch.setattr(type(assistant), "score", oracle)
    found = generation.evaluate(assistant, captioned, {}, config)
    assert found.measures["caption_rank"].value == 1.0
    monkeypatch.setattr(type(assistant), "score", lambda *a: np.zeros(24))
    found = generation.evaluate(assistant, captioned, {}, config)
    assert found.measures["caption_rank"].value == 0.0


def test_one_caption_cannot_be_ranked():
    with pytest.raises(ValueError, match="at least 2"):
        GenerationTestConfig(captions=1)
    config = GenerationTestConfig()
    assert dataclasses.replace(config, pictures=3, drawings=9).items == 9
