"""CPU seconds of shots and motion by dailies and by peers' own tools on the same real files, with their accuracy beside it.

    python benchmarks/peers.py [--json out.json] [--data-juicer ENVIRONMENT] [--files PART]

Every tool runs as its users run it, on one thread: a process a file, but for Data-Juicer, which takes all files in one run. Start-up (the same command without a file) is measured and taken off. CPU seconds are user + system of the process and its children.
The peers:

- PySceneDetect's command `detect-adaptive list-scenes`, then FFmpeg's `vmafmotion` at full size;
- libvmaf of the file against itself, whose motion feature Open-Sora 1.3 and SpatialVID take, after PySceneDetect for the shots;
- Data-Juicer 1.6.1's scene split and motion filter, in an environment of its own (see `DATA_JUICER`), where one is named: as they come, at
  full size and with the clips encoded; with PySceneDetect's command in place of the split, so that nothing is encoded; `--small`: so at 256 px.
  Not on the longest file: its motion filter keeps every frame of a video, and did not end in 24 GB.

Accuracy: F1 of hard cuts within one frame on `cuts.json`, and Spearman's rank correlation of the mean motion of each file with vmafmotion's.
"""

import argparse
import csv
import ctypes
import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np

from benchmarks.decode import FILES, media_folder

DATA_JUICER = 'uv venv E; uv pip install --python E/bin/python "py-data-juicer==1.6.1" aiohttp opencv-python-headless scenedetect-headless av==13.1.0 ffmpeg-python'
"""How the environment for `--data-juicer E` is made."""

LONG = "slides_laion_1080p.mp4"
"""A third of all frames, most of which repeat."""

_ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENCV_FFMPEG_CAPTURE_OPTIONS": "threads;1", "HF_HUB_OFFLINE": "1", "OPENCV_FOR_THREADS_NUM": "1"}


@dataclass(frozen=True, slots=True)
class Answer:
    """What a tool said of a file: hard cuts as frame numbers, where it finds cuts, its mean motion, and what that cost."""

    cpu_s: float
    cuts: list[int] | None
    motion: float | None


def run(command: list[str], cwd: str | None = None) -> tuple[float, str]:
    """CPU seconds of the command and its children, and what it printed. Data-Juicer's workers are children of a server that outlives it: on
    Linux this process inherits them, and waits for them too, or nobody would count what they did."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_SUBREAPER, 1)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | _ONE_THREAD, cwd=cwd, check=False)
    with suppress(ChildProcessError):
        while True:
            os.waitpid(-1, 0)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command[:3])}: status {done.returncode}: {done.stderr[-800:]}")
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, done.stdout


@cache
def start_up(*command: str) -> float:
    """CPU seconds of a command that does nothing, the least of three."""
    return min(run(list(command))[0] for _ in range(3))


def ffmpeg() -> str:
    """The FFmpeg binary that travels with imageio-ffmpeg: it has vmafmotion and libvmaf."""
    import imageio_ffmpeg

    return str(imageio_ffmpeg.get_ffmpeg_exe())


_SUBREAPER = 36
"""PR_SET_CHILD_SUBREAPER of prctl(2)."""

_CUTS: dict[str, tuple[float, list[int]]] = {}


def scenedetect_cuts(path: str, folder: str) -> tuple[float, list[int]]:
    """PySceneDetect's adaptive detector by its command: the first frame of every scene but the first. Several peers take it: run once a file."""
    if path in _CUTS:
        return _CUTS[path]
    command = [str(Path(sys.executable).parent / "scenedetect")]
    begins_s = start_up(*command, "-q", "version")
    cpu, _ = run([*command, "-q", "-i", path, "-o", folder, "detect-adaptive", "list-scenes", "-q", "-s"])
    listed = Path(folder) / f"{Path(path).stem}-Scenes.csv"
    if not listed.is_file():
        raise RuntimeError("PySceneDetect wrote no list of scenes: it could not read the file")
    rows = list(csv.DictReader(listed.open()))
    _CUTS[path] = cpu - begins_s, [int(r["Start Frame"]) - 1 for r in rows][1:]
    return _CUTS[path]


