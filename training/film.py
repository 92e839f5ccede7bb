"""A generated film: pictures, perhaps sound, and the note of what it was made from, in one mp4.

The note is JSON in the container's `comment`: a DSSE envelope (in-toto Statement v1) whose subject is the SHA-256 of the encoded pictures
and sound, packet by packet. So it speaks of this film and no other, whether it is signed or not; with an Ed25519 key it is signed. With
a certificate the file carries Content Credentials too (C2PA), which say that it was made by a model.
"""

import hashlib
import io
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from manifests.files import write_atomic
from manifests.signing import SigningError, Statement, seal, unseal
from training.data.decode import MAX_PIXELS
from training.errors import TrainingError

if TYPE_CHECKING:
    from securesystemslib.signer import CryptoSigner, SSlibKey  # type: ignore[attr-defined]

SAMPLE_RATE_HZ = 48_000

MAX_BYTES = 16 << 30
"""Pictures that are read at once: a minute of 1080p at 24 a second is 9 GB."""

MAX_GLANCE_S = 4 * 3600.0
"""Length of a film that is glanced at: time stamps can promise years in a few bytes."""

PREDICATE = "urn:dailies:generated:v1"
"""Type of the note."""

SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"


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

    def save(self, path: Path, signer: "CryptoSigner | None" = None, credentials: "Credentials | None" = None) -> None:
        """The film is an mp4 (H.264, AAC) at `path` with its note, signed where there is a key."""
        save_mp4(encode_film(self), path, self.made_from, signer, credentials)


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """A certificate chain and its private key (PEM), with which Content Credentials are signed."""

    chain: Path
    key: Path
    algorithm: str = "es256"

    @staticmethod
    def lie_in(path: Path) -> bool:
        """Whether the file carries Content Credentials."""
        from c2pa import C2paError, Reader

        try:
            with Reader("video/mp4", io.BytesIO(path.read_bytes())):
                return True
        except (C2paError, OSError):
            return False

    def sign(self, data: bytes, name: str, made_from: dict[str, Any]) -> bytes:
        """The mp4 with Content Credentials in it."""
        from c2pa import Builder, C2paError, C2paSignerInfo, Signer

        manifest = {
            "claim_generator_info": [{"name": "dailies"}],
            "title": name,
            "assertions": [
                {"label": "c2pa.actions.v2", "data": {"actions": [{"action": "c2pa.created", "digitalSourceType": SOURCE_TYPE}]}},
                {"label": "org.dailies.generated", "data": made_from},
            ],
        }
        sink = io.BytesIO()
        try:
            # no address of a time stamping authority: nothing is asked for on the network
            info = C2paSignerInfo(self.algorithm.encode(), self.chain.read_bytes(), self.key.read_bytes(), None)
            with Signer.from_info(info) as signer, Builder(json.dumps(manifest)) as builder:
                builder.sign(signer, "video/mp4", io.BytesIO(data), sink)
        except (C2paError, OSError, ValueError) as error:
            raise TrainingError(
                f"{self.chain}: expected a certificate chain and a key that Content Credentials take, found {error}"
            ) from error
        return sink.getvalue()


def save_mp4(
    plain: bytes, path: Path, made_from: dict[str, Any], signer: "CryptoSigner | None" = None, credentials: Credentials | None = None
) -> None:
    """The mp4 is at `path` with a note of what it was made from, signed where there is a key."""
    statement = Statement(subject=path.name, sha256=_digest(plain), predicate_type=PREDICATE, predicate=made_from or {"request": {}})
    data = _with_note(plain, json.dumps(seal(statement, signer), sort_keys=True))
    write_atomic(path, data if credentials is None else credentials.sign(data, path.name, made_from))


def dubbed(path: Path, sound: NDArray[np.float32]) -> bytes:
    """The mp4's pictures, packet by packet as they are, with this sound in place of its own; TrainingError when it is none."""
    import av

    sink = io.BytesIO()
    try:
        with _opened(path.read_bytes()) as read, av.open(sink, "w", format="mp4") as out:
            source = read.streams.video[0]
            picture, track = out.add_stream_from_template(source), _sound_stream(out, sound)
            for packet in read.demux(source):
                if packet.dts is not None:
                    packet.stream = picture
                    out.mux(packet)
            for frame in _sound_frames(sound):
                out.mux(track.encode(frame))
            out.mux(track.encode())
    except (OSError, IndexError, av.FFmpegError) as error:
        raise TrainingError(f"{path}: expected an mp4 with pictures, found {error}") from error
    return sink.getvalue()


