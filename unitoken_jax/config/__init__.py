"""Strict configuration: files of primitives in, frozen dataclasses out.

A config file (`configs/*.py`) returns an `ml_collections.ConfigDict` of primitives.
`build` converts such a node once into a dataclass and refuses whatever it does not
know, by dotted path and with the nearest known name. Models and data pipelines never
see a ConfigDict. What a field may hold beside its type is said by its annotation,
`Annotated[int, Bounds(1)]`; the usual ones have names (`Count`, `Share`, `Seed`, …).
Where a node's `kind` chooses among dataclasses, the annotation is `Kinds`.
Any field can be set on the command line, see `set_field`. Anyone may import it.
"""

from unitoken_jax.config.bounds import (
    NONE_IS_DEFAULT,
    Amount,
    Bounds,
    Count,
    Name,
    Natural,
    Positive,
    Seed,
    Share,
    ShareBelowOne,
    below_one,
    check_seed,
    positive,
)
from unitoken_jax.config.command_line import (
    define_flag,
    overrides,
    run,
)
from unitoken_jax.config.fields import set_field, set_fields
from unitoken_jax.config.kinds import Dataclass, Kinds
from unitoken_jax.config.schema import (
    build,
    build_kind,
    contains,
    differences,
    plain,
    render,
)
from unitoken_jax.config.sources import (
    load_file,
    split_file,
)
from unitoken_jax.errors import (
    ConfigError,
    UserError,
    exit_code,
    nearest,
    sentence,
    shown,
)

__all__ = [
    "NONE_IS_DEFAULT",
    "Amount",
    "Bounds",
    "ConfigError",
    "Count",
    "Dataclass",
    "Kinds",
    "Name",
    "Natural",
    "Positive",
    "Seed",
    "Share",
    "ShareBelowOne",
    "UserError",
    "below_one",
    "build",
    "build_kind",
    "check_seed",
    "contains",
    "define_flag",
    "differences",
    "exit_code",
    "load_file",
    "nearest",
    "overrides",
    "plain",
    "positive",
    "render",
    "run",
    "sentence",
    "set_field",
    "set_fields",
    "shown",
    "split_file",
]
