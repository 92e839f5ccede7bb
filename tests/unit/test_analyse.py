"""The one decode: clips and their scores, key frames, series, bounded memory, and that bad media never raise."""

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from curation import media
from curation.analyse import SERIES_SCHEMA, AnalyseConfig, Analysis, analyse_asset, series_table
from curation.isolate import Sandbox
from curation.probe import probe_asset
from curation.shots import ClipConfig
from manifests.ids import clip_id
from tests.media_makers import MEDIA, asset_for, pan, scene, still, write_video, write_wav

CFG = AnalyseConfig()


def analysed(path: Path, cfg: AnalyseConfig = CFG) -> Analysis:
    """Probe, then analysis, as the pipeline does."""
    return analyse_asset(probe_asset(asset_for(path), str(path), cfg.media), str(path), cfg)


@pytest.fixture(scope="module")
def two_shots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """6 s panning right, then 5 s standing still, at 24 frames a second, with sound."""
    return write_video(tmp_path_factory.mktemp("media") / "two.mp4", pan(1, 144, dx=2) + still(2, 120), sound_s=11)


def test_clips_of_two_shots(two_shots: Path) -> None:
    """One clip a shot with exact bounds, ids from them, frames counted, and scores that tell the shots apart."""
    result = analysed(two_shots)
    moving, standing = result.clips
    assert (moving.start_us, moving.end_us) == (1_000_000, 5_900_000)
    assert standing.end_us == 11_000_000 and 6_100_000 <= standing.start_us < 6_100_000 + 41_667
    assert moving.clip_id == clip_id("a" * 32, "video", moving.start_us, moving.end_us)
    assert moving.n_frames == round(4.9 * 24 + 0.5)
    assert (moving.camera, standing.camera) == ("pan_right", "static_shot")
    assert moving.motion > 2 > 0.2 > standing.motion
    assert (moving.static_fraction, standing.static_fraction) == (0.0, 1.0)
    assert moving.motion_vector_source == "codec" and moving.motion_vector_px > 0.5
    assert moving.shots_per_s == pytest.approx(1 / 4.9, rel=1e-3)
    assert moving.border_share == 0 and moving.has_audio
    assert None not in (moving.brightness, moving.contrast, moving.sharpness, moving.colourfulness)
    assert result.asset.error_code is None
    assert (result.asset.n_frames, result.asset.duration_us, result.asset.is_vfr) == (264, 11_000_000, False)


