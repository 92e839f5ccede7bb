"""Broken media by the thousand: real files with damaged headers and packets go through the real probe and decode, in the real sandbox.

    python benchmarks/fuzz.py [--cases 20000] [--workers 2] [--first 0] [--keep FOLDER] [--json out.json]

Each case is made from its number alone: a small real file (or the first packets of a larger one, in one of several containers) and one
to three of the damages below. A case passes when it ends in facts and frames or in a MediaError with a known code, within the limits
of time and memory; every tenth is run twice and must end the same way to the last bit. Anything else is a fault of ours: it is
printed, its file is kept under FOLDER, and the exit status is 1. The death of a child is an error of that case like any other.
"""

import argparse
import json
import re
import sys
import tempfile
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.decode import media_folder
from curation.media import CODES, DecodeLog, MediaConfig, MediaError

LIMITS = MediaConfig(
    max_pixels=1 << 21, max_image_pixels=1 << 21, max_frames=1000, max_duration_us=3600 * 1_000_000, max_wall_s=60.0, memory_bytes=2 << 30
)
"""Tight, so that a case that passes them is seen. The real limits are larger and work in the same way."""

TIMEOUT_S = 60.0
CPU_S = 5.0
"""A case that computes for longer is a fault. The wall clock is no measure of that: a busy machine starves a process of low priority."""

N_FRAMES = 12
"""Frames and pieces of sound decoded of a case: damage shows in the first ones or not at all, and cases must cost milliseconds."""

SCAN_EVERY = 20
SCAN_FRAMES = 60
"""Every so many cases the whole scan with its observers is run instead of a bare decode, on at most so many frames."""

SEED_BYTES = 160_000
REPEAT_EVERY = 10
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


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a case ended, what was seen (a digest, or an error's detail), CPU seconds, peak memory of the process so far."""

    verdict: str
    seen: str
    cpu_s: float = 0.0
    peak_mb: int = 0


@dataclass(slots=True)
class Totals:
    """What became of the cases."""

    outcomes: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    worst_cpu_s: float = 0.0
    worst_case: str = ""
    peak_mb: int = 0
    n_repeated: int = 0


def examine(path: str, cfg: MediaConfig) -> list[Any]:
    """Runs in the sandbox: the fields of an Outcome."""
    import resource

    start = time.process_time()
    try:
        verdict, seen = _watch(path, cfg)
    except MediaError as e:
        verdict, seen = (e.code if e.code in CODES else f"FAULT: unknown code {e.code}"), e.detail
    peak = int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) >> (10 if sys.platform == "linux" else 20)
    return [verdict, seen, time.process_time() - start, peak]


def examine_scan(path: str, cfg: MediaConfig) -> list[Any]:
    """Runs in the sandbox: the whole scan of the asset, all observers, at most SCAN_FRAMES frames. The fields of an Outcome."""
    import resource

    from curation.scan import ScanConfig, scan_asset
    from manifests.records import Asset

    start, asset = time.process_time(), Asset(asset_id="a" * 32, asset_sha256=b"", asset_md5=b"", size_bytes=1, uri=path)
    found = scan_asset(asset, path, ScanConfig(media=replace(cfg, max_frames=SCAN_FRAMES)))
    seen = zlib.crc32(repr(found.asset).encode())
    for track in found.tracks:
        seen = zlib.crc32(track.pts_us.tobytes() + np.nan_to_num(track.values).tobytes() + track.pictures.tobytes(), seen)
    error = found.asset.error_code
    verdict = f"scan: {found.asset.kind}" if error is None else f"scan: {error}" if error in CODES else f"FAULT: unknown code {error}"
    peak = int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) >> (10 if sys.platform == "linux" else 20)
    return [verdict, f"{seen:08x}", time.process_time() - start, peak]


def _watch(path: str, cfg: MediaConfig) -> tuple[str, str]:
    """Probe, then decode as a scan does: the verdict and a digest of what was seen. Raises MediaError."""
    from curation import media
    from curation.observe import SmallFrames
    from curation.probe import probe
    from curation.stills import load_picture

    facts = probe(path, cfg)
    seen, log = zlib.crc32(repr(facts).encode()), DecodeLog()
    if facts.kind == "image":
        seen = zlib.crc32(load_picture(path, cfg, 64).tobytes(), seen)
    elif facts.kind == "audio":
        for i, (sound, rate, start_us) in enumerate(media.decode_audio(path, cfg, log=log)):
            seen = zlib.crc32(np.nan_to_num(sound).tobytes() + repr((rate, start_us)).encode(), seen)
            if i >= N_FRAMES:
                break
    else:
        heard: list[int] = []
        small = SmallFrames(facts.width or 16, facts.height or 16)
        frames = media.decode(path, cfg, sound=lambda s: heard.append(zlib.crc32(np.nan_to_num(s.samples).tobytes())), log=log)
        for i, (source, pts_us) in enumerate(frames):
            frame = small(source, pts_us)
            seen = zlib.crc32(np.ascontiguousarray(frame.y).tobytes() + repr(pts_us).encode(), seen)
            if i >= N_FRAMES:
                break
        frames.close()  # type: ignore[attr-defined]
        seen = zlib.crc32(repr(heard).encode(), seen)
    seen = zlib.crc32(repr(log).encode(), seen)
    return (
        f"{facts.kind}, {'damage noticed' if log.n_errors or log.n_corrupt or log.n_sound_errors else 'no damage noticed'}",
        f"{seen:08x}",
    )


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
            left = dict.fromkeys(streams, N_FRAMES)
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


