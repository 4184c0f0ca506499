"""Records whose messages are all that conversations can be, for tests."""

from typing import NamedTuple

import numpy as np
import prepared

from data_pipelines.storage import records
from data_pipelines.storage.records import image, message


class Case(NamedTuple):
    """A conversation, and what it is to come out as.

    Attributes:
        images: How many the record has.
        messages: Of the record.
        turns: Of user and assistant by turns; numbers are images.
        system: Before them.
    """

    images: int
    messages: list[records.Message]
    turns: list[list[str | int]]
    system: list[str | int] = []  # noqa: RUF012

    @property
    def shown(self) -> list[int]:
        """The images of all turns."""
        return [part for turn in self.turns for part in turn if isinstance(part, int)]

    @property
    def drawn(self) -> list[int]:
        """The images of the assistant's turns."""
        return [p for turn in self.turns[1::2] for p in turn if isinstance(p, int)]


CASES = {
    "two images in one question": Case(
        2,
        [
            message("user", image(1), image(0), "\nwhich is red?"),
            message("assistant", "the second"),
        ],
        [[1, 0, "\nwhich is red?"], ["the second"]],
    ),
    "an image in the midst of a later question": Case(
        2,
        [
            message("user", image(0), "what is it?"),
            message("assistant", "a heart"),
            message("user", "and is ", image(1), " an apple?"),
            message("assistant", "yes"),
        ],
        [[0, "what is it?"], ["a heart"], ["and is ", 1, " an apple?"], ["yes"]],
    ),
    "draw, then ask": Case(
        1,
        [
            message("user", "draw a heart"),
            message("assistant", image(0)),
            message("user", "which color has it?"),
            message("assistant", "red"),
        ],
        [["draw a heart"], [0], ["which color has it?"], ["red"]],
    ),
    "draw again": Case(
        2,
        [
            message("user", image(0), "make it blue"),
            message("assistant", "here: ", image(1)),
            message("user", "and larger"),
            message("assistant", image(0)),
        ],
        [[0, "make it blue"], ["here: ", 1], ["and larger"], [0]],
    ),
    "completing": Case(
        2,
        [message("user", "complete ", image(0)), message("assistant", image(1))],
        [["complete ", 0], [1]],
    ),
    "an interleaved story": Case(
        3,
        [
            message("user", "tell me of an apple"),
            message(
                "assistant", "it was ", "red", image(0), "then", image(1), image(2)
            ),
        ],
        [["tell me of an apple"], ["it was red", 0, "then", 1, 2]],
    ),
    "text alone": Case(
        0,
        [message("user", "hello"), message("assistant", "yes?")],
        [["hello"], ["yes?"]],
    ),
    "instructions": Case(
        1,
        [
            message("system", "say yes"),
            message("user", image(0), "is it?"),
            message("assistant", "yes"),
            message("system", "say no"),
            message("user", "is it?"),
            message("assistant", "no"),
        ],
        [[0, "is it?"], ["yes"], ["say no\nis it?"], ["no"]],
        ["say yes"],
    ),
    "the assistant begins": Case(
        1,
        [
            message("assistant", "shall I draw?"),
            message("user", "yes"),
            message("assistant", image(0)),
        ],
        [[], ["shall I draw?"], ["yes"], [0]],
    ),
    "one side goes on": Case(
        1,
        [
            message("user", "look"),
            message("user", image(0)),
            message("assistant", "a"),
            message("assistant", "heart"),
            message("user", "nobody answers ", image(0)),
        ],
        [["look\n", 0], ["a\nheart"]],
    ),
    "texts that spell marks": Case(
        1,
        [
            message("user", "<image>", image(0), "<|image|> <s>"),
            message("assistant", "<|image|><image></s>"),
        ],
        [["<image>", 0, "<|image|> <s>"], ["<|image|><image></s>"]],
    ),
}


def record(
    name: str, case: Case, books: tuple[int, ...] = (), codes: int = 16
) -> records.Record:
    """The record of a case; its pictures and codes differ from each other."""
    rng = np.random.default_rng(len(name))
    shown = [
        records.picture(prepared.picture_bytes(len(name) + 9 * n, size=32), 32, 32)
        for n in range(case.images)
    ]
    made = records.make(name, images=shown, messages=case.messages)
    for number in range(case.images):
        grid = rng.integers(0, codes, (4, 4, *books))
        made = records.with_codes(made, grid, image=number)
    return made
