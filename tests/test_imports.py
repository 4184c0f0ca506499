"""Imports go one way: ops ◀ layers ◀ models ◀ {train, generate, evaluate, …}.

`__main__` modules wire everything together and may import anything.
"""

import ast
import graphlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("unitoken_jax", "data_pipelines", "configs", "launch")

_RUNTIME = {"runtime", "config", "errors", "files", "renamed"}
_BELOW_TRAIN = {"models", "layers", "ops", "parallel", "checkpoint"} | _RUNTIME

# Which of our packages each package may import, besides itself.
ALLOWED = {
    # Lazily, but for commands; tests/test_package.py looks at what is imported.
    "__init__": {
        *("commands", "config", "convert", "data_pipelines", "evaluate", "generate"),
        *("plan", "report", "train"),
    },
    "commands": set(),
    "errors": set(),
    "files": {"errors"},
    "renamed": set(),
    "config": {"errors", "files", "renamed"},
    "ops": set(),
    "parallel": {"config"},
    "layers": {"ops", "parallel", "config"},
    "models": {"layers", "ops", "parallel", "config"},
    "runtime": {"config", "errors", "files"},
    "checkpoint": {"parallel"} | _RUNTIME,
    "train": _BELOW_TRAIN | {"convert", "data_pipelines", "groups"},
    "generate": _BELOW_TRAIN | {"data_pipelines", "groups", "train"},
    "evaluate": _BELOW_TRAIN
    | {"convert", "data_pipelines", "generate", "groups", "train"},
    "convert": _BELOW_TRAIN,
    "groups": {"config", "evaluate", "files", "generate", "ops", "parallel"},
    "plan": _BELOW_TRAIN | {"convert", "data_pipelines", "train"},
    "pipeline": {
        *("config", "data_pipelines", "evaluate", "generate", "models", "report"),
        *("runtime", "train", "errors"),
    },
    "report": {"config", "files", "renamed"},
    "data_pipelines": {"commands", "config", "errors", "files"},
    "configs": set(),
    "launch": {
        *("commands", "config", "configs", "errors", "files", "renamed", "report"),
    },
}
# Dataclasses alone, which the config of an experiment holds; test_no_cycles keeps them
# from what their packages are for.
GROUPS = ("unitoken_jax.evaluate.config", "unitoken_jax.generate.config")
# What a package may import besides our own and the standard library; packages that
# are not named may use any requirement.
OUTSIDE = {
    "config": {"absl", "ml_collections"},
    "files": {"absl"},
    "ops": {"jax", "numpy"},
    "report": {"absl", "jinja2", "markupsafe", "numpy", "PIL"},
    "data_pipelines": {
        *("array_record", "ftfy", "grain", "ml_collections", "msgpack", "numpy"),
        *("PIL", "sentencepiece", "tokenizers", "tqdm"),
    },
    "configs": {"ml_collections"},
    "launch": {"yaml"},
}


def _package(module: str) -> str:
    """Return the package of ours that a module belongs to, such as 'ops'."""
    if module in GROUPS:
        return "groups"
    top, *rest = module.split(".")
    return rest[0] if top == "unitoken_jax" and rest else top


def _files() -> list[Path]:
    return [path for name in PACKAGES for path in sorted((ROOT / name).rglob("*.py"))]


def _imports(path: Path) -> Iterator[str]:
    """Yield the full name of every module a file imports, also inside functions."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            assert node.module is not None
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            # `from unitoken_jax import ops` names a package, not the top module.
            yield from inner if node.module == "unitoken_jax" else [node.module]


def _check(path: Path) -> list[str]:
    """Return what a file imports and may not."""
    module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    package = _package(module)
    if package == "unitoken_jax" or path.stem == "__main__":
        return []
    faults = []
    for imported in _imports(path):
        ours = imported.split(".")[0] in PACKAGES
        if ours and _package(imported) not in ALLOWED[package] | {package}:
            faults.append(imported)
        outside = ours or imported.split(".")[0] in sys.stdlib_module_names
        allowed = OUTSIDE.get(package)
        if not outside and allowed and imported.split(".")[0] not in allowed:
            faults.append(imported)
    return faults


@pytest.mark.parametrize("path", _files(), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_go_one_way(path: Path) -> None:
    assert _check(path) == []


def test_checkpoint_alone_knows_orbax() -> None:
    """So that another version of Orbax, or another library, is one package's matter."""
    knowing = {
        _package(".".join(path.relative_to(ROOT).with_suffix("").parts))
        for path in _files()
        if any(name.split(".")[0] == "orbax" for name in _imports(path))
    }
    assert knowing == {"checkpoint"}


@pytest.mark.parametrize("path", _files(), ids=lambda p: str(p.relative_to(ROOT)))
def test_nothing_imports_a_main(path: Path) -> None:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module}
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    assert not {name for name in found if name.endswith("__main__")}


def test_no_cycles() -> None:
    """Also within a package no two modules need each other."""
    modules = {".".join(p.relative_to(ROOT).with_suffix("").parts): p for p in _files()}
    graph: dict[str, set[str]] = {}
    for name, path in modules.items():
        found: set[str] = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                inner = {f"{node.module}.{alias.name}" for alias in node.names}
                found |= (inner & modules.keys()) or {node.module}
        graph[name] = found & modules.keys()
    # Raises CycleError, which names the cycle.
    list(graphlib.TopologicalSorter(graph).static_order())


def test_the_test_notices(tmp_path, monkeypatch) -> None:
    """A wrong import in a copy of the tree is found."""
    folder = tmp_path / "unitoken_jax" / "ops"
    folder.mkdir(parents=True)
    file = folder / "wrong.py"
    file.write_text(
        "def f():\n    from unitoken_jax.models import vqgan\nimport flax\n"
    )
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    assert sorted(_check(file)) == ["flax", "unitoken_jax.models"]