def test_a_video_is_decoded_once(two_shots: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Probe and analysis open the file once each, and decode it once."""
    monkeypatch.setenv(media.MEDIA_LOG_VARIABLE, str(tmp_path / "log"))
    analysed(two_shots)
    assert [line.split("\t")[0] for line in (tmp_path / "log").read_text().splitlines()] == ["probe", "decode"]


def test_key_frames_come_from_their_clip(two_shots: Path) -> None:
    """Three a clip, near 1/6, 3/6 and 5/6 of it, of at most 512 px, and they show that clip."""
    result = analysed(two_shots)
    for clip, seed in zip(result.clips, (1, 2), strict=True):
        frames = [k for k in result.keyframes if k.clip_id == clip.clip_id]
        assert [k.index for k in frames] == [0, 1, 2]
        for k in frames:
            wanted = clip.start_us + (clip.end_us - clip.start_us) * (2 * k.index + 1) / 6
            assert abs(k.pts_us - wanted) <= 550_000
            picture = np.asarray(Image.open(io.BytesIO(k.jpeg)))
            assert picture.shape == (k.height, k.width, 3) == (192, 320, 3)
        if seed == 2:
            assert np.abs(picture.astype(int) - scene(2)).mean() < 12


def test_the_series_is_one_row_of_equal_lists(two_shots: Path) -> None:
    """One value a frame, times rising, the cut in the scores, null where no vector was read; NaN is not stored."""
    series = analysed(two_shots).series
    table = series_table("a" * 32, series)
    assert table.schema == SERIES_SCHEMA and table.num_rows == 1
    row = table.to_pylist()[0]
    assert {len(v) for k, v in row.items() if k != "asset_id" and not k.startswith("shot_")} == {264}
    assert row["shot_opens"] == ["start", "hard"] and row["shot_start_us"] == [row["pts_us"][0], row["pts_us"][144]]
    assert int(np.argmax(row["cut_score"])) == 144
    assert row["vector_px"].count(None) > 200
    assert not any(v is not None and np.isnan(v) for v in row["vector_px"])
    assert isinstance(table, pa.Table)


@pytest.mark.parametrize("rotation", [90, 180, 270])
def test_rotated_video_is_measured_as_shown(tmp_path: Path, rotation: int) -> None:
    """A pan stored lying down is a tilt when shown upright, borders and key frames turn with it, cuts stay."""
    frames = pan(1, 120, dx=2)
    for frame in frames:
        frame[:24] = 0  # a bar at the stored top
    clip = (result := analysed(write_video(tmp_path / "a.mp4", frames, rotation=rotation))).clips[0]
    assert clip.camera == {90: "tilt_down", 180: "pan_left", 270: "tilt_up"}[rotation]
    side = {90: clip.border_right, 180: clip.border_bottom, 270: clip.border_left}[rotation]
    assert side == pytest.approx(24, abs=4) and clip.border_share == pytest.approx(24 / 192, abs=0.02)
    assert (result.keyframes[0].width, result.keyframes[0].height) == (clip.width, clip.height)
    shown = np.rot90(frames[0], -rotation // 90)
    picture = np.asarray(Image.open(io.BytesIO(result.keyframes[0].jpeg)))
    dark = [np.asarray(p).mean(axis=(1, 2)).argmin() if rotation == 180 else p.mean(axis=(0, 2)).argmin() for p in (picture, shown)]
    assert abs(int(dark[0]) - int(dark[1])) < 24


def test_variable_rate_keeps_presentation_times(tmp_path: Path) -> None:
    """A cut in a file of uneven steps that starts at 5 s lies at the time of its frame, and the rate is known to vary."""
    rng = np.random.Generator(np.random.Philox(key=1))
    times = (5000 + np.cumsum(rng.integers(20, 120, 200)) - 20).tolist()
    result = analysed(write_video(tmp_path / "a.mkv", pan(1, 100) + pan(2, 100), times_ms=times))
    assert result.series.pts_us.tolist() == [t * 1000 for t in times]
    assert result.asset.is_vfr is True and result.asset.start_us == times[0] * 1000
    second = next(c for c in result.clips if c.shot_no == 1)
    wanted = times[100] * 1000 + CFG.clips.margin_us
    assert second.start_us == min(t * 1000 for t in times if t * 1000 >= wanted)


def test_a_long_shot_is_held_in_bounded_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However long a shot, no more pictures are held than its clips can need, and its clips have their key frames."""
    from curation import analyse

    held: list[int] = []
    add = analyse._Held.add

    def counted(self: analyse._Held, pts_us: int, picture: object) -> None:
        add(self, pts_us, picture)
        held.append(len(self.pts_us))

    monkeypatch.setattr(analyse._Held, "add", counted)
    cfg = replace(CFG, clips=ClipConfig(max_clips_per_shot=2, max_us=5_000_000))
    result = analysed(write_video(tmp_path / "a.mp4", pan(1, 8 * 60, dx=0.5), fps=8), cfg)
    assert len(result.clips) == 2
    assert len(result.keyframes) == 6
    assert max(held) <= (1 + 2 * 5 + 2 + 8) * 4 + 4


def test_a_video_without_a_long_enough_shot_says_so(tmp_path: Path) -> None:
    """No clip is data: the asset carries no_clip with what was wanted and what was found."""
    asset = analysed(write_video(tmp_path / "a.mp4", pan(1, 48))).asset
    assert (asset.error_stage, asset.error_code) == ("analyse", "no_clip")
    assert "2000000" in asset.error_detail


def test_a_picture_is_one_clip(tmp_path: Path) -> None:
    """Start and end 0, one frame, its border and quality measured, one key frame, nothing that needs time."""
    framed = scene(1, 600, 400)
    framed[:60] = 0
    Image.fromarray(framed).save(tmp_path / "a.png")
    result = analysed(tmp_path / "a.png")
    (clip,) = result.clips
    assert (clip.kind, clip.start_us, clip.end_us, clip.n_frames, clip.width, clip.height) == ("image", 0, 0, 1, 600, 400)
    assert clip.border_top == pytest.approx(60, abs=5)
    assert clip.motion is None and clip.shots_per_s is None
    assert (result.keyframes[0].width, result.keyframes[0].height) == (512, 341)


def test_sound_is_cut_into_spans_with_loudness(tmp_path: Path) -> None:
    """20 s of tone then silence: a span of 16 s and one of 4 s, the silence in the second."""
    sound = 0.5 * np.sin(np.arange(20 * 16000) / 5).astype(np.float32)
    sound[18 * 16000 :] = 0
    result = analysed(write_wav(tmp_path / "a.wav", sound))
    assert [(c.start_us, c.end_us) for c in result.clips] == [(0, 16_000_000), (16_000_000, 20_000_000)]
    assert result.clips[0].loudness_db == pytest.approx(-9.03, abs=0.05)
    assert [c.silence_fraction for c in result.clips] == [0.0, 0.5]
    assert result.asset.duration_us == 20_000_000


def test_the_sound_of_a_video_is_measured_on_request(two_shots: Path) -> None:
    """Off by default; on, every clip has the loudness of its span."""
    assert analysed(two_shots).clips[0].loudness_db is None
    loud = analysed(two_shots, replace(CFG, video_sound=True)).clips
    assert [c.loudness_db for c in loud] == [pytest.approx(-15, abs=1)] * 2


def test_a_file_cut_short_keeps_what_was_decoded_and_says_so(tmp_path: Path) -> None:
    """Data missing at the end of an indexed file: decode_error with the counts, and the clips that could be made."""
    path = write_video(tmp_path / "a.mkv", pan(1, 240, dx=3))
    asset = replace(probe_asset(asset_for(path), str(path), CFG.media), n_frames=240)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * 0.7)])
    result = analyse_asset(asset, str(path), CFG)
    assert (result.asset.error_stage, result.asset.error_code) == ("analyse", "decode_error")
    assert "expected 240 frames" in result.asset.error_detail
    assert 120 < result.asset.n_frames < 216 and len(result.clips) == 1


