"""Encode and decode of clips that are too long for one pass: tiles along time, their overlaps blended linearly.

The paper's tiles: 32 frames (4 latent frames), encoded without overlap, decoded with an overlap of 16 frames (2 latent frames). In an
overlap of N frames the earlier tile fades out and the later one fades in: at frame j the later tile weighs j / N (Movie Gen, Temporal
Autoencoder, tiling). Whatever the length, only one tile and one overlap are held besides what has been handed out.

What holds and what does not: a clip of one tile is what the model makes of it without tiles, bit for bit. Where neighbouring tiles agree
on a frame, so does the result, as the weights of a frame sum to one: a model whose temporal layers are still identities gives the same
with and without tiles. A trained one does not quite: its attention spans the tile, so what lies beyond it is not seen.

Shapes: B clips, C channels, T frames or latent frames, H and W; x_BCTHW.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from training.models.autoencoder import TAE, Posterior


@dataclass(frozen=True, slots=True, kw_only=True)
class TilingConfig:
    """Lengths of tiles and overlaps in latent frames: 8 frames each in a temporal autoencoder. The defaults are the paper's."""

    encode_tile: int = 4
    encode_overlap: int = 0
    decode_tile: int = 4
    decode_overlap: int = 2

    def __post_init__(self) -> None:
        for tile, overlap in ((self.encode_tile, self.encode_overlap), (self.decode_tile, self.decode_overlap)):
            if not 0 <= overlap < tile:
                raise ValueError(f"tiling: expected 0 <= overlap < tile, found overlap {overlap} and tile {tile}")


def tiles(length: int, tile: int, overlap: int) -> list[tuple[int, int]]:
    """Half-open ranges that cover 0 <= i < length, each of `tile` and beginning tile - overlap after the one before; the last ends where
    the length does and is longer than the overlap. 40 with tile 16 and overlap 4 is (0, 16), (12, 28), (24, 40)."""
    if length < 1 or not 0 <= overlap < tile:
        raise ValueError(f"tiles: expected length >= 1 and 0 <= overlap < tile, found {length}, {overlap} and {tile}")
    starts = range(0, max(1, length - overlap), tile - overlap)
    return [(start, min(start + tile, length)) for start in starts]


def blend(parts: Iterable[Tensor], overlap: int) -> Iterator[Tensor]:
    """The parts (B, C, T, H, W) joined along time, the last `overlap` frames of each blended with the first of the next.

    Frames are handed out as soon as no later part can change them, and only an overlap is kept. A part is longer than the overlap
    unless it is alone. With overlaps longer than half a part, three parts share frames and are blended one after another.
    """
    kept: Tensor | None = None
    for part in parts:
        if kept is not None:
            weight_T11 = torch.arange(overlap, device=part.device, dtype=part.dtype)[:, None, None] / overlap
            part = torch.cat([torch.lerp(kept, part[:, :, :overlap], weight_T11), part[:, :, overlap:]], 2)
        if part.shape[2] > overlap:
            yield part[:, :, : part.shape[2] - overlap]
        kept = part[:, :, -overlap:].clone() if overlap else None  # a view would keep the whole part
    if kept is not None:
        yield kept


def encode_tiled(tae: TAE, x_BCTHW: Tensor, config: TilingConfig) -> Posterior:
    """The posterior of pixels (B, 3, T', H, W) of any length, encoded tile by tile; mean and log variance are blended alike."""
    frames = _frames_per_latent(tae)
    bounds = tiles(tae.latent_shape(tuple(x_BCTHW.shape))[1], config.encode_tile, config.encode_overlap)

    def parts() -> Iterator[Tensor]:
        for start, end in bounds:
            posterior = tae.encode(x_BCTHW[:, :, start * frames : end * frames])
            yield torch.cat([posterior.mean, posterior.logvar], 1)

    mean, logvar = torch.cat(list(blend(parts(), config.encode_overlap)), 2).chunk(2, 1)
    return Posterior(mean, logvar)


def decode_tiles(tae: TAE, z_BCTHW: Tensor, n_frames: int, config: TilingConfig) -> Iterator[Tensor]:
    """The pixels of `n_frames` frames, piece after piece in order, each (B, 3, some frames, H, W).

    Beside what the caller keeps, the memory is that of one tile and one overlap, whatever the length.
    """
    frames = _frames_per_latent(tae)
    bounds = tiles(z_BCTHW.shape[2], config.decode_tile, config.decode_overlap)
    decoded = (tae.decode(z_BCTHW[:, :, start:end], min(end * frames, n_frames) - start * frames) for start, end in bounds)
    return blend(decoded, config.decode_overlap * frames)


def decode_tiled(tae: TAE, z_BCTHW: Tensor, n_frames: int, config: TilingConfig) -> Tensor:
    """The pixels of `n_frames` frames in one tensor (B, 3, n_frames, H, W), decoded tile by tile."""
    return torch.cat(list(decode_tiles(tae, z_BCTHW, n_frames, config)), 2)


def _frames_per_latent(tae: TAE) -> int:
    """8 for a temporal autoencoder; an image autoencoder takes every frame on its own."""
    return 8 if tae.config.temporal else 1
