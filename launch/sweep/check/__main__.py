"""Check points as training would: python -m launch.sweep.check < POINTS.

It reads [[NAME, FILE, FIELDS], …] as JSON and says {NAME: FAULT}, of those that
training would refuse before it writes anything. A process of its own: what JAX takes to
check must be there for the runs.
"""

import contextlib
import json
import logging
import sys

from launch.sweep import experiment
from unitoken_jax import pipeline
from unitoken_jax.config import UserError
from unitoken_jax.models import registry
from unitoken_jax.models.system import System
from unitoken_jax.train.experiment import build_experiment


class _Memory:
    """Parameters of a model, found once for all points that have it alike."""

    def __init__(self) -> None:
        self._found: dict[str, registry.Params] = {}

    def __call__(self, system: System) -> registry.Params:
        key = repr((system.kind, system.config))
        if key not in self._found:
            self._found[key] = registry.abstract_params(system)
        return self._found[key]


def fault(file: str, fields: list[str], params: _Memory) -> str:
    """Return why training would refuse a config, '' if it would not."""
    try:
        chain = build_experiment(experiment.evaluate(file, fields))
        pipeline.check(chain, abstract_params=params)
        experiment.read(file, fields)
    except UserError as error:
        return str(error)
    except Exception as error:  # training would end by it as well
        return f"{type(error).__name__}: {error}"
    return ""


def main() -> None:
    """Answer on the standard output, which config files may not use meanwhile."""
    logging.disable()
    params = _Memory()
    with contextlib.redirect_stdout(sys.stderr):
        points = json.load(sys.stdin)
        found = {name: fault(file, fields, params) for name, file, fields in points}
    print(json.dumps({name: why for name, why in found.items() if why}))


if __name__ == "__main__":
    main()
