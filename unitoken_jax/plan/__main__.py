"""Plan: python -m unitoken_jax.plan --config FILE --topology v5p:4x4x4 [--slices N].

Compiles the step of a stage for TPU chips that are not there, and says whether it fits,
how long it takes and what bounds it. Any field of the config can be overridden, as in
training. Needs libtpu: pip install -r requirements-plan.txt.
"""

import json
import logging
import math
import sys

import jax
from absl import flags

from unitoken_jax import config as configs
from unitoken_jax.config import ConfigError, UserError
from unitoken_jax.files import define_path_flag
from unitoken_jax.parallel import topology as topologies
from unitoken_jax.plan import report, selfcheck
from unitoken_jax.plan import stage as stages
from unitoken_jax.runtime.console import log_to_console
from unitoken_jax.runtime.environment import write_text
from unitoken_jax.train.experiment import build_experiment

log = logging.getLogger("unitoken_jax.plan.main")

_LIMIT = 900


def main() -> None:
    """Plan as the flags say."""
    given = flags.FLAGS
    with log_to_console():
        if given.self_check:
            for line in selfcheck.lines():
                log.info("%s", line)
            return
        if given.config is None or given.topology is None:
            raise ConfigError(
                "plan needs --config=configs/FILE.py and --topology=v5p:4x4x4."
            )
        for name in ("json", "text"):
            path = given[name].value
            if path and given.search:
                raise UserError(
                    f"--search and --{name} do not go together: a search writes its "
                    f"journal alone; plan with the flags of the fastest and --{name}."
                )
            if path and not path.parent.is_dir():
                raise UserError(
                    f"--{name}={path}: its directory is not there; make it."
                )
        stage = stages.choose(build_experiment(given.config), given.stage)
        topology = topologies.parse(given.topology, given.slices)
        if given.search:
            stages.find_fastest(
                stage,
                topology,
                given.search,
                config=given.config,
                arguments=sys.argv[1:],
                axes=given.axes or (),
                limit=given.limit,
            )
            return
        found = stages.plan(stage, topology, given.text)
        log.info("%s", report.render(found))
        if given.json:
            write_text(given.json, json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    jax.config.update("jax_platforms", "cpu")
    configs.define_flag(required=False)
    flags.DEFINE_string("topology", None, "Chips of a slice, such as v5p:4x4x4.")
    flags.DEFINE_integer(
        "slices", 1, "Slices that a data-centre network connects.", 1, 4096
    )
    flags.DEFINE_string("stage", None, "Stage of a chain; its last one by default.")
    define_path_flag("json", None, "Write the plan here as well.")
    define_path_flag("text", None, "Write the compiled program's text here.")
    define_path_flag("search", None, "Search; the journal of its trials is here.")
    flags.DEFINE_list("axes", None, "Search along these axes only.")
    flags.DEFINE_float(
        "limit",
        _LIMIT,
        "Seconds that a trial of a search may take.",
        lower_bound=1.0,
    )
    flags.register_validator("limit", math.isfinite, "give a number of seconds.")
    flags.DEFINE_bool("self_check", False, "Price plain matrix products of each chip.")
    configs.run(main)
