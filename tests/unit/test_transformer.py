"""The transformer has the paper's size and shapes, reads its text, begins as zero, and keeps what it knows when its positions grow."""

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines import config as configuration
from training.models.transformer import (
    Transformer,
    TransformerConfig,
    grow_positions,
    initialise,
    patchify,
    token_grid,
    tokens_of,
    unpatchify,
)

SMALL = TransformerConfig(
    layers=2, width=32, ffn=48, heads=4, latent_channels=4, max_t=3, max_h=4, max_w=5, ul2_width=12, byt5_width=8, bytes_width=6
)


def built(config: TransformerConfig = SMALL, seed: int = 0, *, awake: bool = True) -> Transformer:
    """A small model with initial weights; `awake`: the output and the modulation are not zero, so that everything has an effect."""
    model = Transformer(config)
    initialise(model, seed)
    if awake:
        for parameter in (model.output.linear.weight, model.time.modulation.weight):
            torch.nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(seed))
    return model.eval()


def inputs(latent: tuple[int, int, int] = (2, 6, 8), batch: int = 2, config: TransformerConfig = SMALL):
    """Random latents, times and text of several lengths."""
    g = torch.Generator().manual_seed(1)
    x = torch.randn((batch, config.latent_channels, *latent), generator=g)
    lengths = {name: 3 + i for i, name in enumerate(config.text_widths)}
    tokens = {n: torch.randn((batch, lengths[n], w), generator=g) for n, w in config.text_widths.items()}
    masks = {n: torch.ones(batch, length, dtype=torch.bool) for n, length in lengths.items()}
    return x, torch.linspace(0.2, 0.9, batch), tokens, masks


def parameters(name: str) -> int:
    """Parameters of a preset, counted without memory."""
    with torch.device("meta"):
        model = Transformer(configuration.load(TransformerConfig, "model/transformer", name))
    return sum(p.numel() for p in model.parameters())


def test_presets_have_the_papers_sizes() -> None:
    """30B is 29.5 to 30.5 billion parameters, 5B is 4.7 to 5.0; the single-GPU and tiny presets are as large as their files say."""
    assert 29.5e9 <= parameters("paper") <= 30.5e9
    assert 4.7e9 <= parameters("5b") <= 5.0e9
    assert 1.6e9 <= parameters("h200") <= 1.8e9
    assert 1.4e6 <= parameters("tiny") <= 1.5e6


def test_paper_token_counts() -> None:
    """256 frames at 768 x 768 and at 1024 x 576 are 73,728 tokens; the other lengths as in Movie Gen, tokens."""
    assert tokens_of(256, 768, 768) == tokens_of(256, 576, 1024) == 73_728
    assert tokens_of(192, 768, 768) == 55_296 and tokens_of(128, 768, 768) == 36_864
    assert tokens_of(256, 256, 256) == 8_192 and tokens_of(128, 192, 352) == 4_224 and tokens_of(1, 576, 1024) == 2_304
    with pytest.raises(ValueError, match="multiple of 16"):
        tokens_of(8, 24, 32)


@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 3), st.integers(1, 3))
@settings(max_examples=15, deadline=None)
def test_patches_are_a_round_trip(b: int, t: int, h: int, w: int) -> None:
    """unpatchify(patchify(x)) = x for every shape."""
    x = torch.arange(b * 5 * t * 4 * h * w).reshape(b, 5, t, 2 * h, 2 * w)
    assert torch.equal(unpatchify(patchify(x), token_grid((t, 2 * h, 2 * w))), x)


def test_patches_are_a_convolution() -> None:
    """The linear layer on patches is a 3-D convolution with kernel = stride = 1 x 2 x 2, as the paper has it."""
    model, (x, *_) = built(), inputs()
    kernel = model.patches.weight.reshape(SMALL.width, SMALL.latent_channels, 1, 2, 2)
    convolved = torch.nn.functional.conv3d(x, kernel, model.patches.bias, stride=(1, 2, 2))
    assert torch.allclose(model.patches(patchify(x)), convolved.flatten(2).transpose(1, 2), atol=1e-5)


def test_untrained_output_is_zero_and_every_parameter_learns() -> None:
    """The model begins as zero velocity; once the output is not zero, no parameter that was used is without gradient."""
    with torch.no_grad():
        assert not built(awake=False)(*inputs()).any()
    model = built()
    model(*inputs()).square().sum().backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_output_has_the_latents_shape_for_video_and_image() -> None:
    """Any grid within the tables goes in and comes out; one frame is an image; a larger grid is refused with its limit."""
    model = built()
    for latent in ((1, 2, 2), (1, 8, 4), (3, 6, 10)):
        assert model(*inputs(latent)).shape == (2, 4, *latent)
    with pytest.raises(ValueError, match=r"at most \(3, 4, 5\) tokens in \(t, h, w\), found \(4, 3, 4\)"):
        model(*inputs((4, 6, 8)))


