"""A gallery of 100,000 edits in a real browser, from a disk and from the servers."""

from __future__ import annotations

import http.server
import json
import os
import re
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import pytest
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

from cogvideo_core.dataset.gallery import PAGE_SECTIONS
from cogvideo_core.media import video
from cogvideo_core.shapes import world
from flows.server.gallery import serve
from flows.server.review import serve_review

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600), pytest.mark.xdist_group("gallery")]
SCREENSHOTS = Path(os.environ.get("SCREENSHOTS", "out/screenshots"))
EDITS = 100_000
TOKEN = "a-secret-token"
GENEROUS_S = 60  # on a busy machine
expect.set_options(timeout=GENEROUS_S * 1000)


class Made(NamedTuple):
    """A gallery on disk, its files' sizes in bytes, and all its rows."""

    root: Path
    sizes: dict[str, int]
    rows: list[dict[str, Any]]


def with_videos(root: Path) -> Path:
    (root / "dataset/videos").mkdir(parents=True)
    for seed, name in enumerate(("source", "edit")):
        video.encode(world.render(world.scene_from_seed(seed + 1)), root / f"dataset/videos/{name}.mp4", 8)
    return root


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory, gallery_rows: ModuleType) -> Made:
    root, rows = with_videos(tmp_path_factory.mktemp("large") / "run"), list(gallery_rows.made_up_rows(EDITS))
    began = time.monotonic()
    sizes = gallery_rows.write(root, rows, title="Many edits")
    print(f"{EDITS:,} edits: written in {time.monotonic() - began:.1f} s, {len(sizes)} files, ", end="")
    print(f"{sum(sizes.values()):,} bytes")
    return Made(root, sizes, rows)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path="/usr/bin/chromium", args=["--no-sandbox", "--disable-gpu"]
        )
        yield browser
        browser.close()


def opened(browser: Browser, **more: Any) -> Page:
    page = browser.new_page(**more)
    page.set_default_timeout(GENEROUS_S * 1000)
    return page


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page that must not say anything on its console."""
    page = opened(browser, viewport={"width": 1280, "height": 900})
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    yield page
    page.close()
    assert said == []


@pytest.fixture
def served(large: Made) -> Iterator[dict[str, str]]:
    """Addresses of the large gallery: from a disk, and from both servers."""
    servers = serve(large.root.parent, "127.0.0.1", 0), serve_review(large.root, TOKEN)
    for server in servers:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    plain, review = (f"http://127.0.0.1:{server.server_address[1]}" for server in servers)
    yield {
        "disk": (large.root / "index.html").as_uri(),
        "server": f"{plain}/run/index.html",
        "review": f"{review}/?token={TOKEN}",
    }
    for server in servers:
        server.shutdown()
        server.server_close()
    (large.root / "reviews.jsonl").unlink(missing_ok=True)


class Lap(NamedTuple):
    """Seconds by the clock, and processor seconds of the page's main thread."""

    seconds: float
    busy: float

    def __str__(self) -> str:
        return f"{self.seconds:.2f} s ({self.busy:.2f} s)"


class Clock:
    """Times what a page does; its processor time says the same on a busy machine."""

    def __init__(self, page: Page) -> None:
        self.session = page.context.new_cdp_session(page)
        self.session.send("Performance.enable", {"timeDomain": "threadTicks"})
        self.began, self.busy = time.monotonic(), 0.0

    def lap(self) -> Lap:
        metrics = self.session.send("Performance.getMetrics")["metrics"]
        busy = next(metric["value"] for metric in metrics if metric["name"] == "TaskDuration")
        now = time.monotonic()
        lap = Lap(now - self.began, busy - self.busy)
        self.began, self.busy = now, busy
        return lap


def search(page: Page, text: str) -> None:
    page.get_by_label("Search prompts, clips, recipes and figures").fill(text)


def hits(page: Page) -> Locator:
    return page.locator("#hits")


