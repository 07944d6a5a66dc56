"""A person at Prefect's UI: a real browser fills in the form, watches, retries and cancels."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any
from uuid import UUID

import pyarrow.parquet as pq
import pytest
from playwright.sync_api import Page, TimeoutError, expect, sync_playwright

from cogvideo_core.dataset.tables import read_table
from cogvideo_core.shapes.make import make_clips
from cogvideo_core.upkeep.verify import verify_tree

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("servers"), pytest.mark.timeout(900)]
SCREENSHOTS = Path(os.environ.get("SCREENSHOTS", "out/screenshots"))
CHROMIUM = [
    # nothing outside is asked for, whatever a page wants
    "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",
    *("--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
]
SETTLED_MS = 90_000
CANCEL_S = 60  # 8 s beside one busy core; in CI other tests run beside this one
Record = dict[str, Any]


@pytest.fixture(scope="module")
def here(up_here: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Up, with the shapes demo's input where the form's defaults look for it; one clip of three is no video."""
    folder = tmp_path_factory.mktemp("ui")
    make_clips(folder / "out/demo/input", 3, prompts=1)
    with up_here.brought_up(folder) as up:
        yield up


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=CHROMIUM)
        page = browser.new_page(viewport={"width": 1400, "height": 1000})
        page.set_default_timeout(SETTLED_MS)
        expect.set_options(timeout=SETTLED_MS)
        yield page
        browser.close()


def kept(page: Page, name: str) -> None:
    """A screenshot for people; and there is no error toast on the page."""
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SCREENSHOTS / f"{name}.png")
    assert page.locator("[data-sonner-toast][data-type=error]").all_inner_texts() == []


def choose(page: Page, label: str, option: str) -> None:
    """Of a select: a button with the current choice, and options."""
    page.get_by_label(label, exact=False).first.click()
    page.get_by_role("option", name=option, exact=True).click()


def open_run(page: Page, here: Any, run: UUID) -> None:
    page.goto(f"{here.url}/v2/runs/flow-run/{run}")
    page.get_by_role("tab", name="Artifacts").wait_for()


def menu(page: Page, item: str) -> None:
    """An item of the run's three-dot menu, and yes to the question that follows."""
    page.locator("button[aria-haspopup=menu]").last.click()
    page.get_by_role("menuitem", name=item, exact=True).click()
    page.get_by_role("dialog").or_(page.get_by_role("alertdialog")).get_by_role("button", name=item).last.click()


def artifacts(page: Page, here: Any, run: UUID, client: Any) -> dict[str, str]:
    """Key -> address of the page of each of the run's last artifacts, which are visible on the run's own page."""
    from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId

    of_run = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run]))
    found = [artifact for artifact in client.read_artifacts(artifact_filter=of_run) if artifact.key]
    open_run(page, here, run)
    page.get_by_role("tab", name="Artifacts").click()
    for artifact in found:
        expect(page.get_by_role("heading", name=artifact.key, exact=True).first).to_be_visible()
    found.sort(key=lambda artifact: artifact.created)
    return {artifact.key: f"{here.url}/v2/artifacts/artifact/{artifact.id}" for artifact in found}


def timings(root: Path) -> list[Record]:
    return list(pq.read_table(root / "tables/timings.parquet").to_pylist())


