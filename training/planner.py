"""What a stage needs before it is started: memory of each GPU, operations, traffic, days; and what would do where it does not fit.

Memory is the engine's (ZeRO-3: every state is shared out over all GPUs; weights are gathered a layer at a time) and the rehearsed step's
(training/rehearse.py). Operations are those of training/flops.py. Days follow from a stated share of the peak (MFU), bandwidths are the
hardware's as stated by its maker: a plan is arithmetic, and benchmarks/ say how near it comes. Text encoders run on the host and their
results are kept, so they are not counted; a generator's autoencoder is, unless latents are made beforehand.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch

from training import flops, rehearse
from training.config import TrainConfig
from training.memory import Peak
from training.models.autoencoder import TAE, TAEConfig, latent_frames
from training.models.codec import Codec, CodecConfig
from training.models.discriminator import Discriminator
from training.models.sound import SoundBlock, SoundTransformer
from training.models.spectral_discriminator import SpectralDiscriminator
from training.models.transformer import ENCODERS, IDENTITY, Block, Transformer
from training.models.vision import PersonalTransformer, TowerConfig, tower_forward

MAX_LIVE_VALUES = 1_000_000_000
"""Gathered parameters that DeepSpeed lets live at a time (its stage3_max_live_parameters), unless one block is larger."""
ENCODING_ON_GPU, DECODING_ON_GPU, CODING_ON_CPU = 1.29, 1.43, 1.12
"""What the autoencoder takes for what its operations allocate: measured on an H200, where cuDNN keeps copies in an order of its own, and on a CPU,
where oneDNN does (benchmarks/RESULTS.md)."""
GROUP_VALUES = 1_000_000_000
"""Values that its optimiser steps at a time (sub_group_size)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hardware:
    """What a plan is made for. Defaults are the paper's H100 and its network (Movie Gen, Parallelism and infrastructure)."""

    memory_gb: float = 80.0
    """Of one GPU, 1e9 bytes."""
    reserved_gb: float = 6.0
    """Of it for contexts, workspaces, buffers of collectives and what the allocator cannot use; ours."""
    node_gpus: int = 8
    node_gb_per_s: float = 450.0
    """One way between GPUs of a node."""
    network_gb_per_s: float = 50.0
    """One way, of each GPU's port: 400 Gbit/s."""
    peak_tflops: float = 989.0
    mfu: float = 0.35
    """Share of the peak that useful operations reach; benchmarks/RESULTS.md says what was measured."""
    gpu: bool = True
    """False for a CPU: other kernels keep other things."""

    @property
    def usable_bytes(self) -> float:
        """What tensors may take."""
        return (self.memory_gb - self.reserved_gb) * 1e9


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """How a stage's step is laid out over its GPUs."""

    sequence_parallel: int
    recompute: bool
    micro_batch: int
    """Samples of a group in one pass; more are accumulated."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Media:
    """One kind of batch of a stage."""

    kind: str
    share: float
    """Of the steps."""
    batch: int
    n_frames: int
    side_px: int
    n_tokens: int
    """Of a sample."""
    flops: int
    """Useful operations of a sample: forward and backward pass, and of the frozen autoencoder that encodes it."""
    layer_flops: int
    """Operations of a sample that recomputation adds."""
    encoding_flops: int = 0
    """Of `flops`, those of frozen networks: each rank of a sequence parallel group does them all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Bytes of one GPU. Of `passing`, `encoding` and `validating`, each beside `gathered`, and `stepping` only the largest counts: they are not
    there at one time."""

    weights: int
    gradients: int
    optimiser: int
    """Float32 weights and two moments."""
    average: int
    buffers: int
    """Where gradients wait to be reduced."""
    gathered: int
    """Whole weights of the layers at work, and of those that DeepSpeed keeps from one pass to the next."""
    passing: int
    """Activations and what else a forward and backward pass holds at its peak."""
    stepping: int
    """Float32 gradients and AdamW's temporaries."""
    encoding: int
    """The frozen autoencoder at work."""
    validating: int
    """A held-out clip encoded, passed through the model at all its times, and where pictures are made drawn under guidance and decoded."""

    @property
    def states(self) -> int:
        """What is there all the time."""
        return self.weights + self.gradients + self.optimiser + self.average + self.buffers

    @property
    def total(self) -> int:
        """The most at any time."""
        return self.states + max(self.gathered + max(self.passing, self.encoding, self.validating), self.stepping)


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """A layout that can be run on so many GPUs, and what it takes of each."""

    gpus: int
    layout: Layout
    memory: Memory
    fits: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class StagePlan:
    """The plan of one stage. Seconds are of one step, on average over its kinds of batches."""

    stage: str
    gpus: int
    layout: Layout
    parameters: int
    steps: int
    batch: int
    tokens: float
    """Of a step, over all GPUs."""
    flops: float
    """Useful operations of a step, over all GPUs."""
    memory: Memory | None
    """None where the layout cannot be run at all."""
    compute_s: float
    gather_bytes: float
    """What a GPU receives in a step for weights and gradients."""
    gather_s: float
    exchange_bytes: float
    """What a GPU receives in a step for attention."""
    exchange_s: float
    days: float
    problems: tuple[str, ...]
    """Why it cannot be run; empty if it can."""
    options: tuple[Option, ...]
    """Other layouts on as many GPUs; where none fits, those that do on another number."""
    latents_beforehand: bool
    """Whether the options take latents that were made beforehand, because encoding as it goes fits on no number of GPUs."""

    @property
    def gpu_days(self) -> float:
        """Days times GPUs."""
        return self.days * self.gpus


