"""Tiny clips whose truth is known, drawn by numpy and written by PyAV."""

import io
import os
import tarfile
from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from manifests.records import Asset

MEDIA = Path(os.environ.get("DAILIES_TEST_MEDIA", Path(__file__).resolve().parents[2] / "shared" / "media"))
"""Real test media; tests that need them skip where they are absent."""


def asset_for(path: Path) -> Asset:
    """An asset as ingest would give it, for the file."""
    return Asset(asset_id="a" * 32, asset_sha256=b"", asset_md5=b"", size_bytes=path.stat().st_size, uri=str(path))


def scene(seed: int, width: int = 320, height: int = 192) -> np.ndarray:
    """A picture of coloured blobs, RGB uint8 [height, width, 3]; different seeds look different."""
    rng = np.random.Generator(np.random.Philox(key=seed))
    coarse = rng.integers(0, 256, (height // 16 + 3, width // 16 + 3, 3)).astype(np.float32)
    rows, columns = np.arange(height) / 16, np.arange(width) / 16
    r, c = rows.astype(int), columns.astype(int)
    fr, fc = (rows - r)[:, None, None], (columns - c)[None, :, None]
    top = coarse[r][:, c] * (1 - fc) + coarse[r][:, c + 1] * fc
    bottom = coarse[r + 1][:, c] * (1 - fc) + coarse[r + 1][:, c + 1] * fc
    return (top * (1 - fr) + bottom * fr).astype(np.uint8)


def pan(seed: int, n_frames: int, dx: float = 1.0, dy: float = 0.0, width: int = 320, height: int = 192) -> list[np.ndarray]:
    """Frames of a camera that moves dx px a frame to the right and dy down over one large scene."""
    reach_x, reach_y = int(abs(dx) * n_frames) + 1, int(abs(dy) * n_frames) + 1
    wide = scene(seed, width + reach_x, height + reach_y)
    frames = []
    for i in range(n_frames):
        x = int(dx * i) if dx >= 0 else reach_x + int(dx * i)
        y = int(dy * i) if dy >= 0 else reach_y + int(dy * i)
        frames.append(np.ascontiguousarray(wide[y : y + height, x : x + width]))
    return frames


def still(seed: int, n_frames: int, width: int = 320, height: int = 192) -> list[np.ndarray]:
    """The same picture n_frames times."""
    return [scene(seed, width, height)] * n_frames


def write_video(
    path: Path,
    frames: Iterable[np.ndarray],
    *,
    fps: int = 24,
    times_ms: Sequence[int] | None = None,
    codec: str = "libx264",
    rotation: int = 0,
    sound_s: float = 0.0,
    options: dict[str, str] | None = None,
) -> Path:
    """The frames as a video, at a constant rate or at the given times; `rotation` is the clockwise turn asked of the player, `options` are the
    encoder's where they are not those of a quick libx264."""
    with av.open(str(path), "w") as container:
        stream = None
        tone = container.add_stream("aac", rate=48000) if sound_s else None
        for i, frame in enumerate(frames):
            if stream is None:
                stream = container.add_stream(codec, rate=fps)
                stream.height, stream.width = frame.shape[:2]
                stream.pix_fmt = "yuv420p"
                stream.options = options or ({"preset": "ultrafast", "crf": "18"} if codec == "libx264" else {})
                stream.codec_context.time_base = Fraction(1, 1000) if times_ms else Fraction(1, fps)
                if rotation:
                    stream.set_display_rotation(-rotation)
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            picture.pts = times_ms[i] if times_ms else i
            picture.time_base = stream.codec_context.time_base
            container.mux(stream.encode(picture))
        if stream is not None:
            container.mux(stream.encode(None))
        if tone is not None:
            _write_tone(container, tone, sound_s)
    return path


def _write_tone(container: av.container.OutputContainer, stream: av.AudioStream, seconds: float) -> None:
    at = np.arange(round(seconds * 48000)) / 48000
    samples = (0.25 * np.sin(2 * np.pi * 440 * at)).astype(np.float32)
    for start in range(0, len(samples) - 1024, 1024):
        frame = av.AudioFrame.from_ndarray(samples[None, start : start + 1024], format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 48000, start
        container.mux(stream.encode(frame))
    container.mux(stream.encode(None))


def write_wav(path: Path, samples: np.ndarray, rate_hz: int = 16000) -> Path:
    """The mono samples, float32 in -1 … 1, as a 16-bit WAV file."""
    import wave

    with wave.open(str(path), "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(rate_hz)
        out.writeframes((np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes())
    return path


def tar_of(path: Path, *members: tuple[str, bytes]) -> Path:
    """The tar, of members with these names and bytes, however odd."""
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path
