"""The one training loop, top to bottom: plan, batch, forward, backward, clip, check, step, log, measure, checkpoint.

Its only state beside weights and optimiser is the number of steps done. Killed at any time and started again, it goes on from its
newest complete checkpoint and writes, bit for bit, the log it would have written.
"""

import logging
import math
import time
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import torch

from manifests.deny import DenyList
from training import checkpoint
from training.conditions import crosses_by_identity, latent_cache, load_pairs, measured_on
from training.data.batch import Batch, BatchLoader
from training.data.index import Sample
from training.data.plan import Plan
from training.errors import TrainingError
from training.export import export_weights
from training.exposure import Exposure
from training.folder import RunFolder, mark_done
from training.hearing import write_sounds
from training.metrics import MetricsWriter
from training.parallel.ema import ShardedEMA
from training.parallel.engine import Engine, OptimConfig, sum_over_ranks
from training.parallel.mesh import Mesh, make_mesh, share
from training.parallel.sequence import check_divisible, split_sequence
from training.pictures import PICTURES, note_shown, write_pictures
from training.pulse import Pulse, probe_s, stragglers
from training.tasks.make import make_task
from training.tasks.task import SampleLoss, Task
from training.validate import HeldOut, load_held_out, measure, show

log = logging.getLogger("dailies.train")

MAX_SKIPPED = 10
"""Steps in a row without a finite gradient that end the run: a few are accidents, this many are a model that has gone."""


