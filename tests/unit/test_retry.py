"""What failed for a reason that may pass is tried again by the same command, and what cannot be read again is lost with a word, not silently."""

import dataclasses
import json
import shutil
import tarfile
import wave
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from curation import captions, quarantine
from manifests.records import Clip
from manifests.schema import from_table, to_table
from pipelines import plan, retry
from pipelines.config import load
from pipelines.curate import measure_assets
from pipelines.curation_run import Curation
from pipelines.intake import ingest
from pipelines.jobs import counted_of_clip, counted_under
from pipelines.on_ray import EngineConfig
from pipelines.progress import Progress
from pipelines.row_keys import caption_rows
from pipelines.settings import CurateConfig
from pipelines.stage import Job, Place, Stage
from pipelines.work import set_column, waiting_keys
from tests.sound_makers import noise, tone


def write_wav(path: Path, samples: np.ndarray) -> None:
    """The samples (48 kHz, mono) as a WAV of 16 bit, with a licence beside it."""
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 48_000, 0, "NONE", "none"))
        file.writeframes((samples * 32767).astype("<i2").tobytes())
    path.with_name(path.name + ".json").write_text(json.dumps({"licence": "CC0-1.0"}))


@pytest.fixture
def media(tmp_path: Path) -> Path:
    """Two sounds of eight seconds."""
    folder = tmp_path / "media"
    folder.mkdir()
    write_wav(folder / "noise.wav", noise(1, 8.0))
    write_wav(folder / "tone.wav", tone(440.0, 8.0))
    return folder


