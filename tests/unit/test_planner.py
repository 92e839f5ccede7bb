"""What a plan says: memory that adds up, layouts that can be run, traffic, days, and what would do where a stage does not fit."""

import dataclasses
import json
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from pipelines import config as configuration
from pipelines.cli import app
from training import flops, rehearse
from training.config import TrainConfig
from training.losses import TAELossConfig
from training.memory import live_bytes, step_peak
from training.models.autoencoder import TAE, TAEConfig
from training.models.transformer import Transformer, TransformerConfig
from training.models.watching import WatchConfig
from training.planner import Hardware, Layout, plan_stage

SIZES = TransformerConfig(layers=4, width=96, ffn=256, heads=6, max_t=4, max_h=8, max_w=8, bytes_width=32)
TEXT = (("bytes", 12),)


def settings(stage: str, config: str, *overrides: str) -> TrainConfig:
    """A stage's configuration."""
    return configuration.load(TrainConfig, f"train/{stage}", config, list(overrides))


def real_pass(recompute: bool, batch: int = 2) -> tuple[int, int]:
    """(bytes after the forward pass, bytes at the peak) of a real pass on the CPU, of tensors that really lived."""
    model = Transformer(SIZES)
    for parameter in model.parameters():
        torch.nn.init.constant_(parameter, 0.01)
        parameter.register_post_accumulate_grad_hook(lambda p: setattr(p, "grad", None))
    model.recompute = recompute
    noisy, target = torch.rand(batch, 16, 4, 8, 8), torch.rand(batch, 16, 4, 8, 8)
    tokens, masks = {"bytes": torch.rand(batch, 12, 32)}, {"bytes": torch.ones(batch, 12, dtype=torch.bool)}
    with live_bytes() as live:
        loss = (model(noisy, torch.rand(batch), tokens, masks).float() - target).square().flatten(1).mean(1).mean()
        saved = live.now_bytes
        loss.backward()
    return saved, live.peak_bytes


@pytest.mark.parametrize("recompute", [False, True])
def test_rehearsed_transformer_holds_what_a_real_pass_holds(recompute: bool) -> None:
    """A pass on the meta device, two layers of four run, holds within 3 % what the whole model holds on the CPU: after the forward pass and
    at its peak, with and without recomputation."""
    planned = rehearse.generator(SIZES, 2, 64, TEXT, torch.float32, recompute=recompute, fused=False)
    saved, peak = real_pass(recompute)
    assert planned.saved_bytes == pytest.approx(saved, rel=0.03)
    assert planned.peak_bytes == pytest.approx(peak, rel=0.03)


def test_rehearsed_autoencoder_holds_what_a_real_pass_holds() -> None:
    """The same of the autoencoder, in which no two layers are alike, within 3 %."""
    sizes = TAEConfig(base_channels=16, channel_mult=(1, 1, 2, 2), n_res_blocks=1, norm_groups=1)
    loss = TAELossConfig(outlier_weight=1.0)
    planned = rehearse.autoencoder(sizes, loss, 2, 8, 32, torch.float32, fused=False)
    model, pixels = TAE(sizes), torch.rand(2, 3, 8, 32, 32)
    noise = torch.rand(2, *model.latent_shape(tuple(pixels.shape)))
    from training.losses import l1, outlier_penalty

    def forward() -> torch.Tensor:
        output, posterior = model(pixels, noise)
        return (l1(output, pixels) + posterior.kl() + outlier_penalty(posterior.mean, 3.0)).mean()

    with live_bytes() as live:
        forward().backward()
        peak = live.peak_bytes
    # kept gradients are small beside activations here, and the rehearsal drops them
    assert planned.peak_bytes == pytest.approx(peak, rel=0.03)


def test_recomputation_keeps_one_tensor_a_layer() -> None:
    """With recomputation a further layer adds its input, tokens x width values; without, more than fifteen times as much; so attention is
    counted linear in the tokens."""
    unit = 2 * 4096 * SIZES.width

    def added(recompute: bool, tokens: int) -> float:
        four, eight = (
            rehearse.generator(dataclasses.replace(SIZES, layers=n), 1, tokens, TEXT, torch.bfloat16, recompute=recompute).saved_bytes
            for n in (4, 8)
        )
        return (eight - four) / 4

    assert added(True, 4096) == pytest.approx(unit, rel=0.05)
    assert added(False, 4096) > 15 * unit
    assert added(False, 8192) == pytest.approx(2 * added(False, 4096), rel=0.05)


