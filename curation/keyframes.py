"""Key frames: a few small pictures of each clip, kept in a work area as Parquet so that measures on content never open the medium again.

They ride beside the records, never in them: one file a partition, `keyframe_part` of a clip names it.
"""

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from manifests.files import write_atomic

MAX_JPEG_BYTES = 4 << 20
"""Largest key frame that is decoded. Ours are some 50 kB; more is not one of ours."""

MAX_PIXELS = 1 << 22
"""Largest key frame that is decoded, in pixels: 2048 x 2048, far above the 512 px long side that the analysis writes."""

_ROWS_PER_GROUP = 64  # about 3 MB: what one read of a few clips costs at least

Picture = npt.NDArray[np.uint8]
"""RGB, [height, width, 3]."""

SCHEMA = pa.schema(
    [
        pa.field("clip_id", pa.string(), False),
        pa.field("index", pa.int32(), False),
        pa.field("pts_us", pa.int64(), False),
        pa.field("width", pa.int32(), False),
        pa.field("height", pa.int32(), False),
        pa.field("jpeg", pa.binary(), False),
    ]
)


class KeyFrameError(ValueError):
    """A key frame, or a file of them, is not what was written: names the subject, what was expected and what was found."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyFrame:
    """One small picture of a clip: its place among the clip's key frames, its presentation time, its size in px, its JPEG bytes."""

    clip_id: str
    index: int
    pts_us: int
    width: int
    height: int
    jpeg: bytes


def write_keyframes(path: str | Path, frames: Iterable[KeyFrame]) -> Path:
    """The key frames stand in the Parquet file `path`, sorted by clip and index, whole or not at all (temporary name, fsync, rename)."""
    path = Path(path)
    rows = sorted(frames, key=lambda f: (f.clip_id, f.index))
    columns = [pa.array([getattr(f, name) for f in rows], SCHEMA.field(name).type) for name in SCHEMA.names]
    sink = pa.BufferOutputStream()
    # JPEG does not compress further; without compression a read is a copy.
    pq.write_table(pa.Table.from_arrays(columns, schema=SCHEMA), sink, compression="none", row_group_size=_ROWS_PER_GROUP)
    write_atomic(path, sink.getvalue())
    return path


def read_keyframes(path: str | Path, clip_ids: Sequence[str] | None = None) -> dict[str, list[KeyFrame]]:
    """The key frames of the clips, in order of index; a clip without any has an empty list. Without `clip_ids`, all clips of the file.

    Raises FileNotFoundError where there is no file and KeyFrameError where the file does not hold key frames.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"key frames: expected a Parquet file at {path}, found none")
    keep: Any = None if clip_ids is None else [("clip_id", "in", list(clip_ids) or [""])]
    try:
        table = pq.read_table(path, columns=SCHEMA.names, filters=keep, partitioning=None).cast(SCHEMA)
    except (pa.ArrowException, ValueError, OSError) as e:
        raise KeyFrameError(f"key frames {path}: expected the columns {', '.join(SCHEMA.names)}, found {e}") from e
    found: dict[str, list[KeyFrame]] = {clip_id: [] for clip_id in clip_ids or ()}
    for row in table.to_pylist():
        found.setdefault(row["clip_id"], []).append(KeyFrame(**row))
    for frames in found.values():
        frames.sort(key=lambda f: f.index)
    return found


def decode_jpeg(jpeg: bytes, max_pixels: int = MAX_PIXELS) -> Picture:
    """The picture as RGB uint8 [height, width, 3]. Raises KeyFrameError when it is too large, not a JPEG, or cut short."""
    from PIL import Image

    if len(jpeg) > MAX_JPEG_BYTES:
        raise KeyFrameError(f"key frame: expected at most {MAX_JPEG_BYTES} bytes, found {len(jpeg)}")
    try:
        with Image.open(io.BytesIO(jpeg), formats=("JPEG",)) as image:
            # The header alone is read here, so a small file that claims a huge picture costs nothing.
            if image.width * image.height > max_pixels:
                raise KeyFrameError(f"key frame: expected at most {max_pixels} pixels, found {image.width} x {image.height}")
            return np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as e:
        if isinstance(e, KeyFrameError):
            raise
        raise KeyFrameError(f"key frame: expected a complete JPEG, found {len(jpeg)} bytes that do not decode ({e})") from e


def decode_all(clip_id: str, frames: Sequence[KeyFrame]) -> list[Picture]:
    """The pictures of a clip's key frames, at least one. Raises KeyFrameError naming clip and frame: none there, or one does not decode."""
    if not frames:
        raise KeyFrameError(f"clip {clip_id}: expected at least one key frame, found none")
    pictures = []
    for frame in frames:
        try:
            pictures.append(decode_jpeg(frame.jpeg))
        except KeyFrameError as e:
            raise KeyFrameError(f"clip {clip_id}, key frame {frame.index}: {e}") from e
    return pictures


def encode_jpeg(rgb: Picture, quality: int = 90) -> bytes:
    """The picture, RGB uint8 [height, width, 3], as JPEG bytes; the inverse of `decode_jpeg` up to JPEG loss."""
    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(rgb).save(out, "JPEG", quality=quality)
    return out.getvalue()
