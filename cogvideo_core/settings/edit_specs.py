"""What steers an edit, as data: how its clip is inverted, and its recipe. Others import both from `specs`."""

from __future__ import annotations

from itertools import product
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field, ValidationError, model_validator

from cogvideo_core.settings.fingerprints import Spec
from cogvideo_core.settings.recipes import Preset, of_first_version, with_preset

Fraction01 = Annotated[float, Field(ge=0, le=1)]
MOST_SEED, LEAST_STRENGTH, MOST_STRENGTH = 2**63 - 1, 0.01, 100


class Variant(NamedTuple):
    """One of the edits that compete for a prompt."""

    recipe: str
    seed: int
    strength: float


class InversionSpec(Spec):
    """How a clip becomes a trajectory, and how that is stored."""

    method: Literal["multistep", "fixed_point", "ddim", "none"] = Field(
        "multistep",
        title="Inverter",
        description="multistep reconstructs at nearly ddim's cost; fixed_point iterates everywhere; ddim does not "
        "reconstruct; none uses the noised source.",
    )
    iterations: int = Field(1, title="Iterations", ge=1, le=100, description="Of multistep and fixed_point, per step.")
    first_iterations: int = Field(
        15, title="First iterations", ge=1, le=200, description="Of multistep, in the first step off the clean clip."
    )
    gate: Literal["quick", "full", "off"] = Field(
        "quick",
        title="Reconstruction gate",
        description="Sample each inversion back before editing: quick from a fifth of the levels (10 at most), full "
        "from the noisiest, or not at all.",
    )
    gate_threshold_db: float = Field(
        6.0,
        title="Gate threshold",
        ge=0,
        le=100,
        description="dB below the VAE's own reconstruction; beyond, the clip is inverted again with more iterations, "
        "then rejected.",
    )
    gate_floor_db: float = Field(
        10.0,
        title="Gate floor",
        ge=0,
        le=100,
        description="dB; a clip of which the VAE alone keeps less is refused: the model or its precision is at fault.",
    )
    steps: int = Field(20, title="Steps", ge=1, le=1000, description="Of inversion and of editing.")
    spacing: Literal["trailing", "linspace", "leading", "cosine"] = Field(
        "trailing",
        title="Timestep spacing",
        description="trailing starts at zero SNR, as CogVideoX was trained; so does cosine, with short steps at both "
        "ends and long ones between.",
    )
    prompt: Literal["source", "empty"] = Field(
        "source", title="Inversion prompt", description="The clip's source prompt, or the empty one."
    )
    dtype: Literal["float16", "bfloat16", "float32"] = Field(
        "float16", title="Stored precision", description="Of the trajectory on disk."
    )
    save_steps: Literal["all", "window"] = Field(
        "all", title="Steps kept", description="window: only those that the recipe reads; another recipe inverts anew."
    )
    container: Literal["arrow", "zarr"] = Field("arrow", title="Container", description="Arrow IPC or Zarr v3 shards.")
    codec: Literal["none", "shuffle-zstd", "xor-shuffle-zstd"] = Field(
        "none",
        title="Codec",
        description="Lossless; xor saves a third of a float16 trajectory's room.",
    )


