"""Static, shaken, looped, strobing and slideshow clips told from filmed ones, by the rules of the paper's configuration.

    python benchmarks/accuracy_effects.py [SEED]

Real: every video of `motion.json` as one clip; static = dropped by the rules on stillness or slideshows, erratic = dropped by the rules on
shake, unsteadiness or cuts a second; the thresholds were chosen on these videos. Generated: real shots as they are and under each effect,
and pictures as slideshows (`effects_truth.py`), from a seed that was not looked at while the settings were chosen; the settings for loops,
strobes and slideshows were chosen on other draws of the same clips, so others that were never looked at are told alone; those for ramps on
other ramps of the same clips. A ramp is also to be told from every shot of 2.5 s or longer that is no ramp: false alarms on these are told,
and on the same shots coded as small as the generated clips, where a codec's cadence is taken for an editor's more often: each frame once, as
the generated clips have them, and converted to their rate by repeating and leaving out, which adds a cadence.
"""

import json
import math
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.decode import media_folder
from benchmarks.effects_truth import N_FRAMES, RAMPS, cases, read_frames, write
from benchmarks.figures import Figure, as_table
from curation.tracks import Track

VIDEOS = (
    "fingers_240p.webm", "chaplin.mp4", "climbing_portrait.mp4", "fishes.wmv", "marathon.mp4", "mdn_crystal_480p.webm", "mdn_elf_480p.webm",
    "mdn_flower.mp4", "mdn_friday_1940.mp4", "mdn_frog_480p.mp4", "mdn_monster_480p.webm", "mdn_pig_480p.webm", "mdn_rabbit_480p.webm",
    "sam2_blocks.mp4", "sam2_dog.mp4", "sam2_juggle.mp4", "sea_360p.mp4", "traffic_720p.mp4", "london_pan_240p60.mp4",
    "bbb_rabbit_720p_5s.mp4",
)  # fmt: skip
"""Filmed or animated, neither static nor erratic; the first shot of each is 5 s or longer, with no fade or what else `cuts.json` leaves open."""
OTHER_VIDEOS = {
    "bbb_rabbit_356p_33s.mp4": 16.2, "bbb_intro_720p_30s.webm": 6.0, "traffic_720p.mp4": 14.0, "seattle_shaky_pan.avi": 8.0,
    "climbing_portrait.mp4": 8.0, "hdr10_av1_portrait.mp4": 0.0, "fishes.wmv": 7.2, "london_pan_240p60.mp4": 8.0,
}  # fmt: skip
"""These from so many seconds on: not what was looked at."""
OTHER_PICTURES = (
    "flies_static.mp4", "tree_static", "intel_bottles", "head_1080", "phone_rot180", "azure_bumper", "google_paris_slides_35s.mp4",
    "london_zoom", "nasa_13013.mp4", "screen_compliment",
)  # fmt: skip
"""Contents on which nothing was chosen, of videos a frame shown as a still; once a case of theirs is looked at, others must take their place."""
PICTURES = ("land", "nextcloud", "bridge_orig", "earth", "hopper.jpg", "sample1.png", "mars")
EFFECT_RULES = {
    "slideshow": ("slideshow", "static"),
    "loop": ("loop",),
    "strobe": ("strobe",),
    "frozen": ("static", "slideshow"),
    **{f"ramp {how}": ("speed_ramp",) for how in RAMPS},
}
UNTOLD = "ramp dropped"
"""Told apart, without a target: frames left out leave no trace (docs/decisions/013-speed-ramps.md)."""
STILL_RULES, WILD_RULES = ("static", "slideshow"), ("jitter", "shake", "unsteady")
LEAST_SHOT_US = 2_500_000
MARGIN_S, MOST_FRAMES = 0.1, 960
"""Of a shot that is coded anew: what is left out at either end, and the most frames."""
SEED = 69
"""Of the generated cases, and 70 of a second draw: neither was looked at before. 1 to 5, 11 to 14, 23, 31, 41 to 50, 53, 54, 61 to 68 and 100 to
105 were looked at while settings were chosen, or since: draw others before anything is changed."""


