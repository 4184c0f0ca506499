"""The fastest setting that fits: one axis after the other, each trial compiled.

Trials run in processes of their own (a compiler that aborts ends one trial) and are
written down one a line, so that a search that was interrupted goes on where it was.
What failed for another reason than its setting runs again then.
"""

import hashlib
import importlib.metadata
import json
import logging
import math
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from unitoken_jax import config as configs
from unitoken_jax.config import UserError
from unitoken_jax.parallel.topology import Topology
from unitoken_jax.runtime.environment import write_text
from unitoken_jax.train.config import StageConfig

log = logging.getLogger(__name__)

Setting = Mapping[str, object]
"""Field of a stage ('train.microbatches') → value."""

# Not `offload`: what goes to host memory and back has no price.
REMAT = ("full", "attention", "minimal", "dots", "none")
BLOCKS = (512, 1024, 2048)
MICROBATCHES = (1, 2, 4)
CHUNKS = (4, 8, 16, 32, 64)
OPTIONS: tuple[Setting, ...] = tuple(
    {"tpu_options.xla_tpu_scoped_vmem_limit_kib": size}
    for size in (16_384, 20_480, 24_576, 32_768, 65_536)
)
_SHARDS = (1, 2, 4, 8)  # of the tensor or the sequence axis
_COPIES = (1, 2, 4)  # of the parameters: libtpu scatters sums over a part of the chips


@dataclass(frozen=True)
class Trial:
    """One setting, compiled or refused.

    Attributes:
        setting: what differs from the config.
        seconds: the capped reading; infinite if it does not fit.
        peak: bytes of HBM, 0 if not known.
        fault: why there is no time.
        given_up: seconds after which it was, 0 if it ended.
    """

    setting: Setting
    seconds: float
    peak: float = 0.0
    fault: str = ""
    given_up: float = 0.0

    @property
    def too_large(self) -> bool:
        """Whether there is no time because the step does not fit the chips."""
        return _TOO_LARGE in self.fault

    def stands(self, limit: float) -> bool:
        """Whether it would end the same way if it were given `limit` seconds again.

        A compiler that is not installed, a full disk or a process that is killed for
        want of memory says nothing of a setting; a compiler that aborts does.
        """
        if self.given_up:
            return self.given_up >= limit
        compiled = math.isfinite(self.seconds)
        refused = _REFUSED in self.fault or _ABORTED in self.fault
        return compiled or self.too_large or refused


_FATAL = re.compile(r"F\d{4}")
# In the sentences of `ahead.TooLargeError` and of `ahead.CompileError` as well.
_TOO_LARGE = "does not fit"
_REFUSED = "the compiler refuses"
_ABORTED = f"killed by signal {signal.SIGABRT:d}"


def axes(stage: StageConfig, topology: Topology) -> dict[str, list[Setting]]:
    """What a search varies: axis → settings to try."""
    space: dict[str, list[Setting]] = {"mesh": list(_meshes(stage, topology))}
    for part in _rematerialized(stage):
        space[f"{part}_remat"] = [{f"model.{part}.remat": name} for name in REMAT]
    if _value(stage, "model.objective.perceptual_chunks") is not None:
        space["chunks"] = [
            {
                "model.vision.chunks": count,
                "model.objective.perceptual_chunks": count,
            }
            for count in CHUNKS
        ]
    whole = stage.discriminator is not None or stage.system.whole_batch
    space["microbatches"] = [
        {"train.microbatches": count}
        for count in ((1,) if whole else MICROBATCHES)
        if stage.train.batch % count == 0
    ]
    if _value(stage, "model.decoder.attention_block") is not None:
        space["block"] = [{"model.decoder.attention_block": block} for block in BLOCKS]
    space["options"] = list(OPTIONS)
    return space


