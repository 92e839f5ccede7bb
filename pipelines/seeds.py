"""Candidates for a set that people choose, near clips that they named: the second step of Movie Gen's finetuning set, where concepts are balanced
by the nearest neighbours of a few seeds of each (Movie Gen, Finetuning data).

The seeds are a CSV of clip_id and concept; a seed whose concept is empty is one of its own. Every concept gets the same number of candidates, as
far as there are any: its nearest by the cosine of concept vectors to any of its seeds. A clip is a candidate of the concept that it is
nearest to and of no other.
"""

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from curation.plain_text import clean_text
from manifests.tables import ManifestStore
from pipelines import plan, work
from pipelines.decide import settings_in_force
from pipelines.picks import MAX_FILE_BYTES, PickError, candidates
from pipelines.stage import Place

_MAX_CONCEPT = 100
_BLOCK = 65_536
"""Candidates compared with the seeds at once: 256 MB of cosines with a thousand seeds."""

Vectors = NDArray[np.float32]


def candidates_near(store: ManifestStore, set_name: str, seeds: Path, each: int) -> list[dict[str, str]]:
    """The set's candidates with `concept`, `seed` (a clip id) and `cosine`, concept by concept, nearest first; PickError when the file names
    a clip that has no vector."""
    named = read_seeds(seeds)
    rows = {row["clip_id"]: row for row in candidates(store, set_name)}
    vectors = concept_vectors(store, [*named, *rows])
    if missing := sorted(set(named) - set(vectors)):
        raise PickError(
            f"{seeds}: expected clips with a concept vector, found none of clip {missing[0][:40]!r} ({len(missing)} such lines)"
        )
    others = [clip for clip in rows if clip in vectors and clip not in named]
    chosen = nearest({c: vectors[c] for c in others}, {c: vectors[c] for c in named}, named, each)
    return [rows[clip] | {"concept": named[seed], "seed": seed, "cosine": f"{cosine:.3f}"} for clip, seed, cosine in chosen]


def nearest(
    clips: Mapping[str, Vectors], seeds: Mapping[str, Vectors], concepts: Mapping[str, str], each: int
) -> list[tuple[str, str, float]]:
    """(clip, nearest seed, cosine), at most `each` of a concept, concepts in the order of their names, nearest first, then by id."""
    if not clips or not seeds:
        return []
    names, of = sorted(clips), sorted(seeds)
    against = _unit(np.stack([seeds[s] for s in of]))
    found: dict[str, list[tuple[float, str, str]]] = {concept: [] for concept in sorted(set(concepts.values()))}
    for first in range(0, len(names), _BLOCK):
        block = names[first : first + _BLOCK]
        cosines = _unit(np.stack([clips[c] for c in block])) @ against.T
        best = cosines.argmax(1)
        for clip, i, cosine in zip(block, best.tolist(), cosines[np.arange(len(block)), best].tolist(), strict=True):
            found[concepts[of[i]]].append((-cosine, clip, of[i]))
    return [(clip, seed, -far) for rows in found.values() for far, clip, seed in sorted(rows)[:each]]


def read_seeds(file: Path) -> dict[str, str]:
    """Clip id -> concept of each line; PickError when it is no such file."""
    if file.stat().st_size > MAX_FILE_BYTES:
        raise PickError(f"{file}: expected at most {MAX_FILE_BYTES >> 20} MiB of seeds, found {file.stat().st_size} bytes")
    try:
        rows = csv.DictReader(file.read_text("utf-8-sig").splitlines(), strict=True)
        if missing := {"clip_id", "concept"} - set(rows.fieldnames or ()):
            raise PickError(f"{file}: expected the columns clip_id and concept, found none named {' or '.join(sorted(missing))}")
        named: dict[str, str] = {}
        for row in rows:
            clip = (row["clip_id"] or "").strip().lower()
            concept = clean_text(row["concept"] or "", _MAX_CONCEPT).lstrip("=+-@") or clip  # a sheet would run a formula
            if clip and named.setdefault(clip, concept) != concept:
                raise PickError(f"{file}, line {rows.line_num}: clip {clip[:40]!r} is a seed of two concepts: keep one of the lines")
    except (UnicodeDecodeError, csv.Error) as error:
        raise PickError(f"{file}: expected a CSV file in UTF-8, found {error}") from error
    if not named:
        raise PickError(f"{file}: expected at least one seed, found none")
    return named


def concept_vectors(store: ManifestStore, clips: Iterable[str]) -> dict[str, Vectors]:
    """The concept vector of each of the clips that has one, as the last curation described them."""
    import pyarrow as pa

    table = work.read(plan.DESCRIBE, settings_in_force(store), Place(store.root.absolute()), keys=pa.array(sorted(set(clips)), pa.string()))
    rows: Sequence[list[float] | None] = table["concept"].to_pylist()
    return {c: np.asarray(v, np.float32) for c, v in zip(table["clip_id"].to_pylist(), rows, strict=True) if v}


def _unit(x: Vectors) -> Vectors:
    """Rows of length 1; a row of zeros stays."""
    made: Vectors = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
    return made
