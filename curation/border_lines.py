"""The lines at which plain borders end, in maps of a clip, and what the other kinds are. Everything here is a test on small arrays.

    plain   one level, still, up to a straight line where the picture begins (letterbox, pillarbox, window)
    frame   still, patterned, on two or four sides, up to straight lines around all that moves (`border_frames`)
    blurred soft on two sides and like the enlarged picture, up to a straight line where sharpness jumps (`border_fills`)

Movie Gen asks for "strong lines by the first derivative, then a scan from the edge" and says no more. A dark scene or a sky has no
such line along its whole length, and a pan moves the picture's own plain parts, so neither is a border.
"""

import math
from dataclasses import dataclass

import numpy as np

from curation.ranks import held_medians, median, medians, quantile

BANDS = 12
"""Parts of a line, each with its own numbers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BordersConfig:
    """What counts as a border line. Values are ours, chosen on generated borders; levels of 255 on the small luma."""

    plain_levels: float = 5.0  # a band is plain within so much of the border's level …
    drift_levels: float = 2.5  # … which changes by less along and across the border: a sky's or a wall's changes more
    plain_texture: float = 2.0  # … with so much more deviation along it than the outermost line …
    plain_motion: float = 2.5  # … and over time
    grain_levels: float = 0.9  # deviation along a bar that does not change over time …
    grain_share: float = 0.8  # … and of what changes, as noise does
    lone_motion: float = 3.0  # deviation over time of a border without its like on the other side: bars come in pairs
    noise_times: float = 1.3  # … unless nearly all of it changes by at most so much more, as noise does, up to a lasting step
    thin_lines: int = 3  # of the small luma: a thinner border takes on some of the picture when coded badly, and may change
    noisy_levels: float = 12.0  # a border's own deviation: more is a picture
    plain_share: float = 0.7  # of the bands, in the line next to the picture
    spoilt_share: float = 0.25  # of the bands, in lines with subtitles or a logo
    clean_share: float = 0.6  # of the bands, on average over the border
    line_share: float = 0.6  # of the bands in which the picture begins at the line …
    pair_line_share: float = 0.15  # … or in so many, as far from the edge as the line on the other side …
    pair_lines: float = 2.0  # … within so many lines of the small luma, …
    pair_step_share: float = 0.5  # … or, there, so much of it is a lasting step …
    dark_share: float = 0.3  # … or, in a dark picture, so many and nearly all that begin at all
    sure_step_share: float = 0.9  # of a line: where it ends in so many lasting steps …
    sure_clear_share: float = 0.25  # … so many more than beside it …
    sure_times: float = 1.6  # … a border may change so much more: coding and a logo do that
    clear_times: float = 2.0  # the picture is so much further from plain than the border may be
    even_levels: float = 1.2  # change along a border that is perfectly even …
    faint_share: float = 0.8  # … of whose bands so many stir beyond the line, if only a little
    empty_share: float = 0.6  # of the inside may be plain too: a title card has more
    lone_empty_share: float = 0.25  # … and so much beside a lone border: more is the margin of a page
    text_share: float = 0.2  # of the side: a still picture that is lower is a line of text
    text_levels: float = 12.0  # … when its deviation along a line is that of strokes …
    strokes_levels: float = 25.0  # … and text in any case from here on
    still_levels: float = 3.0  # deviation over time of still text
    straight_share: float = 0.8  # of both lines are lasting steps: letters end less straight
    plain_favoured_share: float = 0.9  # of a still border is of one level: then it is no graphic
    frame_score: float = 1.5  # the share of an edge's steps of luma, and …
    frame_weakest_weight: float = 0.5  # … so much of that of the weakest edge, and …
    frame_clear_weight: float = 0.6  # … of how many fewer steps there are beside an edge, less …
    frame_motion_weight: float = 8.0  # … of the share outside that moves …
    frame_motion: float = 3.0  # … by more levels than noise does
    frame_active_share: float = 0.07  # of the inside moves: where less does …
    frame_still_two: float = 1.8  # … the score of two edges is so high …
    frame_still_four: float = 1.5  # … or that of four is, less …
    frame_short_weight: float = 0.6  # … so much of what they are shorter than the picture: a still texture has short straight edges
    frame_colour_score: float = 2.38  # or: the share of an edge's steps of luma or colour, and …
    frame_colour_weakest_weight: float = 1.3  # … so much of that of the weakest edge, and …
    frame_colour_clear_weight: float = 0.25  # … of how many fewer there are on one side of it, and …
    frame_begin_weight: float = 0.26  # … of the share of an edge beyond which the picture begins to move, less …
    frame_colour_motion_weight: float = 1.7  # … of the share outside that moves, and, where the inside hardly does …
    frame_still_weight: float = 0.53  # … of the steps there are beside an edge: a still texture has steps everywhere
    frame_noise: float = 4.0  # levels by which the outermost lines may change
    frame_most_share: float = 0.4  # of the side: wider ones leave too short an edge to tell
    soft_ratio: float = 1.8  # the picture is so much sharper than the blurred fill
    fill_score: float = 1.8  # the likeness of a fill to the enlarged picture, and …
    fill_edge_weight: float = 0.4  # … so much of the bands of both sides with an edge at the line, and …
    fill_weaker_weight: float = 0.21  # … of the side that has fewer, and …
    fill_sharp_weight: float = 0.18  # … of the bands that are sharper inside, and …
    fill_step_weight: float = 0.36  # … of the lasting steps at the line, and …
    fill_clear_weight: float = 0.32  # … of how many fewer there are beside it, and …
    fill_content_weight: float = 0.025  # … for each doubling of the fill's deviation: plain strips are alike without being copies
    fill_least_levels: float = 0.6  # deviation of either side
    fill_least_share: float = 0.08  # of the picture: nobody fills less
    plain_favour: float = 0.08  # of the picture: another kind of border must be so much larger than a plain one
    least_share: float = 0.012  # of the side: thinner strips are encoder padding
    most_share: float = 0.44  # of the side: wider ones are a plain scene


@dataclass(frozen=True, slots=True)
class Lines:
    """Maps seen from one edge inwards, each [lines, bands], in levels."""

    level: np.ndarray
    texture: np.ndarray
    motion: np.ndarray
    along: np.ndarray
    across: np.ndarray
    step: np.ndarray  # share of px, 0 … 1
    blue: np.ndarray  # levels of the two colour planes …
    red: np.ndarray
    edge: np.ndarray  # share of px with a step of luma or colour

    def bands(self, chosen: slice | np.ndarray) -> "Lines":
        """Some of the bands."""
        return Lines(*(m[:, chosen] for m in self.maps()))

    def reversed(self) -> "Lines":
        """Seen from the other edge."""
        return Lines(*(m[::-1] for m in self.maps()))

    def maps(self) -> tuple[np.ndarray, ...]:
        """Every map."""
        return self.level, self.texture, self.motion, self.along, self.across, self.step, self.blue, self.red, self.edge


_AROUND, _AT = np.array([-6, -5, -4, -3, -1, 0, 1, 3, 4, 5, 6]), slice(4, 7)
"""Lines from an edge on: the four before it, whose steps are a texture's, its own, and the four behind it."""
Maps = tuple[Lines, Lines]
"""Of rows, from the top; of columns, from the left."""
Sides = tuple[float, float, float, float]
"""Top, bottom, left, right in small px, with a fraction."""


