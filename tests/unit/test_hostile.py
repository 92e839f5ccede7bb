"""Broken, unusual and oversized media: each ends as facts or as an error with the right reason, within its limits."""

import io
import json
import struct
import wave
import zlib
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from curation.clock import is_variable
from curation.decode import DecodeLog, decode, decode_sound
from curation.isolate import Sandbox
from curation.media import MediaConfig, MediaError
from curation.probe import probe, probe_asset
from curation.sound import Sound, planes
from curation.stills import load_picture
from tests.media_makers import asset_for, pan, scene, still, write_video, write_wav

CFG = MediaConfig()
TRUTH = json.loads((Path(__file__).parents[1] / "data" / "hostile_truth.json").read_text())
"""What each file of the hostile test media is, decided by hand, and why."""


def error_of(path: Path, cfg: MediaConfig = CFG) -> str:
    """The code with which the probe or the whole decode of the file fails; "" when it does not."""
    try:
        kind = probe(str(path), cfg).kind
        if kind == "image":
            load_picture(str(path), cfg)
        else:
            if kind == "audio":
                decode_sound(str(path), cfg, lambda piece: None)
            else:
                for _ in decode(str(path), cfg):
                    pass
    except MediaError as e:
        return e.code
    return ""


@pytest.mark.parametrize("name", TRUTH)
def test_each_hostile_file_ends_as_decided(media: Path, name: str) -> None:
    """Stage and code of the error, or facts, frames, times and counted errors, are those of the table."""
    said, path = TRUTH[name], media / "hostile" / name
    asset = probe_asset(asset_for(path), str(path), CFG)
    if "error" in said:
        assert [asset.error_stage, asset.error_code] == said["error"]
        assert str(path) in (asset.error_detail or "")
        return
    assert asset.error_code is None
    facts = dict(said["facts"])
    fps, container = facts.pop("fps", None), facts.pop("container")
    assert {k: getattr(asset, k) for k in facts} == facts
    assert fps is None or Fraction(fps) == Fraction(asset.fps_num or 0, asset.fps_den or 1)
    assert (asset.container or "").split(",")[0] == container
    if "decoded" in said:
        log = DecodeLog()
        frames = [(t, [f.width, f.height]) for f, t in decode(str(path), CFG, log=log)]
        times = [t for t, _ in frames]
        heard: list[int] = []
        again = [t for _, t in decode(str(path), CFG, sound=lambda piece: heard.append(piece.samples.shape[1]))]
        assert again == times and bool(heard) == bool(asset.has_audio)
        assert said["decoded"] == {
            "n_frames": log.n_frames,
            "n_errors": log.n_errors,
            "n_corrupt": log.n_corrupt,
            "n_undated": log.n_undated,
            "first_us": times[0],
            "last_us": times[-1],
            "is_vfr": is_variable(np.array(times)),
            "sizes": [s for i, (_, s) in enumerate(frames) if s not in [size for _, size in frames[:i]]],
        }
    if "sound" in said:
        log = DecodeLog()
        pieces: list[Sound] = []
        decode_sound(str(path), CFG, pieces.append, log=log)
        assert said["sound"] == {"n_samples": sum(p.samples.shape[1] for p in pieces), "n_errors": log.n_sound_errors + log.n_errors}


def test_the_table_has_every_file(media: Path) -> None:
    """No hostile file is left undecided, and each decision has its reason."""
    assert sorted(TRUTH) == sorted(p.name for p in (media / "hostile").glob("*"))
    assert all(said["why"] for said in TRUTH.values())


