"""Originals beside what the model makes of them, for the eye: a loss that falls is not yet a picture."""

import io
from pathlib import Path

import numpy as np
from torch import Tensor

from manifests.files import write_atomic

MAX_FRAMES = 8
_GAP_PX = 2


def write_pictures(path: Path, originals: list[Tensor], made: list[Tensor]) -> None:
    """A PNG: for each clip a row of up to 8 evenly spaced frames and, below it, the same frames of the reconstruction.

    Clips are (3, T, H, W) in [-1, 1], all of the same height and width.
    """
    from PIL import Image

    rows = [_row(clip) for pair in zip(originals, made, strict=True) for clip in pair]
    width = max(row.shape[1] for row in rows)
    sheet = np.concatenate([np.pad(r, ((0, _GAP_PX), (0, width - r.shape[1]), (0, 0)), constant_values=255) for r in rows])
    sink = io.BytesIO()
    Image.fromarray(sheet).save(sink, "PNG")
    write_atomic(path, sink.getvalue())


def _row(clip: Tensor) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    count = min(MAX_FRAMES, clip.shape[1])
    chosen = [round(i * (clip.shape[1] - 1) / max(1, count - 1)) for i in range(count)]
    pixels = ((clip[:, chosen].float() + 1) * 127.5).round().clamp(0, 255).byte().permute(1, 2, 3, 0).cpu().numpy()
    return np.concatenate([np.pad(p, ((0, 0), (0, _GAP_PX), (0, 0)), constant_values=255) for p in pixels], axis=1)
