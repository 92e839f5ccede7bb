"""The one decode and what is cut and measured from it: tracks, clips, scores, key frames, and that bad media never raise."""

import gc
import io
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from av.video.frame import VideoFrame
from PIL import Image

from curation import media
from curation.facts import derive_asset
from curation.isolate import Sandbox
from curation.keyframes import of_clip
from curation.media import MediaError
from curation.observe import Frame, SmallFrames
from curation.probe import probe_asset
from curation.scan import Scan, ScanConfig, scan_asset
from curation.shots import ClipConfig
from curation.split import Split, SplitConfig, split_asset
from curation.tracks import by_name, from_table, to_table
from manifests.ids import clip_id
from manifests.records import Asset, Clip
from pipelines.jobs import SCANNED_COLUMNS
from pipelines.measures import MEASURES, MeasuresConfig, run_measure
from tests.media_makers import MEDIA, asset_for, pan, scene, still, write_video, write_wav

CFG = ScanConfig()


@dataclass(frozen=True)
class Seen:
    """A file as the pipeline sees it: its scan, its clips with every measure on tracks."""

    scan: Scan
    split: Split
    clips: list[Clip]


def seen(path: Path, split: SplitConfig | None = None, scan: ScanConfig = CFG) -> Seen:
    """Probe, scan, split and measures, as the pipeline does. Each measure is shown only the tracks that it says it needs."""
    found = scan_asset(probe_asset(asset_for(path), str(path), scan.media), str(path), scan)
    tracks, settings = by_name(found.tracks), MeasuresConfig()
    cut = (
        split_asset(found.asset, tracks, split or SplitConfig()) if found.asset.error_code is None or tracks else Split(clips=[], shots=[])
    )
    clips = []
    for clip in cut.clips:
        for measure in MEASURES:
            own = {k: v for k, v in tracks.items() if k in (*measure.needs, *measure.also)}
            clip = replace(clip, **run_measure(measure, clip, own, getattr(settings, measure.name)))
        clips.append(clip)
    return Seen(found, cut, clips)


@pytest.fixture(scope="module")
def two_shots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """6 s panning right, then 5 s standing still, at 24 frames a second, with sound."""
    return write_video(tmp_path_factory.mktemp("media") / "two.mp4", pan(1, 144, dx=2) + still(2, 120), sound_s=11)


def test_clips_of_two_shots(two_shots: Path) -> None:
    """One clip a shot with exact bounds, ids from them, frames counted, and scores that tell the shots apart."""
    result = seen(two_shots)
    moving, standing = result.clips
    assert (moving.start_us, moving.end_us) == (1_000_000, 5_900_000)
    assert standing.end_us == 11_000_000 and 6_100_000 <= standing.start_us < 6_100_000 + 41_667
    assert moving.clip_id == clip_id("a" * 32, "video", moving.start_us, moving.end_us)
    assert moving.n_frames == round(4.9 * 24 + 0.5)
    assert (moving.camera, standing.camera) == ("pan_right", "static_shot")
    assert moving.motion > 2 > 0.2 > standing.motion
    assert (moving.static_fraction, standing.static_fraction) == (0.0, 1.0)
    assert moving.motion_vector_px > 0.5 and moving.motion_vector_source in ("codec", "estimate")
    assert moving.shots_per_s == pytest.approx(1 / 4.9, rel=1e-3)
    assert moving.border_share == 0 and moving.has_audio and moving.damaged_frames == 0
    assert None not in (moving.brightness, moving.contrast, moving.sharpness)
    assert [c.loudness_db for c in result.clips] == [pytest.approx(-18, abs=0.5)] * 2  # a tone at -15 dB, spread over two channels
    asset = result.scan.asset
    assert asset.error_code is None
    assert (asset.n_frames, asset.duration_us, asset.is_vfr) == (264, 11_000_000, False)


