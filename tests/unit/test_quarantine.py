"""Assets that cost processes: counted, tried again, and given up after the n-th time with their reason."""

import hashlib
import json
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from typer.testing import CliRunner

from curation import keyframes
from curation.adapters.openai_captioner import EndpointConfig
from curation.adapters.request_limits import Limits
from curation.captions import CaptionConfig
from curation.keyframes import KeyFrame, encode_jpeg
from curation.media import MediaError
from curation.quarantine import Loss, QuarantineConfig, attempts, counts, is_quarantined, note_failure, release, releases, try_often
from manifests.events import Run
from manifests.records import Asset, Clip
from manifests.schema import from_table, to_table
from manifests.tables import ManifestStore, write_parquet
from pipelines import jobs, work
from pipelines.cli import app
from pipelines.config import ConfigError, digest, load, to_record
from pipelines.plan import CAPTION, PROBE, SCAN
from pipelines.replay import ReplayError, _need_no_request, replay
from pipelines.row_keys import caption_rows
from pipelines.settings import CurateConfig
from pipelines.stage import Place, Stage
from tests.caption_server import CaptionServer
from tests.media_makers import still, write_video

CFG = QuarantineConfig(max_attempts=2)
ASSET = "a" * 32


class Work:
    """Fails with the codes given, in turn, then returns."""

    def __init__(self, *codes: str) -> None:
        self.codes, self.n_calls = list(codes), 0

    def __call__(self) -> str:
        self.n_calls += 1
        if self.codes:
            code = self.codes.pop(0)
            raise MediaError(code, f"film.mp4: {code} no. {self.n_calls}")
        return "done"


def test_a_passing_trouble_is_tried_again(tmp_path: Path) -> None:
    """One crash in a run costs nothing but time."""
    work = Work("crashed")
    assert try_often(work, tmp_path, ASSET, "1", CFG) == "done"
    assert work.n_calls == 2
    assert not is_quarantined(tmp_path, ASSET, "1", CFG)


@pytest.mark.parametrize("code", ["crashed", "timeout", "memory"])
def test_the_nth_loss_quarantines(tmp_path: Path, code: str) -> None:
    """After two lost processes the asset's error has the last reason; later it is not tried at all and gives the same error."""
    work = Work(code, code, code)
    errors = []
    for _ in range(3):
        with pytest.raises(MediaError) as e:
            try_often(work, tmp_path, ASSET, "1", CFG)
        errors.append((e.value.code, e.value.detail))
    assert work.n_calls == 2
    assert set(errors) == {(code, f"quarantined after 2 attempts, the last: film.mp4: {code} no. 2")}


def test_a_broken_file_is_not_counted(tmp_path: Path) -> None:
    """An error that the decoder itself reports is the verdict, at the first attempt."""
    work = Work("truncated")
    with pytest.raises(MediaError, match="truncated"):
        try_often(work, tmp_path, ASSET, "1", CFG)
    assert work.n_calls == 1 and attempts(tmp_path, ASSET, "1") == []


def test_a_run_that_died_leaves_its_count(tmp_path: Path) -> None:
    """A loss noted by a run before counts in the next one, and a note cut off by a crash counts too."""
    assert note_failure(tmp_path, ASSET, "1", "crashed", "film.mp4: signal 11") == 1
    (tmp_path / ASSET / "1" / "1.json").write_bytes(b'{"code": "cra')
    work = Work("timeout", "timeout")
    with pytest.raises(MediaError):
        try_often(work, tmp_path, ASSET, "1", CFG)
    assert work.n_calls == 1
    assert [a.code for a in attempts(tmp_path, ASSET, "1")] == ["crashed", "timeout"]


def test_another_version_or_a_release_tries_again(tmp_path: Path) -> None:
    """New code has attempts of its own; `release` forgets all of them; other assets are not touched."""
    for asset in (ASSET, "b" * 32):
        for _ in range(2):
            note_failure(tmp_path, asset, "1", "crashed", "x")
    assert is_quarantined(tmp_path, ASSET, "1", CFG) and not is_quarantined(tmp_path, ASSET, "2", CFG)
    assert release(tmp_path, [ASSET]) == 2
    assert not is_quarantined(tmp_path, ASSET, "1", CFG) and is_quarantined(tmp_path, "b" * 32, "1", CFG)