def test_from_form_to_retry(here: Any, page: Page) -> None:
    """The form with three fields changed makes a run with those values. A clip that is no video stands in the error
    table; once it is mended, Retry does its work and no other."""
    root = here.folder / "out/demo"
    bad = sorted((root / "input").glob("*.mp4"))[1]
    good = here.folder / "good.mp4"
    shutil.move(bad, good)
    bad.write_bytes(b"this is no video" * 100)
    with here.client() as client:
        fill_in(page, here, here.deployment(client, "edit-dataset"))
        (run,) = here.wait_for(client.read_flow_runs, 60)
        ran = here.ended(client, run.id)
        assert ran.state.is_failed() and "only 2 of 3 clips succeeded" in ran.state.message
        assert ran.parameters["recipe"]["preset"] == "bold" and ran.parameters["inversion"]["steps"] == 10
        assert re.fullmatch(r"manifest\.jsonl bold 20\d\d-\d\d-\d\d \d\d:\d\d", ran.name)
        shown = artifacts(page, here, run.id, client)
        assert set(shown) == {"progress", "summary", "errors", "contact-sheet", "gallery"}
        kept(page, "run")
        look_at(page, here, shown, bad.name)
        before = timings(root)
        shutil.move(good, bad)
        retry(page, here, client, run.id)
        assert "bold" in (root / "plan/settings.json").read_text()
        new = [row for row in timings(root) if row not in before]
        assert {row["clip"] for row in new} == {bad.name}
        others = sum(row["evaluations"] for row in before if row["clip"] != bad.name)
        assert sum(row["evaluations"] for row in new) == others / 2
        latest = artifacts(page, here, run.id, client)["summary"]
        page.goto(latest)
        expect(page.get_by_role("cell", name="1 made, 2 reused", exact=True)).to_be_visible()
        kept(page, "summary-after-retry")