def plan_stage(config: TrainConfig, gpus: int, hardware: Hardware, *, search: bool = True) -> StagePlan:
    """The plan of the stage on so many GPUs. With `search`, other layouts are tried too, and other numbers of GPUs where none fits."""
    stage = _Stage(config, hardware)
    engine, kinds = config.engine, stage.media
    batch = max(m.batch for m in kinds)
    problems = list(dict.fromkeys(stage.refusals(gpus, engine.sequence_parallel)))
    groups = max(1, gpus // engine.sequence_parallel)
    micro = min(engine.micro_batch or batch, max(1, batch // groups))
    layout = Layout(sequence_parallel=engine.sequence_parallel, recompute=engine.recompute, micro_batch=micro)
    memory = None if problems else stage.memory(gpus, layout)
    if memory is not None and memory.total > hardware.usable_bytes:
        found, room = memory.total / 1e9, hardware.usable_bytes / 1e9
        problems.append(f"memory: expected at most {room:.1f} GB of a GPU, found {found:.1f} GB")
    beforehand = memory is not None and memory.states + memory.gathered + memory.encoding > hardware.usable_bytes
    if (
        beforehand and config.flow and not (config.flow.edit or config.flow.upsample)
    ):  # whatever the layout: so look for one that reads latents
        problems.append(
            f"encoding: expected latents made beforehand (flow.latents_folder) and no pictures of held-out clips, as a clip of "
            f"{config.data.n_frames} frames does not fit"
        )
        made = replace(config, pictures=0, flow=replace(config.flow, latents_folder="latents"), data=replace(config.data, augment=False))
        stage = _Stage(made, hardware)
    options = tuple(stage.options(gpus)) if search else ()
    if search and not any(o.fits for o in options):
        others = [gpus << i for i in range(1, 14)] + [gpus >> i for i in range(1, gpus.bit_length())]
        fitting = (tuple(o for o in stage.options(other) if o.fits) for other in others)
        options = next(filter(None, fitting), options)
    step_flops = sum(m.share * m.batch * m.flops for m in kinds)
    repeated = (engine.sequence_parallel - 1) * sum(m.share * m.batch * m.encoding_flops for m in kinds)
    compute_s = (step_flops + repeated) / (gpus * hardware.peak_tflops * 1e12 * hardware.mfu)
    gathered, exchanged = stage.traffic(gpus, layout)
    # a node takes whole weights in through all of its ports, and passes them on inside
    ports = hardware.network_gb_per_s * hardware.node_gpus
    wide = hardware.node_gb_per_s if gpus <= hardware.node_gpus else min(hardware.node_gb_per_s, ports)
    near = hardware.node_gb_per_s if layout.sequence_parallel <= hardware.node_gpus else hardware.network_gb_per_s
    return StagePlan(
        stage=config.stage, gpus=gpus, layout=layout, parameters=stage.parameters, steps=config.steps, batch=batch,
        tokens=sum(m.share * m.batch * m.n_tokens for m in kinds), flops=step_flops, memory=memory, compute_s=compute_s,
        gather_bytes=gathered, gather_s=gathered / wide / 1e9, exchange_bytes=exchanged, exchange_s=exchanged / near / 1e9,
        days=compute_s * config.steps / 86_400, problems=tuple(problems), options=options, latents_beforehand=stage.config is not config,
    )  # fmt: skip


def _modules(config: TrainConfig) -> list[torch.nn.Module]:
    """What a stage trains, the model first, then its adversary where there is one."""
    if config.codec:
        judges = [SpectralDiscriminator(config.codec.loss.discriminator)] if config.codec.loss.gan_weight else []
        return [Codec(config.codec.model), *judges]
    if config.sound:
        return [SoundTransformer(config.sound.model)]
    if config.flow is None:
        return [TAE(config.model), *([Discriminator(config.loss.discriminator)] if config.loss.gan_weight else [])]
    if config.flow.personal:
        return [PersonalTransformer(config.flow.model, config.flow.personal.tower, train_tower=config.flow.personal.train_tower)]
    return [Transformer(config.flow.model)]


class _Stage:
    """What a configuration says that a plan asks for."""

    def __init__(self, config: TrainConfig, hardware: Hardware) -> None:
        self.config, self.hardware = config, hardware
        self.dtype = torch.bfloat16 if config.engine.precision == "bf16" else torch.float32
        with torch.device("meta"):
            modules = _modules(config)
        self.engines = len(modules)
        self.parameters, self.all_parameters = rehearse.parameters(modules[0]), sum(map(rehearse.parameters, modules))
        self.largest_block = max((rehearse.parameters(b) for b in modules[0].modules() if isinstance(b, Block | SoundBlock)), default=0)
        self.text = {n: getattr(config.flow.text, f"{n}_tokens") for n in config.flow.model.text_widths} if config.flow else {}
        if config.flow and config.flow.personal:
            self.text[IDENTITY] = config.flow.personal.tower.tokens
        self.tae = replace(TAEConfig(), temporal=not (config.flow and config.flow.upsample))
        self.media = tuple(self._media())

    def _media(self) -> Iterator[Media]:
        d = self.config.data
        if self.config.hears:
            useful, layers = self._sound()
            yield Media(
                kind="sound", share=1.0, batch=d.global_batch, n_frames=d.n_frames, side_px=d.size_px,
                n_tokens=d.sound_frames, flops=useful, layer_flops=layers,
            )  # fmt: skip
            return
        for kind, count, n_frames in (("video", d.video_batches, d.n_frames), ("image", d.image_batches, 1)):
            if count:
                tokens, useful, layers, encoding = self._sample(n_frames)
                batch = d.global_batch
                if d.tokens_per_step:
                    batch = max(1, d.tokens_per_step // tokens // d.batch_multiple) * d.batch_multiple
                share = count / (d.video_batches + d.image_batches)
                yield Media(
                    kind=kind, share=share, batch=batch, n_frames=n_frames, side_px=d.size_px,
                    n_tokens=tokens, flops=useful, layer_flops=layers, encoding_flops=encoding,
                )  # fmt: skip

    def _sound(self) -> tuple[int, int]:
        """(useful operations, operations of the layers' forward pass) of a sample of sound."""
        frames = self.config.data.sound_frames
        if self.config.sound is None:
            return (flops.codec_step(self.config.codec.model, frames) if self.config.codec else 0), 0
        model, text = self.config.sound.model, self._sound_text()
        useful = flops.sound_step(model, frames, text) + flops.codec_encode(CodecConfig(), frames)
        if self.config.sound.watch.metaclip:  # of the size that the presets name, ViT-H
            useful += self.config.data.n_frames * tower_forward(TowerConfig(), 1)
        return useful, model.layers * flops.sound_layer(model, frames, text)

    def _sound_text(self) -> int:
        sound = self.config.sound
        return (
            max((getattr(sound.text, f"{n}_tokens") for n in ENCODERS if getattr(sound.text, n, None) or n == "bytes"), default=1)
            if sound
            else 0
        )

    def _sample(self, n_frames: int) -> tuple[int, int, int, int]:
        """(tokens, useful operations, operations of the layers' forward pass, those of frozen networks) of a sample."""
        side = self.config.data.size_px
        if self.config.flow is None:
            tae, loss = self.config.model, self.config.loss
            latent = (latent_frames(n_frames) if tae.temporal else n_frames) * (side // 8) ** 2
            return latent, flops.tae_step(tae, 1, n_frames, side, side) + rehearse.judged_flops(loss, n_frames, side), 0, 0
        config = self.config.flow
        if config.edit and n_frames == 1:
            n_frames = config.edit.frames
        model, grid = config.model, (latent_frames(n_frames) if self.tae.temporal else n_frames, side // 16, side // 16)
        # the upsampler's small clip and the editor's source are encoded too
        clips = 2 if config.upsample or config.edit else 1
        encoding = 0 if config.latents_folder else clips * flops.tae_encode(self.tae, n_frames, side, side)
        if config.personal:
            encoding += (3 if config.personal.train_tower else 1) * tower_forward(config.personal.tower, 1)
        layers = model.layers * flops.transformer_layer(model, 1, grid, self.text)
        return math.prod(grid), flops.transformer_step(model, 1, grid, self.text) + encoding, layers, encoding

    def refusals(self, gpus: int, sequence_parallel: int) -> Iterator[str]:
        """Why the GPUs cannot be grouped so, whatever their memory."""
        size = sequence_parallel
        if gpus % size:
            yield f"engine.sequence_parallel: expected a divisor of {gpus} GPUs, found {size}"
        elif size > 1 and self.config.flow is None:
            yield f"engine.sequence_parallel: expected 1 for an autoencoder, found {size}"
        elif self.config.flow and self.config.flow.model.heads % size:
            yield f"engine.sequence_parallel: expected a divisor of {self.config.flow.model.heads} heads, found {size}"
        for m in self.media:
            if size > 1 and m.n_tokens % size:
                yield f"engine.sequence_parallel: expected a divisor of {m.n_tokens} tokens of {m.kind} samples, found {size}"
            if gpus % size == 0 and m.batch % (gpus // size):
                name = "batch_multiple" if self.config.data.tokens_per_step else "global_batch"
                yield f"data.{name}: expected batches that are a multiple of {gpus // size} groups of {size} GPUs, found {m.batch}"

    def memory(self, gpus: int, layout: Layout) -> Memory:
        """Bytes of each GPU under the layout."""
        here, unit = -(-self.all_parameters // gpus), self.dtype.itemsize
        live = 0 if gpus == 1 else min(self.all_parameters, max(MAX_LIVE_VALUES, self.largest_block))
        temporary = 4 + (4 if self.hardware.gpu else 8)  # the float32 gradient; one root of a moment, on a CPU two
        return Memory(
            weights=unit * here,
            gradients=unit * here,
            optimiser=12 * here,
            average=4 * -(-self.parameters // gpus),
            buffers=self.engines * unit * self.config.engine.bucket_values,
            gathered=unit * live,
            passing=max(self._inputs(m, gpus, layout) + self._peak(m, layout).peak_bytes for m in self.media),
            stepping=temporary * min(here, GROUP_VALUES),
            encoding=max(self._inputs(m, gpus, layout) + self._encoding(m) if self._encoding(m) else 0 for m in self.media),
            validating=max(self._validating(m, layout, unit * here) for m in self.media),
        )

    def _inputs(self, media: Media, gpus: int, layout: Layout) -> int:
        """Pixels of all samples of a rank's step, or their latents where those were made beforehand."""
        samples = max(1, media.batch * layout.sequence_parallel // gpus)
        flow, side = self.config.flow, media.side_px
        if self.config.hears:
            return 0
        if flow and flow.latents_folder:
            frames = latent_frames(media.n_frames) if self.tae.temporal else media.n_frames
            return samples * flow.model.latent_channels * frames * (side // 8) ** 2 * self.dtype.itemsize
        return samples * 3 * media.n_frames * side**2 * self.dtype.itemsize

    def _validating(self, media: Media, layout: Layout, own: int) -> int:
        """`own` are the weights that wait while their average is measured."""
        flow = self.config.flow
        if flow is None or not self.config.data.validate_clips:
            return 0
        batch = max(len(flow.validate_times), 2 if flow.sampler.guidance != 1 else 1)
        passed = rehearse.forward_bytes(
            flow.model, batch, media.n_tokens, tuple(self.text.items()), self.dtype,
            sequence_parallel=layout.sequence_parallel, fused=self.hardware.gpu,
        )  # fmt: skip
        pixels = 3 * 4 * media.n_frames * media.side_px**2
        encoding, decoding = rehearse.measured_bytes(self.tae, media.n_frames, media.side_px, self.dtype)
        encoded = 0 if flow.latents_folder else self._on_device(encoding, ENCODING_ON_GPU)
        return own + max(pixels + passed, encoded, self._on_device(decoding, DECODING_ON_GPU) if self.config.pictures else 0)

    def _on_device(self, counted: int, on_gpu: float) -> int:
        return round(counted * (on_gpu if self.hardware.gpu else CODING_ON_CPU))

    def _peak(self, media: Media, layout: Layout) -> Peak:
        flow, fused, batch = self.config.flow, self.hardware.gpu, layout.micro_batch
        if self.config.codec:
            return rehearse.codec(self.config.codec.model, self.config.codec.loss, batch, media.n_tokens, self.dtype)
        if self.config.sound:
            return rehearse.sound(
                self.config.sound.model, batch, media.n_tokens, self._sound_text(), self.dtype, recompute=layout.recompute
            )
        if flow is None:
            loss = replace(self.config.loss, perceptual_features=self.config.loss.perceptual_features or "none")
            return rehearse.autoencoder(self.config.model, loss, batch, media.n_frames, media.side_px, self.dtype, fused=fused)
        text, size = tuple(self.text.items()), layout.sequence_parallel
        peak = rehearse.generator(
            flow.model, batch, media.n_tokens, text, self.dtype, recompute=layout.recompute, sequence_parallel=size, fused=fused
        )
        if flow.personal and flow.personal.train_tower:  # held beneath the transformer's pass, and gone through last
            seen = rehearse.tower(flow.personal.tower, batch, self.dtype).saved_bytes
            peak = Peak(saved_bytes=peak.saved_bytes + seen, peak_bytes=peak.peak_bytes + seen)
        return peak

    def _encoding(self, media: Media) -> int:
        flow = self.config.flow
        if self.config.sound:
            return rehearse.encode_sound_bytes(CodecConfig(), media.n_tokens, self.dtype)
        if flow is None or flow.latents_folder:
            return 0
        return self._on_device(rehearse.encode_bytes(self.tae, media.n_frames, media.side_px, self.dtype), ENCODING_ON_GPU)

    def options(self, gpus: int) -> Iterator[Option]:
        """Layouts that can be run on so many GPUs, each with the largest pass that fits, or with the smallest where none does."""
        heads = self.config.flow.model.heads if self.config.flow else 1
        sizes = [n for n in range(1, heads + 1) if not any(True for _ in self.refusals(gpus, n))]
        inside = [n for n in sizes if n <= self.hardware.node_gpus]
        for size in inside or sizes[:2]:  # beyond a node the exchange is as slow as the network: only where nothing else can be run
            of_group = max(m.batch for m in self.media) // (gpus // size)
            for recompute in (False, True) if self.config.flow or self.config.sound else (False,):
                least = self._option(gpus, Layout(sequence_parallel=size, recompute=recompute, micro_batch=1))
                larger = (self._option(gpus, replace(least.layout, micro_batch=n)) for n in range(of_group, 1, -1) if of_group % n == 0)
                yield next((o for o in larger if o.fits), least) if least.fits else least

    def _option(self, gpus: int, layout: Layout) -> Option:
        memory = self.memory(gpus, layout)
        return Option(gpus=gpus, layout=layout, memory=memory, fits=memory.total <= self.hardware.usable_bytes)

    def traffic(self, gpus: int, layout: Layout) -> tuple[float, float]:
        """(for weights and gradients, for attention): bytes that a GPU receives in a step, on average.

        Each pass gathers every weight twice and reduces every gradient once. Attention exchanges queries, keys, values and results, there
        in the forward pass and back in the backward pass, and once more where layers are computed again.
        """
        unit, size = self.dtype.itemsize, layout.sequence_parallel
        gathered = exchanged = 0.0
        for m in self.media:
            of_group = max(1, m.batch * size // gpus)
            passes = -(-of_group // layout.micro_batch)
            gathered += m.share * passes * 3 * self.all_parameters * unit * (gpus - 1) / gpus
            if self.config.flow and size > 1:
                moved = 4 * of_group * (m.n_tokens // size) * self.config.flow.model.width * unit * (size - 1) / size
                exchanged += m.share * self.config.flow.model.layers * (3 if layout.recompute else 2) * moved
        return gathered, exchanged
