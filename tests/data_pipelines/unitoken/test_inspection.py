"""The printed form of a packed row."""

from dataclasses import replace

import numpy as np
import prepared

from data_pipelines.images.anyres import ViewsConfig, feature_indices
from data_pipelines.packing import fill_row
from data_pipelines.unitoken import sequence
from data_pipelines.unitoken.inspection import describe_row
from data_pipelines.unitoken.sequence import ImageContent, Turn


def test_a_row_reads_as_what_it_holds(tmp_path):
    vocabulary = prepared.vocabulary(prepared.make(tmp_path / "set", 1))
    config = replace(
        prepared.SEQUENCES, views=ViewsConfig(2, 1, ((1, 1),)), row_length=64
    )
    codes = np.arange(16).reshape(4, 4)
    ask, answer = (
        sequence.encode_text(text, vocabulary)
        for text in ("<|image|>what is this?", "a red heart")
    )
    mark = np.array([sequence.IMAGE_MARK], np.int32)
    feature_index = feature_indices(2, 2, config.views)
    sample = sequence.lay_out(
        [Turn(ask, False), Turn(answer, True)],
        [ImageContent(codes, feature_index)],
        vocabulary,
        config.layout,
    )
    drawn = sequence.lay_out(
        [Turn(answer, False), Turn(mark, True)],
        [ImageContent(codes[:, :4], None)],
        vocabulary,
        replace(config.layout, continuous_in_generation=False, size_tokens=False),
    )
    row = fill_row([sample, drawn], 96)
    batch = {key: value[None] for key, value in row.items()}
    batch["record"] = np.array([[7, 9, -1]])
    lines = describe_row(batch, 0, vocabulary).splitlines()
    positions = len(sample.tokens) + len(drawn.tokens)
    learnt = len(answer) + 1 + 16 + 4 + 3
    assert lines[0] == (
        f"row 0: 2 samples of records [7, 9] in {positions} of 96 positions, "
        f"{learnt} supervised"
    )
    shown = [line[7:] for line in lines[1:]]
    assert [line for line in shown if line.startswith(("  codes", "  features"))] == [
        "  codes 0 1 2 3 ↵",
        "  codes 4 5 6 7 ↵",
        "  codes 8 9 10 11 ↵",
        "  codes 12 13 14 15 ↵",
        "  features 0 … 5 ↵",
        "  features 6 … 7 ↵",
    ]
    assert "  'what is this?'" in shown
    assert "* 'a red heart'" in shown
    assert "* codes 12 13 14 15 ↵" in shown
    assert "* <reserved08706> end of turn" in shown
    assert "  <sentinel:0> separator" in shown
    assert lines[1] == f"sample 1: {len(sample.tokens)} positions"
    assert lines[2] == "     0   <s> begin"
