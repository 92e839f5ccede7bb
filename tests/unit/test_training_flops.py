"""The formulas give what torch's own counter counts, within 1 %, and the paper's figure for its own size."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from pipelines import config as configuration
from training import flops
from training.models.autoencoder import TAE, TAEConfig
from training.models.transformer import Block, Transformer, TransformerConfig, token_grid


def counted(make) -> int:
    """What torch counts while `make` runs."""
    counter = FlopCounterMode(display=False)
    with counter:
        make()
    return int(counter.get_total_flops())


@pytest.mark.parametrize("latent", [(1, 6, 6), (3, 8, 4)])
@pytest.mark.parametrize("recompute", [False, True])
def test_transformer_formula(latent: tuple[int, int, int], recompute: bool) -> None:
    """Forward alone, forward and backward (x 3), and with activation checkpointing (x 4) on the tiny preset, within 1 %."""
    sizes = configuration.load(TransformerConfig, "model/transformer", "tiny", ["max_t=3"])
    with torch.device("meta"):
        model = Transformer(sizes)
        model.recompute = recompute
        x, t = torch.empty(2, sizes.latent_channels, *latent), torch.empty(2)
        tokens, masks = {"bytes": torch.empty(2, 20, sizes.bytes_width)}, {"bytes": torch.empty(2, 20, dtype=torch.bool)}
    forward = flops.transformer_forward(sizes, 2, token_grid(latent), {"bytes": 20})
    with torch.no_grad():
        assert counted(lambda: model(x, t, tokens, masks)) == pytest.approx(forward, rel=0.01)
    step = flops.transformer_step(sizes, 2, token_grid(latent), {"bytes": 20}, recompute=recompute)
    assert counted(lambda: model(x, t, tokens, masks).sum().backward()) == pytest.approx(step, rel=0.01)
    assert step / forward == pytest.approx(4 if recompute else 3, rel=0.08)


@pytest.mark.parametrize(("grid", "batch"), [((1, 1, 1), 3), ((2, 3, 5), 1)])
def test_layer_formula(grid: tuple[int, int, int], batch: int) -> None:
    """One layer's forward pass, and with its backward pass three times as much, as torch counts it, within 1 %, qk_norm or not."""
    sizes = TransformerConfig(layers=1, width=48, ffn=80, heads=3, bytes_width=16, qk_norm=True)
    n = grid[0] * grid[1] * grid[2]
    with torch.device("meta"):
        block = Block(sizes)
        x, position = torch.empty(batch, n, 48, requires_grad=True), torch.empty(n, 48)
        # the text has a gradient: its projection is trained
        vectors, text = torch.empty(batch, 9, 48), torch.empty(batch, 7, 48, requires_grad=True)
    forward = flops.transformer_layer(sizes, batch, grid, {"bytes": 7})
    with torch.no_grad():
        assert counted(lambda: block(x, position, vectors, text, None)) == pytest.approx(forward, rel=0.01)
    assert counted(lambda: block(x, position, vectors, text, None).sum().backward()) == pytest.approx(3 * forward, rel=0.01)


@pytest.mark.parametrize(("temporal", "patch_px"), [(True, 1), (False, 1), (True, 4), (False, 4)])
@pytest.mark.parametrize("shape", [(2, 3, 9, 32, 48), (1, 3, 1, 16, 16)])
def test_autoencoder_formula(shape: tuple[int, ...], temporal: bool, patch_px: int) -> None:
    """Encode, decode, and both with their backward pass (x 3), of a small autoencoder with levels of different widths, on pixels and on
    patches of them, within 1 %."""
    mult = (1, 2, 2, 4) if patch_px == 1 else (2, 4)
    sizes = TAEConfig(base_channels=8, channel_mult=mult, n_res_blocks=2, norm_groups=4, temporal=temporal, patch_px=patch_px)
    with torch.device("meta"):
        model, pixels = TAE(sizes), torch.empty(shape)
        latent = torch.empty(shape[0], *model.latent_shape(shape))
    b, _, frames, height, width = shape
    with torch.no_grad():
        assert counted(lambda: model.encode(pixels)) == pytest.approx(b * flops.tae_encode(sizes, frames, height, width), rel=0.01)
        assert counted(lambda: model.decode(latent, frames)) == pytest.approx(b * flops.tae_decode(sizes, frames, height, width), rel=0.01)
    step = flops.tae_step(sizes, b, frames, height, width)
    assert counted(lambda: model(pixels)[0].sum().backward()) == pytest.approx(step, rel=0.01)


def test_the_papers_size_costs_what_it_must() -> None:
    """A 73,728-token forward of the 30B model is about 10.2 PFLOP, of which attention scores are 63 % (Movie Gen, tokens, derived)."""
    sizes = configuration.load(TransformerConfig, "model/transformer", "paper")
    forward = flops.transformer_forward(sizes, 1, (32, 48, 48), {"ul2": 300, "byt5": 100, "metaclip": 256})
    assert forward == pytest.approx(10.2e15, rel=0.005)
    assert 48 * 4 * 73_728**2 * 6144 / forward == pytest.approx(0.63, abs=0.005)
