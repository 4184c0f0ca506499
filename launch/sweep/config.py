"""What a sweep's config file may hold, and how it becomes a list of points."""

import dataclasses
import itertools
import re
from collections.abc import Mapping, Sequence

from unitoken_jax.config import ConfigError, Name, Seed, Share, nearest
from unitoken_jax.files import UserPath


@dataclasses.dataclass(frozen=True)
class Value:
    """One place on an axis.

    Attributes:
        label: what it is called.
        set: fields of the experiment, 'PATH.TO.FIELD=VALUE', as on the command line.
        config: the experiment's file, if it is another than the sweep's.
    """

    label: str
    set: tuple[str, ...] = ()
    config: UserPath | None = None


@dataclasses.dataclass(frozen=True)
class Axis:
    """What is varied: its name and its values in order."""

    name: str
    values: tuple[Value, ...]

    def __post_init__(self) -> None:
        labels = [value.label for value in self.values]
        if not labels or len(set(labels)) < len(labels):
            raise ValueError(f"axis {self.name!r} needs values of different labels.")


@dataclasses.dataclass(frozen=True)
class PageConfig:
    """What the report page of a sweep shows, and where.

    Attributes:
        x: measure on the trade-off plot's horizontal axis, 'EVALUATOR/MEASURE'.
        y: measure on its vertical axis.
        others: (x, y) of further plots like it.
        measures: further columns of the table.
        curves: metrics of training to draw, 'STAGE/METRIC'.
        color: the axis that colors tell apart; '' is the first one.
        ordered: whether its values have an order, which lines then follow.
        facet: the axis whose values have plots of their own; '' is none.
        collapse: 'EVALUATOR/MEASURE' by which a collapsed point is known, '' for none.
        collapse_share: of the sweep's greatest value; below it, a point is named.
    """

    x: str = ""
    y: str = ""
    others: tuple[tuple[str, str], ...] = ()
    measures: tuple[str, ...] = ()
    curves: tuple[str, ...] = ()
    color: str = ""
    ordered: bool = True
    facet: str = ""
    collapse: str = ""
    collapse_share: Share = 0.5


@dataclasses.dataclass(frozen=True)
class SweepConfig:
    """One experiment, varied.

    Attributes:
        name: of the sweep.
        config: the experiment's file; 'FILE.py:WORD' passes a word to its get_config.
        axes: what is varied; every combination of their values is a point.
        set: fields of the experiment at every point.
        seeds: each point is run once for each.
        seed_fields: paths of the fields that take the seed.
        title: of the report page; '' is the name.
        page: what the report page shows.
    """

    name: Name
    config: UserPath
    axes: tuple[Axis, ...]
    set: tuple[str, ...] = ()
    seeds: tuple[Seed, ...] = (0,)
    seed_fields: tuple[str, ...] = ()
    title: str = ""
    page: PageConfig = dataclasses.field(default_factory=PageConfig)

    def __post_init__(self) -> None:
        names = [axis.name for axis in self.axes]
        if len({*names, "seed"}) <= len(names):
            raise ValueError(f"the axes' names {names} must differ, and from 'seed'.")
        if len(set(self.seeds)) < max(len(self.seeds), 1):
            raise ValueError("seeds must be named, and each once.")
        if len(self.seeds) > 1 and not self.seed_fields:
            raise ValueError("several seeds need seed_fields, which take them.")
        for field in ("color", "facet"):
            chosen = getattr(self.page, field)
            if chosen and chosen not in names:
                raise ValueError(
                    f"page.{field}: no axis {chosen!r}{nearest(chosen, names)}"
                )


@dataclasses.dataclass(frozen=True)
class Point:
    """One run of the sweep.

    Attributes:
        labels: axis → label of its value.
        seed: of this run.
        config: the experiment's file.
        set: its fields, later ones win.
    """

    labels: Mapping[str, str]
    seed: int
    config: str
    set: tuple[str, ...]

    @property
    def name(self) -> str:
        """Letters, digits, '-', '.' and '_' that name it."""
        words = "_".join([*self.labels.values(), f"seed{self.seed}"])
        return re.sub(r"[^\w.-]+", "-", words)


