"""The houses keep their directions (flows, then tasks, then cogvideo_core), and functions and files stay short."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FORBIDDEN = {
    "cogvideo_core": {"tasks", "flows", "prefect", "prefect_dask", "tests"},
    "tasks": {"flows", "tests"},
    "flows": {"tests"},
}
LONGEST_FUNCTION, LONGEST_FILE = 60, 300


def modules() -> list[Path]:
    return sorted(path for house in FORBIDDEN for path in (ROOT / house).rglob("*.py"))


def imported(source: str) -> set[str]:
    """Names of all packages a source imports, at any depth: statements, import_module("x") and __import__("x")."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found.add(node.module)
        elif isinstance(node, ast.Call) and node.args and called(node) in {"import_module", "__import__"}:
            name = node.args[0]
            found |= {name.value} if isinstance(name, ast.Constant) and isinstance(name.value, str) else set()
    return {name.split(".")[0] for name in found}


def called(call: ast.Call) -> str:
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")


def climbs_out(source: str, depth: int) -> bool:
    """Whether a relative import of a module `depth` folders deep leaves its top-level package."""
    return any(node.level > depth for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ImportFrom))


def too_long(source: str) -> list[str]:
    """Functions of more than the permitted lines, decorators not counted; the file itself as '<file>'."""
    functions = (n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef))
    long = [f.name for f in functions if (f.end_lineno or f.lineno) - f.lineno + 1 > LONGEST_FUNCTION]
    return long + ["<file>"] * (len(source.splitlines()) > LONGEST_FILE)


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_run_from_flows_to_tasks_to_core(path: Path) -> None:
    """No module imports a house above its own, and cogvideo_core never imports prefect, not even inside a function."""
    inside = path.relative_to(ROOT).parts
    source = path.read_text("utf-8")
    assert not imported(source) & FORBIDDEN[inside[0]]
    assert not climbs_out(source, len(inside) - 1)


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(ROOT)))
def test_functions_and_files_are_short(path: Path) -> None:
    """No function has more than 60 lines and no file more than 300."""
    assert too_long(path.read_text("utf-8")) == []


def test_all_three_houses_are_read() -> None:
    """The tests above look at files of every house, so that none passes for want of files."""
    assert {path.relative_to(ROOT).parts[0] for path in modules()} == set(FORBIDDEN)


def test_nothing_shadows_the_package_tasks() -> None:
    """A file flows/tasks.py or a folder tests/tasks would be found in place of the package `tasks`."""
    shadows = [ROOT / "flows/tasks.py", ROOT / "flows/tasks", ROOT / "tests/tasks", ROOT / "tests/tasks.py"]
    assert [path for path in shadows if path.exists()] == []


@pytest.mark.parametrize(
    "source",
    [
        "import prefect",
        "import numpy, prefect.flows as p",
        "from prefect import flow",
        "def f():\n    from prefect.artifacts import create_link_artifact",
        "try:\n    import prefect\nexcept ImportError:\n    prefect = None",
        "if TYPE_CHECKING:\n    from tasks.encode import encode_batch",
        "import importlib\nimportlib.import_module('prefect.flows')",
        "__import__('flows')",
    ],
)
def test_the_checker_sees_a_forbidden_import(source: str) -> None:
    """A made-up module of cogvideo_core that breaks the rule is caught, however it hides the import."""
    assert imported(source) & FORBIDDEN["cogvideo_core"]


def test_the_checker_lets_lookalikes_pass() -> None:
    """Names that only resemble a house, and imports of one's own package, are fine."""
    source = "import prefectionist\nfrom . import flows\nfrom cogvideo_core.tasks_table import x\ntasks = 'prefect'"
    assert not imported(source) & FORBIDDEN["cogvideo_core"]


def test_the_checker_sees_a_relative_climb() -> None:
    """`from ...flows import x` two folders deep leaves the package; `from ..video import x` does not."""
    assert climbs_out("from ...flows import x", depth=2)
    assert not climbs_out("from ..video import x", depth=2)


def test_the_checker_sees_what_is_too_long() -> None:
    """61 lines of a function and 301 of a file are reported; 60 and 300 are not."""
    function = "def f():\n" + "    x = 1\n" * (LONGEST_FUNCTION - 1)
    assert too_long(function) == []
    assert too_long(function + "    x = 1\n") == ["f"]
    assert too_long("class A:\n    async def g(self):\n" + "        x = 1\n" * LONGEST_FUNCTION) == ["g"]
    assert too_long("x = 1\n" * LONGEST_FILE) == []
    assert too_long("x = 1\n" * (LONGEST_FILE + 1)) == ["<file>"]
