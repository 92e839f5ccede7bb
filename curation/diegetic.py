"""Whether a clip's sound belongs to its scene: Table 24 of Movie Gen, as a function of a clip's scores.

| what is heard | agreement of sound and picture | bucket |
|---|---|---|
| sound; voice; voice + sound | > 0.2 | diegetic |
| music; music + sound; voice + music + sound | > 0.3 | diegetic |
| music | < 0.1 | non-diegetic |
| music + sound | 0.1 to 0.25 | non-diegetic |
| voice + music + sound | 0.1 to 0.25 | mixed |

The table has gaps (voice + music without other sound; 0.25 to 0.3): such clips are unknown, and unknown is never a pass. For
pre-training the paper keeps diegetic and mixed ones, plus a little non-diegetic music.
"""

from dataclasses import dataclass
from typing import Any

from manifests.records import Clip

VERSION = "1"
"""Version of the buckets."""
COLUMNS = ("audio_class", "diegetic", "diegetic_score")


@dataclass(frozen=True, slots=True, kw_only=True)
class DiegeticConfig:
    """The thresholds of Table 24, set by manual inspection there. The level from which a class is heard is ours: the paper names none."""

    heard: float = 0.3
    without_music: float = 0.2  # agreement above which sound and voice belong to the scene
    with_music: float = 0.3  # … and music, too
    foreign_music: float = 0.1  # music alone below it is not of the scene
    low: float = 0.1  # music over other sound from here …
    high: float = 0.25  # … to here is not of the scene, and mixed when there are voices


def measure_diegetic(clip: Clip, cfg: DiegeticConfig) -> dict[str, Any]:
    """The bucket columns of a clip from its tags and its agreement of sound and picture; None where they are not known."""
    heard = audio_class(clip.voice_score, clip.music_score, clip.sound_score, cfg)
    bucket = diegetic_bucket(heard, clip.audio_video_similarity, cfg)
    score = None if bucket is None else {"diegetic": 1.0, "mixed": 0.5, "non_diegetic": 0.0}[bucket]
    return {"audio_class": heard, "diegetic": bucket, "diegetic_score": score}


def audio_class(voice: float | None, music: float | None, sound: float | None, cfg: DiegeticConfig) -> str | None:
    """What is heard: voice, music, sound, joined by '+' in this order, or 'none'; None where a score is missing."""
    if voice is None or music is None or sound is None:
        return None
    heard = [name for name, score in (("voice", voice), ("music", music), ("sound", sound)) if score >= cfg.heard]
    return "+".join(heard) or "none"


def diegetic_bucket(heard: str | None, similarity: float | None, cfg: DiegeticConfig) -> str | None:
    """'diegetic', 'non_diegetic' or 'mixed' as Table 24 has it; None where the table says nothing or a score is missing."""
    if heard is None or similarity is None:
        return None
    if heard in ("sound", "voice", "voice+sound"):
        return "diegetic" if similarity > cfg.without_music else None
    if heard not in ("music", "music+sound", "voice+music+sound"):
        return None
    if similarity > cfg.with_music:
        return "diegetic"
    if heard == "music":
        return "non_diegetic" if similarity < cfg.foreign_music else None
    if cfg.low <= similarity <= cfg.high:
        return "mixed" if heard == "voice+music+sound" else "non_diegetic"
    return None
