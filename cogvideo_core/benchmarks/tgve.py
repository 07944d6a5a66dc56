"""LOVEU-TGVE 2023: 76 clips with four prompts each.

Read as published (github.com/showlab/loveu-tgve-2023, scripts/create_configs.py): `LOVEU-TGVE-2023_Dataset.csv`, whose
rows stand below "DAVIS Videos:", "Youtube Videos:" and "Videvo Videos:", or a YAML file for each clip; clips in
`DAVIS_480p/480p_frames/<name>/` or `DAVIS_480p/480p_videos/<name>.mp4`. Laid out as its scripts/run_eval.py reads it:
`DAVIS_480p/<name>/<style|object|background|multiple>/00000.jpg`.
"""

from __future__ import annotations

from pathlib import Path

from cogvideo_core.benchmarks.cases import Benchmark, Case, Column, Form, csv_rows
from cogvideo_core.benchmarks.reading import Entry, entries, text_file, yaml_file
from cogvideo_core.errors import BadManifest

CSV = "LOVEU-TGVE-2023_Dataset.csv"
GROUPS = ("DAVIS_480p", "youtube_480p", "videvo_480p")
TYPES = {
    "style": "Style Change Caption",
    "object": "Object Change Caption",
    "background": "Background Change Caption",
    "multiple": "Multiple Changes Caption",
}
DATA = ("", "loveu-tgve-2023", "data/loveu-tgve-2023")  # where the unpacked data may lie


def read(folder: Path, prompts: str) -> list[Case]:
    """Raises BadManifest."""
    base = next((folder / part for part in DATA if (folder / part / CSV).is_file()), None)
    if base is not None:
        return _of_csv(base)
    files = sorted(path for group in GROUPS for path in folder.rglob(f"{group}/*.yaml"))
    if not files:
        raise BadManifest(f"folder {str(folder)!r} holds neither {CSV} nor <group>/<clip>.yaml; give TGVE's folder")
    return [case for file in files for case in _of_yaml(folder, file)]


def _of_csv(base: Path) -> list[Case]:
    cases, group = list[Case](), ""
    for number, row in enumerate(csv_rows(text_file(base, CSV)), 1):
        name = row.get("Video name", "").strip()
        if name.endswith(":"):
            group = f"{name.split()[0].lower()}_480p".replace("davis", "DAVIS")
        elif name:
            entry = Entry(str(base / CSV), f"row {number}", row)
            if group not in GROUPS:
                raise entry.refused("Video name", "it stands below none of TGVE's three headings", "restore the file")
            captions = {kind: row.get(column, "") for kind, column in TYPES.items()}
            cases += _cases(base, entry._replace(fields=captions | {"name": name}), group, entry.text("Our GT caption"))
    return cases


def _of_yaml(folder: Path, file: Path) -> list[Case]:
    found = yaml_file(folder, str(file.relative_to(folder)))
    (entry,) = entries(file, [found], "document")
    train, validation = ({**(entry.fields.get(part) or {})} for part in ("train_data", "validation_data"))
    prompts = validation.get("prompts")
    if not isinstance(prompts, dict) or not set(prompts) & set(TYPES):
        problem = f"it does not name prompts for {', '.join(TYPES)}"
        raise entry.refused("validation_data.prompts", problem, "give the benchmark's own files")
    source = entry._replace(fields=train).text("prompt")
    base = next((folder / part for part in DATA if (folder / part / file.parent.name).is_dir()), folder)
    return _cases(base, entry._replace(fields=prompts | {"name": file.stem}), file.parent.name, source)


def _cases(base: Path, entry: Entry, group: str, source: str) -> list[Case]:
    """A clip's cases; the entry's fields are its name and the prompts of its types."""
    name = entry.name("name")
    clip = entry.clip(base, (f"{group}/480p_frames/{name}", f"{group}/480p_videos/{name}.mp4"), "name")
    wanted = [kind for kind in TYPES if kind in entry.fields]
    return [
        Case(f"{group}/{name}/{kind}", clip, source, entry.text(kind), kind, f"{group}/{name}/{kind}")
        for kind in wanted
    ]


TGVE = Benchmark(
    "tgve",
    "LOVEU-TGVE 2023",
    "76 clips of 32 or 128 frames, 480x480, four prompts each",
    "clips: Creative Commons, as the repository says; no licence file",
    read,
    Form("jpg"),
    (
        Column("clip_f"),
        Column("clip_t"),
        Column("pick_score"),
    ),
)
