"""CPU seconds of the whole scan over those of a bare decode of the same real files, side by side in one run, one thread.

    python benchmarks/decode.py [--json out.json] [--rounds 2] [--silent] [--no-vectors]

A bare decode is a PyAV loop that looks at nothing (thread_count 1, slices): over the pictures alone, and over pictures and sound, as the
scan decodes both. The scan is everything that opens the medium: probe, decode, all observers, key frames, the copy of the sound; then
shots, clips and every measure on tracks. All run file by file in turn, so that a busy machine slows all. The ratio is of sums over all
files, each file's best round.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

FILES = (
    "bbb_rabbit_240p_13s.mp4",
    "chrome_ad_128p_30s.mp4",
    "london_zoom_360p.mp4",
    "sea_360p.mp4",
    "sea_360p.webm",
    "sea_360p.wmv",
    "bbb_rabbit_356p_33s.mp4",
    "mdn_frog_480p.mp4",
    "mdn_frog_480p.webm",
    "chrome_ad_30s.webm",
    "chaplin.mp4",
    "mdn_flower.mp4",
    "climbing_portrait.mp4",
    "bbb_rabbit_720p_13s.mp4",
    "bbb_intro_720p_30s.webm",
    "dog_in_bed_720p.mp4",
    "traffic_720p_vfr.mp4",
    "sam2_blocks.mp4",
    "phone_rot180_shaky.mp4",
    "slides_laion_1080p.mp4",
    "azure_bumper_1080p.mp4",
    "selfie_rot90_1440x1080.mp4",
    "hdr10_av1_portrait.mp4",
)
"""From 240 to 1440 lines; H.264, VP8/VP9, AV1, HEVC, WMV; constant and variable rate."""


def media_folder() -> Path:
    """The folder of the test media: DAILIES_TEST_MEDIA, else `shared/media` beside the project."""
    return Path(os.environ.get("DAILIES_TEST_MEDIA", Path(__file__).resolve().parents[2] / "shared" / "media"))


def bare_decode(path: str, sound: bool = False) -> int:
    """The number of frames PyAV decodes, one thread, nothing done with them; with the first sound stream where asked."""
    import av

    with av.open(path) as container:
        video = container.streams.best("video")
        video.thread_count = 1
        video.thread_type = "SLICE"
        streams = [video, *container.streams.audio[:1]] if sound else [video]
        return sum(isinstance(frame, av.VideoFrame) for packet in container.demux(streams) for frame in packet.decode())


def analysis(path: str, sound: bool = True, vectors: bool = True) -> int:
    """The number of frames of the scan, its clips measured: all that curation does with a video but for text and networks."""
    from curation.scan import ScanConfig, scan_asset
    from curation.split import SplitConfig, split_asset
    from curation.tracks import by_name
    from manifests.records import Asset
    from pipelines.measures import MEASURES, MeasuresConfig, run_measure

    asset = Asset(asset_id="0" * 32, asset_sha256=b"", asset_md5=b"", size_bytes=0, uri=path)
    scan = scan_asset(asset, path, ScanConfig(sound=sound, vectors=vectors))
    tracks, settings = by_name(scan.tracks), MeasuresConfig()
    for clip in split_asset(scan.asset, tracks, SplitConfig()).clips:
        for measure in MEASURES:
            run_measure(measure, clip, tracks, getattr(settings, measure.name))
    return scan.asset.n_frames or 0


def cpu_seconds(function: Callable[..., int], *args: Any) -> tuple[float, int]:
    """CPU time (user and system) of one call in s, and its result."""
    start = time.process_time()
    result = function(*args)
    return time.process_time() - start, result


def measure(folder: Path, rounds: int, sound: bool, vectors: bool) -> list[dict[str, Any]]:
    """One row a file: best CPU seconds of each over the rounds, taken in turn."""
    rows = []
    for name in FILES:
        path = str(folder / "video" / name)
        bare, heard, full, frames = float("inf"), float("inf"), float("inf"), 0
        for _ in range(rounds):
            bare = min(bare, cpu_seconds(bare_decode, path)[0])
            heard = min(heard, cpu_seconds(bare_decode, path, True)[0]) if sound else bare
            seconds, frames = cpu_seconds(analysis, path, sound, vectors)
            full = min(full, seconds)
        rows.append({"file": name, "frames": frames, "bare_s": bare, "bare_with_sound_s": heard, "scan_s": full})
    return rows


def main() -> None:
    """Prints the table and the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="also write the rows here")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--silent", action="store_true", help="leave the sound out of both")
    parser.add_argument("--no-vectors", action="store_true", help="leave codec motion vectors out")
    options = parser.parse_args()
    import cv2

    cv2.setNumThreads(1)
    folder = media_folder()
    analysis(str(folder / "video" / FILES[0]))  # imports and first-use costs are paid before the clock runs
    rows = measure(folder, options.rounds, not options.silent, not options.no_vectors)
    for r in rows:
        ratio = r["scan_s"] / r["bare_with_sound_s"]
        print(f"{r['file']:32s} {r['frames']:6d} frames  bare {r['bare_with_sound_s']:7.3f} s  scan {r['scan_s']:7.3f} s  x {ratio:.2f}")
    bare, heard, full = (sum(r[k] for r in rows) for k in ("bare_s", "bare_with_sound_s", "scan_s"))
    print(
        f"scan {full:.2f} s; x {full / heard:.3f} of a decode of the same streams ({heard:.2f} s); x {full / bare:.3f} of the pictures alone"
    )
    if options.json:
        options.json.write_text(json.dumps({"rows": rows, "ratio": full / heard, "ratio_to_pictures": full / bare}, indent=1))


if __name__ == "__main__":
    main()
