"""Technical quality of a clip: brightness, contrast and sharpness from small luma, colourfulness from its key frames."""

from typing import Any

import cv2
import numpy as np

BLACK, WHITE = 16, 235
"""Luma levels of black and white in the small frames (limited range)."""


def measure_luma(frames: list[np.ndarray]) -> dict[str, Any]:
    """Brightness 0 … 1, contrast 0 … 0.5, sharpness (variance of the Laplacian, levels squared): means over small luma [h, w]."""
    if not frames:
        return dict.fromkeys(("brightness", "contrast", "sharpness"))
    scale = WHITE - BLACK
    mean, deviation = np.mean([_mean_and_deviation(f) for f in frames], axis=0)
    sharpness = np.mean([_mean_and_deviation(cv2.Laplacian(f, cv2.CV_16S))[1] ** 2 for f in frames])
    brightness = min(1.0, max(0.0, (float(mean) - BLACK) / scale))
    return {"brightness": brightness, "contrast": min(0.5, float(deviation) / scale), "sharpness": float(sharpness)}


def colourfulness(rgb: np.ndarray) -> float:
    """Colourfulness of an RGB uint8 picture (Hasler and Suesstrunk 2003): 0 grey, 15 slight, 59 quite, 109 extreme."""
    small = cv2.resize(rgb, (160, 160), interpolation=cv2.INTER_AREA).astype(np.float32)
    r, g, b = small[..., 0], small[..., 1], small[..., 2]
    red_green, yellow_blue = r - g, (r + g) / 2 - b
    spread = float(np.hypot(red_green.std(), yellow_blue.std()))
    return spread + 0.3 * float(np.hypot(red_green.mean(), yellow_blue.mean()))


def _mean_and_deviation(picture: np.ndarray) -> tuple[float, float]:
    """Ten times cheaper on small pictures than numpy's, and this runs four times a second of video."""
    mean, deviation = cv2.meanStdDev(picture)
    return float(mean[0, 0]), float(deviation[0, 0])
