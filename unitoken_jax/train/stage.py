"""One stage from its parts: mesh, state, compiled step, loop, and how it ended.

Start at `run` to see how a training is put together.
"""

import json
import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax

from unitoken_jax.checkpoint.manager import Checkpointer
from unitoken_jax.checkpoint.reader import Restored
from unitoken_jax.checkpoint.state import TrainState
from unitoken_jax.config import plain, render
from unitoken_jax.parallel.mesh import Devices
from unitoken_jax.renamed import translate
from unitoken_jax.runtime import environment, processes
from unitoken_jax.runtime.console import log_to_file
from unitoken_jax.train import loop, preflight
from unitoken_jax.train.components import StageComponents
from unitoken_jax.train.config import StageConfig
from unitoken_jax.train.monitor.goodput import Goodput
from unitoken_jax.train.monitor.metrics import last_metrics
from unitoken_jax.train.monitor.pace import Pace
from unitoken_jax.train.program import make_program
from unitoken_jax.train.update.optimizer import Optimizer

log = logging.getLogger(__name__)

FINISHED = "finished.json"


def is_finished(directory: Path, steps: int) -> bool:
    """Say whether the stage in `directory` has been trained for `steps` steps."""
    found = _finished(directory).get("steps")
    return type(found) is int and found == steps


def origins_of(directory: Path) -> dict[str, str]:
    """Return what a complete stage has started from, as `run` was told it."""
    found = _finished(directory).get("origins")
    return dict(found) if isinstance(found, Mapping) else {}


def _finished(directory: Path) -> Mapping[str, object]:
    try:
        found = json.loads((directory / FINISHED).read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, Mapping) else {}


def run(
    stage: StageConfig,
    parts: StageComponents,
    directory: Path,
    *,
    config_path: str = "config",
    sources: Mapping[str, tuple[Path, str]] | None = None,
    origins: Mapping[str, str] | None = None,
    restore_step: int | None = None,
    devices: Devices | None = None,
    pace: Pace | None = None,
) -> loop.Outcome:
    """Train one stage, from its newest checkpoint if it has one.

    Args:
        stage: the stage's config.
        parts: what it is made of.
        directory: of the stage; made if missing.
        config_path: dotted path of `stage` in the config, for messages.
        sources: our subtree → (directory, subtree) to start from, see `warm_start`.
        origins: stage that it starts from, or whose codes it sees → a mark of what
            that has come to, kept to notice when it is trained again.
        restore_step: the checkpoint to go back to, see `Checkpointer.restore`.
        devices: to run on; all if None.
        pace: of the chain that the stage is part of, to say when that ends.

    Raises:
        UserError: whatever the user can mend, in a sentence.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with _logged(directory):
        began, now = time.monotonic(), time.time()
        description = _describe(stage, directory, config_path)
        preflight.check_streams(parts.batches.digest, config_path)
        program = make_program(stage, parts.system, config_path, devices)
        with Checkpointer(directory / "checkpoints", stage.checkpoint) as checkpointer:
            restored = checkpointer.restore(program.abstract, restore_step)
            if restored is not None:
                preflight.check_step(
                    stage, int(restored.state.step), directory, config_path
                )
                _reopen(directory, restored, restore_step)
            _write_description(directory, description)
            if restored is None:
                state, position, meta = program.init_state(sources or {}), 0, {}
            else:
                state, position = restored.state, restored.position
                meta = restored.meta
                log.info(
                    "resuming at step %d of %d, sample %d of the data",
                    *(int(state.step), stage.train.steps, position),
                )
                _report_changes(meta, description)
                _report_stream(meta, parts.batches.digest)
                origins = _origins(meta, origins or {}, stage.name)
            _report_size(state, program.optimizer)
            compiled = program.compile(
                parts.batches.batch_spec, parts.frozen_models, parts.pictures
            )
            parts.batches.position = position
            outcome = loop.run(
                stage,
                compiled,
                state,
                parts.batches,
                checkpointer,
                directory=directory,
                meta={
                    **description,
                    "origins": dict(origins or {}),
                    "stream": parts.batches.digest,
                },
                goodput=Goodput(meta, directory / "metrics.jsonl", now),
                pace=pace,
            )
            if outcome.complete:
                checkpointer.discard_local()
        if outcome.complete:
            seconds = time.monotonic() - began
            _finish(stage, directory, outcome, seconds, origins or {})
        return outcome


def _finish(
    stage: StageConfig,
    directory: Path,
    outcome: loop.Outcome,
    seconds: float,
    origins: Mapping[str, str],
) -> None:
    """Mark the stage as complete."""
    # Nothing is left to do where an earlier start was killed before it came here.
    metrics = outcome.metrics or last_metrics(directory, stage.train.steps)
    content = {
        "steps": stage.train.steps,
        "seconds": seconds,
        "metrics": dict(metrics),
        "origins": dict(origins),
    }
    if processes.is_first():
        environment.write_json(directory / FINISHED, content)
    processes.wait_for_all(f"the end of stage {stage.name}")
    log.info("stage %s is complete after %.0f s", stage.name, seconds)


@contextmanager
def _logged(directory: Path) -> Iterator[None]:
    """Keep a log in the stage's directory, with the traceback of a failure."""
    if not processes.is_first():
        yield
        return
    with log_to_file(directory / "log.txt"):
        try:
            yield
        except Exception:
            log.exception("the stage failed", extra={"file_only": True})
            raise