def test_a_video_is_decoded_once(two_shots: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Probe and scan open the file once each, and decode it once, sound included."""
    monkeypatch.setenv(media.MEDIA_LOG_VARIABLE, str(tmp_path / "log"))
    result = seen(two_shots)
    assert [line.split("\t")[0] for line in (tmp_path / "log").read_text().splitlines()] == ["probe", "decode"]
    assert result.scan.soundtrack


@pytest.mark.parametrize("codec", ["libx264", "mpeg4"])  # vectors of a decoder of their own; by the way
def test_no_picture_outlives_its_turn(tmp_path: Path, codec: str) -> None:
    """A scan leaves no decoded picture for the collector of cycles: when a picture's memory is used again depends on the file alone."""
    path = write_video(tmp_path / "turned.mp4", pan(3, 60), codec=codec, rotation=90)
    scan_asset(asset_for(path), str(path), CFG)  # what is imported and kept at first use
    gc.collect()
    gc.disable()
    try:
        gc.set_debug(gc.DEBUG_SAVEALL)
        scan = scan_asset(asset_for(path), str(path), CFG)
        gc.collect()
        left = [type(o).__name__ for o in gc.garbage if isinstance(o, VideoFrame | Frame)]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
    assert scan.asset.n_frames == 60 and scan.asset.rotation == 90
    assert left == []


def test_clips_are_cut_anew_from_the_same_scan(two_shots: Path) -> None:
    """Another clip length gives other clips of the same tracks, inside the same shots."""
    found = scan_asset(probe_asset(asset_for(two_shots), str(two_shots), CFG.media), str(two_shots), CFG)
    tracks = by_name(found.tracks)
    whole = split_asset(found.asset, tracks, SplitConfig())
    short = split_asset(found.asset, tracks, SplitConfig(clips=ClipConfig(min_us=1_000_000, max_us=2_000_000)))
    assert len(short.clips) > len(whole.clips) and short.shots == whole.shots
    assert all(c.end_us - c.start_us <= 2_000_000 for c in short.clips)


def test_a_clip_has_key_frames_that_show_it(two_shots: Path) -> None:
    """Each clip has some of the asset's key frames, of at most 512 px, and they show that clip."""
    result = seen(two_shots)
    for clip, seed in zip(result.clips, (1, 2), strict=True):
        frames = of_clip(result.scan.keyframes, clip)
        assert len(frames) >= 2
        for k in frames:
            picture = np.asarray(Image.open(io.BytesIO(k.jpeg)))
            assert picture.shape == (k.height, k.width, 3) == (192, 320, 3)
        if seed == 2:
            assert np.abs(picture.astype(int) - scene(2)).mean() < 12


def test_tracks_come_back_from_parquet_as_they_were(two_shots: Path) -> None:
    """Times, values (nan as null and back) and pictures of every track survive storing."""
    tracks = by_name(seen(two_shots).scan.tracks)
    table = to_table("a" * 32, tracks.values())
    assert isinstance(table, pa.Table) and not any(v is not None and np.isnan(v) for row in table.column("values").to_pylist() for v in row)
    again = from_table(table)["a" * 32]
    assert again.keys() == tracks.keys()
    for name, track in tracks.items():
        assert again[name].fields == track.fields and (again[name].pts_us == track.pts_us).all()
        assert np.array_equal(again[name].values, track.values, equal_nan=True)
        assert np.array_equal(again[name].pictures, track.pictures) or not len(track.pictures)


def test_a_second_of_video_leaves_little(two_shots: Path) -> None:
    """All tracks of a video together take less than 40 kB a second as raw numbers, key frames apart."""
    tracks = seen(two_shots).scan.tracks
    size = sum(t.values.nbytes + t.pts_us.nbytes + t.pictures.nbytes for t in tracks)
    assert size / 11 < 40_000


@pytest.mark.parametrize("rotation", [90, 180, 270])
def test_rotated_video_is_measured_as_shown(tmp_path: Path, rotation: int) -> None:
    """A pan stored lying down is a tilt when shown upright, borders and key frames turn with it, cuts stay."""
    frames = pan(1, 120, dx=2)
    for frame in frames:
        frame[:24] = 0  # a bar at the stored top
    result = seen(write_video(tmp_path / "a.mp4", frames, rotation=rotation))
    clip = result.clips[0]
    assert clip.camera == {90: "tilt_down", 180: "pan_left", 270: "tilt_up"}[rotation]
    side = {90: clip.border_right, 180: clip.border_bottom, 270: clip.border_left}[rotation]
    assert side == pytest.approx(24, abs=4) and clip.border_share == pytest.approx(24 / 192, abs=0.02)
    key = result.scan.keyframes[0]
    assert (key.width, key.height) == (clip.width, clip.height)


def test_variable_rate_keeps_presentation_times(tmp_path: Path) -> None:
    """A cut in a file of uneven steps that starts at 5 s lies at the time of its frame, and the rate is known to vary."""
    rng = np.random.Generator(np.random.Philox(key=1))
    times = (5000 + np.cumsum(rng.integers(20, 120, 200)) - 20).tolist()
    result = seen(write_video(tmp_path / "a.mkv", pan(1, 100) + pan(2, 100), times_ms=times))
    assert by_name(result.scan.tracks)["shots"].pts_us.tolist() == [t * 1000 for t in times]
    assert result.scan.asset.is_vfr is True and result.scan.asset.start_us == times[0] * 1000
    second = next(c for c in result.clips if c.shot_no == 1)
    wanted = times[100] * 1000 + SplitConfig().clips.margin_us
    assert second.start_us == min(t * 1000 for t in times if t * 1000 >= wanted)


def test_a_picture_is_one_clip(tmp_path: Path) -> None:
    """Start and end 0, one frame, its border and quality measured, one key frame, nothing that needs time."""
    framed = scene(1, 600, 400)
    framed[:60] = 0
    Image.fromarray(framed).save(tmp_path / "a.png")
    result = seen(tmp_path / "a.png")
    (clip,) = result.clips
    assert (clip.kind, clip.start_us, clip.end_us, clip.n_frames, clip.width, clip.height) == ("image", 0, 0, 1, 600, 400)
    assert clip.border_top == pytest.approx(60, abs=5)
    assert clip.motion is None and clip.shots_per_s is None and clip.sharpness is not None
    assert (result.scan.keyframes[0].width, result.scan.keyframes[0].height) == (512, 342)


def test_sound_is_cut_into_spans_with_loudness(tmp_path: Path) -> None:
    """20 s of tone then silence: a span of 16 s and one of 4 s, the silence in the second."""
    sound = 0.5 * np.sin(np.arange(20 * 16000) / 5).astype(np.float32)
    sound[18 * 16000 :] = 0
    result = seen(write_wav(tmp_path / "a.wav", sound))
    assert [(c.start_us, c.end_us) for c in result.clips] == [(0, 16_000_000), (16_000_000, 20_000_000)]
    assert result.clips[0].loudness_db == pytest.approx(-9.03, abs=0.05)
    assert [c.silence_fraction for c in result.clips] == [0.0, 0.5]
    assert result.scan.asset.duration_us == 20_000_000


def test_a_file_cut_short_keeps_what_was_decoded_and_says_so(tmp_path: Path) -> None:
    """Data missing at the end of an indexed file: decode_error with the counts, and the clips that could be made."""
    path = write_video(tmp_path / "a.mkv", pan(1, 240, dx=3))
    asset = replace(probe_asset(asset_for(path), str(path), CFG.media), n_frames=240)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * 0.7)])
    found = scan_asset(asset, str(path), CFG)
    assert (found.asset.error_stage, found.asset.error_code) == ("scan", "decode_error")
    assert "expected 240 frames" in found.asset.error_detail
    assert 120 < found.asset.n_frames < 216
    assert len(split_asset(found.asset, by_name(found.tracks), SplitConfig()).clips) == 1
    # So the rule `readable` fails it.
    assert derive_asset(found.asset).readable == 0 and "readable" in SCANNED_COLUMNS


