"""What a file is: Asset -> Asset with its container facts, or with the reason why it has none (map)."""

from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from curation.clock import is_variable
from curation.containers import head_of, picture_kind
from curation.decode import DecodeLog, first_frame, packets_of
from curation.media import (
    MAX_TIME_US,
    MediaConfig,
    MediaError,
    need_pixels,
    need_sound,
    note_open,
    open_container,
    open_file,
    prepare,
    sound_stream,
    video_stream,
)  # fmt: skip
from curation.orientation import orientation, shown_size
from curation.stills import open_still
from manifests.records import Asset

if TYPE_CHECKING:
    from av.container import InputContainer


@dataclass(frozen=True, slots=True, kw_only=True)
class MediaFacts:
    """The container-fact columns of `Asset`, by the same names; None where the container does not say."""

    kind: str
    container: str
    vcodec: str | None = None
    acodec: str | None = None
    duration_us: int | None = None
    start_us: int | None = None
    width: int | None = None
    height: int | None = None
    rotation: int | None = None
    fps_num: int | None = None
    fps_den: int | None = None
    time_base_num: int | None = None
    time_base_den: int | None = None
    n_frames: int | None = None
    is_vfr: bool | None = None
    has_audio: bool | None = None
    sample_rate_hz: int | None = None
    channels: int | None = None


def probe_asset(asset: Asset, path: str, cfg: MediaConfig) -> Asset:
    """The asset with its container facts, or with error_stage `probe`, code and detail. Never raises on bad media."""
    try:
        facts = probe(path, cfg)
    except MediaError as e:
        return replace(asset, error_stage="probe", error_code=e.code, error_detail=e.detail)
    return with_facts(asset, facts)


def with_facts(asset: Asset, facts: MediaFacts) -> Asset:
    """The asset with its container-fact columns taken from the facts."""
    return replace(asset, **asdict(facts))


def probe(path: str, cfg: MediaConfig) -> MediaFacts:
    """The facts of the file, judged by content and never by name, with its first frame decoded as a proof that it plays.

    Raises MediaError.
    """
    note_open(path, "probe")
    with open_file(path) as file:
        kind = picture_kind(head_of(file))
    if kind:
        return _probe_picture(path, kind, cfg)
    with open_container(path, cfg) as container:
        video = video_stream(container)
        if video is not None:
            return _probe_video(path, container, video, cfg)
        if container.streams.audio:
            return _probe_audio(path, container, cfg)
    raise MediaError("no_streams", f"{path}: expected a video or audio stream, found none")


def _probe_video(path: str, container: "InputContainer", stream: Any, cfg: MediaConfig) -> MediaFacts:
    prepare(path, stream, cfg)
    need_pixels(path, stream.codec_context.width, stream.codec_context.height, cfg.max_pixels)
    frame = first_frame(path, container, stream, cfg)
    width, height = shown_size(frame, stream)
    need_pixels(path, width, height, cfg.max_pixels)
    base = Fraction(stream.time_base)
    start = frame.pts if frame.pts is not None else stream.start_time
    if start is not None and abs(start * base * 1_000_000) > MAX_TIME_US:
        start = None
    n_frames, is_vfr = _index_facts(stream, base)
    # What an edit list hides is decoded all the same.
    if n_frames and max(n_frames, stream.frames) > cfg.max_frames:
        raise MediaError("limit_frames", f"{path}: expected at most {cfg.max_frames} frames, found {max(n_frames, stream.frames)}")
    rate = _rate(stream.average_rate or stream.guessed_rate)
    audio = _audio_facts(container, cfg)
    return MediaFacts(
        kind="video",
        container=container.format.name,
        vcodec=stream.codec_context.codec.canonical_name,  # 'av1', by whichever decoder
        duration_us=_duration_us(path, container, stream, base, start, cfg),
        start_us=None if start is None else round(start * base * 1_000_000),
        width=width,
        height=height,
        rotation=orientation(frame).clockwise_degrees,
        fps_num=rate.numerator if rate else None,
        fps_den=rate.denominator if rate else None,
        time_base_num=base.numerator,
        time_base_den=base.denominator,
        n_frames=n_frames,
        is_vfr=is_vfr,
        **audio,
    )


