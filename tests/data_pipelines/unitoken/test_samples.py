"""The table of samples: what records give, and that planned lengths are true."""

import numpy as np
import prepared
import pytest

from data_pipelines.images import anyres
from data_pipelines.images.anyres import ViewsConfig
from data_pipelines.storage.records import codes_of
from data_pipelines.unitoken import samples, sequence
from data_pipelines.unitoken.samples import TASKS, Row
from data_pipelines.unitoken.sequence import ImageContent, LayoutConfig

ROOM = Row(2000, 9)


@pytest.fixture(scope="module")
def records():
    rng = np.random.default_rng(1)
    made = [prepared.record(index, rng) for index in range(12)]
    for number, record in enumerate(made):
        record["images"][0] |= {"width": 20 + 9 * number, "height": 100 - 7 * number}
    return made


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory):
    return prepared.vocabulary(prepared.make(tmp_path_factory.mktemp("v") / "set", 1))


def size_of(record):
    return record["images"][0]["width"], record["images"][0]["height"]


def tabulate(records, vocabulary, layout, views, row=ROOM):
    refused = {}
    table = samples.tabulate(
        enumerate(records),
        TASKS,
        vocabulary,
        layout,
        views=views,
        canvas_size=lambda record, image: size_of(record),
        row=row,
        refuse=lambda index, error: refused.setdefault(index, str(error)),
    )
    return table, refused


@pytest.mark.parametrize("encoding", ["dual", "discrete", "continuous"])
@pytest.mark.parametrize("grids", [(), ((1, 2), (2, 1), (2, 2))])
@pytest.mark.parametrize("continuous_in_generation", [False, True])
def test_planned_lengths_and_views_are_those_laid_out(
    records, vocabulary, encoding, grids, continuous_in_generation
):
    layout = LayoutConfig(
        encoding=encoding,
        code_stride=8,
        continuous_in_generation=continuous_in_generation,
    )
    views = ViewsConfig(32, 8, grids)
    table, refused = tabulate(records, vocabulary, layout, views)
    assert not refused
    captions = sum(len(record["captions"]) for record in records)
    questions = sum(len(record["questions"]) for record in records)
    assert [len(table.of_task(task)) for task in TASKS] == [
        captions,
        questions,
        captions,
        0,
    ]
    np.testing.assert_array_equal(table.draws, table.task == TASKS.index("draw"))
    for number in range(len(table)):
        record = records[table.record[number]]
        size = size_of(record)
        picture = ImageContent(codes_of(record), anyres.feature_indices(*size, views))
        turns = table.conversation(number).turns
        laid = sequence.lay_out(turns, [picture], vocabulary, layout)
        assert len(laid.tokens) == table.length[number]
        shown = anyres.count_views(*size, views) if laid.feature_index.max() >= 0 else 0
        assert table.views[number] == shown
        dropped = table.conversation(number, drop_prompt=True).turns
        assert (len(dropped[0].ids), len(dropped[1].ids)) == (0, len(turns[1].ids))


def test_texts_are_the_templates_and_kept_once(records, vocabulary):
    layout = LayoutConfig(
        prompt_template="draw {caption}!",
        question_template="<|image|> {question}",
        caption_question="what is it?",
        code_stride=8,
    )
    table, _ = tabulate(records[:2], vocabulary, layout, ViewsConfig(32, 8))
    record = records[0]
    caption = record["captions"][0]
    assert samples.messages(record, "draw", layout)[0] == (
        f"draw {caption}!",
        "<|image|>",
    )
    assert samples.messages(record, "caption", layout)[0] == (
        "<|image|> what is it?",
        caption,
    )
    described = table.of_task("caption")
    assert len(set(table.prompt[described].tolist())) == 1
    prompt = table.texts[table.prompt[described[0]]]
    assert prompt[0] == sequence.IMAGE_MARK
    assert vocabulary.decode(prompt[1:]) == " what is it?"
    assert len({tuple(ids) for ids in table.texts}) == len(table.texts)


def test_what_fits_no_row_is_refused_by_name_and_the_rest_stays(records, vocabulary):
    layout = LayoutConfig(code_stride=8)
    views = ViewsConfig(32, 8)
    whole, _ = tabulate(records, vocabulary, layout, views)
    row = Row(int(np.median(whole.length)), 9)
    table, refused = tabulate(records, vocabulary, layout, views, row)
    assert len(table) == np.count_nonzero(whole.length <= row.length) < len(whole)
    assert set(refused) == set(whole.record[whole.length > row.length].tolist())
    first = min(refused)
    assert f"record 'picture/{first:05d}': a sample takes" in refused[first]
    _, refused = tabulate(records, vocabulary, layout, views, Row(2000, 0))
    assert (
        "a sample shows 1 views, but a row holds 0; raise data.row_views" in refused[0]
    )


def test_a_text_with_a_placeholder_is_refused(records, vocabulary):
    odd = records[0] | {"captions": ["a <|image|> of a heart"]}
    layout = LayoutConfig(code_stride=8)
    table, refused = tabulate([odd], vocabulary, layout, ViewsConfig(32, 8))
    assert "remove it from the text" in refused[0]
    assert len(table) == len(odd["questions"])


def test_no_records_give_an_empty_table(vocabulary):
    table, _ = tabulate([], vocabulary, LayoutConfig(), ViewsConfig(32, 8))
    assert len(table) == 0
