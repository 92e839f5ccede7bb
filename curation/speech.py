"""How much of a clip is speech, by a packaged voice-activity network on the sound copy. Batch: equal-length lists, one `SpeechScore` a clip.

Movie Gen Audio generates neither speech nor vocal music, and each caption says whether there is speech (Audio data, captions). The
network is told to find speech of any language; singing over music mostly does not count, which a tagger (sound_tags.py) tells apart.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from curation.soundtrack import Samples, Soundtrack, SoundtrackError, samples_between
from manifests.records import Clip

VERSION = "1"
"""Version of how speech is counted."""
COLUMNS = ("speech_fraction",)

FRAME_US = 32_000
LEAD_US = 1_024_000
"""Sound before the clip that the network hears first, so that a word cut by the clip's start is known as one: a whole number of frames."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeechConfig:
    """When a frame is speech. The first four are Silero's own defaults."""

    model: str | None = None  # a file in place of the one inside the package
    threshold: float = 0.5  # speech begins where the probability reaches it …
    release: float = 0.35  # … and ends where it falls below this …
    least_silence_us: int = 100_000  # … for as long
    least_us: int = 250_000  # what is shorter is a knock


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeechScore:
    """The speech column of a clip: the share of its time that is speech. Null without sound, or where `error_code` says why."""

    clip_id: str
    speech_fraction: float | None = None
    error_code: str | None = None
    error_detail: str | None = None


class Detector(Protocol):
    """Hears speech. One method; the adapter is its implementation."""

    def probabilities(self, sound: Samples) -> npt.NDArray[np.float32]:
        """The probability of speech in each 32 ms of mono sound at 16 kHz."""
        ...


class DetectSpeech:
    """Scores speech on the sound copy of each clip. Loads the network once."""

    def __init__(self, cfg: SpeechConfig, detector: Detector | None = None) -> None:
        from curation.adapters.speech_vad import SileroVad

        self.cfg = cfg
        self.detector = detector or SileroVad(cfg.model)

    def __call__(self, batch: Sequence[tuple[Clip, Sequence[Soundtrack] | None]]) -> list[SpeechScore]:
        """One score a clip, in order; rows of other assets or times may be among a clip's rows."""
        return [self._score(clip, rows or []) for clip, rows in batch]

    def _score(self, clip: Clip, rows: Sequence[Soundtrack]) -> SpeechScore:
        own = [r for r in rows if r.asset_id == clip.asset_id]
        if clip.kind == "image" or samples_missing(own, clip):
            return SpeechScore(clip_id=clip.clip_id)
        try:
            sound = samples_between(own, clip.start_us - LEAD_US, clip.end_us)
        except SoundtrackError as e:
            return SpeechScore(clip_id=clip.clip_id, error_code="bad_sound", error_detail=f"clip {clip.clip_id}: {e}")
        if sound is None:
            return SpeechScore(clip_id=clip.clip_id)
        lead = LEAD_US // FRAME_US
        length = (clip.end_us - clip.start_us) / FRAME_US
        frames = speech_frames(self.detector.probabilities(sound), self.cfg)[lead:]
        return SpeechScore(clip_id=clip.clip_id, speech_fraction=min(1.0, float(frames.sum()) / length))


def speech_frames(probabilities: npt.NDArray[np.float32], cfg: SpeechConfig) -> npt.NDArray[np.bool_]:
    """Which frames are speech: from the threshold on until the release, short pauses bridged, what is too short left out."""
    found = np.zeros(len(probabilities), bool)
    start: int | None = None
    quiet = 0  # frames below the release since the last one above it
    for i, p in enumerate(probabilities.tolist()):
        if start is None:
            if p >= cfg.threshold:
                start, quiet = i, 0
            continue
        quiet = quiet + 1 if p < cfg.release else 0
        if quiet * FRAME_US >= cfg.least_silence_us:
            _mark(found, start, i + 1 - quiet, cfg)
            start = None
    if start is not None:
        _mark(found, start, len(found) - quiet, cfg)
    return found


def samples_missing(rows: Sequence[Soundtrack], clip: Clip) -> bool:
    """Whether none of the rows has sound inside the clip."""
    return not any(r.start_us < clip.end_us and r.end_us > clip.start_us for r in rows)


def _mark(found: npt.NDArray[np.bool_], start: int, end: int, cfg: SpeechConfig) -> None:
    if (end - start) * FRAME_US >= cfg.least_us:
        found[start:end] = True