def _meshes(stage: StageConfig, topology: Topology) -> Iterator[Setting]:
    chips = topology.chips // topology.slices
    rows = stage.train.batch // stage.train.microbatches
    for axis in ("tensor", "sequence"):
        for shards in _SHARDS:
            if axis == "sequence" and shards == 1:
                continue
            if chips % shards or rows % (chips // shards * topology.slices):
                continue
            for copies in _COPIES:
                if chips // shards % copies:
                    continue
                sizes = {"slice": topology.slices, "data": copies}
                sizes |= {"fsdp": chips // shards // copies}
                sizes |= {"tensor": 1, "sequence": 1} | {axis: shards}
                yield {f"mesh.{name}": size for name, size in sizes.items()}


def leanest(stage: StageConfig) -> Setting:
    """The rematerialisation that keeps least, for settings that do not fit."""
    return {f"model.{part}.remat": "full" for part in _rematerialized(stage)}


def _rematerialized(stage: StageConfig) -> list[str]:
    parts = ("decoder", "vision")
    return [part for part in parts if _value(stage, f"model.{part}.remat") is not None]


def current(stage: StageConfig, space: Mapping[str, Sequence[Setting]]) -> Setting:
    """What the config has of the fields that a search varies, where it has them."""
    names = {name for settings in space.values() for each in settings for name in each}
    found = {name: _value(stage, name) for name in names}
    return {name: value for name, value in found.items() if value is not None}


def _value(stage: StageConfig, name: str) -> object:
    """Return a field of a stage by its dotted name, None if there is none."""
    node: object = stage
    for part in name.split("."):
        if isinstance(node, Mapping):
            node = node.get(part)
        else:
            node = getattr(node, part, None)
    return node


def search(
    space: Mapping[str, Sequence[Setting]],
    attempt: Callable[[Setting], Trial],
    journal: Path,
    *,
    command: Sequence[str] = (),
    searched: Mapping[str, str] = MappingProxyType({}),
    limit: float = math.inf,
    own: Setting = MappingProxyType({}),
    lean: Setting = MappingProxyType({}),
) -> list[Trial]:
    """Tries the config as it is, then one axis after the other, keeping the best.

    Args:
        space: of `axes`.
        attempt: compiles a setting.
        journal: JSON lines of what is searched and of the trials; read if it exists,
            then appended to.
        command: what is searched, the arguments that all trials have.
        searched: what else its times depend on, of `fingerprint`.
        limit: seconds that a trial is given; one that had less, in vain, runs again,
            as does one that failed for another reason than its setting.
        own: of `current`; a setting is what differs from it, and tried once.
        lean: a setting that does not fit is tried with this one as well, so that a
            mesh is not lost for what a later axis could spare. That axis begins from
            there, and finds what may be kept.

    Returns:
        All trials, in order; the best is that of the least seconds.

    Raises:
        UserError: the journal is that of another command, config or compiler, or none.
    """
    header = {"command": list(command), **searched}
    done = {_key(each.setting): each for each in _resume(journal, header, limit)}
    trials: list[Trial] = []
    best: Trial | None = None

    def result(setting: Setting) -> Trial:
        setting = {k: value for k, value in setting.items() if own.get(k) != value}
        if _key(setting) not in done:
            trial = attempt(setting)
            done[_key(setting)] = trial
            with journal.open("a", encoding="utf-8") as file:
                file.write(json.dumps(_plain(trial)) + "\n")
        return done[_key(setting)]

    for axis, settings in {"config": [{}], **space}.items():
        here: list[Trial] = [] if best is None else [best]
        before = {} if best is None else best.setting
        for setting in settings:
            merged = {**before, **setting}
            here.append(result(merged))
            log.info("%s: %s", axis, describe(here[-1]))
            leaner = {**merged, **lean, **setting}
            if here[-1].too_large and leaner != merged:
                here.append(result(leaner))
                log.info("%s: %s", axis, describe(here[-1]))
        first = min(here, key=lambda trial: trial.seconds)
        if math.isfinite(first.seconds):
            best = first
        trials += [trial for trial in here if trial not in trials]
    return trials


def overrides(setting: Setting, config_path: str = "config") -> list[str]:
    """Flags that set the fields of a stage, whose config has that dotted path."""
    return [f"--{config_path}.{name}={value}" for name, value in setting.items()]


def in_process(
    arguments: Sequence[str], timeout: float, config_path: str = "config"
) -> Callable[[Setting], Trial]:
    """Returns what compiles a setting by this program's own command line.

    Args:
        arguments: of the command, without those of the search.
        timeout: seconds after which a trial is given up.
        config_path: where the stage stands in the config, 'config.stages.NAME'.
    """

    def attempt(setting: Setting) -> Trial:
        with tempfile.TemporaryDirectory() as directory:
            output = Path(directory) / "plan.json"
            command = [sys.executable, "-m", "unitoken_jax.plan", *arguments]
            try:
                ended = subprocess.run(
                    [*command, *overrides(setting, config_path), f"--json={output}"],
                    capture_output=True,
                    text=True,
                    timeout=timeout,
                    check=False,
                )
            except subprocess.TimeoutExpired:
                fault = f"not within {timeout:.0f} s"
                return Trial(setting, math.inf, fault=fault, given_up=timeout)
            if not output.exists():
                fault = _fault(ended.returncode, ended.stderr)
                return Trial(setting, math.inf, fault=fault)
            plan = json.loads(output.read_text())
        memory = plan["memory"]
        if not memory["fits"]:
            return Trial(setting, math.inf, memory["peak"], _TOO_LARGE)
        return Trial(setting, plan["seconds"]["capped"], memory["peak"])

    return attempt


def _fault(code: int, said: str) -> str:
    """Why a command that wrote no plan ended, from its code and its error stream."""
    lines = said.strip().splitlines() or ["no message"]
    if code >= 0:
        return lines[-1][:300]
    # libtpu's fatal message begins with F; its stack follows.
    fatal = next((line for line in lines if _FATAL.match(line)), lines[-1])
    return f"killed by signal {-code} ({signal.strsignal(-code)}): {fatal[:300]}"


def read(journal: Path) -> list[Trial]:
    """Reads the trials of an earlier search; none if there is no file.

    Raises:
        UserError: the file is no journal.
    """
    return _read(journal)[1]


def fingerprint(config: object) -> dict[str, str]:
    """What the times of a search depend on beside its command.

    Args:
        config: the whole config, rendered.
    """
    text = json.dumps(configs.plain(config), sort_keys=True, default=str)
    return {
        "config": hashlib.sha256(text.encode()).hexdigest()[:16],
        **{name: importlib.metadata.version(name) for name in ("jax", "libtpu")},
    }


def _resume(journal: Path, header: Mapping[str, object], limit: float) -> list[Trial]:
    """The trials of the same search that stand; the journal may be appended to."""
    before, trials = _read(journal)
    if before is not None and before["command"] != header["command"]:
        raise UserError(
            f"--search={journal}: its trials are those of another command "
            f"({' '.join(before['command'])}): name another file, or remove this one."
        )
    if before is not None and before != header:
        names = sorted({*before, *header})
        other = [name for name in names if before.get(name) != header.get(name)]
        raise UserError(
            f"--search={journal}: its trials are of another {', '.join(other)}, and "
            "their times would not compare: name another file, or remove this one."
        )
    trials = [trial for trial in trials if trial.stands(limit)]
    journal.parent.mkdir(parents=True, exist_ok=True)
    lines = [dict(header), *map(_plain, trials)]
    write_text(journal, "".join(json.dumps(each) + "\n" for each in lines))
    return trials


def _read(journal: Path) -> tuple[dict[str, Any] | None, list[Trial]]:
    """The header and the trials that were written whole; no header if no file."""
    if not journal.exists():
        return None, []
    # A search that was killed may have left half a line, whose trial runs again.
    whole, _, _ = journal.read_text(encoding="utf-8").rpartition("\n")
    try:
        header, *lines = [json.loads(line) for line in whole.splitlines()]
        trials = []
        for fields in lines:
            seconds = math.inf if fields["seconds"] is None else fields["seconds"]
            trials.append(Trial(**{**fields, "seconds": seconds}))
        return {**header, "command": list(header["command"])}, trials
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(
            f"--search={journal}: this is no journal of a search ({error}): name "
            "another file."
        ) from error


def fastest(trials: Sequence[Trial]) -> Trial:
    """The trial of the least seconds.

    Raises:
        UserError: none has a time.
    """
    best = min(trials, key=lambda each: each.seconds)
    if math.isfinite(best.seconds):
        return best
    if any(each.too_large for each in trials):
        raise UserError("--search: none of these settings fits.")
    raise UserError(
        f"--search: none of these settings could be compiled; the first: "
        f"{trials[0].fault}"
    )


def describe(trial: Trial) -> str:
    """One line of the table of what was tried."""
    # 'mesh.data' as 'data', but 'model.vision.remat' as 'vision.remat'.
    fields = " ".join(
        f"{k.partition('.')[2] or k}={v}" for k, v in trial.setting.items()
    )
    if not math.isfinite(trial.seconds):
        return f"{fields or 'as configured'}: {trial.fault}"
    return (
        f"{fields or 'as configured'}: {trial.seconds:.3f} s, "
        f"{trial.peak / 2**30:.1f} GiB"
    )


def _plain(trial: Trial) -> dict[str, object]:
    seconds = trial.seconds if math.isfinite(trial.seconds) else None
    return {**vars(trial), "setting": dict(trial.setting), "seconds": seconds}


def _key(setting: Setting) -> str:
    return json.dumps(dict(sorted(setting.items())))
