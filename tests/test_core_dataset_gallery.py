"""The gallery shows what was made, and nothing that a user wrote is ever taken for markup."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cogvideo_core.dataset.gallery import MAX_CLIPS, escape_markdown, markdown_table, render_gallery, settings

NASTY = [
    "<script>alert(1)</script>",
    "\"><img src=x onerror='alert(1)'>",
    "' onmouseover=alert(1) x='",
    "javascript:alert(1)",
    "{{ 7 * 7 }}{% raw %}",
    "a | b\nc `code` <b>*bold*</b> [x](javascript:alert(1)) ![i](http://x)",
    "</title></style></script><!--",
]


class Page(HTMLParser):
    """Elements, text and attributes, as a browser would see them."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = [("", {})]
        self.text = ""
        self.feed(source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.tags[-1][0] not in ("style", "script"):
            self.text += data

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.tags)

    def sources(self) -> list[str | None]:
        return [a["data-src"] for _, a in self.tags if "data-src" in a]


def edit(**more: Any) -> dict[str, Any]:
    row = {"clip": "a.mp4", "window": 0, "source_prompt": "a red circle", "target_prompt": "a blue circle"}
    row |= {"recipe": "balanced", "seed": 3, "height": 48, "width": 48, "score_psnr": 31.234, "score_none": None}
    return row | {"file_name": "videos/a-1.mp4", "source_file_name": "videos/a-source.mp4"} | more


def failure(text: str) -> dict[str, Any]:
    return {"clip": text, "stage": "encode", "error": "NotAVideo", "message": text, "attempts": 1}


def test_a_section_shows_the_source_beside_its_edits() -> None:
    """One section a clip and window; the source once, every edit with its prompt, recipe, seed and scores."""
    edits = [edit(), edit(file_name="videos/a-2.mp4", target_prompt="a green circle"), edit(window=1)]
    page = Page(render_gallery(edits, [], {"title": "My edits"}))
    expected = ["a-source", "a-1", "a-2", "a-source", "a-1"]
    assert page.sources() == [f"dataset/videos/{name}.mp4" for name in expected]
    assert page.count("section") == 2 and "a.mp4, window 1" in page.text
    for text in ("My edits", "2 clips, 3 edits, 0 failures", "a green circle", "balanced, seed 3", "psnr 31.2"):
        assert text in page.text
    assert "none" not in page.text, "a score that was not measured is not shown"


def test_a_rejected_edit_is_shown_with_its_reason() -> None:
    """Its video is played from where it is stored, it is marked, and its reason and verdict can be read and filtered;
    a section whose edits are all rejected plays the stored source."""
    places = {"edit_object": "edits/ab/x/y/edit.mp4", "source_object": "sources/cd/x/y/source.mp4"}
    lost = edit(
        verdict="rejected", rejected_because="text choice 0.1 is below 0.5", kept=False, confidence=0.2, **places
    )
    page = Page(render_gallery([lost], [], {}))
    assert set(page.sources()) == {"sources/cd/x/y/source.mp4", "edits/ab/x/y/edit.mp4"}
    assert "Rejected: text choice 0.1 is below 0.5" in page.text
    (figure,) = (attrs for tag, attrs in page.tags if tag == "figure" and "rejected" in (attrs.get("class") or ""))
    assert "rejected" in str(figure["data-text"]) and '"confidence": 0.2' in str(figure["data-values"])
    kept = edit(verdict="accepted", rejected_because="", kept=True, confidence=0.9, **places)
    both = Page(render_gallery([lost, kept], [], {}))
    assert "sources/cd/x/y/source.mp4" not in both.sources() and "Accepted" in both.text


def test_small_videos_keep_their_pixels() -> None:
    """Under 160 pixels a video is enlarged without smoothing, from 160 on it is not."""
    classes = [Page(render_gallery([edit(width=w)], [], {})).tags for w in (159, 160)]
    small = [[a.get("class") for _, a in tags if "data-src" in a] for tags in classes]
    assert small == [["video small"] * 2, ["video"] * 2]


