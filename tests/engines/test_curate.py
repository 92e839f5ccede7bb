"""The main job on the sample set: what is found is the truth, everything is accounted for, and nothing is done twice."""

import collections
import itertools
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from curation.ffmpeg_program import ffmpeg_binary
from manifests.records import Asset, Clip
from manifests.schema import from_table
from manifests.tables import ManifestStore
from pipelines.lookup import look_up
from tests.conftest import read_media_log

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def store(curated) -> ManifestStore:
    return ManifestStore(curated.path)


@pytest.fixture(scope="module")
def assets(store: ManifestStore) -> dict[str, Asset]:
    return {Path(a.uri).name: a for a in from_table(Asset, store.read("assets"))}


@pytest.fixture(scope="module")
def clips(store: ManifestStore) -> dict[str, list[Clip]]:
    names = {a.asset_no: Path(a.uri).name for a in from_table(Asset, store.read("assets"))}
    found: dict[str, list[Clip]] = collections.defaultdict(list)
    for clip in from_table(Clip, store.read("clips")):
        found[names[clip.asset_no]].append(clip)
    return found


def _verdicts(store: ManifestStore, rule: str) -> dict[int, bool | None]:
    """The verdict of a rule on each clip."""
    numbers = [r["rule_no"] for r in store.read("rules").to_pylist() if r["name"] == rule]
    rows = store.read("decisions").filter(pc.field("rule_no").isin(numbers)).to_pylist()
    return {r["clip_no"]: r["passed"] for r in rows}


def test_every_file_is_accounted_for(truth: dict[str, Any], assets: dict[str, Asset], store: ManifestStore) -> None:
    """Each sample is an asset, or an exact copy that its asset counts; broken ones are rows with stage, code and detail."""
    copies = {name for name, t in truth["files"].items() if t.get("exact_copy_of")}
    assert len(assets) == len(truth["files"]) - len(copies)
    assert sum(a.n_copies for a in assets.values()) == len(truth["files"])
    for name, asset in assets.items():
        readable = truth["files"][name]["readable"]
        assert (asset.readable == 1) == readable, name
        if not readable:
            assert asset.error_stage
            assert asset.error_code
            assert asset.error_detail


def test_counts_balance_at_every_rule(store: ManifestStore) -> None:
    """For every rule, pass + reject + unknown = the subjects of the kinds it speaks about, in clips and in assets."""
    rules = {r["rule_no"]: r for r in store.read("rules").to_pylist()}
    decided = collections.Counter(r["rule_no"] for r in store.read("decisions").to_pylist())
    for number, rule in rules.items():
        rows = store.read("assets" if rule["subject"] == "asset" else "clips").to_pylist()
        kinds = rule["kinds"].split(",")
        assert decided[number] == sum(r["kind"] is None or r["kind"] in kinds for r in rows), rule["name"]


def test_the_container_facts_are_the_truth(truth: dict[str, Any], assets: dict[str, Asset]) -> None:
    """Size as shown, rotation, frame count and variable rate agree with what was generated."""
    for name, asset in assets.items():
        expected = truth["files"][name]
        if not expected["readable"] or expected["kind"] != "video":
            continue
        found = (asset.width, asset.height, asset.rotation, asset.is_vfr, asset.has_audio)
        assert found == (expected["width"], expected["height"], expected["rotation"], expected["vfr"], expected["has_audio"]), name
        if asset.decision == "keep":
            assert asset.n_frames == expected["n_frames"], name