def vmafmotion(path: str, folder: str) -> tuple[float, float]:
    """FFmpeg's vmafmotion at full size, mean over the frames."""
    stats = Path(folder) / "motion.txt"
    cpu, _ = run(
        [ffmpeg(), "-v", "error", "-threads", "1", "-filter_threads", "1", "-i", path, "-map", "0:v:0", "-fps_mode", "passthrough",
         "-vf", f"vmafmotion=stats_file={stats.name}", "-f", "null", "-"], folder
    )  # fmt: skip
    values = [float(line.rsplit(":", 1)[1]) for line in stats.read_text().split("\n") if "motion:" in line]
    return cpu, float(np.mean(values))


def libvmaf(path: str, folder: str) -> tuple[float, float]:
    """libvmaf of the file against itself: the mean of its motion feature."""
    log = Path(folder) / "vmaf.csv"
    cpu, _ = run(
        [ffmpeg(), "-v", "error", "-threads", "1", "-i", path, "-threads", "1", "-i", path,
         "-lavfi", f"[0:v:0][1:v:0]libvmaf=log_fmt=csv:log_path={log.name}:n_threads=1", "-f", "null", "-"], folder
    )  # fmt: skip
    rows = list(csv.DictReader(log.open()))
    name = next(k for k in rows[0] if k and "motion2" in k)
    return cpu, float(np.mean([float(r[name]) for r in rows]))


def peer_filter(path: str, folder: str) -> Answer:
    """PySceneDetect's command and vmafmotion."""
    cut_s, cuts = scenedetect_cuts(path, folder)
    motion_s, motion = vmafmotion(path, folder)
    return Answer(cut_s + motion_s, cuts, motion)


def peer_libvmaf(path: str, folder: str) -> Answer:
    """PySceneDetect's command and libvmaf of the file with itself."""
    cut_s, cuts = scenedetect_cuts(path, folder)
    motion_s, motion = libvmaf(path, folder)
    return Answer(cut_s + motion_s, cuts, motion)


def data_juicer(environment: str, recipe: str, paths: tuple[str, ...]) -> tuple[float, dict[str, float | None]]:
    """CPU seconds of a recipe of Data-Juicer on the files by its command, start-up included; for each file that came out, the motion it gives."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "in.jsonl").write_text("".join(json.dumps({"text": f"<__dj__video> {p}", "videos": [p]}) + "\n" for p in paths))
        settings = {"dataset_path": str(root / "in.jsonl"), "np": 1, "open_tracer": False, "video_key": "videos"}
        settings |= {"export_path": str(root / "out" / "out.jsonl"), "process": [RECIPES[recipe]], "keep_stats_in_res_ds": True}
        settings |= {"auto_op_parallelism": False}  # one worker
        (root / "recipe.yaml").write_text(json.dumps(settings))  # JSON is YAML
        seconds, _ = run([str(Path(environment) / "bin" / "dj-process"), "--config", str(root / "recipe.yaml")], folder)
        rows = [json.loads(line) for line in (root / "out" / "out.jsonl").read_text().splitlines()]
    found: dict[str, float | None] = {}
    for row in rows:
        score = next(iter(row.get("__dj__stats__", {}).values()), None) if "motion" in recipe else None
        found[row["text"].split(" ", 1)[1]] = float(score[0] if isinstance(score, list) else score) if score is not None else None
    return seconds, found


RECIPES: dict[str, dict[str, Any]] = {
    "nothing": {"text_length_filter": {}},
    "motion": {"video_motion_score_filter": {"min_score": -1.0, "max_score": 1e9}},
    "motion at 256 px": {"video_motion_score_filter": {"min_score": -1.0, "max_score": 1e9, "size": 256}},
    "split": {"video_split_by_scene_mapper": {"detector": "AdaptiveDetector", "save_dir": "clips"}},
}


def peers_data_juicer(environment: str, folder: Path, names: list[str], small: bool) -> dict[str, dict[str, Answer]]:
    """Data-Juicer's motion filter and its scene split, which encodes the clips; and the filter with PySceneDetect's command in place of the
    split, on all files but `LONG`. Of what a run takes each of its files stands for an equal share."""
    wanted = {"motion": "Data-Juicer's motion"} | ({"motion at 256 px": "Data-Juicer's motion at 256 px"} if small else {})
    begins_s = min(data_juicer(environment, "nothing", ("a",))[0] for _ in range(3))
    found: dict[str, dict[str, Answer]] = {"Data-Juicer's split and motion as they come": {}}
    paths = {name: str(folder / "video" / name) for name in names if name != LONG}
    split_s, clips = data_juicer(environment, "split", tuple(paths.values()))
    print(f"Data-Juicer's split, {len(clips)} of {len(paths)} files: {split_s - begins_s:.1f} CPU s", file=sys.stderr)
    for recipe, label in wanted.items():
        motion_s, motion = data_juicer(environment, recipe, tuple(paths.values()))
        print(f"{label}, {len(motion)} of {len(paths)} files: {motion_s - begins_s:.1f} CPU s", file=sys.stderr)
        for name in (n for n, path in paths.items() if path in motion):
            share_s = (motion_s - begins_s) / len(motion)
            if recipe == "motion":
                both_s = share_s + (split_s - begins_s) / len(motion)
                found["Data-Juicer's split and motion as they come"][name] = Answer(both_s, None, motion[paths[name]])
            if paths[name] in _CUTS:
                cut_s, cuts = _CUTS[paths[name]]
                found.setdefault(f"PySceneDetect + {label}", {})[name] = Answer(cut_s + share_s, cuts, motion[paths[name]])
    return found


def dailies(path: str, folder: str) -> Answer:
    """Our shots and motion alone, as the peers': two observers, in a process of its own."""
    return _ours(path, "--shots-and-motion")


