"""A long clip from its file to the latents of its windows, and to its source video as the model sees it.

Each scene goes through the VAE as one sequence; windows are slices of its latents. So what two windows share is equal,
and only the first window of a scene begins with a latent frame of one frame.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from safetensors.torch import save_file
from torch import Tensor

from cogvideo_core.media import film, video
from cogvideo_core.media.window import Place, Taken, taken_window
from cogvideo_core.settings.specs import DatasetSpec, fingerprint
from cogvideo_core.stages.units import frames_spec, latents_spec, part_of, shape_of, source_spec
from cogvideo_core.stages.whole import Whole
from cogvideo_core.stages.work import Record, Work
from cogvideo_core.storage.ledger import Commit


def source_of(work: Work, clip: Record, whole: Whole, content: str) -> Record:
    """What determines the source video: that of a first window as long as the clip."""
    dataset = _of_length(work.dataset, whole.frames)
    return source_spec(frames_spec(dataset, work.model, content, 0, part_of(clip)), work.output)


def latents_of(work: Work, clip: Record, whole: Whole, content: str) -> list[Record]:
    """What determines the latents of each window; a scene of one window has those of any such clip."""
    found = []
    for scene, layout in zip(whole.scenes, whole.layouts, strict=True):
        start_s = whole.start_s(scene.begin)
        number = None if scene.begin else 0
        frames = frames_spec(
            _of_length(work.dataset, scene.covered), work.model, content, number, part_of(clip), start_s
        )
        one = latents_spec(frames, work.model)
        found += [one] if len(layout) == 1 else [one | {"slice": [place, layout.span]} for place in layout.places]
    return found


def _of_length(dataset: DatasetSpec, frames: int) -> DatasetSpec:
    return dataset.model_copy(update={"frames": frames})


def known(work: Work, clip: Record, whole: Whole, content: str) -> tuple[list[str], Commit] | None:
    """The windows' latents keys and the source, or None where one of them is missing."""
    source = work.find("sources", fingerprint(source_of(work, clip, whole, content)))
    keys = [fingerprint(spec) for spec in latents_of(work, clip, whole, content)]
    return (keys, source) if source and all(work.find("latents", key) for key in keys) else None


def encode_whole(work: Work, clip: Record, whole: Whole, path: Path, content: str) -> tuple[list[str], Commit]:
    """Decodes the clip, and commits the latents of its windows and its source video where they are not committed."""
    if units := known(work, clip, whole, content):
        return units
    damaged = list[int]()
    found = video.probe(path, clip["clip"], video.Limits.of(work.dataset))
    frames = film.on_disk(_parts(work, clip, whole, path, damaged))
    specs = latents_of(work, clip, whole, content)
    keys = [fingerprint(spec) for spec in specs]
    _commit_latents(work, whole, frames, dict(zip(keys, specs, strict=True)))
    shape = shape_of(work.dataset, work.model)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "source.mp4"
        has_audio = found.has_audio and work.output.audio == "copy"
        audio = (path, found, video.Window(0, whole.begin_s, whole.frames)) if has_audio else None
        video.encode(frames, file, shape.fps, work.output.crf, audio)
        record: Record = {"frames": whole.frames, "height": shape.height, "width": shape.width, "fps": shape.fps}
        record |= {"has_audio": has_audio, "probe": found.as_json(), "damaged_frames": sum(damaged)}
        spec = source_of(work, clip, whole, content)
        return keys, work.ledger.commit("sources", fingerprint(spec), {file.name: file}, spec, record)


def _parts(work: Work, clip: Record, whole: Whole, path: Path, damaged: list[int]) -> Iterator[np.ndarray]:
    """The clip's frames, some at a time; `damaged` gets how many of them are. Raises what `taken_window` does."""
    shape = shape_of(work.dataset, work.model)
    view = video.View(shape.height, shape.width, shape.fps, work.dataset.fit)
    for begin in range(0, whole.frames, film.AT_ONCE):
        place = Place(None, part_of(clip), whole.start_s(begin))
        count = min(film.AT_ONCE, whole.frames - begin)
        taken: Taken = taken_window(path, clip["clip"], work.dataset, place, view, count)
        damaged.append(taken.damaged)
        yield taken.frames


def _commit_latents(work: Work, whole: Whole, frames: np.ndarray, specs: dict[str, Record]) -> None:
    """One unit for each window, by key, scene after scene."""
    keys = iter(specs)
    for number, (scene, layout) in enumerate(zip(whole.scenes, whole.layouts, strict=True)):
        own = [next(keys) for _ in layout.places]
        if all(work.find("latents", key) for key in own):
            continue
        part = frames[scene.begin : scene.begin + scene.covered]
        encode = work.model.encode if len(layout) == 1 else work.model.encode_sequence
        latents = encode(np.array(part) if len(layout) == 1 else part)
        begins = [window.begin for window in whole.windows if window.scene == number]
        for window, key in enumerate(own):
            image = {"image": work.model.encode_image(frames[begins[window]])} if work.model.image_to_video else {}
            _commit(work, key, specs[key], {"latents": layout.of(latents, window)} | image)


def _commit(work: Work, key: str, spec: Record, tensors: dict[str, Tensor]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "latents.safetensors"
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, file)
        work.ledger.commit("latents", key, {file.name: file}, spec, {})