def test_adversary_and_perceptual_distance_are_counted() -> None:
    """A discriminator and LPIPS add memory and operations to the autoencoder's step."""
    sizes = TAEConfig(base_channels=16, channel_mult=(1, 1, 2, 2), n_res_blocks=1, norm_groups=1)
    plain = TAELossConfig()
    both = TAELossConfig(gan_weight=0.5, perceptual_weight=1.0, perceptual_features="weights/vgg16.pth")
    small, large = (rehearse.autoencoder(sizes, loss, 1, 4, 32, torch.bfloat16).peak_bytes for loss in (plain, both))
    assert large > 1.5 * small
    assert rehearse.judged_flops(plain, 4, 32) == 0 < rehearse.judged_flops(both, 4, 32)


def test_a_rehearsal_leaves_the_module_as_it_was() -> None:
    """No gradient, hook or replaced method stays behind."""
    with torch.device("meta"):
        model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.RMSNorm(4))
        found = step_peak(model, lambda: model(torch.empty(8, 4)).sum(), keep_gradients=False)
    assert found.peak_bytes > found.saved_bytes > 0
    assert all(p.grad is None and not p._post_accumulate_grad_hooks for p in model.parameters())
    assert all("forward" not in vars(part) for part in model.modules())


def test_states_are_shared_out_and_add_up() -> None:
    """22 bytes a parameter of the 30B model in bf16 (weights 2, gradients 2, float32 copy and moments 12, average 4 = 20, and buffers), over
    all GPUs; twice the GPUs hold half."""
    config = settings("t2i_256", "paper")
    half, whole = (plan_stage(config, gpus, Hardware(), search=False) for gpus in (1536, 768))
    assert half.memory is not None
    assert whole.memory is not None
    assert 29.4e9 < whole.parameters < 30.5e9
    of_parameters = [m.states - m.buffers for m in (half.memory, whole.memory)]
    assert of_parameters[1] == pytest.approx(20 * whole.parameters / 768, rel=1e-6)
    assert of_parameters[1] == pytest.approx(2 * of_parameters[0], rel=1e-6)
    assert whole.memory.buffers == 2 * config.engine.bucket_values
    assert whole.memory.total >= whole.memory.states + whole.memory.gathered + whole.memory.passing


def test_the_papers_first_stage() -> None:
    """9216 pictures of 256 tokens for 210,000 steps are the paper's 1.94 billion samples; a step's seconds follow from operations, GPUs and
    the stated share of the peak."""
    made = plan_stage(settings("t2i_256", "paper"), 1536, Hardware(mfu=0.5), search=False)
    assert made.problems == ()
    assert made.batch * made.steps == pytest.approx(1.94e9, rel=0.01)
    assert made.tokens == 9216 * 256
    assert made.compute_s == pytest.approx(made.flops / 1536 / 989e12 / 0.5)
    assert made.days == pytest.approx(made.compute_s * 210_000 / 86_400)
    # each weight is gathered twice and each gradient reduced once, 2 bytes each
    assert made.gather_bytes == pytest.approx(6 * made.parameters * 1535 / 1536, rel=1e-6)
    assert made.exchange_bytes == 0


def test_sequence_parallel_shares_out_activations_and_costs_exchange() -> None:
    """Four GPUs on a sample hold about a quarter of its activations; sizes that do not divide heads, tokens or GPUs are refused by name."""
    made = {
        size: plan_stage(settings("t2v_256", "paper", f"engine.sequence_parallel={size}", "processes=24", "data.global_batch=1536",
                                  "flow.latents_folder=latents", "data.augment=false", "engine.micro_batch=1"), 1536 * size, Hardware(), search=False)
        for size in (1, 2, 4, 8)
    }  # fmt: skip
    assert all(m.memory is not None for m in made.values())
    passing = {size: m.memory.passing for size, m in made.items() if m.memory}
    assert passing[1] > 1.8 * passing[2] > 3.2 * passing[4]
    # queries, keys, values and results of 48 layers, there, back and there again; 8192 tokens shared by four
    videos, images = (48 * 3 * 4 * n / 4 * 6144 * 2 * 3 / 4 for n in (8192, 256))
    assert made[4].exchange_bytes == pytest.approx((10 * videos + images) / 11)
    refused = plan_stage(settings("t2v_256", "paper", "engine.sequence_parallel=5", "processes=5"), 5 * 1536, Hardware(), search=False)
    assert any("48 heads" in problem for problem in refused.problems)
    assert refused.memory is None


