"""Edits whose outcome is known: pure functions of frames and a key to other frames and the instruction that leads there.

They stand in for the triplets of an image editor (Movie Gen Edit, stage I): what they teach is to look at the source and to follow the
instruction. An edit has its way back in words too, so that what a model made of a real clip can be undone by instruction (stage III).
The animation of a picture with its edit by one motion, and segmentation as an edit, are stage II's. All colours, words and strengths are
ours, as is the choice of kinds; the paper's triplets are those of Emu Edit, which are not public.

Shapes: frames are (3, T, H, W) float32 in [-1, 1]; a mask is (T, H, W), true where the object is.
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from training import keyed
from training.instructions import known_as, plain

TASKS = ("none", "colour", "light", "style", "geometry", "object", "text", "segment", "other")
"""Kinds that the model's task embedding tells apart, in its order; `none` is text to video, `other` what nobody named."""

NONE, SEGMENT, OTHER = TASKS.index("none"), TASKS.index("segment"), TASKS.index("other")

Key = tuple[object, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class EditConfig:
    """How pictures and videos become edits in a stage. A video with a source in its shard is always its edit, under its caption."""

    frames: int = 1
    """Frames that a picture and its edit become: 1 stands at a random place in time, more are animated by one affine motion."""
    stills_of: int = 0
    """Of so many steps on videos in a row all but the last take the first frames as pictures: for sets with few pictures, as 5 : 1 is 6. 0
    takes videos as videos."""
    variety: int = 0
    """Edits of a clip over all passes, so that those of small sets can be kept as latents; 0 draws anew in each pass."""
    segment_share: float = 0.0
    """Share of the edits of pictures that mark an object; the paper gives none."""
    turn_deg: float = 10.0
    zoom: float = 1.25
    shift: float = 0.12
    """The most that a picture turns, grows or shrinks, and moves (in sides) from its first frame to its last; ours."""
    source_guidance: float = 1.0
    """How far the velocity is led away from that without a source; 1 does not look at that, and saves its pass."""

    def __post_init__(self) -> None:
        least = min(self.stills_of, self.variety, self.turn_deg, self.shift, self.source_guidance)
        if self.frames < 1 or least < 0 or not 0 <= self.segment_share <= 1 or self.zoom < 1:
            raise ValueError(f"edit: expected frames and zoom >= 1, 0 <= segment_share <= 1 and nothing negative, found {self}")


class Edited(NamedTuple):
    """A source, what it is to become, and in which words; `task` is a place in TASKS."""

    source: Tensor
    target: Tensor
    instruction: str
    task: int


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of edit. `make` gives the edited frames and the instruction; `undo` is the instruction that leads back."""

    name: str
    task: Literal["colour", "light", "style", "geometry", "object", "text"]
    make: Callable[[Tensor, Key], tuple[Tensor, str]]
    undo: str


def grey(x: Tensor, key: Key) -> tuple[Tensor, str]:
    """Without its colours."""
    return _luma(x).expand_as(x), "make it black and white"


def brighter(x: Tensor, key: Key) -> tuple[Tensor, str]:
    """Lighter, black and white staying what they are: v -> v^0.5 of values in [0, 1]."""
    return _curve(x, 0.5), "make it brighter"


def darker(x: Tensor, key: Key) -> tuple[Tensor, str]:
    """Darker: v -> v^2."""
    return _curve(x, 2.0), "make it darker"


def warmer(x: Tensor, key: Key) -> tuple[Tensor, str]:
    """More red, less blue."""
    return _tinted(x, (0.25, 0.05, -0.25)), "make the colours warmer"


def cooler(x: Tensor, key: Key) -> tuple[Tensor, str]:
    """More blue, less red."""
    return _tinted(x, (-0.25, 0.0, 0.25)), "make the colours cooler"


def inverted(x: Tensor, key: Key) -> tuple[Tensor, str]:
    """Every value turned about the middle."""
    return -x, "invert the colours"


def mirrored(x: Tensor, key: Key) -> tuple[Tensor, str]:
    """Left and right exchanged."""
    return x.flip(3), "mirror it"


def upside_down(x: Tensor, key: Key) -> tuple[Tensor, str]:
    """Top and bottom exchanged."""
    return x.flip(2), "turn it upside down"


def blurred(x: Tensor, key: Key) -> tuple[Tensor, str]:
    """Through a Gaussian of a thirtieth of the shorter side."""
    return _blur(x, min(x.shape[2:]) / 30), "blur it"


def mosaic(x: Tensor, key: Key) -> tuple[Tensor, str]:
    """In squares of a twelfth of the shorter side, each the mean of what it covers."""
    side = max(2, min(x.shape[2:]) // 12)
    small = F.avg_pool2d(x.transpose(0, 1), side, ceil_mode=True, count_include_pad=False)
    return small.repeat_interleave(side, 2).repeat_interleave(side, 3)[:, :, : x.shape[2], : x.shape[3]].transpose(
        0, 1
    ), "show it as a mosaic"


def outlined(x: Tensor, key: Key) -> tuple[Tensor, str]:
    """Dark lines on white where brightness changes."""
    luma = F.pad(_luma(x).transpose(0, 1), (1, 1, 1, 1), mode="replicate")
    across, down = luma[:, :, 1:-1, 2:] - luma[:, :, 1:-1, :-2], luma[:, :, 2:, 1:-1] - luma[:, :, :-2, 1:-1]
    lines = (1 - 3 * (across.square() + down.square()).sqrt()).clamp(-1, 1)
    return lines.transpose(0, 1).expand_as(x), "draw only its outlines"


def posterised(x: Tensor, key: Key) -> tuple[Tensor, str]:
    """Three levels of each colour."""
    return x.mul(1.25).round().clamp(-1, 1), "make it a poster of few colours"


def framed(x: Tensor, key: Key) -> tuple[Tensor, str]:
    """A border of a tenth of the shorter side, in a colour of the key."""
    name, colour = _colour(key)
    width = max(1, min(x.shape[2:]) // 10)
    y = _column(colour, x).expand_as(x).clone()
    y[:, :, width:-width, width:-width] = x[:, :, width:-width, width:-width]
    return y, f"put a {name} frame around it"


def recoloured(x: Tensor, key: Key) -> tuple[Tensor, str]:
    """What stands out has the hue of a colour of the key, its brightness kept."""
    name, colour = _colour(key)
    tint = (0.5 * (_luma(x) + 1) * (_column(colour, x) + 1) * 0.7 + 0.3 * (_column(colour, x) + 1) - 1).clamp(-1, 1)
    return torch.where(salient(x)[None], tint, x), f"make the object {name}"


def lettered(x: Tensor, key: Key) -> tuple[Tensor, str]:
    """A word of the key in white letters on a dark strip, across the middle of the lower half."""
    word = WORDS[keyed.integer(0, len(WORDS), *key, "word")]
    rows = _letters(word)
    scale = max(1, x.shape[3] // (rows.shape[1] + 4))
    big = rows.repeat_interleave(scale, 0).repeat_interleave(scale, 1)[: x.shape[2] // 2, : x.shape[3]]
    top, left = 3 * x.shape[2] // 4 - big.shape[0] // 2, (x.shape[3] - big.shape[1]) // 2
    y = x.clone()
    y[:, :, max(0, top - scale) : top + big.shape[0] + scale] = -0.8
    y[:, :, top : top + big.shape[0], left : left + big.shape[1]] = torch.where(big.to(x.device) > 0, 1.0, -0.8)
    return y, f'write "{word}" on it'


KINDS = (
    Kind("grey", "colour", grey, "give it back its colours"),
    Kind("brighter", "light", brighter, "make it darker"),
    Kind("darker", "light", darker, "make it brighter"),
    Kind("warmer", "colour", warmer, "make the colours cooler"),
    Kind("cooler", "colour", cooler, "make the colours warmer"),
    Kind("inverted", "colour", inverted, "invert the colours"),
    Kind("mirrored", "geometry", mirrored, "mirror it"),
    Kind("upside_down", "geometry", upside_down, "turn it upside down"),
    Kind("blurred", "style", blurred, "make it sharp"),
    Kind("mosaic", "style", mosaic, "show it without the mosaic"),
    Kind("outlined", "style", outlined, "make the drawing a photograph"),
    Kind("posterised", "style", posterised, "give it all its colours"),
    Kind("framed", "object", framed, "take the frame away"),
    Kind("recoloured", "object", recoloured, "give the object back its colour"),
    Kind("lettered", "text", lettered, "take the words away"),
)
"""Every kind of edit; the order is part of what a key draws."""

COLOURS = {
    "red": (0.8, -0.8, -0.8), "green": (-0.8, 0.6, -0.8), "blue": (-0.8, -0.6, 0.9), "yellow": (0.9, 0.8, -0.8),
    "purple": (0.4, -0.8, 0.6), "white": (0.95, 0.95, 0.95), "black": (-0.95, -0.95, -0.95),
}  # fmt: skip

WORDS = ("HELLO", "OPEN", "MOVIE", "SUMMER", "DAILY", "STOP", "QUIET", "NORTH")

_FONT = {
    "A": "25755", "D": "65556", "E": "74647", "H": "55755", "I": "72227", "L": "44447", "M": "57755", "N": "65555", "O": "25552",
    "P": "65644", "Q": "25563", "R": "65655", "S": "34216", "T": "72222", "U": "55557", "V": "55552", "Y": "55222",
}  # fmt: skip
"""Letters of 3 x 5: a digit a row, its three bits the columns from the left."""


def edit(x: Tensor, key: Key) -> Edited:
    """An edit of the frames of a kind drawn by key."""
    kind = KINDS[keyed.integer(0, len(KINDS), *key, "kind")]
    made, instruction = kind.make(x, key)
    return Edited(x, made, instruction, TASKS.index(kind.task))


def segment(x: Tensor, key: Key, mask_THW: Tensor | None = None) -> Edited:
    """Marking an object with a colour of the key: the mask's, or what stands out."""
    name, colour = _colour(key)
    mask = salient(x) if mask_THW is None else mask_THW
    return Edited(x, torch.where(mask[None], _column(colour, x), x), f"mark the object with {name}", SEGMENT)


def animate(edited: Edited, config: EditConfig, key: Key) -> Edited:
    """Source and target of one frame, moved by the same affine motion of the key over `config.frames` frames."""
    matrices = motion(config, key).to(edited.source.device)
    return edited._replace(source=moved(edited.source, matrices), target=moved(edited.target, matrices))


def instructions() -> list[str]:
    """Every instruction that an edit of KINDS can have, and those of marking, in their order."""
    found = []
    for kind in KINDS:
        drawn = [kind.make(torch.zeros(3, 1, 16, 16), ("pattern", i))[1].split() for i in range(20)]
        varied = [len(set(words)) > 1 for words in zip(*drawn, strict=True)]  # a colour or a word
        given = [*COLOURS] if any(w in COLOURS for w, varies in zip(drawn[0], varied, strict=True) if varies) else [f'"{w}"' for w in WORDS]
        found += [" ".join(g if varies else w for w, varies in zip(drawn[0], varied, strict=True)) for g in given]
    return list(dict.fromkeys([*found, *(f"mark the object with {name}" for name in COLOURS)]))


def without_rate(prompt: str) -> str:
    """An instruction names no rate, as prompts do: it may be of pictures."""
    return re.sub(r"^FPS-\S+ ", "", prompt)


def motion(config: EditConfig, key: Key) -> Tensor:
    """(frames, 2, 3): where each frame looks in the picture, from as it is to turned, scaled and shifted as drawn by key."""
    draws = keyed.stream(*key, "motion").uniform(-1, 1, 4)
    progress = np.linspace(0, 1, config.frames) if config.frames > 1 else np.zeros(1)
    angles, zooms = math.radians(config.turn_deg) * draws[0] * progress, config.zoom ** (draws[1] * progress)
    cos, sin = np.cos(angles) * zooms, np.sin(angles) * zooms
    across, down = (2 * config.shift * d * progress for d in draws[2:])  # the picture is 2 wide here
    return torch.from_numpy(np.stack([np.stack([cos, -sin, across], 1), np.stack([sin, cos, down], 1)], 1)).float()


def moved(x_31HW: Tensor, matrices_T23: Tensor) -> Tensor:
    """The picture as each frame sees it, (3, T, H, W); beyond its edge it is mirrored."""
    n = len(matrices_T23)
    picture = x_31HW.transpose(0, 1).expand(n, -1, -1, -1)
    grid = F.affine_grid(matrices_T23, list(picture.shape), align_corners=False)
    return F.grid_sample(picture, grid, padding_mode="reflection", align_corners=False).transpose(0, 1)


def salient(x: Tensor) -> Tensor:
    """(T, H, W), true on the largest connected part of each frame whose colour is far from the border's (Otsu's threshold).

    A classical stand-in where a shard has no masks of a segmentation network.
    """
    return torch.stack([_salient(frame) for frame in x.transpose(0, 1)]).to(x.device)


def undo_of(instruction: str) -> str:
    """The words that lead back from what an instruction made; for one that is not of KINDS, a general request."""
    for kind in KINDS:
        if known_as(kind.name, instruction):
            return kind.undo
    return f"undo this: {instruction}"


def task_of(instruction: str) -> int:
    """The task that an instruction asks for: by the sentences of `instructions.ASKS`, whatever their case, end mark and politeness; `other`
    where none fits, which no edit of KINDS has trained."""
    if known_as("segment", instruction):
        return SEGMENT
    said = plain(instruction)
    found = (TASKS.index(kind.task) for kind in KINDS if said == kind.undo or known_as(kind.name, instruction))
    return next(found, OTHER)


def _salient(frame_3HW: Tensor) -> Tensor:
    import cv2

    edge = torch.cat([frame_3HW[:, 0], frame_3HW[:, -1], frame_3HW[:, :, 0], frame_3HW[:, :, -1]], 1).float().cpu()
    far = (frame_3HW.float().cpu() - edge.median(1).values[:, None, None]).square().sum(0).sqrt()
    levels = (far / far.max().clamp_min(1e-6) * 255).to(torch.uint8).numpy()
    _, above = cv2.threshold(cv2.GaussianBlur(levels, (5, 5), 0), 0, 1, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(above)
    if count < 2:  # nothing stands out
        return torch.zeros(frame_3HW.shape[1:], dtype=torch.bool)
    return torch.from_numpy(labels == 1 + int(stats[1:, cv2.CC_STAT_AREA].argmax()))


def _luma(x: Tensor) -> Tensor:
    return (x * _column((0.299, 0.587, 0.114), x)).sum(0, keepdim=True)


def _curve(x: Tensor, power: float) -> Tensor:
    return ((x.clamp(-1, 1) + 1) / 2).pow(power) * 2 - 1


def _tinted(x: Tensor, by: tuple[float, float, float]) -> Tensor:
    return (x + _column(by, x)).clamp(-1, 1)


def _blur(x: Tensor, deviation_px: float) -> Tensor:
    reach = max(1, math.ceil(3 * deviation_px))
    kernel = torch.exp(-0.5 * (torch.arange(-reach, reach + 1, device=x.device) / max(deviation_px, 1e-3)).square())
    kernel = (kernel / kernel.sum()).to(x.dtype)
    y = x.transpose(0, 1).reshape(-1, 1, *x.shape[2:])
    y = F.conv2d(F.pad(y, (reach, reach, 0, 0), mode="replicate"), kernel[None, None, None])
    y = F.conv2d(F.pad(y, (0, 0, reach, reach), mode="replicate"), kernel[None, None, :, None])
    return y.view(x.shape[1], 3, *x.shape[2:]).transpose(0, 1)


def _letters(word: str) -> Tensor:
    """(5, 4 letters - 1), 1 on the letters."""
    rows = [[int(_FONT[letter][row]) >> bit & 1 for letter in word for bit in (2, 1, 0, 3)] for row in range(5)]
    return torch.tensor(rows)[:, :-1]


def _colour(key: Key) -> tuple[str, tuple[float, float, float]]:
    return list(COLOURS.items())[keyed.integer(0, len(COLOURS), *key, "colour")]


def _column(values: tuple[float, float, float], like: Tensor) -> Tensor:
    return torch.tensor(values, dtype=like.dtype, device=like.device)[:, None, None, None]