class Heard(Progress):
    """Keeps the lines that people would read."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        """The line is kept."""
        self.lines.append(text)


def start(dataset: Path, *inputs: Path) -> Curation:
    """A run of the command up to where it knows its assets."""
    config = dataclasses.replace(load(CurateConfig, "curate", "tiny"), engine=EngineConfig(name="local"))
    run = Curation(dataset, config, Heard(), date(2026, 1, 1))
    ingest(run, [str(i) for i in inputs])
    return run


def finish(run: Curation) -> int:
    """The tables as they are become a version."""
    clips = pa.concat_tables([run.clips, run.lost])
    return run.store.commit(f"run {run.parent}", replace={"assets": run.assets, "clips": clips, "sources": run.sources}, parent=run.parent)


def names(run: Curation) -> dict[str, Any]:
    """Error code by file name."""
    return {Path(a["uri"]).name: a["error_code"] for a in run.assets.to_pylist()}


def cut(run: Curation) -> set[str]:
    """The names of the files that have clips."""
    of = {a["asset_id"]: Path(a["uri"]).name for a in run.assets.to_pylist()}
    return {of[i] for i in run.clips.column("asset_id").to_pylist()}


def test_a_file_that_comes_back_is_curated(tmp_path: Path, media: Path) -> None:
    """A file that was away while it was probed has its clips after the same command; while it stays away each run tries it once, says so, and
    does nothing else; the other file is not opened again."""
    dataset, away = tmp_path / "dataset", tmp_path / "noise.wav"
    run = start(dataset, media)
    (media / "noise.wav").rename(away)
    measure_assets(run)
    assert names(run) == {"noise.wav": "missing", "tone.wav": None}
    assert cut(run) == {"tone.wav"}
    assert any(line.startswith("probe: 1 failed for reasons that may pass (1 missing)") for line in run.progress.lines)  # type: ignore[attr-defined]
    finish(run)
    again = start(dataset, media)  # the file is still away: its listing is gone, its asset stays
    assert not retry.try_again(again)
    assert any("1 missing" in line for line in again.progress.lines) and again.tried == {  # type: ignore[attr-defined]
        "probe": set(waiting_keys(plan.PROBE, again.config, again.place))
    }
    away.rename(media / "noise.wav")
    back = start(dataset, media)
    assert retry.try_again(back)
    measure_assets(back)
    assert names(back) == {"noise.wav": None, "tone.wav": None} and cut(back) == {"noise.wav", "tone.wav"}
    finish(back)
    assert not retry.try_again(start(dataset, media))


def test_an_entry_that_could_not_be_read_is_read_when_it_can(tmp_path: Path, media: Path) -> None:
    """An address whose key says nothing of its state is asked again by each run, until it answers; a file beyond the limit of bytes is not."""
    entry = tmp_path / "later.wav"
    listed = tmp_path / "list.txt"
    listed.write_text(f"file://{entry}\n")
    run = start(tmp_path / "dataset", listed)
    assert names(run) == {"later.wav": "missing"}
    write_wav(entry, noise(2, 8.0))
    assert sorted(map(str, names(start(tmp_path / "dataset", listed)).values())) == ["None"]
    row = {"error_code": "unreadable", "error_detail": "ValueError: more than the limit of 3 bytes"}
    assert plan.INGEST.again is not None and not plan.INGEST.again(row)


@pytest.mark.parametrize("kind", ["address", "tar"])
def test_a_file_that_can_be_read_has_no_row_that_says_otherwise(tmp_path: Path, media: Path, kind: str) -> None:
    """Once an address answers, or a tar is whole, the row of its error goes with the next version, and its number is nobody's ever again;
    the row of what still cannot be read stays, as does one that a takedown holds."""
    entry = tmp_path / ("later.wav" if kind == "address" else "later.tar")
    listed, dataset = tmp_path / "list.txt", tmp_path / "dataset"
    listed.write_text(f"file://{entry}\nfile://{tmp_path}/never.wav\n")
    inputs = (listed, media) if kind == "address" else (listed, media, entry)
    if kind == "tar":
        listed.write_text(f"file://{tmp_path}/never.wav\n")
        entry.write_bytes(b"broken off")
    run = start(dataset, *inputs)
    assert [n for n, code in sorted(names(run).items()) if code] == [entry.name, "never.wav"]
    numbers = {Path(a["uri"]).name: a["asset_no"] for a in run.assets.to_pylist()}
    finish(run)
    if kind == "address":
        write_wav(entry, noise(2, 8.0))
    else:
        write_wav(tmp_path / "inside.wav", noise(2, 8.0))
        with tarfile.open(entry, "w") as tar:
            tar.add(tmp_path / "inside.wav", "inside.wav")
    back = start(dataset, *inputs)
    assert [n for n, code in names(back).items() if code] == ["never.wav"]
    assert sum(a["n_copies"] for a in back.assets.to_pylist()) == back.assets.num_rows == 4
    (new,) = [a["asset_no"] for a in back.assets.to_pylist() if Path(a["uri"]).name.startswith(entry.name)]
    assert new > max(numbers.values())
    finish(back)
    held = set_column(run.assets, "state", ["quarantined"] * run.assets.num_rows)
    back.store.commit("held", replace={"assets": held})
    assert entry.name in {Path(a["uri"]).name for a in start(dataset, *inputs).assets.to_pylist() if a["error_code"]}


def test_what_still_cannot_be_read_keeps_its_number(tmp_path: Path) -> None:
    """A file whose name holds a `#` is no member of a tar that was read: the row of what cannot be read beside it is the same in the next
    run."""
    write_wav(tmp_path / "never.wav#1", noise(1, 8.0))
    listed, dataset = tmp_path / "list.txt", tmp_path / "dataset"
    listed.write_text(f"file://{tmp_path}/never.wav\n{tmp_path}/never.wav#1\n")
    first = start(dataset, listed)
    finish(first)
    assert sorted(bool(code) for code in names(first).values()) == [False, True]
    assert start(dataset, listed).assets.column("asset_no").to_pylist() == first.assets.column("asset_no").to_pylist() == [0, 1]


def test_a_lost_process_is_tried_as_often_as_the_quarantine_allows(tmp_path: Path) -> None:
    """A scan or an encode that was lost is tried again until its asset, or its clip, is quarantined; a broken file is not tried again. With
    another limit on memory, or quarantine switched off, both are tried again."""
    config, place = load(CurateConfig, "curate", "tiny"), Place(tmp_path)
    limit, asset = config.quarantine.max_attempts, "a" * 32
    row = {"asset_id": asset, "clip_id": "c" * 32, "error_code": "crashed", "error_detail": ""}
    for stage, under in ((plan.SCAN, counted_under("scan", config)), (plan.ENCODE, counted_of_clip("c" * 32, config))):
        assert stage.again is not None and stage.rests is not None
        assert stage.again(row) and not stage.rests(row, config, place) and not stage.again({**row, "error_code": "not_media"})
        for _ in range(limit):
            assert not stage.rests(row, config, place)
            quarantine.note_failure(place.quarantine, asset, under, "crashed", "signal 11")
        assert stage.rests(row, config, place)
        for override in ("scan.media.memory_bytes=8000000000", "quarantine.enabled=false"):
            assert not stage.rests(row, load(CurateConfig, "curate", "tiny", [override]), place)
        quarantine.release(place.quarantine, [asset])
        assert not stage.rests(row, config, place)


def test_a_caption_that_failed_is_asked_for_by_the_same_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a wrong key every caption fails; the same command asks again for those alone, and once the key is right they are written."""
    codes = {c * 32: "http_401" for c in "ab"}

    def make(config: Any, place: Place) -> Job:
        def job(rows: pa.Table, part: str) -> dict[str, pa.Table]:
            made = [{"key": r["key"], "clip_id": r["clip_id"], "error_code": codes.get(r["clip_id"])} for r in rows.to_pylist()]
            asked.extend(r["clip_id"] for r in made)
            return {"rows": pa.Table.from_pylist(made, schema=plan.CAPTION.writes["rows"])}

        return job

    asked: list[str] = []
    stage: Stage = dataclasses.replace(plan.CAPTION, make=make)
    monkeypatch.setattr(plan, "CAPTION", stage)
    media = tmp_path / "media"
    media.mkdir()
    write_wav(media / "tone.wav", tone(440.0, 8.0))
    run = start(tmp_path / "dataset", media)
    measure_assets(run)
    (asset,) = run.assets.to_pylist()
    of = {"asset_id": asset["asset_id"], "asset_no": 0, "kind": "audio", "start_us": 0, "end_us": 5_000_000, "shot_no": 0}
    run.clips = to_table(Clip, [Clip(clip_id=c * 32, clip_no=n, **of, set_name="tiny_audio") for n, c in enumerate("abc")])
    monkeypatch.setattr(Curation, "rules", lambda self, *stages: [])
    run.do(stage, inputs=caption_rows(run.clips, run.assets, run.config))
    done = pc.if_else(pc.equal(run.clips.column("clip_id"), "c" * 32), pa.scalar(1.0, pa.float32()), pa.scalar(None, pa.float32()))
    run.clips = set_column(run.clips, "captioned", done)
    run.clips = set_column(run.clips, "encoded", [1.0] * 3)
    finish(run)
    asked.clear()
    again = start(tmp_path / "dataset", media)
    assert not retry.try_again(again) and sorted(asked) == ["a" * 32, "b" * 32]
    again.do(stage, inputs=caption_rows(run.clips, run.assets, run.config))  # not twice in one run
    assert len(asked) == 2
    del codes["a" * 32]
    assert retry.try_again(start(tmp_path / "dataset", media)) and len(asked) == 4