def dailies_all(path: str, folder: str) -> Answer:
    """Our whole scan: every observer, key frames, the copy of the sound, the split and every measure."""
    return _ours(path, "--everything")


def _ours(path: str, what: str) -> Answer:
    command = [sys.executable, str(Path(__file__).resolve()), what]
    begins_s = start_up(*command, "")
    cpu, out = run([*command, path])
    said = json.loads(out)
    return Answer(cpu - begins_s, said["cuts"], said["motion"])


def shots_and_motion(path: str) -> dict[str, Any]:
    """Hard cuts, and the mean motion of the whole file at full size and its own rate, cuts included, as the peers' is."""
    import cv2

    from curation.cut_series import ShotObserver
    from curation.motion import MotionConfig, MotionWatch, full_size_ratio
    from curation.scan import tracks_of
    from curation.shots import ShotsConfig, find_shots
    from curation.tracks import by_name
    from manifests.records import Clip

    cv2.setNumThreads(1)
    if not path:
        return {}
    tracks = by_name(tracks_of(path, [ShotObserver(), MotionWatch()]))
    pts, samples = tracks["shots"].pts_us, tracks["motion_samples"]
    shots = find_shots(tracks, int(pts[-1]) + 1, ShotsConfig())
    whole = Clip(clip_id="c", asset_id="a", kind="video", start_us=int(pts[0]), end_us=int(pts[-1]) + 1)
    ratio = full_size_ratio(whole, samples, samples, MotionConfig())
    return {
        "cuts": [int(np.searchsorted(pts, s.start_us)) for s in shots if s.opens == "hard"],
        "motion": ratio * float(np.nanmean(tracks["motion"]["motion"])),
    }


def everything(path: str) -> dict[str, Any]:
    """The same two numbers, from all that curation does with a video but for text and networks."""
    import cv2

    import curation.scan  # noqa: F401  # imports are start-up
    import pipelines.measures  # noqa: F401
    from benchmarks.decode import analysis

    cv2.setNumThreads(1)
    if path:
        analysis(path)
    return {"cuts": None, "motion": None}


