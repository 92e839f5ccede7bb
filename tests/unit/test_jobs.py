"""The jobs of ingest, probe, scan and encode: what happens to an asset's file between them is told of the asset, and tried again."""

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pytest

from curation import ingest
from curation.buckets import assign_set
from curation.listed import Listing
from curation.listing import list_inputs
from manifests.records import Asset, Clip
from manifests.schema import from_table, to_table
from pipelines import jobs, plan, row_keys
from pipelines.config import load
from pipelines.settings import CurateConfig
from pipelines.stage import Place, Stage
from pipelines.work import done_keys, missing, read, run_unit

CONFIG = load(CurateConfig, "curate", "tiny")


def _write_picture(path: Path, seed: int) -> None:
    """A picture of noise, 640 x 480 pixels."""
    noise = np.random.default_rng(seed).integers(0, 256, (480, 640, 3), np.uint8)
    path.write_bytes(bytes(cv2.imencode(".png", noise)[1]))


def _run(stage: Stage, place: Place, rows: pa.Table) -> pa.Table:
    """What the stage has of these rows after one run more."""
    job = stage.make(CONFIG, place)
    for unit in missing(stage, CONFIG, place, rows):
        run_unit(stage, job, place, unit)
    return read(stage, CONFIG, place, keys=rows.column(stage.key).combine_chunks())


def _ingest(place: Place, given: Path) -> tuple[pa.Table, pa.Table]:
    """The rows of the assets, and what was noted of their files."""
    rows = _run(plan.INGEST, place, to_table(Listing, list_inputs([str(given)])))
    return to_table(Asset, from_table(Asset, rows)), rows.select(["asset_id", "uri", jobs.NOTED])


@pytest.mark.parametrize("name", [b"b\xffd.mp4", b"x" * 248 + b".mp4", b"turned\xe2\x80\xae.mp4"])
def test_a_broken_file_of_any_name_is_a_row(tmp_path: Path, name: bytes) -> None:
    """What probing says of a file whose name is no Unicode fits a table."""
    (tmp_path / "in").mkdir()
    with open(os.fsencode(tmp_path / "in") + b"/" + name, "wb") as sink:
        sink.write(b"\0\0\0\x18ftypmp42 but no more")
    place = Place(tmp_path / "dataset")
    assets, noted = _ingest(place, tmp_path / "in")
    (found,) = from_table(Asset, _run(plan.PROBE, place, jobs.with_noted(assets, noted)))
    assert (found.error_stage, found.readable) == ("probe", 0.0) and found.error_detail


def _probed(place: Place, given: Path) -> tuple[pa.Table, pa.Table]:
    """The rows of the assets with their facts, and what was noted of their files."""
    assets, noted = _ingest(place, given)
    return to_table(Asset, from_table(Asset, _run(plan.PROBE, place, jobs.with_noted(assets, noted)))), noted


def test_facts_are_those_of_the_bytes_that_were_hashed(tmp_path: Path) -> None:
    """Of a file that was overwritten after ingest nothing is told but that; when the bytes are there again, the asset has its facts."""
    place, path = Place(tmp_path / "dataset"), tmp_path / "x.png"
    _write_picture(path, 1)
    first = path.read_bytes()
    assets, noted = _ingest(place, path)
    _write_picture(path, 2)
    rows = jobs.with_noted(assets, noted)
    (asset,) = from_table(Asset, _run(plan.PROBE, place, rows))
    assert (asset.error_stage, asset.error_code, asset.kind, asset.width) == ("probe", "changed", None, None)
    assert "expected the" in (asset.error_detail or "") and done_keys(plan.PROBE, CONFIG, place) == set()
    path.write_bytes(first)
    (asset,) = from_table(Asset, _run(plan.PROBE, place, rows))
    assert (asset.error_code, asset.kind, asset.width) == (None, "image", 640)
    assert done_keys(plan.PROBE, CONFIG, place) == {asset.asset_id}


