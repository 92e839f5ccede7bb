"""The note in a film: what it was made from, and the SHA-256 of what is shown and heard, so that it speaks of this film and no other.

It is JSON in the container's `comment`: a DSSE envelope around an in-toto Statement v1, signed where there is a key. Anyone can write one
that nobody signed.
"""

import hashlib
import io
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from manifests.signing import SigningError, Statement, seal, signers_of, unseal
from training.shown import display_matrix, opened

if TYPE_CHECKING:
    from securesystemslib.signer import CryptoSigner, SSlibKey  # type: ignore[attr-defined]

PREDICATE = "urn:dailies:generated:v2"
"""Type of the note. v1 said nothing of flips, aspect and colours: a film that is shown otherwise than it was made could keep it."""

_PREDICATES = "urn:dailies:generated:"


def noted(plain: bytes, name: str, made_from: dict[str, Any], signer: "CryptoSigner | None" = None) -> bytes:
    """The mp4 with the same packets and a note of what it was made from."""
    import av

    statement = Statement(subject=name, sha256=digest(plain), predicate_type=PREDICATE, predicate=made_from or {"request": {}})
    sink = io.BytesIO()
    with opened(plain) as read, av.open(sink, "w", format="mp4") as out:
        out.metadata["comment"] = json.dumps(seal(statement, signer), sort_keys=True)
        streams = {s.index: out.add_stream_from_template(s) for s in read.streams}
        for packet in read.demux():
            if packet.dts is not None:
                packet.stream = streams[packet.stream.index]
                out.mux(packet)
    return sink.getvalue()


def read_note(path: Path, key: "SSlibKey | None" = None) -> dict[str, Any]:
    """What the film says it was made from, if the note is about these pictures and this sound; with a key, if that key signed it.

    SigningError says what does not hold.
    """
    data, envelope = _envelope(path)
    statement = unseal(envelope, key)
    if statement.predicate_type != PREDICATE:
        older = statement.predicate_type.startswith(_PREDICATES)
        why = "; that of an earlier version does not say how the film is shown: make the film again" if older else ""
        raise SigningError(f"{path}: expected a note of type {PREDICATE}, found {statement.predicate_type}{why}")
    found = _digest(data, path)
    if found != statement.sha256:
        raise SigningError(
            f"{path}: expected pictures and sound with SHA-256 {statement.sha256}, found {found}: the note is another film's, "
            "or they are shown otherwise than they were made"
        )
    return statement.predicate


def note_signers(path: Path) -> list[str]:
    """The ids of the keys that the note names, whether or not their signatures hold; SigningError where there is no note."""
    return signers_of(_envelope(path)[1])


def has_note(path: Path) -> bool:
    """Whether the file is an mp4 with a note of this program, of any version, whether or not it holds: one that was made, not filmed."""
    try:
        return unseal(_envelope(path)[1], None).predicate_type.startswith(_PREDICATES)
    except SigningError:
        return False


def _envelope(path: Path) -> tuple[bytes, Any]:
    """(the file, the JSON of its comment)"""
    import av

    try:
        data = path.read_bytes()
        with opened(data) as container:
            comment = container.metadata.get("comment", "")
    except (OSError, ValueError, TypeError, av.FFmpegError) as error:
        raise SigningError(f"{path}: expected an mp4, found {error}") from error
    try:
        return data, json.loads(comment)
    except (ValueError, RecursionError) as error:
        raise SigningError(f"{path}: expected a film of `dailies generate` with its note, found none") from error


def _digest(data: bytes, path: Path) -> str:
    import av

    try:
        return digest(data)
    except (OSError, ValueError, TypeError, av.FFmpegError) as error:
        raise SigningError(f"{path}: expected an mp4, found {error}") from error


def digest(data: bytes) -> str:
    """SHA-256 over an mp4's streams and packets as they are stored, and over all that says how they are shown: sizes, rates, time bases, the
    codecs' own headers, display matrix, aspect, colours, which streams play. It does not change when the container is written anew. What
    PyAV does not tell is not in it: a clean aperture, the rates of an edit list, the volume of a track."""
    whole = hashlib.sha256()
    with opened(data) as container:
        for stream in container.streams:
            codec = stream.codec_context  # None of a stream of times or data
            plays = (stream.time_base, stream.start_time, int(stream.disposition))
            said = (stream.index, stream.type, codec and codec.name, *plays, *_shown(container, stream))
            whole.update(f"{said}\n".encode() + ((codec and codec.extradata) or b""))
            for packet in container.demux(stream):
                if packet.size:
                    times = f"{packet.pts} {packet.duration} {packet.is_discard}"
                    whole.update(f"{times} {packet.size}\n".encode() + bytes(packet))
            container.seek(0)
    return whole.hexdigest()


def _shown(container: Any, stream: Any) -> tuple[Any, ...]:
    """What the container says of showing a stream of pictures or sound. Colours are read before a picture is decoded, which replaces them
    by those of the codec's own header."""
    codec = stream.codec_context
    if codec is None or stream.type not in ("video", "audio"):
        return ()
    if stream.type == "audio":
        return codec.sample_rate, codec.layout and codec.layout.name
    colours = [int(c) for c in (codec.color_primaries, codec.color_trc, codec.colorspace, codec.color_range)]
    first = next(container.decode(stream), None)
    container.seek(0)
    return codec.width, codec.height, str(stream.sample_aspect_ratio or 1), *colours, () if first is None else display_matrix(first)
