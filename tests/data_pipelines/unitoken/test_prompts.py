"""Prompts at inference begin as the training data's samples do."""

import dataclasses

import numpy as np
import pytest
from PIL import Image
from prepared import IMAGES, SEQUENCES, TEXTS

from data_pipelines.images import anyres
from data_pipelines.prompts import PromptError
from data_pipelines.tokenizers.chameleon import ChameleonVocabulary, train_vocabulary
from data_pipelines.unitoken import rows, samples, sequence
from data_pipelines.unitoken.prompts import UniTokenPrompts

CODES = np.arange(16).reshape(4, 4)


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory):
    path = tmp_path_factory.mktemp("vocabulary") / "tokenizer.json"
    path.write_text(train_vocabulary(TEXTS, 16, 270, 2))
    return ChameleonVocabulary.from_file(path)


def trained(messages, feature_index, vocabulary, config):
    """The sample of a conversation as the loader lays it out."""
    turns = sequence.encode_conversation(messages, 1, vocabulary)
    picture = sequence.ImageContent(CODES, feature_index)
    return sequence.lay_out(turns, [picture], vocabulary, config.layout)


@pytest.mark.parametrize("encoding", ["dual", "discrete", "continuous"])
def test_a_question_is_a_sample_up_to_its_answer(vocabulary, encoding):
    layout = dataclasses.replace(SEQUENCES.layout, encoding=encoding)
    config = dataclasses.replace(SEQUENCES, layout=layout)
    feature_index = anyres.feature_indices(32, 32, config.views)
    asked = samples.ask("what is this?", layout)
    sample = trained([asked, "heart"], feature_index, vocabulary, config)
    composer = UniTokenPrompts(vocabulary, config)
    tokens, places = composer.question(CODES, (32, 32), "what is this?")
    np.testing.assert_array_equal(tokens, sample.tokens[: len(tokens)])
    np.testing.assert_array_equal(places, sample.feature_index[: len(tokens)])
    answer = [*vocabulary.encode("heart"), vocabulary.end]
    assert sample.tokens[len(tokens) :].tolist() == answer
    assert composer.text(np.array(answer)) == "heart"


def test_a_request_stands_between_bos_and_the_picture(vocabulary):
    message = samples.request("a red heart", SEQUENCES.layout)
    feature_index = anyres.feature_indices(32, 32, SEQUENCES.views)
    drawn = [message, sequence.PLACEHOLDER]
    sample = trained(drawn, feature_index, vocabulary, SEQUENCES)
    ids = UniTokenPrompts(vocabulary, SEQUENCES).request("a red heart")
    start = [vocabulary.bos, *ids, vocabulary.end, vocabulary.boi]
    assert sample.tokens[: len(start)].tolist() == start


@pytest.mark.parametrize("canvas", ["square", "original"])
def test_a_view_is_what_the_rows_show(vocabulary, canvas):
    config = dataclasses.replace(
        SEQUENCES,
        canvas=canvas,
        views=anyres.ViewsConfig(32, 8, grids=((1, 2), (2, 1))),
    )
    pixels = np.random.default_rng(0).integers(0, 256, (20, 48, 4), np.uint8)
    view = UniTokenPrompts(vocabulary, config).view(pixels)
    np.testing.assert_array_equal(
        view.tiles, rows.show_image(Image.fromarray(pixels), config)
    )
    assert view.whole.shape == (32, 32, 3)
    assert view.size == ((32, 32) if canvas == "square" else (48, 20))
    # What the features' places are computed from is what the tiles were cut from.
    feature_index = anyres.feature_indices(*view.size, config.views)
    assert feature_index.max() < len(view.tiles) * config.views.features


def test_a_discrete_model_sees_no_tiles(vocabulary):
    layout = dataclasses.replace(SEQUENCES.layout, encoding="discrete")
    config = dataclasses.replace(SEQUENCES, layout=layout)
    view = UniTokenPrompts(vocabulary, config).view(np.zeros((9, 9, 3), np.uint8))
    assert view.tiles.shape == (0, 32, 32, 3)


def test_what_exactly_fits_a_row_is_taken(vocabulary):
    length = len(UniTokenPrompts(vocabulary, SEQUENCES).request("heart"))
    # BOS, end, BOI, two sizes, four rows of four codes and a newline, EOI
    config = dataclasses.replace(SEQUENCES, row_length=length + 2 + 1 + 2 + 20 + 1)
    assert len(UniTokenPrompts(vocabulary, config).request("heart")) == length
    shorter = dataclasses.replace(config, row_length=config.row_length - 1)
    with pytest.raises(PromptError, match=r"'heart' takes .* shorten it"):
        UniTokenPrompts(vocabulary, shorter).request("heart")


def test_faults_are_sentences(vocabulary):
    composer = UniTokenPrompts(vocabulary, SEQUENCES)
    with pytest.raises(PromptError, match="stands for a picture; remove it"):
        composer.request("a <|image|>")
    with pytest.raises(PromptError, match="2 placeholders"):
        composer.question(CODES, (32, 32), "<|image|>?")
    with pytest.raises(PromptError, match="room for"):
        composer.question(CODES, (32, 32), "what is this? " * 40)
    with pytest.raises(PromptError, match="'sequences', not 'images'"):
        UniTokenPrompts(vocabulary, IMAGES)
    with pytest.raises(PromptError, match="30 px are no whole number of codes"):
        UniTokenPrompts(vocabulary, dataclasses.replace(SEQUENCES, image_size=30))
