"""A generated film: pictures, perhaps sound, and the note of what it was made from, in one mp4; and films of others, read as they are shown.

With an Ed25519 key the note is signed. With a certificate the file carries Content Credentials too (C2PA), which say what a model made of it.
"""

import io
from collections.abc import Iterable
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from manifests.files import write_atomic
from training.credentials import Credentials
from training.errors import TrainingError
from training.film_note import noted
from training.shown import SAMPLE_RATE_HZ, Fit, Painter, first_s, heard, moments, opened, rate_of, resampled, spans, start_s

if TYPE_CHECKING:
    from securesystemslib.signer import CryptoSigner  # type: ignore[attr-defined]

MAX_BYTES = 16 << 30
"""Pictures that are read at once: a minute of 1080p at 24 a second is 9 GB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Film:
    """Pictures (T, H, W, 3) 0 to 255 at `fps`, sound (S,) or (S, channels) in [-1, 1] at 48 kHz or None, and what they were made from."""

    frames: NDArray[np.uint8]
    fps: Fraction
    sound: NDArray[np.float32] | None = None
    made_from: dict[str, Any] = field(default_factory=dict)

    @property
    def duration_s(self) -> float:
        """Length of the pictures."""
        return float(len(self.frames) / self.fps)

    def save(
        self, path: Path, signer: "CryptoSigner | None" = None, credentials: Credentials | None = None, source: Path | None = None
    ) -> None:
        """The film is an mp4 (H.264, AAC) at `path` with its note, signed where there is a key; `source` is the film that it is an edit of."""
        save_mp4(encode_film(self), path, self.made_from, signer, credentials, source)


def save_mp4(
    plain: bytes,
    path: Path,
    made_from: dict[str, Any],
    signer: "CryptoSigner | None" = None,
    credentials: Credentials | None = None,
    source: Path | None = None,
) -> None:
    """The mp4 is at `path` with a note of what it was made from, signed where there is a key; `source` is the film that was changed."""
    data = noted(plain, path.name, made_from, signer)
    if credentials is not None:
        data = credentials.sign(data, path.name, made_from, None if source is None else source.read_bytes())
    write_atomic(path, data)


def check_dubbing(path: Path) -> None:
    """TrainingError where the film's pictures cannot be put in an mp4 as they are: said before a sound is made for them."""
    import av

    try:
        with opened(path.read_bytes()) as read, av.open(io.BytesIO(), "w", format="mp4") as out:
            source = read.streams.video[0]
            out.add_stream_from_template(source)
            out.start_encoding()
            first_s(read)
    except (OSError, IndexError, TypeError, ValueError, av.FFmpegError) as error:
        raise TrainingError(f"{path}: soundtrack: expected pictures that an mp4 can hold as they are, found {error}") from error


def dubbed(path: Path, sound: NDArray[np.float32]) -> bytes:
    """The mp4's pictures, packet by packet as they are, with this sound in place of its own, which begins with the first of them;
    TrainingError when it is none."""
    import av

    sink = io.BytesIO()
    try:
        with opened(path.read_bytes()) as read, av.open(sink, "w", format="mp4") as out:
            source, begin = read.streams.video[0], round(first_s(read) * SAMPLE_RATE_HZ)
            picture, track = out.add_stream_from_template(source), _sound_stream(out, sound)
            for packet in read.demux(source):
                if packet.dts is not None:
                    packet.stream = picture
                    out.mux(packet)
            for frame in _sound_frames(sound, begin):
                out.mux(track.encode(frame))
            out.mux(track.encode())
    except (OSError, IndexError, TypeError, ValueError, av.FFmpegError) as error:
        raise TrainingError(f"{path}: expected an mp4 with pictures, found {error}") from error
    return sink.getvalue()


def glance(path: Path, fps: float, side_px: int) -> tuple[NDArray[np.uint8], float]:
    """(pictures (T, side, side, 3) of the film's middle square, `fps` a second, each the one shown at its time; its length in s)

    The film is decoded as it streams: what is kept are small squares. TrainingError when it is no mp4 with pictures, or over four hours long.
    """
    import av

    shown: list[NDArray[np.uint8]] = []
    end_s = Fraction(0)
    try:
        with opened(path.read_bytes()) as container:
            stream = container.streams.video[0]
            painter = Painter(stream, path, lambda width, height: (side_px, side_px))
            for frame, end_s in spans(container, path):
                if count := moments(end_s, Fraction(fps), stream) - len(shown):
                    shown += [painter.paint(frame)] * count
    except (OSError, IndexError, TypeError, ValueError, av.FFmpegError) as error:
        raise TrainingError(f"{path}: expected an mp4 with pictures, found {error}") from error
    if not shown:
        raise TrainingError(f"{path}: expected pictures, found none")
    return np.stack(shown), float(end_s)


def read_film(path: Path, max_frames: int | None = None, fit: Fit | None = None) -> Film:
    """The pictures of an mp4 as they are shown, at a constant rate, and its sound (mono, at 48 kHz) from the first of them on; whole in memory,
    or the first `max_frames`. With `fit` they are scaled and cut as they are decoded. TrainingError when it is none, or over `MAX_BYTES`."""
    import av

    try:
        with opened(path.read_bytes()) as container:
            fps = rate_of(container.streams.video[0])
            frames, first = _frames(container, path, fps, max_frames, fit)
            longest_s = None if max_frames is None else len(frames) / fps
            sound = heard(container, first, longest_s) if container.streams.audio else None
        pictures = np.stack(frames) if frames else None
    except (OSError, IndexError, TypeError, ValueError, av.FFmpegError) as error:
        raise TrainingError(f"{path}: expected an mp4 with pictures of one size, found {error}") from error
    if pictures is None:
        raise TrainingError(f"{path}: expected pictures, found none")
    return Film(frames=pictures, fps=fps, sound=sound)