def headings(page: Page) -> list[str]:
    return page.locator("section h2").all_text_contents()


def keep_picture(page: Page, name: str) -> None:
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SCREENSHOTS / f"{name}.png")


def told(rows: list[dict[str, Any]]) -> str:
    return f"{len(rows):,} of {EDITS:,} edits"


@pytest.mark.parametrize("where", ["disk", "server", "review"])
def test_a_hundred_thousand_edits_open_quickly(large: Made, served: dict[str, str], page: Page, where: str) -> None:
    """The first page is below 1 MB, no part above 6 MB; its first clip is there, and a search finds the last one."""
    assert large.sizes["index.html"] < 1_000_000 and max(large.sizes.values()) < 6_000_000
    clock = Clock(page)
    page.goto(served[where])
    expect(page.locator("section figcaption").nth(1)).to_contain_text(large.rows[0]["target_prompt"])
    first = clock.lap()
    assert len(headings(page)) == PAGE_SECTIONS and page.locator("video").count() < 60
    clock.lap()
    search(page, "clip_024999")
    expect(hits(page)).to_have_text(f"4 of {EDITS:,} edits")
    assert headings(page) == [large.rows[-1]["clip"]]
    found = clock.lap()
    search(page, "sunset clip_0249")
    expect(hits(page)).to_have_text(f"100 of {EDITS:,} edits")
    again = clock.lap()
    print(f"{where}: first page {large.sizes['index.html']:,} bytes. Seconds (the page's processor time): ", end="")
    print(f"first page {first}, first search {found}, another {again}")
    assert first.busy < 2 and found.busy < 4


