"""What a clip's sound is, by networks on the sound copy and the key frames. Batch: equal-length lists, one `SoundScore` a clip.

Each network runs only where its weights are given; the columns of the others stay null. Which bucket of the paper the scores make is
decided afterwards (diegetic.py), so that a changed threshold runs no network.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from curation.adapters.audio_quality import SoundQuality, SoundQualityConfig
from curation.adapters.audio_tagger import AudioTagger, TaggerConfig
from curation.adapters.audio_video import AgreementConfig, AudioVideoAgreement
from curation.adapters.weights import AnswerError
from curation.keyframes import KeyFrame, KeyFrameError, decode_all, spread
from curation.soundtrack import Samples, Soundtrack, SoundtrackError, samples_between
from manifests.records import Clip

VERSION = "1"
"""Version of how the networks are fed and their answers read; which weights they are is part of the settings."""
COLUMNS = ("voice_score", "singing_score", "music_score", "sound_score", "audio_video_similarity", "audio_quality")


@dataclass(frozen=True, slots=True, kw_only=True)
class SoundTagsConfig:
    """The three networks on sound."""

    tagger: TaggerConfig = field(default_factory=TaggerConfig)
    agreement: AgreementConfig = field(default_factory=AgreementConfig)
    quality: SoundQualityConfig = field(default_factory=SoundQualityConfig)

    @property
    def wanted(self) -> bool:
        """Whether any network has weights."""
        return any(c.weights is not None for c in (self.tagger, self.agreement, self.quality))


@dataclass(frozen=True, slots=True, kw_only=True)
class SoundScore:
    """The sound columns of a clip. Null without sound, without the network, or where `error_code` says why."""

    clip_id: str
    voice_score: float | None = None
    singing_score: float | None = None
    music_score: float | None = None
    sound_score: float | None = None
    audio_video_similarity: float | None = None
    audio_quality: float | None = None
    error_code: str | None = None
    error_detail: str | None = None


class TagSound:
    """Scores the sound of each clip. Loads the networks that have weights once. Raises WeightsError where a file is not what it should be."""

    def __init__(self, cfg: SoundTagsConfig) -> None:
        self.cfg = cfg
        self.tagger = AudioTagger(cfg.tagger) if cfg.tagger.weights is not None else None
        self.agreement = AudioVideoAgreement(cfg.agreement) if cfg.agreement.weights is not None else None
        self.quality = SoundQuality(cfg.quality) if cfg.quality.weights is not None else None

    def __call__(self, batch: Sequence[tuple[Clip, Sequence[KeyFrame], Sequence[Soundtrack] | None]]) -> list[SoundScore]:
        """One score a clip, in order; rows of other assets or times may be among a clip's rows."""
        return [self._score(clip, frames, rows or []) for clip, frames, rows in batch]

    def _score(self, clip: Clip, frames: Sequence[KeyFrame], rows: Sequence[Soundtrack]) -> SoundScore:
        own = [r for r in rows if r.asset_id == clip.asset_id]
        try:
            sound = None if clip.kind == "image" else samples_between(own, clip.start_us, clip.end_us)
            if sound is None or not len(sound):
                return SoundScore(clip_id=clip.clip_id)
            similarity = self._agree(clip, frames, sound)
            tags = None if self.tagger is None else self.tagger.tag(sound)
            quality = None if self.quality is None else self.quality.rate(sound)
        except SoundtrackError as e:
            return SoundScore(clip_id=clip.clip_id, error_code="bad_sound", error_detail=f"clip {clip.clip_id}: {e}")
        except KeyFrameError as e:
            return SoundScore(clip_id=clip.clip_id, error_code="bad_keyframe", error_detail=str(e))
        except AnswerError as e:
            return SoundScore(clip_id=clip.clip_id, error_code="model_failed", error_detail=f"clip {clip.clip_id}: {e}")
        return SoundScore(
            clip_id=clip.clip_id,
            voice_score=None if tags is None else tags.voice,
            singing_score=None if tags is None else tags.singing,
            music_score=None if tags is None else tags.music,
            sound_score=None if tags is None else tags.sound,
            audio_video_similarity=similarity,
            audio_quality=quality,
        )

    def _agree(self, clip: Clip, frames: Sequence[KeyFrame], sound: Samples) -> float | None:
        """None for sound files: there is no picture to agree with."""
        if self.agreement is None or clip.kind != "video":
            return None
        return self.agreement.similarity(decode_all(clip.clip_id, spread(frames, self.cfg.agreement.max_frames)), sound)
