"""The gallery shows what was made, and nothing that a user wrote is ever taken for markup or code."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from importlib import resources
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cogvideo_core.dataset import gallery as module
from cogvideo_core.dataset.gallery import escape_markdown, gallery_files, markdown_table, settings
from cogvideo_core.dataset.gallery_rows import MAX_EDITS, MAX_OWN
from cogvideo_core.dataset.rows import OWN

NASTY = [
    "<script>alert(1)</script>",
    "\"><img src=x onerror='alert(1)'>",
    "' onmouseover=alert(1) x='",
    "javascript:alert(1)",
    "{{ 7 * 7 }}{% raw %}",
    "a | b\nc `code` <b>*bold*</b> [x](javascript:alert(1)) ![i](http://x)",
    "</title></style></script><!--",
    '"); alert(1); ("\u2028\u2029\\',
    "__proto__",
]


@pytest.fixture
def shown(gallery_rows: ModuleType) -> Any:
    """shown(edits, failures, about): the gallery, read as a browser would."""

    def read(edits: Any, failures: Any = (), **about: Any) -> Any:
        return gallery_rows.Gallery(gallery_files(edits, failures, about))

    return read


def edit(**more: Any) -> dict[str, Any]:
    row = {"clip": "a.mp4", "window": 0, "source_prompt": "a red circle", "target_prompt": "a blue circle"}
    row |= {"recipe": "balanced", "seed": 3, "height": 48, "width": 48, "score_psnr": 31.234, "score_none": None}
    return row | {"file_name": "videos/a-1.mp4", "source_file_name": "videos/a-source.mp4"} | more


def failure(text: str) -> dict[str, Any]:
    return {"clip": text, "stage": "encode", "error": "NotAVideo", "message": text, "attempts": 1}


def test_a_section_shows_the_source_beside_its_edits(shown: Any) -> None:
    """One section a clip and window; the source once, every edit with its prompt, recipe, seed and scores."""
    edits = [edit(), edit(file_name="videos/a-2.mp4", target_prompt="a green circle"), edit(window=1)]
    page = shown(edits, title="My edits")
    expected = ["a-source", "a-1", "a-2", "a-source", "a-1"]
    assert page.urls() == [f"dataset/videos/{name}.mp4" for name in expected]
    assert [section["heading"] for section in page.sections] == ["a.mp4", "a.mp4, window 1"]
    assert "My edits" in page.text and "2 clips, 3 edits, 0 failures" in page.text
    assert [found["prompt"] for found in page.edits] == ["a blue circle", "a green circle", "a blue circle"]
    assert {found["notes"] for found in page.edits} == {"balanced, seed 3"}
    assert {found["scores"] for found in page.edits} == {"psnr 31.2"}, "a score that was not measured is not shown"


def test_a_rejected_edit_is_shown_with_its_reason(shown: Any) -> None:
    """Its video is played from where it is stored, it is marked, and its reason and verdict can be read and searched;
    a section whose edits are all rejected plays the stored source."""
    places = {"edit_object": "edits/ab/x/y/edit.mp4", "source_object": "sources/cd/x/y/source.mp4"}
    lost = edit(
        verdict="rejected", rejected_because="text choice 0.1 is below 0.5", kept=False, confidence=0.2, **places
    )
    page = shown([lost])
    assert page.urls() == ["sources/cd/x/y/source.mp4", "edits/ab/x/y/edit.mp4"]
    (found,), (index,) = page.edits, page.indexes
    assert found["verdict"] == "Rejected: text choice 0.1 is below 0.5"
    assert (found["rejected"], found["kept"]) == (True, False)
    assert index["texts"][index["groups"][0]] == "rejected left-out" and ["confidence", [0.2]] in index["values"]
    both = shown([lost, edit(verdict="accepted", rejected_because="", kept=True, confidence=0.9, **places)])
    assert "sources/cd/x/y/source.mp4" not in both.urls() and both.edits[1]["verdict"] == "Accepted"


def test_own_columns_are_shown_and_searched(shown: Any) -> None:
    """Those with a value, cut where they are long; an edit without any has no line for them."""
    page = shown([edit(**{OWN: ["id", "licence", "tags"], "id": 7, "licence": "CC0", "tags": None}), edit(window=1)])
    assert [found["own"] for found in page.edits] == ["id 7, licence CC0", ""]
    (index,) = page.indexes
    assert [index["texts"][place] for place in index["own"]] == ["id 7, licence cc0", ""]
    (long,) = shown([edit(**{OWN: ["note"], "note": "x" * 1000})]).edits
    assert len(long["own"]) == MAX_OWN and long["own"].endswith("…")


def test_parts_of_a_clip_are_sections_of_their_own(shown: Any) -> None:
    """Each names its seconds; equal windows of two parts are not mixed."""
    parts = [(0.0, 2.0), (2.0, 0.0)]
    page = shown([edit(start_s=a, end_s=b, source_file_name=f"videos/{a}.mp4") for a, b in parts])
    assert [section["heading"] for section in page.sections] == ["a.mp4, 0-2 s", "a.mp4, 2-end s"]
    assert "2 clips, 2 edits" in page.text


def test_candidates_stand_side_by_side(shown: Any) -> None:
    """Edits of a prompt follow each other, the best first, in the page and in the index alike."""
    rows = [edit(target_prompt=p, rank=r, candidates=2, edit_key=f"{p}{r}") for p, r in (("a", 2), ("b", 1), ("a", 1))]
    page = shown(rows)
    assert [found["key"] for found in page.edits] == ["a1", "a2", "b1"] == page.indexes[0]["keys"]
    assert page.edits[1]["notes"] == "balanced, seed 3, rank 2 of 2"


@pytest.mark.parametrize("nasty", NASTY)
def test_nothing_a_user_wrote_becomes_markup_or_code(
    shown: Any, nasty: str, monkeypatch: pytest.MonkeyPatch, gallery_rows: ModuleType
) -> None:
    """A hostile text in any field adds no element and no attribute to the page, and is shown as it was written; in a
    file it stays within the JSON of one call."""
    row = edit(**dict.fromkeys(("clip", "source_prompt", "target_prompt", "recipe"), nasty)) | {f"score_{nasty}": 1.0}
    page = shown([row], [failure(nasty)], **{"title": nasty, nasty: nasty})
    plain = shown([edit(score_x=1.0)], [failure("x")], title="x", y="z")
    assert [(n, sorted(a)) for n, a in page.tags] == [(n, sorted(a)) for n, a in plain.tags]
    assert page.text.count(nasty) >= 5
    assert (page.sections[0]["heading"], page.edits[0]["prompt"]) == (nasty, nasty)
    monkeypatch.setattr(module, "INLINE_BYTES", 0)
    monkeypatch.setattr(module, "PAGE_SECTIONS", 1)
    files = shown([row, row | {"window": 1}])  # raises if a file is anything but a call with JSON
    assert files.edits[1]["prompt"] == nasty and len(files.files) == 3
    for name, data in files.files.items():
        if name != "index.html":
            assert not set(data.decode()) & set("<>&\u2028\u2029")


def test_no_key_of_the_data_comes_from_a_row(shown: Any) -> None:
    """Objects have the keys that the page knows; a name in a row, such as __proto__, is a value."""

    def keys(found: Any) -> set[str]:
        own = set(found) if isinstance(found, dict) else set()
        inner = found.values() if isinstance(found, dict) else found if isinstance(found, list) else ()
        return own.union(*map(keys, inner))

    page = shown([edit(score_psnr=1.0)])
    hostile = shown([edit(**{"score___proto__": 1.0, "own": "__proto__", "__proto__": 1})])
    assert keys(hostile.sections) == keys(page.sections) and keys(hostile.indexes) == keys(page.indexes)


def test_file_names_are_quoted_and_stay_in_the_dataset(shown: Any) -> None:
    """A file name can't become another address."""
    page = shown([edit(file_name="javascript:alert('x\"')?a#b", source_file_name="//x/y")])
    assert page.urls() == ["dataset///x/y", "dataset/javascript%3Aalert%28%27x%22%27%29%3Fa%23b"]