def test_a_search_goes_over_all_pages(large: Made, served: dict[str, str], page: Page, browser: Browser) -> None:
    """Words, figures, verdict and order together: number of hits, their order and their pages, as Python counts."""
    page.goto(served["disk"])
    search(page, "WOODCUT delta_e<1")
    page.get_by_label("Verdict").select_option("rejected")
    wanted = [
        row
        for row in large.rows
        if "woodcut" in row["target_prompt"] and row["score_delta_e"] < 1 and row["verdict"] == "rejected"
    ]
    expect(hits(page)).to_have_text(told(wanted))
    assert headings(page) == [row["clip"] for row in wanted[:PAGE_SECTIONS]]
    assert page.locator("figure[data-key]").count() == PAGE_SECTIONS, "edits that don't fit are not shown"
    expect(page.locator("#last")).to_have_text(str(-(-len(wanted) // PAGE_SECTIONS)))
    page.get_by_label("Order").select_option("-confidence")
    best = sorted(wanted, key=lambda row: -round(row["confidence"], 4))
    expect(page.locator("section h2").first).to_have_text(best[0]["clip"])
    page.get_by_role("button", name="Next", exact=True).click()
    expect(page.locator("section h2").first).to_have_text(best[PAGE_SECTIONS]["clip"])
    assert headings(page) == [row["clip"] for row in best[PAGE_SECTIONS : 2 * PAGE_SECTIONS]]
    keep_picture(page, "gallery-search")
    link = page.url
    other = opened(browser)
    other.goto(link)  # what was sent to somebody else
    expect(other.locator("section h2").first).to_have_text(best[PAGE_SECTIONS]["clip"])
    assert (
        other.get_by_label("Verdict").input_value() == "rejected"
        and other.locator("#filter").input_value()[:4] == "WOOD"
    )
    other.close()
    page.go_back()
    expect(page.locator("section h2").first).to_have_text(best[0]["clip"])
    search(page, "no such words")
    expect(page.locator("#nothing")).to_have_text("No edit fits.")
    expect(page.locator("section")).to_have_count(0)


def test_pages_are_turned_by_button_number_and_key(large: Made, served: dict[str, str], page: Page) -> None:
    """Next, a number, the arrows past a page's last clip, and a link all lead to the same pages."""
    clips = list(dict.fromkeys(row["clip"] for row in large.rows))
    page.goto(served["disk"])
    expect(page.get_by_role("button", name="Previous")).to_be_disabled()
    page.get_by_role("button", name="Next", exact=True).click()
    expect(page.locator("section h2").first).to_have_text(clips[PAGE_SECTIONS])
    page.get_by_label("Page", exact=True).fill("99999")
    page.get_by_label("Page", exact=True).press("Enter")
    expect(page.locator("section h2").last).to_have_text(clips[-1])
    expect(page.get_by_role("button", name="Next", exact=True)).to_be_disabled()
    keep_picture(page, "gallery-last-page")
    page.locator("h1").click()
    page.get_by_role("button", name="Previous").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowLeft")  # before the first clip: the page before
    last = (len(clips) - 1) // PAGE_SECTIONS * PAGE_SECTIONS
    expect(page.locator("section.current h2")).to_have_text(clips[last - 1])
    page.keyboard.press("ArrowRight")
    expect(page.locator("section.current h2")).to_have_text(clips[last])
    page.keyboard.press("1")
    expect(page.locator("section.current figure.large")).to_have_count(1)
    page.keyboard.press("/")
    expect(page.locator("#filter")).to_be_focused()
    for odd in ("#page=-3", "#page=x&order=%3Cscript%3E&show=zzz", "#%00"):
        page.goto("about:blank")
        page.goto(served["disk"] + odd)
        expect(page.locator("section h2").first).to_be_visible()
    assert page.locator("script[src]").count() == 0, "what has been loaded leaves no element behind"


def test_videos_play_together_on_later_pages(served: dict[str, str], page: Page) -> None:
    """On a page that was loaded, hovering plays source and edits, the button pauses them and plays them again, then
    also when the pointer is gone; and only clips near the screen hold videos."""
    page.goto(served["server"] + "#page=300")
    section = page.locator("section").first
    moving = """() => [...document.querySelector("section").querySelectorAll("video")].every(
        video => video.currentTime > 0 && !video.paused)"""
    section.hover()
    expect(section.locator("video")).to_have_count(5)
    page.wait_for_function(moving)
    section.get_by_role("button", name=re.compile("^Play or pause")).click()
    expect(section.get_by_role("button")).to_have_text("Play")
    section.get_by_role("button").click()
    page.locator("h1").hover()
    page.wait_for_function(moving)
    assert page.locator("video").count() < 60


def test_reviews_reach_over_pages(large: Made, served: dict[str, str], page: Page) -> None:
    """Edits of the last page and of a search are reviewed; it is known on every page, can be filtered and is kept."""
    page.goto(served["review"] + "#page=625")
    last, first = large.rows[-1], large.rows[0]
    tile = page.locator(f"figure[data-key='{last['edit_key']}']")
    tile.get_by_role("button", name="Prefer").click()
    expect(page.locator("#told")).to_have_text("Saved.")
    search(page, "clip_000000 woodcut")
    tile = page.locator(f"figure[data-key='{first['edit_key']}']")
    tile.locator("figcaption").click()
    page.keyboard.press("r")
    expect(tile).to_have_attribute("data-said", "reject")
    expect(page.locator("#reviewed")).to_have_text("2 reviewed.")
    keep_picture(page, "gallery-review")
    lines = [json.loads(line) for line in (large.root / "reviews.jsonl").read_text().splitlines()]
    assert [(line["edit_key"], line["said"]) for line in lines] == [
        (last["edit_key"], "prefer"),
        (first["edit_key"], "reject"),
    ]
    page.reload()
    expect(tile).to_have_attribute("data-said", "reject")
    search(page, "")
    page.get_by_label("Review", exact=True).select_option("none")
    expect(hits(page)).to_have_text(f"{EDITS - 2:,} of {EDITS:,} edits")
    page.get_by_label("Review", exact=True).select_option("prefer")
    expect(hits(page)).to_have_text(f"1 of {EDITS:,} edits")
    assert headings(page) == [last["clip"]]


def test_hostile_texts_do_nothing(tmp_path: Path, page: Page, gallery_rows: ModuleType) -> None:
    """Markup and code in every field are shown as they are written, on the first page, on a loaded one, in the search
    and in the address; what stands in the page is not changed by them, and nobody else is asked."""
    nasty = '<img src=x onerror=alert(1)>"\'); alert(1); ("</script><script>alert(1)</script>\u2028\u2029{{7*7}}'
    fields = ("clip", "source_prompt", "target_prompt", "recipe", "rejected_because", "verdict", "reviewed", "edit_key")
    rows = [
        row | dict.fromkeys(fields, f"{nasty} {number}") for number, row in enumerate(gallery_rows.made_up_rows(2000))
    ]
    rows = [row | {"score___proto__": 1.0, f"score_{nasty}": 2.0} for row in rows]
    gallery_rows.write(with_videos(tmp_path), rows, title=nasty, **{nasty: nasty})
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("dialog", lambda dialog: pytest.fail(dialog.message))
    page.goto((tmp_path / "index.html").as_uri())
    expect(page.locator("section h2").first).to_contain_text("<img src=x onerror=alert(1)>")
    assert page.locator("section h2").first.text_content() == f"{nasty} 0"
    elements = page.locator("body *").evaluate_all("all => [...new Set(all.map(each => each.tagName))].sort()")
    page.goto((tmp_path / "index.html").as_uri() + "#page=9")
    expect(page.locator("section h2").first).to_contain_text(f"{{{{7*7}}}} {8 * PAGE_SECTIONS}")
    search(page, 'onerror=alert(1)>"\'); ("</script><script>alert(1)</script>')
    expect(hits(page)).to_have_text("2,000 of 2,000 edits")
    again = page.locator("body *").evaluate_all("all => [...new Set(all.map(each => each.tagName))].sort()")
    assert again == elements and "IMG" not in elements
    search(page, "__proto__<2")
    expect(hits(page)).to_have_text("2,000 of 2,000 edits")
    root = tmp_path.as_uri()
    assert {url.removeprefix(root).partition("?")[0].split("#")[0] for url in asked} <= {
        "/index.html",
        "/dataset/videos/source.mp4",
        "/dataset/videos/edit.mp4",
        *(f"/gallery/{number:05}.js" for number in range(60)),
        "/gallery/index-00000.js",
    }


def test_another_page_can_read_no_data(served: dict[str, str], browser: Browser, tmp_path: Path) -> None:
    """A page of another origin that names a part of the gallery as its own script gets nothing."""
    (tmp_path / "evil.html").write_text("<p>evil</p>")
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path))
    other = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=other.serve_forever, args=(0.05,), daemon=True).start()
    part = served["server"].replace("index.html", "gallery/00001.js")
    load = """url => new Promise(resolve => {
        window.galleryShard = () => resolve("read");
        const script = document.createElement("script");
        script.src = url;
        script.onerror = () => resolve("refused");
        document.head.append(script);
    })"""
    watching = opened(browser)
    watching.goto(f"http://127.0.0.1:{other.server_address[1]}/evil.html")
    assert watching.evaluate(load, part) == "refused"
    watching.close()
    other.shutdown()
    other.server_close()


