"""The dataset card: README.md of an edited dataset, with what it holds, its columns and how to load it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from cogvideo_core.dataset.gallery import escape_markdown, markdown_table, settings
from cogvideo_core.dataset.rows import OWN
from cogvideo_core.dataset.yields import SHOWN_REASONS, Spread, Tally
from cogvideo_core.storage.uris import plain_name, printable

Row = dict[str, Any]
MEANING = {
    "file_name": "the edit; `datasets` shows it as `video`",
    "source_file_name": "the source as the model saw it; `datasets` shows it as `source`",
    "clip": "the input, as its manifest or folder names it",
    "window": "which window of a longer clip or part, counted from 0",
    "start_s": "where the part of the clip begins that windows are placed in, in seconds",
    "end_s": "where that part ends; 0: at the clip's end",
    "source_prompt": "describes the clip; may be empty",
    "inversion_prompt": "what the inversion was given",
    "target_prompt": "describes the wish",
    "first_frame_uri": "the edited first frame that image-to-video models were given; empty: the source's own",
    "mask": "where the edit was allowed to change the clip: a file, boxes, what it was found by, or "
    "auto; empty: all. The gallery outlines it, with its soft border, while the pointer is on the edit",
    "negative_prompt": "given to the unguided half",
    "recipe": "name of the settings that steered the edit",
    "seed": "of the edit's noise",
    "strength": "divides the reference's weight; more is further from the source",
    "frames": "in the video",
    "height": "in pixels",
    "width": "in pixels",
    "fps": "frames a second",
    "damaged_frames": "of the source's window, which its decoder had to mend or could not make",
    "windows": "that the clip was edited in, together",
    "scenes": "that cuts divide it into, each edited by itself",
    "trimmed_frames": "at the clip's end, which no window reaches and the edit lacks",
    "screen_cuts": "seen in the source up to the end of the window, or in all of it; empty: not looked for",
    "screen_start_s": "where the window begins, in seconds after the source's first frame",
    "screen_luma": "mean brightness of the source's window, in levels of 255",
    "screen_black": "share of the window's frames that are black",
    "screen_frozen": "longest run of frames that repeat the one before, as a share of the window",
    "screen_moving": "share of the picture that changes visibly during the window",
    "screen_text": "share of the picture that is text, as a detector sees it",
    "screen_because": "what the screen has against the source",
    "duplicate_of": "an earlier clip that this one shows again",
    "verdict": "of the judge: accepted, rejected or unjudged",
    "confidence": "the judge's probability that the edit is good",
    "rejected_because": "which limits the edit did not reach",
    "reviewed": "what a person said of the edit, over the judge's head: keep, reject, prefer or nothing",
    "rank": "among the edits of this clip and prompt, 1 for the best by the judge",
    "rank_score": "the figure behind the rank, from 0 to 1: the confidence where there is one",
    "candidates": "how many edits of this clip and prompt there are",
    "model": "folder or hub id, and its LoRA",
    "source_id": "hash of the clip's address, size, stamp, part and window",
    "source_key": "hash of what determines the source's video",
    "latents_key": "hash of what determines the encoded clip",
    "trajectory_key": "hash of what determines the inversion",
    "edit_key": "hash of what determines the edit",
    "recipe_fingerprint": "hash of the recipe",
    "model_fingerprint": "hash of the model",
}
SCORES = {
    "preserved": "share of the pixels whose content stayed in place; the other scores are of this region, against the "
    "source after the model's VAE",
    "delta_e": "colour shift, mean CIEDE2000",
    "delta_e_p95": "colour shift, 95th percentile",
    "luminance_gain": "mean lightness, edit over source",
    "saturation_gain": "mean chroma, edit over source",
    "sharpness": "mean absolute Laplacian, edit over source",
    "ssim": "structural similarity of the grey levels",
    "flicker": "change from frame to frame that the source does not show, in levels of 255",
    "text_similarity": "cosine of the edit's frames and the target prompt, by the text judge",
    "text_gain": "how much nearer the edit is to the target prompt than to the source prompt",
    "text_choice": "the text judge's probability of the target prompt over the source prompt",
    "text_contrast": "the text judge's least probability of a word that the prompt names, against its alternatives",
    "text_direction": "cosine of the changes of picture and prompt",
    "vlm_yes": "a vision-language model's mean probability of yes to the questions about the edit",
    "vlm_choice": "its probability that the target prompt describes the edit better than the source prompt",
    "text_steady": "cosine of neighbouring frames, by the text judge",
    "image_similarity": "cosine of edit and source, frame by frame, by the text judge",
    "structure": "cosine of the patch features of edit and source",
    "motion_agreement": "share of the optical flow of edit and source that is the same, where anything moves",
    "kept_db": "PSNR of the 70 % of the pixels that differ least, edit against source",
    "warp_error": "of neighbouring frames along the edit's own flow, in levels of 255",
    "outside_db": "PSNR against the source of what lies more than a latent cell outside the edit's mask",
    "outside_ssim": "structural similarity there",
    "outside_delta_e": "colour shift there, mean CIEDE2000",
    "outside_flicker": "change from frame to frame there that the source does not show, in levels of 255",
    "outside_below_vae_db": "how far that is below what the VAE alone makes of it, in dB",
    "inside_db": "PSNR against the source inside the edit's mask: lower is more change",
    "inside_ssim": "structural similarity inside the edit's mask",
    "inside_delta_e": "colour change inside the edit's mask, mean CIEDE2000",
    "outside_lpips": "LPIPS against the source with all but what lies more than a latent cell outside the mask black",
    "inside_lpips": "the same with all outside the mask black: higher is more change",
    "box_text_similarity": "cosine of the target prompt and the edit's frames cut to the box around its mask",
    "box_text_choice": "there, the text judge's probability of the target prompt over the source prompt",
    "seam": "mean step of grey across the border of the edit's mask, edit over source",
    "mask_share": "share of the pixels that the edit was allowed to change",
    "reconstruction_db": "PSNR of the clip sampled back from its own inversion, by the reconstruction gate",
    "vae_db": "PSNR of what the VAE alone makes of the clip: the ceiling of the former",
    "reconstruction_below_vae_db": "how far the reconstruction is below the VAE's own, in dB",
}


SHOWN_FAILURES = 20
SMALL = {"train": ["metadata.jsonl", "videos/*.mp4"]}  # files of dataset/, where all edits are one split
LARGE = {"train": ["videos/*/metadata.parquet", "videos/*/*.mp4"]}
LOAD_SMALL = 'edits = load_dataset("videofolder", data_dir="dataset", split="train")'
LOAD_LARGE = """\
files = "dataset/videos/*/metadata.parquet"  # a million videos need not be listed
edits = load_dataset("videofolder", data_files=files, split="train")"""
CARD = """\
{front}
# {title}

