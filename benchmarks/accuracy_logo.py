"""Verdicts on marks without letters in a corner: generated marks over real moving clips against the clips without, and the real videos.

    python benchmarks/accuracy_logo.py

Settings were chosen on the marks 0 to 95 over all these clips and on the real videos; MARKS_HELD_OUT were first drawn when they were
done, over clips that had been seen with other marks. Marks that change what they cover by less than 20 levels are left out. No real video
has such a mark; one has a caption that reaches into the corner.
"""

import itertools
import sys
from pathlib import Path

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import logo_truth
from benchmarks.decode import media_folder
from benchmarks.figures import Figure, as_table
from benchmarks.ocr_cost import clips_of, keyframes_of
from curation.corner_logo import LogoConfig, corner_logo_score
from curation.keyframes import KeyFrame, decode_all

THRESHOLD = 0.5
DEVELOPED_ON = (
    "bikes_10s.mp4", "climbing_portrait.mp4", "dog_in_bed_720p.mp4", "doorknob_hd.mp4", "fingers_240p.mov", "google_paris_tiny_4s.mp4",
    "hdr10_av1_portrait.mp4", "london_pan_240p60.mp4", "london_zoom_360p.mp4", "mdn_crystal_480p.webm", "mdn_elf_480p.webm",
    "mdn_frog_480p.webm", "mdn_monster_480p.webm", "mdn_pig_480p.webm", "mdn_rabbit_480p.webm", "pattern_hd.mp4",
)  # fmt: skip
OTHERS = (
    "pattern_longer.mp4", "pattern_sd_grey_bar.mp4", "nasa_rocket_text_52s.mkv", "sea_360p_10s.mp4", "seattle_shaky_pan.avi",
    "mdn_rabbit_320.mp4",
)  # fmt: skip
MARKS = 4
"""Marks over each clip."""
MARKS_HELD_OUT = 2000


def score(frames: list[KeyFrame]) -> float | None:
    """The score of a clip with these key frames, as the text stage has it."""
    return corner_logo_score(decode_all("clip", frames), LogoConfig())


def generated(folder: Path, names: tuple[str, ...], first: int) -> list[tuple[str, int | None, float | None]]:
    """(video, number of its mark or None, score) of each generated clip."""
    numbers, found = itertools.count(first), list[tuple[str, int | None, float | None]]()
    for name in names:
        frames = logo_truth.frames_of(folder / name)
        found.append((name, None, score(logo_truth.keyframes(frames))))
        for number in itertools.islice(numbers, MARKS):
            marked = logo_truth.put(frames, number)
            if logo_truth.is_visible(frames, marked):
                found.append((name, number, score(logo_truth.keyframes(marked))))
    return found


def figures(media: Path) -> list[Figure]:
    """Every figure on corner logos beside its target; the targets are ours."""
    cv2.setNumThreads(1)
    rows = []
    for names, first, on in ((OTHERS, MARKS_HELD_OUT, "marks held out"), (DEVELOPED_ON, 0, "developed on")):
        found = generated(media / "video", names, first)
        right = [((s or 0) >= THRESHOLD) == (number is not None) for _, number, s in found]
        for (name, number, s), good in zip(found, right, strict=True):
            if not good:
                print(f"  wrong: {name} mark {number}: {s}", file=sys.stderr)
        n_marked = sum(number is not None for _, number, _ in found)
        what = f"verdicts right, generated, {on}"
        rows.append(
            Figure(subject="corner logos", what=what, value=float(np.mean(right)), target=0.9, on=f"{n_marked} marked clips, {len(found) - n_marked} without")
        )  # fmt: skip
    real = []
    for path in sorted((media / "video").iterdir()):
        scores = [score(frames) for _, frames in clips_of(path.name, keyframes_of(path))]
        real += [(path.name, s) for s in scores if s is not None]
    right = [s < THRESHOLD for _, s in real]
    for (name, s), good in zip(real, right, strict=True):
        if not good:
            print(f"  wrong: {name}: {s:.2f}", file=sys.stderr)
    on = f"{len(real)} clips of at most 16 s of real videos that move enough to tell, some with cuts inside; settings chosen on them"
    return [*rows, Figure(subject="corner logos", what="verdicts right, real videos", value=float(np.mean(right)), target=0.95, on=on)]


if __name__ == "__main__":
    print(as_table(figures(media_folder())))