def test_a_gallery_that_was_made_anew_is_told(tmp_path: Path, browser: Browser, gallery_rows: ModuleType) -> None:
    """Parts that are newer than the page, or gone, are not mixed with it: the page says what to do."""
    rows = list(gallery_rows.made_up_rows(2000))
    gallery_rows.write(with_videos(tmp_path), rows)
    page = opened(browser)
    page.goto((tmp_path / "index.html").as_uri())
    expect(page.locator("section")).to_have_count(PAGE_SECTIONS)
    gallery_rows.write(tmp_path, [row | {"recipe": "bold"} for row in rows])
    (tmp_path / "gallery/00002.js").unlink()
    for number in (2, 3):
        page.evaluate(f"() => {{ location.hash = '#page={number}'; }}")
        expect(page.get_by_role("alert")).to_contain_text(f"gallery/{number - 1:05}.js can't be read, or is newer")
    page.reload()
    page.evaluate("() => { location.hash = '#page=2'; }")
    expect(page.locator("figcaption small").first).to_have_text("bold, seed 0")
    expect(page.get_by_role("alert")).to_be_hidden()
    page.close()


def test_an_empty_gallery_says_so(tmp_path: Path, browser: Browser, gallery_rows: ModuleType) -> None:
    """No edits and no failures still make a page, which says what it is."""
    gallery_rows.write(tmp_path, [])
    page = opened(browser)
    page.goto((tmp_path / "index.html").as_uri())
    expect(page.locator("#nothing")).to_be_visible()
    expect(page.locator("section")).to_have_count(0)
    page.close()


