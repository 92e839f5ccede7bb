"""Media to be damaged, and the ways in which a file goes wrong: each case is made from its number alone. For `fuzz.py`."""

import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

SEED_BYTES = 160_000
N_PACKETS = 12
"""Largest seed, and the packets of each stream that are taken of a larger file: cases must cost milliseconds."""

CONTAINERS = {
    "matroska": None,
    "mpegts": ("h264", "hevc", "mpeg2video", "aac", "mp3", "ac3"),
    "avi": ("h264", "mpeg4", "mpeg2video", "mp3", "aac", "pcm_s16le"),
    "flv": ("h264", "aac", "mp3"),
    "nut": None,
    "mov": ("h264", "hevc", "mpeg4", "aac", "mp3", "pcm_s16le"),
    "asf": ("h264", "mpeg4", "wmv2", "wmav2", "mp3"),
}
"""Containers that seeds are put into, and the codecs that each is given (None: all): muxers abort on some that they do not know."""


@dataclass(frozen=True, slots=True)
class Seed:
    """A medium that is whole, and where its packets lie: (offset, length) in bytes."""

    name: str
    data: bytes
    packets: tuple[tuple[int, int], ...]


def seeds(media: Path) -> list[Seed]:
    """Small real files as they are, and the first packets of larger ones: of each codec in its own container and two others."""
    found: list[Seed] = []
    per_codec: Counter[str] = Counter()
    for folder in ("image", "audio", "hostile", "video"):
        for path in sorted((media / folder).glob("*")):
            if path.stat().st_size in range(1, SEED_BYTES):
                data = path.read_bytes()
                found.append(Seed(f"{folder}/{path.name}", data, packets_of(data)))
            elif folder in ("video", "audio", "hostile"):
                found += _heads(path, per_codec)
    return found


def _heads(path: Path, per_codec: Counter[str]) -> Iterator[Seed]:
    """The beginning of a file in up to three containers, unless its codecs were seen four times already."""
    import av

    try:
        with av.open(str(path)) as source:
            codecs = "+".join(s.codec_context.name for s in source.streams if s.codec_context is not None)
    except av.error.FFmpegError:
        return
    per_codec[codecs] += 1
    if per_codec[codecs] > 4:
        return
    own = {".webm": "webm", ".mkv": "matroska", ".avi": "avi", ".wmv": "asf", ".mov": "mov", ".mpg": "mpeg", ".mp4": "mp4"}
    fit = [c for c, known in CONTAINERS.items() if known is None or set(codecs.split("+")) <= set(known)]
    others = fit[per_codec[codecs] :: 3]
    for container in dict.fromkeys([own.get(path.suffix, "mp4"), *others]):
        data = _first_packets(path, container)
        if data and len(data) < SEED_BYTES:
            yield Seed(f"{path.name} as {container}", data, packets_of(data))


def _first_packets(path: Path, container: str) -> bytes | None:
    """The first packets of the file's first video and sound streams in another container; None where that cannot hold them."""
    import io

    import av

    out = io.BytesIO()
    options = {"movflags": "frag_keyframe+empty_moov"} if container == "mov" else {}
    try:
        with av.open(str(path)) as source, av.open(out, "w", format=container, options=options) as target:
            chosen = [*source.streams.video[:1], *source.streams.audio[:1]]
            streams = {s.index: target.add_stream_from_template(s) for s in chosen}
            left = dict.fromkeys(streams, N_PACKETS)
            for packet in source.demux(chosen):
                if packet.size and packet.dts is not None and left[packet.stream.index] > 0:
                    left[packet.stream.index] -= 1
                    packet.stream = streams[packet.stream.index]
                    target.mux(packet)
                if not any(left.values()) or out.tell() > SEED_BYTES:
                    break
    except (av.error.FFmpegError, ValueError, NotImplementedError):
        return None
    return out.getvalue()


def packets_of(data: bytes) -> tuple[tuple[int, int], ...]:
    """(offset, length) of the packets of a medium; none where it is broken already."""
    import io

    import av

    try:
        with av.open(io.BytesIO(data)) as container:
            return tuple((p.pos, p.size) for p in container.demux() if p.pos is not None and p.pos >= 0 and p.size)
    except (av.error.FFmpegError, ValueError, IndexError):
        return ()


Rng = np.random.Generator
_EXTREMES = (0, 1, 7, 8, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0x7FFFFFFFFFFFFFFF, 0xFFFFFFFFFFFFFFFF)
_ATOM = re.compile(
    rb"moov|trak|mdia|minf|stbl|stsd|stts|ctts|stsc|stsz|stco|co64|stss|elst|tkhd|mdhd|mvhd|hdlr|dref|avcC|hvcC|esds|av1C|vpcC|colr|pasp|moof|traf"
    rb"|tfhd|trun|tfdt|sidx|mvex|trex|meta|iloc|iprp|ipco|ispe|iinf|LIST|hdrl|strh|strf|idx1|movi|fmt |data|IHDR|IDAT|PLTE|iCCP|eXIf|VP8 |VP8L|VP8X|ANIM"
    rb"|\x1a\x45\xdf\xa3|\x18\x53\x80\x67|\x15\x49\xa9\x66|\x16\x54\xae\x6b|\x1f\x43\xb6\x75|\x1c\x53\xbb\x6b|OggS|\x01vorbis|\xff[\xc0-\xda]"
)
"""Names of MP4, RIFF, PNG, WebP, Matroska, Ogg and JPEG parts: beside them stand lengths, counts and sizes."""


