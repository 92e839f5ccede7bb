"""Captions and samples are found again by all that they are made from: what changed is made anew, and nothing else is."""

import dataclasses
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curation.captions import CaptionConfig, EndpointConfig
from manifests.records import Asset, Clip
from manifests.schema import to_table
from pipelines import plan
from pipelines.config import load
from pipelines.row_keys import caption_rows, encode_rows
from pipelines.settings import CurateConfig
from pipelines.sharding import check_form
from pipelines.stage import Place, Stage
from pipelines.work import missing, part_path, read, rows_of, run_unit


def asset(**values: Any) -> Asset:
    """A film of 1920 x 1080 without sound."""
    known = {"asset_id": "a" * 32, "asset_no": 0, "asset_sha256": b"", "asset_md5": b"", "size_bytes": 1, "uri": "film.mp4"}
    return Asset(**known | {"kind": "video", "width": 1920, "height": 1080, "has_audio": False} | values)


def clip(clip_id: str = "1" * 32, **values: Any) -> Clip:
    """Twelve seconds of it."""
    known = {"clip_id": clip_id, "asset_id": "a" * 32, "asset_no": 0, "kind": "video", "start_us": 0, "end_us": 12_000_000}
    return Clip(**known | {"shot_no": 0, "width": 1920, "height": 1080, "motion": 3.0, "brightness": 0.5} | values)


def tables(clips: list[Clip], of: Asset) -> tuple[pa.Table, pa.Table]:
    """The tables of the clips and their asset."""
    return to_table(Clip, clips), to_table(Asset, [of])


def done(stage: Stage, config: CurateConfig, place: Place, rows: pa.Table) -> int:
    """Whatever is missing is done, by rows with a key and nothing but nulls; returns how many were missing."""

    def job(todo: pa.Table, part: str) -> dict[str, pa.Table]:
        values = [{"key": r["key"], "clip_id": r["clip_id"], "part": part} for r in todo.to_pylist()]
        return {name: pa.Table.from_pylist(values, schema=schema) for name, schema in stage.writes.items()}

    units = missing(stage, config, place, rows)
    for unit in units:
        run_unit(stage, job, place, unit)
    return sum(u.n_rows for u in units)


@pytest.fixture
def config() -> CurateConfig:
    """The sets of the paper."""
    return load(CurateConfig, "curate", "paper")


def test_a_clip_that_moves_to_another_set_is_encoded_for_it(tmp_path: Path, config: CurateConfig) -> None:
    """The sample of the old set is not taken for the new one; when the clip moves back, its first sample is found; another clip is not touched."""
    place, other = Place(tmp_path), clip("2" * 32, set_name="low_res")
    low = encode_rows(*tables([clip(set_name="low_res"), other], asset()), config)
    high = encode_rows(*tables([clip(set_name="high_res"), other], asset()), config)
    assert done(plan.ENCODE, config, place, low) == 2
    assert [u.n_rows for u in missing(plan.ENCODE, config, place, high)] == [1]
    assert done(plan.ENCODE, config, place, high) == 1 and done(plan.ENCODE, config, place, low) == 0
    for rows in (low, high):
        for output in ("rows", "payload"):
            found = read(plan.ENCODE, config, place, output, rows.column("key").combine_chunks())
            assert sorted(found.column("clip_id").to_pylist()) == ["1" * 32, "2" * 32]


def test_another_shape_of_a_set_encodes_its_own_clips(tmp_path: Path, config: CurateConfig) -> None:
    """A set whose pictures grow encodes the clips that are in it; a set that is added, or whose needs change, encodes none."""
    place, clips = Place(tmp_path), tables([clip(set_name="low_res"), clip("2" * 32, set_name="high_res")], asset())
    done(plan.ENCODE, config, place, encode_rows(*clips, config))
    grown = {**config.sets, "low_res": dataclasses.replace(config.sets["low_res"], area_side_px=320)}
    larger = dataclasses.replace(config, sets=grown)
    assert [u.n_rows for u in missing(plan.ENCODE, larger, place, encode_rows(*clips, larger))] == [1]
    looser = {**config.sets, "low_res": dataclasses.replace(config.sets["low_res"], needs=()), "new": config.sets["high_res"]}
    same = dataclasses.replace(config, sets=looser)
    assert missing(plan.ENCODE, same, place, encode_rows(*clips, same)) == []


