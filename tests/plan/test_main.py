"""The command line: what trials get of it, and flags that do not go together."""

import subprocess
import sys
from pathlib import Path

from unitoken_jax.errors import REFUSED
from unitoken_jax.plan.stage import for_trials


def test_trials_get_the_command_without_what_is_the_searchs():
    given = ["--config=c.py", "--stage", "search", "--search", "t.jsonl", "--limit=9"]
    assert for_trials(given) == ["--config=c.py", "--stage", "search"]
    given = ["--axes=", "--slices", "2", "-axes", "mesh"]
    assert for_trials(given) == ["--slices", "2"]


def test_a_search_writes_no_plan():
    ended = subprocess.run(
        [
            *(sys.executable, "-m", "unitoken_jax.plan", "--config"),
            *("configs/quickstart.py", "--topology=v5e:2x2"),
            *("--search=t.jsonl", "--json=plan.json"),
        ],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == REFUSED
    assert "--search and --json do not go together" in ended.stderr
