"""Pages of the site that do not lie in docs/: those of other folders, and one for each room and house.

A hook of mkdocs. Links between pages are written for a reader of the repository; here they are led to the site's pages.
"""

from __future__ import annotations

import inspect
import os
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
PAGES = {  # of the repository -> of the site
    "README.md": "index.md",
    "deployments/README.md": "deployments.md",
    "cogvideo_core/NOTATION.md": "notation.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
}
LINK = re.compile(r"(\]\()(?!https?://|#|mailto:)([^)#\s]+)")


def rooms() -> dict[str, list[str]]:
    """The modules with public docstrings, by room of the core, and by house for the other two."""
    found: dict[str, list[str]] = {}
    for file in sorted(path for house in ("cogvideo_core", "tasks", "flows") for path in (ROOT / house).rglob("*.py")):
        parts = file.relative_to(ROOT).with_suffix("").parts
        if parts[-1] not in ("__init__", "__main__") and parts[:2] != (
            "flows",
            "cli",
        ):
            room = ".".join(parts[:2]) if len(parts) > 2 else parts[0]
            found.setdefault(room, []).append(".".join(parts))
    return found


def room_page(room: str, modules: list[str]) -> str:
    """A page with the room's docstring and that of each of its modules' public names."""
    return "\n\n".join([f"# {room}", *(f"::: {module}" for module in modules)]) + "\n"


def commands_page() -> str:
    """Every command with its help and its options."""
    import typer

    from flows.cli.main import app

    lines = ["# Commands", "", "`cogvideo-edit --help` and `cogvideo-edit COMMAND --help` say the same."]

    def add(name: str, command: Any) -> None:
        if hasattr(command, "commands"):
            for below, inner in command.commands.items():
                add(f"{name} {below}", inner)
            return
        told = re.sub(r"\[dim\](.*?)\[/dim\]", r"\n    \1\n", inspect.cleandoc(command.help or ""))
        lines.extend(["", f"## {name}", "", told, "", "| option | what it does |", "|---|---|"])
        for option in command.params:
            about = (getattr(option, "help", "") or "").replace("|", "\\|")
            called = ", ".join(option.opts) if option.param_type_name == "option" else option.name.upper()
            lines.append(f"| `{called}` | {about} |")

    add("cogvideo-edit", typer.main.get_command(app))
    return "\n".join(lines) + "\n"


def site_place(target: str, page: str) -> str:
    """Where a link of a repository's page leads on the site: both paths are relative to the repository's root."""
    if target in PAGES:
        return PAGES[target]
    return target.removeprefix("docs/") if target.startswith("docs/") else f"nowhere/{target}"


def led(text: str, page: str) -> str:
    """The page's text with its links led to the site's pages; `page` is its path in the repository."""
    here = os.path.dirname(page)

    def there(found: re.Match[str]) -> str:
        target = os.path.normpath(os.path.join(here, found[2]))
        own = os.path.dirname(site_place(page, page))
        return found[1] + os.path.relpath(site_place(target, page), own or ".")

    return LINK.sub(there, text)


def on_config(config: Any) -> Any:
    """Lists the rooms' pages in the navigation."""
    pages = [{room.removeprefix("cogvideo_core."): f"api/{room}.md"} for room in rooms()]
    config.nav = [
        {name: pages if name == "Functions by room" else below} for each in config.nav for name, below in each.items()
    ]
    return config


def on_files(files: Files, config: Any) -> Files:
    """Adds the pages from outside docs/."""
    for page, place in PAGES.items():
        text = led((ROOT / page).read_text("utf-8"), page)
        files.append(File.generated(config, place, content=text))
    files.append(File.generated(config, "commands.md", content=commands_page()))
    for room, modules in rooms().items():
        files.append(File.generated(config, f"api/{room}.md", content=room_page(room, modules)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Leads the links of the pages in docs/."""
    return led(markdown, f"docs/{page.file.src_uri}") if page.file.generated_by is None else markdown