def flip_bits(data: bytearray, seed: Seed, rng: Rng) -> None:
    """One to 64 bits are turned, anywhere or in the first 2 kB."""
    reach = len(data) if rng.random() < 0.5 else min(len(data), 2048)
    for at in rng.integers(0, reach, int(rng.integers(1, 65))):
        data[at] ^= 1 << int(rng.integers(0, 8))


def set_numbers(data: bytearray, seed: Seed, rng: Rng) -> None:
    """One to four numbers of 1 to 8 bytes become extreme, in the first 4 kB or the last (indices stand at either end)."""
    for _ in range(int(rng.integers(1, 5))):
        width = int(rng.choice((1, 2, 4, 4, 8)))
        at = int(rng.integers(0, min(len(data), 4096)))
        at = at if rng.random() < 0.7 else max(0, len(data) - 1 - at)
        _put(data, at, width, rng)


def edit_atoms(data: bytearray, seed: Seed, rng: Rng) -> None:
    """The length before, or a number in the 40 bytes after, one to three names of parts become extreme; or the name changes."""
    names = [m.start() for m in _ATOM.finditer(data, 0, 1 << 20)]
    for at in rng.choice(names, int(rng.integers(1, 4))) if names else []:
        what = rng.random()
        if what < 0.4:
            _put(data, max(0, int(at) - 4), 4, rng)
        elif what < 0.95:
            _put(data, int(at) + 4 + int(rng.integers(0, 40)), int(rng.choice((1, 2, 4, 4, 8))), rng)
        else:
            data[int(at) : int(at) + 4] = bytes(data[int(names[0]) : int(names[0]) + 4])


def spoil_packets(data: bytearray, seed: Seed, rng: Rng) -> None:
    """One to four packets get turned bits, noise from some byte on, or their first bytes zeroed; headers stay whole."""
    for i in rng.integers(0, len(seed.packets), int(rng.integers(1, 5))) if seed.packets else []:
        at, size = seed.packets[int(i)]
        end, what = min(len(data), at + size), rng.random()
        if at >= end:
            continue
        if what < 0.5:
            for k in rng.integers(at, end, int(rng.integers(1, 17))):
                data[k] ^= 1 << int(rng.integers(0, 8))
        elif what < 0.8:
            start = int(rng.integers(at, end))
            data[start:end] = rng.bytes(end - start)
        else:
            n = min(end - at, int(rng.integers(1, 33)))
            data[at : at + n] = bytes(n)


def cut(data: bytearray, seed: Seed, rng: Rng) -> None:
    """The end is missing, or a piece in the middle."""
    start = int(rng.integers(0, len(data)))
    end = len(data) if rng.random() < 0.6 else min(len(data), start + int(rng.integers(1, 5000)))
    del data[start:end]


def repeat(data: bytearray, seed: Seed, rng: Rng) -> None:
    """A piece stands twice, or somewhere else."""
    start = int(rng.integers(0, len(data)))
    piece = bytes(data[start : start + int(rng.integers(1, 3000))])
    if rng.random() < 0.5:
        del data[start : start + len(piece)]
    at = int(rng.integers(0, len(data) + 1))
    data[at:at] = piece


DAMAGES: tuple[Callable[[bytearray, Seed, Rng], None], ...] = (
    flip_bits, set_numbers, edit_atoms, edit_atoms, spoil_packets, spoil_packets, cut, repeat,
)  # fmt: skip


def make_case(number: int, all_seeds: list[Seed]) -> tuple[str, bytes]:
    """The case of this number: what it is made from and by which damages, and its bytes."""
    rng = np.random.Generator(np.random.Philox(key=number))
    seed = all_seeds[int(rng.integers(0, len(all_seeds)))]
    data, done = bytearray(seed.data), []
    if rng.random() < 0.08:  # the head of one file, the rest of another
        other = all_seeds[int(rng.integers(0, len(all_seeds)))]
        at = int(rng.integers(0, min(len(data), len(other.data)) + 1))
        data, done = data[:at] + other.data[at:], [f"spliced with {other.name}"]
    for i in rng.integers(0, len(DAMAGES), int(rng.integers(1, 4))):
        if data:
            DAMAGES[int(i)](data, seed, rng)
            done.append(DAMAGES[int(i)].__name__)
    return f"case {number}: {seed.name}, {', '.join(done)}", bytes(data)


def _put(data: bytearray, at: int, width: int, rng: Rng) -> None:
    """A number there is extreme, near what it was, or random; big- or little-endian."""
    order = "big" if rng.random() < 0.7 else "little"
    was = int.from_bytes(data[at : at + width], order)  # type: ignore[arg-type]
    choice = rng.random()
    if choice < 0.5:
        number = int(rng.choice(np.array(_EXTREMES, np.uint64)))
    elif choice < 0.8:
        number = was + int(rng.integers(-64, 65))
    else:
        number = int(rng.integers(0, 1 << 32))
    data[at : at + width] = (number % (1 << (8 * width))).to_bytes(width, order)[: max(0, len(data) - at)]  # type: ignore[arg-type]
