"""Sound is decoded in the same pass as the pictures, with true times, all channels, and errors that end nothing."""

from pathlib import Path

import av
import numpy as np
import pytest

from curation import decode, media
from curation.audio import SoundObserver
from curation.decode import DecodeLog
from curation.media import MediaConfig, MediaError
from curation.sound import Sound
from tests.media_makers import still, write_video, write_wav
from tests.sound_makers import noise, tone, write_sound

CFG = MediaConfig()


def test_one_pass_gives_pictures_and_sound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One opening of the file; the frames are those without sound; the sound is whole and in order."""
    path = str(write_video(tmp_path / "a.mp4", still(1, 48), sound_s=2))
    alone = [t for _, t in decode.decode(path, CFG)]
    monkeypatch.setenv(media.MEDIA_LOG_VARIABLE, str(tmp_path / "log"))
    pieces: list[Sound] = []
    assert [t for _, t in decode.decode(path, CFG, sound=pieces.append)] == alone
    assert (tmp_path / "log").read_text().count("\n") == 1
    starts = [p.start_us for p in pieces]
    assert starts == sorted(starts) and abs(starts[0]) < 30_000
    assert sum(p.samples.shape[1] for p in pieces) / 48000 == pytest.approx(2, abs=0.05)
    assert {(p.rate_hz, p.channels, p.samples.dtype) for p in pieces} == {(48000, ("FL", "FR"), np.dtype(np.float32))}


def test_sound_without_pictures_is_the_same_sound(tmp_path: Path) -> None:
    """`decode_sound` tells what `decode` tells of the same file, and refuses a file without sound."""
    path = str(write_video(tmp_path / "a.mp4", still(1, 48), sound_s=2))
    alone: list[Sound] = []
    beside: list[Sound] = []
    decode.decode_sound(path, CFG, alone.append)
    list(decode.decode(path, CFG, sound=beside.append))
    assert [p.start_us for p in alone] == [p.start_us for p in beside]
    assert all(np.array_equal(a.samples, b.samples) for a, b in zip(alone, beside, strict=True))
    with pytest.raises(MediaError, match="no_streams"):
        decode.decode_sound(str(write_video(tmp_path / "b.mp4", still(1, 4))), CFG, alone.append)


def test_a_video_without_sound_is_silent(tmp_path: Path) -> None:
    """Asked for sound, a video that has none tells nothing and decodes as before."""
    pieces: list[Sound] = []
    assert len(list(decode.decode(str(write_video(tmp_path / "a.mp4", still(1, 5))), CFG, sound=pieces.append))) == 5
    assert pieces == []


def test_broken_sound_ends_nothing(tmp_path: Path) -> None:
    """Every packet of the sound replaced by other bytes: all pictures come, and what is wrong is counted apart."""
    path = write_sound(tmp_path / "a.mkv", [noise(1, 2)], 48000, "flac", "mono", still(2, 48), step=4096)
    whole = [t for _, t in decode.decode(str(path), CFG)]
    with av.open(str(path)) as source, av.open(str(tmp_path / "b.mkv"), "w") as target:
        streams = {s.index: target.add_stream_from_template(s) for s in source.streams}
        for packet in source.demux():
            if packet.dts is None:
                continue
            kept = av.Packet(b"\x5a" * packet.size) if packet.stream.type == "audio" else packet
            kept.pts, kept.dts, kept.time_base, kept.duration = packet.pts, packet.dts, packet.time_base, packet.duration
            kept.stream = streams[packet.stream_index]
            target.mux(kept)
    log, pieces = DecodeLog(), list[Sound]()
    assert [t for _, t in decode.decode(str(tmp_path / "b.mkv"), CFG, sound=pieces.append, log=log)] == whole
    assert log.n_errors == 0
    assert log.n_sound_errors > 0 and log.first_sound_error


@pytest.mark.parametrize(
    ("codec", "suffix"), [("pcm_s16le", "wav"), ("pcm_f32le", "wav"), ("pcm_u8", "wav"), ("pcm_s24le", "wav"), ("flac", "flac")]
)
def test_all_sample_formats_have_one_scale(tmp_path: Path, codec: str, suffix: str) -> None:
    """Left and right come back as they were, whatever the format that they were stored in."""
    left, right = tone(440, 0.5), tone(880, 0.5, amplitude=0.25)
    pieces: list[Sound] = []
    decode.decode_sound(str(write_sound(tmp_path / f"a.{suffix}", [left, right], 48000, codec, "stereo")), CFG, pieces.append)
    found = np.concatenate([p.samples for p in pieces], axis=1)
    assert np.allclose(found, np.stack([left, right]), atol=0.01 if codec == "pcm_u8" else 1e-4)
    assert pieces[0].channels == ("FL", "FR")


def test_sound_that_starts_late_keeps_its_time(media: Path) -> None:
    """In real files the first window lies where the container puts it: up to a quarter of a second beside the picture."""
    from curation.decode import decode

    for name in ("head_1080x720_1s.mp4", "mdn_stream.webm", "bbb_intro_frag_180p_5s.mp4"):
        observer, log = SoundObserver("a"), DecodeLog()
        pictures = [t for _, t in decode(str(media / "video" / name), CFG, sound=observer.push, log=log)]
        track = observer.finish()[0]
        assert log.n_sound_errors == 0
        assert abs(int(track.pts_us[0]) - pictures[0]) < 250_000
        assert len(track) == pytest.approx((pictures[-1] - pictures[0]) / 100_000, abs=4)


def test_the_loudness_is_ffmpegs(media: Path) -> None:
    """Integrated loudness agrees with FFmpeg's ebur128 filter within 0.1 LU on mono, stereo and 5.1; so do both peaks, the true one within 0.2 dB."""
    import re
    import subprocess

    import imageio_ffmpeg

    from curation.audio import AudioConfig, measure_sound
    from curation.decode import decode_sound
    from tests.sound_makers import sound_clip

    for name in ("audio/jfk.flac", "audio/jfk_16k.wav", "audio/librosa_test.ogg", "video/bbb_rabbit_240p_13s.mp4"):
        observer = SoundObserver("a")
        decode_sound(str(media / name), CFG, observer.push)
        track = observer.finish()[0]
        found = measure_sound(sound_clip(int(track.pts_us[0]), int(track.pts_us[-1]) + 100_000), {"sound": track}, AudioConfig())
        command = [
            imageio_ffmpeg.get_ffmpeg_exe(),
            "-hide_banner",
            "-i",
            str(media / name),
            "-vn",
            "-af",
            "ebur128=peak=sample+true",
            "-f",
            "null",
            "-",
        ]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
        said = said[said.rindex("Summary:") :]
        loudness, peak = re.search(r"I:\s+(\S+) LUFS", said), re.search(r"Sample peak:\s+Peak:\s+(\S+) dBFS", said)
        true = re.search(r"True peak:\s+Peak:\s+(\S+) dBFS", said)
        assert loudness is not None and found["loudness_lufs"] == pytest.approx(float(loudness[1]), abs=0.1)
        assert peak is not None and found["peak_db"] == pytest.approx(float(peak[1]), abs=0.1)
        assert true is not None and found["true_peak_db"] == pytest.approx(float(true[1]), abs=0.2)


def test_a_time_limit_holds_while_only_sound_comes(tmp_path: Path) -> None:
    """A file of sound that outlasts its time ends with `timeout`."""
    path = str(write_wav(tmp_path / "a.wav", np.zeros(16000 * 60, np.float32)))
    with pytest.raises(MediaError, match="timeout"):
        decode.decode_sound(path, MediaConfig(max_wall_s=0.0), lambda piece: None)