def _describe(
    stage: StageConfig, directory: Path, config_path: str
) -> dict[str, dict[str, Any]]:
    """Log config and environment; return them, as they stand in the checkpoints."""
    config, surroundings = plain(stage), environment.describe()
    text = render(stage, config_path)
    log.info("%s", text, extra={"file_only": True})
    log.info(
        "config: %s, %d fields, also in %s",
        *(directory / "config.json", len(text.splitlines()), directory / "log.txt"),
        extra={"console_only": True},
    )
    devices = surroundings["devices"]
    log.info(
        "%d %s device(s), jax %s, revision %s",
        *(devices["count"], devices["kind"], jax.__version__, surroundings["revision"]),
    )
    return {"config": config, "environment": surroundings}


def _write_description(
    directory: Path, description: Mapping[str, Mapping[str, object]]
) -> None:
    """Write config and environment, now that the stage is sure to have them."""
    if processes.is_first():
        for name, content in description.items():
            environment.write_json(directory / f"{name}.json", content)


def _reopen(directory: Path, restored: Restored, restore_step: int | None) -> None:
    """Take back that a stage is complete if the run went back in it."""
    if int(restored.state.step) == restore_step and processes.is_first():
        (directory / FINISHED).unlink(missing_ok=True)


def _report_changes(before: Mapping[str, object], now: Mapping[str, object]) -> None:
    """Warn of fields that differ from the config of the checkpoint."""
    # Through JSON and back, so that tuples and lists compare.
    configs = (json.loads(json.dumps(meta.get("config", {}))) for meta in (before, now))
    old, new = (set(render(translate(c)[0], "").splitlines()) for c in configs)
    for line in sorted(new - old):
        log.warning("changed since the checkpoint: %s", line.removeprefix("."))


def _report_stream(before: Mapping[str, object], digest: str) -> None:
    """Warn of another stream than the checkpoint's; older ones do not say."""
    if before.get("stream", digest) != digest:
        log.warning(
            "the data has other samples than at the checkpoint, or in another order: "
            "the config or the data set has changed, or a record could not be read, "
            "then or now, as a warning says. The run goes on with what there is now."
        )


def _origins(
    before: Mapping[str, Any], now: Mapping[str, str], name: str
) -> dict[str, str]:
    """Return what a resumed stage has started from; warn if that is gone since."""
    kept = dict(before.get("origins", {}))
    if others := changed_origins(kept, now):
        log.warning(
            "stage %s began from another %s than there is now, and goes on with what "
            "it has; to train it anew, remove its folder.",
            *(name, " and ".join(others)),
        )
    return kept


def changed_origins(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Name the stages that have come to something else; of unknown ones none."""
    return sorted(name for name in before.keys() & now if before[name] != now[name])


def _report_size(state: TrainState, optimizer: Optimizer) -> None:
    trainable, frozen = optimizer.split(state.params)
    moving, still = (sum(x.size for x in flat.values()) for flat in (trainable, frozen))
    log.info("%s trainable and %s frozen parameters", f"{moving:,}", f"{still:,}")
