"""Opening media: facts, limits, allow-lists, time stamps, and what becomes of files that are not media."""

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.video.reformatter import ColorRange
from PIL import Image

from curation import decode, media
from curation.clock import is_variable
from curation.decode import DecodeLog
from curation.media import MediaConfig, MediaError
from curation.observe import SmallFrames
from curation.orientation import Orientation
from curation.probe import probe, probe_asset
from curation.scan import ScanConfig, scan_asset
from curation.stills import load_picture
from tests.media_makers import MEDIA, asset_for, pan, scene, still, write_video, write_wav

CFG = MediaConfig()


def test_probe_gives_the_facts_of_a_video(tmp_path: Path) -> None:
    """Size, rate, duration, frames, start and sound are those written."""
    facts = probe(str(write_video(tmp_path / "a.mp4", pan(1, 48), sound_s=2.0)), CFG)
    assert (facts.kind, facts.vcodec, facts.acodec, facts.has_audio) == ("video", "h264", "aac", True)
    assert (facts.width, facts.height, facts.rotation, facts.n_frames) == (320, 192, 0, 48)
    assert (facts.fps_num, facts.fps_den, facts.duration_us, facts.start_us) == (24, 1, 2_000_000, 0)
    assert facts.is_vfr is False
    assert facts.sample_rate_hz == 48000


@pytest.mark.parametrize("rotation", [90, 180, 270])
def test_probe_gives_the_size_as_shown(tmp_path: Path, rotation: int) -> None:
    """A clockwise rotation in the container is reported, and turns width and height."""
    facts = probe(str(write_video(tmp_path / "a.mp4", still(1, 6), rotation=rotation)), CFG)
    assert facts.rotation == rotation
    assert (facts.width, facts.height) == ((192, 320) if rotation != 180 else (320, 192))


def test_orientation_turns_a_picture_clockwise() -> None:
    """What is at the top left of the stored picture is at the top right after 90 degrees, and mirrored cases differ from turned ones."""
    picture = np.arange(6).reshape(2, 3)
    assert (Orientation(True, True, False).apply(picture) == np.rot90(picture, -1)).all()
    assert (Orientation(False, True, True).apply(picture) == np.rot90(picture, 2)).all()
    assert (Orientation(True, False, True).apply(picture) == np.rot90(picture, 1)).all()
    assert [Orientation(*o).clockwise_degrees for o in ((0, 0, 0), (1, 1, 0), (0, 1, 1), (1, 0, 1))] == [0, 90, 180, 270]
    assert len({Orientation(t, x, y).apply(picture).tobytes() for t in (0, 1) for x in (0, 1) for y in (0, 1)}) == 8


def test_frames_carry_the_containers_time(tmp_path: Path) -> None:
    """Uneven presentation times come back to the microsecond, and the file is known to be of variable rate."""
    times = [0, 40, 80, 200, 210, 500, 540, 1000, 1040, 1080]
    path = str(write_video(tmp_path / "a.mkv", pan(1, len(times)), times_ms=times))
    assert [t for _, t in decode.decode(path, CFG)] == [t * 1000 for t in times]
    assert is_variable(np.array(times) * 1000) is True


def test_is_variable_allows_rounding() -> None:
    """Milliseconds of 24 frames a second are constant, a dropped frame is not, and two frames say nothing."""
    steady = np.round(np.arange(50) * 1000 / 24) * 1000
    assert is_variable(steady) is False
    assert is_variable(np.delete(steady, 20)) is True
    assert is_variable(steady[:2]) is None


@pytest.mark.parametrize("name", ["list.m3u8", "list.ffconcat", "clip.mp4"])
def test_playlists_never_open_another_file(tmp_path: Path, name: str) -> None:
    """A playlist or concat file that points to a real video is no medium, whatever its name."""
    real = write_video(tmp_path / "real.mp4", still(1, 6))
    lists = {
        "list.m3u8": f"#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\n{real}\n#EXT-X-ENDLIST\n",
        "list.ffconcat": f"ffconcat version 1.0\nfile '{real.name}'\n",
        "clip.mp4": f"#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\n{real}\n#EXT-X-ENDLIST\n",
    }
    (tmp_path / name).write_text(lists[name])
    with pytest.raises(MediaError) as e:
        probe(str(tmp_path / name), CFG)
    assert e.value.code == "not_media"


