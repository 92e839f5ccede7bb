"""Who works with whom: data parallel groups of sequence parallel ranks. Neighbours share a sample, so their traffic stays in the node."""

import dataclasses
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

from training.data.batch import Batch, Replaced
from training.errors import TrainingError


@dataclass(frozen=True, slots=True, kw_only=True)
class Mesh:
    """This rank's place: group `dp_rank` of `dp_world` has `sp` ranks that work on the same samples, each on its part of the tokens."""

    rank: int
    world: int
    sp: int
    dp_rank: int
    dp_world: int
    group: "dist.ProcessGroup | None"
    """The ranks that share this rank's samples; None when it has them alone."""

    @property
    def leads(self) -> bool:
        """Whether this rank reads the samples for its group, and speaks for it where each sample counts once."""
        return self.rank % self.sp == 0


def make_mesh(sp: int) -> Mesh:
    """The mesh of the running process group; every rank calls it. TrainingError when `sp` does not divide the number of processes."""
    rank, world = dist.get_rank(), dist.get_world_size()
    if world % sp:
        raise TrainingError(f"engine.sequence_parallel: expected a divisor of {world} processes, found {sp}")
    mine = None
    for first in range(0, world, sp) if sp > 1 else ():
        made = dist.new_group(list(range(first, first + sp)))  # every rank has to make every group
        mine = made if first <= rank < first + sp and isinstance(made, dist.ProcessGroup) else mine
    return Mesh(rank=rank, world=world, sp=sp, dp_rank=rank // sp, dp_world=world // sp, group=mine)


def share(mesh: Mesh, batches: Iterable[Batch], start: int, end: int, device: torch.device) -> Iterator[Batch]:
    """The batches of steps start <= step < end, as the leader of each group reads them.

    One rank reads and decodes for its group: less work, and what it replaced or refused is the same for all by construction.
    """
    if mesh.group is None:
        yield from batches
        return
    read = iter(batches) if mesh.leads else None
    leader = mesh.rank - mesh.rank % mesh.sp
    for _ in range(start, end):
        batch = next(read) if read else None
        said = json.loads(_broadcast_bytes(b"" if batch is None else _describe(batch), leader, mesh.group, device))
        shape, kind = said.pop("shape"), torch.uint8 if said.pop("bytes") else torch.float32
        pixels = _broadcast(torch.empty(shape, dtype=kind) if batch is None else batch.pixels, leader, mesh.group, device)
        beside = {
            name: _broadcast(torch.empty(size, dtype=torch.uint8) if batch is None else batch.beside[name], leader, mesh.group, device)
            for name, size in said.pop("beside").items()
        }
        replaced = tuple(Replaced(**row) for row in said.pop("replaced"))
        lists: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in said.items()}
        yield Batch(pixels=pixels, replaced=replaced, beside=beside, **lists)


def _describe(batch: Batch) -> bytes:
    """All of a batch but its pixels and what is beside them, and the shapes of these, as JSON."""
    tensors = ("pixels", "beside", "replaced")
    fields: dict[str, Any] = {f.name: getattr(batch, f.name) for f in dataclasses.fields(batch) if f.name not in tensors}
    return json.dumps(
        {
            **fields,
            "replaced": [r.row() for r in batch.replaced],
            "shape": list(batch.pixels.shape),
            "beside": {name: list(values.shape) for name, values in batch.beside.items()},
            "bytes": batch.pixels.dtype == torch.uint8,
        }
    ).encode()


def _broadcast(values: torch.Tensor, leader: int, group: "dist.ProcessGroup", device: torch.device) -> torch.Tensor:
    """The leader's values, on every rank of its group. Contiguous: what is sent is the memory, and pixels come permuted from their frames."""
    there = values.to(device).contiguous()
    dist.broadcast(there, src=leader, group=group)
    return there


def _broadcast_bytes(data: bytes, leader: int, group: "dist.ProcessGroup", device: torch.device) -> bytes:
    """The leader's bytes, on every rank of its group."""
    size = torch.tensor([len(data)], device=device)
    dist.broadcast(size, src=leader, group=group)
    values = (
        torch.frombuffer(bytearray(data), dtype=torch.uint8).to(device)
        if data
        else torch.empty(int(size), dtype=torch.uint8, device=device)
    )
    dist.broadcast(values, src=leader, group=group)
    return values.cpu().numpy().tobytes()
