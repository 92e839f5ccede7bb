"""Copies of taken-down media under the dataset's own folder: fetched bytes, files of a collection that lies there, members of its tars.

A collection outside the dataset is its owner's: nothing there is touched. Every copy that was listed counts, not only the one whose address
the manifest kept. Members of a tar become filler of their length, with those that state their rights, so that no other moves; their names stay.
"""

import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from curation.listed import member_of, path_of, plain_name
from curation.listing_tar import sample_key
from curation.sidecars import SUFFIXES, composed, stating_in
from manifests import scrub
from manifests.purgeable import REMOVED_URI
from manifests.records import Asset
from manifests.shards import list_members
from pipelines.plan import INGEST
from pipelines.stage import Place


def remove_media(place: Place, assets: Sequence[Asset]) -> int:
    """No copy of these assets is left under the dataset; returns how many files and members went. Can be done twice."""
    removed = 0
    for asset in assets:
        removed += _unlink(place.fetched / asset.asset_id)
        removed += len(list((place.quarantine / asset.asset_id).glob("*/*.json")))
        shutil.rmtree(place.quarantine / asset.asset_id, ignore_errors=True)  # its errors name the file
    for uri in sorted({*_addresses(place, assets), *(a.uri for a in assets if a.uri != REMOVED_URI)}):
        if "://" in uri:
            continue
        member = member_of(uri)
        path = path_of(member[0] if member else uri)
        if not path.resolve().is_relative_to(place.dataset.resolve()):
            continue
        if member is None:
            removed += sum(map(_unlink, _with_sidecars(path)))
        elif path.is_file():
            removed += _fill_member(path, member[1])
    shutil.rmtree(place.work / "spark", ignore_errors=True)  # of the table stages: vectors, hashes and pairs of the last run
    return removed


def _addresses(place: Place, assets: Iterable[Asset]) -> Iterator[str]:
    """Every address at which the assets were listed."""
    wanted = pa.array(sorted(a.asset_id for a in assets), pa.string())
    for part in sorted((place.work / INGEST.name).rglob("*.parquet")):
        rows = pq.read_table(part, columns=["asset_id", "uri"], partitioning=None)
        yield from rows.filter(pc.is_in(rows.column("asset_id"), value_set=wanted)).column("uri").to_pylist()


def _fill_member(tar: Path, offset: int) -> int:
    """The member that begins at the offset, and those of the same sample that state its rights, hold filler; returns how many."""
    with tar.open("rb") as stream:
        members = list(list_members(stream))
    sample = next((sample_key(plain_name(name)) for name, at, _ in members if at == offset), None)
    mine = [m for m in members if m[1] == offset or (sample_key(plain_name(m[0])) == sample and Path(m[0]).suffix.lower() in SUFFIXES)]
    scrub.overwrite(tar, [(at, size, name.rpartition(".")[2]) for name, at, size in mine])
    return len(mine)


def _unlink(path: Path) -> int:
    if not path.is_file():
        return 0
    path.unlink()
    return 1


def _with_sidecars(path: Path) -> list[Path]:
    stating = stating_in(path.parent, {})
    plain = [stem + s for stem in (path.name, path.stem) for s in SUFFIXES]
    other = [n for name in plain for n in ([] if isinstance(stating, str) else stating.get(composed(name), []))]
    return [path, *map(path.with_name, dict.fromkeys([*plain, *other]))]
