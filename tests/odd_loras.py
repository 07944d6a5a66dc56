"""Odd LoRA files."""

from __future__ import annotations

from pathlib import Path

from odd_cases import Case

from cogvideo_core.shapes.build import MAX_TEXT_TOKENS


def wordless(folder: Path) -> None:
    """A tokenizer of other words than English ones."""
    from transformers import T5Tokenizer

    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    words = [(f"▁{word}", -1.0) for word in ("кот", "дом", "лес")]
    T5Tokenizer(vocab=special + words, extra_ids=0, model_max_length=MAX_TEXT_TOKENS).save_pretrained(
        folder / "tokenizer"
    )


def cases() -> list[Case]:
    return []
