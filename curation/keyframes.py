"""Key frames: small pictures of an asset, kept in a work area as Parquet so that measures on content never open the medium again.

They ride beside the records, never in them: one file an asset, `keyframe_part` of its clips names it. A clip's key frames are those whose
presentation time lies inside it, so clips may be cut anew without any picture being taken again.
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

from manifests.records import Clip

MAX_JPEG_BYTES = 4 << 20
"""Largest key frame that is decoded. Ours are some 50 kB; more is not one of ours."""

MAX_PIXELS = 1 << 22
"""Largest key frame that is decoded, in pixels: 2048 x 2048, far above the 512 px long side that the analysis writes."""

Picture = npt.NDArray[np.uint8]
"""RGB, [height, width, 3]."""

SCHEMA = pa.schema(
    [
        pa.field("asset_id", pa.string(), False),
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
    """One small picture of an asset: its place among the asset's key frames, its presentation time, its size in px, its JPEG bytes."""

    asset_id: str
    index: int
    pts_us: int
    width: int
    height: int
    jpeg: bytes


def to_table(frames: Iterable[KeyFrame]) -> pa.Table:
    """The key frames as rows of SCHEMA, sorted by asset and index."""
    rows = sorted(frames, key=lambda f: (f.asset_id, f.index))
    columns = [pa.array([getattr(f, name) for f in rows], SCHEMA.field(name).type) for name in SCHEMA.names]
    return pa.Table.from_arrays(columns, schema=SCHEMA)


def read_keyframes(path: str | Path, start_us: int | None = None, end_us: int | None = None) -> list[KeyFrame]:
    """The key frames in the file, in order of time; only those in [start_us, end_us) where a span is given.

    Raises FileNotFoundError where there is no file and KeyFrameError where the file does not hold key frames.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"key frames: expected a Parquet file at {path}, found none")
    span: Any = None if start_us is None or end_us is None else [("pts_us", ">=", start_us), ("pts_us", "<", end_us)]
    try:
        table = pq.read_table(path, columns=SCHEMA.names, filters=span, partitioning=None).cast(SCHEMA)
    except (pa.ArrowException, ValueError, OSError) as e:
        raise KeyFrameError(f"key frames {path}: expected the columns {', '.join(SCHEMA.names)}, found {e}") from e
    return sorted((KeyFrame(**row) for row in table.to_pylist()), key=lambda f: (f.asset_id, f.pts_us))


def of_clip(frames: Sequence[KeyFrame], clip: Clip) -> list[KeyFrame]:
    """The asset's key frames that lie inside the clip; a picture's one frame belongs to the picture."""
    if clip.kind == "image":
        return list(frames)
    return [f for f in frames if clip.start_us <= f.pts_us < clip.end_us]


def spread(frames: Sequence[KeyFrame], n: int) -> list[KeyFrame]:
    """At most n of the frames, spread evenly over their time: those nearest to 1/2n, 3/2n … of the way from the first to the last."""
    if len(frames) <= n:
        return list(frames)
    first, last = frames[0].pts_us, frames[-1].pts_us
    wanted = [first + (last - first) * (2 * i + 1) // (2 * n) for i in range(n)]
    chosen = sorted({min(range(len(frames)), key=lambda k: abs(frames[k].pts_us - t)) for t in wanted})
    return [frames[i] for i in chosen]


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
    return encode_bgr(np.ascontiguousarray(rgb[..., ::-1]), quality)


def encode_bgr(bgr: Picture, quality: int) -> bytes:
    """As `encode_jpeg`, from OpenCV's order of channels: half the time of Pillow for frames that come in any order we ask for."""
    import cv2

    done, data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not done:
        raise KeyFrameError(f"key frame: expected a picture that can be coded, found {bgr.shape}")
    return bytes(data)
