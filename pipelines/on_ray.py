"""Thin wiring of stages to Ray Data: units in, tasks or actors that hold the stage's job, markers out. No domain logic.

Rows never ride back through the object store: a worker writes its unit's parts and returns two counts.
"""

import contextlib
import logging
import math
import os
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal, TypeVar

from pipelines.config import ConfigError
from pipelines.progress import stderr_to
from pipelines.stage import Job, Place, Stage, canonical
from pipelines.work import Unit, run_unit

T = TypeVar("T")
R = TypeVar("R")

_OBJECT_STORE_BYTES = 256 << 20
"""Enough: units are kilobytes and results are counts. Ray's default takes 30 % of the machine's memory."""
_MOST_UNITS = 8
"""Of a task: what a worker that dies may have to do again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """Where stages run. `name` is ray or local (this process: for debugging); `address` joins a running Ray cluster."""

    name: Literal["ray", "local"] = "ray"
    address: str | None = None
    cpus: int | None = None
    """Cores to use here; all of them when null."""
    spark_master: str | None = None
    """Spark master such as spark://host:7077; a local session when null."""
    spark_memory: str = "2g"
    """Java heap of the Spark driver: ours, ample for a laptop's datasets."""


def run(units: list[tuple[Stage, Unit]], config: Any, place: Place, engine: EngineConfig) -> Iterator[dict[str, int]]:
    """Every unit is done by the job of its stage when the iterator ends; yields the counts of each as it finishes.

    Units of several stages may come together where none needs what another makes and their costs are of one kind: one start of the engine
    serves them all.
    """
    if not units:
        return
    if engine.name == "local":
        jobs = {stage.name: stage.make(config, place) for stage, _ in units}
        yield from (run_unit(stage, jobs[stage.name], place, unit) for stage, unit in units)
    else:
        yield from _run_ray(units, config, place, engine)


def start(engine: EngineConfig) -> None:
    """Ray is up: the cluster at `address`, or a quiet local one."""
    import ray

    if ray.is_initialized():
        return
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # its notes on our actors are for Ray's own developers
    os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    options: dict[str, Any] = {
        "logging_level": logging.ERROR,
        "log_to_driver": False,
        "configure_logging": True,
        "job_config": _path_of_workers(),
    }
    with stderr_to(Path(tempfile.gettempdir()) / "dailies-ray.log"):
        _init(ray, engine, options)
    _quiet(ray)


def _path_of_workers() -> Any:
    """A job whose workers import from where our packages lie, and not from the current directory, which Ray puts first on their path:
    a module that lies beside the media would run as a library in every worker."""
    from ray.job_config import JobConfig

    job: Any = JobConfig()
    job._client_job = True  # the one switch Ray has for it: all that it does in `ray.init` is to leave the current directory out
    job._py_driver_sys_path = [str(Path(__file__).resolve().parent.parent)]
    return job


def _init(ray: Any, engine: EngineConfig, options: dict[str, Any]) -> None:
    if engine.address:
        ray.init(engine.address, **options)
    else:
        ray.init(num_cpus=engine.cpus or os.cpu_count(), include_dashboard=False, object_store_memory=_OBJECT_STORE_BYTES, **options)


def stop() -> None:
    """The local Ray, if any, is down."""
    if "ray" not in sys.modules:  # a run that had nothing to do has not started it, and importing it takes a second
        return
    import ray

    with contextlib.suppress(Exception):  # a cluster that is gone already is what we want
        ray.shutdown()


class _Actor:
    """Holds a stage's job, weights included, for as long as the stage runs."""

    def __init__(self, stage_name: str, config: Any, dataset: str) -> None:
        self.arguments = (config, dataset)
        _job(stage_name, *self.arguments)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        return _run_batch(batch, *self.arguments)


def _run_batch(batch: dict[str, Any], config: Any, dataset: str) -> dict[str, Any]:
    """The units of a batch are done; their counts."""
    units = zip(*(batch[k] for k in ("stage", "stem", "n_rows", "cost", "rows")), strict=True)
    counts = [run_here(str(name), Unit(str(stem), int(n), float(c), bytes(rows)), config, dataset) for name, stem, n, c, rows in units]
    return {name: [c[name] for c in counts] for name in ("rows_in", "rows_out")}


def run_here(stage_name: str, unit: Unit, config: Any, dataset: str) -> dict[str, int]:
    """The unit is done in this process, whose job of the stage stays for the next; its counts."""
    stage, job, place = _job(stage_name, config, dataset)
    return run_unit(stage, job, place, unit)


_jobs: dict[tuple[str, str, str], tuple[Stage, Job, Place]] = {}
"""Jobs of this worker process: Ray runs many tasks in one process, and a job may hold a decoder's process or weights."""


def _job(stage_name: str, config: Any, dataset: str) -> tuple[Stage, Job, Place]:
    from pipelines.plan import stage_named

    stage, place = stage_named(stage_name), Place(Path(dataset))
    key = (stage_name, canonical(config), dataset)  # not the stage's digest: that would have every worker hash the weights
    if key not in _jobs:
        _jobs[key] = (stage, stage.make(config, place), place)
    return _jobs[key]