def test_names_are_paths_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file whose name looks like an option or a protocol opens as the file it is."""
    monkeypatch.chdir(tmp_path)
    for name in ("-i.mp4", "concat:a|b.mp4", "http:%d.mp4"):
        write_video(tmp_path / "plain.mp4", still(1, 3)).rename(tmp_path / name)
        assert probe(name, CFG).n_frames == 3


def test_kind_is_judged_by_content(tmp_path: Path) -> None:
    """A PNG named .mp4 is an image, a video named .jpg is a video, a WAV named .png is sound."""
    Image.fromarray(scene(1)).save(tmp_path / "a.png")
    (tmp_path / "a.png").rename(tmp_path / "a.mp4")
    write_video(tmp_path / "b.mp4", still(1, 3)).rename(tmp_path / "b.jpg")
    write_wav(tmp_path / "c.wav", np.zeros(16000)).rename(tmp_path / "c.png")
    kinds = [probe(str(tmp_path / n), CFG).kind for n in ("a.mp4", "b.jpg", "c.png")]
    assert kinds == ["image", "video", "audio"]


def test_limits_hold(tmp_path: Path) -> None:
    """Too many pixels, frames or seconds are refused by code before frames are kept."""
    path = str(write_video(tmp_path / "a.mp4", still(1, 48)))
    for change, code in (
        ({"max_pixels": 1000}, "limit_pixels"),
        ({"max_frames": 10}, "limit_frames"),
        ({"max_duration_us": 10}, "limit_duration"),
    ):
        with pytest.raises(MediaError) as e:
            probe(path, replace(CFG, **change))
        assert e.value.code == code
    Image.fromarray(scene(1)).save(tmp_path / "a.png")
    with pytest.raises(MediaError, match="limit_pixels"):
        probe(str(tmp_path / "a.png"), replace(CFG, max_image_pixels=1000))


def test_broken_files_say_what_is_wrong(tmp_path: Path) -> None:
    """Missing, empty, text, and cut-off files have different codes, on the asset, without an exception."""
    whole = write_video(tmp_path / "whole.mp4", pan(1, 24)).read_bytes()
    buffer = io.BytesIO()
    Image.fromarray(scene(1)).save(buffer, "JPEG")
    files = {
        "empty.mp4": b"",
        "page.mp4": b"<!DOCTYPE html><html></html>",
        "cut.mp4": whole[: len(whole) // 2],
        "cut.jpg": buffer.getvalue()[:500],
    }
    codes = {}
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
        asset = probe_asset(asset_for(tmp_path / name), str(tmp_path / name), CFG)
        assert asset.error_stage == "probe" and asset.kind is None
        codes[name] = asset.error_code
    assert codes == {"empty.mp4": "empty", "page.mp4": "not_media", "cut.mp4": "truncated", "cut.jpg": "truncated"}
    with pytest.raises(MediaError, match="missing"):
        probe(str(tmp_path / "absent.mp4"), CFG)


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    """A JPEG stored lying and marked as turned is reported and loaded as shown."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(scene(1)).save(tmp_path / "a.jpg", exif=exif)
    facts = probe(str(tmp_path / "a.jpg"), CFG)
    assert (facts.width, facts.height, facts.rotation) == (192, 320, 90)
    assert load_picture(str(tmp_path / "a.jpg"), CFG, 64).shape == (64, 38, 3)


def test_grey_of_16_bits_keeps_its_levels(tmp_path: Path) -> None:
    """A ramp over all levels of a 16-bit grey PNG is the same ramp in 8 bits, not white."""
    ramp = np.tile(np.linspace(0, 65535, 256).round().astype(np.uint16), (64, 1))
    Image.fromarray(ramp).save(tmp_path / "a.png")
    assert (load_picture(str(tmp_path / "a.png"), CFG) == np.arange(256, dtype=np.uint8)[None, :, None]).all()


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_what_is_transparent_is_white(tmp_path: Path, mode: str) -> None:
    """The transparent rim of a picture is white whatever colour is stored under it, and the opaque middle keeps its own."""
    rgba = np.zeros((64, 64, 4), np.uint8)
    rgba[16:48, 16:48] = (60, 60, 60, 255)
    path = tmp_path / ("a.webp" if mode == "RGBA" else "a.png")
    Image.fromarray(rgba).convert(mode).save(path, **({"lossless": True} if mode == "RGBA" else {}))
    picture = load_picture(str(path), CFG).astype(int)
    assert (picture[:16] == 255).all() and (abs(picture[16:48, 16:48] - 60) <= 3).all()


