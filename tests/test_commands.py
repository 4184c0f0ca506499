"""What `python -m` may start; anything else of ours says that it is no command."""

import subprocess
import sys
from pathlib import Path

import pytest

from unitoken_jax.commands import commands

ROOT = Path(__file__).parent.parent


def _start(*arguments):
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )


@pytest.mark.parametrize(
    "arguments",
    [
        ("-m", "data_pipelines.pretokenize"),
        ("-m", "data_pipelines.pretokenize", "--input", "a"),
        ("-mdata_pipelines.prepare.job",),
        ("-W", "error", "-m", "data_pipelines"),
        ("-m", "unitoken_jax.train.loop"),
        ("-m", "launch.script"),
    ],
)
def test_what_is_no_command_says_so(arguments):
    run = _start(*arguments)
    assert run.returncode == 1
    assert "is no command" in run.stderr
    assert "unitoken_jax.train" in run.stderr
    assert "Traceback" not in run.stderr


def test_commands_are_found_and_run():
    expected = {"data_pipelines.pick", "data_pipelines.prepare", "launch.sweep"}
    expected |= {"unitoken_jax.train", "unitoken_jax.generate", "unitoken_jax.plan"}
    assert expected <= set(commands())
    assert _start("-m", "data_pipelines.pick", "--help").returncode == 0


def test_what_is_not_there_is_left_to_python():
    assert "No module named" in _start("-m", "data_pipelines.nothing").stderr