def test_notes_at_the_same_time_are_all_counted(tmp_path: Path) -> None:
    """Forty notes by eight threads are forty losses."""
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: note_failure(tmp_path, ASSET, "1", "crashed", str(i)), range(40)))
    assert {a.detail for a in attempts(tmp_path, ASSET, "1")} == {str(i) for i in range(40)}
    assert attempts(tmp_path, ASSET, "1")[0] == Loss(code="crashed", detail=attempts(tmp_path, ASSET, "1")[0].detail)


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".", "x\0", "a" * 200])
def test_names_never_leave_the_folder(tmp_path: Path, name: str) -> None:
    """An id that is no plain name is refused."""
    with pytest.raises(ValueError, match="quarantine"):
        note_failure(tmp_path, name, "1", "crashed", "x")


def test_an_answer_leaves_nothing_behind(tmp_path: Path) -> None:
    """After a success, and after the error of a medium that is merely broken, nothing is counted and no folder is left."""
    assert try_often(Work("crashed"), tmp_path / "q", ASSET, "1", CFG) == "done"
    with pytest.raises(MediaError, match="truncated"):
        try_often(Work("crashed", "truncated"), tmp_path / "q", ASSET, "1", CFG)
    assert not list((tmp_path / "q").iterdir())


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_what_is_not_the_assets_doing_is_not_counted(tmp_path: Path, error: type[BaseException]) -> None:
    """Neither an interruption by a person nor a fault of ours is an attempt."""

    def stop() -> None:
        assert [a.code for a in attempts(tmp_path, ASSET, "1")] == ["unfinished"]
        raise error

    for _ in range(4):
        with pytest.raises(error):
            try_often(stop, tmp_path, ASSET, "1", CFG)
    assert attempts(tmp_path, ASSET, "1") == []


def test_an_asset_that_takes_everything_down_is_found_out(tmp_path: Path) -> None:
    """Three processes that end while they try an asset, with no time to say so, are enough: the fourth does not try it."""
    root = str(Path(__file__).parents[2])
    code = (
        f"import os, sys; sys.path[:0] = [{root!r}]\nfrom pathlib import Path\nfrom curation.quarantine import *\n"
        f"try_often(lambda: os.kill(os.getpid(), 9), Path({str(tmp_path)!r}), {ASSET!r}, '1', QuarantineConfig())"
    )
    for n in range(3):
        assert not is_quarantined(tmp_path, ASSET, "1", CFG) and len(attempts(tmp_path, ASSET, "1")) == n
        assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -signal.SIGKILL
    work = Work()
    with pytest.raises(MediaError, match="quarantined after 3 attempts that took down what tried them"):
        try_often(work, tmp_path, ASSET, "1", CFG)
    assert work.n_calls == 0


def test_where_nothing_is_counted_everything_is_tried(tmp_path: Path) -> None:
    """Switched off, the work is done whatever is noted, and nothing is noted."""
    for _ in range(2):
        note_failure(tmp_path, ASSET, "1", "crashed", "x")
    with pytest.raises(MediaError, match=r"no\. 1"):
        try_often(Work("crashed", "crashed"), tmp_path, ASSET, "1", QuarantineConfig(enabled=False))
    assert len(attempts(tmp_path, ASSET, "1")) == 2


@pytest.mark.parametrize("name", ["max_attempts", "max_unfinished"])
def test_no_attempt_at_all_is_refused(name: str) -> None:
    """A limit of 0 would refuse every medium: it is an error of the configuration that names the field."""
    with pytest.raises(ConfigError, match=f"{name}: expected 1 or more"):
        load(CurateConfig, "curate", "tiny", [f"quarantine.{name}=0"])


@pytest.fixture
def probed(tmp_path: Path) -> Callable[..., tuple[CurateConfig, pa.Table]]:
    """The settings of a run with these overrides, and the row of a short video as probing left it."""
    path = write_video(tmp_path / "a.mp4", still(1, 30))
    sha256 = hashlib.sha256(path.read_bytes()).digest()
    asset = Asset(asset_id=ASSET, asset_sha256=sha256, asset_md5=b"a" * 16, size_bytes=path.stat().st_size, uri=str(path))

    def rows(*overrides: str) -> tuple[CurateConfig, pa.Table]:
        first = PROBE.make(load(CurateConfig, "curate", "tiny", []), Place(tmp_path / "probing"))
        return load(CurateConfig, "curate", "tiny", list(overrides)), first(to_table(Asset, [asset]), "work/probe/x/y")["rows"]

    return rows


def _run(stage: Stage, config: CurateConfig, place: Place, rows: pa.Table) -> int:
    """How many units the stage did."""
    units = work.missing(stage, config, place, rows)
    job = stage.make(config, place)
    for unit in units:
        work.run_unit(stage, job, place, unit)
    return len(units)