class Run:
    """Everything one process of a run holds. `train` is the loop; the other methods are its lines."""

    def __init__(self, run: RunFolder, out: Path, device: torch.device) -> None:
        config, dataset = run.config, run.dataset
        self.config, self.out, self.release = config, out, run.release
        self.plan = Plan(config.plan_settings(run.manifest_version), run.samples)
        self.mesh: Mesh = make_mesh(config.engine.sequence_parallel)
        self.device, self.is_first, mesh = device, self.mesh.rank == 0, self.mesh
        self.begins_at = self.find_checkpoint()
        draws = self.is_first and self.begins_at is None  # the others get their shares from the first; a checkpoint has all
        self.task: Task = make_task(config, out, verified=self.is_first, draws=draws)
        check_divisible(self.plan, self.mesh.sp)
        self.engines: dict[str, Engine] = {}
        for name, module in self.task.modules(drawn=draws).items():
            self.prepare(module)
            optim, prefix = (config.adversary, f"{name}/") if self.engines else (config.optim, "")
            self.engines[name] = Engine(module, self.task.blocks, config.engine, optim, device, prefix)
        self.engine = next(iter(self.engines.values()))
        self.ema = ShardedEMA(self.engine, config.ema_decay)
        latents = latent_cache(config, out)
        pairs = load_pairs(out) if crosses_by_identity(config.data) else None
        self.loader = BatchLoader(dataset, self.plan, config.data, self.mesh.dp_rank, self.mesh.dp_world, latents, pairs)
        self.limit(config.engine.timeout_s)
        self.denied = DenyList(dataset)
        gone = self.taken_down(self.plan.held_out)
        held_out = [s for i, s in enumerate(self.plan.held_out) if i not in gone]
        self.held_out: HeldOut = load_held_out(dataset, held_out, config.data, mesh.dp_rank, mesh.dp_world, mesh.leads, latents)
        self.exposure = Exposure(self.plan, measured=measured_on(out) if self.is_first else ())
        self.skipped = {"in_a_row": 0} | dict.fromkeys(self.engines, 0)
        self.pulse = Pulse(out, self.engine.rank)
        self.metrics: MetricsWriter | None = None
        self.work: dict[tuple[tuple[int, ...], bool], tuple[int, int]] = {}

    def train(self) -> None:
        """The run has done `config.steps` steps, is measured and exported; a finished run is only measured again."""
        start = self.resume()
        if self.is_first:
            self.metrics = MetricsWriter(self.out, start)
        self.announce(start)
        for batch, load_s in self.batches(start):
            if batch.step % self.config.validate_every == 0:
                self.validate(batch.step)
            self.step(batch, load_s)
            done = batch.step + 1
            if done % self.config.checkpoint_every == 0 or done == self.config.steps:
                self.save(done)
            if batch.step == start:  # whatever is built or compiled at a first step is there now
                self.limit(self.config.engine.step_timeout_s)
        self.validate(max(start, self.config.steps))
        self.finish()

    def limit(self, seconds: int) -> None:
        """From now on a collective that waits longer ends the run."""
        for engine in self.engines.values():
            engine.set_timeout(seconds, self.mesh.group)

    def taken_down(self, samples: list[Sample]) -> frozenset[int]:
        """Which of the samples are on the deny list, as rank 0 reads it: ranks that read it at other moments might not agree.

        TrainingError when all are.
        """
        denied = self.denied.clips() if self.is_first else {}
        banned = self.engine.sum_over_ranks(torch.tensor([float(s.clip_id in denied) for s in samples])).tolist()
        if samples and all(banned):
            raise TrainingError("hold-out: expected a clip that may be used, found all taken down; begin a new run on the newest version")
        return frozenset(i for i, b in enumerate(banned) if b)

    def prepare(self, module: torch.nn.Module) -> None:
        """The module computes its layers again and works on its part of the tokens, if the configuration says so."""
        if self.config.engine.recompute:
            if not isinstance(getattr(module, "recompute", None), bool):
                raise TrainingError(f"engine.recompute: expected a model that can compute its layers again, found {type(module).__name__}")
            module.recompute = True  # type: ignore[assignment]
        if self.mesh.group is not None:
            split_sequence(module, self.mesh.group)

    def find_checkpoint(self) -> checkpoint.CheckpointInfo | None:
        """The newest whole checkpoint, the same on all ranks, which check its hashes together; damaged ones are named in a warning."""
        found = checkpoint.candidates(self.out) if self.is_first else iter(())
        while True:
            info = next(found, None)
            step = int(sum_over_ranks(torch.tensor(info.step if info else 0), self.device))
            if step == 0:
                return None
            info = info or checkpoint.open_info(self.out, step)
            if (wrong := checkpoint.damage(info, self.mesh.rank, self.mesh.world)) is not None:
                log.warning("refused %s", wrong)
            if not sum_over_ranks(torch.tensor(float(wrong is not None)), self.device):
                return info

    def resume(self) -> int:
        """The state is that of the checkpoint that was found; gives the steps done, 0 without one."""
        info = self.begins_at
        if info is None:
            return 0
        if info.exposure["plan_digest"] != self.plan.digest:
            raise TrainingError(f"{info.path}: expected plan {self.plan.digest}, found {info.exposure['plan_digest']}")
        reader = checkpoint.Reader(info, self.engine.rank, self.engine.world)
        reader.check_shapes(self.shapes)
        self.skipped |= info.manifest.get("skipped", {})
        for name, engine in self.engines.items():
            engine.load_local_state(reader.piece, info.step - self.skipped[name])
        self.ema.load_local_state(reader.piece)
        self.exposure = Exposure(self.plan, info.exposure)
        return info.step

    def batches(self, start: int) -> Iterator[tuple[Batch, float]]:
        """This rank's batch of each step from `start` on, with the seconds it was waited for."""
        read = self.loader.batches(start, self.config.steps) if self.mesh.leads else ()
        shared = share(self.mesh, read, start, self.config.steps, self.engine.device)
        began = time.perf_counter()
        for batch in shared:
            yield batch, time.perf_counter() - began
            began = time.perf_counter()

    def step(self, batch: Batch, load_s: float) -> None:
        """One step of each of the task's optimisers over all ranks, logged. One without a finite gradient moves nothing, on any rank."""
        began = time.perf_counter()
        pixels = batch.unit(self.engine.device, self.engine.dtype)
        values: dict[str, float | None] = {}
        norms = []
        for update, engine in self.engines.items():
            loss = self.gradient(update, batch, pixels)
            named = "" if engine is self.engine else f"{update}_"
            found = self.gather({f"{named}loss": loss.total, **{f"{named}{n}": v for n, v in loss.parts.items()}}, loss.bins)
            lr = lr_at(batch.step, self.config.steps, self.config.optim if engine is self.engine else self.config.adversary)
            norms.append(engine.step(lr))
            values |= found | {f"{named}grad_norm": norms[-1], f"{named}lr": lr}
            self.skipped[update] += norms[-1] is None
        if norms[0] is not None:
            self.ema.update(batch.step + 1 - self.skipped[next(iter(self.engines))])
        if self.mesh.leads:
            self.exposure.check(batch.step, batch.clip_ids, batch.replaced, self.mesh.dp_rank, self.mesh.dp_world)
        self.exposure.saw(batch.step, *((batch.replaced, batch.shown) if self.mesh.leads else ((), ())))
        for r in batch.replaced:
            log.warning("step %d: clip %s replaced by %s: %s", r.step, r.planned, r.used, r.reason)
        self.look_after(batch.step, None in norms)
        self.log_step(batch, values, batch.pixel_shape, load_s, time.perf_counter() - began)

    def gradient(self, update: str, batch: Batch, pixels: torch.Tensor) -> SampleLoss:
        """The update's gradients over this rank's samples are in its engine, `micro_batch` samples at a time; gives their losses."""
        n, engine = len(pixels), self.engines[update]
        size = self.config.engine.micro_batch or n
        parts = []
        for low in range(0, n, size):
            part = slice(low, min(low + size, n))
            loss = self.task.loss(update, self.engines, batch.part(part), pixels[part])
            engine.backward(loss.total.sum() / n, last=part.stop == n)
            parts.append(loss)
        bins = [p.bins for p in parts if p.bins is not None]
        joined = {name: torch.cat([p.parts[name].detach() for p in parts]) for name in parts[0].parts}
        return SampleLoss(torch.cat([p.total.detach() for p in parts]), joined, torch.cat(bins) if bins else None)

    def gather(self, parts: dict[str, torch.Tensor], bins: torch.Tensor | None) -> dict[str, float | None]:
        """The mean of each part over the global batch, summed in global order in float64: the same on any number of ranks.

        With `bins`, also `loss_bin<i>`, the mean loss of the samples in bin i, for each bin that has any. None stands for a mean that is
        not finite.
        """
        rows = list(parts.values()) + ([] if bins is None else [bins])
        local = torch.stack([row.double().cpu() for row in rows])
        n, mesh = local.shape[1], self.mesh
        everywhere = torch.zeros(len(rows), n * mesh.dp_world, dtype=torch.float64)
        if mesh.leads:
            everywhere[:, mesh.dp_rank * n : (mesh.dp_rank + 1) * n] = local
        gathered = self.engine.sum_over_ranks(everywhere).tolist()
        means = {name: sum(row) / len(row) for name, row in zip(parts, gathered, strict=False)}
        of_bin: dict[int, list[float]] = {}
        for loss, number in zip(gathered[0], gathered[-1], strict=True) if bins is not None else ():
            of_bin.setdefault(int(number), []).append(loss)
        means |= {f"loss_bin{i}": sum(losses) / len(losses) for i, losses in sorted(of_bin.items())}
        return {name: mean if math.isfinite(mean) else None for name, mean in means.items()}

    def look_after(self, step: int, skipped: bool) -> None:
        """The heart has beaten; TrainingError after `MAX_SKIPPED` steps in a row that moved nothing."""
        self.pulse.beat(step)
        self.skipped["in_a_row"] = self.skipped["in_a_row"] + 1 if skipped else 0
        if skipped and self.is_first:
            log.warning("step %d: no finite gradient, nothing was moved; clips %s", step, " ".join(self.plan.clip_ids(step)))
        if self.skipped["in_a_row"] >= MAX_SKIPPED:
            raise TrainingError(
                f"step {step}: expected a finite gradient, found none in {MAX_SKIPPED} steps; clips {self.plan.clip_ids(step)}; "
                "lower optim.lr or optim.clip_norm in a new run, or go on from an earlier checkpoint by removing the later ones"
            )

    def validate(self, step: int) -> None:
        """The task's measures on held-out clips before step `step`, with the weights as they are and with their average, and pictures
        of what the latter make."""
        self.held_out = self.held_out.without(self.taken_down([*self.held_out.samples]))
        values = measure(self.engine, self.held_out, self.task)
        with self.engine.weights(self.ema.piece):
            averaged = measure(self.engine, self.held_out, self.task)
            made = show(self.engine, self.held_out, self.task, self.config.pictures)
        values |= {f"ema_{name}": value for name, value in averaged.items()}
        if self.metrics:
            self.metrics.write("validate", step, values)
            name = self.task.measures[0].format("")
            log.info("step %d/%d %s %s, averaged weights %s", step, self.config.steps, name, *map(_short, (values[name], averaged[name])))
            if made:
                self.keep_pictures(step, made)

    def keep_pictures(self, step: int, made: list[torch.Tensor]) -> None:
        """What was made lies beside what it was made of, unless one of the clips was taken down in the meantime."""
        shown = self.held_out.turns[: len(made)]
        clips = [self.held_out.samples[turn.number].clip_id for turn in shown]
        if set(self.denied.clips()) & set(clips):
            return
        note_shown(self.out, clips)  # before there is anything to see
        path = self.out / PICTURES / f"step-{step:08d}.png"
        if heard := [t.beside["sound"] for t in shown if "sound" in t.beside]:
            write_sounds(path, heard, made)
        else:
            write_pictures(path, [t.pixels for t in shown], made)

    def save(self, done: int) -> None:
        """A complete checkpoint after `done` steps is on disk, and older ones than `keep` are gone."""
        if self.metrics:
            self.metrics.sync()  # the log must not be behind the checkpoint after a power cut
            checkpoint.begin(self.out, done)
        self.engine.barrier()
        state = self.ema.local_state()
        for engine in self.engines.values():
            state |= engine.local_state()
        checkpoint.write_rank(self.out, done, self.engine.rank, self.engine.world, state, self.exposure.exceptions)
        self.engine.barrier()
        if self.is_first:
            made = checkpoint.finish(
                self.out, done, self.engine.world, self.shapes, lambda e: self.exposure.record(done, e), {"skipped": self.skipped}
            )
            checkpoint.prune(self.out, self.config.keep)
            log.info("step %d/%d checkpoint %s", done, self.config.steps, made.name)
        self.engine.barrier()

    def log_step(self, batch: Batch, values: dict[str, float | None], shape: tuple[int, ...], load_s: float, step_s: float) -> None:
        """The step is in the logs, and every `log_every` steps in a progress line with the processes' pace. Rank 0 writes."""
        says = (batch.step + 1) % self.config.log_every == 0
        if says and self.mesh.world > 1:
            own = torch.zeros(2, self.mesh.world, dtype=torch.float64)
            own[:, self.mesh.rank] = torch.tensor([load_s, probe_s(self.engine.device)])
            loads, probes = self.engine.sum_over_ranks(own).tolist()
            for sentence in stragglers(loads, probes, step_s) if self.is_first else ():
                log.warning("step %d: %s", batch.step, sentence)
        if self.metrics:
            order = {"media": batch.kind, "rolling_digest": self.exposure.rolling_digest}
            self.metrics.write("train", batch.step, values | order, board=says)
            speed = self.speed((shape[0] * self.mesh.dp_world, *shape[1:]), load_s + step_s, batch.encoded)
            self.metrics.time(batch.step, {"seconds": load_s + step_s, "load_s": load_s, **speed}, board=says)
            if says:
                text = "step %d/%d loss %s %s %.2f s/step, %s tokens/s"
                counts = (batch.step + 1, self.config.steps, _short(values["loss"]), batch.kind, load_s + step_s)
                log.info(text, *counts, _short(speed["tokens_per_s"]))

    def speed(self, shape: tuple[int, ...], seconds: float, encoded: bool) -> dict[str, float]:
        """Tokens a second of all processes; model TFLOP/s of one, and their share of the device's peak where that is known."""
        key: tuple[int, int, int, int, int] = shape  # type: ignore[assignment]
        if (key, encoded) not in self.work:  # a run has a few shapes, and the formula costs as much as the line of the log
            self.work[key, encoded] = (self.task.flops(key, encoded), self.task.tokens(key))
        flops, tokens = self.work[key, encoded]
        tflops = flops / seconds / self.mesh.world / 1e12
        known = {"mfu": tflops / self.peak_tflops} if self.peak_tflops else {}
        return {"tokens_per_s": tokens / seconds, "tflops": tflops, **known}

    def announce(self, start: int) -> None:
        """One line says what begins."""
        if self.is_first:
            n, videos = len(self.plan.samples), sum(s.kind == "video" for s in self.plan.samples)
            parameters = sum(self.engine.numel(name) for name in self.engine.shapes)
            text = "step %d/%d start: %d clips (%d videos), %d held out, %d refused, %d parameters, %d processes on %s"
            counts = (n, videos, len(self.held_out.samples), len(self.plan.refused), parameters)
            log.info(text, start, self.config.steps, *counts, self.engine.world, self.engine.device.type)

    def finish(self) -> None:
        """The averaged weights of the last checkpoint are exported, and the run is marked as done. Rank 0 writes.

        TrainingError when that checkpoint was damaged since: the same command trains its steps again.
        """
        self.limit(self.config.engine.timeout_s)  # the others wait while the first reads and writes all weights
        info = self.find_checkpoint()
        if self.is_first:
            if info is None or info.step < self.config.steps:
                found = None if info is None else info.step
                raise TrainingError(f"{self.out}: expected a whole checkpoint of step {self.config.steps}, found {found}; run again")
            data = self.config.data
            known = ("size_px", "resize_px", "n_frames", "shapes", "sound_frames", "holdout_share")
            described = self.task.description() | {"trained_on": {name: getattr(data, name) for name in known}}
            described |= {"release": self.release} if self.release else {}
            path = export_weights(info, self.config.stage, described, self.out / "export")
            log.info("step %d/%d exported %s", info.step, self.config.steps, path.name)
        if self.metrics:
            self.metrics.close()
            mark_done(self.out, self.config.steps)
        self.engine.barrier()

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of all engines' parameters by name."""
        return {name: shape for engine in self.engines.values() for name, shape in engine.shapes.items()}

    @cached_property
    def peak_tflops(self) -> float | None:
        """What one device can do in bfloat16, as configured or by its name; None when it is not known."""
        name = torch.cuda.get_device_name(self.engine.device) if self.engine.device.type == "cuda" else ""
        return self.config.engine.peak_tflops or next((tflops for known, tflops in PEAK_TFLOPS.items() if known in name), None)


PEAK_TFLOPS = {"H100": 989.0, "H200": 989.0, "B200": 2250.0, "A100": 312.0}
"""Dense bfloat16 rates of the vendor's data sheets, by a part of the device's name."""


def lr_at(step: int, steps: int, config: OptimConfig) -> float:
    """The learning rate of step `step` (from 0): linear warm-up, then half a cosine from lr to lr * final_lr_share at the last step."""
    warm = min(1.0, (step + 1) / max(1, config.warmup_steps))
    progress = max(0, step + 1 - config.warmup_steps) / max(1, steps - config.warmup_steps)
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    return config.lr * warm * (config.final_lr_share + (1 - config.final_lr_share) * cosine)


def _short(value: float | None) -> str:
    return "none" if value is None else f"{value:.4g}"