def scanned(path: Path) -> tuple[Any, dict[str, Track]]:
    """The asset and its tracks."""
    from curation.scan import ScanConfig, scan_asset
    from curation.tracks import by_name
    from manifests.records import Asset

    found = scan_asset(
        Asset(asset_id="0" * 32, asset_sha256=b"", asset_md5=b"", size_bytes=0, uri=str(path)), str(path), ScanConfig(sound=False)
    )
    return found.asset, by_name(found.tracks)


def measured(asset: Any, tracks: dict[str, Track], span: tuple[int, int] | None = None) -> Any:
    """The whole video, or the span of it, as one clip with the measures that tell effects."""
    import dataclasses

    from manifests.records import Clip
    from pipelines.measures import MEASURES, MeasuresConfig, run_measure

    settings, first = MeasuresConfig(), asset.start_us or 0
    start, end = span or (first, first + (asset.duration_us or 0))
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


def real(media: Path) -> tuple[list[str], int, list[str], int]:
    """On `motion.json`: which verdicts on whole videos are wrong, of how many; which shots of LEAST_SHOT_US and more of those not static are
    taken for speed ramps, of how many."""
    from curation.shots import ShotsConfig, find_shots

    wrong, alarms, shots, entries = [], [], 0, json.loads((media / "motion.json").read_text())["entries"]
    for entry in entries:
        asset, tracks = scanned(media / entry["file"])
        rejected = rejected_by(measured(asset, tracks))
        said = "static" if rejected & set(STILL_RULES) else "erratic" if rejected & set(WILD_RULES) else "normal"
        if said != entry["motion"]:
            wrong.append(f"{entry['file']}: {entry['motion']} ({entry['confidence']}), said {said}")
        end_us = (asset.start_us or 0) + (asset.duration_us or 0)
        for shot in find_shots(tracks, end_us, ShotsConfig()) if entry["motion"] != "static" else []:
            if shot.end_us - shot.start_us >= LEAST_SHOT_US:
                shots += 1
                if "speed_ramp" in rejected_by(measured(asset, tracks, (shot.start_us, shot.end_us))):
                    alarms.append(f"{entry['file']}: a ramp in shot {shot.shot_no}")
    return wrong, len(entries), alarms, shots


def coded_anew(media: Path, converted: bool) -> tuple[list[str], int]:
    """Stretches of 5 s of the shots of normal real videos, coded as the generated clips are, each frame once or converted to their rate: which
    are taken for speed ramps, of how many."""
    from curation.shots import ShotsConfig, find_shots

    alarms, n = [], 0
    with tempfile.TemporaryDirectory() as folder:
        for entry in json.loads((media / "motion.json").read_text())["entries"]:
            if entry["motion"] != "normal":
                continue
            asset, tracks = scanned(media / entry["file"])
            first = asset.start_us or 0
            for shot in find_shots(tracks, first + (asset.duration_us or 0), ShotsConfig()):
                from_s, to_s = (shot.start_us - first) / 1e6 + MARGIN_S, (shot.end_us - first) / 1e6 - MARGIN_S
                frames = read_frames(media / entry["file"], MOST_FRAMES, from_s, to_s, converted)
                for k in range(0, len(frames) - N_FRAMES + 1, N_FRAMES):
                    n += 1
                    if "speed_ramp" in rejected_by(measured(*scanned(write(Path(folder) / "stretch.mp4", frames[k : k + N_FRAMES])))):
                        how = "converted" if converted else "coded anew"
                        alarms.append(f"{entry['file']}: a ramp in shot {shot.shot_no} {how}, from frame {k}")
    return alarms, n


def shots_of(media: Path, videos: Mapping[str, float]) -> list[tuple[Path, float, float]]:
    """The videos from these times on, each until the first cut, or what may be one, after it."""
    entries = {Path(e["file"]).name: e for e in json.loads((media / "cuts.json").read_text())["entries"]}
    return [(media / "video" / name, from_s, _shot_end_s(entries[name], from_s)) for name, from_s in videos.items()]


