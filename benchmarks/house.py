"""How the code is kept: sizes of files and folders, words, types, comments and tests.

python -m benchmarks.house [--root=DIR] [--way]

Counted are the files of `unitoken_jax`, `data_pipelines` and `launch` by their syntax
trees. `--way` also trains the quickstart's first stage for one step and counts the
functions and files of ours between the command's entry and the first gradient.
"""

import argparse
import ast
import contextlib
import io
import re
import runpy
import sys
import tempfile
import tokenize
import traceback
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import jax

PACKAGES = ("unitoken_jax", "data_pipelines", "launch")
_SHAPED = re.compile(r"\b(einsum|reshape|transpose|swapaxes|moveaxis)\(")
_COMMENT = re.compile(
    r"#.*\[[^\]]*\].*(→|->)|#.*(→|->).*\[|#.*\[[A-Za-z0-9', …·×*+/().-]+\]"
)
_MODELS = r"(VQGAN|Siglip\w*|UniTok|UniToken|UniTokMllm|LlamaGen|Chameleon|ViTamin)"
_ASKED = re.compile(
    rf"isinstance\([^()]*,\s*[^()]*\b{_MODELS}(Config)?\b|"
    r"\b(system|model|job|stage)\w*(\.model)?(\.|\[\")kind(\"\])?\s*"
    r"(==|!=|in\b|not in\b)|"
    r"\bkind == \"(vqgan|siglip|unitok|unitoken|unitok_mllm|llamagen)\""
)


def files(root: Path, *packages: str) -> list[Path]:
    """Return the Python files of packages."""
    return [p for name in packages for p in sorted((root / name).rglob("*.py"))]


def lines(path: Path) -> int:
    """Return how many lines of a file are not blank."""
    return sum(bool(line.strip()) for line in path.read_text("utf-8").splitlines())


def imported(tree: ast.AST) -> Iterator[str]:
    """Yield the modules, and the names in them, that a file imports."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def shape_comments(path: Path) -> tuple[int, int]:
    """Return the lines that change shapes, and how many of them say which."""
    text = path.read_text("utf-8")
    code = text.splitlines()
    comments = {
        token.start[0]: token.string
        for token in tokenize.generate_tokens(io.StringIO(text).readline)
        if token.type == tokenize.COMMENT
    }
    found = said = 0
    for number, line in enumerate(code, 1):
        if not _SHAPED.search(line.partition("#")[0]):
            continue
        found += 1
        near = (
            comments.get(n, "") for n in (number - 2, number - 1, number, number + 1)
        )
        said += any(_COMMENT.search(comment) for comment in near)
    return found, said


def protocols(trees: list[ast.Module]) -> list[str]:
    """Return the protocols that only one class has all methods of."""
    classes: dict[str, set[str]] = {}
    found: dict[str, set[str]] = {}
    for tree in trees:
        for node in ast.walk(tree):
            if not isinstance(node, ast.ClassDef):
                continue
            names = {n.name for n in node.body if isinstance(n, ast.FunctionDef)}
            is_protocol = any("Protocol" in ast.unparse(base) for base in node.bases)
            (found if is_protocol else classes)[node.name] = names
    return [
        name
        for name, methods in found.items()
        if methods - {"__call__"}
        and sum(methods <= each for each in classes.values()) == 1
    ]


def functions_over(trees: list[ast.Module], limit: int) -> int:
    """Return how many functions have more lines than `limit`."""
    return sum(
        isinstance(node, ast.FunctionDef)
        and (node.end_lineno or 0) - node.lineno + 1 > limit
        for tree in trees
        for node in ast.walk(tree)
    )


def measure(root: Path) -> dict[str, object]:
    """Return the measures of a tree by name."""
    every = files(root, *PACKAGES)
    trees = {path: ast.parse(path.read_text("utf-8")) for path in every}
    folders = Counter(
        path.parent.relative_to(root).as_posix()
        for path in every
        if path.name != "__init__.py"
    )
    fullest = Counter({k: n for k, n in folders.items() if k != "unitoken_jax/ops"})
    short = [
        len(p.read_text("utf-8").splitlines()) for p in every if p.name != "__init__.py"
    ]
    mains = {
        p: len(p.read_text("utf-8").splitlines()) for p in every if p.stem == "__main__"
    }
    longest = max(mains, key=lambda path: mains[path])
    shaped = [shape_comments(path) for path in every]
    total, said = (sum(column) for column in zip(*shaped, strict=True))
    result: dict[str, object] = {
        "files, lines": (len(every), sum(map(lines, every))),
        "fullest folders besides ops": fullest.most_common(4),
        "files under 50 lines": f"{sum(n < 50 for n in short) / len(short):.1%}",
        "longest __main__": (longest.relative_to(root).as_posix(), mains[longest]),
        "importers of a __main__": sorted(
            p.relative_to(root).as_posix()
            for p, tree in trees.items()
            if any(name.endswith(".__main__") for name in imported(tree))
        ),
        "lines that change shapes with a comment": f"{said} of {total}",
        "functions over 60 lines": functions_over(list(trees.values()), 60),
        "uses of Any": sum(
            isinstance(node, ast.Name) and node.id == "Any"
            for tree in trees.values()
            for node in ast.walk(tree)
        ),
        "places that ask a model's kind": [
            f"{p.relative_to(root).as_posix()}:{number}"
            for p in every
            if "/models/" not in p.as_posix() and "/published/" not in p.as_posix()
            for number, line in enumerate(p.read_text("utf-8").splitlines(), 1)
            if _ASKED.search(line)
        ],
        "protocols of one class": protocols(list(trees.values())),
        "bytes of HTML in docs": sum(
            p.stat().st_size for p in (root / "docs").rglob("*.html")
        ),
    }
    for name in ("generate", "evaluate", "convert"):
        code = sum(map(lines, files(root, f"unitoken_jax/{name}")))
        tests = sum(map(lines, files(root, f"tests/{name}")))
        result[f"test / code lines of {name}"] = f"{tests / code:.2f}"
    return result


class Reached(BaseException):
    """The first gradient is about to be taken."""


def way(root: Path) -> tuple[int, int, list[str]]:
    """Return functions and files between the entry and the first gradient."""
    frames: list[str] = []

    def grad(*_: object, **__: object) -> None:
        for frame in traceback.extract_stack()[:-1]:
            path = Path(frame.filename)
            if path.is_relative_to(root / "unitoken_jax") and "<" not in frame.name:
                frames.append(f"{path.relative_to(root).as_posix()}:{frame.name}")
        raise Reached

    jax.grad = jax.value_and_grad = grad  # pyright: ignore[reportAttributeAccessIssue]
    with tempfile.TemporaryDirectory() as workdir:
        sys.argv = [
            "train",
            "--config",
            "configs/quickstart.py",
            f"--workdir={workdir}",
        ]
        with contextlib.suppress(Reached):
            runpy.run_module("unitoken_jax.train", run_name="__main__", alter_sys=True)
    passed = list(dict.fromkeys(frames))
    return len(passed), len({frame.partition(":")[0] for frame in passed}), passed


def main() -> None:
    """Print the measures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, default=Path(__file__).parent.parent)
    parser.add_argument("--way", action="store_true")
    values = parser.parse_args()
    for name, value in measure(values.root).items():
        print(f"{name}: {value}")
    if values.way:
        functions, count, passed = way(values.root)
        print(
            f"functions and files to the first gradient: {functions}, {count}",
            *passed,
            sep="\n  ",
        )


if __name__ == "__main__":
    main()
