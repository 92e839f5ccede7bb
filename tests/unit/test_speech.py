"""Speech: verdicts on the real sounds, and how frames become a share of the clip."""

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curation.adapters.speech_vad import FRAME, SileroVad
from curation.adapters.weights import WeightsError
from curation.audio import AudioConfig, SoundObserver, SoundSpanConfig, measure_sound, plan_sound
from curation.decode import decode_sound
from curation.media import MediaConfig
from curation.speech import DetectSpeech, SpeechConfig, speech_frames
from tests.sound_makers import copy_of, noise, sound_clip, tone

TRUTH = json.loads((Path(__file__).parents[1] / "data" / "audio_truth.json").read_text())["files"]
SPEAKS, SILENT = 0.05, 0.5
"""From these shares on a clip counts as speech, as silent (conf/rules)."""


class Fixed:
    """A detector that says the same of every sound: speech in the frames given, from the clip's lead on."""

    def __init__(self, frames: list[float]) -> None:
        self.frames = frames

    def probabilities(self, sound: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """As many as there are frames of sound."""
        n = -(-len(sound) // FRAME)
        return np.array((self.frames + [0.0] * n)[:n], np.float32)


@pytest.mark.parametrize("name", sorted(n for n, t in TRUTH.items() if t["sure"]))
def test_speech_and_silence_on_real_sounds(name: str, media: Path) -> None:
    """Every clip of a file without speech has none; a file with speech has a clip that speaks; only the near-silent one is all silent."""
    observer = SoundObserver("a")
    decode_sound(str(media / "audio" / name), MediaConfig(), observer.push)
    track = observer.finish()[0]
    start, rows = int(track.pts_us[0]), observer.soundtracks
    clips = [sound_clip(a, b) for a, b in plan_sound(start, rows[-1].end_us - start, SoundSpanConfig())]
    found = [s.speech_fraction for s in DetectSpeech(SpeechConfig())([(c, rows) for c in clips])]
    assert all(f is not None for f in found)
    assert any(f >= SPEAKS for f in found if f is not None) == TRUTH[name]["speech"]
    silent = [measure_sound(c, {"sound": track}, AudioConfig())["silence_fraction"] for c in clips]
    assert all(s > 0.95 for s in silent) == TRUTH[name]["silent"]


def test_the_share_is_of_the_clip() -> None:
    """Speech from 1 s to 3 s of the sound is half of a clip of 4 s, all of one from 1 to 3, none of one after it."""
    frames = [0.0] * 32 + [0.0] * 31 + [1.0] * 63
    rows = copy_of(tone(440, 8, 16000))
    detect = DetectSpeech(SpeechConfig(), Fixed(frames))
    assert detect([(sound_clip(0, 4_000_000), rows)])[0].speech_fraction == pytest.approx(0.5, abs=0.01)
    ahead = DetectSpeech(SpeechConfig(), Fixed(frames[31:]))
    assert ahead([(sound_clip(1_000_000, 3_000_000), rows)])[0].speech_fraction == pytest.approx(1, abs=0.03)
    assert DetectSpeech(SpeechConfig(), Fixed([]))([(sound_clip(4_000_000, 8_000_000), rows)])[0].speech_fraction == 0


def test_speech_before_the_clip_is_not_its_own() -> None:
    """The lead that the network hears first does not count."""
    frames = [1.0] * 32
    found = DetectSpeech(SpeechConfig(), Fixed(frames))([(sound_clip(2_000_000, 6_000_000), copy_of(tone(440, 8, 16000)))])
    assert found[0].speech_fraction == 0


@given(st.lists(st.floats(0, 1, width=32), max_size=200))
def test_frames_of_speech_reach_the_threshold(probabilities: list[float]) -> None:
    """Every run of speech begins at the threshold, lasts the least time, and ends before a pause."""
    cfg = SpeechConfig()
    found = speech_frames(np.array(probabilities, np.float32), cfg)
    assert len(found) == len(probabilities)
    edges = np.flatnonzero(np.diff(np.concatenate([[False], found, [False]]).astype(int)))
    for start, end in edges.reshape(-1, 2):
        assert probabilities[start] >= cfg.threshold
        assert (end - start) * 32_000 >= cfg.least_us


def test_short_pauses_are_bridged_and_knocks_are_not_speech() -> None:
    """64 ms below the release do not end speech, 128 ms do; 200 ms alone are a knock."""
    cfg = SpeechConfig()
    assert speech_frames(np.array([0.9] * 8 + [0.1] * 2 + [0.9] * 8, np.float32), cfg).sum() == 18
    assert speech_frames(np.array([0.9] * 8 + [0.1] * 4 + [0.9] * 8, np.float32), cfg).sum() == 16
    assert speech_frames(np.array([0.9] * 6 + [0.1] * 20, np.float32), cfg).sum() == 0


@given(st.integers(0, 3))
@settings(max_examples=4, deadline=None)
def test_blocks_do_not_matter(seed: int) -> None:
    """Sound longer than one call of the network is heard as one: the first 16 s of 40 s are those of 16 s alone."""
    vad = SileroVad()
    wave = noise(seed, 40, 16000)
    whole = vad.probabilities(wave)
    assert len(whole) == 1250
    assert np.allclose(whole[:512], vad.probabilities(wave[: 512 * FRAME]), atol=1e-5)


def test_no_sound_is_unknown_and_broken_sound_an_error() -> None:
    """Pictures, clips without rows, rows of other assets: null. A row that does not decode: null, with the reason."""
    from dataclasses import replace

    rows = copy_of(tone(440, 8, 16000))
    detect = DetectSpeech(SpeechConfig(), Fixed([]))
    clip = sound_clip(0, 4_000_000)
    batch = [
        (sound_clip(0, 0, kind="image"), rows),
        (clip, None),
        (clip, []),
        (replace(clip, asset_id="b"), rows),
        (sound_clip(9_000_000, 13_000_000), rows),
    ]
    assert [(s.speech_fraction, s.error_code) for s in detect(batch)] == [(None, None)] * 5
    broken = detect([(clip, [replace(rows[0], flac=rows[0].flac[:500])])])[0]
    assert (broken.speech_fraction, broken.error_code) == (None, "bad_sound")


def test_a_wrong_network_is_refused(tmp_path: Path) -> None:
    """A missing file says what to install; a file that is no such network says so."""
    with pytest.raises(WeightsError, match="silero-vad"):
        SileroVad(str(tmp_path / "none.onnx"))
    (tmp_path / "bad.onnx").write_bytes(b"no network")
    with pytest.raises(WeightsError, match="expected"):
        SileroVad(str(tmp_path / "bad.onnx"))