def glance(path: Path, fps: float, side_px: int) -> tuple[NDArray[np.uint8], float]:
    """(pictures (T, side, side, 3) of the film's middle square, `fps` a second, each the nearest that is not later; its length in s)

    The film is decoded as it streams: what is kept are small squares. TrainingError when it is no mp4 with pictures, or over four hours long.
    """
    import av

    shown: list[NDArray[np.uint8]] = []
    try:
        with _opened(path.read_bytes()) as container:
            stream = container.streams.video[0]
            step_s, last_s, held = float(1 / (stream.average_rate or 24)), 0.0, None
            first: float | None = None
            for frame in container.decode(stream):
                at = float(frame.pts * frame.time_base)
                first = at if first is None else first
                if at - first > MAX_GLANCE_S:
                    raise TrainingError(f"{path}: expected a film of at most {MAX_GLANCE_S:.0f} s, found a picture at {at - first:.0f} s")
                if frame.width * frame.height > MAX_PIXELS:
                    raise TrainingError(f"{path}: expected frames of at most {MAX_PIXELS} pixels, found {frame.width}x{frame.height}")
                while held is not None and len(shown) / fps < at - first - 1e-6:
                    shown.append(held)
                held, last_s = _square(frame, side_px), at - first
            end_s = last_s + step_s
            while held is not None and len(shown) / fps < end_s - 1e-6:
                shown.append(held)
    except (OSError, IndexError, TypeError, ValueError, av.FFmpegError) as error:
        raise TrainingError(f"{path}: expected an mp4 with pictures, found {error}") from error
    if not shown:
        raise TrainingError(f"{path}: expected pictures, found none")
    return np.stack(shown), end_s


def _square(frame: Any, side_px: int) -> NDArray[np.uint8]:
    """The middle square of a frame, (side, side, 3), scaled by areas."""
    scale = side_px / min(frame.width, frame.height)
    width, height = max(side_px, round(frame.width * scale)), max(side_px, round(frame.height * scale))
    pixels: NDArray[np.uint8] = frame.reformat(width=width, height=height, format="rgb24", interpolation="AREA").to_ndarray()
    top, left = (height - side_px) // 2, (width - side_px) // 2
    return pixels[top : top + side_px, left : left + side_px]


def read_note(path: Path, key: "SSlibKey | None" = None) -> dict[str, Any]:
    """What the film says it was made from, if the note is about these pictures and this sound; with a key, if that key signed it.

    SigningError says what does not hold.
    """
    import av

    try:
        data = path.read_bytes()
        with _opened(data) as container:
            comment = container.metadata.get("comment", "")
        found = _digest(data)
    except (OSError, ValueError, TypeError, av.FFmpegError) as error:
        raise SigningError(f"{path}: expected an mp4, found {error}") from error
    try:
        envelope = json.loads(comment)
    except ValueError as error:
        raise SigningError(f"{path}: expected a film of `dailies generate` with its note, found none") from error
    statement = unseal(envelope, key)
    if statement.predicate_type != PREDICATE:
        raise SigningError(f"{path}: expected a note of type {PREDICATE}, found {statement.predicate_type}")
    if found != statement.sha256:
        raise SigningError(
            f"{path}: expected pictures and sound with SHA-256 {statement.sha256}, found {found}: the note is another film's"
        )
    return statement.predicate


def read_film(path: Path, max_frames: int | None = None) -> Film:
    """The pictures and the sound (mono, at 48 kHz) of an mp4, whole in memory, or of its first `max_frames`; TrainingError when it is none,
    or larger than `MAX_BYTES`."""
    import av

    try:
        with _opened(path.read_bytes()) as container:
            picture = container.streams.video[0]
            fps, frames, held = Fraction(picture.average_rate or 24), [], 0
            for frame in container.decode(picture):
                frames.append(_pixels(frame, path))
                held += frames[-1].nbytes
                if held > MAX_BYTES:
                    raise TrainingError(f"{path}: expected at most {MAX_BYTES >> 30} GiB of pictures, found more; cut the film")
                if len(frames) == max_frames:
                    break
            longest_s = None if max_frames is None else float(len(frames) / fps)
            sound = _sound_of(container, longest_s) if container.streams.audio else None
        pictures = np.stack(frames) if frames else None
    except (OSError, IndexError, ValueError, av.FFmpegError) as error:
        raise TrainingError(f"{path}: expected an mp4 with pictures of one size, found {error}") from error
    if pictures is None:
        raise TrainingError(f"{path}: expected pictures, found none")
    return Film(frames=pictures, fps=fps, sound=sound)


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
        with _opened(path.read_bytes()) as container:
            stream = container.streams.video[0]
            total = sum(1 for packet in container.demux(stream) if packet.size)
            container.seek(0)
            chosen = set(np.linspace(0, max(0, total - 1), min(count, max(1, total))).round().astype(int).tolist())
            frames = [_pixels(frame, path) for i, frame in enumerate(container.decode(stream)) if i in chosen]
            peaks = None
            if container.streams.audio:
                container.seek(0)
                peaks = np.array([np.abs(frame.to_ndarray()).max(initial=0) for frame in _resampled(container)] or [0], np.float32)
            fps = Fraction(stream.average_rate or 24)
        pictures = np.stack(frames)
    except (OSError, IndexError, ValueError, av.FFmpegError) as error:
        raise TrainingError(f"{path}: expected an mp4 with pictures of one size, found {error}") from error
    return Preview(frames=pictures, n_frames=total, fps=fps, peaks=peaks)


