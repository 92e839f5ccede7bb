"""From a sample's bytes to sound: exact windows of 48 kHz mono, by the container's time.

Sample number k of a clip is what is heard at t_0 + k / 48000, t_0 the presentation time of a video's first picture, or of the first sound
where there is no picture. So a window of sound and the pictures shown in it are in sync whatever the two streams' own beginnings are.
What lies between two packets that do not join is silence, as a player would have it.
"""

from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training import keyed
from training.data.decode import MAX_SECONDS_AHEAD, Pixels, _open, decode_video
from training.data.index import SOUND_FRAMES_PER_S, Sample
from training.errors import SampleError, SilentError

RATE_HZ = 48_000
"""Of all sound in a dataset."""

HOP = RATE_HZ // SOUND_FRAMES_PER_S
"""Samples of a latent frame of the codec: 1920."""

SILENT = 1e-4
"""A drawn window whose largest sample is below this (-80 dBFS) teaches nothing."""

QUIET_RMS, TRIES = 3e-3, 7
"""A held-out window below this level (-50 dBFS) is passed over for the loudest of so many drawn ones: beside near silence any error of a codec is
infinitely loud, and one such window outweighs all others in a mean of decibels."""

Samples = NDArray[np.float32]
"""Mono samples in [-1, 1], (N,)."""

Key = tuple[object, ...]

_DEMUXERS = {"video": "mp4", "audio": "flac"}


def decode_sound(data: bytes, where: str, demuxer: str, start: Fraction, n_samples: int) -> Samples:
    """`n_samples` from `start` samples after t_0 on, the mean over channels; SampleError where the stream has none of them."""
    import av

    end = start + n_samples
    if start < 0 or end > MAX_SECONDS_AHEAD * RATE_HZ:
        raise SampleError(where, "decode", f"sound within {MAX_SECONDS_AHEAD} s", f"{float(end) / RATE_HZ:g} s")
    window, heard = np.zeros(n_samples, np.float32), 0
    with _open(data, where, demuxer) as container:
        if not container.streams.audio:
            raise SampleError(where, "decode", "a sound stream", "none")
        stream, offset = container.streams.audio[0], _first_picture_s(container, where)
        resampler = av.AudioResampler(format="fltp", rate=RATE_HZ)
        try:
            for frame in container.decode(stream):
                offset = _start_s(frame) if offset is None else offset
                if (_start_s(frame) - offset) * RATE_HZ >= end:
                    break
                for piece in resampler.resample(frame):
                    heard += _put(piece, round((_start_s(piece) - offset) * RATE_HZ - start), window)
        except (av.FFmpegError, ValueError) as error:
            raise SampleError(where, "decode", "decodable sound", str(error)) from error
    if not heard:
        raise SampleError(where, "decode", f"sound from {float(start) / RATE_HZ:g} s on", "none")
    return window


def load_sound(data: bytes, sample: Sample, sound_frames: int, key: Key | None) -> dict[str, NDArray[Any]]:
    """`sound`, the samples (N,) of a window drawn by the key, or of the first one; `seen`, 1 where there are pictures beside it.

    A video's window begins with one of its pictures. SilentError where a drawn window is silent.
    """
    where = _where(sample)
    _, start = _window(sample, sound_frames, key)
    sound = decode_sound(data, where, _DEMUXERS[sample.kind], start, sound_frames * HOP)
    if key and float(np.abs(sound).max()) < SILENT:
        raise SilentError(where, "decode", "a window with sound", "silence")
    return {"sound": sound, "seen": np.array([sample.kind == "video"], np.uint8)}


def measured_key(data: bytes, sample: Sample, sound_frames: int) -> Key | None:
    """The key of the window that a held-out sample is measured in: None, the first one, if anything is heard there, or that of the loudest of a
    few drawn for the sample."""

    def rms(key: Key | None) -> float:
        sound = decode_sound(data, _where(sample), _DEMUXERS[sample.kind], _window(sample, sound_frames, key)[1], sound_frames * HOP)
        return float(np.sqrt(np.square(sound, dtype=np.float64).mean()))

    if (first := rms(None)) >= QUIET_RMS:
        return None
    level, _, key = max((rms(k), -i, k) for i, k in enumerate(("validate/v1", sample.clip_id, i) for i in range(TRIES)))
    return key if level > first else None


def load_shown(data: bytes, sample: Sample, sound_frames: int, n_frames: int, size_px: int, key: Key | None) -> list[Pixels]:
    """The `n_frames` pictures (size_px, size_px, 3) shown in the window of `load_sound`, evenly spaced: the k-th at k / n_frames of it.
    Black ones of a sound without pictures."""
    if sample.kind != "video" or not n_frames:
        return [np.zeros((size_px, size_px, 3), np.uint8)] * n_frames
    first, _ = _window(sample, sound_frames, key)
    fps = _fps(sample)
    every = Fraction(sound_frames, SOUND_FRAMES_PER_S) * fps / n_frames
    return [_centre(frame, size_px) for frame in decode_video(data, _where(sample), first, n_frames, fps, size_px, every)]


def _window(sample: Sample, sound_frames: int, key: Key | None) -> tuple[int, Fraction]:
    """(first picture, first sample) of the window; the picture counts for videos only, whose sample need not be a whole number."""
    free_s = Fraction(sample.sound_us or 0, 1_000_000) - Fraction(sound_frames, SOUND_FRAMES_PER_S)
    if not key:
        return 0, Fraction(0)
    steps = max(0, int(free_s * (_fps(sample) if sample.kind == "video" else RATE_HZ)))
    first = keyed.integer(0, steps + 1, *key, "window")
    return first, first * RATE_HZ / _fps(sample) if sample.kind == "video" else Fraction(first)


def _fps(sample: Sample) -> Fraction:
    if not sample.fps_num or not sample.fps_den:
        raise SampleError(_where(sample), "decode", "a frame rate in the manifest", "none")
    return Fraction(sample.fps_num, sample.fps_den)


def _where(sample: Sample) -> str:
    return f"{sample.shard_path} clip {sample.clip_id}"


def _put(piece: Any, at: int, window: Samples) -> int:
    """The piece's samples are in the window, where they belong in it; returns how many do."""
    values = piece.to_ndarray().mean(0)
    low, high = max(0, -at), min(len(values), len(window) - at)
    if low >= high:
        return 0
    window[at + low : at + high] = values[low:high]
    return high - low


def _first_picture_s(container: Any, where: str) -> Fraction | None:
    """When the first picture is shown; None without pictures. The container stands at its beginning again."""
    import av

    if not container.streams.video:
        return None
    stream = container.streams.video[0]
    try:
        times = [p.pts for p in container.demux(stream) if p.pts is not None and not p.is_discard]
        container.seek(0)
    except (av.FFmpegError, ValueError) as error:
        raise SampleError(where, "read", "pictures in the container", str(error)) from error
    return min(times) * Fraction(stream.time_base) if times else None


def _start_s(frame: Any) -> Fraction:
    return Fraction(frame.pts or 0) * Fraction(frame.time_base)


def _centre(frame: Pixels, side: int) -> Pixels:
    y, x = (frame.shape[0] - side) // 2, (frame.shape[1] - side) // 2
    return frame[y : y + side, x : x + side]
