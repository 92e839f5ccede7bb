"""The lines at which borders end, in maps of a clip: plain ones, still graphics, blurred fills. Everything here is a test on small arrays.

    plain   one level, still, up to a straight line where the picture begins (letterbox, pillarbox, window)
    frame   still, patterned, on two or four sides, up to a straight line where motion begins
    blurred soft on two sides and like the enlarged picture, up to a straight line where sharpness jumps

Movie Gen asks for "strong lines by the first derivative, then a scan from the edge" and says no more. A dark scene or a sky has no
such line along its whole length, and a pan moves the picture's own plain parts, so neither is a border.
"""

import math
from dataclasses import dataclass

import cv2
import numpy as np

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
    thin_lines: int = 3  # of the small luma: a thinner border takes on some of the picture when coded badly, and may change
    noisy_levels: float = 12.0  # a border's own deviation: more is a picture
    plain_share: float = 0.7  # of the bands, in the line next to the picture
    spoilt_share: float = 0.25  # of the bands, in lines with subtitles or a logo
    clean_share: float = 0.6  # of the bands, on average over the border
    line_share: float = 0.6  # of the bands in which the picture begins at the line …
    pair_line_share: float = 0.15  # … or in so many, as far from the edge as the line on the other side …
    dark_share: float = 0.3  # … or, in a dark picture, so many and nearly all that begin at all
    clear_times: float = 2.0  # the picture is so much further from plain than the border may be
    even_levels: float = 1.2  # change along a border that is perfectly even …
    faint_share: float = 0.8  # … of whose bands so many stir beyond the line, if only a little
    empty_share: float = 0.6  # of the inside may be plain too: a title card has more
    text_share: float = 0.2  # of the side: a still picture that is lower is a line of text
    text_levels: float = 12.0  # … when its deviation along a line is that of strokes …
    strokes_levels: float = 25.0  # … and text in any case from here on
    still_levels: float = 3.0  # deviation over time of a still graphic
    motion_ratio: float = 3.0  # the picture moves so much more than the graphic
    active_bands: int = 4  # of 12 must move for motion to tell where a graphic ends
    plain_favoured_share: float = 0.9  # of a still border that is plain: then it is no graphic
    straight_share: float = 0.8  # of these, motion begins at the line
    soft_ratio: float = 1.8  # the picture is so much sharper than the blurred fill …
    soft_share: float = 0.25  # … in so many of the bands of both sides
    soft_edge_share: float = 0.4  # of the bands of each side have an edge at the line …
    sure_edge_share: float = 0.9  # … or so many, where the picture is soft too
    sharp_share: float = 0.4  # of the bands are sharper inside …
    alike: float = 0.6  # … where the fill's correlation with the enlarged picture may be lower …
    copy_likeness: float = 0.84  # … than elsewhere
    content_levels: float = 4.0  # deviation of a fill: less is plain
    pair_share: float = 0.04  # of the side: the two sides of a graphic differ by less
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

    def bands(self, chosen: slice | np.ndarray) -> "Lines":
        """Some of the bands."""
        return Lines(self.level[:, chosen], self.texture[:, chosen], self.motion[:, chosen], self.along[:, chosen], self.across[:, chosen])

    def reversed(self) -> "Lines":
        """Seen from the other edge."""
        return Lines(self.level[::-1], self.texture[::-1], self.motion[::-1], self.along[::-1], self.across[::-1])


Maps = tuple[Lines, Lines]
"""Of rows, from the top; of columns, from the left."""
Sides = tuple[float, float, float, float]
"""Top, bottom, left, right in small px, with a fraction."""


def _inside(before: float, after: float, lines: int) -> slice:
    """The bands that lie wholly between borders of so many lines at their two ends; the middle ones where none does."""
    first, end = math.ceil(before * BANDS / lines - 0.01), math.floor((lines - after) * BANDS / lines + 0.01)
    return slice(first, end) if end > first else slice(max(0, first - 1), min(BANDS, end + 1))


