"""Names that configs and checkpoints had earlier: old name → new name.

`config.build` refuses an old name and says the new one. What old runs wrote is read
with the new names: their config by `translate`, their parameters by `parameter`, their
metrics by `metric`.
"""

import re
from collections.abc import Iterable, Mapping

FIELDS: Mapping[str, str] = {
    "adversary": "discriminator",
    "average": "ema",
    "colour": "color",
    "companions": "frozen_models",
    "flight": "flight_recorder",
    "liquid": "prompts",
    "neighbours": "neighbors",
    "normalise": "normalize",
    "perceptual_portions": "perceptual_chunks",
    "pictures": "images",
    "portions": "chunks",
    "products": "quantization",
    "quantisation": "quantization",
    "reproduction": "memorization",
}
"""Of a config's field, wherever a dataclass has the new one and not the old one."""

KINDS: Mapping[str, str] = {
    "liquid": "unitok_mllm",
    "pictures": "images",
}
"""Of a value of `kind`, wherever only the new one is among the choices."""

PARAMETERS: Mapping[str, str] = {
    "quantiser": "quantizer",
}
"""Of a part of a parameter's path, one name or several between slashes."""

METRICS: Mapping[str, str] = {
    "adversary": "discriminator",
}
"""Of the group of a metric, what stands before the slash in its name."""

# Groups whose keys are no fields: users choose them, or others gave them.
_FREE = frozenset({"stages", "groups", "companions", "frozen_models", "tpu_options"})
_EXPRESSIONS = frozenset({"pattern", "exclude", "no_decay"})  # over parameters' paths


def now_called(name: str, known: Iterable[str], table: Mapping[str, str]) -> str | None:
    """Return the new name of an old one, or None if it is not one here.

    Args:
        name: as it was written.
        known: the names that there are.
        table: `FIELDS` or `KINDS`.
    """
    known = set(known)
    new = table.get(name)
    return new if name not in known and new in known else None


def parameter(path: str) -> str:
    """Return a parameter's path, or an expression over such paths, with new names."""
    for old, new in PARAMETERS.items():
        path = re.sub(rf"(?<![\w-]){re.escape(old)}(?![\w-])", new, path)
    return path


def metric(name: str) -> str:
    """Return the name of today of a metric that an old run wrote."""
    group, slash, rest = name.partition("/")
    return f"{METRICS.get(group, group)}{slash}{rest}" if slash else name


def translate(node: Mapping[str, object]) -> tuple[dict[str, object], list[str]]:
    """Return a config that a run wrote with the names of today.

    Returns:
        The config, and what was renamed, as 'path.of.old → new', in its order.
    """
    renamed: list[str] = []

    def value_of(key: str, value: object, path: str, *, is_free: bool) -> object:
        new: object = value
        if isinstance(value, Mapping):
            return group(value, path, is_free=key in _FREE and not is_free)
        if isinstance(value, str) and not is_free:
            if key == "kind":
                new = KINDS.get(value, value)
            elif key in _EXPRESSIONS:
                new = parameter(value)
            if new != value:
                renamed.append(f"{path}={value} → {new}")
        return new

    def group(
        fields: Mapping[str, object], path: str, *, is_free: bool
    ) -> dict[str, object]:
        if path.rpartition(".")[2] == "init":
            return _sources(fields, path, renamed)
        made: dict[str, object] = {}
        for key, value in fields.items():
            here = f"{path}.{key}".lstrip(".")
            new = key if is_free else FIELDS.get(key, key)
            if new != key and new not in fields:
                renamed.append(f"{here} → {new}")
                made[new] = value_of(new, value, here, is_free=is_free)
            else:
                made[key] = value_of(key, value, here, is_free=is_free)
        return made

    return group(node, "", is_free=False), renamed


def _sources(
    fields: Mapping[str, object], path: str, renamed: list[str]
) -> dict[str, object]:
    """Translate `init`: subtrees of ours → 'STAGE_OR_PATH:subtree'."""
    made: dict[str, object] = {}
    for key, value in fields.items():
        new = value
        if isinstance(value, str):
            place, colon, subtree = value.rpartition(":")
            new = place + colon + (parameter(subtree) if colon else subtree)
        made[parameter(key)] = new
        if (parameter(key), new) != (key, value):
            renamed.append(f"{path}.{key}={value} → {parameter(key)}={new}")
    return made