def test_hard_cuts_are_exact(truth: dict[str, Any], assets: dict[str, Asset], curated) -> None:
    """Hard-cut F1 is 1.0 within one frame, in variable-rate and rotated files too: shots begin where the truth says."""
    series = _series(curated.path)
    hits = misses = extra = 0
    for name, asset in assets.items():
        expected = truth["files"][name]
        if expected["kind"] != "video" or asset.asset_id not in series:
            continue
        pts, found = series[asset.asset_id]
        wanted = [c["time_us"] for c in expected["cuts"] if c["kind"] == "hard"]
        gradual = [c for c in expected["cuts"] if c["kind"] != "hard"]
        step = max(b - a for a, b in itertools.pairwise(pts))
        matched = {w for w in wanted if any(abs(f - w) <= step for f in found)}
        hits += len(matched)
        misses += len(wanted) - len(matched)
        spans = [(c["start_frame"] - 1, c["frame"] + 1) for c in gradual]
        extra += sum(
            all(abs(f - w) > step for w in wanted) and not any(pts[max(a, 0)] <= f <= pts[min(b, len(pts) - 1)] for a, b in spans)
            for f in found
        )
    assert hits > 8
    assert (misses, extra) == (0, 0)


def test_text_border_and_static_verdicts_are_right(truth: dict[str, Any], clips: dict[str, list[Clip]], store: ManifestStore) -> None:
    """Every clip that was measured has the verdict that the generated truth asks for."""
    text, border, static = (_verdicts(store, r) for r in ("text", "border", "static"))
    checked = collections.Counter()
    for name, found in clips.items():
        expected = truth["files"][name]
        if expected["kind"] != "video":
            continue
        for clip in found:
            assert border[clip.clip_no] == (expected["border"] is None), f"{name} border {clip.border_share}"
            checked["border"] += 1
            if expected["static"] or not expected["slideshow"]:
                still = not static[clip.clip_no] or (clip.motion or 0) <= 2.0
                assert still == expected["static"], f"{name} static {clip.static_fraction} motion {clip.motion}"
                checked["static"] += 1
            if text[clip.clip_no] is not None:
                shown = any(s["start_us"] < clip.end_us and s["end_us"] > clip.start_us for s in expected["text_spans"])
                assert text[clip.clip_no] == (not shown), f"{name} text {clip.text_score}"
                checked["text"] += 1
    assert min(checked.values()) >= 10


def test_near_duplicates_are_grouped_and_nothing_else(truth: dict[str, Any], clips: dict[str, list[Clip]]) -> None:
    """Clips of files that copy each other share a keeper, which is the original's; clips of different content never do."""
    group_of = {name: number for number, names in enumerate(truth["duplicate_groups"]) for name in names}
    keepers = collections.defaultdict(set)
    for name, found in clips.items():
        for clip in found:
            if clip.dup_rank is not None:
                keepers[name].add(clip.dup_group)
    owner = {c.clip_id: name for name, found in clips.items() for c in found}
    for name, groups in keepers.items():
        for keeper in groups - {None}:
            assert group_of.get(name) is not None, f"{name} grouped with {owner[keeper]}"
            assert group_of[name] == group_of[owner[keeper]]
    for names in truth["duplicate_groups"]:
        measured = [n for n in names if n in keepers]
        assert len(measured) >= 2, names
        assert len(set.union(*(keepers[n] for n in measured))) == len({c.shot_no for c in clips[measured[0]]}), names
        assert all(None not in keepers[n] for n in measured), names
        assert {owner[keeper] for n in measured for keeper in keepers[n]} == {names[0]}, names  # the original stands first


def test_each_asset_is_decoded_once(assets: dict[str, Asset], curated) -> None:
    """The analysis opens each asset that passes the rules on facts exactly once, and no other."""
    decoded = collections.Counter(Path(f).name for purpose, f in curated.media_log if purpose == "decode")
    assert set(decoded.values()) == {1}
    dropped_by_facts = {n for n, a in assets.items() if a.readable != 1 or (a.licence_class or 0) > 0 or a.optout_state != 0}
    assert not dropped_by_facts & set(decoded)


def test_shards_hold_what_the_manifest_says(curated, dailies, tmp_path: Path) -> None:
    """`dailies verify` finds no fault; after one changed byte it names the shard and the member and exits 1."""
    copy = shutil.copytree(curated.path, tmp_path / "dataset")
    assert dailies("verify", copy).status == 0
    shard = sorted((copy / "shards").rglob("*.tar"))[0]
    original = shard.read_bytes()
    shard.write_bytes(original[:1000] + bytes([original[1000] ^ 1]) + original[1001:])
    broken = dailies("verify", copy, "--json")
    assert broken.status == 1
    assert shard.name in broken.out