def png_chunk(kind: bytes, data: bytes) -> bytes:
    """A chunk with its right checksum."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def saved(form: str, **options: object) -> bytearray:
    """A small picture in that format."""
    out = io.BytesIO()
    Image.fromarray(scene(1)).save(out, form, **options)
    return bytearray(out.getvalue())


def large_png() -> bytes:
    """60,000 x 60,000 px, says its header; 60 lines of them are there."""
    rows = zlib.compress(bytes(60_001) * 60)
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + png_chunk(b"IDAT", rows) + png_chunk(b"IEND", b"")


def wordy_png() -> bytes:
    """A PNG whose compressed comment is 100 MB."""
    press = zlib.compressobj(9)
    text = b"".join(press.compress(bytes(1 << 20)) for _ in range(100)) + press.flush()
    data = saved("PNG")
    return bytes(data[:33]) + png_chunk(b"zTXt", b"Comment\0\0" + text) + bytes(data[33:])


def large_jpeg() -> bytes:
    """A JPEG whose frame header says 65,500 x 65,500 px."""
    data = saved("JPEG")
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = struct.pack(">HH", 65_500, 65_500)
    return bytes(data)


def many_scans() -> bytes:
    """A progressive JPEG that repeats one of its scans 3,000 times."""
    data = saved("JPEG", progressive=True)
    start = data.index(b"\xff\xda")
    end = data.index(b"\xff\xda", start + 2)
    end = data.rindex(b"\xff\xc4", start, end) if b"\xff\xc4" in data[start:end] else end
    return bytes(data[:start] + data[start:end] * 3000 + data[start:])


def large_webp() -> bytes:
    """A WebP whose bit stream says 16,384 x 16,384 px."""
    body = b"\x2f" + (16_383 | 16_383 << 14).to_bytes(4, "little") + bytes(64)
    chunk = b"VP8L" + struct.pack("<I", len(body)) + body + b"\0" * (len(body) % 2)
    return b"RIFF" + struct.pack("<I", len(chunk) + 4) + b"WEBP" + chunk


def large_avif() -> bytes:
    """An AVIF whose `ispe` says 60,000 x 60,000 px."""
    data = saved("AVIF")
    at = data.index(b"ispe") + 8
    data[at : at + 8] = struct.pack(">II", 60_000, 60_000)
    return bytes(data)


def large_gif() -> bytes:
    """A GIF whose screen and frame are 65,535 x 65,535 px."""
    data = saved("GIF")
    data[6:10] = struct.pack("<HH", 65_535, 65_535)
    at = data.index(b"\x2c\0\0\0\0")
    data[at + 5 : at + 9] = struct.pack("<HH", 65_535, 65_535)
    return bytes(data)


def large_bmp() -> bytes:
    """A BMP of 2^31 - 1 px by as many."""
    data = saved("BMP")
    data[18:26] = struct.pack("<ii", 2**31 - 1, 2**31 - 1)
    return bytes(data)


def tiff() -> bytes:
    """A TIFF of 100,000 x 100,000 px: no format of ours, whatever its name."""
    tags = [(256, 4, 1, 100_000), (257, 4, 1, 100_000), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1), (273, 4, 1, 8), (279, 4, 1, 8)]
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", *t) for t in tags) + bytes(4)


BOMBS = {
    "large.png": (large_png, {"limit_pixels"}),
    "wordy.png": (wordy_png, {"decode_error", ""}),
    "large.jpg": (large_jpeg, {"limit_pixels"}),
    "scans.jpg": (many_scans, {"limit_frames"}),
    "large.webp": (large_webp, {"limit_pixels"}),
    "large.avif": (large_avif, {"limit_pixels", "decode_error"}),
    "large.gif": (large_gif, {"limit_pixels", "decode_error"}),
    "large.bmp": (large_bmp, {"limit_pixels", "decode_error"}),
    "tiff.jpg": (tiff, {"not_media"}),
}


@pytest.fixture(scope="module")
def box() -> Iterator[Sandbox]:
    """A sandbox of one GB and 20 s."""
    with Sandbox(20, 1 << 30) as box:
        yield box


def refuse(path: str, cfg: MediaConfig) -> str:
    """For the sandbox: `error_of`, and "" where nothing is wrong."""
    return error_of(Path(path), cfg)


@pytest.mark.parametrize("name", BOMBS)
def test_pictures_that_would_fill_the_memory_are_refused(tmp_path: Path, box: Sandbox, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """A few bytes that claim billions of pixels cost neither a GB nor 20 s, under any format's name."""
    monkeypatch.setattr(refuse, "__module__", "tests.unit.test_hostile")
    make, codes = BOMBS[name]
    (tmp_path / name).write_bytes(make())
    assert box.call(refuse, str(tmp_path / name), CFG) in codes