def test_what_does_not_fit_is_refused_with_what_would() -> None:
    """Long videos of the 30B model at 768 pixels without recomputation or sequence parallelism do not fit in 80 GB; every option that is
    said to fit does when it is planned itself."""
    overrides = ["data.size_px=768", "data.resize_px=768", "flow.model.max_h=48", "flow.model.max_w=48", "engine.recompute=false",
                 "flow.latents_folder=latents", "data.augment=false", "processes=8"]  # fmt: skip
    made = plan_stage(settings("t2v_256", "paper", *overrides), 1536, Hardware(node_gpus=2))
    assert any(problem.startswith("memory: expected at most 74.0 GB") for problem in made.problems)
    fitting = [o for o in made.options if o.fits]
    assert fitting
    assert any(not o.fits for o in made.options)
    for option in fitting[:1]:
        layout: Layout = option.layout
        chosen = [*overrides, f"engine.sequence_parallel={layout.sequence_parallel}", f"engine.recompute={layout.recompute}",
                  f"engine.micro_batch={layout.micro_batch}", "processes=768"]  # fmt: skip
        again = plan_stage(settings("t2v_256", "paper", *chosen), option.gpus, Hardware(), search=False)
        assert again.problems == ()
        assert again.memory == option.memory


def test_latents_made_beforehand_are_asked_for_where_encoding_does_not_fit() -> None:
    """A tile of 32 frames at 768 pixels cannot be encoded in 40 GB as it goes: the plan says so, and its options read latents."""
    made = plan_stage(
        settings("t2v_768", "paper", "data.video_batches=1", "data.image_batches=0", "flow.latents_folder=null"),
        6144,
        Hardware(memory_gb=40),
    )
    assert any(problem.startswith("encoding: expected latents made beforehand") for problem in made.problems)
    assert made.latents_beforehand
    assert all(o.memory.encoding == 0 for o in made.options)
    assert any(o.fits and o.gpus == 6144 for o in made.options)


def test_more_gpus_are_found_where_none_of_the_layouts_fits() -> None:
    """A 30B model on 8 GPUs has 74 GB of states on each: the options are those of the next number of GPUs that would do."""
    made = plan_stage(settings("t2i_256", "paper", "data.global_batch=64", "processes=8"), 8, Hardware(node_gpus=1))
    assert made.problems
    assert {o.gpus for o in made.options} == {16}
    assert all(o.fits for o in made.options)


def run(*arguments: str) -> tuple[int, str]:
    """The command's exit status and what it printed."""
    done = CliRunner().invoke(app, ["plan", *arguments])
    return done.exit_code, done.stdout


def test_command_says_the_same_to_people_and_programs() -> None:
    """`dailies plan tae --config tiny` fits: status 0, a table, and the same figures as JSON; unknown stages are refused in a sentence."""
    status, text = run("tae", "--config", "tiny")
    assert status == 0
    assert "peak" in text
    status, said = run("tae", "--config", "tiny", "--json")
    value: dict[str, Any] = json.loads(said)
    assert status == 0
    assert value["stage"] == "tae"
    assert f"{value['total_bytes'] / 1e9:.2f} GB" in text
    assert value["gpu_days"] == pytest.approx(value["days"] * value["gpus"])
    assert CliRunner().invoke(app, ["plan", "nothing"]).exit_code == 2


def test_command_plans_a_curriculum() -> None:
    """The tiny curriculum: a line a stage and one for each run of the last, all of which fit."""
    status, said = run("movie_gen", "--config", "tiny", "--json")
    found = json.loads(said)
    assert status == 0
    stages = "image_ae tae t2i_256 t2v_256 t2v_768 video_sft/0 video_sft/1 upsampler personal_1 personal_2 personal_3 personal_sft edit_1 edit_2 edit_3 codec"
    assert list(found) == [s.replace("/", " ") for s in (*stages.split(), "audio", "audio_sft")]
    assert all(one["problems"] == [] and one["gpus"] == 2 for one in found.values())
    status, text = run("movie_gen", "--config", "tiny")
    assert status == 0
    assert "GPU-hours" in text