def test_a_sample_of_another_bucket_goes_into_no_shard(config: CurateConfig) -> None:
    """A sample whose size or frames are not those of the clip's bucket ends the run, with clip, expected and found; one that fits passes."""
    row = dataclasses.asdict(clip(set_name="high_res", bucket="16x9_256f"))
    found = {"width": 1024, "height": 576, "n_frames": 256, "part": "work/encode/x/y"}
    check_form(row, found, config.sets["high_res"])
    with pytest.raises(ValueError, match=r"clip 1{32} in set high_res.*\(1024, 576, 256\), found one of \(336, 192, 256\)"):
        check_form(row, {**found, "width": 336, "height": 192}, config.sets["high_res"])
    with pytest.raises(ValueError, match="expected a sample for 16x9_256f"):
        check_form({**row, "bucket": "16x9_128f"}, found, config.sets["high_res"])


def test_a_changed_text_is_captioned_anew_and_nothing_else(tmp_path: Path, config: CurateConfig) -> None:
    """Of two files the one whose text changed is captioned again; without sidecars its text changes nothing."""
    place, mine, other = Place(tmp_path), asset(supplied_caption="a dog"), asset(asset_id="b" * 32, asset_no=1, supplied_caption="a cat")
    clips = to_table(Clip, [clip(), clip("2" * 32, asset_id="b" * 32, asset_no=1)])
    before, after = (to_table(Asset, [dataclasses.replace(mine, supplied_caption=text), other]) for text in ("a dog", "a red dog"))
    assert done(plan.CAPTION, config, place, caption_rows(clips, before, config)) == 2
    assert missing(plan.CAPTION, config, place, caption_rows(clips, before, config)) == []
    (unit,) = missing(plan.CAPTION, config, place, caption_rows(clips, after, config))
    assert rows_of(unit).column("clip_id").to_pylist() == ["1" * 32]
    captions = dataclasses.replace(config.captions, sidecar=dataclasses.replace(config.captions.sidecar, use=False))
    unread = dataclasses.replace(config, captions=captions)
    assert caption_rows(clips, before, unread).column("key").equals(caption_rows(clips, after, unread).column("key"))


@pytest.mark.parametrize(("values", "facts", "endpoint"), [
    ({"motion": 9.0}, True, False), ({"loudness_db": -9.0}, True, False), ({"camera": "pan_right", "camera_confidence": 0.9}, True, True),
    ({"camera": "pan_right", "camera_confidence": 0.5}, False, False), ({"text_score": 0.4}, False, False),
])  # fmt: skip
def test_a_measure_that_a_captioner_reads_changes_its_caption(
    config: CurateConfig, values: dict[str, Any], facts: bool, endpoint: bool
) -> None:
    """What the sentence of facts is made of asks for another one, and a camera that is named for any; what nobody reads for none."""
    asked = CaptionConfig(mix={"big": 1.0}, endpoints={"big": EndpointConfig(base_url="http://localhost:1/v1", model="m")})
    for settings, changes in ((config, facts), (dataclasses.replace(config, captions=asked), endpoint)):
        keys = [caption_rows(*tables([c], asset()), settings).column("key").to_pylist() for c in (clip(), clip(**values))]
        assert (keys[0] != keys[1]) == changes


def test_payloads_say_of_what_they_are(tmp_path: Path, config: CurateConfig) -> None:
    """Payloads carry the key of their row, so that a replay compares a clip with its own sample of the same shape."""
    rows = encode_rows(*tables([clip(set_name="low_res")], asset()), config)
    (unit,) = missing(plan.ENCODE, config, Place(tmp_path), rows)
    done(plan.ENCODE, config, Place(tmp_path), rows)
    assert pq.read_table(tmp_path / part_path(unit.stem, "payload")).column("key").to_pylist() == rows.column("key").to_pylist()
