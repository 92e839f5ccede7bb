"""The loader over a bare read and decode of the same members, in one process, with the same number of worker threads, round by round.

    python benchmarks/loader.py [DATASET] [--threads 1,2] [--rounds 6] [--steps 24] [--size 128] [--frames 32] [--json out.json]

The loader gives what a step trains on: batches in the plan's order, hashes compared, deny list looked at, frames chosen by timestamp, a
window and crop drawn by key, decoding from the key frame before it, bytes that the step's device turns into numbers. Bare is a thread pool over
the same members in the same order that reads each at its offset and decodes with PyAV from the clip's first frame to the last of the same
window. It does so twice over:

    frames      and does nothing with them
    pictures    and scales the window's frames to RGB, to the size that the loader scales them to, as one array

All take turns, forwards and backwards, so that a busy machine slows all. Ratios are of each side's median round by the clock, and of all
its CPU seconds, which others' work on the machine changes less. Target: 0.95 of `pictures`. With --frames as
long as the clips (96) there is no later key frame to begin at, so the decoding is the same.

Without DATASET the samples are curated first (`dailies samples`, `dailies curate --config tiny`), about a minute.
"""

import argparse
import io
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch

from benchmarks.figures import Figure, as_table
from manifests.shards import read_payload
from manifests.tables import ManifestStore
from training import keyed
from training.config import TrainConfig
from training.data.batch import BatchLoader
from training.data.config import DataConfig
from training.data.index import Sample, load_samples
from training.data.plan import Plan

TARGET = 0.95


def curated(folder: Path) -> Path:
    """A dataset of the sample media, curated in `folder`."""
    from curation.samples import generate
    from pipelines import config
    from pipelines.curate import curate
    from pipelines.progress import Progress
    from pipelines.settings import CurateConfig

    generate(folder / "media")
    curate([str(folder / "media")], folder / "dataset", config.load(CurateConfig, "curate", "tiny"), Progress(quiet=True))
    return folder / "dataset"


def members(plan: Plan, steps: int, n_frames: int) -> list[tuple[Sample, int]]:
    """Each member of the steps in order, with the first frame of the window that the loader draws for it."""
    found = []
    for place in (place for step in range(steps) for place in plan.batch(step).members):
        sample, settings = plan.samples[place.position], plan.settings
        last = (sample.n_frames or 1) - n_frames
        key = (settings.seed, settings.stage, sample.clip_id, place.epoch, "window")
        found.append((sample, 0 if sample.kind == "image" else keyed.integer(0, last + 1, *key)))
    return found


def bare(dataset: Path, sample: Sample, start: int, n_frames: int, short_side_px: int | None) -> int:
    """Reads and decodes one member up to the end of the window; with a size, its frames become one RGB array. Gives the frames decoded."""
    import av
    from av.video.reformatter import VideoReformatter

    scaler = VideoReformatter()
    data = read_payload(dataset / sample.shard_path, sample.offset, sample.size_bytes)
    n, end, pictures = 0, start + (n_frames if sample.kind == "video" else 1), []
    with av.open(io.BytesIO(data)) as container:
        stream = container.streams.video[0]
        stream.thread_count = 1
        for frame in container.decode(stream):
            if n >= start and short_side_px is not None:
                scale = short_side_px / min(frame.width, frame.height)
                width, height = round(frame.width * scale), round(frame.height * scale)
                rgb = scaler.reformat(frame, width=width, height=height, format="rgb24", interpolation="AREA", threads=1)
                pictures.append(rgb.to_ndarray())
            n += 1
            if n == end:
                break
    if pictures:
        np.stack(pictures)
    return n


def compare(dataset: Path, plan: Plan, config: DataConfig, steps: int, rounds: int) -> dict[str, Any]:
    """Seconds of the loader and of both bare loops over the same members, and the ratios."""
    of_step = members(plan, steps, config.n_frames)

    batches = BatchLoader(dataset, plan, config, 0, 1)  # one for all rounds, as a run has one for all steps

    def loader() -> None:
        for _ in batches.batches(0, steps):
            pass

    def plain(short_side_px: int | None) -> Callable[[], None]:
        def work() -> None:
            with ThreadPoolExecutor(config.decode_threads) as pool:
                list(pool.map(lambda m: bare(dataset, m[0], m[1], config.n_frames, short_side_px), of_step))

        return work

    ways = {
        "loader": loader,
        "pictures": plain(config.resize_px),
        "frames": plain(None),
    }
    clock: dict[str, list[float]] = {name: [] for name in ways}
    cpu = dict.fromkeys(ways, 0.0)
    for round_no in range(rounds + 1):
        for name in list(ways)[:: 1 if round_no % 2 else -1]:
            began, used = time.perf_counter(), time.process_time()
            ways[name]()
            if round_no:  # the first round warms files and libraries
                clock[name].append(time.perf_counter() - began)
                cpu[name] += time.process_time() - used
    median = {name: statistics.median(times) for name, times in clock.items()}
    return {
        "threads": config.decode_threads,
        "samples": len(of_step) * rounds,
        "median_s": {name: round(s, 3) for name, s in median.items()},
        "cpu_s": {name: round(s, 3) for name, s in cpu.items()},
        "clock": {name: round(s / median["loader"], 4) for name, s in median.items() if name != "loader"},
        "cpu": {name: round(s / cpu["loader"], 4) for name, s in cpu.items() if name != "loader"},
    }


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path, nargs="?")
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--frames", type=int, default=32)
    parser.add_argument("--no-hashes", action="store_true", help="do not compare payloads with their hashes, which bare does not either")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()

    torch.set_num_threads(1)  # the threads compared are those that decode
    with tempfile.TemporaryDirectory(prefix="loader-") as folder:
        dataset = args.dataset or curated(Path(folder))
        version = ManifestStore(dataset).version()
        found = []
        for threads in map(int, args.threads.split(",")):
            data = DataConfig(
                size_px=args.size,
                resize_px=args.size + 16,
                n_frames=args.frames,
                global_batch=args.batch,
                decode_threads=threads,
                verify_sha256=not args.no_hashes,
            )
            plan = Plan(TrainConfig(data=data).plan_settings(version), load_samples(dataset, version))
            found.append(compare(dataset, plan, data, args.steps, args.rounds))
            print(json.dumps(found[-1]), file=sys.stderr, flush=True)
    result = {"clips": len(plan.samples), "cores": len(os.sched_getaffinity(0)), "load": os.getloadavg()[0], "runs": found}
    figures = [
        Figure(
            subject="loader", what=f"bare read + decode over ours, {by}, {r['threads']} threads", value=r[by]["pictures"],
            target=TARGET, on=f"{r['samples']} samples",
        )
        for r in found
        for by in ("clock", "cpu")
    ]  # fmt: skip
    print(as_table(figures))
    print(json.dumps(result))
    if args.json:
        args.json.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