def test_a_failed_asset_is_left_alone(tmp_path: Path) -> None:
    """An asset whose probe failed comes back as it was, and is not opened again."""
    (tmp_path / "a.mp4").write_bytes(b"no video")
    asset = probe_asset(asset_for(tmp_path / "a.mp4"), str(tmp_path / "a.mp4"), CFG.media)
    assert analyse_asset(asset, str(tmp_path / "absent"), CFG) == Analysis(asset=asset, clips=[], series=None, keyframes=[])


def test_the_analysis_crosses_the_sandbox_unchanged(two_shots: Path) -> None:
    """In the child process the same records, key frames and series come out."""
    asset = probe_asset(asset_for(two_shots), str(two_shots), CFG.media)
    here = analyse_asset(asset, str(two_shots), CFG)
    with Sandbox(60, CFG.media.memory_bytes) as box:
        there = box.call(analyse_asset, asset, str(two_shots), CFG)
    assert (there.asset, there.clips, there.keyframes) == (here.asset, here.clips, here.keyframes)
    assert there.series.cut_score.tolist() == here.series.cut_score.tolist()


@pytest.mark.skipif(not MEDIA.is_dir(), reason="needs the real test media")
@pytest.mark.parametrize("path", sorted((MEDIA / "hostile").glob("*")), ids=lambda p: p.name)
def test_hostile_files_never_raise(path: Path) -> None:
    """Every broken or unusual file gives clips or an error with stage, code and detail; no score is NaN."""
    result = analysed(path)
    assert bool(result.clips) or (result.asset.error_stage and result.asset.error_code and result.asset.error_detail)
    for clip in result.clips:
        assert clip.end_us >= clip.start_us
        values = [getattr(clip, n) for n in ("motion", "sharpness", "contrast", "border_share", "loudness_db", "motion_vector_px")]
        assert not any(isinstance(v, float) and np.isnan(v) for v in values)
