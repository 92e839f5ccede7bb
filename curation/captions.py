"""Captions: the text that came with a file, else what one of the configured captioners writes. Batch: equal-length lists, one
`CaptionText` a clip.

Who writes is drawn by key (`caption_mix`): by default the facts captioner, which needs no network; Movie Gen's is `mix: {small: 0.7,
large: 0.3}` with two endpoints or local models of these names. Sound has no pictures, so facts are all that is written about it. A
captioner that fails leaves an error, never another captioner's text: a clip without a caption is unknown, and unknown is never a pass.

Movie Gen puts the camera-motion class in front of the caption where its classifier is sure (Camera-motion classes, captions); the
threshold was not published.
"""

import dataclasses
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from curation.adapters.openai_captioner import EndpointConfig, OpenAICaptioner
from curation.adapters.request_limits import Limits
from curation.adapters.transformers_captioner import LocalModelConfig, TransformersCaptioner
from curation.caption_facts import FACTS_READ, FACTS_VERSION, FactsCaptioner, FactsConfig, SidecarCaptioner, SidecarConfig
from curation.caption_mix import check_mix, draw
from curation.caption_prompt import Captioner, Failed, Length, Subject, Written
from curation.keyframes import KeyFrame
from manifests.records import Asset, Clip

FACTS = "facts"

_TRANSIENT = re.compile(r"budget|timeout|unreachable|too_large|given_up|http_\d+")
_OF_A_CLIP = frozenset({"http_400", "http_413", "http_415", "http_422", "http_451", "too_large"})
"""Refusals that speak of what was asked, not of who asks (401, 403), where (404, 3xx), how often (429) or of the server's state (5xx)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptionConfig:
    """Which captions are taken and who writes them. `mix` gives each captioner's share by its name in `endpoints` or `local`, or `facts`."""

    sidecar: SidecarConfig = field(default_factory=SidecarConfig)
    facts: FactsConfig = field(default_factory=FactsConfig)
    endpoints: dict[str, EndpointConfig] = field(default_factory=dict)
    local: dict[str, LocalModelConfig] = field(default_factory=dict)
    mix: dict[str, float] = field(default_factory=lambda: {FACTS: 1.0})
    seed: int = 0
    length: Length = field(default_factory=Length)
    camera_confidence: float = 0.8  # ours: the camera is named from this confidence on

    def __post_init__(self) -> None:
        check_mix(self.mix)
        both = (set(self.endpoints) & set(self.local)) | ({FACTS, "sidecar"} & {*self.endpoints, *self.local})
        if both:
            raise ValueError(f"captioner names must differ from each other, from facts and from sidecar; found {', '.join(sorted(both))}")
        unknown = set(self.mix) - {FACTS, *self.endpoints, *self.local}
        if unknown:
            raise ValueError(f"the mix names {', '.join(sorted(unknown))}, expected facts or a name in endpoints or local")


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptionText:
    """A caption before its dense keys are given: fields as in the captions table. `text` is null only with an error."""

    clip_id: str
    text: str | None = None
    captioner: str = FACTS
    captioner_version: str = FACTS_VERSION
    camera_prefix: str | None = None
    frame_digest: str | None = None
    error_code: str | None = None
    error_detail: str | None = None