Each video is an edit of a clip, made with CogVideoX: the clip was inverted, and denoised again for another prompt
while the model also read the stored inversion. The clip as the model saw it, at the same rate and size, lies beside it.

{facts}{chosen}
## Load

```python
from datasets import Video, load_dataset

{load}  # this folder
paths = edits.cast_column("video", Video(decode=False)).cast_column("source", Video(decode=False))
```

Decoding the columns `video` and `source` needs the package torchcodec; with `decode=False` they hold paths.

## Columns

| column | meaning |
| --- | --- |
{columns}

## Settings

{settings}
{failures}"""


def card_of(
    tally: Tally,
    spreads: Sequence[Spread],
    failures: Sequence[Row],
    failed: int,
    about: Mapping[str, Any],
    spread: bool = False,
) -> str:
    """README.md of the dataset: front matter for hubs, what it holds, its columns, how to load it.

    failures: the first of the `failed` ones. spread: whether it has many folders, each with its metadata.
    """
    title, of = str(about.get("title") or "Edited videos"), tally.yielded
    facts: list[tuple[str, object]] = [("Clips", tally.clips), ("Edits", of.kept), ("Failures", failed)]
    facts += [("Yield", of.told)] if of.edits > of.kept else []
    facts += [("Model", name) for name in sorted(tally.models)]
    facts += [("Recipe", name) for name in sorted(tally.kept_recipes)]
    scores = [name for name in tally.first if name.startswith("score_")]
    own = dict.fromkeys(tally.first.get(OWN, ()), "the source's own column")
    columns = MEANING | own | {name: SCORES.get(name.removeprefix("score_"), "measured on the edit") for name in scores}
    return CARD.format(
        front=front_matter(title, of.kept, LARGE if spread else SMALL),
        title=escape_markdown(title),
        facts=two_columns("", "", facts),
        chosen=_chosen(tally) + _spreads(spreads),
        load=LOAD_LARGE if spread else LOAD_SMALL,
        columns="\n".join(f"| `{plain_name(name)}` | {text} |" for name, text in columns.items()),
        settings=two_columns("Setting", "Value", settings({k: v for k, v in about.items() if k != "title"})),
        failures=_card_failures(failures, failed),
    )


def front_matter(title: str, edits: int, files: Mapping[str, Sequence[str]]) -> str:
    """What hubs and `datasets` read of a card; `files` are the patterns of each split's files."""
    sizes = {1_000: "n<1K", 10_000: "1K<n<10K", 100_000: "10K<n<100K", 1_000_000: "100K<n<1M"}
    size = next((name for limit, name in sizes.items() if edits < limit), "n>1M")
    # JSON is YAML too, and quotes whatever a title may hold
    pretty = json.dumps("".join(c if c.isprintable() else " " for c in printable(title))[:200], ensure_ascii=False)
    tags = ["video", "video-to-video", "video-editing", "cogvideox"]
    lines = [f"pretty_name: {pretty}", "task_categories:", "- video-to-video", "size_categories:", f"- {size}", "tags:"]
    lines += [f"- {tag}" for tag in tags] + ["configs:", "- config_name: default", "  data_files:"]
    for split, paths in files.items():
        lines += [f"  - split: {split}", "    path:", *(f"    - {path}" for path in paths)]
    return "\n".join(["---", *lines, "---"])


