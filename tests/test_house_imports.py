"""The houses keep their directions (flows, then tasks, then cogvideo_core), so do the rooms of the core, and functions
and files stay short."""

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
ROOMS = (  # each imports only from those before it
    *("errors", "settings", "endpoints", "diffusion", "media", "models", "storage", "inputs", "shapes", "judging"),
    *("stages", "captions", "planning", "dataset", "exports", "benchmarks", "upkeep", "study", "tuning"),
)
MODELS = {"diffusers", "transformers"}
KNOW_MODELS = {"models", "shapes", "judging", "study"}
SCHEDULER = "cogvideo_core/diffusion/schedule.py"  # takes its noise levels from diffusers' own scheduler


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


def imports_of(root: Path, paths: list[Path]) -> dict[str, set[str]]:
    """module -> the modules among `paths` that it imports, at any depth, for types alone included."""
    names = {name_of(root, path): path for path in paths}
    found: dict[str, set[str]] = {}
    for name, path in names.items():
        found[name] = set()
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                wanted = [f"{node.module}.{alias.name}" for alias in node.names]
                found[name] |= {each if each in names else node.module for each in wanted} & (names.keys() - {name})
            elif isinstance(node, ast.Import):
                found[name] |= {alias.name for alias in node.names} & (names.keys() - {name})
    return found


def name_of(root: Path, path: Path) -> str:
    return ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")


def circle_in(imports: dict[str, set[str]]) -> list[str]:
    """Modules that import each other in a circle; [] where there is none."""
    left = dict(imports)
    while free := [name for name, wanted in left.items() if not wanted & left.keys()]:
        for name in free:
            del left[name]
    return sorted(left)


def climbs_up(imports: dict[str, set[str]]) -> list[tuple[str, str]]:
    """(module, what it imports) where a room of the core imports from a room above it."""
    inside = {name: name.split(".")[1] for name in imports if name.startswith("cogvideo_core.")}
    return [
        (name, wanted)
        for name, room in inside.items()
        for wanted in imports[name]
        if wanted in inside and ROOMS.index(inside[wanted]) > ROOMS.index(room)
    ]


def test_no_files_import_each_other_in_a_circle() -> None:
    """Of all three houses."""
    assert circle_in(imports_of(ROOT, modules())) == []


def test_rooms_import_only_from_rooms_before_them() -> None:
    """In the order that docs/architecture.md shows."""
    assert climbs_up(imports_of(ROOT, modules())) == []
    text = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    places = [text.index(f"`{room}") for room in ROOMS]
    assert places == sorted(places)


def test_every_module_has_a_room() -> None:
    """No file lies flat in cogvideo_core but errors.py, no folder is no room, and each room says what it is for."""
    core = ROOT / "cogvideo_core"
    assert {path.name for path in core.glob("*.py")} == {"__init__.py", "errors.py"}
    rooms = {path.parent.name for path in core.glob("*/__init__.py")}
    assert rooms == set(ROOMS) - {"errors"}
    for room in rooms:
        assert len(ast.get_docstring(ast.parse((core / room / "__init__.py").read_text("utf-8"))) or "") > 40, room


def test_models_are_known_in_their_rooms_alone() -> None:
    """diffusers and transformers are imported in models, shapes and study, and for the scheduler's noise levels."""
    found = {
        str(path.relative_to(ROOT))
        for path in modules()
        if imported(path.read_text("utf-8")) & MODELS and path.relative_to(ROOT).parts[1] not in KNOW_MODELS
    }
    assert found - {"flows/cli/running.py"} == {SCHEDULER}  # the former only hides the libraries' progress bars


def test_the_checker_sees_a_circle_and_a_climb(tmp_path: Path) -> None:
    """Made-up modules: a circle of three, for types alone as well; a room that imports from one above it."""
    for name, text in {
        "cogvideo_core/media/a.py": "from cogvideo_core.media import b",
        "cogvideo_core/media/b.py": "if TYPE_CHECKING:\n    from cogvideo_core.media.c import x",
        "cogvideo_core/media/c.py": "def f():\n    import cogvideo_core.media.a",
        "cogvideo_core/media/d.py": "from cogvideo_core.stages import e",
        "cogvideo_core/stages/e.py": "from cogvideo_core.media import a",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    imports = imports_of(tmp_path, sorted(tmp_path.rglob("*.py")))
    letters = [f"cogvideo_core.media.{letter}" for letter in "abc"]
    assert set(letters) <= set(circle_in(imports))
    assert climbs_up(imports) == [("cogvideo_core.media.d", "cogvideo_core.stages.e")]
    assert circle_in({"a": {"b"}, "b": set()}) == []


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