def _frames(container: Any, path: Path, fps: Fraction, max_frames: int | None, fit: Fit | None) -> tuple[list[NDArray[np.uint8]], Fraction]:
    """(the pictures shown at k / fps, when the first one is presented)"""
    stream, first, held = container.streams.video[0], None, 0
    shown: list[NDArray[np.uint8]] = []
    painter = Painter(stream, path, fit)
    for frame, end_s in spans(container, path):
        first = start_s(frame) if first is None else first
        count = moments(end_s, fps, stream) - len(shown)
        if max_frames is not None:
            count = min(count, max_frames - len(shown))
        if count <= 0:
            continue
        pixels = painter.paint(frame)
        held += count * pixels.nbytes
        if held > MAX_BYTES:
            raise TrainingError(f"{path}: expected at most {MAX_BYTES >> 30} GiB of pictures, found more; cut the film")
        shown += [pixels] * count
        if len(shown) == max_frames:
            break
    return shown, first or Fraction(0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Preview:
    """What people look at first of a film: some frames (n, H, W, 3), size and length, and the peaks of its sound, some 20 ms each."""

    frames: NDArray[np.uint8]
    n_frames: int
    fps: Fraction
    peaks: NDArray[np.float32] | None


def preview(path: Path, count: int) -> Preview:
    """`count` evenly spaced frames of an mp4 and its sound's peaks, as it streams: the film may be long. TrainingError when it is none."""
    import av

    try:
        with opened(path.read_bytes()) as container:
            stream = container.streams.video[0]
            painter = Painter(stream, path)
            total = sum(1 for packet in container.demux(stream) if packet.size)
            container.seek(0)
            chosen = set(np.linspace(0, max(0, total - 1), min(count, max(1, total))).round().astype(int).tolist())
            frames = [painter.paint(frame) for i, frame in enumerate(container.decode(stream)) if i in chosen]
            peaks = None
            if container.streams.audio:
                container.seek(0)
                peaks = np.array([np.abs(frame.to_ndarray()).max(initial=0) for frame in resampled(container)] or [0], np.float32)
            fps = rate_of(stream)
        pictures = np.stack(frames)
    except (OSError, IndexError, ValueError, av.FFmpegError) as error:
        raise TrainingError(f"{path}: expected an mp4 with pictures of one size, found {error}") from error
    return Preview(frames=pictures, n_frames=total, fps=fps, peaks=peaks)


def encode_film(film: Film) -> bytes:
    """Pictures and sound as an mp4 without a note, its colours BT.709 and said to be; the same film gives the same bytes."""
    import av
    from av.video.reformatter import VideoReformatter

    sink, reformatter = io.BytesIO(), VideoReformatter()
    with av.open(sink, "w", format="mp4") as out:
        # x264's macroblock tree reads memory that it has not written, on small clips: without it the same frames give the same bytes
        options = {"crf": "17", "preset": "medium", "threads": "1", "x264-params": "mbtree=0"}
        picture: Any = out.add_stream("libx264", rate=film.fps, options=options)
        picture.height, picture.width, picture.pix_fmt = *film.frames.shape[1:3], "yuv420p"
        _say_bt709(picture.codec_context)
        sound = _sound_stream(out, film.sound) if film.sound is not None else None
        for pixels in film.frames:
            out.mux(picture.encode(_bt709(reformatter, pixels)))
        out.mux(picture.encode())
        if sound is not None and film.sound is not None:
            for frame in _sound_frames(film.sound):
                out.mux(sound.encode(frame))
            out.mux(sound.encode())
    return sink.getvalue()


def _bt709(reformatter: Any, pixels: NDArray[np.uint8]) -> Any:
    """RGB as a frame of BT.709 in limited range: what players take large films for, whatever is said, and small ones where it is said."""
    import av
    from av.video.reformatter import ColorRange, Colorspace

    rgb = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
    frame = reformatter.reformat(
        rgb, format="yuv420p", dst_colorspace=Colorspace.ITU709, src_color_range=ColorRange.JPEG, dst_color_range=ColorRange.MPEG, threads=1
    )
    _say_bt709(frame)
    return frame


def _say_bt709(told: Any) -> None:
    """A frame, or the codec that writes it, says that its colours are BT.709 in limited range."""
    from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc

    told.colorspace, told.color_range = Colorspace.ITU709, ColorRange.MPEG
    told.color_primaries, told.color_trc = ColorPrimaries.BT709, ColorTrc.BT709


def _sound_stream(out: Any, sound: NDArray[np.float32]) -> Any:
    return out.add_stream("aac", rate=SAMPLE_RATE_HZ, layout="mono" if sound.ndim == 1 else "stereo")


def _sound_frames(sound: NDArray[np.float32], begin: int = 0) -> Iterable[Any]:
    """The sound in packets, its first sample at the time `begin`, in samples."""
    import av

    planes = np.ascontiguousarray(np.clip(sound, -1, 1).reshape(len(sound), -1).T, np.float32)
    for start in range(0, planes.shape[1], 1024):
        frame = av.AudioFrame.from_ndarray(
            planes[:, start : start + 1024].copy(), format="fltp", layout="mono" if len(planes) == 1 else "stereo"
        )
        frame.sample_rate, frame.pts, frame.time_base = SAMPLE_RATE_HZ, begin + start, Fraction(1, SAMPLE_RATE_HZ)
        yield frame