def test_the_page_asks_nobody_outside(shown: Any) -> None:
    """No address of another host, and a policy that forbids one; no video is in the page before it is seen."""
    page = shown([edit()])
    assert re.findall(rb"https?://|//[a-z]+\.", page.files["index.html"]) == []
    assert page.policy()["default-src"] == "'none'" and page.policy()["media-src"] == "'self' file:"
    assert "video" not in [tag for tag, _ in page.tags]


def test_only_the_page_s_own_script_and_style_act(shown: Any) -> None:
    """The policy names both by their hash, lets the script load its data, and has no place for what is inline."""
    page = shown([edit()])
    source, policy = page.files["index.html"].decode(), page.policy()
    digests = []
    for tag in ("style", "script"):
        (text,) = re.findall(rf"<{tag}>(.*?)</{tag}>", source, re.DOTALL)
        digests.append(f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'")
    assert (policy["style-src"], policy["script-src"]) == (digests[0], f"{digests[1]} 'strict-dynamic'")
    assert not [attrs for _, attrs in page.tags if any(name == "style" or name.startswith("on") for name in attrs)]


def test_the_script_makes_no_markup_of_text() -> None:
    """None of its files uses what parses text as markup or code."""
    files = [file for file in (resources.files(module.__package__) / "page").iterdir() if file.name.endswith(".js")]
    assert len(files) == len(module.SCRIPTS)
    for file in files:
        assert not re.search(r"HTML|document\.write|\beval\b|Function\(|<!--|</", file.read_text("utf-8")), file


def test_an_empty_gallery_is_a_page(shown: Any) -> None:
    """No edits and no failures still make a page, and no other file."""
    page = shown([])
    assert (page.head["sections"], page.head["edits"], page.data) == (0, 0, {})
    assert list(page.files) == ["index.html"] and "0 clips, 0 edits, 0 failures" in page.text


def test_a_small_gallery_is_one_file(shown: Any, gallery_rows: ModuleType) -> None:
    """400 edits are in index.html alone, their search index too."""
    page = shown(gallery_rows.made_up_rows(400))
    assert list(page.files) == ["index.html"] and len(page.edits) == 400
    assert set(page.inline) == {"00000", "00001", "00002", "index-00000"}


def test_a_large_gallery_is_split(shown: Any, gallery_rows: ModuleType) -> None:
    """4,000 edits: the first page's clips are in index.html, the others and the index in files, and index.html is last;
    every edit is once in a section and once in the index, which agree."""
    page = shown(gallery_rows.made_up_rows(4000))
    assert list(page.inline) == ["00000"] and list(page.files)[-1] == "index.html"
    names = [f"gallery/{number:05}.js" for number in range(1, 25)]
    assert list(page.files) == [*names, "gallery/index-00000.js", "index.html"]
    assert set(page.head["digests"]) == set(page.data) - {"00000"}
    assert "1,000 clips, 4,000 edits" in page.text and len(page.files["index.html"]) < 200_000
    (index,) = page.indexes
    assert index["counts"] == [4] * 1000 and index["first"] == 0
    assert [found["key"][:12] for found in page.edits] == index["keys"]
    assert [found["prompt"] for found in page.edits] == [index["texts"][place] for place in index["prompts"]]
    values = dict(map(tuple, index["values"]))
    assert {len(column) for column in values.values()} == {4000}
    assert set(values) == {"rank", "confidence", *gallery_rows.NUMBERS}


def test_a_large_index_is_split(shown: Any, gallery_rows: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its parts begin with the number of their first section, and hold all edits."""
    monkeypatch.setattr(module, "INDEX_BYTES", 100_000)
    page = shown(gallery_rows.made_up_rows(4000))
    assert len(page.indexes) > 4
    firsts = [sum(len(part["counts"]) for part in page.indexes[:number]) for number in range(len(page.indexes))]
    assert [part["first"] for part in page.indexes] == firsts
    assert [key for part in page.indexes for key in part["keys"]] == [found["key"][:12] for found in page.edits]


def test_a_score_that_comes_late_has_its_column(shown: Any) -> None:
    """Edits before it, and those without it, hold null."""
    (index,) = shown([edit(score_psnr=None), edit(score_psnr=2.0), edit(score_psnr=float("nan"))]).indexes
    assert index["values"] == [["rank", [1, 1, 1]], ["psnr", [None, 2.0, None]]]


def test_a_clip_with_many_edits_is_continued(shown: Any) -> None:
    """Of one clip's 130 edits a section shows MAX_EDITS at most; it counts as one clip."""
    page = shown(edit(target_prompt=f"{number:03}") for number in range(130))
    assert [len(section["edits"]) for section in page.sections] == [MAX_EDITS, MAX_EDITS, 10]
    assert [section["heading"] for section in page.sections] == ["a.mp4", *["a.mp4, continued"] * 2]
    assert "1 clip, 130 edits" in page.text


def test_equal_names_of_two_sources_are_two_sections(shown: Any) -> None:
    """Each edit stands beside its own source."""
    page = shown([edit(), edit(source_file_name="videos/b-source.mp4"), edit()])
    assert [(section["url"][-12:-4], len(section["edits"])) for section in page.sections] == [
        ("a-source", 2),
        ("b-source", 1),
    ]


def test_rows_are_read_as_files_are_made(gallery_rows: ModuleType) -> None:
    """No more rows are held than a page and what index.html holds, and memory does not grow with them."""
    read = 0

    def rows() -> Any:
        nonlocal read
        for row in gallery_rows.made_up_rows(4000):
            read += 1
            yield row

    written, behind = 160, []
    for name, data in gallery_files(rows(), [], {}):
        if re.match(r"gallery/\d", name):
            written += sum(len(section["edits"]) for section in gallery_rows.called(data)[1])
            behind.append(read - written)
    assert written == 4000 and max(behind) < 1200


def test_equal_rows_make_equal_bytes(gallery_rows: ModuleType) -> None:
    """Twice the same rows make the same files."""
    first, second = (dict(gallery_files(gallery_rows.made_up_rows(2000), [], {})) for _ in range(2))
    assert first == second and len(first) > 5


@pytest.mark.parametrize("character", ["x", "字", '"'])
def test_the_first_page_stays_small_whatever_the_texts(character: str) -> None:
    """Prompts of the greatest length, many of them for a clip, and many long failures leave it below 1 MB."""
    long = character * 2_000
    rows = [edit(clip=f"{i // 70}", target_prompt=long, source_prompt=long, edit_key=f"{i}") for i in range(140)]
    files = dict(gallery_files(rows, [failure(long)] * 600, {}))
    assert 100_000 < len(files["index.html"]) < 1_000_000


def test_many_failures_are_cut_with_a_word_about_it(shown: Any) -> None:
    """Of 501 failures 500 are listed, and the page says that one is not; a long reason ends with an ellipsis."""
    page = shown([], [failure(str(i)) for i in range(500)] + [failure("last")])
    assert "501 failures" in page.text and "1 more are in tables/errors.parquet" in page.text
    assert "last" not in page.text and f"{'q' * 299}…" in shown([], [failure("q" * 301)]).text


def test_three_figures_have_words(shown: Any) -> None:
    """Colour, sharpness and stillness are told in words on the tile; all figures lie behind a toggle, and as data for
    ordering and searching; a figure that was not measured is nowhere."""
    row = edit(score_delta_e=1.234, score_sharpness=0.957, score_flicker=0.61, score_ssim=0.8)
    page = shown([row, edit(score_delta_e=None)])
    assert [word for word, _ in page.head["figures"]] == ["colour kept", "sharpness", "still"]
    assert [found["figures"] for found in page.edits] == [["ΔE 1.2", "96%", "±0.61"], ["", "", ""]]
    assert "ssim 0.8" in page.edits[0]["scores"] and ["delta_e", [1.234, None]] in page.indexes[0]["values"]
    options = [attrs["value"] for tag, attrs in page.tags if tag == "option"]
    assert {"ssim", "-ssim", "delta_e", "psnr"} <= set(options) and "rank" not in options


def test_verdicts_can_be_chosen_where_there_are_some(shown: Any) -> None:
    """Without a judge there is nothing to choose among."""
    assert ("id", "verdict") not in [
        item for _, attrs in shown([edit(verdict="unjudged")]).tags for item in attrs.items()
    ]
    assert ("id", "verdict") in [item for _, attrs in shown([edit(verdict="accepted")]).tags for item in attrs.items()]


@given(st.text())
def test_any_text_survives_as_data(text: str) -> None:
    """JSON as it is written gives the text back, and has nothing that ends an element or a line of a script."""
    written = module._json([text])
    assert not set(written) & set("<>&\u2028\u2029") and json.loads(written) == [text]


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