def test_a_timeout_inside_the_child_counts_for_its_stage_and_limit(tmp_path: Path, probed) -> None:
    """A scan that is out of time, which the child says itself, is tried twice and then refused; under another limit it is free."""
    place = Place(tmp_path / "dataset")
    config, rows = probed("scan.media.max_wall_s=0")
    assert _run(SCAN, config, place, rows) == 1
    (row,) = work.read(SCAN, config, place).to_pylist()
    assert row["error_code"] == "timeout" and row["error_detail"].startswith("quarantined after 2 attempts")
    (count,) = counts(place.quarantine, config.quarantine)
    assert count.under == f"scan-{SCAN.digest(config)}" and [a.code for a in count.losses] == ["timeout", "timeout"]
    other, _ = probed()
    assert _run(SCAN, other, place, rows) == 1
    assert work.read(SCAN, other, place).column("error_code").to_pylist() == [None]
    assert len(list(counts(place.quarantine, config.quarantine))) == 1


def test_a_clip_that_an_endpoint_refuses_is_asked_as_often_as_allowed(tmp_path: Path) -> None:
    """A refusal (400) is asked again in one more run, then it is the clip's row with its reason and no run asks; a dead server, a pace or a wrong
    key count nothing. Another address, a release, or quarantine switched off ask again, and a caption clears the count."""
    behaves = {c * 32: how for c, how in {"1": "unfit", "2": "error", "3": "busy_now", "4": "denied", "5": "good"}.items()}
    of = {"asset_id": ASSET, "kind": "video", "start_us": 0, "end_us": 5_000_000, "keyframe_part": "work/scan/x/y.keyframes.parquet"}
    clips = [Clip(clip_id=c, clip_no=n, shot_no=n, **of) for n, c in enumerate(behaves)]  # type: ignore[arg-type]
    asset = Asset(asset_id=ASSET, asset_no=0, asset_sha256=b"", asset_md5=b"", size_bytes=1, uri="a.mp4")
    place = Place(tmp_path / "dataset")
    frame = KeyFrame(asset_id=ASSET, index=0, pts_us=0, width=64, height=36, jpeg=encode_jpeg(np.full((36, 64, 3), 99, np.uint8)))
    write_parquet(place.dataset / str(of["keyframe_part"]), keyframes.to_table([frame]))
    with CaptionServer(lambda asked: behaves[asked.clip]) as server:

        def asked_in_a_run(url: str = server.url, **settings: Any) -> str:
            """Which clips the server was asked about, as their first digits."""
            limits = Limits(attempts=1, concurrency=1, backoff_s=0.0, max_wait_s=1.0)
            endpoint = EndpointConfig(base_url=url, model="m", limits=limits)
            config = replace(load(CurateConfig, "curate", "tiny", []), captions=CaptionConfig(endpoints={"x": endpoint}, mix={"x": 1.0}))
            config = replace(config, **settings)
            rows = caption_rows(to_table(Clip, clips), to_table(Asset, [asset]), config)
            before = len(server.seen.asked)
            _run(CAPTION, config, place, rows)
            return "".join(sorted(a.clip[0] for a in server.seen.asked[before:]))

        runs = [asked_in_a_run() for _ in range(4)]
        assert runs[0][0] == "1" and runs[0][-1] == "5" and [run[:1] for run in runs[1:]] == ["1", "2", "2"]
        assert all({"2", "4"} & set(run) and "5" not in run for run in runs[1:])
        (count,) = counts(place.quarantine, QuarantineConfig())
        assert [a.code for a in count.losses] == ["http_400"] * 2 and count.verdict is not None
        config = load(CurateConfig, "curate", "tiny", [])
        assert "1" in asked_in_a_run(server.url.replace("127.0.0.1", "localhost"))
        assert "1" in asked_in_a_run(quarantine=replace(config.quarantine, enabled=False))
        assert "1" not in asked_in_a_run()
        release(place.quarantine, [ASSET])
        behaves["1" * 32] = "good"
        assert "1" in asked_in_a_run() and "1" not in asked_in_a_run()
        assert list(counts(place.quarantine, QuarantineConfig())) == []


