"""What is stored under a key: specification, files, whether their checksums hold, and how it looks."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import numpy as np
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from cogvideo_core.errors import BadSpec
from cogvideo_core.storage.bits import FILE, read_mask
from cogvideo_core.storage.keys import STAGES, Stage, is_key
from cogvideo_core.storage.ledger import Commit, Ledger
from cogvideo_core.storage.trajectories import open_trajectory


def find_units(target: str, root: str) -> list[tuple[Ledger, Commit]]:
    """Units named by their folder (`ROOT/STAGE/k2/KEY`), their key, or the beginning of it (4 characters or more)."""
    parts = target.rstrip("/").split("/")
    stages, wanted = STAGES, target.strip("/").lower()
    if len(parts) >= 3 and is_key(parts[-1]):
        root = "/".join(parts[:-3]) or ("/" if target.startswith("/") else ".")
        stages, wanted = (parts[-3],), parts[-1]
    if len(wanted) < 4:
        return []
    ledger = Ledger(root)
    chosen = [stage for stage in get_args(Stage) if stage in stages]
    return [(ledger, commit) for stage in chosen for commit in ledger.units(stage, wanted)]


def describe(ledger: Ledger, commit: Commit) -> tuple[str, bool]:
    """(text, whether every byte is what was committed). Reads all files; changes nothing."""
    problems = ledger.check(commit, "full")
    lines = [f"{commit.stage} {commit.key}", "files:"]
    for name, stored in commit.files.items():
        state = problems.get(name, "ok")
        lines.append(f"  {name}  {stored.size:,} bytes  sha256 {stored.sha256[:16]}  {state}")
    record = {k: v for k, v in commit.record.items() if k != "steps"}
    if "steps" in commit.record:
        record["levels"] = len(commit.record["steps"])
    lines += ["record:", _indented(record), "specification:", _indented(commit.spec)]
    return "\n".join(lines), not problems


def save_strip(ledger: Ledger, commit: Commit, model_path: str, target: Path, shown: int = 6) -> Path:
    """Writes a PNG of frames side by side: those of a mask or of decoded latents in order of time; of a trajectory the
    middle frame of levels from clean to noise. Raises BadSpec for a unit that holds none of them, or where a model is
    needed and `model_path` is empty."""
    frames = _shown(ledger, commit, model_path, shown)
    picked = [frames[index] for index in _spread(range(len(frames)), shown)]
    target.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.concatenate(picked, axis=1)).save(target, format="PNG", optimize=True)
    return target


def _shown(ledger: Ledger, commit: Commit, model_path: str, shown: int) -> np.ndarray:
    """Frames uint8 [F,H,W,3]."""
    if FILE in commit.files:
        return np.repeat(read_mask(ledger, commit)[..., None], 3, -1).astype(np.uint8) * 255
    if commit.stage not in ("latents", "trajectories") or not commit.files:
        unit = f"{commit.stage} {commit.key}"
        raise BadSpec(f"{unit}: holds no latents; a strip can be had of latents, masks and trajectories")
    if not model_path:
        raise BadSpec(f"{commit.stage} {commit.key}: its frames are to be decoded; name the model with --model")
    from cogvideo_core.models.model import load
    from cogvideo_core.settings.specs import ModelSpec

    model = load(ModelSpec(path=model_path))
    if commit.stage == "trajectories":
        trajectory = open_trajectory(ledger, commit)
        clips = [model.decode(trajectory.read(level)) for level in _spread(trajectory.levels, shown)]
        return np.stack([clip[len(clip) // 2] for clip in clips])
    found = _latents(ledger, commit)
    if found is None:
        raise BadSpec(f"latents {commit.key}: holds a first frame alone; a strip can be had of the clip's latents")
    return model.decode(found)


def _spread(values: Sequence[int], count: int) -> list[int]:
    """At most `count` of the values, evenly, first and last among them."""
    return [values[index] for index in np.unique(np.linspace(0, len(values) - 1, count).round().astype(int))]


def _latents(ledger: Ledger, commit: Commit) -> Tensor | None:
    with tempfile.TemporaryDirectory() as folder:
        return load_file(ledger.fetch(commit, "latents.safetensors", Path(folder))).get("latents")


def _indented(value: object) -> str:
    text = json.dumps(value, indent=2, ensure_ascii=True, default=str)
    return "\n".join("  " + line for line in text.splitlines())