class CaptionClips:
    """Captions each clip. Loads the weights and keeps the budgets of the captioners that have a share; a budget holds for this object."""

    def __init__(self, cfg: CaptionConfig) -> None:
        self.cfg = cfg
        self._sidecar = SidecarCaptioner(cfg.length)
        self._captioners: dict[str, Captioner] = {FACTS: FactsCaptioner(cfg.facts, cfg.camera_confidence)}
        wanted = {name for name, share in cfg.mix.items() if share > 0}
        for name in sorted(wanted & set(cfg.endpoints)):
            self._captioners[name] = OpenAICaptioner(cfg.endpoints[name], cfg.length, cfg.seed)
        for name in sorted(wanted & set(cfg.local)):
            self._captioners[name] = TransformersCaptioner(cfg.local[name], cfg.length)

    def __call__(self, batch: Sequence[tuple[Clip, Asset, list[KeyFrame]]]) -> list[CaptionText]:
        """One caption a clip, in order; never raises on hostile input. Captioners work side by side."""
        subjects = [Subject(clip=clip, asset=asset, frames=tuple(frames)) for clip, asset, frames in batch]
        outcomes: list[Written | Failed | None] = [None] * len(subjects)
        if self.cfg.sidecar.use:
            outcomes = [o if isinstance(o, Written) else None for o in self._sidecar.write(subjects)]
        groups: dict[str, list[int]] = {}
        for i, subject in enumerate(subjects):
            if outcomes[i] is None:
                groups.setdefault(self.captioner_of(subject.clip), []).append(i)
        if groups:
            with ThreadPoolExecutor(len(groups)) as pool:
                written = pool.map(lambda name: self._captioners[name].write([subjects[i] for i in groups[name]]), groups)
                for places, found in zip(groups.values(), written, strict=True):
                    for i, outcome in zip(places, found, strict=True):
                        outcomes[i] = outcome
        return [self._row(s.clip, o) for s, o in zip(subjects, outcomes, strict=True)]

    def captioner_of(self, clip: Clip) -> str:
        """The name of the captioner that is to write about the clip where no supplied text is taken."""
        return captioner_of(clip, self.cfg)

    def _row(self, clip: Clip, outcome: Written | Failed | None) -> CaptionText:
        """The outcome as a row of its clip. An outcome on another clip would mean that a backend broke its contract: it is not used."""
        if outcome is None or outcome.clip_id != clip.clip_id:
            found = "none" if outcome is None else f"one on clip {outcome.clip_id}"
            detail = f"expected an outcome on clip {clip.clip_id}, found {found}"
            return CaptionText(clip_id=clip.clip_id, captioner="", captioner_version="", error_code="wrong_clip", error_detail=detail)
        if isinstance(outcome, Failed):
            return CaptionText(
                clip_id=clip.clip_id,
                captioner=outcome.captioner,
                captioner_version="",
                frame_digest=outcome.frame_digest,
                error_code=outcome.code,
                error_detail=outcome.detail,
            )
        return CaptionText(
            clip_id=clip.clip_id,
            text=outcome.text,
            captioner=outcome.captioner,
            captioner_version=outcome.captioner_version,
            camera_prefix=camera_prefix(clip, self.cfg),
            frame_digest=outcome.frame_digest,
        )


def captioner_of(clip: Clip, cfg: CaptionConfig) -> str:
    """The name of the captioner that is to write about the clip where no supplied text is taken."""
    return FACTS if clip.kind == "audio" else draw(cfg.mix, cfg.seed, clip.clip_id)


def asked(pairs: Sequence[tuple[Clip, Asset]], cfg: CaptionConfig) -> dict[str, int]:
    """How many of these clips each endpoint would be asked about, by its name: a request each at least, paid for where they cost money."""
    found: dict[str, int] = {}
    sidecar = SidecarCaptioner(cfg.length)
    for clip, asset in pairs:
        (text,) = sidecar.write([Subject(clip=clip, asset=asset, frames=())])
        name = captioner_of(clip, cfg)
        if name in cfg.endpoints and not (cfg.sidecar.use and isinstance(text, Written)):
            found[name] = found.get(name, 0) + 1
    return found


def caption(clip: Clip, asset: Asset, frames: Sequence[KeyFrame], cfg: CaptionConfig) -> CaptionText:
    """The caption of one clip, by captioners made for it alone."""
    return CaptionClips(cfg)([(clip, asset, list(frames))])[0]


def read_of(clip: Clip, asset: Asset, cfg: CaptionConfig) -> tuple[object, ...]:
    """All of a clip and its asset that a caption depends on beside the clip's id and its key frames: with equal values it need not be made again."""
    facts = tuple(getattr(clip, n) for n in FACTS_READ) if captioner_of(clip, cfg) == FACTS else ()
    return (asset.supplied_caption if cfg.sidecar.use else None, camera_prefix(clip, cfg), *facts)


def camera_prefix(clip: Clip, cfg: CaptionConfig) -> str | None:
    """The camera class in words, e.g. 'pan right', where the classifier was sure enough; else None."""
    if clip.camera is None or (clip.camera_confidence or 0.0) < cfg.camera_confidence:
        return None
    return clip.camera.replace("_", " ")


def is_transient(error_code: str) -> bool:
    """Whether the same request may do better in another run: out of budget, or no answer. A key or an address that was wrong (401, 404 …) may
    have been put right by then: neither decides what a stored caption depends on, so nothing else would ask again."""
    return _TRANSIENT.fullmatch(error_code) is not None


def is_refusal(error_code: str) -> bool:
    """Whether the endpoint answered and would not have this clip. A server that is set up otherwise may take it, so it may be asked again, but the
    same words time and again are its last."""
    return error_code in _OF_A_CLIP


def identity(cfg: CaptionConfig) -> CaptionConfig:
    """The settings without those that decide nothing about a caption (address, key, limits): what a stored caption depends on."""
    plain = {
        name: dataclasses.replace(e, base_url="http://localhost", api_key_env=None, plain_http_key=False, limits=Limits())
        for name, e in cfg.endpoints.items()
    }
    local = {name: dataclasses.replace(m, device="cpu", max_time_s=0.0) for name, m in cfg.local.items()}
    return dataclasses.replace(cfg, endpoints=plain, local=local)