def _run_ray(units: list[tuple[Stage, Unit]], config: Any, place: Place, engine: EngineConfig) -> Iterator[dict[str, int]]:
    import pyarrow as pa
    import ray

    start(engine)
    resources = ray.cluster_resources()
    table = pa.table(
        {
            "stage": [s.name for s, _ in units],
            "stem": [u.stem for _, u in units],
            "n_rows": [u.n_rows for _, u in units],
            "cost": [u.cost for _, u in units],
            "rows": [u.rows for _, u in units],
        }
    )
    arguments = (config, str(place.dataset.absolute()))
    stages = {stage.name: stage for stage, _ in units}
    actors = len(stages) == 1 and any(s.weights(config) or s.on_gpu(config) for s in stages.values())
    # A block is a task. Blocks keep the order dearest first, and each worker takes the next one as it gets free; an actor has one waiting.
    sizes = [1] * len(units) if actors else block_sizes([u.cost for _, u in units], int(resources.get("CPU", 1)))
    ends = accumulate(sizes)
    dataset = ray.data.from_arrow([table.slice(end - n, n) for end, n in zip(ends, sizes, strict=True)])
    if actors:
        # A fixed pool: a job is single threaded, and an actor holds its weights for all of its units.
        size, gpus = actors_of(next(iter(stages.values())), config, len(units), resources)
        pool = ray.data.ActorPoolStrategy(size=size)
        done = dataset.map_batches(_Actor, fn_constructor_args=(*stages, *arguments), batch_size=1, compute=pool, num_cpus=1, num_gpus=gpus)
    else:
        # Tasks, because Ray reuses their processes from stage to stage: starting one costs seconds of imports, an actor's too.
        run_batch: Any = _run_batch
        done = dataset.map_batches(run_batch, fn_args=arguments, batch_size=1, num_cpus=1)
    for row in done.iter_rows():
        yield {"rows_in": int(row["rows_in"]), "rows_out": int(row["rows_out"])}


def block_sizes(costs: Sequence[float], workers: int) -> list[int]:
    """How many units each task gets, in their order: as many as come to half of a worker's share of what is left, at most eight.

    Ray Data looks each 0.1 s for output and for tasks that ended, so a worker rests for 0.17 s between two tasks: a third of its time on
    short clips. Shares that shrink let workers end together (factoring: Hummel, Schonberg and Flynn 1992), down to a twelfth of a worker's
    share of all.
    """
    sizes = list[int]()
    left, held = math.fsum(costs), 0.0
    least = left / 12
    for cost in costs:
        if sizes and sizes[-1] < _MOST_UNITS and (held + cost) * workers <= max(left / 2, least):
            sizes[-1] += 1
            held += cost
        else:
            left -= held
            sizes.append(1)
            held = cost
    return sizes


def actors_of(stage: Stage, config: Any, n_units: int, resources: dict[str, float]) -> tuple[int, int]:
    """(how many actors a stage with weights gets, GPUs that each holds): one a core; where its networks are on GPUs, one a GPU, so that all
    GPUs of a cluster work and none holds the weights of every core. ConfigError where there is none."""
    cores, gpus = int(resources.get("CPU", 1)), int(resources.get("GPU", 0))
    if not stage.on_gpu(config):
        return max(1, min(n_units, cores)), 0
    if not gpus:
        raise ConfigError(f"{stage.name}: expected a GPU for the `device` of its settings, found none in the Ray cluster; take device=cpu")
    return max(1, min(n_units, gpus)), 1


def run_workers(
    worker: Callable[..., Callable[[Sequence[T]], list[R]]], arguments: tuple[Any, ...], chunks: Sequence[Sequence[T]], engine: EngineConfig
) -> Iterator[tuple[Sequence[T], list[R] | None]]:
    """Each chunk with what a `worker(*arguments)` makes of it, as they get done; workers hold their weights as long as there is work.

    A chunk whose worker dies (memory, a decoder that crashes) is given to others one by one; a single one that kills its worker comes
    with None. Actors have a core each, or a GPU each where the cluster has any.
    """
    if engine.name == "local" or not chunks:
        local = worker(*arguments) if chunks else None
        yield from ((chunk, local(chunk)) for chunk in chunks if local)
        return
    import ray

    start(engine)
    resources = ray.cluster_resources()
    gpus = int(resources.get("GPU", 0))
    remote: Any = ray.remote(_Worker)
    actor = remote.options(num_cpus=0 if gpus else 1, num_gpus=1 if gpus else 0)
    waiting, running = deque(chunks), dict[Any, tuple[Any, Sequence[T]]]()
    idle = [actor.remote(worker, arguments) for _ in range(max(1, min(len(chunks), gpus or int(resources.get("CPU", 1)))))]
    while waiting or running:
        while waiting and idle:
            taken, chunk = idle.pop(), waiting.popleft()
            running[taken.run.remote(chunk)] = (taken, chunk)
        (done,), _ = ray.wait(list(running), num_returns=1)
        taken, chunk = running.pop(done)
        try:
            made = ray.get(done)
        except ray.exceptions.RayActorError:
            idle.append(actor.remote(worker, arguments))
            if len(chunk) > 1:
                waiting.extend([one] for one in chunk)
            else:
                yield chunk, None
            continue
        idle.append(taken)
        yield chunk, made


class _Worker:
    """A worker in a process of its own."""

    def __init__(self, worker: Callable[..., Callable[[Any], Any]], arguments: tuple[Any, ...]) -> None:
        self._worker = worker(*arguments)

    def run(self, chunk: Any) -> Any:
        return self._worker(chunk)


def _quiet(ray: Any) -> None:
    """Our own progress is shown; Ray Data's bars and logs would fight with it."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.max_errored_blocks = 0
    context.target_max_block_size = 1  # counts of each unit come as it ends, and not with the last of its task
    for name in ("ray.data", "ray"):
        logging.getLogger(name).setLevel(logging.ERROR)
