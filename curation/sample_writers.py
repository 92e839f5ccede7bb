"""Writes the media files of the sample set. Every file appears under its name only when it is whole (written aside, then renamed).

Encoders run on one thread, so that the bytes depend on the library's version and nothing else; files made in parallel instead.
"""

import io
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from curation.pictures import Picture, Scene, keyed, paint
from curation.synthesis import Film, render, ticks, time_base

SAMPLE_RATE_HZ = 48_000
CROP_SHARE = Fraction(1, 20)

Sound = Literal["tones", "bursts", "silence", "quiet"]

_PRESETS: dict[str, dict[str, str]] = {
    "libx264": {"preset": "veryfast"},
    "libx265": {"preset": "superfast", "x265-params": "log-level=error:pools=none:frame-threads=1"},
    "libvpx-vp9": {"deadline": "realtime", "cpu-used": "7", "row-mt": "0"},
    "mpeg4": {"qmin": "4", "qmax": "4"},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Copy:
    """A file with the content of a film. `exact`: its very bytes. `crop`: the middle 95 % each way. `small`: three quarters the size."""

    name: str
    of: str
    edit: Literal["exact", "lowrate", "crop", "logo", "small"]


def write_film(path: Path, film: Film) -> None:
    """The film's file is complete at `path`, with its sound track and, where it is rotated, the display matrix."""
    seconds = float(ticks(film)[-1] * time_base(film))
    sound = synthesise(film.sound, film.name, seconds) if film.sound else None
    upright = render(film)
    # the container asks for a clockwise turn, so what is coded is turned the other way
    frames = (np.ascontiguousarray(np.rot90(frame, film.rotation // 90)) for frame in upright) if film.rotation else upright
    _encode(path, frames, film, film.codec, film.crf, sound)


def write_copy(path: Path, copy: Copy, film: Film, original: Path) -> None:
    """The copy of the film's file is complete at `path`; all but exact copies are decoded, edited and encoded again without sound."""
    if copy.edit == "exact":
        aside = _aside(path)
        shutil.copyfile(original, aside)
        aside.replace(path)
    else:
        crf = 36 if copy.edit == "lowrate" else 26
        _encode(path, (edited(frame, copy.edit) for frame in _decoded(original)), film, "libx264", crf, None)


def copy_size(copy: Copy, width: int, height: int) -> tuple[int, int]:
    """Width and height in px of a copy of a film of this size; even, as the coding asks."""
    if copy.edit == "crop":
        return tuple(int(side * (1 - CROP_SHARE)) // 2 * 2 for side in (width, height))  # type: ignore[return-value]
    return (width * 3 // 8 * 2, height * 3 // 8 * 2) if copy.edit == "small" else (width, height)


def edited(frame: Picture, edit: str) -> Picture:
    """The frame as a copier leaves it: cropped, with a small mark in the upper right corner, or smaller."""
    import cv2

    h, w = frame.shape[:2]
    if edit == "lowrate":
        return frame
    if edit == "logo":
        out, r = frame.copy(), min(h, w) // 22
        cv2.circle(out, (w - 2 * r, 2 * r), r, (245, 245, 245), -1, cv2.LINE_AA)
        cv2.circle(out, (w - 2 * r, 2 * r), r // 2, (200, 30, 40), -1, cv2.LINE_AA)
        return out
    to_w, to_h = copy_size(Copy(name="", of="", edit=edit), w, h)  # type: ignore[arg-type]
    if edit == "small":
        return np.asarray(cv2.resize(frame, (to_w, to_h), interpolation=cv2.INTER_AREA), np.uint8)
    x, y = (w - to_w) // 2, (h - to_h) // 2
    return np.ascontiguousarray(frame[y : y + to_h, x : x + to_w])


def write_image(path: Path, scene: Scene, width: int, height: int, rotation: int = 0) -> None:
    """The scene is stored at `path`, `width` x `height` as shown; the suffix says the format, EXIF the clockwise rotation (0 or 90)."""
    from PIL import Image

    shown = paint(scene, width, height)
    image = Image.fromarray(np.ascontiguousarray(np.rot90(shown, rotation // 90)))
    exif = Image.Exif()
    if rotation:
        exif[0x0112] = 6  # EXIF 2.3, Orientation: 6 = turn 90 degrees clockwise to show
    kind = {".png": "PNG", ".webp": "WEBP"}.get(path.suffix, "JPEG")
    options: dict[str, dict[str, Any]] = {"PNG": {}, "WEBP": {"quality": 82}, "JPEG": {"quality": 88, "exif": exif}}
    held = io.BytesIO()
    image.save(held, kind, **options[kind])
    write_bytes(path, held.getvalue())


def write_sound(path: Path, sound: Sound, seconds: float) -> None:
    """The sound is stored at `path`, mono, 48 kHz; the suffix says the format (wav, flac or mp3)."""
    import av

    codec = {".wav": "pcm_s16le", ".flac": "flac", ".mp3": "libmp3lame"}[path.suffix]
    aside = _aside(path)
    with av.open(str(aside), "w", format=path.suffix[1:]) as out:
        stream: Any = out.add_stream(codec, rate=SAMPLE_RATE_HZ, layout="mono")
        for frame in _audio_frames(synthesise(sound, path.name, seconds)):
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    aside.replace(path)


def write_bytes(path: Path, data: bytes) -> None:
    """The file holds exactly these bytes."""
    aside = _aside(path)
    aside.write_bytes(data)
    aside.replace(path)


def synthesise(sound: str, key: str, seconds: float) -> NDArray[np.float32]:
    """Mono samples in -1..1 at 48 kHz: a slow melody of two voices, noise bursts, digital silence, or hiss at -66 dBFS."""
    rng = keyed(key, "sound")
    t = np.arange(round(seconds * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
    if sound == "silence":
        return np.zeros(t.size, np.float32)
    hiss = rng.standard_normal(t.size)
    if sound == "quiet":
        return (5e-4 * hiss).astype(np.float32)
    if sound == "bursts":
        return (0.12 * hiss * np.exp(-6 * (t % 0.7))).astype(np.float32)
    scale = np.array([220.0, 247.5, 277.2, 330.0, 371.3, 440.0])
    notes = scale[rng.integers(0, scale.size, int(seconds * 2) + 2)][(t * 2).astype(int)]
    phase = 2 * np.pi * np.cumsum(notes) / SAMPLE_RATE_HZ
    swell = np.sin(np.pi * ((t * 2) % 1)) ** 0.5
    return (0.2 * swell * (np.sin(phase) + 0.5 * np.sin(1.5 * phase)) + 1e-3 * hiss).astype(np.float32)


def _encode(path: Path, frames: Iterator[Picture], film: Film, codec: str, crf: int, sound: NDArray[np.float32] | None) -> None:
    """Frames at the film's times, sound beside them, into the container that the suffix names."""
    import av

    times, base, aside = ticks(film), time_base(film), _aside(path)
    waiting = _audio_frames(sound) if sound is not None else iter(())
    with av.open(str(aside), "w", format={".webm": "webm", ".avi": "avi"}.get(path.suffix, "mp4")) as out:
        first = next(frames)
        stream: Any = out.add_stream(codec, rate=30 if film.vfr else film.fps, options=_PRESETS[codec])
        stream.height, stream.width = first.shape[:2]
        stream.pix_fmt, stream.codec_context.time_base, stream.codec_context.thread_count = "yuv420p", base, 1
        stream.codec_context.options = _options(codec, crf)
        if film.vfr:
            # with B-frames, mp4 muxers lose part of the last frame's time when intervals vary
            stream.codec_context.max_b_frames = 0
        if film.rotation:
            stream.set_display_rotation(-film.rotation)
        track: Any = out.add_stream("aac", rate=SAMPLE_RATE_HZ, layout="mono", bit_rate=64_000) if sound is not None else None
        audio = next(waiting, None)
        for i, frame in enumerate(_chain(first, frames)):
            packed = _packed(frame)
            packed.pts, packed.time_base = times[i], base
            out.mux(stream.encode(packed))
            while audio is not None and audio.pts * audio.time_base <= times[i] * base:
                out.mux(track.encode(audio))
                audio = next(waiting, None)
        out.mux(stream.encode(None))
        if track is not None:
            out.mux(track.encode(None))
    aside.replace(path)


def _options(codec: str, crf: int) -> dict[str, str]:
    """The encoder's options: constant quality, fast, and for VP9 no bit-rate ceiling."""
    if codec == "mpeg4":
        return _PRESETS[codec]
    return {**_PRESETS[codec], "crf": str(crf), **({"b": "0"} if codec == "libvpx-vp9" else {})}


def _chain(first: Picture, rest: Iterator[Picture]) -> Iterator[Picture]:
    yield first
    yield from rest


def _packed(frame: Picture) -> Any:
    import av
    import cv2

    return av.VideoFrame.from_ndarray(np.asarray(cv2.cvtColor(frame, cv2.COLOR_RGB2YUV_I420), np.uint8), format="yuv420p")


def _decoded(path: Path) -> Iterator[Picture]:
    import av
    import cv2

    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            yield np.asarray(cv2.cvtColor(np.asarray(frame.to_ndarray(format="yuv420p"), np.uint8), cv2.COLOR_YUV2RGB_I420), np.uint8)


def _audio_frames(samples: NDArray[np.float32]) -> Iterator[Any]:
    """The samples as 16-bit frames of a quarter of a second, timed from 0."""
    import av

    whole = np.clip(np.round(samples * 32767), -32768, 32767).astype(np.int16)
    step = SAMPLE_RATE_HZ // 4
    for start in range(0, whole.size, step):
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(whole[None, start : start + step]), format="s16", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = SAMPLE_RATE_HZ, start, Fraction(1, SAMPLE_RATE_HZ)
        yield frame


def _aside(path: Path) -> Path:
    """Where a file is written before it gets its name; hidden, so that no listing takes it for media."""
    return path.with_name(f".{path.name}.part")