def run(numbers: range, all_seeds: list[Seed], folder: Path, totals: Totals, lock: Any, keep: Path | None = None) -> None:
    """The cases have gone through one sandbox, and the totals count them."""
    from benchmarks import fuzz  # by this name the child imports it, also when this file is the script
    from curation.isolate import Sandbox, SandboxError

    path = folder / f"case-{threading.get_ident()}"
    with Sandbox(TIMEOUT_S, LIMITS.memory_bytes) as box:

        def outcome(number: int) -> Outcome:
            try:
                return Outcome(*box.call(fuzz.examine_scan if number % SCAN_EVERY == 0 else fuzz.examine, str(path), LIMITS))
            except MediaError as e:  # the child died
                return Outcome(f"{e.code} (child lost)", e.detail)
            except SandboxError as e:
                return Outcome("FAULT", str(e))

        for number in numbers:
            name, data = make_case(number, all_seeds)
            path.write_bytes(data)
            first = outcome(number)
            again = outcome(number) if number % REPEAT_EVERY == 0 else None
            with lock:
                n_faults = len(totals.faults)
                _count(totals, name, first, again)
                if keep is not None and (len(totals.faults) > n_faults or "lost" in first.verdict):
                    (keep / f"{number}-{first.verdict.split()[0].strip(':')}").write_bytes(data)
    path.unlink(missing_ok=True)


def _count(totals: Totals, name: str, first: Outcome, again: Outcome | None) -> None:
    totals.outcomes[first.verdict] += 1
    totals.peak_mb = max(totals.peak_mb, first.peak_mb)
    if first.cpu_s > totals.worst_cpu_s:
        totals.worst_cpu_s, totals.worst_case = first.cpu_s, name
    if first.verdict.startswith("FAULT"):
        totals.faults.append(f"{name}: {first.seen}")
    if first.cpu_s > CPU_S:
        totals.faults.append(f"{name}: {first.cpu_s:.1f} s of CPU time")
    if first.peak_mb > LIMITS.memory_bytes >> 20:
        totals.faults.append(f"{name}: {first.peak_mb} MB")
    if again is not None:
        totals.n_repeated += 1
        if (first.verdict, first.seen) != (again.verdict, again.seen):
            totals.faults.append(
                f"{name}: two runs of the same bytes differ: {first.verdict} {first.seen} and {again.verdict} {again.seen}"
            )


def fuzz_all(numbers: range, all_seeds: list[Seed], n_workers: int, keep: Path | None = None) -> Totals:
    """All the cases, dealt to so many workers with a sandbox each."""
    totals, lock = Totals(), threading.Lock()
    with tempfile.TemporaryDirectory(prefix="dailies-fuzz-") as folder:
        shares = [numbers[i::n_workers] for i in range(n_workers)]
        threads = [threading.Thread(target=run, args=(s, all_seeds, Path(folder), totals, lock, keep)) for s in shares]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    return totals


def main() -> int:
    """Runs the cases and prints the totals."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=20_000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--keep", type=Path)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.keep:
        options.keep.mkdir(parents=True, exist_ok=True)
    all_seeds = seeds(media_folder())
    start = time.monotonic()
    totals = fuzz_all(range(options.first, options.first + options.cases), all_seeds, options.workers, options.keep)
    took = time.monotonic() - start
    n_done = totals.outcomes.total()
    for outcome, n in totals.outcomes.most_common():
        print(f"{n:8d}  {outcome}")
    print(f"{n_done:8d}  cases of {len(all_seeds)} seeds, {n_done / took:.0f} a second with {options.workers} workers")
    print(f"worst {totals.worst_cpu_s:.2f} s of CPU time ({totals.worst_case}); peak {totals.peak_mb} MB; {totals.n_repeated} run twice")
    print(f"{len(totals.faults)} faults", *totals.faults[:50], sep="\n")
    if options.json:
        report = {"cases": n_done, "outcomes": dict(totals.outcomes), "worst_cpu_s": totals.worst_cpu_s, "peak_mb": totals.peak_mb}
        options.json.write_text(json.dumps(report | {"cases_per_s": n_done / took, "faults": totals.faults}, indent=1) + "\n")
    return 1 if totals.faults or n_done != options.cases else 0


if __name__ == "__main__":
    sys.exit(main())