def test_the_same_command_again_says_nothing_is_left(samples: Path, curated, dailies, tmp_path: Path) -> None:
    """Run again, the command opens no medium and makes no version."""
    log = tmp_path / "media.log"
    again = dailies("curate", samples, "--out", curated.path, "--config", "tiny", "--json", env={"DAILIES_MEDIA_LOG": str(log)})
    assert again.status == 0, again.err
    assert again.json["nothing_left"] is True
    assert again.json["version"] == curated.summary["version"]
    assert not log.exists()


def test_a_changed_threshold_decides_again_without_opening_media(samples: Path, curated, dailies, tmp_path: Path) -> None:
    """With one threshold changed there is a new version with a new funnel, in which clips have moved; no medium was opened."""
    copy, log = tmp_path / "dataset", tmp_path / "media.log"
    shutil.copytree(curated.path, copy)
    again = dailies(
        "curate", samples, "--out", copy, "--json", "rules.motion.threshold=8", "engine.name=local", env={"DAILIES_MEDIA_LOG": str(log)}
    )
    assert again.status == 0, again.err
    assert not log.exists()
    assert again.json["version"] == curated.summary["version"] + 1
    assert again.json["kept"] < curated.summary["kept"]
    report = json.loads((copy / "report.json").read_text())
    assert "8" in json.dumps([r for r in _find_rules(report) if r.get("rule", r.get("name")) == "motion"])
    old = ManifestStore(copy).read("clips", curated.summary["version"])
    assert old.filter(pc.field("decision") == "keep").num_rows == curated.summary["kept"]
    assert dailies("verify", copy).status == 0
    assert dailies("verify", copy, "--version", curated.summary["version"]).status == 0


def _parts(dataset: Path) -> dict[str, set[str]]:
    """Parts of every stage's outputs, by stage."""
    found: dict[str, set[str]] = collections.defaultdict(set)
    for path in (dataset / "work").glob("*/*/*.parquet"):
        found[path.relative_to(dataset / "work").parts[0]].add(str(path))
    return found


def test_a_new_clip_length_cuts_from_what_was_scanned(samples: Path, curated, dailies, tmp_path: Path) -> None:
    """Clips of at most 4.5 s are cut from the stored tracks: other clips, no medium decoded; only encoding reads the new spans. Of some of the
    files, as encoding them all anew takes minutes."""
    copy, log = tmp_path / "dataset", tmp_path / "media.log"
    shutil.copytree(curated.path, copy)
    before = ManifestStore(curated.path).read("clips")
    kept = set(
        before.filter(pc.and_(pc.equal(before["decision"], "keep"), pc.equal(before["kind"], "video"))).column("asset_no").to_pylist()
    )
    names = {a.asset_no: Path(a.uri).name for a in from_table(Asset, ManifestStore(curated.path).read("assets"))}
    some = [samples / names[number] for number in sorted(kept, key=lambda n: names[n])[:6]]
    again = dailies(
        "curate", *some, "--out", copy, "--json", "split.clips.max_us=4500000", "engine.name=local", env={"DAILIES_MEDIA_LOG": str(log)}
    )
    assert again.status == 0, again.err
    clips = ManifestStore(copy).read("clips")
    assert len(set(clips.column("clip_id").to_pylist()) - set(before.column("clip_id").to_pylist())) >= 6
    videos = clips.filter(pc.field("kind") == "video")
    assert pc.max(pc.subtract(videos.column("end_us"), videos.column("start_us"))).as_py() <= 4_500_000
    assert {purpose for purpose, _ in read_media_log(log)} <= {"encode"}


