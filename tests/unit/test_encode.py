"""Encoding: exactly the frames, size and rate that were asked for, from exactly the span, with the same bytes each time.

Every frame of the test films carries its number as eight black or white stripes, so that which source frame an encoded one came from is
read from the picture.
"""

import io
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curation.decode import decode
from curation.encode import EncodeConfig, EncodedClip, encode_clip, fit_picture
from curation.encode_apart import encode_in, encode_sandbox
from curation.ffmpeg_program import EncodeError, ffmpeg_binary, h264_encoder, need_descriptors, run_ffmpeg
from curation.isolate import ENVIRONMENT, THREADS
from curation.media import MediaConfig, MediaError
from curation.probe import probe_asset
from manifests.records import Asset, Clip

CFG = EncodeConfig(preset="veryfast")
WIDTH, HEIGHT, STRIPES = 160, 96, 8
MEDIA = Path(os.environ.get("DAILIES_TEST_MEDIA", Path(__file__).parents[2] / "../shared/media"))


def _film(path: Path, pts_ms: list[int], codec: str = "libx264", b_frames: int = 0, sound_hz: int = 0) -> Path:
    """A film with one numbered frame at each time; sound, if any, is one tone at 44.1 kHz."""
    import av

    with av.open(str(path), "w") as out:
        video = out.add_stream(codec, rate=30, width=WIDTH, height=HEIGHT, pix_fmt="yuv420p")
        video.codec_context.time_base = video.time_base = Fraction(1, 1000)
        video.codec_context.gop_size = 40
        video.codec_context.max_b_frames = b_frames
        audio = out.add_stream("aac", rate=44_100, layout="mono") if sound_hz else None
        for number, pts in enumerate(pts_ms):
            bits = [255 * (number >> b & 1) for b in range(STRIPES)]
            grey = np.repeat(np.array(bits, np.uint8), WIDTH // STRIPES)
            frame = av.VideoFrame.from_ndarray(np.repeat(np.tile(grey, (HEIGHT, 1))[..., None], 3, 2), format="rgb24")
            frame.pts, frame.time_base = pts, Fraction(1, 1000)
            out.mux(video.encode(frame))
        out.mux(video.encode())
        if audio is not None:
            n = int(44.1 * (pts_ms[-1] + 40))
            tone = (0.5 * np.sin(2 * np.pi * sound_hz * np.arange(n) / 44_100)).astype(np.float32)
            for start in range(0, n, 1024):
                piece = av.AudioFrame.from_ndarray(tone[None, start : start + 1024], format="fltp", layout="mono")
                piece.sample_rate, piece.pts, piece.time_base = 44_100, start, Fraction(1, 44_100)
                out.mux(audio.encode(piece))
            out.mux(audio.encode())
    return path


def _asset(path: Path) -> Asset:
    return probe_asset(Asset(asset_id="a" * 32, asset_sha256=b"", asset_md5=b"", size_bytes=1, uri=str(path)), str(path), MediaConfig())


def _times(path: Path) -> list[int]:
    return [t for _, t in decode(str(path), MediaConfig())]


def _clip(start_us: int, end_us: int, kind: str = "video") -> Clip:
    return Clip(clip_id="c1", asset_id="a" * 32, kind=kind, start_us=start_us, end_us=end_us)


def _numbers(encoded: EncodedClip, tall: bool = False) -> list[int]:
    """The source number of each encoded frame, read from its stripes."""
    found = []
    for frame in _frames(encoded):
        grey = frame.to_ndarray(format="gray").astype(int)
        profile = grey.mean(axis=1 if tall else 0)
        cells = profile.reshape(STRIPES, -1).mean(axis=1) > 128
        found.append(sum(int(bit) << b for b, bit in enumerate(cells)))
    return found


def _frames(encoded: EncodedClip) -> list[Any]:
    import av

    with av.open(io.BytesIO(encoded.data)) as container:
        return list(container.decode(video=0))


def _held(times_us: list[int], start_us: int, n_frames: int, fps: int) -> list[int]:
    """Which source frame is on screen at each output instant, to the nearest output frame."""
    span = Fraction(1_000_000, fps)
    return [max((i for i, t in enumerate(times_us) if t - start_us < (n + Fraction(1, 2)) * span), default=0) for n in range(n_frames)]


CASES: dict[str, dict[str, Any]] = {
    "constant rate": {"pts_ms": [40 * i for i in range(150)]},
    "variable rate": {"pts_ms": list(np.cumsum([20 + 37 * (i % 3) for i in range(140)]))},
    "starts at 5 s": {"pts_ms": [5000 + 40 * i for i in range(150)]},
    "B-frames": {"pts_ms": [33 * i for i in range(180)], "b_frames": 3},
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("container", ["mp4", "mkv"])
def test_the_frames_are_those_of_the_span(case: str, container: str, tmp_path: Path) -> None:
    """At constant and variable rate, with odd starts and B-frames, each encoded frame is the source frame on screen at its time."""
    film = _film(tmp_path / f"film.{container}", **CASES[case])
    times = _times(film)
    first = 41
    got = encode_clip(str(film), _clip(times[first], times[-1]), _asset(film), WIDTH, HEIGHT, 32, 16, 1, CFG)
    assert _numbers(got) == _held(times, times[first], 32, 16)
    assert [round(f.time * 16) for f in _frames(got)] == list(range(32)) and got.n_cloned == 0


# AVI has no times of its own, so it carries constant rates only.
@pytest.mark.parametrize(("container", "case"), [("avi", "constant rate"), *((c, case) for c in ("mp4", "mkv", "ts") for case in CASES)])
def test_seeking_changes_nothing(case: str, container: str, tmp_path: Path) -> None:
    """With a seek just before the span, far behind the first key frame, the bytes are those of a decode from the beginning."""
    film = _film(tmp_path / f"film.{container}", **CASES[case])
    times = [40_000 * i for i in range(150)] if container == "avi" else _times(film)
    asset, clip = _asset(film), _clip(times[91], times[-1])
    far, near = (encode_clip(str(film), clip, asset, WIDTH, HEIGHT, 24, 16, 1, replace(CFG, seek_margin_us=us)) for us in (1 << 40, 50_000))
    assert _numbers(near) == _held(times, times[91], 24, 16) and near == far


def test_a_seek_that_lands_too_late_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the container's seek passes the span, the file is read again from its beginning and the frames are right."""
    from curation import encode

    plain, asked = encode._reading, []

    def overshoot(start_us: int | None, cfg: EncodeConfig, **options: Any) -> Any:
        asked.append(start_us)
        return plain(None if start_us is None else start_us + 6_600_000, cfg, **options)

    monkeypatch.setattr(encode, "_reading", overshoot)
    film = _film(tmp_path / "film.mp4", [40 * i for i in range(150)])
    times = _times(film)
    got = encode_clip(str(film), _clip(times[41], times[-1]), _asset(film), WIDTH, HEIGHT, 32, 16, 1, CFG)
    assert asked == [times[41], None] and _numbers(got) == _held(times, times[41], 32, 16)


def test_frames_beyond_the_clip_never_enter(tmp_path: Path) -> None:
    """The last frame comes from inside the clip, and the first is the clip's own first, even where a cut is one frame away."""
    film = _film(tmp_path / "film.mp4", [40 * i for i in range(200)])
    times = _times(film)
    got = encode_clip(str(film), _clip(times[50], times[100]), _asset(film), WIDTH, HEIGHT, 32, 16, 1, CFG)
    numbers = _numbers(got)
    assert numbers[0] == 50 and max(numbers) <= 99 and all(b >= a for a, b in pairwise(numbers))


def test_a_span_inside_the_clip_begins_with_the_frame_on_screen(tmp_path: Path) -> None:
    """A span that starts between two frames shows the frame that began before it."""
    film = _film(tmp_path / "film.mp4", [200 * i for i in range(60)])
    got = encode_clip(str(film), _clip(0, 12_000_000), _asset(film), WIDTH, HEIGHT, 32, 16, 1, CFG, span_us=(5_100_000, 7_100_000))
    assert _numbers(got) == _held(_times(film), 5_100_000, 32, 16) and _numbers(got)[0] == 25


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_rotation_is_applied(degrees: int, tmp_path: Path) -> None:
    """A film with a display matrix is encoded upright: the stripes lie where a player shows them."""
    plain, turned = _film(tmp_path / "plain.mp4", [40 * i for i in range(80)]), tmp_path / "turned.mp4"
    command = [ffmpeg_binary(), "-v", "error", "-display_rotation", str(degrees), "-i", str(plain), "-c", "copy", str(turned)]
    subprocess.run(command, check=True)
    asset = _asset(turned)
    size = (HEIGHT, WIDTH) if degrees % 180 else (WIDTH, HEIGHT)
    assert (asset.width, asset.height) == size
    got = encode_clip(str(turned), _clip(0, 3_200_000), asset, *size, 32, 16, 1, CFG)
    # -display_rotation turns anticlockwise: at 90 the first stripe comes to the bottom.
    numbers = _numbers(got, tall=bool(degrees % 180))
    back = [int(f"{n:08b}"[::-1], 2) for n in numbers] if degrees in (90, 180) else numbers
    assert back == _held(_times(turned), 0, 32, 16)


def test_the_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    """Encoding twice, also under another file name, gives equal bytes, with sound and for pictures too."""
    film = _film(tmp_path / "film.mp4", [40 * i for i in range(100)], sound_hz=440)
    again = tmp_path / "other name.mp4"
    again.write_bytes(film.read_bytes())
    clip = _clip(0, 4_000_000)
    first, second = (encode_clip(str(p), clip, _asset(p), 128, 96, 32, 16, 1, CFG) for p in (film, again))
    assert first == second and first.has_audio
    sound = [encode_clip(str(p), _clip(0, 2_000_000, "audio"), _asset(p), 0, 0, 0, 0, 1, CFG).data for p in (film, again)]
    assert sound[0] == sound[1]


def test_sound_is_48_khz_and_as_long_as_the_picture(tmp_path: Path) -> None:
    """The mp4 has one AAC track at 48 kHz of the span's length with the source's tone in it, and no key frame is more than a GOP away."""
    import av

    film = _film(tmp_path / "film.mp4", [40 * i for i in range(150)], sound_hz=1000)
    got = encode_clip(str(film), _clip(1_000_000, 5_000_000), _asset(film), 128, 96, 64, 16, 1, CFG)
    with av.open(io.BytesIO(got.data)) as container:
        assert [(s.type, s.codec_context.name) for s in container.streams] == [("video", "h264"), ("audio", "aac")]
        sound = np.concatenate([f.to_ndarray()[0] for f in container.decode(audio=0)])
        assert container.streams.audio[0].rate == 48_000 and abs(len(sound) - 4 * 48_000) <= 2048
    spectrum = np.abs(np.fft.rfft(sound[48_000 : 2 * 48_000]))
    assert int(spectrum.argmax()) == 1000
    keys = [i for i, f in enumerate(_frames(got)) if f.key_frame]
    assert keys == [0, 32]


def test_flac_has_exactly_the_samples_of_the_span(tmp_path: Path) -> None:
    """A sound clip becomes FLAC at 48 kHz with exactly span x rate samples; where the source ends early there is silence."""
    import av

    film = _film(tmp_path / "film.mp4", [40 * i for i in range(75)], sound_hz=500)
    for span, quiet_from in (((500_000, 2_500_000), None), ((2_000_000, 4_000_000), 1.1)):
        got = encode_clip(str(film), _clip(0, 4_000_000, "audio"), _asset(film), 0, 0, 0, 0, 1, CFG, span_us=span)
        with av.open(io.BytesIO(got.data)) as container:
            assert container.streams.audio[0].rate == 48_000
            sound = np.concatenate([f.to_ndarray().reshape(-1, 2) for f in container.decode(audio=0)])
        assert got.extension == "flac" and len(sound) == 96_000 and np.abs(sound[:40_000]).max() > 5000
        assert quiet_from is None or np.abs(sound[int(quiet_from * 48_000) :]).max() == 0


def test_a_missing_frame_is_cloned_and_said_and_more_are_an_error(tmp_path: Path) -> None:
    """One or two frames short, the last is repeated and counted; with more missing the clip is refused with what was found."""
    film = _film(tmp_path / "film.mp4", [40 * i for i in range(100)])
    asset, clip = _asset(film), _clip(0, 4_000_000)
    got = encode_clip(str(film), clip, asset, WIDTH, HEIGHT, 66, 16, 1, CFG)
    numbers = _numbers(got)
    assert got.n_cloned == 2 and len(numbers) == 66 and numbers[-3:] == [numbers[-1]] * 3
    with pytest.raises(EncodeError, match=r"clip c1 of .*film\.mp4: expected 80 frames, at most 3 missing, found 64") as caught:
        encode_clip(str(film), clip, asset, WIDTH, HEIGHT, 80, 16, 1, CFG)
    assert caught.value.code == "frames_missing"


def test_crop_or_pad(tmp_path: Path) -> None:
    """A small excess is cropped, a large one padded with black; the size is exact either way."""
    film = _film(tmp_path / "film.mp4", [40 * i for i in range(60)])
    asset, clip = _asset(film), _clip(0, 2_400_000)
    cropped = encode_clip(str(film), clip, asset, 128, 96, 8, 8, 1, CFG)
    assert cropped.crop_share == pytest.approx(0.2) and _frames(cropped)[0].width == 128
    padded = encode_clip(str(film), clip, asset, 64, 128, 8, 8, 1, CFG)
    frame = _frames(padded)[0].to_ndarray(format="gray")
    assert padded.crop_share is not None and padded.crop_share < 0 and frame.shape == (128, 64)
    assert frame[:40].max() < 30 and frame[-40:].max() < 30


sides = st.integers(16, 4000)


@given(sides, sides, st.integers(1, 60), st.integers(1, 60), st.floats(0, 0.9))
def test_fitting_covers_or_lies_inside(width: int, height: int, across: int, down: int, limit: float) -> None:
    """A crop covers the target and loses at most the limit; a padded picture lies inside it; both keep the aspect within rounding."""
    target = (16 * across, 16 * down)
    got = fit_picture((width, height), target, limit)
    scaled = (got.scaled_width, got.scaled_height)
    if got.pad:
        assert -got.share > limit and all(2 <= s <= t for s, t in zip(scaled, target, strict=True))
    else:
        assert 0 <= got.share <= limit and all(s >= t for s, t in zip(scaled, target, strict=True))
    assert all(s % 2 == 0 for s in scaled) and -1 < got.share < 1


def test_images_are_upright_and_exact(tmp_path: Path) -> None:
    """A picture with an EXIF orientation is written upright as a JPEG of exactly the size, the same bytes each time."""
    from PIL import Image

    wide = np.zeros((100, 200, 3), np.uint8)
    wide[:, :100, 0] = 255  # red on the left
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned clockwise: red on top
    Image.fromarray(wide).save(tmp_path / "i.jpg", exif=exif, quality=95)
    asset = _asset(tmp_path / "i.jpg")
    assert (asset.kind, asset.width, asset.height) == ("image", 100, 200)
    got = [encode_clip(str(tmp_path / "i.jpg"), _clip(0, 0, "image"), asset, 48, 80, 1, 1, 1, CFG) for _ in range(2)]
    with Image.open(io.BytesIO(got[0].data)) as image:
        pixels = np.asarray(image.convert("RGB"))
    assert got[0] == got[1] and pixels.shape == (80, 48, 3)
    assert pixels[:30, :, 0].min() > 200 and pixels[50:, :, 0].max() < 60


def test_bad_input_is_a_typed_error(tmp_path: Path) -> None:
    """Rubbish, a playlist that points at a film, a cut-off file and odd sizes are EncodeErrors that name clip and file."""
    film = _film(tmp_path / "film.mp4", [40 * i for i in range(60)])
    asset, clip = _asset(film), _clip(0, 2_400_000)
    (tmp_path / "noise.mp4").write_bytes(bytes(range(256)) * 20)
    (tmp_path / "list.m3u8").write_text(f"#EXTM3U\n#EXTINF:2,\n{film}\n#EXT-X-ENDLIST\n")
    (tmp_path / "cut.mp4").write_bytes(film.read_bytes()[:3000])
    for name in ("noise.mp4", "list.m3u8", "cut.mp4", "none.mp4"):
        with pytest.raises(EncodeError, match=f"clip c1 of .*{name}: expected"):
            encode_clip(str(tmp_path / name), clip, asset, WIDTH, HEIGHT, 8, 8, 1, CFG)
    with pytest.raises(EncodeError, match="even for video"):
        encode_clip(str(film), clip, asset, 127, HEIGHT, 8, 8, 1, CFG)
    with pytest.raises(EncodeError, match="size as shown"):
        encode_clip(str(film), clip, replace(asset, width=None), WIDTH, HEIGHT, 8, 8, 1, CFG)
    with pytest.raises(EncodeError, match=r"within 0\.01 s"):
        encode_clip(str(film), clip, asset, WIDTH, HEIGHT, 8, 8, 1, replace(CFG, timeout_s=0.01))


def test_names_are_never_options_or_addresses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """File names with dashes, colons, quotes and percent signs are read as files; each opening is noted."""
    log = tmp_path / "log"
    monkeypatch.setenv("DAILIES_MEDIA_LOG", str(log))
    film = _film(tmp_path / "film.mp4", [40 * i for i in range(60)])
    for name in ("-i.mp4", "concat:a|b.mp4", "a'b %03d.mp4"):
        path = tmp_path / name
        path.write_bytes(film.read_bytes())
        asset = _asset(path)
        log.write_text("")
        got = encode_clip(str(path), _clip(0, 2_400_000), asset, WIDTH, HEIGHT, 8, 8, 1, CFG)
        assert got.n_frames == 8 and log.read_text() == f"encode\t{path}\n"


def test_the_encoder_is_the_one_we_want() -> None:
    """The packaged FFmpeg has libx264 and reads from descriptors."""
    assert h264_encoder(ffmpeg_binary()) == "libx264"
    need_descriptors(ffmpeg_binary())


def test_a_program_that_needs_names_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An FFmpeg without the protocol fd, which would have to open the asset by name, is refused with the remedy; it is given no file."""
    old = tmp_path / "ffmpeg"
    old.write_text('#!/bin/sh\ntest "$2" = -protocols || touch "$0.used"\nprintf "Input:\\n  file\\n  http\\n"\n')
    old.chmod(0o755)
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(old))
    (tmp_path / "s.wav").write_bytes(b"RIFF")
    with pytest.raises(EncodeError, match=r"protocol fd .*unset IMAGEIO_FFMPEG_EXE") as caught:
        run_ffmpeg(str(tmp_path / "s.wav"), [0], str(tmp_path / "o.flac"), {}, {}, CFG.limits, "clip c1")
    assert caught.value.code == "no_protocol" and not Path(f"{old}.used").exists()


def test_only_the_asset_is_inherited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The program is given one descriptor beside the standard ones, never the asset's name, and only its protocol and our containers."""
    film, seen = _film(tmp_path / "film.mp4", [40 * i for i in range(60)]), []
    plain = subprocess.run

    def spy(args: list[str], **options: Any) -> Any:
        seen.append((args, options))
        return plain(args, **options)

    asset = _asset(film)
    monkeypatch.setattr(subprocess, "run", spy)
    encode_clip(str(film), _clip(0, 2_400_000), asset, WIDTH, HEIGHT, 8, 8, 1, CFG)
    (args, options) = next((a, o) for a, o in seen if "-i" in a)
    (fd,) = options["pass_fds"]
    assert args[args.index("-i") + 1] == "fd:" and args[args.index("-fd") + 1] == str(fd) and not any("film" in a for a in args)
    assert args[args.index("-protocol_whitelist") + 1] == "fd" and "concat" not in args[args.index("-format_whitelist") + 1]
    assert options.get("close_fds", True)


def _two_tracks(path: Path) -> Path:
    """A sound file of two tracks: the first is silent, and of a codec that nobody knows; the second is a tone of 1 kHz."""
    import av

    with av.open(str(path), "w") as out:
        tracks = [out.add_stream("pcm_s16le", rate=44_100, layout="mono") for _ in range(2)]
        tone = (16_000 * np.sin(2 * np.pi * 1000 * np.arange(4 * 44_100) / 44_100)).astype(np.int16)
        for start in range(0, len(tone), 4410):
            for track, samples in zip(tracks, (np.zeros_like(tone), tone), strict=True):
                piece = av.AudioFrame.from_ndarray(samples[None, start : start + 4410], format="s16", layout="mono")
                piece.sample_rate, piece.pts, piece.time_base = 44_100, start, Fraction(1, 44_100)
                out.mux(track.encode(piece))
    data = path.read_bytes()
    assert data.count(b"A_PCM/INT/LIT") == 2
    path.write_bytes(data.replace(b"A_PCM/INT/LIT", b"A_NOT/KNOWN/X", 1))
    return path


def test_the_sound_that_was_measured_is_encoded(tmp_path: Path) -> None:
    """Of several tracks probing, scanning and encoding take the same one: the first that has a decoder."""
    import av

    from curation.scan import ScanConfig, scan_asset

    path = _two_tracks(tmp_path / "two.mka")
    asset = _asset(path)
    assert (asset.error_code, asset.acodec) == (None, "pcm_s16le")
    (heard,) = [track for track in scan_asset(asset, str(path), ScanConfig()).tracks if track.name == "sound"]
    assert np.nanmax(heard.values) > 0.1
    got = encode_clip(str(path), _clip(0, 2_000_000, "audio"), asset, 0, 0, 0, 0, 1, CFG)
    with av.open(io.BytesIO(got.data)) as container:
        sound = np.concatenate([f.to_ndarray().reshape(-1, 2)[:, 0] for f in container.decode(audio=0)])
    assert int(np.abs(np.fft.rfft(sound[:48_000].astype(float))).argmax()) == 1000


def test_a_sandbox_changes_no_byte_and_opens_nothing_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A film, a sound and a picture encoded in the child are those of a plain call; this process opens none of them."""
    from PIL import Image

    film = _film(tmp_path / "film.mp4", [40 * i for i in range(60)], sound_hz=440)
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(tmp_path / "i.png")
    video, picture = (WIDTH, HEIGHT, 8, 8, 1), (48, 48, 1, 1, 1)
    cases = [(film, "video", video), (film, "audio", video), (tmp_path / "i.png", "image", picture)]
    assets = [_asset(path) for path, _, _ in cases]
    plain = [encode_clip(str(p), _clip(0, 1_000_000, k), a, *s, CFG) for (p, k, s), a in zip(cases, assets, strict=True)]
    monkeypatch.setattr("curation.media.open_file", None)
    with encode_sandbox(CFG, MediaConfig()) as box:
        for (path, kind, shape), asset, same in zip(cases, assets, plain, strict=True):
            assert encode_in(box, str(path), _clip(0, 1_000_000, kind), asset, shape, CFG, (0, 1_000_000), MediaConfig()) == same


def test_the_limits_of_the_scan_hold_for_encoding(tmp_path: Path) -> None:
    """A picture beyond `scan.media.max_image_pixels` is refused; an encoding out of time is a loss that the quarantine counts."""
    from PIL import Image

    path, small = tmp_path / "i.png", MediaConfig(max_image_pixels=4000)
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(path)
    film = _film(tmp_path / "film.mp4", [40 * i for i in range(60)])
    hurried = replace(CFG, timeout_s=0.01)
    with encode_sandbox(CFG, small) as box:
        with pytest.raises(EncodeError, match="at most 4000 px, found 64 x 64") as refused:
            encode_in(box, str(path), _clip(0, 0, "image"), _asset(path), (48, 48, 1, 1, 1), CFG, (0, 0), small)
        assert refused.value.code == "limit_pixels"
        with pytest.raises(MediaError) as late:
            encode_in(box, str(film), _clip(0, 2_400_000), _asset(film), (WIDTH, HEIGHT, 8, 8, 1), hurried, (0, 1), MediaConfig())
        assert late.value.code == "timeout"


def _program(folder: Path, does: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program in FFmpeg's place that answers what it is asked of itself, and with a medium does as given."""
    program = folder / "ffmpeg"
    program.write_text(f'#!/bin/sh\ncase "$2" in -protocols) echo fd; exit;; -version) echo 7; exit;; esac\n{does}\n')
    program.chmod(0o755)
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(program))
    return program


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_program_has_the_limits_of_a_decoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """FFmpeg's program knows no key of ours, and has the address space of a scan, no core file, a largest file, and no way to more rights."""
    for name in ("OPENAI_API_KEY", "AWS_SECRET_ACCESS_KEY", "HF_TOKEN"):
        monkeypatch.setenv(name, "secret")
    said = '{ env | cut -d= -f1 | tr "\\n" " "; echo; ulimit -v; ulimit -c; ulimit -f; grep NoNewPrivs /proc/self/status; }'
    _program(tmp_path, f'for a; do case "$a" in *.flac) {said} > "$a";; esac; done', monkeypatch)
    film = _film(tmp_path / "film.mp4", [40 * i for i in range(30)], sound_hz=440)
    media = MediaConfig(memory_bytes=3 << 30)
    with encode_sandbox(CFG, media) as box:
        got = encode_in(box, str(film), _clip(0, 1_000_000, "audio"), _asset(film), (0, 0, 0, 0, 1), CFG, (0, 1_000_000), media)
    names, memory, core, written, rights = got.data.decode().splitlines()
    assert set(names.split()) <= {*ENVIRONMENT, *THREADS, "PWD", "OLDPWD", "SHLVL", "_"}
    assert (int(memory), core, rights.split()[-1]) == (3 << 20, "0", "1") and written != "unlimited"


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's parent-death signal is Linux only")
def test_the_program_ends_with_the_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker killed in the middle of an encoding leaves no program behind; its folder is gone when later somebody encodes again."""
    program = _program(tmp_path, 'echo $$ > "$0.tmp"; mv "$0.tmp" "$0.pid"; exec sleep 60', monkeypatch)
    film = _film(tmp_path / "film.mp4", [40 * i for i in range(30)], sound_hz=440)
    code = (
        f"import sys; sys.path[:0] = [{str(Path(__file__).parents[2])!r}]\n"
        "from tests.unit.test_encode import *\nfrom tests.unit.test_encode import _asset, _clip\nfilm = Path(sys.argv[1])\n"
        "encode_in(encode_sandbox(CFG, MediaConfig()), str(film), _clip(0, 9, 'audio'), _asset(film), (0,) * 5, CFG, (0, 9), MediaConfig())"
    )
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    with subprocess.Popen([sys.executable, "-c", code, str(film)], env=os.environ | {"TMPDIR": str(temporary)}) as worker:
        _wait_for(lambda: Path(f"{program}.pid").is_file(), 60)
        worker.send_signal(signal.SIGKILL)
    pid = int(Path(f"{program}.pid").read_text())
    _wait_for(lambda: not Path(f"/proc/{pid}").exists() or "Z" in Path(f"/proc/{pid}/stat").read_text().split()[2], 10)
    (left,) = temporary.iterdir()
    os.utime(left, (time.time() - 86_400,) * 2)
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    encode_sandbox(CFG, MediaConfig()).close()
    assert not left.exists()


def _wait_for(holds: Any, most_s: float) -> None:
    end = time.monotonic() + most_s
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.05)


REAL = ("video/sea_360p.avi", "video/sea_360p.mpg", "video/fishes.wmv", "video/nasa_13013_rotated.mp4", "hostile/made_starts_at_5s.mkv")


@pytest.mark.engine
@pytest.mark.skipif(not MEDIA.is_dir(), reason="real test media are not here")
@pytest.mark.parametrize("name", [*REAL, "hostile/resolution_change.mp4", "hostile/made_vfr_dropped.mp4", "video/terminal_sar.mp4"])
def test_real_files_of_many_containers(name: str) -> None:
    """Files without times in their frames, rotated, non-square, of changing size or variable rate give exactly the frames asked for."""
    path = MEDIA / name
    times = _times(path)
    start, end = times[len(times) // 4], times[-1]
    n_frames = min(16, (end - start) * 16 // 1_000_000)
    got = encode_clip(str(path), _clip(start, end), _asset(path), 128, 96, n_frames, 16, 1, CFG)
    assert [(round(f.time * 16), f.width, f.height) for f in _frames(got)] == [(i, 128, 96) for i in range(n_frames)]


@pytest.mark.skipif(not MEDIA.is_dir(), reason="real test media are not here")
def test_high_dynamic_range_becomes_standard_range() -> None:
    """A sample of an HDR10 film is as bright as its key frames and says BT.709; its coded values read as they are would be grey."""
    import av

    path = MEDIA / "video" / "hdr10_av1_portrait.mp4"
    got = encode_clip(str(path), _clip(0, 500_000), _asset(path), 144, 256, 12, 24, 1, CFG)
    with av.open(io.BytesIO(got.data)) as container:
        frame = next(container.decode(video=0))
        picture = frame.to_ndarray(format="rgb24")
    low, middle, high = np.percentile(picture, [1, 50, 99])
    assert low < 75 and 130 < middle < 190 and high > 235 and (frame.color_trc, frame.color_primaries) == (1, 1)
