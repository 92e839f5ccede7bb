"""What finding copies costs: CPU seconds per hour of video, and over a bare decode of the same files, in one run on one thread.

    python benchmarks/copies_cost.py [--clip-s 8]

Three parts: the hashes taken while the medium is scanned, the hashes of key frames (their JPEGs are read once, here the reading counts in
full), and the comparison of all pairs of hashes of the files' clips, which grows with the square of their number and is therefore stated
as a rate. The key frames themselves are taken for every measure on content and are not counted.
"""

import argparse
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np

from benchmarks.decode import FILES, bare_decode, cpu_seconds, media_folder
from curation import near_hashes
from curation.embeddings import DescribeClips, DescriptorConfig
from curation.hash_observer import HashObserver
from curation.keyframe_observer import KeyFrameObserver
from curation.keyframes import of_clip
from curation.media import MediaConfig
from curation.observe import Frame
from curation.pdq import to_words
from curation.probe import probe, with_facts
from curation.scan import watch
from curation.tracks import Track, by_name
from manifests.records import Asset, Clip


class Timed:
    """An observer whose CPU time is added up."""

    def __init__(self) -> None:
        self.observer, self.seconds = HashObserver(), 0.0

    def push(self, frame: Frame) -> None:
        """As the observer does."""
        start = time.process_time()
        self.observer.push(frame)
        self.seconds += time.process_time() - start

    def finish(self) -> list[Track]:
        """As the observer does."""
        return self.observer.finish()


@dataclass(frozen=True, slots=True)
class Cost:
    """CPU seconds of a file, its length, and what came out."""

    length_s: float
    decode_s: float
    scan_s: float
    describe_s: float
    n_clips: int
    own: list[bytes]
    probes: list[bytes]


def cost_of(path: Path, clip_s: float) -> Cost:
    """The cost of one file, cut into clips of equal length."""
    decode_s, _ = cpu_seconds(bare_decode, str(path))
    asset = Asset(asset_id=path.name, asset_sha256=b"", asset_md5=b"", size_bytes=0, uri=str(path))
    asset = with_facts(asset, probe(str(path), MediaConfig()))
    pictures, timed = KeyFrameObserver(path.name, asset.width or 16, asset.height or 16), Timed()
    tracks = by_name(watch(str(path), asset, [pictures, timed], MediaConfig()))
    clips = list(_clips(asset, clip_s))
    batch = [(c, of_clip(pictures.keyframes, c), tracks["hashes"]) for c in clips]
    batch = [item for item in batch if item[1]]
    start = time.process_time()
    found = DescribeClips(DescriptorConfig())(batch)
    describe_s = time.process_time() - start
    hashes = [(h, own) for d in found for h, own in zip(d.pdq, d.pdq_own, strict=True)]
    return Cost(
        (asset.duration_us or 0) / 1e6,
        decode_s,
        timed.seconds,
        describe_s,
        len(batch),
        [h for h, own in hashes if own],
        [h for h, own in hashes if not own],
    )


def _clips(asset: Asset, clip_s: float) -> Iterator[Clip]:
    start, end, step = asset.start_us or 0, (asset.start_us or 0) + (asset.duration_us or 0), round(clip_s * 1e6)
    for i, at in enumerate(range(start, end, step)):
        size = {"width": asset.width, "height": asset.height}
        yield Clip(clip_id=f"{asset.asset_id} {i}", asset_id=asset.asset_id, kind="video", start_us=at, end_us=min(end, at + step), **size)


def main() -> None:
    """Prints the costs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clip-s", type=float, default=8.0, help="length of the clips")
    options = parser.parse_args()
    import cv2

    cv2.setNumThreads(1)
    folder = media_folder() / "video"
    cost_of(folder / FILES[0], options.clip_s)  # imports and first-use costs are paid before the clock runs
    costs = [cost_of(folder / name, options.clip_s) for name in FILES]
    hours = sum(c.length_s for c in costs) / 3600
    decode = sum(c.decode_s for c in costs)
    parts = {
        "bare decode": decode,
        "hashes in the scan": sum(c.scan_s for c in costs),
        "hashes of key frames": sum(c.describe_s for c in costs),
    }
    print(f"{len(costs)} files, {hours * 60:.1f} minutes, {sum(c.n_clips for c in costs)} clips of at most {options.clip_s:g} s")
    for what, seconds in parts.items():
        print(f"{what:22s} {seconds / hours:8.1f} CPU s per video hour, x {seconds / decode:.3f} of decode")
    own, probes = to_words([h for c in costs for h in c.own]), to_words([h for c in costs for h in c.probes])
    n_clips = sum(c.n_clips for c in costs)
    print(
        f"a clip has {len(own) / n_clips:.0f} own hashes and {len(probes) / n_clips:.0f} probes, {32 * (len(own) + len(probes)) / n_clips:.0f} bytes"
    )
    start = time.process_time()
    for _ in near_hashes.near_pairs(own, np.concatenate([own, probes]), 31):
        pass
    seconds, pairs = time.process_time() - start, len(own) * (len(own) + len(probes))
    print(
        f"all pairs: {pairs / seconds / 1e6:.0f} M pairs of hashes a CPU second, {seconds / (n_clips**2 / 2) * 1e6:.0f} us a pair of clips"
    )


if __name__ == "__main__":
    main()