def split_overrides(
    given: Sequence[tuple[str, str | bool]],
) -> tuple[list[tuple[str, str | bool]], list[str]]:
    """Part what the command line sets into the sweep's fields and the experiment's.

    Args:
        given: path → value as it was written.

    Returns:
        Those of `SweepConfig`, and all others as 'PATH.TO.FIELD=VALUE'.
    """
    own = {field.name for field in dataclasses.fields(SweepConfig)}
    of_sweep = [(path, text) for path, text in given if path.split(".")[0] in own]
    others = [(path, text) for path, text in given if path.split(".")[0] not in own]
    return of_sweep, [f"{path}={text}" for path, text in others]


def check_overrides(sweep: SweepConfig, fields: Sequence[str]) -> None:
    """Refuse to set at every point what tells points apart.

    Raises:
        ConfigError: naming the axis.
    """
    varied = {
        field.partition("=")[0]: f"axis {axis.name!r}: choose with --only {axis.name}="
        for axis in sweep.axes
        for value in axis.values
        for field in value.set
    }
    varied |= dict.fromkeys(sweep.seed_fields, "seed: choose with --config.seeds=")
    for field in fields:
        path = field.partition("=")[0]
        for other, what in varied.items():
            if f"{path}.".startswith(f"{other}.") or f"{other}.".startswith(f"{path}."):
                raise ConfigError(f"--config.{path} is varied by {what}….")


def _standing(fields: Sequence[str]) -> tuple[str, ...]:
    """Leave out what later fields set once more, themselves or as a group."""
    standing: list[str] = []
    for field in fields:
        path = field.partition("=")[0]
        standing = [
            before
            for before in standing
            if before.partition("=")[0] != path and not before.startswith(f"{path}.")
        ]
        standing.append(field)
    return tuple(standing)


def points(
    sweep: SweepConfig, only: Sequence[str] = (), fields: Sequence[str] = ()
) -> list[Point]:
    """List the runs of a sweep; all points with the first seed come first.

    Args:
        sweep: the sweep.
        only: 'AXIS=LABEL'; of an axis that is named, only these labels are taken.
        fields: of the experiment that are set at every point, after all others.

    Raises:
        ConfigError: `only` names what there is not, or two points have one name.
    """
    wanted = _wanted(sweep, only)
    found = []
    grid = list(itertools.product(*(axis.values for axis in sweep.axes)))
    for seed, values in itertools.product(sweep.seeds, grid):
        labels = {
            axis.name: value.label
            for axis, value in zip(sweep.axes, values, strict=True)
        }
        chosen = labels | {"seed": str(seed)}
        if any(chosen[name] not in allowed for name, allowed in wanted.items()):
            continue
        files = [value.config for value in values if value.config]
        found_set = [*sweep.set, *(field for value in values for field in value.set)]
        found_set += [f"{path}={seed}" for path in sweep.seed_fields]
        file = files[-1] if files else sweep.config
        found.append(Point(labels, seed, file, _standing([*found_set, *fields])))
    names = [point.name for point in found]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ConfigError(f"sweep {sweep.name!r}: two points are named {twice.pop()!r}")
    return found


def _wanted(sweep: SweepConfig, only: Sequence[str]) -> dict[str, set[str]]:
    known = {axis.name: [v.label for v in axis.values] for axis in sweep.axes}
    known["seed"] = list(map(str, sweep.seeds))
    wanted: dict[str, set[str]] = {}
    for choice in only:
        name, _, label = choice.partition("=")
        if name not in known:
            raise ConfigError(
                f"--only {choice}: no axis {name!r}{nearest(name, known)}"
            )
        if label not in known[name]:
            raise ConfigError(
                f"--only {choice}: no value {label!r}{nearest(label, known[name])}"
            )
        wanted.setdefault(name, set()).add(label)
    return wanted
