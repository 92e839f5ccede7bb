"""CPU seconds of reading text on key frames over those of a bare decode of the same real videos, one thread, and per video hour.

    python benchmarks/ocr_cost.py [--all] [--parts]

Without --all: the 23 videos of `benchmarks/decode.py`; with it every video of `text.json`, most of them tiny, which decode for next to
nothing. Key frames are those that the scan keeps (their own cost is the scan's); a clip is at most 16 s of a video. Decode and reading
run file by file in turn. `--parts` tells hints, close looks and readings apart.
"""

import argparse
import hashlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.decode import FILES, bare_decode, cpu_seconds, media_folder
from benchmarks.figures import Figure, as_table

CLIP_US = 16_000_000


def keyframes_of(path: Path) -> list[Any]:
    """The key frames that a scan of the video keeps; made once, then kept in the folder for temporary files."""
    import curation.keyframe_observer as observer
    from curation.keyframes import read_keyframes, to_table

    settings = (observer.LEAST_US, observer.MOST_US, observer.CHANGE_LEVELS, observer.LONG_SIDE_PX, observer.JPEG_QUALITY)
    key = hashlib.sha256(repr((path.name, path.stat().st_size, path.stat().st_mtime_ns, settings)).encode()).hexdigest()[:24]
    kept = Path(tempfile.gettempdir()) / f"dailies-keyframes-{os.getuid()}" / f"{key}.parquet"
    if not kept.is_file():
        import pyarrow.parquet as pq

        kept.parent.mkdir(exist_ok=True)
        frames = _take(str(path), observer.KeyFrameObserver)
        part = kept.with_suffix(f".{os.getpid()}")
        pq.write_table(to_table(frames), part)
        part.replace(kept)
    return read_keyframes(kept)


def _take(path: str, observer: Any) -> list[Any]:
    from curation.decode import decode
    from curation.media import MediaConfig
    from curation.observe import SmallFrames
    from curation.probe import probe

    facts = probe(path, MediaConfig())
    width, height = facts.width or 16, facts.height or 16
    small, taken = SmallFrames(width, height), observer("0" * 32, width, height)
    for source, pts_us in decode(path, MediaConfig()):
        taken.push(small(source, pts_us))
    return list(taken.keyframes)


def clips_of(name: str, frames: Sequence[Any]) -> list[tuple[Any, list[Any]]]:
    """The video cut into clips of at most 16 s, each with its key frames."""
    from manifests.records import Clip

    spans: dict[int, list[Any]] = {}
    for f in frames:
        spans.setdefault((f.pts_us - frames[0].pts_us) // CLIP_US, []).append(f)
    return [
        (Clip(clip_id=f"{name}:{i}", asset_id=name, kind="video", start_us=s[0].pts_us, end_us=s[-1].pts_us + 1), s)
        for i, s in spans.items()
    ]


class Timed:
    """A reader that counts its calls and CPU seconds: hints (low threshold), close looks, lines read."""

    def __init__(self, reader: Any) -> None:
        self._reader = reader
        self.parts: dict[str, list[float]] = {"hints": [0, 0.0], "close looks": [0, 0.0], "lines read": [0, 0.0]}

    def find(self, bgr: Any, least: float) -> Any:
        """As the reader's."""
        return self._count("hints" if least < 0.5 else "close looks", 1, lambda: self._reader.find(bgr, least))

    def read(self, lines: Any) -> Any:
        """As the reader's."""
        return self._count("lines read", len(lines), lambda: self._reader.read(lines))

    def _count(self, part: str, n: int, call: Any) -> Any:
        start = time.process_time()
        result = call()
        self.parts[part][0] += n
        self.parts[part][1] += time.process_time() - start
        return result


def measure(folder: Path, files: Sequence[str], parts: bool = False) -> list[dict[str, Any]]:
    """One row a file: seconds of video, key frames, CPU seconds of a bare decode and of reading."""
    import cv2

    from curation.text import ScoreText, TextConfig

    cv2.setNumThreads(1)
    stage = ScoreText(TextConfig())
    timed = Timed(stage.reader)
    stage.reader = timed
    rows = []
    stage(clips_of("warm", keyframes_of(folder / files[0])[:2]))  # first-use costs are paid before the clock runs
    timed.parts = {name: [0, 0.0] for name in timed.parts}
    for name in files:
        path = folder / name
        frames = keyframes_of(path)
        bare, _ = cpu_seconds(bare_decode, str(path))
        read, _ = cpu_seconds(lambda c: len(stage(c)), clips_of(name, frames))
        seconds = (frames[-1].pts_us - frames[0].pts_us) / 1e6 + 1.0
        rows.append({"file": name, "video_s": seconds, "key_frames": len(frames), "bare_s": bare, "ocr_s": read})
    if parts:
        for part, (n, s) in timed.parts.items():
            print(f"{part:12s} {int(n):5d} {s:7.2f} CPU s")
    return rows


def figures(media: Path) -> list[Figure]:
    """The cost on the 23 videos of `benchmarks/decode.py`."""
    rows = measure(media / "video", FILES)
    return [_ratio(rows), _per_hour(rows)]


def _ratio(rows: list[dict[str, Any]]) -> Figure:
    ratio = sum(r["ocr_s"] for r in rows) / sum(r["bare_s"] for r in rows)
    return Figure(subject="text", what="OCR over bare decode, CPU", value=ratio, target=3.0, on=f"{len(rows)} videos", at_least=False)


def _per_hour(rows: list[dict[str, Any]]) -> Figure:
    hours = sum(r["video_s"] for r in rows) / 3600
    value, frames = sum(r["ocr_s"] for r in rows) / hours, sum(r["key_frames"] for r in rows)
    bare = sum(r["bare_s"] for r in rows) / hours
    on = f"{len(rows)} videos, {frames} key frames; target: 3 x their decode"
    return Figure(subject="text", what="OCR, CPU seconds per video hour", value=value, target=round(3 * bare), on=on, at_least=False)


def main() -> None:
    """Prints a line a file, and the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--all", action="store_true", help="every video of text.json")
    parser.add_argument("--parts", action="store_true", help="hints, close looks and readings apart")
    options = parser.parse_args()
    folder = media_folder()
    names = [Path(e["file"]).name for e in json.loads((folder / "text.json").read_text())["entries"]] if options.all else FILES
    rows = measure(folder / "video", names, options.parts)
    for r in rows:
        print(f"{r['file']:36s} {r['key_frames']:4d} key frames  bare {r['bare_s']:7.3f} s  OCR {r['ocr_s']:7.3f} s")
    print(as_table([_ratio(rows), _per_hour(rows)]))


if __name__ == "__main__":
    main()
