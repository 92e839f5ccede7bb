"""Memory of a scan at 4K, two workers against one, and what the order of work is worth on a long-tailed set.

    python benchmarks/workers.py [--only memory|workers] [--rounds 1]

Memory: two 4K videos made by FFmpeg (H.264 with 4 reference frames, HEVC of 10 bit), each scanned by a process of its own as in a run;
the figure is that process's peak resident size, everything imported included. Workers: the scan stage of the product on Ray over all
real videos, its workers started and warm before the clock runs; once with one worker, once with two. What the machine itself gives is
beside it: the same files decoded by processes that do nothing else, one and two of them, largest first. Order: two workers on a
long-tailed set, dearest first and in six drawn orders, as a tool without predicted costs has it. The set is made of short real
videos, each repeated without coding it again until lengths follow Zipf's law of exponent 1.5. Needs an idle machine: these are wall times.
"""

import argparse
import hashlib
import json
import random
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.decode import bare_decode, media_folder

MOST_MB = 500
MOST_SHARE = 0.6
_LONGEST = 6_000_000_000
"""Pixels of the longest file of the long-tailed set: some ten seconds of a core, as its frames are small and many."""
_CODECS = {
    "h264": ["-c:v", "libx264", "-preset", "ultrafast", "-refs", "4", "-bf", "3", "-pix_fmt", "yuv420p"],
    "hevc": ["-c:v", "libx265", "-preset", "ultrafast", "-x265-params", "log-level=none", "-pix_fmt", "yuv420p10le"],
}


def make_4k(folder: Path, codec: str) -> Path:
    """Three seconds of 3840 x 2160 at 30 frames a second, with moving shapes, grain and sound."""
    import imageio_ffmpeg

    path = folder / f"{codec}_4k.mp4"
    picture = "testsrc2=size=3840x2160:rate=30:duration=3,noise=alls=8:allf=t"
    command = [
        imageio_ffmpeg.get_ffmpeg_exe(),
        "-v",
        "error",
        "-y",
        "-f",
        "lavfi",
        "-i",
        picture,
        "-f",
        "lavfi",
        "-i",
        "sine=440:duration=3",
    ]
    subprocess.run([*command, *_CODECS[codec], "-c:a", "aac", str(path)], check=True)
    return path


def peak_mb(path: Path) -> float:
    """Peak resident size in MB of a process that probes and scans the file and does nothing else."""
    code = (
        "import resource, sys\n"
        "from curation.scan import ScanConfig, scan_asset\n"
        "from manifests.records import Asset\n"
        "path = sys.argv[1]\n"
        "asset = Asset(asset_id='0' * 32, asset_sha256=b'', asset_md5=b'', size_bytes=0, uri=path)\n"
        "scan = scan_asset(asset, path, ScanConfig())\n"
        "assert scan.asset.error_code is None and scan.asset.n_frames == 90, scan.asset\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000)\n"
    )
    root = Path(__file__).resolve().parent.parent
    done = subprocess.run([sys.executable, "-c", code, str(path)], cwd=root, check=True, capture_output=True, text=True)
    return float(done.stdout)


