"""Checkpoints that are whole or not there, that say what they hold, and that any number of processes can read.

    checkpoints/step-00000100/
      state-00000-of-00002.safetensors   one rank's pieces: weight/, exp_avg/, exp_avg_sq/, ema/ by parameter name, flat float32
      rank-00000.json                    that file's size and hash, and the rank's exceptions
      exposure.json                      what was seen up to here
      manifest.json                      step, world, shapes of all parameters, size and SHA-256 of every other file

Everything is written under a name ending in `.tmp`, synced, and renamed; the manifest is written last. Reading checks every hash: a
damaged checkpoint is refused by name and the one before it is used. The slices are by parameter and flat index (`parallel/slices.py`),
so a run goes on with another number of processes, bit for bit the same state.
"""

import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from manifests.files import sync_folder, write_atomic
from training.errors import CheckpointError
from training.parallel.slices import read_span, span

if TYPE_CHECKING:
    from torch import Tensor

FOLDER = "checkpoints"
FORMAT = "dailies-checkpoint/v1"
_NAME = re.compile(r"step-(\d{8,})")

log = logging.getLogger("dailies.train")


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointInfo:
    """A complete checkpoint: its folder, the steps done, its exposure record and its manifest."""

    path: Path
    step: int
    exposure: dict[str, Any]
    manifest: dict[str, Any]


def list_complete(out: Path, *, verify: bool = False) -> list[CheckpointInfo]:
    """The complete checkpoints under a run's folder, oldest first.

    Sizes of all files and the hash of the exposure record are always checked, every hash with `verify` (reads all bytes). Damaged ones
    are left out; a warning names them and what is wrong.
    """
    found = []
    for path in sorted((out / FOLDER).glob("step-*")):
        if _NAME.fullmatch(path.name):
            try:
                found.append(read_info(path, verify=verify))
            except CheckpointError as error:
                log.warning("refused %s", error)
    return found


def read_info(path: Path, *, verify: bool) -> CheckpointInfo:
    """The checkpoint's manifest and exposure record, checked; CheckpointError names the file, the expected and the found."""
    manifest = _read_json(path / "manifest.json")
    if manifest.get("format") != FORMAT:
        raise CheckpointError(f"{path}: expected format {FORMAT}, found {manifest.get('format')}")
    try:
        for name, entry in manifest["files"].items():
            _check(path / name, entry, hashed=verify or name == "exposure.json")
        return CheckpointInfo(path=path, step=manifest["step"], exposure=_read_json(path / "exposure.json"), manifest=manifest)
    except (KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path / 'manifest.json'}: expected step, files with size_bytes and sha256, found {error!r}") from error


def newest(out: Path) -> CheckpointInfo | None:
    """The newest complete checkpoint, every hash checked; damaged newer ones are named in a warning and passed over."""
    for info in candidates(out):
        if (wrong := damage(info)) is None:
            return info
        log.warning("refused %s", wrong)
    return None


def candidates(out: Path) -> Iterator[CheckpointInfo]:
    """The checkpoints that may be complete, newest first: sizes are checked, hashes are left to `damage`."""
    for path in sorted((out / FOLDER).glob("step-*"), reverse=True):
        if _NAME.fullmatch(path.name):
            try:
                yield read_info(path, verify=False)
            except CheckpointError as error:
                log.warning("refused %s", error)


def damage(info: CheckpointInfo, part: int = 0, parts: int = 1) -> str | None:
    """What is wrong with the checkpoint's files, of `parts` shares of them the share `part`; None when nothing is. Many processes share the
    reading: one alone would take minutes for the 480 GB of 30 B parameters, and the others would wait."""
    for name in sorted(info.manifest["files"])[part::parts]:
        try:
            _check(info.path / name, info.manifest["files"][name], hashed=True)
        except CheckpointError as error:
            return str(error)
    return None


def open_info(out: Path, step: int) -> CheckpointInfo:
    """The checkpoint after `step` steps, which another process has looked at: thousands of processes do not ask for the sizes of as many files."""
    path = out / FOLDER / f"step-{step:08d}"
    return CheckpointInfo(path=path, step=step, exposure=_read_json(path / "exposure.json"), manifest=_read_json(path / "manifest.json"))


def begin(out: Path, step: int) -> Path:
    """An empty folder under a temporary name, to be filled by all ranks. Called by rank 0."""
    temporary = _temporary(out, step)
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    return temporary


def write_rank(out: Path, step: int, rank: int, world: int, state: dict[str, "Tensor"], exceptions: list[dict[str, Any]]) -> None:
    """This rank's pieces and exceptions are on disk in the temporary folder. Called by every rank after `begin`."""
    from safetensors.torch import save_file

    folder = _temporary(out, step)
    path = folder / _state_name(rank, world)
    save_file(state, path)
    path.chmod(0o644)  # safetensors makes it for its owner only, unlike everything else in the folder
    with path.open("rb+") as file:
        os.fsync(file.fileno())
    entry = {"file": path.name, "size_bytes": path.stat().st_size, "sha256": _hash(path), "exceptions": exceptions}
    write_atomic(folder / _rank_name(rank), json.dumps(entry).encode())


