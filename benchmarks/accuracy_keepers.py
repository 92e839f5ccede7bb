"""Which of two copies is kept: how often it is the original, for copies made of real clips, by our figure and by simpler ones.

    python benchmarks/accuracy_keepers.py

Originals are the first seconds of real clips, as H.264 at crf 18; a copy is made of what is decoded from that. Copies coded anew by a
better or a worse coder say whether bits are told apart by who wrote them. The figure was chosen among some twenty products of bits, pixels
and measures on this table's H.264 copies; transcodes were new to it.
"""

import dataclasses
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import cv2
import numpy as np

from benchmarks import copy_edits
from benchmarks.copy_edits import EDITS, SOURCES, Film, read, write
from benchmarks.figures import Figure, as_table
from curation.keepers import copy_quality
from curation.media import MediaConfig
from curation.probe import probe, with_facts
from curation.quality import QualityConfig, QualityObserver, measure_clip_quality
from curation.scan import watch
from curation.tracks import by_name
from manifests.records import Asset, Clip
from manifests.schema import to_table

SHOWN = ("logo", "subtitle", "letterbox", "pillarbox", "bars over the picture", "grey", "contrast", "gamma", "crop to 95 %", "crop to 90 %")
"""Of the edits that copies are looked for with, those that leave clip and time as they were."""
ORIGINAL_CRF, SECONDS, LONG_SIDE_PX = 18, 2.5, 640


@dataclass(frozen=True)
class Copy:
    """How a copy is made: what is done to the pictures, and by what they are coded."""

    edit: Callable[[Film], Film]
    crf: int
    encoder: str = "libx264"
    options: dict[str, str] | None = None


def _scaled(factor: float) -> Callable[[Film], Film]:
    how = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
    return lambda film: [(at, cv2.resize(p, [round(n * factor / 2) * 2 for n in p.shape[1::-1]], interpolation=how)) for at, p in film]


def _same(film: Film) -> Film:
    return film


def _blurred(film: Film) -> Film:
    return [(at, cv2.GaussianBlur(p, (0, 0), 0.7)) for at, p in film]


def _sharpened(film: Film) -> Film:
    return [(at, np.clip(p * 1.6 - 0.6 * cv2.GaussianBlur(p, (0, 0), 1.5).astype(np.float32), 0, 255).astype(np.uint8)) for at, p in film]


COPIES: dict[str, Copy] = {
    **{name: Copy(*EDITS[name]) for name in SHOWN},
    **{f"H.264, crf {crf}": Copy(_same, crf) for crf in (24, 30, 38)},
    **{f"scaled to {share} %": Copy(_scaled(share / 100), 24) for share in (75, 50)},
    **{f"enlarged to {share} %": Copy(_scaled(share / 100), 22) for share in (150, 200)},
    "softened": Copy(_blurred, 24),
    "sharpened": Copy(_sharpened, 24),
    "MPEG-4, step 5": Copy(_same, 0, "mpeg4", {"qmin": "5", "qmax": "5"}),
    "HEVC, crf 26": Copy(_same, 26, "libx265", {"crf": "26", "preset": "veryfast", "x265-params": "log-level=none:pools=1"}),
    "VP9, crf 32": Copy(_same, 32, "libvpx-vp9", {"crf": "32", "b": "0", "deadline": "realtime", "cpu-used": "7"}),
}


@dataclass(frozen=True)
class Seen:
    """A file and its one clip, measured."""

    asset: Asset
    clip: Clip


def figures(folder: Path) -> list[Figure]:
    """The share of copies beside which the original is kept; `folder` is the test media."""
    found = {name: list[tuple[Seen, Seen]]() for name in COPIES}
    for name, original, copy in _pairs(folder / "video"):
        found[name].append((original, copy))
    every = [pair for pairs in found.values() for pair in pairs]
    if not every:
        return []
    by = {"sharpness": lambda s: s.clip.sharpness or 0, "pixels": lambda s: (s.asset.width or 0) * (s.asset.height or 0), "bits": _bits}
    others = ", ".join(f"by {name} {_share(every, quality):.3f}" for name, quality in by.items())
    worst = min(found, key=lambda name: _share(found[name], _ours))
    return [
        _figure(
            "the original of a copy is kept", _share(every, _ours), f"{len(every)} copies of {len(every) // len(COPIES)} clips; {others}"
        ),
        _figure("the same, of the hardest copy", _share(found[worst], _ours), worst),
    ]


def _figure(what: str, value: float, on: str) -> Figure:
    return Figure(subject="keepers", what=what, value=value, target=0.95, on=on)


def _bits(seen: Seen) -> float:
    return seen.asset.size_bytes


def _share(pairs: list[tuple[Seen, Seen]], quality: Callable[[Seen], float]) -> float:
    """Of pairs of an original and its copy, those in which the original is the better; a draw is none."""
    return float(np.mean([quality(original) > quality(copy) for original, copy in pairs]))


def _ours(seen: Seen) -> float:
    return float(copy_quality(to_table(Clip, [seen.clip]), to_table(Asset, [seen.asset]))[0].as_py())


def _pairs(folder: Path) -> Iterator[tuple[str, Seen, Seen]]:
    """What was done, the original and the copy, for every copy of every source."""
    copy_edits.LONG_SIDE_PX, copy_edits.SECONDS = LONG_SIDE_PX, SECONDS
    with tempfile.TemporaryDirectory() as work:
        file = Path(work) / "film.mp4"
        for source in SOURCES:
            write(file, read(folder / source), ORIGINAL_CRF)
            original, film = _see(file), read(file)
            for name, copy in COPIES.items():
                write(file, copy.edit(film), copy.crf, copy.encoder, copy.options)
                yield name, original, _see(file)


def _see(path: Path) -> Seen:
    asset = Asset(asset_id="film", asset_sha256=b"", asset_md5=b"", size_bytes=path.stat().st_size, uri=str(path))
    asset = with_facts(asset, probe(str(path), MediaConfig()))
    clip = Clip(clip_id="film", asset_id="film", kind="video", start_us=-(10**9), end_us=10**12)
    tracks = by_name(watch(str(path), asset, [QualityObserver()], MediaConfig()))
    return Seen(asset, dataclasses.replace(clip, **measure_clip_quality(clip, tracks, QualityConfig())))


if __name__ == "__main__":
    from benchmarks.decode import media_folder

    os.environ.setdefault("OMP_NUM_THREADS", "1")
    print(as_table(figures(media_folder())))