def _shot_end_s(entry: dict[str, Any], from_s: float) -> float:
    """When the shot at a time ends by `cuts.json`: at the next cut, or where a transition or a span that it leaves open begins."""
    begins = [c["start"] / entry["fps"] if "start" in c else c["time_s"] for c in entry["cuts"]]
    return min((t for t in begins + [a["start"] / entry["fps"] for a in entry["ambiguous"]] if t > from_s), default=math.inf)


def generated(media: Path, videos: Mapping[str, float], pictures: tuple[str, ...], seed: int) -> list[tuple[str, str, bool, set[str]]]:
    """(name, effect, whether the verdict is right, rules that reject it) of every generated case; pictures by how their names begin."""
    shown = [p for folder in ("image", "video") for p in sorted((media / folder).iterdir()) if p.name.startswith(pictures)]
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for case in cases(shots_of(media, videos), shown, seed):
            rejected = rejected_by(measured(*scanned(write(Path(folder) / "case.mp4", case.frames))))
            every = {r for rules in EFFECT_RULES.values() for r in rules}
            right = not rejected & every if case.effect == "none" else bool(rejected & set(EFFECT_RULES[case.effect]))
            rows.append((case.name, case.effect, right, rejected))
    return rows


def figures(media: Path, seed: int = SEED) -> list[Figure]:
    """Every target of this subject with the figure reached."""
    wrong, n, alarms, n_shots = real(media)
    anew, n_anew = coded_anew(media, converted=False)
    converted, n_converted = coded_anew(media, converted=True)
    for line in wrong + alarms + anew + converted:
        print("wrong:", line, file=sys.stderr)
    rows = generated(media, dict.fromkeys(VIDEOS, 0.0), PICTURES, seed)
    others = generated(media, OTHER_VIDEOS, OTHER_PICTURES, seed)
    for name, effect, ok, rejected in rows + others:
        if not ok:
            print(f"wrong: {name} under {effect}: rejected by {', '.join(sorted(rejected)) or 'nothing'}", file=sys.stderr)
    told = [
        _figure("static / normal / erratic, real videos", 1 - len(wrong) / n, f"{n} videos of motion.json"),
        _figure("no ramp in real shots", 1 - len(alarms) / n_shots, f"{n_shots} shots of motion.json"),
        _figure("no ramp in real shots coded anew, at 320 x 180", 1 - len(anew) / n_anew, f"{n_anew} stretches of 5 s"),
        _figure("the same, converted to 24 pictures a second", 1 - len(converted) / n_converted, f"{n_converted} stretches of 5 s"),
    ]
    told.append(_share("every effect and none", [r for r in rows + others if r[1] != UNTOLD]))
    for label, part in (("other draws", rows), ("other contents", others)):
        told.append(_share(f"every effect and none; {label}", [r for r in part if r[1] != UNTOLD]))
        told.append(_share(f"none, slideshow, loop, strobe, frozen; {label}", [r for r in part if not r[1].startswith("ramp")]))
    told.append(_share("ramp by repeated or mixed frames", [r for r in rows + others if r[1] in ("ramp repeated", "ramp blended")]))
    return told + [_share(effect, [r for r in rows + others if r[1] == effect]) for effect in ("none", *EFFECT_RULES)]


def _share(what: str, rows: list[tuple[str, str, bool, set[str]]]) -> Figure:
    share = sum(r[2] for r in rows) / max(1, len(rows))
    return _figure(what, share, f"{len(rows)} generated", None if rows and rows[0][1] == UNTOLD else 0.95)


def _figure(what: str, value: float, on: str, target: float | None = 0.95) -> Figure:
    return Figure(subject="effects", what=what, value=value, target=target, on=on)


if __name__ == "__main__":
    print(as_table(figures(media_folder(), int(sys.argv[1]) if len(sys.argv) > 1 else SEED)))