def test_what_is_new_is_measured_and_nothing_else(samples: Path, curated, dailies, tmp_path: Path) -> None:
    """With a film of something else and a smaller copy of a sample added, and one setting of the border measure changed: those two files alone
    are decoded, every clip has new borders, and of the other stages only the new files have outputs. The film is grouped with nothing, the
    copy with its original, of which one is kept, and every clip of nothing like it keeps its verdict."""
    copy, more, log = tmp_path / "dataset", tmp_path / "more", tmp_path / "media.log"
    shutil.copytree(curated.path, copy)
    more.mkdir()
    life = "life=size=768x768:rate=24:mold=10:ratio=0.1:death_color=#C83232:life_color=#00ff00:random_seed=7,boxblur=3"
    _ffmpeg("-f", "lavfi", "-t", "6", "-i", life, "-c:v", "libx264", "-pix_fmt", "yuv420p", more / "life.mp4")
    _ffmpeg("-i", samples / "pan_right.mp4", "-vf", "scale=iw*3/4:-2", "-crf", "26", "-an", more / "smaller.mp4")
    for name in ("life.mp4", "smaller.mp4"):  # nothing is decoded without a licence
        shutil.copy(samples / "pan_right.mp4.json", more / f"{name}.json")
    before = _parts(copy)
    changed = ("--config", "tiny", "--json", "measures.borders.plain_levels=12.5", "engine.name=local")
    again = dailies("curate", samples, more, "--out", copy, *changed, env={"DAILIES_MEDIA_LOG": str(log)})
    assert again.status == 0, again.err
    assert {Path(f).name for purpose, f in read_media_log(log) if purpose == "decode"} == {"life.mp4", "smaller.mp4"}
    store = ManifestStore(copy)
    names = {a.asset_no: Path(a.uri).name for a in from_table(Asset, store.read("assets"))}
    found: list[Clip] = from_table(Clip, store.read("clips"))
    of = {name: [c for c in found if names[c.asset_no] == name] for name in ("life.mp4", "smaller.mp4", "pan_right.mp4")}
    fresh = {
        stage: sum(pq.read_metadata(p).num_rows for p in parts - before[stage] if Path(p).name.count(".") == 1)
        for stage, parts in _parts(copy).items()
    }
    assert fresh["scan"] == 2 and fresh["measure-borders"] == len(found) == again.json["clips"]
    assert fresh["measure-motion"] == fresh["measure-camera"] == len(of["life.mp4"] + of["smaller.mp4"])
    assert of["life.mp4"] and all(c.dup_group is None for c in of["life.mp4"])
    groups = {c.dup_group for c in of["pan_right.mp4"]}
    assert of["smaller.mp4"] and None not in groups and {c.dup_group for c in of["smaller.mp4"]} <= groups
    assert all(c.dup_rank == 0 for c in of["pan_right.mp4"]) and all(c.dup_rank for c in of["smaller.mp4"])
    was = {c.clip_id: c.decision for c in from_table(Clip, ManifestStore(curated.path).read("clips"))}
    assert all(was[c.clip_id] == c.decision for c in found if c.clip_id in was)
    assert dailies("verify", copy).status == 0


def test_a_replay_gives_what_is_stored(curated, dailies) -> None:
    """Replayed on its saved inputs, a scan, a split, a measure and the reader of text give exactly what is stored; other settings do not."""
    for stage in ("probe", "scan", "split", "measure-camera", "text", "describe"):
        done = dailies("replay", curated.path, stage, "--asset", "pan_right.mp4", "--json")
        assert (done.status, done.json["differences"]) == (0, []), (stage, done.err, done.out[-500:])
        assert done.json["rows_in"] >= 1
    other = dailies("replay", curated.path, "split", "--asset", "pan_right.mp4", "split.clips.max_us=4100000")
    assert other.status == 1
    assert "differ" in other.out
    assert dailies("replay", curated.path, "nothing", "--asset", "pan_right.mp4").status == 2


def test_the_auditor_can_ask(curated, dailies) -> None:
    """query, explain and report answer as text and as JSON; an id that is not there is an error with a remedy."""
    asked = dailies("query", curated.path, "select decision, count(*) as n from clips group by 1 order by 1", "--json")
    assert {r["decision"]: r["n"] for r in asked.json}["keep"] == curated.summary["kept"]
    kept = dailies("query", curated.path, "select clip_id from clips where decision = 'keep' limit 1", "--json").json[0]["clip_id"]
    explained = dailies("explain", curated.path, kept)
    assert explained.status == 0, explained.err
    assert "motion" in explained.out
    assert ".tar" in explained.out
    assert dailies("explain", curated.path, "0" * 32).status == 2
    assert (curated.path / "report.html").stat().st_size > 10_000