FAST = {
    "libx264": {"preset": "ultrafast", "bf": "0"},
    "libx265": {"preset": "ultrafast", "x265-params": "log-level=none:bframes=0"},
    "libvpx": {"deadline": "realtime", "cpu-used": "16"},
    "libvpx-vp9": {"deadline": "realtime", "cpu-used": "8", "lag-in-frames": "0"},
}


def growing(path: Path, codec: str, container: str) -> Path:
    """Ten frames of 64 x 64 px and ten of 512 x 256 px in one stream."""
    with av.open(str(path), "w", format=container) as out:
        stream, at = None, 0
        for width, height in ((64, 64), (512, 256)):
            encoder = av.CodecContext.create(codec, "w")
            encoder.width, encoder.height, encoder.time_base = width, height, Fraction(1, 25)
            encoder.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
            encoder.options = FAST.get(codec, {})
            encoder.framerate = Fraction(25)
            if stream is None:
                stream = out.add_stream(codec, rate=25)
                stream.width, stream.height, stream.pix_fmt = width, height, encoder.pix_fmt
                stream.options = encoder.options
            pictures = [
                av.VideoFrame.from_ndarray(scene(1, width, height), format="rgb24").reformat(format=encoder.pix_fmt) for _ in range(10)
            ]
            for i, picture in enumerate(pictures):
                picture.pts, picture.time_base = i, encoder.time_base
            for packet in [p for picture in pictures for p in encoder.encode(picture)] + encoder.encode(None):
                packet.stream, packet.pts, packet.dts = stream, at, at
                packet.time_base, at = Fraction(1, 25), at + 1
                out.mux(packet)
    return path


@pytest.mark.parametrize(
    ("codec", "container"),
    [
        ("libx264", "mpegts"),
        ("libx265", "mpegts"),
        ("mpeg2video", "mpegts"),
        ("libvpx-vp9", "ivf"),
        ("libvpx", "ivf"),
        ("mjpeg", "avi"),
        ("libsvtav1", "ivf"),
    ],
)
def test_a_stream_that_grows_is_stopped(tmp_path: Path, codec: str, container: str) -> None:
    """Frames up to the limit are given; the first larger one ends the decode, in the decoder, before it is allocated."""
    if codec not in av.codecs_available:
        pytest.skip(f"this build of FFmpeg has no {codec}")
    path = growing(tmp_path / "a.bin", codec, container)
    sizes = {(f.width, f.height) for f, _ in decode(str(path), CFG)}
    assert sizes == {(64, 64), (512, 256)}
    seen = []
    with pytest.raises(MediaError) as e:
        seen.extend(f.width for f, _ in decode(str(path), replace(CFG, max_pixels=20_000)))
    assert e.value.code == "limit_pixels" and set(seen) <= {64}


def test_limits_hold_where_no_index_warns(tmp_path: Path) -> None:
    """Frames, duration and time are counted while a file without an index is decoded."""
    path = write_video(tmp_path / "a.mkv", pan(1, 48))
    assert error_of(path, replace(CFG, max_frames=20)) == "limit_frames"
    assert error_of(path, replace(CFG, max_wall_s=0)) == "timeout"
    late = write_video(tmp_path / "b.mkv", still(1, 4), times_ms=[0, 40, 80, 13 * 3600 * 1000])
    assert error_of(late) == "limit_duration"
    with pytest.raises(MediaError) as e:
        list(decode(str(late), CFG))
    assert e.value.code == "limit_duration"


