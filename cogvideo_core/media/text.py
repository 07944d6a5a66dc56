"""How much of a picture is text, by a text detector whose weights are a file: a network of the kind DBNet, as ONNX."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from threading import Lock

import cv2
import numpy as np

from cogvideo_core.errors import ModelError

HEIGHT, WIDTH = 384, 640  # of what the detector sees; its network halves a side five times
SURE = 0.3  # probability from which a pixel is text: DBNet's own threshold
MAX_BYTES = 200 << 20
_ASKING = Lock()  # a network holds its input


class TextDetector:
    """A detector that OpenCV has read. Raises ModelError for a file that is none."""

    def __init__(self, path: str) -> None:
        self.path = path
        if not Path(path).is_file():
            raise _bad_detector(path, "is no file", "give the path of an ONNX file")
        if Path(path).stat().st_size > MAX_BYTES:
            raise _bad_detector(path, f"has more than {MAX_BYTES >> 20} MiB", "give the small detector of its family")
        try:
            self.net = cv2.dnn.readNetFromONNX(path)
        except cv2.error as error:
            raise _bad_detector(path, "can't be read by OpenCV as a network", "give an ONNX file") from error

    def share(self, frames: np.ndarray) -> float:
        """Of the picture that is text, 0 to 1, mean over frames uint8 [K,384,640,3] RGB. Raises ModelError."""
        maps = [self._map(frame) for frame in frames]
        return round(float(np.mean([(found > SURE).mean() for found in maps])), 4)

    def _map(self, frame: np.ndarray) -> np.ndarray:
        blob = cv2.dnn.blobFromImage(frame, 1 / 127.5, (WIDTH, HEIGHT), (127.5,) * 3, swapRB=True)  # it expects BGR
        try:
            with _ASKING:
                self.net.setInput(blob)
                found = self.net.forward()
        except cv2.error as error:
            raise _not_a_detector(self.path) from error
        if found.ndim != 4 or found.shape[:2] != (1, 1) or not np.isfinite(found).all():
            raise _not_a_detector(self.path)
        return np.asarray(found[0, 0])


@lru_cache(maxsize=2)
def detector(path: str) -> TextDetector:
    """This process's detector. Raises ModelError."""
    return TextDetector(path)


def _not_a_detector(path: str) -> ModelError:
    return _bad_detector(path, "gives no map of probabilities [1,1,h,w] for a picture", "give a text detector (DBNet)")


def _bad_detector(path: str, problem: str, remedy: str) -> ModelError:
    return ModelError(f"field screen.text_model: {path!r} {problem}; {remedy}")
