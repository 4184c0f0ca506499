"""Messages as turns of two sides."""

import conversations
import pytest

from data_pipelines.dialogues import dialogue, images_of, joined, merged
from data_pipelines.storage import records


@pytest.mark.parametrize("name", conversations.CASES)
def test_turns_alternate_and_end_with_an_answer(name):
    case = conversations.CASES[name]
    records.validate(conversations.record(name, case))
    found = dialogue(case.messages)
    assert (found.system, found.turns) == (case.system, case.turns)
    assert len(found.turns) % 2 == 0
    assert [n for turn in found.turns for n in images_of(turn)] == case.shown


def test_texts_beside_each_other_are_one():
    assert merged(["a", "", "b", 0, "", 1, "c"]) == ["ab", 0, 1, "c"]
    assert joined(["a"], "\n", [0]) == ["a\n", 0]
    assert joined([], "\n", ["a"]) == ["a"]
    assert joined(["a"], "\n", []) == ["a"]


def test_instructions_alone_are_what_the_user_says_before_the_first_answer():
    said = [records.message("system", "a"), records.message("assistant", "b")]
    assert dialogue(said) == (["a"], [[], ["b"]])
