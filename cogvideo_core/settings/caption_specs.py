"""Settings of what is asked about clips before a run: captions, target prompts and instructions."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import Field, field_validator

from cogvideo_core.settings.fingerprints import Spec

CAPTION_PLACEHOLDERS = ("language",)
INSTRUCTION_PLACEHOLDERS = ("source_prompt", "count", "edit_types", "language")
PLACEHOLDER = re.compile(r"\{(\w+)\}")  # JSON in a template is none
CAPTION = (
    "Describe this video in one sentence of at most 40 words, in {language}: what is seen, where it is, and how it "
    "moves. Answer with the sentence alone."
)
INSTRUCTION = (
    "The video is described as: {source_prompt}\n"
    "Think of {count} different edits of it that keep its motion and composition. Kinds of edits: {edit_types}. For "
    "each write, in {language}, a description of the whole edited video, worded as above except for what the edit "
    "changes, and a short instruction that asks for the edit."
)


def _known_placeholders(text: str, known: tuple[str, ...]) -> str:
    unknown = [name for name in PLACEHOLDER.findall(text) if name not in known]
    if unknown:
        names = ", ".join(f"{{{name}}}" for name in known)
        raise ValueError(f"{{{unknown[0]}}} is no placeholder; there are {names}")
    return text


class EndpointSpec(Spec):
    """A chat model and how it is asked."""

    url: str = Field(
        "",
        title="Endpoint",
        description="Address of an OpenAI-compatible endpoint, http://host:8000/v1. Empty: nobody is asked.",
        pattern=r"^$|^https?://[^\s@?#]+$",
    )
    model: str = Field("", title="Model", max_length=200, description="The model's name at that endpoint.")
    frames: int = Field(4, title="Stills", ge=1, le=32, description="Frames of the window that the model sees.")
    language: str = Field(
        "English", title="Language", min_length=1, max_length=60, description="Of the answer; fills in {language}."
    )
    temperature: float = Field(0.0, title="Temperature", ge=-1, le=2, description="-1: the endpoint's own.")
    seed: int = Field(0, title="Seed", ge=-1, le=2**31 - 1, description="-1: none is sent.")
    max_tokens: int = Field(
        300, title="Most tokens", ge=0, le=16_384, description="Of an answer. 0: the endpoint's own."
    )
    timeout_s: float = Field(
        120, title="Time-out", gt=0, le=3600, description="Seconds for one answer, and for a wait that it asks for."
    )


class CaptionSpec(EndpointSpec):
    """How clips without a source prompt get one."""

    url: str = Field(
        "",
        title="Endpoint",
        description="Address of an OpenAI-compatible endpoint, http://host:8000/v1, whose model describes clips "
        "without a source prompt. Its key is read from COGVIDEO_EDIT_CAPTIONS_KEY. Empty: they stay without.",
        pattern=r"^$|^https?://[^\s@?#]+$",
    )
    template: str = Field(
        CAPTION,
        title="Question",
        min_length=1,
        max_length=8_000,
        description="What is asked about the stills; {language} is filled in.",
    )
    parallel: int = Field(8, title="Clips at a time", ge=1, le=64, description="Of which answers are waited for.")

    @field_validator("template")
    @classmethod
    def _placeholders(cls, given: str) -> str:
        return _known_placeholders(given, CAPTION_PLACEHOLDERS)


class InstructionSpec(EndpointSpec):
    """How clips get target prompts and instructions."""

    by: Literal["endpoint", "template", "none"] = Field(
        "endpoint",
        title="Written by",
        description="endpoint: its model writes target prompts with instructions. template: nobody is asked; the "
        "instructions of the rows' own target prompts follow from the words that change. none: captions alone.",
    )
    url: str = Field(
        "",
        title="Endpoint",
        description="As captions.url, with the key in COGVIDEO_EDIT_INSTRUCTIONS_KEY. Empty: that of the captions, "
        "with its key, and its model where none is named here.",
        pattern=r"^$|^https?://[^\s@?#]+$",
    )
    frames: int = Field(
        4, title="Stills", ge=0, le=32, description="Frames of the window that the model sees. 0: words alone."
    )
    temperature: float = Field(0.7, title="Temperature", ge=-1, le=2, description="-1: the endpoint's own.")
    max_tokens: int = Field(
        2_000, title="Most tokens", ge=0, le=16_384, description="Of an answer. 0: the endpoint's own."
    )
    count: int = Field(
        4, title="Target prompts", ge=1, le=64, description="Of each clip, those that its row has counted."
    )
    edit_types: list[str] = Field(
        ["object", "colour", "material", "background", "weather", "time of day", "style"],
        title="Kinds of edits",
        min_length=1,
        max_length=64,
        description="Fill in {edit_types}.",
    )
    template: str = Field(
        INSTRUCTION,
        title="Question",
        min_length=1,
        max_length=8_000,
        description="What is asked; {source_prompt}, {count}, {edit_types} and {language} are filled in. The form of "
        "the answer, JSON, is asked for in a sentence of its own.",
    )
    similarity: float = Field(
        0.75,
        title="Most similarity",
        ge=0.1,
        le=1,
        description="Of two target prompts of a clip: the share of the words that both add to the source prompt among "
        "those that either adds. From this share on the later one is dropped. 1: only where all are the same.",
    )

    @field_validator("template")
    @classmethod
    def _placeholders(cls, given: str) -> str:
        return _known_placeholders(given, INSTRUCTION_PLACEHOLDERS)
