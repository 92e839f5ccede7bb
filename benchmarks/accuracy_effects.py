"""Static, shaken, looped, strobing and slideshow clips told from filmed ones, by the rules of the paper's configuration.

    python benchmarks/accuracy_effects.py

Real: every video of `motion.json` as one clip; static = dropped by the rules on stillness or slideshows, erratic = dropped by the rules on
shake or cuts a second. Generated: 27 real clips as they are and under each effect, and pictures as slideshows (`effects_truth.py`); the
settings were chosen on the clips whose name hashes even, so the odd ones are also told alone.
"""

import hashlib
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.decode import media_folder
from benchmarks.effects_truth import cases, write
from benchmarks.figures import Figure, as_table

VIDEOS = (
    "bikes_10s.mp4", "chaplin.mp4", "climbing_portrait.mp4", "fishes.wmv", "marathon.mp4", "mdn_crystal_480p.webm", "mdn_elf_480p.webm",
    "mdn_flower.mp4", "mdn_friday_1940.mp4", "mdn_frog_480p.mp4", "mdn_monster_480p.webm", "mdn_pig_480p.webm", "mdn_rabbit_480p.webm",
    "sam2_blocks.mp4", "sam2_dog.mp4", "sam2_juggle.mp4", "sea_360p.mp4", "traffic_720p.mp4", "london_pan_240p60.mp4",
    "bbb_rabbit_720p_5s.mp4", "bbb_intro_frag_180p_5s.mp4",
)  # fmt: skip
"""Filmed or animated, neither static nor erratic, 5 s or longer."""
PICTURES = ("land", "nextcloud", "bridge_orig", "earth", "hopper.jpg", "sample1.png", "mars")
EFFECT_RULES = {
    "slideshow": ("slideshow", "static"),
    "loop": ("loop",),
    "strobe": ("strobe",),
    "ramp": ("speed_ramp",),
    "frozen": ("static", "slideshow"),
}
STILL_RULES, WILD_RULES = ("static", "slideshow"), ("jitter", "shake")


def measured(path: Path) -> Any:
    """The whole video as one clip, with every measure on tracks."""
    import dataclasses

    from curation.scan import ScanConfig, scan_asset
    from curation.tracks import by_name
    from manifests.records import Asset, Clip
    from pipelines.measures import MEASURES, MeasuresConfig, run_measure

    found = scan_asset(
        Asset(asset_id="0" * 32, asset_sha256=b"", asset_md5=b"", size_bytes=0, uri=str(path)), str(path), ScanConfig(sound=False)
    )
    asset, tracks, settings = found.asset, by_name(found.tracks), MeasuresConfig()
    start, end = asset.start_us or 0, (asset.start_us or 0) + (asset.duration_us or 0)
    clip = Clip(clip_id="c", asset_id="a", kind="video", start_us=start, end_us=end, width=asset.width, height=asset.height)
    for measure in MEASURES:
        if measure.name in ("motion", "camera", "effects"):
            clip = dataclasses.replace(clip, **run_measure(measure, clip, tracks, getattr(settings, measure.name)))
    return clip


def rejected_by(clip: Any) -> set[str]:
    """The rules of the paper's configuration that reject the clip."""
    from pipelines.config import load
    from pipelines.settings import CurateConfig

    policy = load(CurateConfig, "curate", "paper").policy()
    return {r.name for r in policy if r.subject == "clip" and r.verdict(getattr(clip, r.measure)) is False}


def real(media: Path) -> tuple[int, int, list[str]]:
    """Right verdicts, videos, and which are wrong, on `motion.json`."""
    right, wrong, entries = 0, [], json.loads((media / "motion.json").read_text())["entries"]
    for entry in entries:
        clip = measured(media / entry["file"])
        rejected = rejected_by(clip)
        said = "static" if rejected & set(STILL_RULES) else "erratic" if rejected & set(WILD_RULES) else "normal"
        right += said == entry["motion"]
        if said != entry["motion"]:
            wrong.append(f"{entry['file']}: {entry['motion']} ({entry['confidence']}), said {said}")
    return right, len(entries), wrong


def generated(media: Path) -> list[tuple[str, str, bool, set[str]]]:
    """(name, effect, whether the verdict is right, rules that reject it) of every generated case."""
    pictures = [p for p in sorted((media / "image").iterdir()) if p.name.startswith(PICTURES) and p.suffix in (".jpg", ".png", ".webp")]
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for case in cases([media / "video" / v for v in VIDEOS], pictures):
            rejected = rejected_by(measured(write(Path(folder) / "case.mp4", case.frames)))
            every = {r for rules in EFFECT_RULES.values() for r in rules}
            right = not rejected & every if case.effect == "none" else bool(rejected & set(EFFECT_RULES[case.effect]))
            rows.append((case.name, case.effect, right, rejected))
    return rows


def figures(media: Path) -> list[Figure]:
    """Every target of this subject with the figure reached."""
    right, n, wrong = real(media)
    for line in wrong:
        print("wrong:", line, file=sys.stderr)
    rows = generated(media)
    for name, effect, ok, rejected in rows:
        if not ok:
            print(f"wrong: {name} under {effect}: rejected by {', '.join(sorted(rejected)) or 'nothing'}", file=sys.stderr)
    odd = [r for r in rows if int(hashlib.sha256(r[0].encode()).hexdigest(), 16) % 2]
    told = [
        Figure(
            subject="effects", what="static / normal / erratic, real videos", value=right / n, target=0.95, on=f"{n} videos of motion.json"
        )
    ]
    for label, part in (("all", rows), ("not tuned on", odd)):
        without = [r for r in part if r[1] != "ramp"]
        share = sum(r[2] for r in without) / max(1, len(without))
        told.append(
            Figure(
                subject="effects",
                what=f"none, slideshow, loop, strobe, frozen; {label}",
                value=share,
                target=0.95,
                on=f"{len(without)} generated",
            )
        )
    for effect in ("none", *EFFECT_RULES):
        part = [r for r in rows if r[1] == effect]
        told.append(
            Figure(
                subject="effects", what=effect, value=sum(r[2] for r in part) / max(1, len(part)), target=0.95, on=f"{len(part)} generated"
            )
        )
    return told


if __name__ == "__main__":
    print(as_table(figures(media_folder())))