def finish(
    out: Path,
    step: int,
    world: int,
    shapes: dict[str, tuple[int, ...]],
    exposure: Callable[[list[dict[str, Any]]], dict[str, Any]],
    extra: dict[str, Any] | None = None,
) -> Path:
    """The checkpoint is complete under its final name. Called by rank 0 after every rank's `write_rank`.

    `exposure` makes the record from the exceptions of all ranks; `extra` goes into the manifest.
    """
    folder, final = _temporary(out, step), out / FOLDER / f"step-{step:08d}"
    ranks = [_read_json(folder / _rank_name(rank)) for rank in range(world)]
    record = exposure([e for rank in ranks for e in rank["exceptions"]])
    write_atomic(folder / "exposure.json", json.dumps(record, indent=1).encode())
    files = {r["file"]: {"size_bytes": r["size_bytes"], "sha256": r["sha256"]} for r in ranks}
    for name in ["exposure.json", *(_rank_name(rank) for rank in range(world))]:
        files[name] = {"size_bytes": (folder / name).stat().st_size, "sha256": _hash(folder / name)}
    manifest = {"format": FORMAT, "step": step, "world": world, "parameters": shapes, "files": files, **(extra or {})}
    write_atomic(folder / "manifest.json", json.dumps(manifest, indent=1).encode())
    if final.exists():  # only a damaged one can be here: a complete one would have been resumed from
        shutil.rmtree(final)
    os.replace(folder, final)
    sync_folder(final.parent)
    return final


def prune(out: Path, keep: int) -> None:
    """Only the newest `keep` complete checkpoints are left; damaged and temporary ones older than those go too."""
    complete = list_complete(out)[-keep:]
    for path in (out / FOLDER).glob("step-*"):
        named = _NAME.fullmatch(path.name.removesuffix(".tmp"))  # what has another name is not ours
        if named and complete and int(named[1]) < complete[0].step:
            shutil.rmtree(path)


class Reader:
    """Reads any rank's pieces out of a checkpoint, whatever number of ranks wrote it."""

    def __init__(self, info: CheckpointInfo, rank: int, world: int) -> None:
        self._shapes, self._saved_world = info.manifest["parameters"], info.manifest["world"]
        self._path, self._rank, self._world = info.path, rank, world
        self._files: dict[int, Any] = {}

    def check_shapes(self, shapes: dict[str, tuple[int, ...]]) -> None:
        """The checkpoint is of a model with these parameters; CheckpointError names the first that differs."""
        expected, found = {n: list(s) for n, s in shapes.items()}, self._shapes
        for name in sorted(expected.keys() | found.keys()):
            if expected.get(name) != found.get(name):
                raise CheckpointError(f"checkpoint: parameter {name}: expected shape {expected.get(name)}, found {found.get(name)}")

    def piece(self, kind: str, name: str) -> "Tensor":
        """This rank's piece of 'weight', 'exp_avg', 'exp_avg_sq' or 'ema' of a parameter, flat."""
        start, end = span(self._numel(name), self._rank, self._world)
        return self._read(kind, name, start, end)

    def whole(self, kind: str, name: str) -> "Tensor":
        """The whole parameter in its shape."""
        return self._read(kind, name, 0, self._numel(name)).reshape(self._shapes[name])

    def names(self, kind: str = "weight") -> list[str]:
        """Names of all parameters that have this kind of state, in the model's order; a discriminator's have no 'ema'."""
        held = set(self._file(0).keys())
        return [name for name in self._shapes if f"{kind}/{name}" in held]

    def _file(self, rank: int) -> Any:
        """The file of a rank that wrote, open from its first use on: of thousands a rank reads one or two."""
        from safetensors import safe_open

        if rank not in self._files:
            self._files[rank] = safe_open(self._path / _state_name(rank, self._saved_world), framework="pt")
        return self._files[rank]

    def _numel(self, name: str) -> int:
        numel = 1
        for side in self._shapes[name]:
            numel *= side
        return numel

    def _read(self, kind: str, name: str, start: int, end: int) -> "Tensor":
        def read(rank: int, first: int, last: int) -> "Tensor":
            piece: Tensor = self._file(rank).get_slice(f"{kind}/{name}")[first:last]
            return piece

        return read_span(start, end, self._numel(name), self._saved_world, read)


def _check(path: Path, entry: dict[str, Any], *, hashed: bool) -> None:
    size = path.stat().st_size if path.is_file() else None
    if size != entry["size_bytes"]:
        raise CheckpointError(f"{path}: expected {entry['size_bytes']} bytes, found {'no file' if size is None else size}")
    if hashed and (found := _hash(path)) != entry["sha256"]:
        raise CheckpointError(f"{path}: expected SHA-256 {entry['sha256']}, found {found}")


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except OSError as error:
        raise CheckpointError(f"{path}: expected a file that can be read, found {error.strerror or error}") from error
    except ValueError as error:
        raise CheckpointError(f"{path}: expected JSON, found {error}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: expected a JSON object, found {type(value).__name__}")
    return value


def _temporary(out: Path, step: int) -> Path:
    return out / FOLDER / f"step-{step:08d}.tmp"


def _state_name(rank: int, world: int) -> str:
    return f"state-{rank:05d}-of-{world:05d}.safetensors"


def _rank_name(rank: int) -> str:
    return f"rank-{rank:05d}.json"
