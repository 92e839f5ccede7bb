"""Motion vectors of a clip: from the codec where its decoder gives them, from our own estimate for every other one, on one scale.

The scale is px of the coded picture a frame step, mean over the picture. Files of more or fewer than 24 to 30 frames a second are brought
to the nearer of these, as what moves goes so much less far in a shorter step; repeated frames count as frames. A codec's vectors reach as far as its reference picture, which
may be four frames away where B-frames lie between; each is divided by that distance, or one video would score twice what it scores
coded without B-frames. Our estimate is dense inverse search flow (OpenCV) on the small planes, between neighbours, a few times a second;
like an encoder it keeps a vector only where it explains the picture better than none does and lies within reach of a search.

Asking the one decoder for vectors costs 15 to 50 % of the decode. So a second decoder is shown a few packets now and then. Those of H.264
are taken anywhere: a picture's vectors are in its own bits, so missing references blur its pixels and leave its vectors as they are.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from curation.media import FOREIGN
from curation.motion import VECTOR_CODECS
from curation.observe import Frame
from curation.orientation import side_data
from curation.ranks import median
from curation.tracks import Recorder, Track, Tracks
from manifests.records import Clip

if TYPE_CHECKING:
    from av.packet import Packet
    from av.video.frame import VideoFrame

VERSION = "3"
"""Version of the motion vector measure."""
COLUMNS = ("motion_vector_px", "motion_vector_source")

ESTIMATE_US = 550_000
"""Mean spacing of our estimates: one costs about 0.4 ms, so 30 us a frame at 25 a second."""
FIRST_PACKET = 30
"""No clip of a longer video begins in its first second."""
RUN_PACKETS = 5
"""Packets that the second decoder sees at a time, and those that complete the last group of B-frames."""
RUN_LONGEST = 24
RUN_SHARE = 0.015
"""… of all packets. A packet costs it about 1.3 times what it costs the first decoder."""
MOST_PIXELS = 2560 * 1440
"""Larger pictures get no second decoder: its reference frames would take 200 MB at 4K."""
MOST_FAILURES = 3
_GOLDEN = 0.6180339887  # steps of an evenly spread sequence
_B = 3  # FFmpeg's picture type
_BLOCK_PX = 4  # of the small plane, 32 px of 720 lines
_REACH_PX = 24
"""Farther than this from the picture's median vector, in px of the coded picture, an encoder does not look (x264: 16 px around a guess):
text that jumps by a line is coded anew, though flow may follow it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VectorsConfig:
    """How vectors become a number of a clip. Values are ours."""

    estimate_factor: float = 1.9
    """Codec px = factor * estimate: flow is smoother than blocks, which also follow noise. Near the median (1.98) of 65 clips of real H.264 videos."""
    codec_share: float = 0.5
    """Weight of the codec's moments where there are some: they are exact but few, the estimates less exact but more."""
    least_motion: float = 0.05  # levels: what noise moves, so that still moments are not divided by nothing
    shortest_step_us: int = 33_000  # the px of shorter and …
    longest_step_us: int = (
        42_000  # … of longer steps are brought to these: 24 to 30 frames a second, also in ms, as the paper's limits are for …
    )
    rarest_step_us: int = 100_000  # … though not those of steps beyond this: pictures that change more rarely are events, not a frame rate


