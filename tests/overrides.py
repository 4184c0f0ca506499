"""Random overrides of the quickstart, as users might write them, and what they give."""

import copy
import dataclasses
import functools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from unitoken_jax import pipeline
from unitoken_jax.config import Dataclass, load_file, plain, set_fields
from unitoken_jax.errors import UserError
from unitoken_jax.models import registry
from unitoken_jax.train.config import ExperimentConfig
from unitoken_jax.train.experiment import build_experiment

ROOT = Path(__file__).parent.parent


@functools.cache
def quickstart() -> dict[str, Any]:
    """The config as its file has it."""
    return load_file(str(ROOT / "configs/quickstart.py"))


@functools.cache
def fields() -> dict[str, Any]:
    """The fields and groups of the quickstart by their paths, with every default."""
    chain = build_experiment(quickstart())
    complete = dataclasses.replace(chain, evaluation=chain.evaluation.complete())
    return dict(_walk(plain(complete)))


def _walk(node: Any, at: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in node.items():
        path = f"{at}.{key}".lstrip(".")
        yield path, value
        if isinstance(value, Mapping):
            yield from _walk(value, path)


@functools.lru_cache(maxsize=64)
def _abstract_params(model: Dataclass) -> registry.Params:
    """Make a model's shapes once: what they are of has no side effects."""
    return registry.abstract_params(registry.make_system(model))


@functools.lru_cache(maxsize=64)
def _logical_axes(model: Dataclass) -> registry.Params:
    """Find out a model's axes once."""
    return registry.logical_axes(registry.make_system(model))


def attempt(overrides: list[tuple[str, str | bool]]) -> ExperimentConfig | str:
    """Build and check the quickstart with overrides, as `train` does at its start.

    Returns:
        The chain, or the sentence that refuses it; anything else is raised.
    """
    node = copy.deepcopy(quickstart())
    try:
        set_fields(node, overrides)
        chain = build_experiment(node)
        pipeline.check(
            chain,
            lambda system: _abstract_params(system.config),
            lambda system: _logical_axes(system.config),
        )
    except UserError as error:
        return str(error)
    return chain


def overrides() -> st.SearchStrategy[list[tuple[str, str | bool]]]:
    """One or two, half of them plausible."""
    one = st.one_of(_plausible(), st.tuples(_names(), _values()))
    return st.lists(one, min_size=1, max_size=2)


def _plausible() -> st.SearchStrategy[tuple[str, str | bool]]:
    """A real field and a value of its type, or of a type beside it."""
    return st.sampled_from(sorted(fields())).flatmap(
        lambda path: st.tuples(st.just(path), _like(fields()[path]))
    )


def _like(value: Any) -> st.SearchStrategy[str | bool]:
    if isinstance(value, bool):
        return st.booleans()
    if isinstance(value, int):
        near = st.sampled_from([value + 1, value - 1, value * 2, value // 2, 0, 1, -1])
        return st.one_of(near, st.integers(0, 3 * abs(value) + 8)).map(str)
    if isinstance(value, float):
        near = st.floats(0, 2 * abs(value) + 1, allow_subnormal=False)
        return st.one_of(near, st.floats()).map(repr)
    if isinstance(value, tuple):
        parts = st.sampled_from([*value, 0, 1, 2, 3, "a", None])
        return st.lists(parts, max_size=len(value) + 1).map(lambda x: repr(tuple(x)))
    if isinstance(value, str):
        return st.sampled_from([value, value.upper(), f"{value}x", "", *_CHOICES])
    return st.sampled_from(["None", "{}", "0", "1", "a", "{'a': 1}"])


def _names() -> st.SearchStrategy[str]:
    """Mostly fields that are there, some misspelt, nested too deeply or no names."""
    real = st.sampled_from(sorted(fields()))
    return st.one_of(
        real,
        real,
        st.builds(lambda path, more: f"{path}.{more}", real, st.sampled_from("ab0")),
        st.builds(lambda path, i: path[:i], real, st.integers(0, 40)),
        st.text(max_size=12),
        st.sampled_from(["", ".", "a..b", "stages", "stages.", "order", "a." * 99]),
    )


def _values() -> st.SearchStrategy[str | bool]:
    """Numbers of every size, words, paths, brackets, and what nobody means."""
    return st.one_of(
        st.integers(-(2**70), 2**70).map(str),
        st.integers(-3, 70).map(str),
        st.floats().map(repr),
        st.sampled_from(_WORDS),
        st.sampled_from(_WORDS),
        st.text(max_size=20),
        st.lists(st.integers(-2, 2**40), max_size=4).map(str),
        st.dictionaries(st.text("ab.", max_size=2), st.integers(), max_size=2).map(str),
        st.booleans(),
    )


_CHOICES = [
    *("full", "minimal", "none", "bfloat16", "float32", "xla", "auto", "uniform"),
    *("released", "paper", "discrete", "dual", "continuous", "square", "original"),
    *(
        "constant",
        "cosine",
        "train",
        "heldout",
        "tokenizer",
        "siglip",
        ".*",
        "decoder/.*",
    ),
]
_WORDS = [
    *("None", "none", "null", "True", "true", "False", "{}", "[]", "()", "''", '""'),
    *("nan", "inf", "-inf", "1e400", "-1e400", "1e-400", "1e38", "9" * 400, "9" * 5000),
    *("0x" + "f" * 5000, "-1", "0", "1", "2", "3", "7", "1.5", str(2**31), str(2**32)),
    *(str(2**63), "1" * 30 + ".5", "1_000", "1e5", "00", "1j", "...", "b'x'", "{1, 2}"),
    *(
        "gs://bucket/x",
        "s3:/x",
        "~",
        "~nobody-of-this-name/x",
        " ",
        "a b",
        "\0",
        "a\nb",
    ),
    *("\ud83d", "/", "..", "../x", "a/b", "[" * 300, "(" * 5000, "-" * 2000 + "1"),
    *("lambda: 0", "__import__('os')", "*", "(?", "a{99999999999}", "[[[]]]", "{0: 1}"),
    *("{'stage': 'tokenizer'}", "{'a.b': 1}", "{'a': {'b': [1, {'c': None}]}}"),
    *(
        "{'kind': 'vqgan'}",
        "tokenizer",
        "base:decoder",
        "nothing:decoder",
        ":",
        "siglip:",
    ),
    *("images", "pairs", "sequences", "classes", "unitok", "llamagen", "unitok_mllm"),
]