class RecipeSpec(Spec):
    """Everything that steers an edit."""

    preset: Preset = Field(
        "balanced",
        title="Preset",
        exclude=True,  # the other fields hold its values
        description="Gives the fields below that are left at their defaults its own values: faithful keeps most of the "
        "clip, bold changes most, fast is for large datasets, insert and remove fill a mask anew, seed and text are "
        "for comparison.",
    )
    guidance_scale: float = Field(6.0, title="Guidance scale", ge=0, le=30, description="1 = no guidance.")
    reference_weight: float = Field(0.25, title="Reference weight", ge=0, le=10, description="0 = none, 1 = plain.")
    reference_start: Fraction01 = Field(0.0, title="Reference from", description="Fraction of the steps.")
    reference_end: Fraction01 = Field(1.0, title="Reference until", description="Fraction of the steps.")
    start: Literal["inverted", "noised", "fresh", "mixed"] = Field(
        "inverted",
        title="Start from",
        description="Inverted noise, the noised source, fresh noise (from the first step on), or mixed: fresh details.",
    )
    seeds: list[int] = Field([0], title="Seeds", min_length=1, max_length=64, description="One edit for each.")
    strengths: list[float] = Field(
        [1.0],
        title="Strengths",
        min_length=1,
        max_length=16,
        description="One edit for each; divides the reference weight: 2 dares more, 0.5 keeps more of the source.",
    )
    negative_prompt: str = Field("", title="Negative prompt", description="For the unguided half.")
    recipes: list[Preset] = Field(
        [],
        title="Rivals",
        max_length=8,
        description="Each prompt is edited by each of these presets, from one inversion, with this group's seeds, "
        "strengths and negative prompt. Empty: by this recipe alone.",
    )
    ladder: list[Preset] = Field(
        [],
        title="Retry ladder",
        max_length=8,
        description="Presets that are tried one after the other for a prompt of which the judge rejects every edit.",
    )
    most_candidates: int = Field(
        0, title="Most candidates", ge=0, le=256, description="Edits of a prompt, the ladder's included. 0: any number."
    )
    name: str = Field(
        "balanced", title="Name", description="Shown in tables and file names.", pattern=r"^[A-Za-z0-9_.-]{1,40}$"
    )
    guidance_schedule: Literal["constant", "rising"] = Field(
        "constant", title="Guidance schedule", description="rising goes from 1 to the scale, late."
    )
    guidance_start: Fraction01 = Field(0.0, title="Guidance from", description="Fraction of the steps.")
    guidance_end: Fraction01 = Field(
        0.6, title="Guidance until", description="Fraction of the steps; outside, unguided rows are not computed."
    )
    guidance_rescale: Fraction01 = Field(
        0.0, title="Guidance rescale", description="Draws the contrast back to the unguided one; against saturation."
    )
    guidance_parallel: Fraction01 = Field(
        1.0, title="Parallel guidance", description="1 = plain; 0 = without the part that saturates (APG)."
    )
    reference_prompt: Literal["inversion", "source", "edit", "per_half"] = Field(
        "inversion", title="Reference prompt", description="Which prompt the reference row is given."
    )
    reference_schedule: Literal["constant", "falling"] = Field(
        "constant", title="Reference schedule", description="falling lowers the weight to 0 over the window."
    )
    reference_text: bool = Field(
        True, title="Reference text", description="Whether edits also see the text tokens of the reference row."
    )
    layer_start: Fraction01 = Field(0.34, title="Layers from", description="Fraction of the transformer's depth.")
    layer_end: Fraction01 = Field(1.0, title="Layers until", description="Fraction of the transformer's depth.")
    mix_cutoff: float = Field(
        0.25,
        title="Mix below",
        gt=0,
        le=0.5,
        description="Of start=mixed: cycles a latent cell below which noise is inverted.",
    )
    start_at: Fraction01 = Field(
        0.2, title="Start at", description="Fraction of the steps that are skipped; more stays nearer to the source."
    )
    sampler: Literal["ddim", "multistep2"] = Field(
        "multistep2",
        title="Sampler",
        description="multistep2 corrects each step by the change since the one before: nearer to many steps. The "
        "inversion stays DDIM's.",
    )
    cache: Literal["off", "safe", "bold"] = Field(
        "safe",
        title="Step cache",
        description="After the first steps, only every second (safe) or third (bold) goes through the transformer; the "
        "velocities of the others are extrapolated. off: all steps do.",
    )
    anchor: Literal["none", "previous", "first"] = Field(
        "none",
        title="Anchor",
        description="Of clips edited as one (dataset.window=whole): each window's edit also sees that of the window "
        "before, or of the first one. Doubles the cost.",
    )
    anchor_weight: float = Field(
        0.25, title="Anchor weight", gt=0, le=10, description="As the reference's; 1 = plain concatenation."
    )
    match_statistics: Fraction01 = Field(
        0.0, title="Match statistics until", description="Gives early steps the source's mean and contrast; a fraction."
    )
    colour_transfer: bool = Field(
        False, title="Colour transfer", description="Gives an edit's preserved region the source's mean and contrast."
    )

    @property
    def rungs(self) -> list[list[Variant]]:
        """The candidates of a prompt: those that are always made, then those of each preset of the ladder."""
        first: list[str] = [*self.recipes] or [self.name]
        names = [first] + [[str(name)] for name in self.ladder if name not in first]
        asked = list(product(self.seeds, self.strengths))
        each = [[Variant(name, *one) for name in rung for one in asked] for rung in names]
        left = self.most_candidates or sum(map(len, each))
        found = []
        for rung in each:
            found.append(rung[: max(left, 0)])
            left -= len(rung)
        return [rung for rung in found if rung]

    def candidate(self, name: str) -> RecipeSpec:
        """The recipe of a candidate: this one, or the preset of that name with this one's seeds and negative prompt."""
        if name == self.name:
            return self.model_copy(update={"recipes": [], "ladder": [], "most_candidates": 0})
        # whether they go together is for `_can_be_candidate`; an edit may have a seed or strength of its own
        return RecipeSpec(preset=name).model_copy(update=self._shared)

    @property
    def _shared(self) -> dict[str, Any]:
        return {field: getattr(self, field) for field in ("seeds", "strengths", "negative_prompt")}

    @property
    def candidates(self) -> list[RecipeSpec]:
        """The recipe of each candidate of a prompt, the ladder's included."""
        names = dict.fromkeys(variant.recipe for rung in self.rungs for variant in rung)
        return [self.candidate(name) for name in names]

    @model_validator(mode="before")
    @classmethod
    def _of_preset(cls, given: Any) -> Any:
        defaults = {name: field.default for name, field in cls.model_fields.items()}
        return with_preset(of_first_version(given, defaults), defaults)

    @model_validator(mode="after")
    def _windows(self) -> RecipeSpec:
        skipped = 0.0 if self.start == "fresh" else self.start_at
        used = {"guidance": self.guidance_scale != 1, "reference": self.reference_weight > 0, "layer": False}
        for what, on in used.items():
            start, end = getattr(self, f"{what}_start"), getattr(self, f"{what}_end")
            if start > end:
                raise ValueError(f"{what}_start ({start}) must not be greater than {what}_end ({end})")
            if on and start < end < 1 and end <= skipped:  # the last step is always taken
                does = f"is not after start_at ({skipped}), so that no step would have any {what}"
                raise ValueError(f"{what}_end ({end}) {does}; raise it, or lower start_at")
        if len(set(self.seeds)) != len(self.seeds) or min(self.seeds) < 0 or max(self.seeds) > MOST_SEED:
            raise ValueError("seeds must be distinct and in 0 .. 2**63 - 1")
        if self.start == "inverted" and len(self.seeds) > 1:
            raise ValueError("seeds: an edit that starts from inverted noise draws none; give one, or start=noised")
        if len(set(self.strengths)) != len(self.strengths) or not all(
            LEAST_STRENGTH <= s <= MOST_STRENGTH for s in self.strengths
        ):
            raise ValueError("strengths must be distinct and in 0.01 .. 100")
        if self.strengths != [1.0] and self.reference_weight == 0:
            raise ValueError("strengths divide the reference weight, which is 0; leave them [1]")
        for field in ("recipes", "ladder"):
            names = getattr(self, field)
            if len(set(names)) != len(names):
                raise ValueError(f"{field} must be distinct")
            for name in names:
                self._can_be_candidate(field, name)
        return self

    def _can_be_candidate(self, field: str, name: str) -> None:
        try:
            if name != self.name:
                RecipeSpec(**self._shared | {"preset": name})
        except ValidationError as error:
            why = str(error.errors()[0]["msg"]).removeprefix("Value error, ")
            raise ValueError(f"{field}: {name} can't be edited with these seeds and strengths: {why}") from error