def _chosen(tally: Tally) -> str:
    """How edits were chosen, where some are left out."""
    if tally.yielded.edits == tally.yielded.kept:
        return ""
    counts = [{"because": reason, "edits": count} for reason, count in tally.out_because.most_common(SHOWN_REASONS)]
    text = f"\n## How edits were chosen\n\n{two_columns('Recipe', 'Yield', tally.by_recipe())}"
    text += f"\n{markdown_table(counts, ['because', 'edits'])}" if counts else ""
    return text + "\nAll edits, these included, are in `tables/edits.parquet` of the run; `kept` says which are here.\n"


def _spreads(spreads: Sequence[Spread]) -> str:
    """How the scores of all edits are spread."""
    names = ("score", "5 %", "median", "95 %", "from 5 % to 95 %")
    found = [
        dict(zip(names, (name, *(f"{value:.3g}" for value in three), bars), strict=True))
        for name, *three, bars in spreads
    ]
    return f"\n## Scores of all edits\n\n{markdown_table(found, names)}" if found else ""


def two_columns(left: str, right: str, pairs: Iterable[tuple[str, object]]) -> str:
    """A markdown table of pairs, with these headings."""
    table = markdown_table([{"left": key, "right": value} for key, value in pairs], ["left", "right"])
    return table.replace("| left | right |", f"| {left} | {right} |", 1)


def _card_failures(failures: Sequence[Row], failed: int) -> str:
    if not failures:
        return ""
    hidden = failed - SHOWN_FAILURES
    more = f"\n{hidden:,} more are in `tables/errors.parquet`.\n" if hidden > 0 else ""
    table = markdown_table(failures[:SHOWN_FAILURES], ["clip", "stage", "error", "message"])
    return f"\n## Not edited\n\n{table}{more}"