class VectorWatch:
    """Watches motion vectors: track `vectors`, at sampled times, `codec_px` and `estimate_px` (nan where the other one is).

    `packet` wants to be shown every video packet before it is decoded, as `on_packet` of `decode`; without it there are estimates only.
    While the picture `stands`, vectors are known to be 0.
    """

    def __init__(self, stands: Callable[[], bool] = lambda: False) -> None:
        self._sampler = VectorSampler(stands)
        self._estimates: list[tuple[int, float]] = []
        self._flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
        self._grid = np.zeros((0, 0, 2), np.float32)
        self._before: np.ndarray | None = None
        self._due: int | None = None

    def packet(self, packet: "Packet") -> None:
        """The packet is seen by the codec's sampler."""
        self._sampler.push(packet)

    def push(self, frame: Frame) -> None:
        """The frame's motion against the frame before is estimated when it is due."""
        luma, before = frame.y, self._before
        self._before = luma
        if before is None:
            return
        if self._due is None or frame.pts_us >= self._due:
            # Spread unevenly, so that a rhythm of repeated frames is not always met alike.
            self._due = frame.pts_us + int(ESTIMATE_US * (0.5 + len(self._estimates) * _GOLDEN % 1))
            width, height = max(frame.source.width, frame.source.height), max(luma.shape)
            self._estimates.append((frame.pts_us, self._mean_px(before, luma, width / height)))

    def finish(self) -> list[Track]:
        """The track, with what both have seen."""
        rows = [(t, px, np.nan) for t, px in self._sampler.finish()] + [(t, np.nan, px) for t, px in self._estimates]
        recorder = Recorder("vectors", ("codec_px", "estimate_px"))
        for row in sorted(rows, key=lambda r: r[0]):
            recorder.add(*row)
        return [recorder.track()]

    def _mean_px(self, before: np.ndarray, after: np.ndarray, scale: float) -> float:
        """Mean length of the vectors between two small planes, in px of the coded picture, of which a small px has `scale`."""
        still = cv2.absdiff(before, after)
        if not cv2.countNonZero(still):
            return 0.0
        flow = self._flow.calc(before, after, None)  # type: ignore[call-overload]
        height, width = before.shape
        if self._grid.shape != flow.shape:
            self._grid = np.stack(np.meshgrid(np.arange(width), np.arange(height)), -1).astype(np.float32)
        moved = cv2.remap(after, cv2.add(self._grid, flow), None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)  # type: ignore[call-overload]
        blocks = (width // _BLOCK_PX, height // _BLOCK_PX)
        error, error_still, length, mean = (
            cv2.resize(plane, blocks, interpolation=cv2.INTER_AREA)
            for plane in (
                cv2.absdiff(before, moved).astype(np.float32),
                still.astype(np.float32),
                cv2.magnitude(flow[..., 0], flow[..., 1]),
                flow,
            )
        )
        aside = np.hypot(*(mean[..., i] - median(mean[..., i]) for i in (0, 1)))
        # A long vector has to explain more, as it costs an encoder more bits: 5 % of the change a px.
        gains = error_still - error > 0.05 * error_still * np.minimum(length, 3)
        return float(np.where(gains & (aside * scale <= _REACH_PX), length, 0).mean()) * scale


class VectorSampler:
    """Is shown a video's packets; decodes a few, now and then, on its own for their vectors.

    Whatever goes wrong there ends this run only, and after a few runs the sampling: the decode of the video is not concerned.
    """

    def __init__(self, stands: Callable[[], bool] = lambda: False) -> None:
        self._stands = stands
        self._rows: list[tuple[int, float]] = []
        self._decoder: Any = None
        self._running = False
        self._frames: list[tuple[int, int, Lengths | None]] = []
        self._order: dict[int, int] = {}  # pts -> place in the order of decoding, of the packets of a run
        self._wait = FIRST_PACKET
        self._latest = -(1 << 62)
        self._failures = 0
        self._us = (1, 1)

    def push(self, packet: "Packet") -> None:
        """The next packet of the video, before it is decoded."""
        # A frame that is shown after all before it: with it begin the frames that refer to it.
        pts = packet.pts
        anchor = pts is None or pts > self._latest
        if pts is not None and anchor:
            self._latest = pts
        self._wait -= 1
        fed = len(self._order)
        if self._running and (not packet.size or (fed >= RUN_PACKETS and anchor) or fed >= RUN_LONGEST):
            self._close()
            self._wait = round(fed / RUN_SHARE)
        if not self._running and not (self._wait <= 0 and anchor and packet.size and self._start(packet)):
            return
        fed = len(self._order)
        self._order[fed if pts is None else pts] = fed
        self._decode(packet)

    def finish(self) -> list[tuple[int, float]]:
        """(presentation time in us, mean px a frame step) of the frames that were seen, in order."""
        if self._running:
            self._close()
        return sorted(self._rows)

    def _start(self, packet: "Packet") -> bool:
        known = packet.stream.codec_context
        if known.name not in VECTOR_CODECS or known.width * known.height > MOST_PIXELS or self._failures >= MOST_FAILURES:
            self._wait, self._decoder = 1 << 62, None
            return False
        if known.name != "h264" and not packet.is_keyframe:  # the others' decoders give nothing before one
            return False
        us = packet.time_base * 1_000_000
        self._us = us.numerator, us.denominator
        if packet.pts is not None and self._stands():  # known without a look
            self._note(packet.pts, 0.0)
            self._wait = round(RUN_PACKETS / RUN_SHARE)
            return False
        # One decoder for all runs: a new one would have to find its memory anew.
        self._decoder = self._decoder or _decoder(known)
        self._running, self._frames, self._order = True, [], {}
        return True

    def _decode(self, packet: "Packet | None") -> None:
        import av

        try:
            for frame in self._decoder.decode(packet):
                pts = frame.dts if frame.pts is None else frame.pts
                if pts is not None:
                    self._frames.append((pts, int(frame.pict_type), vector_lengths(frame)))
        except (av.error.FFmpegError, *FOREIGN):  # damage: the first decoder reports it
            self._failures += 1
            self._decoder = None
            self._drop()

    def _close(self) -> None:
        self._decode(None)
        steps = reference_steps([(pts, kind) for pts, kind, _ in self._frames], self._order)
        for (pts, _, lengths), (back, ahead) in zip(self._frames, steps, strict=True):
            if lengths is not None and lengths.area > 0 and back:
                self._note(pts, (lengths.back / back + lengths.ahead / ahead) / lengths.area)
        self._drop()

    def _note(self, pts: int, mean_px: float) -> None:
        num, den = self._us
        self._rows.append(((2 * pts * num + den) // (2 * den), mean_px))

    def _drop(self) -> None:
        if self._running and self._decoder is not None:
            self._decoder.flush_buffers()
        self._running, self._frames, self._order = False, [], {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Lengths:
    """Sums of vector length times block area, to earlier and to later frames, in px of the coded picture; and of all areas."""

    back: float
    ahead: float
    area: float


def reference_steps(frames: list[tuple[int, int]], order: dict[int, int]) -> list[tuple[int, int]]:
    """How many frames back and ahead each frame's references lie, of (pts, type) in order of presentation; (0, 0) where it is not known.

    A P-frame is taken to refer to the P- or I-frame before it. B-frames refer to those around them, unless the first one of them to be
    decoded is not the first to be shown: then that one is a reference too, and so on between (a pyramid).
    """
    steps = [(0, 0)] * len(frames)
    anchors = [i for i, (_, kind) in enumerate(frames) if kind != _B]

    def between(low: int, high: int) -> None:
        inner = range(low + 1, high)
        if not inner:
            return
        first = min(inner, key=lambda i: order.get(frames[i][0], i))
        if first == low + 1 and len(inner) > 1:
            for i in inner:
                steps[i] = (i - low, high - i)
            return
        steps[first] = (first - low, high - first)
        between(low, first)
        between(first, high)

    for low, high in itertools.pairwise(anchors):
        steps[high] = (high - low, 1)
        between(low, high)
    return steps


def measure_vectors(clip: Clip, tracks: Tracks, cfg: VectorsConfig) -> dict[str, Any]:
    """The columns motion_vector_px and motion_vector_source of a clip inside one shot; None where nothing of it was seen.

    Both kinds are seen at few moments, so each mean is weighted by how much more the whole clip moves than those moments do (track
    `motion`), and brought to steps of 24 to 30 frames a second by the usual step. `codec` = vectors of the codec and our estimate in equal
    parts; `estimate` = the codec gives none.
    """
    start = clip.start_us + 1  # the first frame's vectors come from outside
    seen, motion = tracks["vectors"].between(start, clip.end_us), tracks["motion"].between(start, clip.end_us)
    scale = to_usual_step(clip.start_us, motion, cfg)
    codec, estimate = (_mean_over_clip(seen, name, motion, cfg.least_motion) for name in ("codec_px", "estimate_px"))
    codec = None if codec is None else codec * scale
    estimate = None if estimate is None else estimate * scale * cfg.estimate_factor
    if codec is None:
        return {"motion_vector_px": estimate, "motion_vector_source": None if estimate is None else "estimate"}
    px = codec if estimate is None else cfg.codec_share * codec + (1 - cfg.codec_share) * estimate
    return {"motion_vector_px": px, "motion_vector_source": "codec"}


def _mean_over_clip(seen: Track, name: str, motion: Track, least: float) -> float | None:
    """The mean of a field, times the motion of all frames over that of the frames where it was seen; None where it was not."""
    px = seen[name].astype(np.float64)
    known = np.isfinite(px)
    if not known.any() or not len(motion):
        return None
    levels = np.nan_to_num(motion["motion"].astype(np.float64))
    there = np.minimum(np.searchsorted(motion.pts_us, seen.pts_us[known]), len(levels) - 1)
    return float(px[known].mean() * (levels.mean() + least) / (levels[there].mean() + least))


def to_usual_step(start_us: int, motion: Track, cfg: VectorsConfig) -> float:
    """What brings px of the clip's median step, from its first frame on, to a step of 24 to 30 frames a second; 1 where it is such a step."""
    if not len(motion):
        return 1.0
    step_us = min(max(1.0, float(np.median(np.diff(motion.pts_us, prepend=start_us)))), cfg.rarest_step_us)
    return float(np.clip(step_us, cfg.shortest_step_us, cfg.longest_step_us)) / step_us


def vector_lengths(frame: "VideoFrame") -> Lengths | None:
    """The frame's codec vectors; None when it carries none, as intra frames do."""
    side = side_data(frame, "MOTION_VECTORS")
    vectors = None if side is None else side.to_ndarray()
    if vectors is None or not len(vectors):
        return None
    across, down = vectors["motion_x"].astype(np.float32), vectors["motion_y"].astype(np.float32)
    area = vectors["w"].astype(np.float32) * vectors["h"]
    # No dot product: BLAS would wake threads for it, which cost more than the decode.
    length = np.sqrt(across * across + down * down) * area / max(int(vectors["motion_scale"][0]), 1)
    back = vectors["source"] < 0
    return Lengths(back=float(length[back].sum()), ahead=float(length[~back].sum()), area=float(area.sum()))


def _decoder(known: Any) -> Any:
    """A second decoder for the stream of the open one, that exports vectors and takes packets from anywhere."""
    import av
    from av.codec.context import Flags, Flags2

    decoder: Any = av.CodecContext.create(known.name, "r")
    decoder.extradata = known.extradata
    decoder.width, decoder.height = known.width, known.height
    decoder.thread_count = 1
    decoder.flags2 |= Flags2.export_mvs | Flags2.show_all
    decoder.flags |= Flags.output_corrupt
    # Vectors are in the bits: smoothing the blocks' edges, a third of the work, changes none.
    decoder.options = {"skip_loop_filter": "all", "max_pixels": str(MOST_PIXELS)}
    return decoder
