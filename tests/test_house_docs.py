"""Pages that are made by a command are what the command makes today, and what the docs tell a reader to run exists."""

from __future__ import annotations

import ast
import importlib.util
import re
import shlex
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import typer

from flows.cli.main import app
from flows.settings import DESCRIBING, GROUPS, SCORING, parse_sets

ROOT = Path(__file__).parents[1]


def maker(name: str) -> ModuleType:
    """A script of docs/ as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def refusals() -> ModuleType:
    return maker("make_refusals")


def test_the_table_of_metrics_is_up_to_date() -> None:
    """`python docs/make_metrics.py` would write what stands there, and a changed table is seen."""
    metrics = maker("make_metrics")
    text = metrics.PAGE.read_text("utf-8")
    assert text == metrics.page() and "| `five_acc_inter` |" in text
    dropped = metrics.METRICS.pop("niqe")
    assert text != metrics.page()
    metrics.METRICS["niqe"] = dropped


def test_the_refusals_page_is_up_to_date(refusals: ModuleType) -> None:
    """`python docs/make_refusals.py` would write what stands there."""
    assert refusals.PAGE.read_text("utf-8") == refusals.page()


def test_the_refusals_page_has_what_is_raised(refusals: ModuleType) -> None:
    """Sentences that are raised at once, through a variable, and by a function that makes the error are all found."""
    text = refusals.page()
    for words in ("there is no such file", "is a git-LFS pointer"):
        assert words in text, words
    assert "| the file has zero bytes | fetch it again or remove it |" in text


PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
PAGES += [ROOT / "deployments" / "README.md"]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.M | re.S)
INLINE = re.compile(r"`((?:cogvideo-edit|make|python) [^`\n]+)`")


def blocks(language: str) -> list[Any]:
    told = [(page, *block) for page in PAGES for block in FENCE.findall(page.read_text("utf-8"))]
    found = [(page, text) for page, name, text in told if name == language]
    return [pytest.param(text, id=f"{page.relative_to(ROOT)}:{number}") for number, (page, text) in enumerate(found)]


def commands() -> list[Any]:
    """Every line of a shell block and every inline command that calls one of the project's programs."""
    found: dict[str, Path] = {}
    for page in PAGES:
        text = page.read_text("utf-8")
        shell = "".join(block for told, block in FENCE.findall(text) if told in ("", "bash", "sh"))
        lines = [line.strip().removeprefix("$ ") for line in shell.replace("\\\n", " ").splitlines()]
        for line in lines + INLINE.findall(FENCE.sub("", text)):
            command = re.split(r"\s#|\s{3,}| && | \| | > ", line)[0].strip().removeprefix(".venv/bin/")
            if command.startswith(("cogvideo-edit ", "make ", "python ")):
                found.setdefault(command, page)
    return [pytest.param(command, id=f"{page.relative_to(ROOT)}: {command[:60]}") for command, page in found.items()]


def problem_of(command: str) -> str:
    """Why a command would not start, or ""; nothing is run. Words in capitals and ... stand for anything."""
    if "..." in command or "…" in command:
        return ""
    program, *words = shlex.split(command)
    if program == "make":
        targets = re.findall(r"^([a-z0-9]+):", (ROOT / "Makefile").read_text(), re.M)
        unknown = [word for word in words if "=" not in word and not word.startswith("-") and word not in targets]
        return f"no target {unknown}" if unknown else ""
    if program == "python":
        place = f"{words[1].replace('.', '/')}.py" if words[0] == "-m" else words[0]
        known = (ROOT / place).exists() or (words[0] == "-m" and importlib.util.find_spec(words[1]) is not None)
        return "" if known or words[0] == "-c" else f"no {place}"
    return _refused(["1" if word.isupper() else word for word in words])


def _refused(words: list[str]) -> str:
    """What the command line says against these words, or against a setting in them."""
    command: Any = typer.main.get_command(app)
    scores = words[:1] == ["benchmark"]
    try:
        while hasattr(command, "commands"):
            if words[0].startswith("-"):
                known = {name for option in command.params for name in option.opts} | {"--help"}
                return "" if words[0] in known else words[0]
            command, words = command.commands[words[0]], words[1:]
        with command.make_context("cogvideo-edit", list(words)) as context:
            pairs = context.params.get("sets") or []
        known = DESCRIBING if command.name == "write-manifest" else GROUPS | (SCORING if scores else {})
        for group, fields in parse_sets(list(pairs), known).items():
            if unknown := fields.keys() - known[group].model_fields.keys():
                return f"no field {unknown}"
    except KeyError as error:
        return f"no command {error}"
    except typer.Exit:  # --help
        return ""
    except Exception as error:
        return str(getattr(error, "message", error))
    return ""


@pytest.mark.parametrize("command", commands())
def test_commands_of_the_docs_start(command: str) -> None:
    """Each command in README and docs names what exists: command, options, settings, make target, script."""
    assert problem_of(command) == ""


@pytest.mark.parametrize(
    "command",
    [
        "cogvideo-edit rnu clips/",
        "cogvideo-edit run --promts x",
        "cogvideo-edit run x --set recipe.wieght=1",
        "cogvideo-edit run x --set captions.url=y",
        "make everything",
        "python tests/benchmarks/nothing.py",
        "cogvideo-edit --versoin",
    ],
)
def test_the_checker_of_commands_sees_what_is_wrong(command: str) -> None:
    """A misspelt command, option, setting, target or script is found."""
    assert problem_of(command) != ""


@pytest.mark.parametrize("text", blocks("python"))
def test_python_of_the_docs_names_what_exists(text: str) -> None:
    """Each Python block is a program, and what it imports is there."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and node.module:
            module = importlib.import_module(node.module)
            for alias in node.names:
                assert hasattr(module, alias.name) or importlib.util.find_spec(f"{node.module}.{alias.name}")