def test_attention_is_full_and_positions_matter() -> None:
    """The last frame changes the first (not causal); two equal frames get different velocities (their positions differ)."""
    model, (x, t, tokens, masks) = built(), inputs()
    for table in model.positions.parameters():
        table.data.mul_(20)
    other = x.clone()
    other[:, :, 1] += 1
    with torch.no_grad():
        assert not torch.allclose(model(x, t, tokens, masks)[:, :, 0], model(other, t, tokens, masks)[:, :, 0])
        y = model(x[:, :, :1].expand(-1, -1, 2, -1, -1), t, tokens, masks)
    assert not torch.allclose(y[:, :, 0], y[:, :, 1], atol=1e-4)


def test_masked_text_is_not_read_and_each_encoder_is() -> None:
    """Behind the mask any text gives the same result; in front of it every encoder's tokens change it, and so does the time."""
    model, (x, t, tokens, masks) = built(), inputs()
    with torch.no_grad():
        whole = model(x, t, tokens, masks)
        assert not torch.allclose(whole, model(x, t * 0.5, tokens, masks), atol=1e-5)
        for name in tokens:
            changed = {**tokens, name: tokens[name].clone()}
            changed[name][:, -1] += 3.0
            hidden = {**masks, name: masks[name].clone()}
            hidden[name][:, -1] = False
            assert not torch.allclose(whole, model(x, t, changed, masks), atol=1e-5), name
            assert torch.allclose(model(x, t, tokens, hidden), model(x, t, changed, hidden), atol=1e-6), name


def test_recomputing_changes_nothing_but_memory() -> None:
    """With activation checkpointing output and gradients are the same, bit for bit."""
    grads = []
    for recompute in (False, True):
        model = built()
        model.recompute = recompute
        model(*inputs()).square().sum().backward()
        grads.append({n: p.grad for n, p in model.named_parameters()})
    assert all(torch.equal(grads[0][n], grads[1][n]) for n in grads[0])


def test_qk_norm_bounds_the_logits() -> None:
    """With QK-norm, queries a hundred times as large give the same output."""
    model = built(dataclasses.replace(SMALL, qk_norm=True)).double()
    x, t, tokens, masks = inputs()
    given = (x.double(), t, {n: v.double() for n, v in tokens.items()}, masks)
    with torch.no_grad():
        before = model(*given)
        for block in model.blocks:
            block.attention.q.weight.mul_(100)
        assert torch.allclose(before, model(*given), atol=1e-4)


@pytest.mark.parametrize("space", ["extend", "stretch"])
def test_grown_positions_keep_what_was_learnt(space: str) -> None:
    """Extended, the grown model says the same as its parent on the parent's shapes. Stretched by 3, the middle of each new triple stands
    where the old entry stood. Time is extended by its last frame in both."""
    parent, grown_config = built(), dataclasses.replace(SMALL, max_t=6, max_h=12, max_w=15)
    state = grow_positions(parent.state_dict(), grown_config, space)
    child = built(grown_config, seed=9)
    child.load_state_dict(state)
    if space == "extend":
        with torch.no_grad():
            assert torch.equal(child(*inputs()), parent(*inputs()))
    else:
        assert torch.allclose(child.positions.h[1::3], parent.positions.h, atol=1e-6)
    assert torch.equal(child.positions.t[:3], parent.positions.t) and torch.equal(child.positions.t[5], parent.positions.t[2])
    with pytest.raises(ValueError, match=r"positions\.t: expected at least the parent's 6 entries, found 3"):
        grow_positions(state, SMALL, space)


def test_initial_weights_are_keyed() -> None:
    """The same seed gives the same weights and another gives others; torch's global generator is not touched."""
    before = torch.random.get_rng_state()
    a, b, c = (Transformer(SMALL) for _ in range(3))
    torch.random.set_rng_state(before)
    for model, seed in ((a, 1), (b, 1), (c, 2)):
        initialise(model, seed)
    assert torch.equal(before, torch.random.get_rng_state())
    assert all(torch.equal(v, b.state_dict()[n]) for n, v in a.state_dict().items())
    assert not torch.equal(a.patches.weight, c.patches.weight)


def test_impossible_sizes_are_refused() -> None:
    """Heads that do not divide the width, and a model without text, are named."""
    with pytest.raises(ValueError, match="divisible by heads"):
        dataclasses.replace(SMALL, heads=5)
    with pytest.raises(ValueError, match="at least one text encoder"):
        dataclasses.replace(SMALL, ul2_width=0, byt5_width=0, bytes_width=0)