def test_masks_are_outlined_under_the_pointer(tmp_path: Path, browser: Browser, gallery_rows: ModuleType) -> None:
    """The outline of an edit's mask shows while the pointer is on the edit, and follows the video; edits share the data
    of a mask; those without one have none."""
    rows = list(gallery_rows.made_up_rows(40))
    for row in rows[:3]:
        row |= {"mask": "car.mp4", "mask_outline": "0:M20 20L120 20L120 120L20 120Z;50:M60 60L160 60L160 160L60 160Z"}
    gallery_rows.write(with_videos(tmp_path), rows, title="Masks")
    assert (tmp_path / "index.html").read_text().count("50:M60") == 1
    page = opened(browser, viewport={"width": 1280, "height": 800})
    page.goto((tmp_path / "index.html").as_uri())
    expect(page.locator("svg.mask")).to_have_count(3)
    edit = page.locator("section").first.locator("figure:not(.source)").first
    outline = edit.locator("svg.mask")
    expect(outline).to_have_css("opacity", "0")
    expect(edit).to_contain_text("mask: car.mp4")
    edit.hover()
    expect(outline).to_have_css("opacity", "1")
    video, drawn = edit.locator("video").bounding_box(), outline.bounding_box()
    assert video and drawn and all(abs(video[side] - drawn[side]) < 1 for side in video)
    first, later = re.compile("^M20 20"), re.compile("^M60 60")
    expect(outline.locator("path").first).to_have_attribute("d", later)  # the clip is played under the pointer
    expect(outline.locator("path").first).to_have_attribute("d", first)  # and begins again
    keep_picture(page, "gallery-mask")
    page.mouse.move(0, 0)
    expect(outline).to_have_css("opacity", "0")
    page.close()


def test_a_small_gallery_fits_every_screen(tmp_path: Path, browser: Browser, gallery_rows: ModuleType) -> None:
    """Wide and narrow, light and dark: no sideways scrolling, no empty pager, and a picture of each for the eye."""
    gallery_rows.write(with_videos(tmp_path), gallery_rows.made_up_rows(40), title="A few edits")
    for scheme, width in (("light", 1280), ("dark", 1280), ("light", 390)):
        page = opened(browser, viewport={"width": width, "height": 800}, color_scheme=scheme)
        page.goto((tmp_path / "index.html").as_uri())
        expect(page.locator("section")).to_have_count(10)
        expect(page.locator("#pages")).to_be_hidden()
        expect(page.locator(".video.small")).to_have_count(50)  # 48 pixels wide, enlarged without smoothing
        expect(page.get_by_text("All figures")).to_have_count(40)
        expect(page.locator("small.figures").first).to_contain_text("colour kept ΔE")
        expect(page.locator("figure.rejected small.verdict").first).to_contain_text("Rejected: ")
        assert page.evaluate("() => document.documentElement.scrollWidth <= innerWidth")
        keep_picture(page, f"gallery-{scheme}-{width}")
        page.close()
