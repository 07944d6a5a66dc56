"""Keys of the work: each stage's unit is named by the hash of everything that determines its bytes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from cogvideo_core.diffusion import auto_masks
from cogvideo_core.diffusion.editing import first_step, levels_read
from cogvideo_core.diffusion.masks import held_steps
from cogvideo_core.inputs.masks import AUTO
from cogvideo_core.media.video import Part
from cogvideo_core.models.configuration import Configured
from cogvideo_core.models.model import VideoModel, VideoShape
from cogvideo_core.settings.mask_specs import MaskSpec
from cogvideo_core.settings.recipes import FIRST
from cogvideo_core.settings.specs import DatasetSpec, InversionSpec, OutputSpec, RecipeSpec, fingerprint
from cogvideo_core.stages.wishes import Asked as Asked
from cogvideo_core.stages.wishes import Prompt, asked_of, recipe_of, recipes_of

FORMAT = 1  # raised when the meaning of stored bytes changes
INVERTER_FIELDS: dict[str, set[str]] = {
    "multistep": {"iterations", "first_iterations", "gate", "gate_threshold_db"},
    "fixed_point": {"iterations", "gate", "gate_threshold_db"},
    "ddim": {"gate", "gate_threshold_db"},
    "none": set(),
}


class Readers(NamedTuple):
    """What decides, besides the recipe, which levels of a trajectory edits read: overrides of the recipe, and their
    mask's settings, None without one, and whether it is to be found."""

    overrides: Iterable[str] | None = None
    mask: MaskSpec | None = None
    auto: bool = False


ANYONE = Readers()
NOT_STEERING = ("name", "seeds", "strengths", "recipes", "ladder", "most_candidates")  # fields of a recipe


class Edit(Asked):
    """One planned edit of a clip."""

    edit_key: str
    own: str  # the user's own columns as JSON


def shape_of(dataset: DatasetSpec, model: Configured) -> VideoShape:
    """The model's own frames and size, unless the dataset asks for others."""
    own = model.shape
    return VideoShape(dataset.frames or own.frames, dataset.height or own.height, dataset.width or own.width, own.fps)


def part_of(clip: Mapping[str, Any]) -> Part:
    """The part of a clip that its row names; plans of earlier versions name none."""
    return Part(clip.get("start_s") or 0.0, clip.get("end_s") or 0.0)


def frames_spec(
    dataset: DatasetSpec,
    model: VideoModel,
    content: str,
    window: int | None,
    part: Part | None = None,
    start_s: float | None = None,
) -> dict[str, Any]:
    """What determines the frames. `content` is the file's sha256; window 0 of "all" is that of "first". A window that
    cuts have moved has no number, and is known by its start."""
    shape = shape_of(dataset, model)
    # named only where they are given, or a switch is off
    given: dict[str, Any] = {"part": list(part)} if part and any(part) else {}
    switches = {"deinterlace": dataset.deinterlace, "tone_map": dataset.tone_map}
    return (
        given
        | {name: value for name, value in switches.items() if value != "auto"}
        | {
            "format": FORMAT,
            "content": content,
            "window": {"start_s": start_s} if window is None else "middle" if dataset.window == "middle" else window,
            "fit": dataset.fit,
            "shape": [shape.frames, shape.height, shape.width, shape.fps],
        }
    )


def source_spec(frames: dict[str, Any], output: OutputSpec) -> dict[str, Any]:
    """What determines the source as the model saw it, as a video."""
    return frames | {"video": [output.crf, output.audio]}


def latents_spec(frames: dict[str, Any], model: VideoModel) -> dict[str, Any]:
    """What determines the latents; how the frames are written as a video does not."""
    # named only where a model has them: all others share a VAE's latents
    own = {"front_padding": model.front_padding, "image": model.image_to_video}
    return frames | _vae_spec(model) | {name: value for name, value in own.items() if value}


def first_frame_spec(dataset: DatasetSpec, model: VideoModel, content: str) -> dict[str, Any]:
    """What determines the image latents of an edited first frame. `content` is the file's sha256."""
    shape = shape_of(dataset, model)
    picture = {"format": FORMAT, "first_frame": content, "fit": dataset.fit, "shape": [shape.height, shape.width]}
    return picture | _vae_spec(model)


def _vae_spec(model: VideoModel) -> dict[str, Any]:
    vae = {"vae": model.fingerprints.get("vae", ""), "vae_dtype": model.spec.vae_dtype}
    return vae | {"tiling": model.spec.vae_tiling == "on"}


def levels_kept(
    inversion: InversionSpec, recipe: RecipeSpec, layer_count: int, by: Readers = ANYONE
) -> list[int] | None:
    """The levels of a clip's trajectory that are stored, ascending; None for all."""
    if inversion.method == "none" or inversion.save_steps == "all":
        return None
    return levels_wanted(inversion, recipe, layer_count, by)


def levels_wanted(inversion: InversionSpec, recipe: RecipeSpec, layer_count: int, by: Readers = ANYONE) -> list[int]:
    """The levels of a trajectory that any candidate of these edits reads, ascending."""
    steps, found = inversion.steps, set[int]()
    for each in recipes_of(recipe, by.overrides):
        held = held_by(by.mask, each, steps) if by.mask else range(0)
        found |= {*levels_read(each, steps, layer_count, held)}
    return sorted(found | {*(auto_masks.levels(steps) if by.mask and by.auto else ())})


def held_by(mask: MaskSpec, recipe: RecipeSpec, steps: int) -> range:
    """The steps after which a mask puts back what is outside of it."""
    return held_steps(mask.start, mask.end, steps, range(first_step(recipe, steps), steps)) if mask.holds else range(0)