def test_a_file_replaced_between_runs_is_another_asset(tmp_path: Path) -> None:
    """The address is the new asset's; the old one is not scanned from the new one's bytes, keeps no part that would be cut, and is tried again."""
    place, path = Place(tmp_path / "dataset"), tmp_path / "x.png"
    _write_picture(path, 1)
    old, _ = _probed(place, path)
    first = path.read_bytes()
    _write_picture(path, 2)
    new, noted = _probed(place, path)
    rows = jobs.with_noted(pa.concat_tables([old, new]), noted)
    assert rows.column(jobs.NOTED).to_pylist() == [None, path.stat().st_mtime_ns]
    found = {a.asset_id: a for a in from_table(Asset, _run(plan.SCAN, place, rows))}
    (gone,), (kept,) = from_table(Asset, old), from_table(Asset, new)
    assert (found[gone.asset_id].error_code, found[gone.asset_id].scan_part) == ("changed", None)
    assert found[kept.asset_id].error_code is None and found[kept.asset_id].scan_part
    path.write_bytes(first)
    (again,) = from_table(Asset, _run(plan.SCAN, place, jobs.with_noted(old, noted)))
    assert again.error_code is None and again.scan_part


def test_a_clip_is_not_encoded_from_other_bytes(tmp_path: Path) -> None:
    """A clip whose file was replaced, or is away, is a row with the reason, and is encoded once the file is back."""
    place, path = Place(tmp_path / "dataset"), tmp_path / "x.png"
    _write_picture(path, 1)
    assets, noted = _probed(place, path)
    (asset,) = from_table(Asset, assets)
    clip = Clip(clip_id="c" * 32, asset_id=asset.asset_id, kind="image", start_us=0, end_us=0, width=640, height=480)
    sets = tuple(dataclasses.replace(s, needs=()) for s in CONFIG.sets.values())
    clip = dataclasses.replace(clip, set_name=assign_set(clip, sets).set_name)
    rows = jobs.with_noted(row_keys.encode_rows(to_table(Clip, [clip]), assets, CONFIG), noted)
    assert rows.column(jobs.NOTED).to_pylist() == [path.stat().st_mtime_ns]
    first = path.read_bytes()
    _write_picture(path, 2)
    (row,) = _run(plan.ENCODE, place, rows).to_pylist()
    assert (row["encoded"], row["error_code"]) == (0.0, "changed")
    path.unlink()
    (row,) = _run(plan.ENCODE, place, rows).to_pylist()
    assert (row["encoded"], row["error_code"]) == (0.0, "missing")
    path.write_bytes(first)
    (row,) = _run(plan.ENCODE, place, rows).to_pylist()
    assert (row["encoded"], row["error_code"]) == (1.0, None)


def _vanishing(path: Path) -> Callable[..., ingest.Taken]:
    take_in = ingest.take_in

    def gone(*given: object) -> ingest.Taken:
        taken = take_in(*given)  # type: ignore[arg-type]
        path.unlink(missing_ok=True)
        return taken

    return gone


def test_a_file_that_goes_while_it_is_taken_in_is_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is hashed and then away when its Content Credentials are read is unreadable, with the reason; the rest is taken in."""
    pytest.importorskip("c2pa")
    (tmp_path / "in").mkdir()
    for seed, name in enumerate(("x.png", "y.png")):
        _write_picture(tmp_path / "in" / name, seed)
    monkeypatch.setattr(ingest, "take_in", _vanishing(tmp_path / "in" / "x.png"))
    listings = list_inputs([str(tmp_path / "in")])
    away = listings[0].key
    rows = _run(plan.INGEST, Place(tmp_path / "dataset"), to_table(Listing, listings))
    bad, good = sorted(from_table(Asset, rows), key=lambda a: a.uri)
    assert (bad.error_stage, bad.error_code, bad.asset_sha256) == ("ingest", "missing", b"")
    assert "x.png: expected a readable file, found FileNotFoundError" in (bad.error_detail or "")
    assert (good.error_code, good.c2pa_state) == (None, "none")
    assert done_keys(plan.INGEST, CONFIG, Place(tmp_path / "dataset")) == {k for k in rows.column("key").to_pylist() if k != away}