def _pixels(frame: Any, path: Path) -> NDArray[np.uint8]:
    if frame.width * frame.height > MAX_PIXELS:
        raise TrainingError(f"{path}: expected frames of at most {MAX_PIXELS} pixels, found {frame.width}x{frame.height}")
    pixels: NDArray[np.uint8] = frame.to_ndarray(format="rgb24")
    return pixels


def _resampled(container: Any) -> Iterator[Any]:
    import av

    resampler = av.AudioResampler("fltp", "mono", SAMPLE_RATE_HZ)
    for frame in (*container.decode(audio=0), None):
        yield from resampler.resample(frame)


def _sound_of(container: Any, longest_s: float | None) -> NDArray[np.float32] | None:
    """The first sound, to its end or for so long; None where a track holds none."""
    container.seek(0)
    parts: list[NDArray[np.float32]] = []
    most = None if longest_s is None else round(longest_s * SAMPLE_RATE_HZ)
    for frame in _resampled(container):
        parts.append(frame.to_ndarray()[0])
        if most is not None and sum(map(len, parts)) >= most:
            break
    return np.concatenate(parts)[:most] if parts else None


def encode_film(film: Film) -> bytes:
    """Pictures and sound as an mp4 without a note; the same film gives the same bytes."""
    import av

    sink = io.BytesIO()
    with av.open(sink, "w", format="mp4") as out:
        # x264's macroblock tree reads memory that it has not written, on small clips: without it the same frames give the same bytes
        options = {"crf": "17", "preset": "medium", "threads": "1", "x264-params": "mbtree=0"}
        picture: Any = out.add_stream("libx264", rate=film.fps, options=options)
        picture.height, picture.width, picture.pix_fmt = *film.frames.shape[1:3], "yuv420p"
        sound = _sound_stream(out, film.sound) if film.sound is not None else None
        for pixels in film.frames:
            out.mux(picture.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")))
        out.mux(picture.encode())
        if sound is not None and film.sound is not None:
            for frame in _sound_frames(film.sound):
                out.mux(sound.encode(frame))
            out.mux(sound.encode())
    return sink.getvalue()


def _sound_stream(out: Any, sound: NDArray[np.float32]) -> Any:
    return out.add_stream("aac", rate=SAMPLE_RATE_HZ, layout="mono" if sound.ndim == 1 else "stereo")


def _sound_frames(sound: NDArray[np.float32]) -> Iterable[Any]:
    import av

    planes = np.ascontiguousarray(np.clip(sound, -1, 1).reshape(len(sound), -1).T, np.float32)
    for start in range(0, planes.shape[1], 1024):
        frame = av.AudioFrame.from_ndarray(
            planes[:, start : start + 1024].copy(), format="fltp", layout="mono" if len(planes) == 1 else "stereo"
        )
        frame.sample_rate, frame.pts, frame.time_base = SAMPLE_RATE_HZ, start, Fraction(1, SAMPLE_RATE_HZ)
        yield frame


def _with_note(data: bytes, note: str) -> bytes:
    """The same packets in a container that says the note."""
    import av

    sink = io.BytesIO()
    with _opened(data) as read, av.open(sink, "w", format="mp4") as out:
        out.metadata["comment"] = note
        streams = {s.index: out.add_stream_from_template(s) for s in read.streams}
        for packet in read.demux():
            if packet.dts is not None:
                packet.stream = streams[packet.stream.index]
                out.mux(packet)
    return sink.getvalue()


def _opened(data: bytes) -> Any:
    """The container over the bytes, with the demuxer named: no probing, so a playlist in disguise opens nothing."""
    import av

    return av.open(io.BytesIO(data), format="mp4")


def _digest(data: bytes) -> str:
    """SHA-256 over streams and packets as they are stored, and over all that says how they are shown: sizes, rates, time bases, the codecs' own
    headers, rotation. It does not change when the container is written anew."""
    whole = hashlib.sha256()
    with _opened(data) as container:
        for stream in container.streams:
            codec = stream.codec_context
            sizes = (codec.width, codec.height, _rotation(container, stream)) if stream.type == "video" else ()
            sounds = (codec.sample_rate, codec.layout.name) if stream.type == "audio" else ()
            said = (stream.index, stream.type, codec.name, stream.time_base, stream.start_time, *sizes, *sounds)
            whole.update(f"{said}\n".encode() + (codec.extradata or b""))
            for packet in container.demux(stream):
                if packet.size:
                    whole.update(f"{packet.pts} {packet.size}\n".encode() + bytes(packet))
            container.seek(0)
    return whole.hexdigest()


def _rotation(container: Any, stream: Any) -> int:
    """Degrees that the first picture is turned by when it is shown."""
    first = next(container.decode(stream), None)
    container.seek(0)
    return 0 if first is None else int(first.rotation)
