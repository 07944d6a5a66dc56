"""A person reviews edits in a real browser: two keys, one to prefer, and what was said outlives the server."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect, sync_playwright

from cogvideo_core.dataset import collect
from cogvideo_core.media import video
from cogvideo_core.shapes import world

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]
SCREENSHOTS = Path(os.environ.get("SCREENSHOTS", "out/screenshots"))
KEYS = [f"{i:064x}" for i in range(3)]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A run with one clip, two candidates of one prompt and a rejected edit of another."""
    rows: list[Any] = []
    source = tmp_path / "source.mp4"
    video.encode(world.render(world.scene_from_seed(1)), source, 8)
    for number, key in enumerate(KEYS):
        edit = tmp_path / f"{number}.mp4"
        video.encode(world.render(world.scene_from_seed(number + 2)), edit, 8)
        rejected = number == 2
        rows.append(
            dict.fromkeys(("trajectory_key", "latents_key", "source_id", "inversion_prompt", "negative_prompt"), "x")
            | dict.fromkeys(("recipe_fingerprint", "model_fingerprint", "first_frame_uri"), "x")
            | {"edit_key": key, "source_key": "5" * 64, "clip": "a.mp4", "name": "a", "source_prompt": "a red circle"}
            | {"target_prompt": "a blue circle" if number < 2 else "a red square", "model": "shapes", "seed": 0}
            | {"recipe": ["balanced", "bold", "balanced"][number], "strength": 1.0, "window": 0, "frames": 9, "fps": 8}
            | {"height": 48, "width": 48, "state": "done", "scores": {"delta_e": 2.0 + number}, "kept": not rejected}
            | {"verdict": "rejected" if rejected else "accepted", "rejected_because": "why" if rejected else ""}
            | {"confidence": 0.9 - number / 10, "rank": number + 1 if number < 2 else 1, "candidates": 2 - rejected}
            | {"edit_object": str(edit), "source_object": str(source)}
        )
    collect.collect(str(tmp_path / "run"), rows, [], [], {"title": "Review"})
    return tmp_path / "run"


class Review:
    """`cogvideo-edit review` as a process of its own."""

    def __init__(self, root: Path) -> None:
        command = [sys.executable, "-m", "flows.cli", "review", str(root), "--no-browser"]
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONUNBUFFERED": "1"}
        )
        assert self.process.stdout is not None
        found = re.search(r"http://127\.0\.0\.1:\d+/\?token=\S+", self.process.stdout.readline())
        assert found
        self.url = found.group()

    def kill(self, number: int = signal.SIGKILL) -> str:
        self.process.send_signal(number)
        out, _ = self.process.communicate(timeout=30)
        return out


@pytest.fixture
def page() -> Iterator[Page]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path="/usr/bin/chromium", args=["--no-sandbox", "--disable-gpu"]
        )
        page = browser.new_page(viewport={"width": 1200, "height": 800})
        page.set_default_timeout(30_000)
        yield page
        browser.close()


def said(root: Path) -> list[tuple[int, str]]:
    lines = [json.loads(line) for line in (root / "reviews.jsonl").read_text().splitlines()]
    return [(KEYS.index(line["edit_key"]), line["said"]) for line in lines]


def test_two_keys_and_one_to_prefer(root: Path, page: Page) -> None:
    """Keys and buttons write a line each, kill -9 loses none, the next server shows them, and collect obeys."""
    review = Review(root)
    page.goto(review.url)
    tiles = page.locator("figure[data-key]")
    expect(tiles).to_have_count(3)
    told = page.locator("#told")
    tiles.nth(0).locator("figcaption").click()
    page.keyboard.press("r")
    expect(told).to_have_text("Saved.")
    tiles.nth(1).locator("figcaption").click()
    page.keyboard.press("p")
    expect(tiles.nth(1)).to_have_attribute("data-said", "prefer")
    tiles.nth(2).get_by_role("button", name="Keep").click()
    expect(tiles.nth(2)).to_have_attribute("data-said", "keep")
    tiles.nth(2).get_by_role("button", name="Keep").click()  # again: takes it back
    expect(tiles.nth(2)).to_have_attribute("data-said", "")
    tiles.nth(2).get_by_role("button", name="Keep").click()
    expect(tiles.nth(2)).to_have_attribute("data-said", "keep")
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SCREENSHOTS / "review.png")
    review.kill()
    assert said(root) == [(0, "reject"), (1, "prefer"), (2, "keep"), (2, "undo"), (2, "keep")]
    page.keyboard.press("r")
    expect(told).to_contain_text("Not saved")
    again = Review(root)
    page.goto(again.url)
    expect(page.locator("figure[data-key]").nth(1).get_by_role("button", name="Prefer")).to_have_attribute(
        "aria-pressed", "true"
    )
    assert "3 edits are reviewed" in again.kill(signal.SIGINT)


def test_another_page_can_say_nothing(root: Path, page: Page) -> None:
    """A page of another origin that knows the token can neither read nor write; the plain gallery has no buttons."""
    review, other = Review(root), root.parent / "evil.html"
    port = int(review.url.split(":")[2].split("/")[0])
    token = review.url.partition("token=")[2]
    other.write_text("<p>evil</p>")
    page.goto(other.as_uri())
    script = """([port, token, key]) => fetch(`http://127.0.0.1:${port}/review`, {method: "POST",
        headers: {"Content-Type": "text/plain"}, body: JSON.stringify({edit_key: key, said: "keep"}), mode: "no-cors"})
        .then(() => fetch(`http://127.0.0.1:${port}/review`, {headers: {"X-Review-Token": token}}))
        .then(() => "read", () => "refused")"""
    assert page.evaluate(script, [port, token, KEYS[0]]) == "refused"
    assert not (root / "reviews.jsonl").exists()
    page.goto((root / "index.html").as_uri())
    expect(page.locator("figure[data-key]")).to_have_count(3)
    assert page.locator(".review").count() == 0 and page.locator("#reviewing").is_hidden()
    review.kill()


def test_verdicts_narrow_the_gallery(root: Path, page: Page) -> None:
    """The choice of verdicts hides the others; candidates of a prompt stand side by side, the best first."""
    page.goto((root / "index.html").as_uri())
    tiles = page.locator("figure[data-key]:visible")
    notes = page.locator("figure[data-key] figcaption > small:first-of-type")
    assert notes.all_inner_texts()[:2] == ["balanced, seed 0, rank 1 of 2", "bold, seed 0, rank 2 of 2"]
    for choice, count in (("rejected", 1), ("kept", 2), ("unjudged", 0), ("", 3)):
        page.get_by_label("Verdict").select_option(choice)
        expect(tiles).to_have_count(count)