def trajectory_spec(
    latents_key: str, inversion: InversionSpec, model: VideoModel, prompt: str, levels: list[int] | None = None
) -> dict[str, Any]:
    """Leaves out settings that the inverter does not use; the gate's count, for they may cause another inversion.

    Container and codec give back the same states bit for bit, and the gate's floor is checked against stored scores:
    they are not part of the key, so that changing them reuses what is stored. The kept `levels` are part of it:
    another window may need others.
    """
    unused = {"container", "codec", "gate_floor_db"} | (
        set.union(*INVERTER_FIELDS.values()) - INVERTER_FIELDS[inversion.method]
    )
    unused |= {"gate", "gate_threshold_db"} if inversion.gate == "off" else set()
    settings = {k: v for k, v in inversion.as_json().items() if k not in unused}
    weights = {"weights": model.spec.weights, "text_weights": model.spec.text_weights}
    parts = ["transformer", "text_encoder", "scheduler", *(["lora"] if "lora" in model.fingerprints else [])]
    return {
        "format": FORMAT,
        "latents": latents_key,
        "inversion": settings | {"prompt": prompt, "save_steps": "all" if levels is None else levels},
        "model": {part: model.fingerprints.get(part, "") for part in parts},
        "tokenizer": model.fingerprints.get("tokenizer", ""),
        "dtype": model.spec.dtype,
    } | {name: how for name, how in weights.items() if how != "stored"}


def edit_spec(
    trajectory_key: str,
    recipe: RecipeSpec,
    output: OutputSpec,
    source_prompt: str,
    asked: Asked,
    brought: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The recipe's name, its lists of seeds and strengths and its rivals don't change an edit; the source prompt only
    does where it is used. `brought` is what the row brings besides its prompts, of which there may be nothing."""
    # sampler and cache are named where they are not as in the first version
    steering = {k: v for k, v in recipe.as_json().items() if k not in NOT_STEERING and FIRST.get(k) != v}
    # named only where an edit has them
    own = dict(brought or {}) | ({"strength": asked["strength"]} if asked["strength"] != 1 else {})
    return {
        "format": FORMAT,
        "trajectory": trajectory_key,
        "recipe": steering,
        "reference_prompt": source_prompt if recipe.reference_prompt == "source" else "",
        "target_prompt": asked["target_prompt"],
        "seed": asked["seed"],
        "video": [output.crf, output.audio],
    } | own


def brought_by(record: Mapping[str, Any], mask: MaskSpec) -> dict[str, Any]:
    """What a row's edits have of their own: the sha256 of an edited first frame, the mask, and the windows that they
    are made of together. Only what there is.

    A mask that is found depends on all prompts of its row, which it is found with.
    """
    first_frame, key = record["first_frame"], record.get("mask_key", "")
    found: dict[str, Any] = {"first_frame": first_frame} if first_frame else {}
    found |= {"whole": record["joint"]} if record.get("joint") else {}
    if key:
        prompts = [record["source_prompt"], *dict.fromkeys(record["target_prompts"])]
        found["mask"] = {"mask": key, **mask.steering(auto=key == AUTO)}
        found["mask"] |= {"prompts": prompts, "version": auto_masks.VERSION} if key == AUTO else {}
    return found


def inversion_prompt(inversion: InversionSpec, source_prompt: str) -> str:
    return source_prompt if inversion.prompt == "source" else ""


def planned_edits(
    trajectory_key: str,
    recipe: RecipeSpec,
    output: OutputSpec,
    source_prompt: str,
    prompts: Sequence[Prompt],
    brought: Mapping[str, Any] | None = None,
    rung: int = 0,
) -> list[Edit]:
    """All edits of a clip on a rung of the ladder, in their planned order: prompts, then recipes, seeds, strengths."""
    recipes, found = dict[tuple[str, str, str], RecipeSpec](), list[Edit]()
    for asked, own in asked_of(recipe, prompts, rung):
        kind = asked["recipe"], asked["negative_prompt"], asked.get("own_recipe", "")
        recipes[kind] = recipes.get(kind) or recipe_of(recipe, asked)
        spec = edit_spec(trajectory_key, recipes[kind], output, source_prompt, asked, brought)
        found.append(Edit(**asked, edit_key=fingerprint(spec), own=own))
    return found


def pending_batches(edits: Sequence[Edit], batch_of: Mapping[str, Sequence[str]], size: int) -> list[list[Edit]]:
    """The edits of one recipe that are still to be computed, in batches of at most `size`.

    `batch_of` gives, for each committed edit, the keys of the batch it was computed in. A committed edit is computed
    again only together with a missing one of its own batch: so an interrupted batch is redone whole, with equal bytes,
    while prompts that were added later cost only themselves. The batch stays the same if `size`, which may depend on
    the machine's memory, has grown since; if it has shrunk, the batch is cut, and its complete parts stay.
    """
    by_key = {edit["edit_key"]: edit for edit in edits}
    lost = by_key.keys() - batch_of.keys()
    missing, batches = set(lost), []
    # the smallest first: after a split for lack of memory, an edit's own part is recorded beside the whole
    for keys in sorted(dict.fromkeys(map(tuple, batch_of.values())), key=len):
        if missing.intersection(keys):
            batches.append([by_key[key] for key in keys if key in by_key])
            missing -= set(keys)
    batches.append([edit for edit in edits if edit["edit_key"] in missing])
    parts = [batch[start : start + size] for batch in batches for start in range(0, len(batch), size)]
    return [part for part in parts if any(edit["edit_key"] in lost for edit in part)]
