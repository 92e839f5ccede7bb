"""Encoding in a process of its own, which may use so much time, memory and disk: all that opens an asset runs there, FFmpeg's program too."""

import shutil
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from curation.encode import FOLDER, MOST_RUNS, EncodeConfig, EncodedClip, encode_clip
from curation.ffmpeg_program import EncodeError
from curation.isolate import Sandbox
from curation.media import MediaConfig, MediaError
from curation.quarantine import LOSSES
from manifests.records import Asset, Clip

MAX_WRITTEN_BYTES = 8 << 30
"""Largest file that FFmpeg may write for one clip: hours of what a set may hold. A disk is not filled by one that was led astray."""

_GRACE_S = 30.0
"""For a child to start and to answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoding:
    """What became of a clip: it, or the code and detail of the error."""

    clip: EncodedClip | None = None
    error_code: str | None = None
    error_detail: str | None = None


Shape = tuple[int, int, int, int, int]
"""Width, height, frames, and the rate's numerator and denominator."""

Asked = tuple[str, Clip, Asset, Shape, EncodeConfig, tuple[int, int], MediaConfig]
"""What `try_encode` is asked: file, clip, asset, shape, settings, span in us, limits."""


def encode_in(box: Sandbox, *asked: *Asked) -> EncodedClip:
    """As `encode_clip`, but all that opens the asset, FFmpeg's program included, runs in the sandbox's child.

    Raises EncodeError, and MediaError where a process was lost, or would have been.
    """
    made, clip = box.call(try_encode, *asked), asked[1]
    if made.clip is None:
        raise EncodeError(made.error_code or "crashed", made.error_detail or f"clip {clip.clip_id}: expected a reason, found none")
    return made.clip


def encode_sandbox(cfg: EncodeConfig, media: MediaConfig) -> Sandbox:
    """The sandbox to encode in: time for the three runs of FFmpeg that a clip may take, the memory of a scan, and files of a clip's size.

    What killed processes left in the folder for temporary files is gone.
    """
    timeout_s = MOST_RUNS * cfg.timeout_s + _GRACE_S
    for left in Path(tempfile.gettempdir()).glob(f"{FOLDER}*"):
        # Older than any encoding may last. A folder may be another user's, or go away by itself.
        with suppress(OSError):
            if time.time() - left.stat().st_mtime > 2 * timeout_s:
                shutil.rmtree(left, ignore_errors=True)
    return Sandbox(timeout_s, media.memory_bytes, MAX_WRITTEN_BYTES)


def try_encode(
    src_path: str,
    clip: Clip,
    asset: Asset,
    shape: Shape,
    cfg: EncodeConfig,
    span_us: tuple[int, int],
    media: MediaConfig,
) -> Encoding:
    """What `encode_clip` makes, or its error, as a value that crosses a pipe. Raises MediaError for time or memory that ran out."""
    try:
        return Encoding(clip=encode_clip(src_path, clip, asset, *shape, cfg, span_us, media))
    except EncodeError as e:
        if e.code in LOSSES:
            raise MediaError(e.code, e.detail) from e
        return Encoding(error_code=e.code, error_detail=e.detail)
