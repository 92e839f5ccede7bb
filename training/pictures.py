"""Originals beside what the model makes of them, for the eye: a loss that falls is not yet a picture.

RUN/pictures/step-00000400.png      rows of frames; of sound, spectrograms, with the sounds as FLAC beside it
RUN/pictures/shown.json             the clips whose pictures or sounds these are, for a takedown
"""

import io
import json
from collections.abc import Collection
from pathlib import Path

import numpy as np
from torch import Tensor

from manifests.files import write_atomic
from training.folder import has_run

MAX_FRAMES = 8
_GAP_PX = 2
PICTURES, _SHOWN, _OURS = "pictures", "shown.json", "step-*"


def note_shown(out: Path, clip_ids: Collection[str]) -> None:
    """The run in `out` says that its pictures show these clips, and those that it said before. A run that has pictures of before it could
    say so goes on saying nothing, which stands for all."""
    path = out / PICTURES / _SHOWN
    known = _shown(path)
    if known is None and next(path.parent.glob(_OURS), None) is not None:
        return
    if not (known or set()) >= set(clip_ids) or known is None:
        write_atomic(path, json.dumps(sorted((known or set()) | set(clip_ids))).encode())


def forget_pictures(out: Path, clip_ids: Collection[str]) -> int:
    """No picture or sound of these clips is left in the run; how many files went. A sheet shows several clips, so all of the run's go; those
    of a run that does not say whom they show go too, as unknown is no."""
    known, folder = _shown(out / PICTURES / _SHOWN), out / PICTURES
    if not has_run(out) or (known is not None and not known & set(clip_ids)):
        return 0  # where a run once was there may be somebody's own pictures now
    files = [path for path in sorted(folder.glob(_OURS)) if path.is_file()]
    for path in [*files, folder / _SHOWN]:
        path.unlink(missing_ok=True)
    return len(files)


def _shown(path: Path) -> set[str] | None:
    return set(json.loads(path.read_bytes())) if path.exists() else None


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
