"""README and docs: links lead somewhere, commands and flags exist."""

import re
import shlex
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "data" / "README.md", *ROOT.glob("docs/*.md")]
MODULE = re.compile(
    r"python -m ((?:unitoken_jax|data_pipelines|launch)[\w.]*)([^`\n]*)"
)


@pytest.fixture(params=PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def page(request):
    return request.param


def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)", page.read_text("utf-8")):
        if not target.startswith("https://"):
            assert (page.parent / target).exists(), target


def test_named_files_exist(page):
    named = r"`((?:unitoken_jax|data_pipelines|configs|launch|tests|docs)/[\w/.]+)`"
    for path in re.findall(named, page.read_text("utf-8")):
        assert (ROOT / path).exists(), path


def test_commands_name_modules_and_flags_that_exist(page):
    text = page.read_text("utf-8").replace("\\\n", " ")
    for module, rest in MODULE.findall(text):
        arguments = rest
        program = ROOT.joinpath(*module.split("."), "__main__.py")
        if not program.is_file():
            program = ROOT.joinpath(*module.split(".")).with_suffix(".py")
        assert program.is_file(), module
        source = program.read_text("utf-8")
        if module.startswith("launch."):  # what all launchers understand
            source += (ROOT / "launch" / "script.py").read_text("utf-8")
            arguments = arguments.split(" -- ")[0]
        if module == "data_pipelines.prepare":  # its options are fields of its config
            source += (program.parent / "job.py").read_text("utf-8")
        words = shlex.split(arguments, comments=True)
        for flag in (word for word in words if word.startswith("--")):
            name = flag.removeprefix("--").split("=")[0].split(".")[0]
            assert name == "config" or name in source, flag


def test_make_targets_exist(page):
    makefile = (ROOT / "Makefile").read_text("utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    commands = re.findall(
        r"(?:^|`)make ([a-z-]+)", page.read_text("utf-8"), re.MULTILINE
    )
    assert set(commands) <= targets


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text("utf-8").splitlines()) < 150