def _probe_audio(path: str, container: "InputContainer", cfg: MediaConfig) -> MediaFacts:
    # Where none is within limits, the first says which limit it breaks.
    stream = sound_stream(container, cfg) or container.streams.audio[0]
    prepare(path, stream, cfg)
    frame = first_frame(path, container, stream, cfg)
    need_sound(path, frame.sample_rate, frame.layout.nb_channels, cfg)
    base = Fraction(cast(Fraction, stream.time_base))
    start = frame.pts or 0
    if abs(start * base * 1_000_000) > MAX_TIME_US:
        raise MediaError("decode_error", f"{path}: expected sound that starts within {MAX_TIME_US} us, found {float(start * base):g} s")
    return MediaFacts(
        kind="audio",
        container=container.format.name,
        duration_us=_duration_us(path, container, stream, base, start, cfg),
        start_us=round(start * base * 1_000_000),
        time_base_num=base.numerator,
        time_base_den=base.denominator,
        acodec=stream.codec_context.name,
        has_audio=True,
        sample_rate_hz=frame.sample_rate,
        channels=frame.layout.nb_channels,
    )


def _probe_picture(path: str, kind: str, cfg: MediaConfig) -> MediaFacts:
    image = open_still(path, cfg)
    turned = {3: 180, 4: 180, 5: 90, 6: 90, 7: 270, 8: 270}.get(image.info.get("orientation", 1), 0)
    return MediaFacts(
        kind="image", container=kind.lower(), vcodec=kind.lower(), width=image.width, height=image.height, rotation=turned,
        n_frames=1, duration_us=0, start_us=0, has_audio=False,
    )  # fmt: skip


def _rate(rate: Fraction | None) -> Fraction | None:
    """The rate with numerator and denominator that fit int32 columns (a bogus duration gives 1/143165000), or None for one that is none."""
    if not rate or not 0 < rate < 100_000:
        return None
    largest = int(((1 << 31) - 1) / max(rate, Fraction(1))) - 1
    return Fraction(rate).limit_denominator(min(1_000_000, largest)) or None


def _audio_facts(container: "InputContainer", cfg: MediaConfig) -> dict[str, Any]:
    """The sound columns of a video; a track that has no decoder, or a rate or channels outside the limits, is as if it were not there."""
    stream = sound_stream(container, cfg)
    if stream is None:
        return {"has_audio": False}
    context = stream.codec_context
    return {"acodec": context.name, "has_audio": True, "sample_rate_hz": context.sample_rate, "channels": context.channels}


def _index_facts(stream: Any, base: Fraction) -> tuple[int | None, bool | None]:
    """Number of frames shown and whether their steps vary, from a complete index (mp4, mov); decoding time stands for presentation time.

    An edit list (a file trimmed without coding it anew) hides samples that are only there to be referred to: they are not shown.
    """
    # An AVI index also counts fields and empty packets that repeat a frame.
    n_frames = max(0, stream.frames) or None if "mp4" in stream.container.format.name else None
    if not n_frames or len(stream.index_entries) != n_frames or n_frames > 1_000_000:
        return n_frames, None
    shown = [e.timestamp for e in stream.index_entries if not e.is_discard]
    return len(shown) or None, is_variable(np.sort(np.array(shown, np.float64) * float(base * 1_000_000)))


def _duration_us(path: str, container: "InputContainer", stream: Any, base: Fraction, start: int | None, cfg: MediaConfig) -> int | None:
    """The stream's own duration; where it has none or claims too much, its last packet's end is looked up by one seek."""
    duration_us = None if stream.duration is None else round(stream.duration * base * 1_000_000)
    if duration_us is None or not 0 < duration_us <= cfg.max_duration_us:
        end = _last_time(path, container, stream, cfg)
        duration_us = None if end is None else round((end - (start or 0)) * base * 1_000_000)
    if duration_us is not None and duration_us > cfg.max_duration_us:
        raise MediaError("limit_duration", f"{path}: expected at most {cfg.max_duration_us} us, found {duration_us}")
    return duration_us if duration_us and duration_us > 0 else None


def _last_time(path: str, container: "InputContainer", stream: Any, cfg: MediaConfig) -> int | None:
    """End of the last packet in the stream's time base, from packets alone."""
    import av

    end = None
    try:
        container.seek((1 << 62) // 1_000_000, backward=True, any_frame=False)
    except (av.error.FFmpegError, OverflowError, ValueError):
        container.seek(0)
    # A broken tail ends it: what was seen so far is the best estimate, and the scan replaces it by decoded time.
    for packet in packets_of(path, container, cfg, DecodeLog(), stream):
        if packet.pts is not None:
            end = max(end or packet.pts, packet.pts + (packet.duration or 0))
    return end
