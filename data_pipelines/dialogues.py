"""A record's messages as turns of two sides, for the models' templates.

Templates know a user and an assistant who answer each other, and maybe instructions
before that. Where the images of a message stand is said by its parts, never searched
for in its text.
"""

import itertools
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from data_pipelines.storage.records import Message

Parts = list[str | int]
"""Texts and numbers of images, in their order; no text follows another."""


class Dialogue(NamedTuple):
    """A conversation in which the assistant has the last word.

    Attributes:
        system: Instructions before all turns; [] if there are none.
        turns: Of the user and the assistant in turn, the user first. The user's first
            one is [] where the assistant begins.
    """

    system: Parts
    turns: list[Parts]


def dialogue(messages: Sequence[Message]) -> Dialogue:
    """Returns the turns of a record's messages.

    Messages of one side in a row become one turn, a newline between them. So do
    instructions (`system`) in the midst of a conversation, with what the user says
    behind them. What stands behind the last answer teaches nothing and is left out.

    Args:
        messages: Of a validated record, with an answer of the assistant.
    """
    answers = [n for n, said in enumerate(messages) if said["role"] == "assistant"]
    kept = messages[: answers[-1] + 1]
    before = list(itertools.takewhile(lambda said: said["role"] == "system", kept))
    turns: list[Parts] = [[]]
    for said in kept[len(before) :]:
        is_users = len(turns) % 2 == 1
        if (said["role"] == "assistant") == is_users:
            turns.append([])
        turns[-1] = joined(turns[-1], "\n", _parts(said))
    system: Parts = []
    for said in before:
        system = joined(system, "\n", _parts(said))
    return Dialogue(system, turns)


def joined(first: Parts, between: str, second: Parts) -> Parts:
    """Returns two rows of parts as one, with a text between them if both have any."""
    return merged([*first, between, *second] if first and second else first + second)


def merged(parts: Iterable[str | int]) -> Parts:
    """Returns parts without empty texts, and neighbouring texts as one."""
    result: Parts = []
    for part in parts:
        if part == "":
            continue
        last = result[-1] if result else None
        if isinstance(part, str) and isinstance(last, str):
            result[-1] = last + part
        else:
            result.append(part)
    return result


def images_of(parts: Iterable[str | int]) -> list[int]:
    """Returns the numbers of the images among parts, in their order."""
    return [part for part in parts if isinstance(part, int)]


def _parts(said: Message) -> Parts:
    return merged(
        part["text"] if "text" in part else part.get("image", 0)
        for part in said["content"]
    )
