"""Broken media by the thousand: real files with damaged headers and packets go through the real probe and decode, in the real sandbox.

    python benchmarks/fuzz.py [--cases 20000] [--workers 2] [--first 0] [--keep FOLDER] [--json out.json]

Each case is made from its number alone: a small real file (or the first packets of a larger one, in one of several containers) and one
to three of the damages in `damages.py`. A case passes when it ends in facts and frames or in a MediaError with a known code, within the limits
of time and memory; every tenth is run twice, the second time without Python's collector of cycles, and must end the same way to the last
bit: what a damaged picture shows may be what an earlier one left in the decoder's memory, so that it matters when each is let go. Anything
else is a fault of ours: it is printed, its file is kept under FOLDER, and the exit status is 1. The death of a child is an error of that
case like any other.
"""

import argparse
import gc
import json
import sys
import tempfile
import threading
import time
import zlib
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.damages import Seed, make_case, seeds
from benchmarks.decode import media_folder
from curation.decode import DecodeLog
from curation.media import CODES, MediaConfig, MediaError

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

REPEAT_EVERY = 10


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


def examine(path: str, cfg: MediaConfig, collected: bool = True) -> list[Any]:
    """Runs in the sandbox: the fields of an Outcome. `collected`: with Python's collector of cycles."""
    start = _start(collected)
    try:
        verdict, seen = _watch(path, cfg)
    except MediaError as e:
        verdict, seen = (e.code if e.code in CODES else f"FAULT: unknown code {e.code}"), e.detail
    return [verdict, seen, time.process_time() - start, _peak_bytes() >> 20]


def _start(collected: bool) -> float:
    (gc.enable if collected else gc.disable)()
    return time.process_time()


def examine_scan(path: str, cfg: MediaConfig, collected: bool = True) -> list[Any]:
    """Runs in the sandbox: as `examine`, the whole scan of the asset, all observers, at most SCAN_FRAMES frames."""
    from curation.scan import ScanConfig, scan_asset
    from manifests.records import Asset

    start = _start(collected)
    asset = Asset(asset_id="a" * 32, asset_sha256=b"", asset_md5=b"", size_bytes=1, uri=path)
    found = scan_asset(asset, path, ScanConfig(media=replace(cfg, max_frames=SCAN_FRAMES)))
    seen = zlib.crc32(repr(found.asset).encode())
    for track in found.tracks:
        seen = zlib.crc32(track.pts_us.tobytes() + np.nan_to_num(track.values).tobytes() + track.pictures.tobytes(), seen)
    error = found.asset.error_code
    verdict = f"scan: {found.asset.kind}" if error is None else f"scan: {error}" if error in CODES else f"FAULT: unknown code {error}"
    return [verdict, f"{seen:08x}", time.process_time() - start, _peak_bytes() >> 20]


def _peak_bytes() -> int:
    """The most memory this process has held in RAM since it began, all cases before this one included."""
    if sys.platform == "linux":  # ru_maxrss begins with that of the process which started this one
        line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    import resource

    return int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def _watch(path: str, cfg: MediaConfig) -> tuple[str, str]:
    """Probe, then decode as a scan does: the verdict and a digest of what was seen. Raises MediaError."""
    from curation import decode
    from curation.observe import SmallFrames
    from curation.probe import probe
    from curation.stills import load_picture

    facts = probe(path, cfg)
    seen, log = zlib.crc32(repr(facts).encode()), DecodeLog()
    if facts.kind == "image":
        seen = zlib.crc32(load_picture(path, cfg, 64).tobytes(), seen)
    elif facts.kind == "audio":
        pieces: list[int] = []
        decode.decode_sound(
            path, cfg, lambda s: pieces.append(zlib.crc32(np.nan_to_num(s.samples).tobytes() + repr(s.start_us).encode())), log=log
        )
        seen = zlib.crc32(repr(pieces).encode(), seen)
    else:
        heard: list[int] = []
        small = SmallFrames(facts.width or 16, facts.height or 16)
        frames = decode.decode(path, cfg, sound=lambda s: heard.append(zlib.crc32(np.nan_to_num(s.samples).tobytes())), log=log)
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


def run(numbers: range, all_seeds: list[Seed], folder: Path, totals: Totals, lock: Any, keep: Path | None = None) -> None:
    """The cases have gone through one sandbox, and the totals count them."""
    from benchmarks import fuzz  # by this name the child imports it, also when this file is the script
    from curation.isolate import Sandbox, SandboxError

    path = folder / f"case-{threading.get_ident()}"
    with Sandbox(TIMEOUT_S, LIMITS.memory_bytes) as box:

        def outcome(number: int, collected: bool = True) -> Outcome:
            try:
                return Outcome(*box.call(fuzz.examine_scan if number % SCAN_EVERY == 0 else fuzz.examine, str(path), LIMITS, collected))
            except MediaError as e:  # the child died
                return Outcome(f"{e.code} (child lost)", e.detail)
            except SandboxError as e:
                return Outcome("FAULT", str(e))

        for number in numbers:
            name, data = make_case(number, all_seeds)
            path.write_bytes(data)
            first = outcome(number)
            again = outcome(number, collected=False) if number % REPEAT_EVERY == 0 else None
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
