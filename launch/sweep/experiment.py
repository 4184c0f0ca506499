"""A point's config as plain values: which stages it has, and which of them are alike.

Two stages are alike if their fields are equal and what they start from is alike; such
stages need to be trained once.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from unitoken_jax.config import ConfigError, load_file, nearest, set_field


@dataclasses.dataclass(frozen=True)
class Stage:
    """One stage of a point's chain.

    Attributes:
        name: its key in the chain.
        job: its fields, as the config writes them.
        sources: stages that it starts from or takes codes of.
        tokenizers: stages whose codes it needs.
        digest: of the fields and of everything it starts from.
    """

    name: str
    job: Mapping[str, Any]
    sources: tuple[str, ...]
    tokenizers: tuple[str, ...]
    digest: str

    @property
    def steps(self) -> int:
        """After how many steps it is complete."""
        return self.job["train"]["steps"]


@dataclasses.dataclass(frozen=True)
class Experiment:
    """A point's config.

    Attributes:
        stages: in order.
        digest: of the whole config.
        finish: whether a complete run ends with its evaluation and report page.
    """

    stages: tuple[Stage, ...]
    digest: str
    finish: bool


def read(file: str, fields: Sequence[str]) -> Experiment:
    """Find the stages of a config file with some fields set otherwise.

    Args:
        file: see `evaluate`.
        fields: likewise.

    Raises:
        ConfigError: as `evaluate`, or stages start from what does not come before them.
    """
    node = evaluate(file, fields)
    return Experiment(_stages(node), _digest(node), node.get("finish", True))


def evaluate(file: str, fields: Sequence[str]) -> dict[str, Any]:
    """Return a config file's content with some fields set otherwise.

    Args:
        file: 'FILE.py' or 'FILE.py:WORD', as for `--config`.
        fields: 'PATH.TO.FIELD=VALUE', read as the command line reads them.

    Raises:
        ConfigError: there is no such file, it refuses the word, or a field cannot be
            set.
    """
    try:
        node = load_file(file)
    except ConfigError as error:
        raise ConfigError(f"config: {error}") from error
    for field in fields:
        path, equals, text = field.partition("=")
        if not equals:
            raise ConfigError(
                f"{field!r} does not set a field: write PATH.TO.FIELD=VALUE."
            )
        try:
            set_field(node, path, text)
        except ConfigError as error:
            raise ConfigError(f"{field!r}: {error}") from error
    return node


def _stages(node: Mapping[str, Any]) -> tuple[Stage, ...]:
    if "model" in node:  # a single job
        name = node["name"]
        return (Stage(name, node, (), (), _digest(node)),)
    found: dict[str, Stage] = {}
    for name in node["order"]:
        if name not in node["stages"]:
            raise ConfigError(
                f"order: no stage {name!r}{nearest(name, node['stages'])}"
            )
        job = node["stages"][name]
        starts = [
            source.partition(":")[0] for source in (job.get("init") or {}).values()
        ]
        tokenizers = tuple(filter(None, [(job.get("codes") or {}).get("stage")]))
        sources = tuple(
            dict.fromkeys(s for s in (*starts, *tokenizers) if s in node["stages"])
        )
        if missing := [source for source in sources if source not in found]:
            raise ConfigError(f"stage {name!r} starts from {missing[0]!r} before it.")
        digest = _digest(
            {
                "job": {key: value for key, value in job.items() if key != "name"},
                "data_dir": node["data_dir"],
                "sources": {source: found[source].digest for source in sources},
            }
        )
        found[name] = Stage(name, job, sources, tokenizers, digest)
    return tuple(found.values())


def _digest(node: object) -> str:
    text = json.dumps(node, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:8]