def _median(values: np.ndarray) -> float:
    """The median of all values; NumPy's own takes 40 us to get going."""
    ordered = np.sort(values, axis=None)
    return float((ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2)


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
    return _median(s.motion[: max(1, int(size))]) > cfg.lone_motion


def _plain_cells(s: Lines, cfg: BordersConfig, times: float = 1.0) -> np.ndarray | None:
    """Where the maps hold the outermost line's level [lines, bands]; None when that line is a picture's. `times` widens what counts."""
    level, texture, motion = (_median(m[0]) for m in (s.level, s.texture, s.motion))
    if max(texture, motion) > cfg.noisy_levels:
        return None
    near = np.abs(s.level - level) <= cfg.plain_levels * times
    return np.asarray(near & (s.texture <= texture + cfg.plain_texture * times) & (s.motion <= 1.3 * motion + cfg.plain_motion * times))


def _plain_line(s: Lines, cfg: BordersConfig, loose: bool = False, like: float = 0.0) -> float:
    """Lines of a plain border at the edge, with a fraction; 0 when there is none. Loose: few bands need to begin at the line, as others
    are beyond another border's end. Like: so do few where the border is as wide as that on the other side."""
    plain, clear = _plain_cells(s, cfg), _plain_cells(s, cfg, cfg.clear_times)
    if plain is None or clear is None:
        return 0.0
    n, share, best = len(plain), plain.mean(1), 0
    even = float(np.ptp(s.level[0])) <= cfg.even_levels and max(_median(s.texture[0]), _median(s.motion[0])) <= cfg.even_levels / 2
    stirs = (np.abs(s.level - _median(s.level[0])) > 2 * cfg.even_levels) | (s.motion > cfg.even_levels)
    ever = float((~clear[: n // 2 + 2]).any(0).mean())
    sizes = np.arange(1, int(cfg.most_share * n) + 1)
    last = plain[np.maximum(0, sizes - 2)]
    begins = (last & ~(clear[sizes] & clear[sizes + 1] & clear[sizes + 2])).mean(1).tolist()
    faintly = (last & (stirs[sizes] | stirs[sizes + 1] | stirs[sizes + 2])).mean(1).tolist()
    for r, begin, stirring in zip(sizes.tolist(), begins, faintly, strict=True):
        if share[r - 1] < cfg.spoilt_share:
            break
        if share[r - 1] < cfg.plain_share or share[:r].mean() < cfg.clean_share:
            continue
        fits = abs(r - like) <= 1.5 if like else False
        enough = begin >= (cfg.pair_line_share if fits else cfg.line_share) or (
            begin >= (0.08 if loose else cfg.dark_share) and begin >= 0.85 * ever
        )
        # A border that is perfectly even shows a faint line too, where part of the picture is clear.
        faint = even and begin >= cfg.dark_share and stirring >= cfg.faint_share
        best = r if enough or faint else best
    if not best or (best > cfg.thin_lines and _drift(s.level[: best - 1], plain[: best - 1]) > cfg.drift_levels):
        return 0.0
    if _has_grain(s, plain, best, cfg):
        return 0.0
    level = _median(s.level[:best])
    size = best + _fraction(np.abs(s.level - level) + s.motion, best)
    return size if size >= max(1.0, cfg.least_share * n) else 0.0


def _has_grain(s: Lines, plain: np.ndarray, size: int, cfg: BordersConfig) -> bool:
    """Whether a still border has texture that does not change: what a camera sees has, where coding left its grain alone; a bar has not."""
    held = plain[:size]
    if not held.any() or not s.motion.any():
        return False
    grain, change = (_median(m[:size][held]) for m in (s.texture, s.motion))
    return grain > cfg.grain_levels + cfg.grain_share * change


def _drift(level: np.ndarray, plain: np.ndarray) -> float:
    """The largest change of the border's level from band to band and from line to line, where it is plain, without the odd ones out."""
    return max(_spread(_held_medians(level.T, plain.T)), _spread(_held_medians(level, plain)))


def _held_medians(values: np.ndarray, held: np.ndarray) -> np.ndarray:
    """The median of each row's held values, of the rows that have some. Masked arrays give the same, ten times slower."""
    count = held.sum(1)
    some = count > 0
    ordered, count = np.sort(np.where(held, values, np.inf)[some], axis=1), count[some]
    row = np.arange(len(count))
    return np.asarray((ordered[row, (count - 1) // 2] + ordered[row, count // 2]) / 2)


def _spread(values: np.ndarray) -> float:
    """The distance of the first tenth of the values from the last."""
    return float(np.ptp(np.quantile(values, (0.1, 0.9)))) if len(values) else 0.0


def _fraction(strength: np.ndarray, line: int) -> float:
    """How much of the line after the border still belongs to it, 0 … 1: the strength [lines, bands] there against that within."""
    within = strength[line + 1 : line + 3].mean(0)
    outside = np.median(strength[:line], axis=0)
    clear = within - outside > 8
    if not clear.any():
        return 0.0
    return float(np.clip(np.median((within - strength[line])[clear] / (within - outside)[clear]), 0, 1))


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
    still = _median(s.motion[inside]) < cfg.still_levels + 1.3 * _median(s.motion[0])
    strokes = _median(s.texture[inside][~plain[inside]]) if not plain[inside].all() else 0.0
    text = still and (strokes > cfg.strokes_levels or ((gaps or low) and strokes > cfg.text_levels))
    return bool(text or plain[inside].mean() > cfg.empty_share)


def find_still(maps: Maps, cfg: BordersConfig) -> Sides:
    """Still graphics: left and right first, then top and bottom between them."""
    rows, columns = maps
    left, right = _still_line(columns, columns.reversed(), cfg)
    across = _inside(left, right, len(columns.level))
    top, bottom = _still_line(rows.bands(across), rows.reversed().bands(across), cfg)
    return top, bottom, left, right


def find_soft(maps: Maps, cfg: BordersConfig) -> Sides:
    """A blurred fill: at top and bottom, or at left and right."""
    top, bottom = _soft_line(maps[0], maps[0].reversed(), cfg)
    left, right = _soft_line(maps[1], maps[1].reversed(), cfg) if not top else (0.0, 0.0)
    return top, bottom, left, right


def _still_line(first: Lines, second: Lines, cfg: BordersConfig) -> tuple[float, float]:
    """Lines of a still graphic at two opposite edges, beyond which the picture moves; 0 and 0 when there is none."""
    n, noise = len(first.motion), _median(first.motion[0])
    within = np.median(first.motion[n // 3 : n - n // 3], axis=0)
    # Bands beyond the other two borders, and where the picture rests, say nothing.
    active = within > cfg.motion_ratio * (1 + noise)
    if noise > cfg.noisy_levels or active.sum() < cfg.active_bands:
        return 0.0, 0.0
    found = []
    for s in (first, second):
        moves = s.motion[:, active] > np.maximum(cfg.motion_ratio * (1 + noise), within[active] / cfg.motion_ratio)
        onset = np.where(moves.any(0), moves.argmax(0), n)
        # A thing that moves before a resting camera begins at another line in each band; a graphic's edge is straight.
        found.append(max((float((np.abs(onset - line) <= 1).mean()), -int(line)) for line in onset))
    shares, sizes = [share for share, _ in found], [float(-line) for _, line in found]
    straight = (
        min(shares) >= cfg.line_share and sum(shares) / 2 >= cfg.straight_share and abs(sizes[0] - sizes[1]) <= max(2.0, cfg.pair_share * n)
    )
    fits = all(max(1.0, cfg.least_share * n) <= size <= cfg.most_share * n for size in sizes)
    if not straight or not fits or not any(_is_patterned(s, int(size), cfg) for s, size in zip((first, second), sizes, strict=True)):
        return 0.0, 0.0
    return sizes[0], sizes[1]


def _is_patterned(s: Lines, size: int, cfg: BordersConfig) -> bool:
    """Whether a still border is a graphic rather than plain, before which a logo may move."""
    plain = _plain_cells(s, cfg)
    if plain is None:
        return True
    uneven = _drift(s.level[:size], plain[:size]) > cfg.drift_levels or _has_grain(s, plain, size, cfg)
    return uneven or float(plain[:size].mean()) < cfg.plain_favoured_share


def _soft_line(first: Lines, second: Lines, cfg: BordersConfig) -> tuple[float, float]:
    """Lines of a soft border, alike at two opposite edges, beyond which the picture is sharp; 0 and 0 when there is none."""
    n = len(first.along)
    sizes = np.arange(max(3, math.ceil(cfg.least_share * n)), int(cfg.most_share * n) + 1)
    if not len(sizes):
        return 0.0, 0.0
    (edge, sharper), (other_edge, other_sharper) = _softness(first, sizes, cfg), _softness(second, sizes, cfg)
    edges, sharp, weaker = (edge + other_edge) / 2, (sharper + other_sharper) / 2, np.minimum(edge, other_edge)
    certain = weaker >= cfg.sure_edge_share
    likely = certain | (
        (weaker >= cfg.soft_edge_share) & (edges >= cfg.line_share) & (sharp >= cfg.soft_share) & (np.minimum(sharper, other_sharper) > 0)
    )
    best, best_score = 0, 0.0
    for i in np.flatnonzero(likely):
        r = int(sizes[i])
        if edges[i] + sharp[i] <= best_score or not _has_content(first, r, cfg):
            continue
        # A fill that is no copy, or that a logo lies on, must be surer in all else.
        if _likeness(first, r) >= (cfg.alike if certain[i] and sharp[i] >= cfg.sharp_share else cfg.copy_likeness):
            best, best_score = r, edges[i] + sharp[i]
    return float(best), float(best)


def _has_content(s: Lines, r: int, cfg: BordersConfig) -> bool:
    """Whether the strips of r lines at both edges show anything; two plain strips are alike without being copies."""
    outside = np.concatenate([s.level[: r - 1], s.level[len(s.level) - r + 1 :]])
    return float(outside.std()) >= cfg.content_levels


def _softness(s: Lines, sizes: np.ndarray, cfg: BordersConfig) -> tuple[np.ndarray, np.ndarray]:
    """For borders of so many lines, shares of the bands: with an edge between soft and sharp at the line, and with a sharper picture
    beyond it. All sizes at once: a call of NumPy for each size cost ten times as much."""
    r = sizes[:, None]
    outside = _mean_until(s.along, sizes - 1) + 0.25
    line, soft = np.maximum(s.across[sizes - 1], s.across[sizes]), _mean_until(s.across[1:], np.maximum(1, sizes - 3))
    inside, sharp = _mean_of(s.along, sizes + 1, 6), _mean_of(s.across, sizes + 2, 5)
    before = np.max([np.where(r >= k, s.along[np.maximum(0, sizes - k)], 0) for k in range(2, 6)], axis=0)
    edge = (line > 2 * soft + 0.5) & ((line > 1.2 * sharp) | (_mean_of(s.along, sizes, 3) > cfg.soft_ratio * before + 0.5))
    return edge.mean(1), (inside > cfg.soft_ratio * outside).mean(1)


def _mean_until(values: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """The mean of the lines before each end, [ends, bands]."""
    return np.asarray(np.cumsum(values, axis=0)[ends - 1] / ends[:, None].astype(np.float32))


def _mean_of(values: np.ndarray, starts: np.ndarray, count: int) -> np.ndarray:
    """The mean of so many lines from each start on, [starts, bands]."""
    return np.asarray(sum(values[starts + k] for k in range(count)) / np.float32(count))


def _likeness(s: Lines, r: int) -> float:
    """How much the strips of r lines at both edges look, or move, like the picture between them enlarged to the whole size: -1 … 1."""
    n = len(s.level)
    scale = (n - 2 * r) / n
    outside = np.r_[0 : r - 1, n - r + 1 : n]
    middle = (BANDS - 1) / 2
    x, y = np.meshgrid(middle + (np.arange(BANDS) - middle) * scale, r + (outside + 0.5) * scale - 0.5)
    best = -1.0
    for values in (s.level, s.motion):
        enlarged = cv2.remap(np.ascontiguousarray(values, np.float32), x.astype(np.float32), y.astype(np.float32), cv2.INTER_LINEAR)
        a, b = enlarged - enlarged.mean(), values[outside] - values[outside].mean()
        best = max(best, float((a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum() + 1.0)))
    return best
