"""Text in pictures, with a network written by hand that takes bright pixels for text."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from bright_network import bright_is_text

from cogvideo_core.errors import ModelError
from cogvideo_core.media import text


def test_the_share_is_the_mean_over_the_frames(tmp_path: Path) -> None:
    """A quarter white, and half white: three eighths; black has none."""
    seen = text.TextDetector(str(bright_is_text(tmp_path / "net.onnx")))
    frames = np.zeros((2, text.HEIGHT, text.WIDTH, 3), np.uint8)
    frames[0, : text.HEIGHT // 4] = 255
    frames[1, :, : text.WIDTH // 2] = 255
    assert seen.share(frames) == 0.375 and seen.share(frames[:1, text.HEIGHT // 2 :]) == 0


@pytest.mark.parametrize("kind", ["missing", "text", "not a detector"])
def test_what_is_no_detector_is_one_sentence(tmp_path: Path, kind: str, capfd: pytest.CaptureFixture[str]) -> None:
    """Which names the setting, before a clip is opened or at the first picture."""
    path = tmp_path / "net.onnx"
    if kind == "text":
        path.write_text("no network")
    elif kind == "not a detector":
        bright_is_text(path, outputs=2)
    with pytest.raises(ModelError, match=r"^field screen\.text_model: .*net\.onnx.*; give "):
        text.TextDetector(str(path)).share(np.zeros((1, text.HEIGHT, text.WIDTH, 3), np.uint8))
    capfd.readouterr()  # OpenCV says more