def test_a_failed_asset_is_left_alone(tmp_path: Path) -> None:
    """An asset whose probe failed comes back as it was, and is not opened again."""
    (tmp_path / "a.mp4").write_bytes(b"no video")
    asset = probe_asset(asset_for(tmp_path / "a.mp4"), str(tmp_path / "a.mp4"), CFG.media)
    assert scan_asset(asset, str(tmp_path / "absent"), CFG) == Scan(asset=asset)


def test_the_scan_crosses_the_sandbox_unchanged(two_shots: Path) -> None:
    """In the child process the same asset, key frames, sound and tracks come out."""
    asset = probe_asset(asset_for(two_shots), str(two_shots), CFG.media)
    here = scan_asset(asset, str(two_shots), CFG)
    with Sandbox(60, CFG.media.memory_bytes) as box:
        there = box.call(scan_asset, asset, str(two_shots), CFG)
    assert (there.asset, there.keyframes, there.soundtrack) == (here.asset, here.keyframes, here.soundtrack)
    assert to_table("a", there.tracks) == to_table("a", here.tracks)


@pytest.mark.skipif(not MEDIA.is_dir(), reason="needs the real test media")
@pytest.mark.parametrize("path", sorted((MEDIA / "hostile").glob("*")), ids=lambda p: p.name)
def test_hostile_files_never_raise(path: Path) -> None:
    """Every broken or unusual file gives a scan without error or one with stage, code and detail; no score is NaN."""
    result = seen(path)
    asset = result.scan.asset
    assert asset.error_code is None or (asset.error_stage and asset.error_detail)
    for clip in result.clips:
        assert clip.end_us >= clip.start_us
        values: list[Any] = [getattr(clip, column) for measure in MEASURES for column in measure.columns]
        assert not any(isinstance(v, float) and np.isnan(v) for v in values)


def test_a_frame_that_cannot_be_scaled_costs_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Damage makes frames that the scaler refuses: each is an error of the asset, and the others are watched."""
    path = write_video(tmp_path / "a.mp4", pan(1, 24))
    make, n = SmallFrames.__call__, iter(range(100))

    def refuses(self: SmallFrames, source: Any, pts_us: int) -> Frame:
        if next(n) in (3, 4):
            raise MediaError("decode_error", "expected a frame that can be made small, found none")
        return make(self, source, pts_us)

    monkeypatch.setattr(SmallFrames, "__call__", refuses)
    found = scan_asset(Asset(asset_id="0" * 32, asset_sha256=b"", asset_md5=b"", size_bytes=0, uri="a"), str(path), ScanConfig())
    assert found.asset.error_code is None and found.asset.n_frames == 22 and "2 broken packets" in (found.asset.error_detail or "")
