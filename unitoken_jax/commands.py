"""What may be started here, by `python -m` or as a script of an installed package.

Any other module says so instead of doing nothing. Standard library only: the packages
import it before anything else.
"""

import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

_ROOT = Path(__file__).parent.parent
_PACKAGES = ("data_pipelines", "launch", "unitoken_jax")
_HINTS = {
    "data_pipelines.pretokenize": "unitoken_jax.train makes the codes of pictures "
    "before the first stage that needs them",
}


def refuse_others() -> None:
    """End `python -m MODULE` in a sentence if MODULE is ours and no command.

    Packages call it while they are imported, which is before the module would run.
    """
    if sys.argv[:1] != ["-m"]:  # as Python has it until the module is found
        return
    name = _started(sys.orig_argv)
    if name.partition(".")[0] not in _PACKAGES or _is_command(name):
        return
    place = _ROOT.joinpath(*name.split("."))
    if place.is_dir() or place.with_suffix(".py").exists():
        hint = _HINTS.get(name, "it is imported by others")
        sys.exit(f"{name} is no command: {hint}. Commands: {', '.join(commands())}.")


def commands() -> list[str]:
    """Name everything that `python -m` may start, in alphabetical order."""
    return sorted(name for name in _modules() if _is_command(name))


def _run(module: str) -> None:
    """Run a module as `python -m` does, with the arguments of this process."""
    import runpy  # noqa: PLC0415 - only scripts need it

    runpy.run_module(module, run_name="__main__", alter_sys=True)


# Scripts of an installed package, as pyproject.toml names them.
train = partial(_run, "unitoken_jax.train")
generate = partial(_run, "unitoken_jax.generate")
evaluate = partial(_run, "unitoken_jax.evaluate")
convert = partial(_run, "unitoken_jax.convert")
plan = partial(_run, "unitoken_jax.plan")
report = partial(_run, "unitoken_jax.report")
prepare = partial(_run, "data_pipelines.prepare")
verify = partial(_run, "data_pipelines.verify")
sweep = partial(_run, "launch.sweep")


def launch() -> None:
    """Run the launcher that the first word names: unitoken-launch slurm …."""
    known = ("gke", "local", "slurm", "tpu_vm")
    name = sys.argv.pop(1) if len(sys.argv) > 1 else ""
    if name not in known:
        given = f"there is no launcher {name!r}" if name else "name a launcher"
        print(f"error: {given}: {', '.join(known)}.", file=sys.stderr)
        sys.exit(0 if name in ("-h", "--help") else 78)
    _run(f"launch.{name}")


def _modules() -> Iterator[str]:
    for package in _PACKAGES:
        for file in (_ROOT / package).rglob("*.py"):
            name = ".".join(file.relative_to(_ROOT).with_suffix("").parts)
            yield name.removesuffix(".__main__")


def _is_command(name: str) -> bool:
    place = _ROOT.joinpath(*name.split("."))
    if (place / "__main__.py").exists():
        return True
    file = place.with_suffix(".py")
    return file.exists() and '\nif __name__ == "__main__":' in file.read_text("utf-8")


def _started(arguments: Sequence[str]) -> str:
    """Return the module behind Python's -m, or nothing."""
    for index, argument in enumerate(arguments):
        if argument == "-m":
            return "".join(arguments[index + 1 : index + 2])
        if argument.startswith("-m"):
            return argument[2:]
    return ""