@pytest.mark.parametrize("nasty", NASTY)
def test_nothing_a_user_wrote_becomes_markup(nasty: str) -> None:
    """A hostile text in any field adds no element and no attribute, and is shown as it was written."""
    fields = ("clip", "source_prompt", "target_prompt", "recipe")
    page = Page(
        render_gallery([edit(**dict.fromkeys(fields, nasty))], [failure(nasty)], {"title": nasty, nasty: nasty})
    )
    plain = Page(render_gallery([edit()], [failure("x")], {"title": "x", "y": "z"}))
    assert [(n, sorted(a)) for n, a in page.tags] == [(n, sorted(a)) for n, a in plain.tags]
    assert page.text.count(nasty) >= 6


def test_file_names_are_quoted_and_stay_in_the_dataset() -> None:
    """A file name can't become another address."""
    page = Page(render_gallery([edit(file_name="javascript:alert('x\"')?a#b", source_file_name="//x/y")], [], {}))
    assert page.sources() == ["dataset///x/y", "dataset/javascript%3Aalert%28%27x%22%27%29%3Fa%23b"]


def test_the_page_asks_nobody_outside() -> None:
    """No address of another host, and a policy that forbids one; videos are not loaded until they are seen."""
    source = render_gallery([edit()], [], {})
    assert re.findall(r"https?://|//[a-z]+\.", source) == []
    policy = next(a["content"] for n, a in Page(source).tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None and policy.startswith("default-src 'none'; media-src 'self' file:;")
    assert Page(source).count("video") == 0 and len(Page(source).sources()) == 2


def test_a_large_dataset_is_cut_with_a_word_about_it() -> None:
    """Of 512 clips 500 are shown, and the page says that 12 are not."""
    edits = [edit(clip=f"{i}.mp4") for i in range(MAX_CLIPS + 12)]
    page = Page(render_gallery(edits, [failure(str(i)) for i in range(501)], {}))
    assert page.count("section") == MAX_CLIPS and "12 more clips are not shown" in page.text
    assert "512 clips, 512 edits, 501 failures" in page.text and "1 more are in tables/errors.parquet" in page.text


def test_an_empty_gallery_says_so() -> None:
    """No edits and no failures still make a page."""
    page = Page(render_gallery([], [], {}))
    assert [a for n, a in page.tags if a.get("id") == "nothing"] == [{"id": "nothing", "class": "soft"}]


def test_a_hostile_prompt_does_not_break_a_table() -> None:
    """Pipes, newlines and backticks stay in their cell; None and missing are empty."""
    table = markdown_table([{"a": "x | y\n| z `q` <b>", "b": None}, {"b": 3}], ["a", "b"])
    expected = "| a | b |\n| --- | --- |\n| x &#124; y &#124; z &#96;q&#96; &#60;b&#62; |  |\n|  | 3 |\n"
    assert table == expected


@given(st.text())
def test_escaped_text_is_one_line_without_markup(text: str) -> None:
    """Of any text nothing is left that markdown or HTML could read, but the entities made here."""
    escaped = re.sub(r"&#\d+;", "", escape_markdown(text))
    assert not set(escaped) & set("&<>|`*[]\\~#$@\n\r") and "://" not in escaped
    assert len(re.sub(r"&#\d+;", "x", escape_markdown(text))) <= 200


def test_long_texts_are_cut_before_they_are_escaped() -> None:
    """No entity is cut in two, and underscores inside words stay readable."""
    assert escape_markdown("|" * 300) == "&#124;" * 199 + "…"
    assert escape_markdown("shape_01 _x_") == "shape_01 &#95;x&#95;"


def test_settings_are_flattened() -> None:
    """Groups become dotted names."""
    assert settings({"recipe": {"name": "x", "seeds": [0]}, "n": 1}) == [
        ("recipe.name", "x"),
        ("recipe.seeds", "[0]"),
        ("n", "1"),
    ]


def test_three_figures_have_words() -> None:
    """Colour, sharpness and stillness are told in words on the tile; all figures lie behind a toggle, and as data for
    ordering and filtering; a figure that was not measured is nowhere."""
    row = edit(score_delta_e=1.234, score_sharpness=0.957, score_flicker=0.61, score_ssim=0.8)
    page = render_gallery([row, edit(score_delta_e=None)], [], {})
    for words in ("colour kept <b>ΔE 1.2</b>", "sharpness <b>96%</b>", "still <b>±0.61</b>", "All figures", "ssim 0.8"):
        assert words in page, words
    assert page.count("colour kept") == 1
    assert '<option value="-ssim">' in page and "&#34;delta_e&#34;: 1.234" in page