def _inside(before: float, after: float, lines: int) -> slice:
    """The bands that lie wholly between borders of so many lines at their two ends; the middle ones where none does."""
    first, end = math.ceil(before * BANDS / lines - 0.01), math.floor((lines - after) * BANDS / lines + 0.01)
    return slice(first, end) if end > first else slice(max(0, first - 1), min(BANDS, end + 1))


def steps_at(step: np.ndarray, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The steps along borders of so many lines, and how many more there are than before and behind them; `step` has lines along its first
    axis."""
    around = np.minimum(np.maximum(sizes[:, None] + _AROUND, 0), len(step) - 1)
    near = step[around]
    edge = near[:, _AT].max(1)
    return edge, edge - near[:, : _AT.start].mean(1), edge - near[:, _AT.stop :].mean(1)


def find_plain(maps: Maps, cfg: BordersConfig) -> Sides:
    """Top, bottom, left and right in small px. Found loosely first, then again along the picture only, as bars at the sides of a
    window are plain beyond its upper bar's line too."""
    rows, columns = maps
    seen = (rows, rows.reversed(), columns, columns.reversed())
    sizes = [_plain_line(s, cfg, loose=True) for s in seen]
    for _ in range(3):
        down, across = _inside(sizes[0], sizes[1], len(rows.level)), _inside(sizes[2], sizes[3], len(columns.level))
        bands = (across, across, down, down)
        again = [_plain_line(s.bands(b), cfg) if size else 0.0 for s, b, size in zip(seen, bands, sizes, strict=True)]
        for side, other in ((0, 1), (1, 0), (2, 3), (3, 2)):  # bars come in pairs: the second may be fainter
            if again[other] and not again[side]:
                again[side] = _plain_line(seen[side].bands(bands[side]), cfg, like=again[other])
        if again == sizes:
            break
        sizes = again
    sizes = [0.0 if size and not sizes[side ^ 1] and _stirs(seen[side], size, cfg) else size for side, size in enumerate(sizes)]
    return (0.0, 0.0, 0.0, 0.0) if _is_empty(maps, sizes, cfg) else (sizes[0], sizes[1], sizes[2], sizes[3])


def _stirs(s: Lines, size: float, cfg: BordersConfig) -> bool:
    """Whether a border without its like on the other side changes over time: a sky or a meadow under a moving camera does."""
    motion = s.motion[: max(1, int(size))]
    middle = median(motion)
    if middle <= cfg.lone_motion:
        return False
    noise = middle <= cfg.noisy_levels / 2 and quantile(motion, 0.9) <= cfg.noise_times * middle
    steps, *_ = steps_at(s.step.mean(1), np.array([int(size)]))
    return not ((noise or size <= cfg.thin_lines) and float(steps[0]) >= cfg.sure_step_share)


def _plain_cells(s: Lines, cfg: BordersConfig, times: float = 1.0) -> np.ndarray | None:
    """Where the maps hold the outermost line's level [lines, bands]; None when that line is a picture's. `times` widens what counts."""
    level, texture, motion = (median(m[0]) for m in (s.level, s.texture, s.motion))
    if max(texture, motion) > cfg.noisy_levels:
        return None
    near = np.abs(s.level - level) <= cfg.plain_levels * times
    for colour in (s.blue, s.red):
        near &= np.abs(colour - median(colour[0])) <= cfg.plain_levels * times
    return np.asarray(near & (s.texture <= texture + cfg.plain_texture * times) & (s.motion <= 1.3 * motion + cfg.plain_motion * times))


def _plain_line(s: Lines, cfg: BordersConfig, loose: bool = False, like: float = 0.0) -> float:
    """Lines of a plain border at the edge, with a fraction; 0 when there is none. Loose: few bands need to begin at the line, as others
    are beyond another border's end. Like: so do few where the border is as wide as that on the other side."""
    plain, clear = _plain_cells(s, cfg), _plain_cells(s, cfg, cfg.clear_times)
    if plain is None or clear is None:
        return 0.0
    n, share, best = len(plain), plain.mean(1), 0
    even = float(np.ptp(s.level[0])) <= cfg.even_levels and max(median(s.texture[0]), median(s.motion[0])) <= cfg.even_levels / 2
    stirs = (np.abs(s.level - median(s.level[0])) > 2 * cfg.even_levels) | (s.motion > cfg.even_levels)
    ever = float((~clear[: n // 2 + 2]).any(0).mean())
    sizes = np.arange(1, int(cfg.most_share * n) + 1)
    last = plain[np.maximum(0, sizes - 2)]
    begins = (last & ~(clear[sizes] & clear[sizes + 1] & clear[sizes + 2])).mean(1).tolist()
    faintly = (last & (stirs[sizes] | stirs[sizes + 1] | stirs[sizes + 2])).mean(1).tolist()
    steps, *clear_of = steps_at(s.step.mean(1), sizes)
    clearly = np.minimum(*clear_of)
    within = share[: len(sizes)]
    unspoilt = np.logical_and.accumulate(within >= cfg.spoilt_share)
    enough_plain = unspoilt & (within >= cfg.plain_share) & (np.cumsum(within) >= cfg.clean_share * sizes)
    for r in sizes[enough_plain].tolist():
        begin, stirring = begins[r - 1], faintly[r - 1]
        fits = bool(like) and abs(r - like) <= cfg.pair_lines
        enough = begin >= (cfg.pair_line_share if fits else cfg.line_share) or (
            begin >= (0.08 if loose else cfg.dark_share) and begin >= 0.85 * ever
        )
        enough = enough or (fits and steps[r - 1] >= cfg.pair_step_share)
        # A border that is perfectly even shows a faint line too, where part of the picture is clear.
        faint = even and begin >= cfg.dark_share and stirring >= cfg.faint_share
        best = r if enough or faint else best
    if not best:
        return 0.0
    paired = bool(like) and abs(best - like) <= cfg.pair_lines and steps[best - 1] >= cfg.pair_step_share
    sure = paired or (steps[best - 1] >= cfg.sure_step_share and clearly[best - 1] >= cfg.sure_clear_share)
    drift = cfg.drift_levels * (cfg.sure_times if sure else 1)
    if (best > cfg.thin_lines and _drift(s.level[: best - 1], plain[: best - 1]) > drift) or (
        not paired and _has_grain(s, plain, best, cfg)
    ):
        return 0.0
    level = median(s.level[:best])
    size = best + _fraction(np.abs(s.level - level) + s.motion, best)
    return size if size >= max(1.0, cfg.least_share * n) else 0.0


def _has_grain(s: Lines, plain: np.ndarray, size: int, cfg: BordersConfig) -> bool:
    """Whether a still border has texture that does not change: what a camera sees has, where coding left its grain alone; a bar has not."""
    held = plain[:size]
    if not held.any() or not s.motion.any():
        return False
    grain, change = (median(m[:size][held]) for m in (s.texture, s.motion))
    return grain > cfg.grain_levels + cfg.grain_share * change


def _drift(level: np.ndarray, plain: np.ndarray) -> float:
    """The largest change of the border's level from band to band and from line to line, where it is plain, without the odd ones out."""
    return max(_spread(_held_medians(level.T, plain.T)), _spread(_held_medians(level, plain)))


def _held_medians(values: np.ndarray, held: np.ndarray) -> np.ndarray:
    """The median of each row's held values, of the rows that have some."""
    return held_medians(values, held)[held.any(1)]


def _spread(values: np.ndarray) -> float:
    """The distance of the first tenth of the values from the last."""
    return quantile(values, 0.9) - quantile(values, 0.1) if len(values) else 0.0


def _fraction(strength: np.ndarray, line: int) -> float:
    """How much of the line after the border still belongs to it, 0 … 1: the strength [lines, bands] there against that within."""
    within = strength[line + 1 : line + 3].mean(0)
    outside = medians(strength[:line].T)
    clear = within - outside > 8
    if not clear.any():
        return 0.0
    return min(1.0, max(0.0, median((within - strength[line])[clear] / (within - outside)[clear])))


def _step_share(maps: Maps, sizes: list[float], side: int) -> float:
    """How much of the line at which a border ends is a lasting step, between the borders at its ends."""
    s, other, ends = (maps[0], maps[1], sizes[2:]) if side < 2 else (maps[1], maps[0], sizes[:2])
    step = s.step[:, _inside(ends[0], ends[1], len(other.level))].mean(1)
    return float(steps_at(step[:: -1 if side % 2 else 1], np.array([int(sizes[side])]))[0][0])


def _is_empty(maps: Maps, sizes: list[float], cfg: BordersConfig) -> bool:
    """Whether most of what lies between the borders is as plain as they are: a title card, a thing before a plain wall."""
    side = int(np.argmax(sizes))
    if not sizes[side]:
        return False
    s, before, after = (maps[0], sizes[0], sizes[1]) if side < 2 else (maps[1], sizes[2], sizes[3])
    other = maps[1] if side < 2 else maps[0]
    ends = (sizes[2], sizes[3]) if side < 2 else (sizes[0], sizes[1])
    bands = _inside(ends[0], ends[1], len(other.level))
    s = s.bands(bands)
    if side in (1, 3):
        s, before, after = s.reversed(), after, before
    plain = _plain_cells(s, cfg)
    inside = slice(math.ceil(before), max(math.ceil(before) + 1, len(s.level) - math.ceil(after)))
    if plain is None:
        return False
    # Lines of text have plain lines between them, one line of text is low, and strokes are black and white in every band.
    gaps = (plain[inside][1:-1].mean(1) > 0.9).any()
    low = len(plain[inside]) < cfg.text_share * len(plain)
    still = median(s.motion[inside]) < cfg.still_levels + 1.3 * median(s.motion[0])
    strokes = median(s.texture[inside][~plain[inside]]) if not plain[inside].all() else 0.0
    edges = min(_step_share(maps, sizes, k) for k in (side, side ^ 1)) if sizes[side ^ 1] else 0.0
    text = still and edges < cfg.straight_share and (strokes > cfg.strokes_levels or ((gaps or low) and strokes > cfg.text_levels))
    lone = np.count_nonzero(sizes) == 1
    return bool(text or plain[inside].mean() > (cfg.lone_empty_share if lone else cfg.empty_share))