@pytest.mark.parametrize(("rate", "channels"), [(1, 1), (100_000_000, 1), (48000, 255), (0, 1)])
def test_absurd_sound_is_refused(tmp_path: Path, rate: int, channels: int) -> None:
    """A sample rate of 1 Hz or 100 MHz or 255 channels are no sound; such a file has a reason and is not resampled."""
    data = bytes(channels * 2 * 4096)
    header = struct.pack("<4sI4s4sIHHIIHH4sI", b"RIFF", 36 + len(data), b"WAVE", b"fmt ", 16, 1, channels, rate, rate * channels * 2 % 2**32, channels * 2, 16, b"data", len(data))  # fmt: skip
    (tmp_path / "a.wav").write_bytes(header + data)
    assert error_of(tmp_path / "a.wav") in ("limit_audio", "decode_error", "unsupported")


def test_long_sound_is_stopped(tmp_path: Path) -> None:
    """Sound is counted as it is decoded, whatever the header says."""
    path = write_wav(tmp_path / "a.wav", np.zeros(16000 * 4))
    assert error_of(path, replace(CFG, max_duration_us=2_000_000)) == "limit_duration"
    with pytest.raises(MediaError, match="limit_duration"):
        decode_sound(str(path), replace(CFG, max_duration_us=2_000_000), lambda piece: None)


def test_eight_channels_come_back_as_eight() -> None:
    """7.1 sound in planes is read right: PyAV 18 reads past the list of planes there."""
    samples = np.tile(np.arange(8, dtype=np.float32) / 16, 1024)[None]
    frame = av.AudioFrame.from_ndarray(samples, format="flt", layout="7.1")
    frame.sample_rate, frame.pts = 48000, 0
    planar = av.AudioResampler(format="fltp", layout="7.1", rate=48000).resample(frame)[0]
    assert np.allclose(planes([planar]), np.arange(8)[:, None] / 16)


def test_sound_that_changes_its_shape_goes_on(tmp_path: Path) -> None:
    """A stream that turns from mono to stereo and to another rate midway is decoded to its end."""
    pieces = []
    for rate, layout in ((44100, "mono"), (48000, "stereo")):
        out = io.BytesIO()
        with av.open(out, "w", format="mp3") as target:
            stream = target.add_stream("mp3", rate=rate, layout=layout)
            frame = av.AudioFrame.from_ndarray(
                np.zeros((1 if layout == "mono" else 2, 1152 * 20), np.float32), format="fltp", layout=layout
            )
            frame.sample_rate, frame.pts = rate, 0
            fifo = av.AudioFifo()
            fifo.write(frame)
            while (piece := fifo.read(1152)) is not None:
                target.mux(stream.encode(piece))
            target.mux(stream.encode(None))
        pieces.append(out.getvalue())
    (tmp_path / "a.mp3").write_bytes(b"".join(pieces))
    pieces: list[Sound] = []
    decode_sound(str(tmp_path / "a.mp3"), CFG, pieces.append)
    heard_s = {rate: sum(p.samples.shape[1] for p in pieces if p.rate_hz == rate) / rate for rate in (44100, 48000)}
    assert {p.rate_hz for p in pieces} == set(heard_s) and all(s > 0.4 for s in heard_s.values())


def test_a_file_that_vanishes_or_shrinks_costs_itself(tmp_path: Path) -> None:
    """Deleted while it is decoded it is read to its end; cut short meanwhile it ends early with an error counted or not, never a crash."""
    path = write_video(tmp_path / "a.mkv", pan(1, 48))
    frames = decode(str(path), CFG)
    next(frames)
    path.unlink()
    assert len(list(frames)) == 47
    assert error_of(path) == "missing"
    path = write_video(tmp_path / "b.mkv", pan(1, 200, width=640, height=384))
    frames = decode(str(path), CFG)
    next(frames)
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)
    assert 0 < len(list(frames)) < 199


def test_wave_module_agrees_that_the_file_is_whole(tmp_path: Path) -> None:
    """The crafted header above is a WAV: with a sane rate it is read."""
    path = write_wav(tmp_path / "a.wav", np.zeros(4000), 8000)
    with wave.open(str(path)) as file:
        assert file.getframerate() == 8000
    assert error_of(path) == ""
