"""Sounds whose truth is known, and what an observer makes of them."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import av
import numpy as np

from curation.audio import SoundObserver
from curation.sound import Sound
from curation.soundtrack import RATE_HZ, Soundtrack, SoundtrackWriter
from curation.tracks import Track
from manifests.records import Clip

MONO, STEREO = ("FC",), ("FL", "FR")


def tone(hz: float, seconds: float, rate_hz: int = 48000, amplitude: float = 0.5) -> np.ndarray:
    """A sine, float32 [n]."""
    return (amplitude * np.sin(2 * np.pi * hz * np.arange(round(seconds * rate_hz)) / rate_hz)).astype(np.float32)


def noise(seed: int, seconds: float, rate_hz: int = 48000, amplitude: float = 0.1) -> np.ndarray:
    """White noise, float32 [n]."""
    rng = np.random.Generator(np.random.Philox(key=seed))
    return (amplitude * rng.standard_normal(round(seconds * rate_hz))).astype(np.float32)


def mono(samples: np.ndarray, rate_hz: int = 48000, start_us: int = 0) -> Sound:
    """One piece of one channel."""
    return Sound(samples=samples[None], rate_hz=rate_hz, start_us=start_us, channels=MONO)


def heard(pieces: Iterable[Sound]) -> Track:
    """The track "sound" of the pieces."""
    observer = SoundObserver("a")
    for piece in pieces:
        observer.push(piece)
    return observer.finish()[0]


def sound_clip(start_us: int, end_us: int, kind: str = "audio", asset_id: str = "a") -> Clip:
    """A clip of the span."""
    return Clip(clip_id=f"{start_us}", asset_id=asset_id, kind=kind, start_us=start_us, end_us=end_us)


def copy_of(samples: np.ndarray, start_us: int = 0, asset_id: str = "a", rate_hz: int = RATE_HZ) -> list[Soundtrack]:
    """The sound copy of mono samples."""
    writer = SoundtrackWriter(asset_id)
    writer.push(samples, rate_hz, start_us)
    writer.finish()
    return writer.rows


def write_sound(
    path: Path, channels: Sequence[np.ndarray], rate_hz: int, codec: str, layout: str, frames: Sequence[np.ndarray] = (), step: int = 1024
) -> Path:
    """The channels, float32 [n] each, as a file of one sound stream; with frames (RGB, 24 a second) a video whose pictures come first."""
    with av.open(str(path), "w") as container:
        video = container.add_stream("mpeg4", rate=24) if len(frames) else None
        sound = container.add_stream(codec, rate=rate_hz, layout=layout)
        if video is not None:
            video.height, video.width = frames[0].shape[:2]
            video.pix_fmt = "yuv420p"
            for i, picture in enumerate(frames):
                shown = av.VideoFrame.from_ndarray(picture, format="rgb24")
                shown.pts = i
                container.mux(video.encode(shown))
            container.mux(video.encode(None))
        samples = np.stack(channels)
        for at in range(0, samples.shape[1], step):
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples[:, at : at + step]), format="fltp", layout=layout)
            frame.sample_rate, frame.pts = rate_hz, at
            container.mux(sound.encode(frame))
        container.mux(sound.encode(None))
    return path
