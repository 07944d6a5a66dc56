"""The files that install the project agree with each other and with nothing outside the repository."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
# In two halves, so that this file does not hold what it looks for.
OUTSIDE = ["/wor" + "k/", "/opt/py" + "pi", "extra-index" + "-url", "py" + "pi.org", "pythonho" + "sted.org"]


def direct() -> list[Requirement]:
    groups = [PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()]
    return [Requirement(line) for group in groups for line in group]


def constraints() -> dict[str, Requirement]:
    lines = (line.split("#")[0].strip() for line in (ROOT / "constraints.txt").read_text("utf-8").splitlines())
    pins = [Requirement(line) for line in lines if line]
    assert len(pins) == len({canonicalize_name(pin.name) for pin in pins}), "a package is pinned twice"
    return {canonicalize_name(pin.name): pin for pin in pins}


def tracked_files() -> list[Path]:
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True, text=True).stdout
    files = [ROOT / name for name in listing.split("\0") if name]
    return [path for path in files if path.is_file()]


def phony_targets(makefile: str) -> set[str]:
    return {name for line in re.findall(r"^\.PHONY:(.*)$", makefile, re.M) for name in line.split()}


def helped_targets(makefile: str) -> set[str]:
    return set(re.findall(r"^([a-z0-9]+):.*## \S", makefile, re.M))


@pytest.mark.parametrize("requirement", direct(), ids=str)
def test_each_direct_dependency_has_a_pin_in_its_range(requirement: Requirement) -> None:
    """constraints.txt pins every package that pyproject.toml asks for, with == and inside the declared range."""
    pin = constraints()[canonicalize_name(requirement.name)]
    (specifier,) = pin.specifier
    assert specifier.operator == "=="
    assert requirement.specifier.contains(specifier.version)


@pytest.mark.parametrize("requirement", direct(), ids=str)
def test_each_direct_dependency_has_a_lower_bound(requirement: Requirement) -> None:
    """No dependency is taken at whatever version happens to be there."""
    assert any(specifier.operator == ">=" for specifier in requirement.specifier)


def test_pins_carry_no_local_version() -> None:
    """A pin like 2.13.0+cpu would shut out every other build of the same version."""
    assert [name for name, pin in constraints().items() if "+" in str(pin.specifier)] == []


def test_no_tracked_file_names_a_place_outside() -> None:
    """Neither a path of the machine it was written on nor a package index stands in any tracked file."""
    files = tracked_files()
    assert ROOT / "pyproject.toml" in files
    hits = [(path, word) for path in files for word in OUTSIDE if word.encode() in path.read_bytes()]
    assert hits == []


def test_no_page_has_a_gap() -> None:
    """No page holds a mark where a figure was to be filled in, and each picture it shows is there."""
    pages = [path for path in tracked_files() if path.suffix == ".md"]
    assert ROOT / "README.md" in pages
    assert [path for path in pages if re.search("@" * 2 + "[A-Z]+" + "@" * 2, path.read_text("utf-8"))] == []
    shown = [(path, name) for path in pages for name in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", path.read_text("utf-8"))]
    assert [name for path, name in shown if not (path.parent / name).is_file()] == []


def test_every_make_target_is_explained() -> None:
    """Each phony target of the Makefile has the line that `make help` prints, and the promised ones are there."""
    makefile = (ROOT / "Makefile").read_text("utf-8")
    assert phony_targets(makefile) == helped_targets(makefile)
    assert phony_targets(makefile) >= {"help", "demo", "test", "e2e", "check", "bench", "serve", "down", "clean"}


def test_an_unexplained_target_would_be_seen() -> None:
    """The two readers above differ on a Makefile with a target that has no help."""
    makefile = ".PHONY: a b\na: x ## does a\n\tcmd\nb: x\n\tcmd\n"
    assert phony_targets(makefile) - helped_targets(makefile) == {"b"}


def test_python_versions_agree() -> None:
    """The Makefile refuses exactly the Python versions that pyproject.toml does."""
    assert PROJECT["requires-python"] == ">=3.11,<3.14"
    assert "(3, 11) <= sys.version_info[:2] <= (3, 13)" in (ROOT / "Makefile").read_text("utf-8")


@pytest.mark.e2e
def test_a_wheel_holds_every_tracked_file_of_the_packages(tmp_path: Path) -> None:
    """What git tracks under the three packages is in a built wheel: pages, notation and model files too."""
    source = tmp_path / "source"
    subprocess.run(["git", "clone", "-q", "--no-hardlinks", str(ROOT), str(source)], check=True)
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(tmp_path), str(source)]
    subprocess.run(command, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    inside = set(zipfile.ZipFile(wheel).namelist())
    listing = subprocess.run(
        ["git", "ls-files", "cogvideo_core", "tasks", "flows"], cwd=source, capture_output=True, check=True, text=True
    )
    assert set(listing.stdout.splitlines()) - inside == set()
    assert "cogvideo_core/NOTATION.md" in inside