@pytest.mark.parametrize(
    ("stage", "billions"), [("upsampler", (6.65, 7.35)), ("audio", (12.35, 13.65)), ("edit_1", (29.5, 30.5)), ("codec", (0.08, 0.12))]
)
def test_stages_of_every_kind_are_planned_at_the_papers_size(stage: str, billions: tuple[float, float]) -> None:
    """The paper's 7B upsampler and 13B generator of sound within 5 %, the editor and the codec: each fits on its GPUs."""
    config = settings(stage, "paper")
    made = plan_stage(config, config.processes, Hardware(), search=False)
    assert billions[0] <= made.parameters / 1e9 <= billions[1]
    assert made.problems == () and made.memory is not None
    assert made.memory.encoding > 0 or stage == "codec"


def test_measuring_held_out_clips_is_counted() -> None:
    """At 768 pixels decoding a held-out clip is the most that a GPU holds: without pictures, and with latents made beforehand, less is left."""
    config = settings("t2v_768", "paper")
    shown, plain = (plan_stage(c, 6144, Hardware(), search=False).memory for c in (config, dataclasses.replace(config, pictures=0)))
    fresh = dataclasses.replace(config, pictures=0, flow=dataclasses.replace(config.flow, latents_folder=None))
    encoding = plan_stage(fresh, 6144, Hardware(), search=False).memory
    assert shown.total == shown.states + shown.gathered + shown.validating > plain.total
    assert shown.validating > encoding.validating > plain.validating > 0


def test_frozen_networks_are_run_by_every_rank_of_a_group() -> None:
    """Two GPUs that share a clip both encode it: seconds grow by one encoding. Looking at a video's frames is a generator of sound's work."""
    config = settings("t2v_256", "paper", "flow.latents_folder=null", "data.image_batches=0", "processes=1536")
    alone, shared = (
        plan_stage(
            dataclasses.replace(config, engine=dataclasses.replace(config.engine, sequence_parallel=n)), 1536, Hardware(), search=False
        )
        for n in (1, 2)
    )
    batch, encoding = config.data.global_batch, flops.tae_encode(TAEConfig(), 256, 256, 256)
    assert shared.compute_s - alone.compute_s == pytest.approx(batch * encoding / (1536 * 989e12 * 0.35), rel=1e-6)
    hears = settings("audio", "paper")
    unseen = dataclasses.replace(hears, sound=dataclasses.replace(hears.sound, watch=WatchConfig()))
    seen, blind = (plan_stage(c, 384, Hardware(), search=False) for c in (hears, unseen))
    assert seen.flops > 2 * blind.flops


def test_conditions_cost_what_they_add() -> None:
    """An editor encodes its source too and reads it and its task; a person's picture adds its tower: more operations and parameters than
    text to video of the same form."""
    plain = settings("edit_2", "tiny")
    assert plain.flow is not None
    without = dataclasses.replace(plain.flow, edit=None, model=dataclasses.replace(plain.flow.model, context_channels=0, tasks=0))
    video = plan_stage(
        dataclasses.replace(plain, flow=without, data=dataclasses.replace(plain.data, edits=False)), 2, Hardware(), search=False
    )
    edit = plan_stage(plain, 2, Hardware(), search=False)
    assert edit.parameters > video.parameters and edit.flops > 1.1 * video.flops
    learns = settings("personal_3", "tiny")
    assert learns.flow is not None and learns.flow.personal is not None
    frozen = dataclasses.replace(learns.flow, personal=dataclasses.replace(learns.flow.personal, train_tower=False))
    personal = [plan_stage(c, 2, Hardware(), search=False) for c in (dataclasses.replace(learns, flow=frozen), learns)]
    assert personal[0].parameters == personal[1].parameters > video.parameters
    assert personal[1].flops > personal[0].flops


def test_command_refuses_what_does_not_fit() -> None:
    """In a tenth of a GB of memory the tiny stage does not fit: exit status 1, the reason, and that no layout does."""
    status, text = run("tae", "--config", "tiny", "--memory", "6.1")
    assert status == 1
    assert "does not fit: memory" in text
    assert "no layout fits" in text
    status, said = run("tae", "--config", "tiny", "--memory", "6.1", "--json")
    assert status == 1
    assert json.loads(said)["problems"]
