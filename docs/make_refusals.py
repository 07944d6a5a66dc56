"""Writes docs/refusals.md from the error classes and the places that raise them.

python docs/make_refusals.py            # writes the page
python docs/make_refusals.py --check    # exit code 1 where the page is not what would be written
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "refusals.md"
PACKAGES = ("cogvideo_core", "tasks", "flows")
CLIP_ERRORS = "ClipError"
HEAD = """# What is refused, and what to do about it

Every refusal is one sentence that names the clip or the field, says what is wrong, and how to mend it. Clips that are
refused stand in `tables/errors.parquet` with the class below as `error`; the others go on. This page is made from the
code: `python docs/make_refusals.py`. An ellipsis stands for a name or a number.

"""
GROUPS = {
    "bad_input": "Clips, manifests and settings",
    "screened": "Clips that are screened out",
    "model": "Models and LoRA files",
    "out_of_memory": "Memory",
    "storage": "Stores",
    "bug": "Else",
}


class Kind(NamedTuple):
    """An error class: what its docstring says, and what it inherits or sets."""

    parents: list[str]
    about: str
    fields: dict[str, object]


class Refusal(NamedTuple):
    """One sentence that may be said."""

    problem: str
    remedy: str


def trees() -> Iterator[ast.Module]:
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            yield ast.parse(path.read_text("utf-8"))


def error_classes(modules: list[ast.Module]) -> dict[str, Kind]:
    """All subclasses of EditError, by name."""
    nodes = [node for tree in modules for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    found: dict[str, Kind] = {}
    while True:
        new = [
            node
            for node in nodes
            if node.name not in found
            and (
                node.name == "EditError" or any(isinstance(base, ast.Name) and base.id in found for base in node.bases)
            )
        ]
        if not new:
            return found
        for node in new:
            fields = {
                target.id: statement.value.value
                for statement in node.body
                if isinstance(statement, ast.Assign) and isinstance(statement.value, ast.Constant)
                for target in statement.targets
                if isinstance(target, ast.Name)
            }
            parents = [base.id for base in node.bases if isinstance(base, ast.Name)]
            found[node.name] = Kind(parents, " ".join((ast.get_docstring(node) or "").split()), fields)


def field(kinds: dict[str, Kind], name: str, wanted: str) -> object:
    """A class attribute, the parents' where the class has none."""
    if wanted in kinds[name].fields:
        return kinds[name].fields[wanted]
    return next((field(kinds, parent, wanted) for parent in kinds[name].parents if parent in kinds), None)


def descends(kinds: dict[str, Kind], name: str, ancestor: str) -> bool:
    return name == ancestor or any(descends(kinds, p, ancestor) for p in kinds[name].parents if p in kinds)


def text_of(node: ast.expr | None, names: dict[str, ast.expr], depth: int = 0) -> str:
    """A string expression as a template: what is filled in becomes an ellipsis."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(text_of(part, names, depth) for part in node.values)
    if isinstance(node, ast.FormattedValue):
        inner = node.value
        return text_of(inner, names, depth) if isinstance(inner, ast.Name) and inner.id.isupper() else "…"
    if isinstance(node, ast.Name) and node.id in names and depth < 4:
        return text_of(names[node.id], names, depth + 1)
    if isinstance(node, ast.IfExp):
        return f"{text_of(node.body, names, depth)} / {text_of(node.orelse, names, depth)}"
    return "…"


def refusals(modules: list[ast.Module], kinds: dict[str, Kind]) -> dict[str, list[Refusal]]:
    """The sentences of each class, found where it is made, or where a function is called that makes it."""
    found: dict[str, list[Refusal]] = {name: [] for name in kinds}
    makers = error_makers(modules, kinds)
    for tree in modules:
        constants = assigned(tree.body)
        for function in (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)):
            inside = sorted(ast.walk(function), key=lambda node: getattr(node, "lineno", 0))
            for call in (node for node in ast.walk(function) if isinstance(node, ast.Call)):
                called = call.func.id if isinstance(call.func, ast.Name) else ""
                names = constants | assigned([node for node in inside if getattr(node, "lineno", 0) < call.lineno])
                if called in kinds and call.args and function.name not in makers:
                    name, sentence = called, said(call, names, descends(kinds, called, CLIP_ERRORS))
                elif called in makers:
                    name, sentence = makers[called][0], passed_on(call, names, makers[called][1])
                else:
                    continue
                if sentence not in found[name] and sentence.problem.strip("… "):
                    found[name].append(sentence)
    return found


def error_makers(modules: list[ast.Module], kinds: dict[str, Kind]) -> dict[str, tuple[str, ast.arguments]]:
    """Functions that are given a problem and a remedy and make an error of them: name -> class, parameters."""
    makers = {}
    for function in (node for tree in modules for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)):
        if {"problem", "remedy"} <= {argument.arg for argument in function.args.args}:
            calls = (
                node.func.id
                for node in ast.walk(function)
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
            )
            if made := next((name for name in calls if name in kinds), ""):
                makers[function.name] = (made, function.args)
    return makers


def passed_on(call: ast.Call, names: dict[str, ast.expr], parameters: ast.arguments) -> Refusal:
    places = [argument.arg for argument in parameters.args]
    defaults = dict(zip(reversed(places), reversed(parameters.defaults), strict=False))
    given = (
        defaults
        | dict(zip(places, call.args, strict=False))
        | {word.arg: word.value for word in call.keywords if word.arg}
    )
    return Refusal(text_of(given.get("problem"), names), text_of(given.get("remedy"), names))


def assigned(nodes: list[ast.AST] | list[ast.stmt]) -> dict[str, ast.expr]:
    """name -> the expression last given to it; `a, b = x, y` counts as two."""
    names: dict[str, ast.expr] = {}
    for node in nodes:
        if not isinstance(node, ast.Assign) or len(node.targets) != 1:
            continue
        target = node.targets[0]
        if isinstance(target, ast.Name):
            names[target.id] = node.value
        elif isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
            names |= {t.id: v for t, v in zip(target.elts, node.value.elts, strict=False) if isinstance(t, ast.Name)}
    return names


def said(call: ast.Call, names: dict[str, ast.expr], about_a_clip: bool) -> Refusal:
    if about_a_clip and len(call.args) >= 3:
        return Refusal(text_of(call.args[1], names), text_of(call.args[2], names))
    problem, _, remedy = text_of(call.args[0], names).partition("; ")
    return Refusal(problem, remedy)


def cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


def page() -> str:
    """The page's text."""
    modules = list(trees())
    kinds = error_classes(modules)
    found = refusals(modules, kinds)
    parts = [HEAD]
    for kind, title in GROUPS.items():
        names = sorted(
            name for name in kinds if field(kinds, name, "kind") == kind and (found[name] or name == CLIP_ERRORS)
        )
        if not names:
            continue
        parts.append(f"## {title}\n\n")
        for name in names:
            again = (
                "It is tried again by itself."
                if field(kinds, name, "retryable")
                else "It is not tried again by itself."
            )
            parts.append(f"### {name}\n\n{kinds[name].about} {again}\n\n")
            parts.append("| what is said | remedy |\n|---|---|\n")
            parts += [f"| {cell(one.problem)} | {cell(one.remedy)} |\n" for one in found[name]]
            parts.append("\n")
    return "".join(parts).rstrip() + "\n"


def main() -> None:
    if "--check" in sys.argv:
        sys.exit(PAGE.read_text("utf-8") != page())
    PAGE.write_text(page(), "utf-8")


if __name__ == "__main__":
    main()
