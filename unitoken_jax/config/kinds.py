"""Dataclasses of which a node of the config chooses one by its `kind`."""

import dataclasses
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import ClassVar, Generic, Protocol, TypeVar

from unitoken_jax.errors import ConfigError, nearest
from unitoken_jax.renamed import FIELDS, KINDS, now_called


class Dataclass(Protocol):
    """An instance of any dataclass."""

    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[object]]]


T = TypeVar("T", bound=Dataclass)


def refuse_old_kind(value: object, known: Iterable[str], path: str) -> None:
    """Refuse a `kind` that has another name now.

    Args:
        value: as it was written.
        known: the kinds that there are.
        path: of the field, for messages.

    Raises:
        ConfigError: with the new name.
    """
    new = now_called(value, known, KINDS) if isinstance(value, str) else None
    if new:
        raise ConfigError(f"{path}={value} is called {path}={new} now.")


@dataclasses.dataclass(frozen=True, eq=False)
class Kinds(Generic[T]):
    """What `Annotated[T, Kinds(…)]` makes of a field: one dataclass for each kind.

    A kind has the fields that it reads and no others; `kind` itself need not be one.

    Attributes:
        noun: what there are kinds of, for messages.
        known: the kinds; looked at whenever one is chosen.
        load: kind → its dataclass, whose module is imported then.
    """

    noun: str
    known: Mapping[str, str]
    load: Callable[[str], type[T]]

    def choose(
        self, node: Mapping[str, object], path: str
    ) -> tuple[type[T], dict[str, object]]:
        """Return the dataclass of a node's kind, and the fields to build it of.

        Args:
            node: `kind`, and fields of that kind.
            path: where the node stands, for messages.

        Raises:
            ConfigError: no kind or an unknown one, or a field of other kinds.
        """
        if "kind" not in node:
            raise ConfigError(
                f"{path}.kind: missing; known are {', '.join(self.known)}."
            )
        kind = node["kind"]
        if not isinstance(kind, str) or kind not in self.known:
            refuse_old_kind(kind, self.known, f"{path}.kind")
            raise ConfigError(
                f"{path}.kind: {kind!r} is not among the choices"
                f"{nearest(str(kind), self.known)}"
            )
        cls = self.load(kind)
        fields = dict(node)
        if "kind" not in _names(cls):
            del fields["kind"]
        for name in fields.keys() - _names(cls):
            self._refuse_field(kind, str(name), path)
        return cls, fields

    def complete(self, config: T) -> dict[str, object]:
        """Return the `kind` of a config and its fields, by name."""
        fields = {name: getattr(config, name) for name in config.__dataclass_fields__}
        return fields if "kind" in fields else {"kind": self.of(config), **fields}

    def of(self, config: T) -> str:
        """Return the kind of a config.

        Raises:
            LookupError: its class is of no kind.
        """
        for kind in self.known:
            if self.load(kind) is type(config):
                return kind
        raise LookupError(f"{type(config).__name__} is no kind of {self.noun}")

    def _refuse_field(self, kind: str, name: str, path: str) -> None:
        """Refuse a field that other kinds have; what none has is left to `build`."""
        cls = self.load(kind)
        if now_called(name, _names(cls), FIELDS):
            return
        others = [
            repr(other) for other in self.known if name in _names(self.load(other))
        ]
        if not others:
            return
        inner = [
            f"{group}.{name}"
            for group, hint in typing.get_type_hints(cls).items()
            if isinstance(hint, type)
            and dataclasses.is_dataclass(hint)
            and name in _names(hint)
        ]
        raise ConfigError(
            f"{path}.{name}: {self.noun} of kind {kind!r} does not have it, only that "
            f"of kind {' or '.join(others)}{nearest(name, {*_names(cls), *inner})}"
        )


def _names(cls: type[Dataclass]) -> set[str]:
    return {entry.name for entry in dataclasses.fields(cls)}
