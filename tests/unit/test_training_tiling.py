"""Tiles along time: they cover every length, their weights sum to one, and memory does not grow with the length."""

import weakref
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.overrides import TorchFunctionMode

from training.models.autoencoder import TAE, TAEConfig
from training.models.layers import Attention25d, TemporalConv, initialise
from training.tiling import TilingConfig, blend, decode_tiled, decode_tiles, encode_tiled, tiles

SMALL = TAEConfig(base_channels=4, channel_mult=(1, 1, 1, 1), n_res_blocks=1, latent_channels=4, norm_groups=2)


def built(*, mixing: bool) -> TAE:
    """A small autoencoder in double precision; its temporal layers are identities, or (`mixing`) really mix frames."""
    model = TAE(SMALL)
    initialise(model, 0)
    for n, module in enumerate(model.modules()):
        if mixing and isinstance(module, TemporalConv):
            noise = torch.randn(module.conv.weight.shape, generator=torch.Generator().manual_seed(n))
            module.conv.weight.data += 0.2 * noise
        elif mixing and isinstance(module, Attention25d) and module.temporal is not None:
            torch.nn.init.eye_(module.temporal.out.weight)
    return model.eval().double()


@pytest.fixture(scope="module")
def inflated() -> TAE:
    """Temporal layers are identities, as after inflation."""
    return built(mixing=False)


@pytest.fixture(scope="module")
def mixing() -> TAE:
    """Temporal layers mix frames, as after training."""
    return built(mixing=True)


def pixels(n_frames: int) -> Tensor:
    """Random pixels (1, 3, n_frames, 8, 16), in double precision."""
    return torch.rand((1, 3, n_frames, 8, 16), generator=torch.Generator().manual_seed(n_frames), dtype=torch.float64) * 2 - 1


@given(st.integers(1, 200), st.integers(1, 40), st.data())
@settings(max_examples=60, deadline=None)
def test_weights_of_every_frame_sum_to_one(length: int, tile: int, data: st.DataObject) -> None:
    """For any length, tile and overlap, each frame of the result is a mean of the tiles that hold it: no weight is negative, their sum
    is one, and none falls on another frame; as many frames come out as the tiles cover."""
    overlap = data.draw(st.integers(0, tile - 1))
    bounds = tiles(length, tile, overlap)
    assert bounds[0][0] == 0 and bounds[-1][1] == length and all(e - s == tile for s, e in bounds[:-1])
    # channel k marks the frames of tile k with 1, so that it becomes the tile's weight; one more channel carries the frame's number
    parts = []
    for k, (start, end) in enumerate(bounds):
        part = torch.zeros(1, len(bounds) + 1, end - start, 1, 1, dtype=torch.float64)
        part[0, k], part[0, -1, :, 0, 0] = 1.0, torch.arange(start, end)
        parts.append(part)
    joined = torch.cat(list(blend(parts, overlap)), 2)[0, :, :, 0, 0]
    weights, numbers = joined[:-1], joined[-1]
    assert torch.allclose(numbers, torch.arange(length, dtype=torch.float64), atol=1e-9)
    assert (weights >= 0).all() and torch.allclose(weights.sum(0), torch.ones(length, dtype=torch.float64))


def test_blending_is_linear() -> None:
    """Over an overlap of N frames the later tile weighs 0, 1/N, ..., (N - 1)/N (the paper's w = j/N)."""
    a, b = torch.zeros(1, 1, 6, 1, 1), torch.ones(1, 1, 6, 1, 1)
    assert torch.cat(list(blend([a, b], 4)), 2).flatten().tolist() == [0, 0, 0, 0.25, 0.5, 0.75, 1, 1]


def test_the_papers_tiles() -> None:
    """256 frames are 32 latent frames: 8 encoded tiles without overlap, and 15 decoded ones that share 2 latent frames each."""
    config = TilingConfig()
    assert tiles(32, config.encode_tile, config.encode_overlap) == [(i, i + 4) for i in range(0, 32, 4)]
    assert tiles(32, config.decode_tile, config.decode_overlap) == [(i, i + 4) for i in range(0, 30, 2)]


@pytest.mark.parametrize("n_frames", [1, 7, 32])
def test_one_tile_is_untiled_bit_for_bit(mixing: TAE, n_frames: int) -> None:
    """A clip that fits one tile passes as if there were no tiles."""
    x, config = pixels(n_frames), TilingConfig()
    with torch.no_grad():
        tiled, whole = encode_tiled(mixing, x, config), mixing.encode(x)
        assert torch.equal(tiled.mean, whole.mean) and torch.equal(tiled.logvar, whole.logvar)
        assert torch.equal(decode_tiled(mixing, whole.mean, n_frames, config), mixing.decode(whole.mean, n_frames))