def fill_in(page: Page, here: Any, deployment: UUID) -> None:
    """From the deployment's page through the form to the run: a preset, fewer steps, and no clip may fail."""
    page.goto(f"{here.url}/v2/deployments/deployment/{deployment}")
    page.get_by_role("button", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Custom run").click()
    page.get_by_label("Guidance scale").wait_for()
    groups = page.get_by_text(re.compile(r"^[a-z]+ \(Optional\)$")).all_inner_texts()
    wanted = ["dataset", "model", "inversion", "recipe", "output", "engine", "judge", "mask", "screen"]
    assert [group.split()[0] for group in groups] == wanted
    choose(page, "Preset", "bold")
    page.get_by_label(re.compile("^Steps")).first.fill("10")
    page.get_by_label("Least success").fill("1")
    page.get_by_label("Preset").scroll_into_view_if_needed()
    kept(page, "form")
    submit(page)
    kept(page, "submitted")


def submit(page: Page) -> None:
    """Click Submit until the server has made a run, as a person would: a busy server may refuse a write (503)."""
    asked: list[str] = []
    for _ in range(3):
        try:
            with page.expect_response(re.compile("/create_flow_run$"), timeout=30_000) as making:
                page.get_by_role("button", name="Submit").click()
        except TimeoutError:  # the form's own check got no answer, so that nothing was made
            asked.append("no request for a run in 30 s")
            continue
        if making.value.ok:
            page.wait_for_url(lambda url: not url.split("?")[0].endswith("/run"))
            return
        asked.append(f"{making.value.status}: {making.value.text()[:300]}")
    raise AssertionError(f"Submit made no run: {asked}")


def look_at(page: Page, here: Any, shown: dict[str, str], bad: str) -> None:
    """The bad clip's row, the contact sheet as a picture, and the gallery behind its link."""
    page.goto(shown["errors"])
    expect(page.get_by_role("cell", name=bad).first).to_be_visible()
    page.wait_for_timeout(1000)  # the page draws itself a second time
    expect(page.get_by_role("cell", name="NotAVideo", exact=True)).to_be_visible()
    kept(page, "errors")
    page.goto(shown["contact-sheet"])
    picture = page.get_by_role("img", name="contact sheet")
    expect(picture).to_be_visible()
    assert picture.evaluate("image => image.naturalWidth") > 200
    kept(page, "contact-sheet")
    page.goto(shown["gallery"])
    link = page.get_by_role("link", name="Gallery", exact=True).last
    assert link.get_attribute("href") == f"http://127.0.0.1:{here.port + 1}/demo/index.html"
    page.goto(str(link.get_attribute("href")))
    video = page.locator("video").first
    expect(video).to_be_visible()
    here.wait_for(lambda: video.evaluate("video => video.readyState") > 0, 30)  # it can be decoded, too
    kept(page, "gallery")


def retry(page: Page, here: Any, client: Any, run: UUID) -> None:
    open_run(page, here, run)
    menu(page, "Retry")
    here.wait_for(lambda: client.read_flow_run(run).run_count == 2, 120)
    assert here.ended(client, run).state.is_completed()
    open_run(page, here, run)
    expect(page.get_by_text("Completed", exact=True).first).to_be_visible()
    page.get_by_role("tab", name="Task Runs").click()
    expect(page.get_by_text("Reused").first).to_be_visible()
    kept(page, "retried")


def test_cancel_keeps_what_is_committed(here: Any, page: Page, tiny_pipeline_folder: Path) -> None:
    """Cancel in the UI: the run's process ends long before its work is done; what was committed by then is whole, and
    no more comes."""
    manifest, root = make_clips(here.folder / "many", 20, prompts=4), here.folder / "out/many"
    groups: Any = {"dataset": {"source": str(manifest)}, "model": {"path": str(tiny_pipeline_folder)}}
    groups |= {"output": {"root": str(root)}, "inversion": {"method": "fixed_point", "gate": "off", "steps": 20}}
    with here.client() as client:
        run = here.run(client, "edit-dataset", **groups)
        here.wait_for(lambda: list(root.glob("edits/*/*/commit.json")), 240)
        open_run(page, here, run)
        kept(page, "running")
        page.locator("button[aria-haspopup=menu]").last.click()
        page.get_by_role("menuitem", name="Cancel", exact=True).click()
        before = len(list(root.glob("edits/*/*/commit.json")))
        page.get_by_role("button", name="Cancel Flow Run").click()
        family = here.process("worker").children(recursive=True)
        assert family
        here.wait_for(lambda: not any(process.is_running() for process in family), CANCEL_S)
        committed = sorted(root.glob("edits/*/*/commit.json"))
        assert 0 < before <= len(committed) < before + 20  # of 80: a quarter of the run, on however busy a machine
        ran = here.ended(client, run, 60)
        assert ran.state.is_cancelled()
        open_run(page, here, run)
        expect(page.get_by_text("Cancelled", exact=True).first).to_be_visible()
        kept(page, "cancelled")
    assert sorted(root.glob("edits/*/*/commit.json")) == committed
    assert [found for found in verify_tree(str(root)) if "was never finished" not in found.what] == []


def test_the_short_form(here: Any, page: Page) -> None:
    """Eight fields in their order; three of them changed make a run of the first clip alone."""
    with here.client() as client:
        known = {run.id for run in client.read_flow_runs()}
        page.goto(f"{here.url}/v2/deployments/deployment/{here.deployment(client, 'edit')}")
        page.get_by_role("button", name="Run", exact=True).click()
        page.get_by_role("menuitem", name="Custom run").click()
        page.get_by_label(re.compile("^first_clips")).first.wait_for()
        labels = [label.split()[0] for label in page.locator("label").all_inner_texts() if label.strip()]
        fields = ["source", "prompts", "output", "model", "preset", "precision", "first_clips", "settings_file"]
        assert [label for label in labels if label in fields] == fields
        page.get_by_label(re.compile("^output")).first.fill("out/short")
        page.get_by_label(re.compile("^first_clips")).first.fill("1")
        choose(page, "preset", "bold")
        kept(page, "short-form")
        submit(page)
        (run,) = here.wait_for(lambda: [run for run in client.read_flow_runs() if run.id not in known], 60)
        ran = here.ended(client, run.id)
    assert ran.state.is_completed(), ran.state.message
    assert (ran.parameters["preset"], ran.parameters["first_clips"]) == ("bold", 1)
    assert len({row["source_key"] for row in read_table(str(here.folder / "out/short"), "edits")}) == 1