def hard_f1(answers: dict[str, Answer], labels: dict[str, Any]) -> float | None:
    """F1 of hard cuts within one frame over the labelled files; reports inside ambiguous or gradual spans do not count."""
    hits = wrong = missed = 0
    for name, answer in answers.items():
        entry = labels.get(f"video/{name}")
        if entry is None or answer.cuts is None:
            continue
        left = list(answer.cuts)
        spans = [(a["start"], a["end"]) for a in entry["ambiguous"]]
        for cut in entry["cuts"]:
            if cut["kind"] != "hard":
                spans.append((cut["start"] - 1, cut["frame"] + 1))
                continue
            hit = next((c for c in left if abs(c - cut["frame"]) <= 1), None)
            missed += hit is None
            hits += hit is not None
            left = [c for c in left if c != hit]
        wrong += sum(not any(a <= c <= b for a, b in spans) for c in left)
    return 2 * hits / max(1, 2 * hits + wrong + missed) if hits + missed else None


def rank_correlation(a: list[float], b: list[float]) -> float:
    """Spearman's rank correlation."""
    from scipy.stats import spearmanr

    return float(spearmanr(a, b).statistic)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument("--data-juicer", help=f"folder of an environment that holds it: {DATA_JUICER}")
    parser.add_argument("--small", action="store_true", help="also its motion filter at 256 px")
    parser.add_argument("--files", default="", help="only files whose name contains this")
    parser.add_argument("--shots-and-motion", help=argparse.SUPPRESS)
    parser.add_argument("--everything", help=argparse.SUPPRESS)
    options = parser.parse_args()
    for work, path in ((shots_and_motion, options.shots_and_motion), (everything, options.everything)):
        if path is not None:
            print(json.dumps(work(path)))
            return
    folder = media_folder()
    labels = {e["file"]: e for e in json.loads((folder / "cuts.json").read_text())["entries"]}
    tools: dict[str, Callable[[str, str], Answer]] = {
        "dailies": dailies,
        "dailies, everything": dailies_all,
        "PySceneDetect + vmafmotion": peer_filter,
        "PySceneDetect + libvmaf": peer_libvmaf,
    }
    names = [n for n in FILES if options.files in n]
    answers: dict[str, dict[str, Answer]] = {tool: {} for tool in tools}
    for name in names:
        for tool, measure in tools.items():
            with tempfile.TemporaryDirectory() as scratch:
                try:
                    answers[tool][name] = measure(str(folder / "video" / name), scratch)
                except RuntimeError as error:
                    print(f"{tool} failed on {name}: {error}", file=sys.stderr)
        print(name, {t: round(a[name].cpu_s, 2) for t, a in answers.items() if name in a}, file=sys.stderr)
    if options.data_juicer:
        answers |= peers_data_juicer(options.data_juicer, folder, names, options.small)
    rows = summary(answers, labels)
    print(
        f"| tool | CPU s | x dailies | without {LONG} | hard-cut F1 | rank agreement with vmafmotion | files |\n|---|---|---|---|---|---|---|"
    )
    for row in rows:
        f1, rank = (f"{row[k]:.3f}" if row[k] is not None else "–" for k in ("f1", "rank"))
        print(f"| {row['tool']} | {row['cpu_s']:.1f} | {row['ratio']:.1f} | {row['ratio_rest']:.1f} | {f1} | {rank} | {row['files']} |")
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))


def summary(answers: dict[str, dict[str, Answer]], labels: dict[str, Any]) -> list[dict[str, Any]]:
    """One row a tool, over the files that it could read; the ratio is over those same files."""
    reference = answers["PySceneDetect + vmafmotion"]
    rows = []
    for tool, found in answers.items():
        both = [n for n in found if n in reference and found[n].motion is not None]
        cpu, own = ({n: a[n].cpu_s for n in found if n in a} for a in (found, answers["dailies"]))
        ratio, ratio_rest = (sum(cpu[n] for n in names) / max(1e-9, sum(own[n] for n in names)) for names in (own, own.keys() - {LONG}))
        rank = (
            rank_correlation([float(found[n].motion or 0) for n in both], [float(reference[n].motion or 0) for n in both])
            if len(both) > 2
            else None
        )
        rows.append(
            {
                "tool": tool,
                "cpu_s": sum(cpu.values()),
                "ratio": ratio,
                "ratio_rest": ratio_rest,
                "f1": hard_f1(found, labels),
                "rank": rank,
                "files": len(found),
            }
        )
    return rows


if __name__ == "__main__":
    main()
