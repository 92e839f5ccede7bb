"""The exports under a folder: what a curriculum, or a run, has left for others to use, found by stage or by the digest of its weights."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.errors import TrainingError
from training.export import CONFIG, WEIGHTS

_DEPTHS = ("", "export", "average", "*/export", "*/average", "*/*/export", "*/*/average")
"""Where exports lie: a folder that is one, a run's, a curriculum's, and those of a folder of curricula."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """Trained weights and what is known of them."""

    folder: Path
    stage: str
    sha256: str
    described: dict[str, Any]

    @property
    def note(self) -> dict[str, Any]:
        """Where the weights come from, as JSON values: enough to find the run, its checkpoint and the clips it saw."""
        known = ("step", "weights", "average_of", "manifest_version", "release", "plan_digest", "rolling_digest")
        return {"stage": self.stage, "sha256": self.sha256, **{k: self.described[k] for k in known if k in self.described}}


def find_exports(roots: Iterable[Path]) -> list[Export]:
    """Every export under the folders, those of later stages last: in a curriculum's order where there is one, then by name.

    Of a stage's several runs only their average counts, where there is one. TrainingError when there is none at all.
    """
    found: dict[str, Export] = {}
    folders = list(roots)
    for root in folders:
        order = _order(root)
        places = {p.parent.resolve() for pattern in _DEPTHS for p in root.glob(f"{pattern}/{CONFIG}" if pattern else CONFIG)}
        averaged = {p.parent for p in places if p.name == "average"}
        whole = [p for p in places if (p / WEIGHTS).exists() and not (p.name == "export" and p.parent.parent in averaged)]
        exports = [e for e in map(_read, whole) if e is not None]
        for export in sorted(exports, key=lambda e: (order.get(e.stage, len(order)), str(e.folder))):
            found.setdefault(export.sha256, export)
    if not found:
        shown = ", ".join(map(str, folders))
        raise TrainingError(
            f"{shown}: expected exports of finished runs, found none; train one with `dailies train` or `dailies curriculum run`"
        )
    return list(found.values())


def by_digest(exports: Iterable[Export], sha256: str, what: str) -> Export:
    """The export whose weights have this SHA-256; TrainingError names what it is wanted for."""
    for export in exports:
        if export.sha256 == sha256:
            return export
    raise TrainingError(f"{what}: expected weights with SHA-256 {sha256} among the given folders, found none; give their folder too")


def _order(root: Path) -> dict[str, int]:
    try:
        stages = json.loads((root / "curriculum.json").read_bytes())["curriculum"]["stages"]
    except (OSError, ValueError, KeyError):
        return {}
    return {name: i for i, name in enumerate(stages)}


def _read(folder: Path) -> Export | None:
    """What the folder's description says; None when it describes something else than an export of ours."""
    try:
        described = json.loads((folder / CONFIG).read_bytes())
        return Export(folder=folder, stage=str(described["stage"]), sha256=str(described["sha256"]), described=described)
    except (OSError, ValueError, KeyError, TypeError):
        return None
