"""The judge's settings: what is measured on an edit, and what an edit must reach to be kept."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from cogvideo_core.settings.fingerprints import Spec
from cogvideo_core.settings.recipes import filled

POLICIES: dict[str, dict[str, Any]] = {"balanced": {"least_text_choice": 0.5}, "strict": {"least_text_choice": 0.8}}
MEASURED = ("text", "contrasts", "structure", "motion", "frames", "vlm", "vlm_model", "vlm_questions")


def words_of(contrast: str) -> list[str]:
    """The words of "red / green / blue". Raises ValueError unless there are several, all of them different."""
    words = [word.strip() for word in contrast.split("/")]
    if not 2 <= len(words) <= 64 or not all(words) or len(set(words)) < len(words):
        raise ValueError(f"{contrast[:80]!r} is no contrast; write distinct words with / between them")
    return words


class JudgeSpec(Spec):
    """How edits are judged: which scores are measured, and which edits are kept."""

    text: str = Field(
        "auto",
        title="Text judge",
        description="Folder or hub id of a CLIP, SigLIP or X-CLIP model that compares edits with their prompts. auto: "
        "the one that comes along, with the shapes model; none with others. none: edits stay unjudged.",
    )
    structure: str = Field(
        "", title="Structure judge", description="Folder or hub id of a DINOv2 model. Empty: structure is not compared."
    )
    lpips: str = Field(
        "",
        title="LPIPS",
        description="Folder with an LPIPS network as model.safetensors (docs/metrics.md): edits with a mask are "
        "compared with their source by it, inside and outside. Empty: they are not.",
    )
    contrasts: list[str] = Field(
        [],
        title="Contrasts",
        description="Words that exclude each other, as red / green / blue: the text judge is asked whether an edit "
        "shows the one that its prompt names. The shapes judge brings its own.",
        max_length=64,
    )
    motion: bool = Field(
        True, title="Motion", description="Compare the optical flow of edit and source, beside the judges above."
    )
    vlm: str = Field(
        "",
        title="Question judge",
        description="Address of an OpenAI-compatible endpoint, http://host:8000/v1, whose model is asked about the "
        "stills. Its key is read from COGVIDEO_EDIT_VLM_KEY. Empty: nobody is asked.",
        pattern=r"^$|^https?://[^\s@?#]+$",
    )
    vlm_model: str = Field("", title="Question model", description="The model's name at that endpoint.")
    vlm_questions: list[str] = Field(
        ["Does the video show this: {target_prompt}?"],
        title="Questions",
        description="Each is answered with yes or no; {target_prompt} and {source_prompt} are filled in.",
        max_length=16,
    )
    vlm_timeout_s: float = Field(60, title="Question time-out", gt=0, le=3600, description="Seconds for one answer.")
    frames: int = Field(9, title="Stills", ge=1, le=81, description="Of each clip that the models look at.")
    preset: Literal["balanced", "strict", "off"] = Field(
        "balanced",
        title="Strictness",
        description="Gives the limits below that are left at their defaults its own values. off: nothing is rejected.",
    )
    least_confidence: float = Field(
        0.0,
        title="Least confidence",
        ge=0,
        le=1,
        description="Probability of being good, by the calibration. 0: the calibration's own limit for the preset.",
    )
    least_text_choice: float = Field(
        0.0, title="Least text choice", ge=0, le=1, description="Probability of target over source prompt. 0: any."
    )
    least_text_contrast: float = Field(
        0.0,
        title="Least text contrast",
        ge=0,
        le=1,
        description="Of each named word of a contrast. 0: any.",
    )
    least_text_similarity: float = Field(
        -1.0, title="Least text similarity", ge=-1, le=1, description="Cosine of edit and target prompt. -1: any."
    )
    least_text_gain: float = Field(
        -2.0, title="Least text gain", ge=-2, le=2, description="Nearer to target than to source prompt. -2: any."
    )
    least_text_direction: float = Field(
        -1.0, title="Least text direction", ge=-1, le=1, description="Change of picture along that of prompt. -1: any."
    )
    least_vlm_yes: float = Field(
        0.0, title="Least yes", ge=0, le=1, description="Mean probability of yes to the questions. 0: any."
    )
    least_vlm_choice: float = Field(
        0.0, title="Least choice", ge=0, le=1, description="Probability of target over source prompt, as asked. 0: any."
    )
    least_structure: float = Field(
        -1.0, title="Least structure", ge=-1, le=1, description="Cosine of patch features with the source. -1: any."
    )
    least_motion_agreement: float = Field(
        0.0, title="Least motion agreement", ge=0, le=1, description="Share of the source's motion. 0: any."
    )
    least_preserved: float = Field(
        0.0, title="Least preserved", ge=0, le=1, description="Share of the pixels that stayed in place. 0: any."
    )
    least_sharpness: float = Field(
        0.0, title="Least sharpness", ge=0, le=2, description="Of the source's, in the preserved region. 0: any."
    )
    most_colour_shift: float = Field(
        0.0, title="Most colour shift", ge=0, description="Mean CIEDE2000 of the preserved region. 0: any."
    )
    most_flicker: float = Field(
        0.0, title="Most flicker", ge=0, description="Levels of 255 that the source does not show. 0: any."
    )
    calibration: str = Field(
        "auto",
        title="Calibration",
        description="JSON file that `cogvideo-edit calibrate` has written. auto: the root's own, else the one that "
        "comes along with the text judge.",
    )
    keep: Literal["passed", "best", "all"] = Field(
        "passed",
        title="Keep",
        description="What reaches dataset/. passed: all but rejected edits. best: of the edits of one clip and prompt "
        "the best that was not rejected. all: rejected ones as well.",
    )
    weight_text: float = Field(
        2.0, title="Weight of text", ge=0, le=100, description="In the rank of an edit where no calibration gives one."
    )
    weight_preserved: float = Field(
        1.0, title="Weight of the preserved", ge=0, le=100, description="The same, of what should have stayed."
    )
    weight_motion: float = Field(1.0, title="Weight of motion", ge=0, le=100, description="The same, of motion.")
    early_stop: Literal["off", "measure", "on"] = Field(
        "off",
        title="Early stop",
        description="on: edits that the calibration says will fail are given up. measure: their clean estimates are "
        "scored, for `cogvideo-edit calibrate`, and none is given up.",
    )
    early_steps: list[float] = Field(
        [0.4, 0.7],
        title="Early looks",
        min_length=1,
        max_length=8,
        description="After which shares of the steps the clean estimates are judged. on: those that the calibration "
        "knows.",
    )
    early_latents: int = Field(
        3, title="Early frames", ge=1, le=64, description="Latent frames of an estimate that are decoded for that."
    )

    @field_validator("contrasts")
    @classmethod
    def _of_several(cls, given: list[str]) -> list[str]:
        for line in given:
            words_of(line)
        return given

    @field_validator("early_steps")
    @classmethod
    def _shares(cls, given: list[float]) -> list[float]:
        if sorted(set(given)) != given or not all(0 < share < 1 for share in given):
            raise ValueError("early_steps must ascend between 0 and 1")
        return given

    @model_validator(mode="before")
    @classmethod
    def _of_preset(cls, given: Any) -> Any:
        preset = given.get("preset", "balanced") if isinstance(given, dict) else None
        if not isinstance(preset, str) or preset not in POLICIES:
            return given
        return filled(given, POLICIES[preset], {name: field.default for name, field in cls.model_fields.items()})

    @property
    def scoring(self) -> JudgeSpec:
        """The settings with limits at their defaults: those that scores depend on."""
        return JudgeSpec(**{name: getattr(self, name) for name in MEASURED})

    @property
    def measures(self) -> bool:
        """Whether anything is measured; motion is measured beside other judges alone."""
        return self.text not in ("", "none") or self.structure not in ("", "none") or bool(self.vlm)

    @classmethod
    def none(cls) -> JudgeSpec:
        """Nothing is measured and nothing rejected."""
        return cls(text="none", preset="off")

    def resolved(self, model_path: str) -> JudgeSpec:
        """`auto` of the text judge made plain for the model that edits. A preset asks for a text judge: without one its
        limits are off."""
        text = ("shapes" if model_path == "shapes" else "none") if self.text == "auto" else self.text or "none"
        changed: dict[str, Any] = {"text": text}
        if text == "none":
            changed |= {"preset": "off", "early_stop": "off"} | dict.fromkeys(POLICIES.get(self.preset, {}), 0.0)
        return self.model_copy(update=changed)