def make_long_tail(folder: Path) -> None:
    """Twenty-four short real MP4 files, each repeated until the n-th in a drawn order has about n^-1.5 of the first one's pixels and frames."""
    import imageio_ffmpeg

    paths = sorted((media_folder() / "video").glob("*.mp4"), key=lambda path: path.stat().st_size)[:24]
    random.Random(0).shuffle(paths)
    for rank, path in enumerate(paths, start=1):
        repeats = max(1, round(_LONGEST / rank**1.5 / _pixels(path)))
        copy = ["-stream_loop", str(repeats - 1), "-i", str(path), "-map", "0:v:0", "-c", "copy", str(folder / path.name)]
        subprocess.run([imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-y", *copy], check=True)


def _pixels(path: Path) -> int:
    """Pixels of all frames, each frame counted as 200,000 more for what it costs at any size."""
    import av

    with av.open(str(path)) as container:
        video = container.streams.video[0]
        frames = float((video.duration or 0) * (video.time_base or 0) * (video.average_rate or 0))
        return int((video.width * video.height + 200_000) * max(frames, 1))


def wall_seconds(cpus: int, media: Path, draw: int | None = None) -> float:
    """Wall seconds that the scan stage takes over all videos of a folder; in a process of its own, as Ray starts once. With a draw, units come
    in an order drawn by it and not dearest first."""
    root = Path(__file__).resolve().parent.parent
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, "--child", str(cpus), folder, str(media), *(["--draw", str(draw)] if draw is not None else [])]
        found = json.loads(subprocess.run(command, cwd=root, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
    return float(found["seconds"])


def child(cpus: int, folder: Path, media: Path, draw: int | None) -> dict[str, Any]:
    """Probes all videos here, warms each worker up on one of the two cheapest, then times the scan stage on the others."""
    import pyarrow.dataset as pds
    import ray

    from curation.listing import list_inputs
    from curation.probe import probe_asset
    from manifests.records import Asset
    from manifests.schema import to_table
    from pipelines import on_ray, plan
    from pipelines.config import load
    from pipelines.settings import CurateConfig
    from pipelines.stage import Place
    from pipelines.work import missing

    config = load(CurateConfig, "curate", "tiny", [f"engine.cpus={cpus}"])
    place = Place(folder)
    listed = list_inputs([str(media)])
    assets = []
    for number, listing in enumerate(sorted(listed, key=lambda x: x.uri)):
        raw = Path(listing.uri).read_bytes()  # a stage looks whether the bytes are those of the asset
        asset = Asset(
            asset_id=f"{number:032x}", asset_sha256=hashlib.sha256(raw).digest(), asset_md5=b"", size_bytes=len(raw), uri=listing.uri
        )
        assets.append(probe_asset(asset, listing.uri, config.scan.media))
    usable = [a for a in assets if a.error_code is None and a.kind == "video"]
    units = missing(plan.SCAN, config, place, to_table(Asset, usable))
    units, cheapest = units[:-2], units[-2:]
    on_ray.start(config.engine)
    warm: Any = ray.remote(_warm)
    ray.get([warm.remote(unit, config, str(folder)) for unit in cheapest[:cpus]])
    list(on_ray.run([(plan.SCAN, cheapest[0])], config, place, config.engine))  # Ray Data has processes of its own
    if draw is not None:
        random.Random(draw).shuffle(units)
    start = time.monotonic()
    done = sum(counts["rows_out"] for counts in on_ray.run([(plan.SCAN, u) for u in units], config, place, config.engine))
    seconds = time.monotonic() - start
    on_ray.stop()
    rows = pds.dataset([str(p) for p in (folder / "work" / "scan").rglob("*.parquet") if "." not in p.stem]).to_table(["uri", "error_code"])
    if failed := [row for row in rows.to_pylist() if row["error_code"] is not None]:
        raise RuntimeError(f"expected every video scanned, found {failed}")
    return {"seconds": seconds, "files": done}


def _warm(unit: Any, config: Any, dataset: str) -> None:
    """The unit is scanned in this worker, which then waits long enough that the others' units go to other workers."""
    from pipelines import on_ray

    on_ray.run_here("scan", unit, config, dataset)
    time.sleep(3)


def floor_seconds(processes: int) -> float:
    """Wall seconds of so many processes that decode all real videos and do nothing else, imports not counted."""
    paths = sorted((media_folder() / "video").iterdir(), key=lambda path: -path.stat().st_size)
    readable = [str(path) for path in paths if path.is_file()]
    with ProcessPoolExecutor(processes, get_context("spawn")) as pool:
        list(pool.map(_decoded, [readable[-1]] * processes))
        start = time.monotonic()
        list(pool.map(_decoded, readable, chunksize=1))
        return time.monotonic() - start


def _decoded(path: str) -> int:
    """The frames of the file; 0 of one that is no video."""
    import av

    try:
        return bare_decode(path)
    except (av.FFmpegError, IndexError, ValueError):
        return 0


def main() -> None:
    """Prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("memory", "workers", "order"))
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--draw", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(child(int(options.child[0]), Path(options.child[1]), Path(options.child[2]), options.draw)))
        return
    if options.only in (None, "memory"):
        with tempfile.TemporaryDirectory() as folder:
            for codec in _CODECS:
                mb = peak_mb(make_4k(Path(folder), codec))
                print(f"peak memory, scan of 4K {codec}: {mb:.0f} MB (target {MOST_MB}){'' if mb <= MOST_MB else '  MISSED'}")
    if options.only in (None, "workers"):
        media = media_folder() / "video"
        one, two = (min(wall_seconds(cpus, media) for _ in range(options.rounds)) for cpus in (1, 2))
        print(f"scan of all real videos: one worker {one:.1f} s, two {two:.1f} s, x {two / one:.2f} (target {MOST_SHARE})")
        alone, both = (min(floor_seconds(n) for _ in range(options.rounds)) for n in (1, 2))
        print(f"decoding of the same alone: one process {alone:.1f} s, two {both:.1f} s, x {both / alone:.2f}")
    if options.only in (None, "order"):
        with tempfile.TemporaryDirectory() as folder:
            make_long_tail(Path(folder))
            dearest = min(wall_seconds(2, Path(folder)) for _ in range(options.rounds))
            drawn = [min(wall_seconds(2, Path(folder), draw) for _ in range(options.rounds)) for draw in range(6)]
        mean = sum(drawn) / len(drawn)
        print(
            f"long-tailed set, two workers: in drawn orders {', '.join(f'{x:.1f}' for x in drawn)} s, mean {mean:.1f} s, most {max(drawn):.1f} s"
        )
        print(f"dearest first {dearest:.1f} s: x {dearest / mean:.2f} of the mean, x {dearest / max(drawn):.2f} of the most")


if __name__ == "__main__":
    main()
