"""FiVE-Bench: 100 clips, 420 edits of six kinds, with masks and questions.

Read as published (github.com/MinghanLi/FiVE-Bench, README.md and evaluation/evaluate.py): `edit_prompt/edit1_FiVE.json`
to `edit6_FiVE.json`, each a list; clips in `images/<video_name>/` or `videos/<video_name>.mp4`, masks in
`bmasks/<video_name>/`. Laid out as the evaluator reads it: `<video_name>/<save_dir>/00001.png`, numbered as the
sources' frames are; it takes every eighth frame and scales it to the source's size.
"""

from __future__ import annotations

from pathlib import Path

from cogvideo_core.benchmarks.cases import QUESTIONS, Benchmark, Case, Column, Form
from cogvideo_core.benchmarks.reading import Entry, entries, json_file
from cogvideo_core.errors import BadManifest

KINDS = ("object (rigid)", "object (non-rigid)", "colour", "material", "addition", "removal")  # by number, from 1
ASKED = dict(
    zip(QUESTIONS, ("source_yes_no_question", "target_yes_no_question", "multiple_choice_question"), strict=True)
)


def read(folder: Path, prompts: str) -> list[Case]:
    """Raises BadManifest."""
    cases, names = list[Case](), [f"edit_prompt/edit{number}_FiVE.json" for number in range(1, len(KINDS) + 1)]
    for number, name in enumerate(names, 1):
        if (folder / name).is_file():
            listed = entries(folder / name, json_file(folder, name))
            cases += [_case(folder, entry, f"edit{number}/{place}", number) for place, entry in enumerate(listed)]
    if not cases:
        raise BadManifest(f"folder {str(folder)!r} holds none of {names[0]} to {names[-1]}; give FiVE's folder data/")
    return cases


def _case(folder: Path, entry: Entry, name: str, number: int) -> Case:
    video = entry.name("video_name")
    clip = entry.clip(folder, (f"images/{video}", f"videos/{video}.mp4"), "video_name")
    mask = entry.path(folder, f"bmasks/{video}", "video_name")
    questions = tuple((kind, _question(entry, field)) for kind, field in ASKED.items() if entry.fields.get(field))
    place = entry.place(f"{video}/{entry.text('save_dir').strip('/')}", "save_dir")
    source, target = (_unmarked(entry.text(field)) for field in ("source_prompt", "target_prompt"))
    return Case(
        name, clip, source, target, KINDS[number - 1], place, mask=str(mask) if mask.is_dir() else "",
        instruction=entry.text("instruction", needed=False), questions=questions,
    )  # fmt: skip


def _unmarked(prompt: str) -> str:
    """Without the brackets around the words that differ, as the evaluator takes it."""
    return prompt.replace("[", "").replace("]", "")


def _question(entry: Entry, field: str) -> str:
    """The text of a question, with the lines of its answers. Raises BadManifest."""
    value = entry.fields[field]
    lines = value.splitlines() if isinstance(value, str) else []
    if not lines or len(value) > 2_000:
        raise entry.refused(field, "it is no text of up to 2000 characters", "give the benchmark's own list")
    return "\n".join(Entry(entry.file, entry.where, {field: line}).text(field, needed=False) for line in lines)


FIVE = Benchmark(
    "five",
    "FiVE-Bench",
    "100 clips, 420 edits of six kinds, masks, questions",
    "CC BY-NC 4.0, as the data set's card says",
    read,
    Form("png", first=1),
    (
        Column("structure_distance"),
        Column("psnr_unedit_part"),
        Column("lpips_unedit_part"),
        Column("mse_unedit_part"),
        Column("ssim_unedit_part"),
        Column("clip_similarity_target_image"),
        Column("clip_similarity_target_image_edit_part"),
        Column("niqe"),
        Column("motion_fidelity_score", own=False),
        Column("motion_fidelity_score_edit_part", own=False),
        Column("five_acc_yes_no"),
        Column("five_acc_multi_choice"),
        Column("five_acc_union"),
        Column("five_acc_inter"),
        Column("five_acc"),
    ),
    stride=8,
)