def test_frames_that_an_edit_list_hides_are_not_expected(tmp_path: Path) -> None:
    """A file trimmed inside a group of pictures without coding it anew counts the frames it shows, and scans without an error."""
    whole, cut = write_video(tmp_path / "whole.mp4", pan(1, 120)), tmp_path / "cut.mp4"
    with av.open(str(whole)) as source, av.open(str(cut), "w") as out:
        stream = out.add_stream_from_template(source.streams.video[0])
        start = round(3 / source.streams.video[0].time_base)
        for packet in source.demux(video=0):
            if packet.dts is not None:  # what lies before the start gets times below zero, for which the writer makes an edit list
                packet.pts, packet.dts, packet.stream = packet.pts - start, packet.dts - start, stream
                out.mux(packet)
    with av.open(str(cut)) as container:
        assert container.streams.video[0].frames == 120
    asset = probe_asset(asset_for(cut), str(cut), CFG)
    assert (asset.n_frames, asset.is_vfr) == (48, False)
    found = scan_asset(asset, str(cut), ScanConfig()).asset
    assert (found.error_code, found.n_frames) == (None, 48)
    with pytest.raises(MediaError, match="at most 100 frames, found 120"):
        probe(str(cut), replace(CFG, max_frames=100))


@pytest.mark.parametrize("full", [False, True])
def test_small_planes_are_of_limited_range(full: bool) -> None:
    """White, grey and black of a full-range video are as in one of limited range: 235, 126 and 16 in the small luma."""
    for level, expected in ((255, 235), (128, 126), (0, 16)):
        source = av.VideoFrame(640, 360, "yuvj420p" if full else "yuv420p")
        for i, plane in enumerate(source.planes):
            value = 128 if i else level if full else expected
            plane.update(bytes([value]) * plane.buffer_size)
        source.color_range = ColorRange.JPEG if full else ColorRange.MPEG
        assert abs(SmallFrames(640, 360)(source, 0).y.astype(int) - expected).max() <= 1


def test_every_opening_is_logged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With DAILIES_MEDIA_LOG set, one line per opening says what for."""
    path = str(write_video(tmp_path / "a.mp4", still(1, 3)))
    monkeypatch.setenv(media.MEDIA_LOG_VARIABLE, str(tmp_path / "log"))
    probe(path, CFG)
    assert len(list(decode.decode(path, CFG))) == 3
    assert (tmp_path / "log").read_text() == f"probe\t{path}\ndecode\t{path}\n"


@pytest.mark.skipif(not MEDIA.is_dir(), reason="needs the real test media")
@pytest.mark.parametrize("path", sorted((MEDIA / "hostile").glob("*")), ids=lambda p: p.name)
def test_hostile_files_give_facts_or_a_code(path: Path) -> None:
    """Every broken or unusual file is probed and decoded, or refused with a code; no frame is invented."""
    known = {Path(e["file"]).name: e for e in json.loads((MEDIA / "hostile.json").read_text())["entries"]}[path.name]
    asset = probe_asset(asset_for(path), str(path), CFG)
    if asset.error_code is not None:
        assert asset.error_detail and str(path) in asset.error_detail
        # FFmpeg shows the part of a cut-off JPEG that is there; we refuse it.
        assert not known["decoded_video_frames"] or asset.error_code == "truncated"
    elif asset.kind == "video":
        log = DecodeLog()
        n_frames = sum(1 for _ in decode.decode(str(path), CFG, log=log))
        # Newer decoders give a frame or two more or less around an error, and do decode VVC.
        assert n_frames <= (asset.n_frames or n_frames)
        if "VVC" not in known["what"] and "two" not in known["what"]:
            assert abs(n_frames - known["decoded_video_frames"]) <= 2 + 0.1 * known["decoded_video_frames"]


def test_a_picture_in_a_container_is_opened_under_the_limit_of_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """FFmpeg is told the limit that was asked for while it reads a header, not that of videos."""
    asked, plain = [], av.open

    def spy(name: str, mode: str, **given: Any) -> Any:
        asked.append(int(given["options"]["max_pixels"]))
        return plain(name, mode, **given)

    path = str(write_video(tmp_path / "a.mp4", still(1, 3)))
    monkeypatch.setattr(av, "open", spy)
    for most in (None, 120_000_000):
        with media.open_container(path, MediaConfig(max_pixels=1_000_000), most):
            pass
    assert 1_000_000 <= asked[0] < 2_000_000 and asked[1] >= 120_000_000