def test_a_file_or_part_of_it_is_looked_up(samples: Path, curated, dailies, tmp_path: Path) -> None:
    """The very file is known by its bytes; a part of a video, scaled and coded anew, by its span with the times in both; a mirrored copy by its
    key frames; a film of something else by nothing, with status 1. Nothing is written."""
    before = {p: p.stat().st_mtime_ns for p in curated.path.rglob("*") if p.is_file()}
    assert dailies("lookup", curated.path, samples / "melody.wav").status == 0
    part, mirrored, other = (tmp_path / f"{n}.mp4" for n in ("part", "mirrored", "other"))
    source = samples / "pan_right.mp4"
    _ffmpeg("-ss", "1", "-t", "2", "-i", source, "-vf", "scale=320:-2", "-crf", "30", "-an", part)
    _ffmpeg("-i", source, "-vf", "hflip,crop=iw*0.95:ih*0.95", "-an", mirrored)
    _ffmpeg("-f", "lavfi", "-t", "3", "-i", "life=size=320x240:rate=25:mold=10:ratio=0.1:death_color=#C83232:life_color=#00ff00", other)
    done = dailies("lookup", curated.path, part, "--json")
    assert (done.status, done.json["found"], done.json["blocked"]) == (0, True, False)
    spans = {Path(m["uri"]).name: m for m in done.json["matches"] if m["how"] == "span"}
    shown, (clip, *_) = spans["pan_right.mp4"]["shown"], spans["pan_right.mp4"]["clips"]
    assert abs(shown["there_start_us"] - shown["start_us"] - 1_000_000) <= 80_000 and shown["end_us"] - shown["start_us"] > 1_500_000
    assert shown["distance"] <= 31 and abs(clip["start_us"] - clip["file_start_us"] - 1_000_000) <= 120_000
    copies = look_up(curated.path, mirrored)
    assert {(Path(m.uri).name[:9], m.how) for m in copies.matches} == {("pan_right", "copy")}  # of its own copies the one most like it
    missed = look_up(curated.path, other)
    assert (missed.found, missed.matches, missed.compared) == (False, (), "bytes and pictures")
    assert {p: p.stat().st_mtime_ns for p in curated.path.rglob("*") if p.is_file()} == before


def _ffmpeg(*arguments: object) -> None:
    subprocess.run([ffmpeg_binary(), "-v", "error", "-y", *map(str, arguments)], check=True, stdin=subprocess.DEVNULL)


def _find_rules(node: Any) -> list[dict[str, Any]]:
    if isinstance(node, dict):
        return ([node] if "rule" in node or "name" in node else []) + [r for v in node.values() for r in _find_rules(v)]
    return [r for v in node for r in _find_rules(v)] if isinstance(node, list) else []


def _series(dataset: Path) -> dict[str, tuple[list[int], list[int]]]:
    """asset id -> (presentation times relative to the first frame, hard cuts relative to the first frame), in us."""
    import pyarrow.dataset as pds

    work = dataset / "work"
    tracks = pds.dataset([str(p) for p in (work / "scan").rglob("*.tracks.parquet")], format="parquet")
    times = {r["asset_id"]: r["pts_us"] for r in tracks.to_table(["asset_id", "pts_us"], pc.field("track") == "shots").to_pylist()}
    shots = pds.dataset([str(p) for p in (work / "split").rglob("*.shots.parquet")], format="parquet").to_table().to_pylist()
    cuts: dict[str, list[int]] = {asset: [] for asset in times}
    for shot in shots:
        if shot["opens"] == "hard":
            cuts[shot["asset_id"]].append(shot["start_us"] - times[shot["asset_id"]][0])
    return {asset: ([p - pts[0] for p in pts], cuts[asset]) for asset, pts in times.items()}
