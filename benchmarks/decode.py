"""CPU seconds of the whole analysis over those of a bare decode of the same real files, side by side in one run, one thread.

    python benchmarks/decode.py [--json out.json] [--rounds 2] [--no-vectors]

A bare decode is a PyAV loop over all frames that looks at none (thread_count 1, slices). Both run file by file in turn, so that a
busy machine slows both. The ratio is of sums over all files, each file's best round.
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


def bare_decode(path: str) -> int:
    """The number of frames PyAV decodes, one thread, nothing done with them."""
    import av

    with av.open(path) as container:
        stream = container.streams.best("video")
        stream.thread_count = 1
        stream.thread_type = "SLICE"
        return sum(1 for _ in container.decode(stream))


def analysis(path: str, vectors: bool) -> int:
    """The number of frames of the full analysis, probe included."""
    from curation.analyse import AnalyseConfig, analyse_asset
    from curation.motion import MotionConfig
    from manifests.records import Asset

    asset = Asset(asset_id="0" * 32, asset_sha256=b"", asset_md5=b"", size_bytes=0, uri=path)
    return analyse_asset(asset, path, AnalyseConfig(motion=MotionConfig(vectors=vectors))).asset.n_frames or 0


def cpu_seconds(function: Callable[..., int], *args: Any) -> tuple[float, int]:
    """CPU time (user and system) of one call in s, and its result."""
    start = time.process_time()
    result = function(*args)
    return time.process_time() - start, result


def measure(folder: Path, rounds: int, vectors: bool) -> list[dict[str, Any]]:
    """One row a file: best CPU seconds of both over the rounds, taken in turn."""
    rows = []
    for name in FILES:
        path = str(folder / "video" / name)
        bare, full, frames = float("inf"), float("inf"), 0
        for _ in range(rounds):
            bare = min(bare, cpu_seconds(bare_decode, path)[0])
            seconds, frames = cpu_seconds(analysis, path, vectors)
            full = min(full, seconds)
        rows.append({"file": name, "frames": frames, "bare_s": bare, "analyse_s": full, "ratio": full / bare})
    return rows


def main() -> None:
    """Prints the table and the ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="also write the rows here")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--no-vectors", action="store_true", help="leave codec motion vectors out")
    options = parser.parse_args()
    import cv2

    cv2.setNumThreads(1)
    folder = media_folder()
    analysis(str(folder / "video" / FILES[0]), vectors=False)  # imports and first-use costs are paid before the clock runs
    rows = measure(folder, options.rounds, not options.no_vectors)
    bare, full = sum(r["bare_s"] for r in rows), sum(r["analyse_s"] for r in rows)
    for r in rows:
        print(f"{r['file']:32s} {r['frames']:6d} frames  bare {r['bare_s']:7.3f} s  analyse {r['analyse_s']:7.3f} s  x {r['ratio']:.2f}")
    print(f"{'sum':32s} {sum(r['frames'] for r in rows):6d} frames  bare {bare:7.3f} s  analyse {full:7.3f} s  x {full / bare:.3f}")
    if options.json:
        options.json.write_text(json.dumps({"rows": rows, "bare_s": bare, "analyse_s": full, "ratio": full / bare}, indent=1))


if __name__ == "__main__":
    main()