def test_a_released_asset_is_tried_again(tmp_path: Path, probed) -> None:
    """`quarantine list` shows it; `quarantine release` forgets the count and the stored error, so that the same run has it to do."""
    place = Place(tmp_path / "dataset")
    config, rows = probed("scan.media.max_wall_s=0")
    assert [_run(SCAN, config, place, rows) for _ in range(2)] == [1, 0]
    said = CliRunner().invoke(app, ["quarantine", "list", str(place.dataset), "--json"])
    assert said.exit_code == 0 and ASSET in said.stdout and "timeout" in said.stdout and "true" in said.stdout
    done = CliRunner().invoke(app, ["quarantine", "release", str(place.dataset), ASSET[:8]])
    assert done.exit_code == 0 and "2 attempts forgotten, 1 units" in done.stdout
    assert list(counts(place.quarantine, config.quarantine)) == [] and releases(place.quarantine) == 1
    assert _run(SCAN, config, place, rows) == 1
    assert CliRunner().invoke(app, ["quarantine", "release", str(place.dataset), "0" * 32]).exit_code == 2


def test_all_that_a_stage_counts_is_released_at_once(tmp_path: Path, probed) -> None:
    """`--all --stage caption` forgets every refusal and nothing else, as one release; `--all` the rest, with its stored error; an asset and
    `--all`, or neither, is a wrong use."""
    place = Place(tmp_path / "dataset")
    config, rows = probed("scan.media.max_wall_s=0")
    assert _run(SCAN, config, place, rows) == 1
    for asset in (ASSET, "b" * 32, "c" * 32):
        for _ in range(2):
            note_failure(place.quarantine, asset, f"caption-0123-{asset}", "http_400", "bad request")

    def released(*arguments: str) -> Any:
        said = CliRunner().invoke(app, ["quarantine", "release", str(place.dataset), *arguments, "--json"])
        return json.loads(said.stdout) if said.exit_code == 0 else said.exit_code

    assert released() == released(ASSET, "--all") == 2
    assert released("--all", "--stage", "caption") == {"asset_ids": sorted((ASSET, "b" * 32, "c" * 32)), "attempts": 6, "units": 0}
    assert [c.under.split("-")[0] for c in counts(place.quarantine, config.quarantine)] == ["scan"] and releases(place.quarantine) == 1
    assert released("--all") == {"asset_ids": [ASSET], "attempts": 2, "units": 1}
    assert released("--all")["asset_ids"] == [] and list(counts(place.quarantine, config.quarantine)) == []


def test_a_replay_tries_and_counts_nothing(tmp_path: Path, probed) -> None:
    """Of an asset in quarantine the stage really runs again, and shows that it works now; what is noted stays as it was."""
    place = Place(tmp_path / "dataset")
    config, rows = probed()
    for _ in range(2):
        note_failure(place.quarantine, ASSET, f"scan-{SCAN.digest(config)}", "crashed", "signal 11")
    assert [_run(stage, config, place, rows) for stage in (PROBE, SCAN)] == [1, 1]
    (stored,) = from_table(Asset, work.read(SCAN, config, place))
    assert (stored.error_code, stored.error_detail) == ("crashed", "quarantined after 2 attempts, the last: signal 11")
    now = datetime(2025, 1, 1, tzinfo=UTC)
    run = Run(
        run_no=0, run_id="r", command="curate", inputs_digest="", code_version="", config_sha256=digest(config), config_json=to_record(config),
        parent_version=None, started_at=now, ended_at=now, policy=[],
    )  # fmt: skip
    ManifestStore(place.dataset).commit(
        "r", append={"runs": to_table(Run, [run])}, replace={"assets": to_table(Asset, [stored])}, parent=-1
    )
    found = replay(place.dataset, "scan", ASSET)
    assert ("error_code", "crashed", "None") in {(d.column, d.stored, d.now) for d in found.differences}
    (count,) = counts(place.quarantine, config.quarantine)
    assert [a.detail for a in count.losses] == ["signal 11"] * 2


def test_a_replay_sends_nothing_unasked(probed) -> None:
    """Where captions would be asked of an endpoint, the error says how many requests, to which address and model."""
    endpoint = '{far: {base_url: "http://localhost:1/v1", model: vl-8b}}'
    config, rows = probed("captions.mix={far: 1.0}", f"captions.endpoints={endpoint}")
    clip = Clip(clip_id="c", asset_id=ASSET, kind="video", start_us=0, end_us=1)
    inputs = jobs.with_asset_columns(to_table(Clip, [clip]), rows)
    assert inputs.schema == CAPTION.reads
    with pytest.raises(ReplayError, match=r"1 to http://localhost:1/v1 \(far, model vl-8b\); --send"):
        _need_no_request(config, inputs)
