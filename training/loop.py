"""The one training loop, top to bottom: plan, batch, forward, backward, clip, check, step, log, measure, checkpoint.

Its only state beside weights and optimiser is the number of steps done. Killed at any time and started again, it goes on from its
newest complete checkpoint and writes, bit for bit, the log it would have written.
"""

import logging
import math
import time
from pathlib import Path

import torch

from training import checkpoint
from training.config import TrainConfig
from training.data.batch import Batch, BatchLoader
from training.data.index import Sample
from training.data.plan import Plan
from training.errors import TrainingError
from training.export import export_weights
from training.exposure import Exposure
from training.folder import mark_done
from training.metrics import MetricsWriter
from training.parallel.ema import ShardedEMA
from training.parallel.engine import Engine, OptimConfig
from training.pictures import write_pictures
from training.tasks.make import make_task
from training.tasks.task import Task
from training.validate import HeldOut, load_held_out, measure, show

log = logging.getLogger("dailies.train")


class Run:
    """Everything one process of a run holds. `train` is the loop; the other methods are its lines."""

    def __init__(self, config: TrainConfig, dataset: Path, out: Path, samples: list[Sample], version: int, device: torch.device) -> None:
        self.config, self.out = config, out
        self.plan = Plan(config.plan_settings(version), samples)
        self.task: Task = make_task(config, out)
        rank, world = torch.distributed.get_rank(), torch.distributed.get_world_size()
        micro_batch = config.data.global_batch // world
        module = self.task.module()
        if config.engine.recompute:
            if not isinstance(getattr(module, "recompute", None), bool):
                raise TrainingError(f"engine.recompute: expected a model that can compute its layers again, found {type(module).__name__}")
            module.recompute = True  # type: ignore[assignment]
        self.engine = Engine(module, self.task.blocks, config.engine, config.optim, micro_batch, device)
        self.ema = ShardedEMA(self.engine, config.ema_decay)
        self.loader = BatchLoader(dataset, self.plan, config.data, rank, world)
        self.held_out: HeldOut = load_held_out(dataset, self.plan.held_out, config.data, rank, world)
        self.exposure = Exposure(self.plan)
        self.is_first = rank == 0
        self.metrics: MetricsWriter | None = None

    def train(self) -> None:
        """The run has done `config.steps` steps, is measured and exported; a finished run is only measured again."""
        start = self.resume()
        if self.is_first:
            self.metrics = MetricsWriter(self.out, start)
        self.announce(start)
        for batch in self.loader.batches(start, self.config.steps):
            began = time.perf_counter()
            if batch.step % self.config.validate_every == 0:
                self.validate(batch.step)
            self.step(batch, began)
            done = batch.step + 1
            if done % self.config.checkpoint_every == 0 or done == self.config.steps:
                self.save(done)
        self.validate(max(start, self.config.steps))
        self.finish()

    def resume(self) -> int:
        """The state is that of the newest complete checkpoint; gives the steps done, 0 without one. All ranks agree on rank 0's choice."""
        info = checkpoint.newest(self.out) if self.is_first else None
        step = int(self.engine.sum_over_ranks(torch.tensor(info.step if info else 0)))
        if step == 0:
            return 0
        info = info or checkpoint.read_info(self.out / checkpoint.FOLDER / f"step-{step:08d}", verify=False)
        if info.exposure["plan_digest"] != self.plan.digest:
            raise TrainingError(f"{info.path}: expected plan {self.plan.digest}, found {info.exposure['plan_digest']}")
        reader = checkpoint.Reader(info, self.engine.rank, self.engine.world)
        reader.check_shapes(self.engine.shapes)
        self.engine.load_local_state(reader.piece, step)
        self.ema.load_local_state(reader.piece)
        self.exposure = Exposure(self.plan, info.exposure)
        return step

    def step(self, batch: Batch, began: float) -> None:
        """One optimiser step over all ranks, checked and logged."""
        pixels = batch.pixels.to(self.engine.device, self.engine.dtype)
        loss = self.task.loss(self.engine, batch, pixels)
        values = self.gather({"loss": loss.total.detach(), **loss.parts}, loss.bins)
        if not all(math.isfinite(v) for v in values.values()):
            raise TrainingError(f"step {batch.step}: expected a finite loss, found {values}; clips {self.plan.clip_ids(batch.step)}")
        self.engine.backward(loss.total.mean())
        lr = lr_at(batch.step, self.config.steps, self.config.optim)
        norm = self.engine.step(lr)
        if not math.isfinite(norm) or norm < 0:  # DeepSpeed says -1 for a norm that is not a number
            raise TrainingError(f"step {batch.step}: expected a finite gradient, found norm {norm}; clips {self.plan.clip_ids(batch.step)}")
        self.ema.update(batch.step + 1)
        self.exposure.saw(batch.step, batch.replaced)
        for r in batch.replaced:
            log.warning("step %d: clip %s replaced by %s: %s", r.step, r.planned, r.used, r.reason)
        self.log_step(batch, values | {"grad_norm": norm, "lr": lr}, time.perf_counter() - began)

    def gather(self, parts: dict[str, torch.Tensor], bins: torch.Tensor | None) -> dict[str, float]:
        """The mean of each part over the global batch, summed in global order in float64: the same on any number of ranks.

        With `bins`, also `loss_bin<i>`, the mean loss of the samples in bin i, for each bin that has any.
        """
        rows = list(parts.values()) + ([] if bins is None else [bins])
        local = torch.stack([row.double().cpu() for row in rows])
        n = local.shape[1]
        everywhere = torch.zeros(len(rows), n * self.engine.world, dtype=torch.float64)
        everywhere[:, self.engine.rank * n : (self.engine.rank + 1) * n] = local
        gathered = self.engine.sum_over_ranks(everywhere).tolist()
        means = {name: sum(row) / len(row) for name, row in zip(parts, gathered, strict=False)}
        of_bin: dict[int, list[float]] = {}
        for loss, number in zip(gathered[0], gathered[-1], strict=True) if bins is not None else ():
            of_bin.setdefault(int(number), []).append(loss)
        return means | {f"loss_bin{i}": sum(losses) / len(losses) for i, losses in sorted(of_bin.items())}

    def validate(self, step: int) -> None:
        """The task's measures on held-out clips before step `step`, with the weights as they are and with their average, and pictures
        of what the latter make."""
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
                shown = [t.pixels for t in self.held_out.turns][: len(made)]
                write_pictures(self.out / "pictures" / f"step-{step:08d}.png", shown, made)

    def save(self, done: int) -> None:
        """A complete checkpoint after `done` steps is on disk, and older ones than `keep` are gone."""
        if self.metrics:
            self.metrics.sync()  # the log must not be behind the checkpoint after a power cut
            checkpoint.begin(self.out, done)
        self.engine.barrier()
        state = self.engine.local_state() | self.ema.local_state()
        checkpoint.write_rank(self.out, done, self.engine.rank, self.engine.world, state, self.exposure.exceptions)
        self.engine.barrier()
        if self.is_first:
            made = checkpoint.finish(self.out, done, self.engine.world, self.engine.shapes, lambda e: self.exposure.record(done, e))
            checkpoint.prune(self.out, self.config.keep)
            log.info("step %d/%d checkpoint %s", done, self.config.steps, made.name)
        self.engine.barrier()

    def log_step(self, batch: Batch, values: dict[str, float], seconds: float) -> None:
        """The step is in the logs, and every `log_every` steps in a progress line. Rank 0 writes."""
        if self.metrics:
            order = {"media": batch.kind, "rolling_digest": self.exposure.rolling_digest}
            self.metrics.write("train", batch.step, values | order)
            self.metrics.time(batch.step, seconds)
            if (batch.step + 1) % self.config.log_every == 0:
                log.info("step %d/%d loss %.4f %s %.2f s/step", batch.step + 1, self.config.steps, values["loss"], batch.kind, seconds)

    def announce(self, start: int) -> None:
        """One line says what begins."""
        if self.is_first:
            n, videos = len(self.plan.samples), sum(s.kind == "video" for s in self.plan.samples)
            parameters = sum(self.engine.numel(name) for name in self.engine.shapes)
            text = "step %d/%d start: %d clips (%d videos), %d held out, %d refused, %d parameters, %d processes on %s"
            counts = (n, videos, len(self.held_out.samples), len(self.plan.refused), parameters)
            log.info(text, start, self.config.steps, *counts, self.engine.world, self.engine.device.type)

    def finish(self) -> None:
        """The averaged weights of the last checkpoint are exported, and the run is marked as done. Rank 0 writes."""
        if self.is_first and (info := checkpoint.newest(self.out)):
            path = export_weights(info, self.config.stage, self.task.description(), self.out / "export")
            log.info("step %d/%d exported %s", info.step, self.config.steps, path.name)
        if self.metrics:
            self.metrics.close()
            mark_done(self.out, self.config.steps)
        self.engine.barrier()


def lr_at(step: int, steps: int, config: OptimConfig) -> float:
    """The learning rate of step `step` (from 0): linear warm-up, then half a cosine from lr to lr * final_lr_share at the last step."""
    warm = min(1.0, (step + 1) / max(1, config.warmup_steps))
    progress = max(0, step + 1 - config.warmup_steps) / max(1, steps - config.warmup_steps)
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    return config.lr * warm * (config.final_lr_share + (1 - config.final_lr_share) * cosine)


def _short(value: float | None) -> str:
    return "none" if value is None else f"{value:.4g}"