@pytest.mark.parametrize(("code", "again"), [("http_401", True), ("http_404", True), ("http_400", True), ("unreachable", True), ("too_large", True),
    ("refused", False), ("malformed", False), ("bad_keyframe", False)])  # fmt: skip
def test_no_answer_is_no_verdict_on_a_clip(code: str, again: bool) -> None:
    """Whatever an endpoint refused by its status, or did not answer at all, may be answered in another run; an answer that was bad may not."""
    assert captions.is_transient(code) == again


def test_clips_of_what_cannot_be_read_again_stay_as_dropped(tmp_path: Path, media: Path) -> None:
    """With the work area deleted and a file gone, its clips stay in the manifest with their numbers, unmeasured and dropped, and the run says
    which file they are of; when the file is back they are as before."""
    dataset, away = tmp_path / "dataset", tmp_path / "noise.wav"
    run = start(dataset, media)
    measure_assets(run)
    before = {c.clip_id: c.clip_no for c in from_table(Clip, run.clips)}
    finish(run)
    for _ in range(2):
        (media / "noise.wav").rename(away)
        shutil.rmtree(dataset / "work")
        lost = start(dataset, media)
        measure_assets(lost)
        gone = from_table(Clip, lost.lost)
        assert {c.clip_id: c.clip_no for c in [*gone, *from_table(Clip, lost.clips)]} == before
        assert gone and {(c.asset_kept, c.scan_part, c.loudness_db) for c in gone} == {(0.0, None, None)}
        assert cut(lost) == {"tone.wav"}
        told = [line for line in lost.progress.lines if line.startswith("lost: 1 assets")]  # type: ignore[attr-defined]
        assert len(told) == 1 and "noise.wav" in told[0] and "missing" in told[0]
        finish(lost)
        away.rename(media / "noise.wav")
    back = start(dataset, media)
    measure_assets(back)
    assert {c.clip_id: c.clip_no for c in from_table(Clip, back.clips)} == before and not back.lost.num_rows


def test_members_of_archives_outlive_the_work_area(tmp_path: Path, media: Path) -> None:
    """A clip of a tar's member is measured again after the work area was deleted, though the tar is no input of the run any more."""
    archive = tmp_path / "a.tar"
    with tarfile.open(archive, "w") as tar:
        for path in sorted(media.glob("noise.wav*")):
            tar.add(path, path.name.replace(".wav.json", ".json"))
    dataset = tmp_path / "dataset"
    run = start(dataset, archive)
    measure_assets(run)
    before = set(run.clips.column("clip_id").to_pylist())
    finish(run)
    shutil.rmtree(dataset / "work")
    other = start(dataset, media / "tone.wav")
    measure_assets(other)
    assert before and before <= set(other.clips.column("clip_id").to_pylist()) and not other.lost.num_rows
    finish(other)
    shutil.rmtree(dataset / "work")
    archive.unlink()
    gone = start(dataset, media / "tone.wav")
    measure_assets(gone)
    assert set(gone.lost.column("clip_id").to_pylist()) == before
    assert any("lost: 1 assets" in line and "a.tar#" in line for line in gone.progress.lines)  # type: ignore[attr-defined]