@given(
    n_frames=st.integers(33, 90),
    encode=st.tuples(st.integers(2, 5), st.integers(0, 1)),
    decode=st.tuples(st.integers(2, 5), st.integers(0, 4)),
)
@settings(max_examples=8, deadline=None)
def test_tiles_change_nothing_where_they_agree(inflated: TAE, n_frames: int, encode: tuple[int, int], decode: tuple[int, int]) -> None:
    """A model that takes each latent frame on its own gives the same with any tiles and overlaps as without, to rounding."""
    overlap = min(decode[1], decode[0] - 1)
    config = TilingConfig(encode_tile=encode[0], encode_overlap=encode[1], decode_tile=decode[0], decode_overlap=overlap)
    x = pixels(n_frames)
    with torch.no_grad():
        whole = inflated.encode(x).mean
        assert torch.allclose(encode_tiled(inflated, x, config).mean, whole, rtol=0, atol=1e-12)
        assert torch.allclose(decode_tiled(inflated, whole, n_frames, config), inflated.decode(whole, n_frames), rtol=0, atol=1e-12)


@pytest.mark.parametrize("n_frames", [32, 33, 47, 65, 100])
def test_any_length_is_given_back(mixing: TAE, n_frames: int) -> None:
    """Odd tails too: ceil(T'/8) latent frames and T' frames. Away from the borders of tiles a frame is its own tile's, so the first
    16 frames, which the first tile alone holds, are what that tile decodes to."""
    with torch.no_grad():
        z = encode_tiled(mixing, pixels(n_frames), TilingConfig()).mean
        out = decode_tiled(mixing, z, n_frames, TilingConfig())
        first = mixing.decode(z[:, :, :4], 32)
    assert z.shape[2] == -(-n_frames // 8) and out.shape == (1, 3, n_frames, 8, 16)
    assert torch.equal(out[:, :, :16], first[:, :, :16])


def test_an_image_model_is_tiled_by_frames() -> None:
    """An autoencoder without time has one frame a latent frame, and tiles change nothing."""
    image = TAE(TAEConfig(base_channels=4, channel_mult=(1, 1, 1, 1), n_res_blocks=1, latent_channels=4, norm_groups=2, temporal=False))
    initialise(image, 0)
    with torch.no_grad():
        z = encode_tiled(image, pixels(9).float(), TilingConfig()).mean
        assert z.shape[2] == 9
        assert torch.allclose(decode_tiled(image, z, 9, TilingConfig()), image.decode(z, 9), atol=1e-6)


class LiveBytes(TorchFunctionMode):
    """Counts the bytes of all tensors made inside that are still alive, and their peak; views of `given` are not new."""

    def __init__(self, given: Tensor) -> None:
        super().__init__()
        self.now, self.peak, self._seen = 0, 0, {given.untyped_storage().data_ptr()}

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for made in result if isinstance(result, tuple) else (result,):
            if isinstance(made, Tensor) and (storage := made.untyped_storage()).data_ptr() not in self._seen:
                key, size = storage.data_ptr(), storage.nbytes()
                self._seen.add(key)
                self.now += size
                self.peak = max(self.peak, self.now)
                weakref.finalize(storage, self._gone, key, size)
        return result

    def _gone(self, key: int, size: int) -> None:
        self._seen.discard(key)
        self.now -= size


def peak_bytes(tae: TAE, n_latents: int, *, tiled: bool) -> int:
    """Peak of tensors alive while `8 * n_latents` frames are decoded, each piece dropped as soon as it is there."""
    z = torch.zeros(1, 4, n_latents, 2, 2, dtype=torch.float64)
    with torch.no_grad(), LiveBytes(z) as live:
        made = decode_tiles(tae, z, 8 * n_latents, TilingConfig()) if tiled else iter([tae.decode(z, 8 * n_latents)])
        assert sum(piece.shape[2] for piece in made) == 8 * n_latents
    return live.peak


def test_memory_does_not_grow_with_the_length(mixing: TAE) -> None:
    """Three times the frames need the same memory in tiles, and over twice as much without: the counter counts."""
    short, long = peak_bytes(mixing, 8, tiled=True), peak_bytes(mixing, 24, tiled=True)
    assert short == long
    assert peak_bytes(mixing, 24, tiled=False) > 2 * peak_bytes(mixing, 8, tiled=False) > 3 * short


@pytest.mark.parametrize("wrong", [{"decode_overlap": 4}, {"encode_tile": 0}, {"encode_overlap": -1}])
def test_impossible_tiles_are_refused(wrong: dict[str, int]) -> None:
    """An overlap as long as its tile, an empty tile or a negative overlap is an error that says so."""
    with pytest.raises(ValueError, match="overlap < tile"):
        TilingConfig(**wrong)
    with pytest.raises(ValueError, match="length >= 1"):
        tiles(0, 4, 2)
