"""Scrubbing: rows change inside files that keep name and size, and every reader goes on to read them; members become filler in place."""

import hashlib
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable
from hypothesis import given
from hypothesis import strategies as st

from manifests import deny, scrub
from manifests.integrity import verify
from manifests.records import Asset
from manifests.schema import to_table
from manifests.shards import list_members
from manifests.tables import ManifestStore
from tests.release_maker import kept_and_dropped, make_dataset


def _table(n: int) -> pa.Table:
    return pa.table(
        {"clip_id": [f"{i:032x}" for i in range(n)], "error_detail": [f"secret {i} " * (i % 7) for i in range(n)], "n": range(n)}
    )


@pytest.mark.parametrize("n", [1, 10, 3000])
def test_a_file_keeps_name_size_and_other_rows(tmp_path: Path, n: int) -> None:
    """The text of one row is gone from the file's bytes, all else is as before, in exactly as many bytes."""
    path = tmp_path / "part-0.parquet"
    table = _table(n)
    pq.write_table(table, path, compression="zstd")
    size, gone = path.stat().st_size, f"{n - 1:032x}"
    assert scrub.rewrite_in_place(path, scrub.forget_clips([gone]), ("clip_id",), tmp_path / "scratch")
    assert path.stat().st_size == size
    found = pq.read_table(path)
    assert found.column("error_detail").to_pylist() == [*table.column("error_detail").to_pylist()[:-1], None]
    assert found.column("n").to_pylist() == list(range(n))
    assert duckdb.execute("SELECT count(*) FROM read_parquet(?) WHERE error_detail IS NULL", [str(path)]).fetchall() == [(1,)]
    assert not scrub.rewrite_in_place(path, scrub.forget_clips([gone]), (), tmp_path / "scratch"), "done again, nothing is left to do"


def test_a_file_without_such_rows_is_not_touched(tmp_path: Path) -> None:
    """Not one byte changes, nor its time."""
    path = tmp_path / "part-0.parquet"
    pq.write_table(_table(5), path)
    before = (path.read_bytes(), path.stat().st_mtime_ns)
    assert not scrub.rewrite_in_place(path, scrub.forget_clips(["f" * 32]), (), tmp_path / "scratch")
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before


def test_delta_readers_read_scrubbed_versions(tmp_path: Path) -> None:
    """A Delta reader, which trusts the sizes in its log, reads every version after a scrub."""
    store = make_dataset(tmp_path, 30)
    kept, _ = kept_and_dropped(store)
    clips = set(kept.column("clip_id").to_pylist()[:3])
    for path in scrub.part_files(store, "members"):
        scrub.rewrite_in_place(path, scrub.rehash_members(clips), ("clip_id",), tmp_path / "scratch")
    table = DeltaTable(store.folder / "members").to_pyarrow_table()
    fill = {hashlib.sha256(scrub.filler(r["extension"], r["size_bytes"])).digest() for r in table.to_pylist() if r["clip_id"] in clips}
    assert {r["sha256"] for r in table.to_pylist() if r["clip_id"] in clips} == fill


@pytest.mark.parametrize("n", [1, 100, 3000, 50_000])
def test_assets_never_grow(tmp_path: Path, n: int) -> None:
    """Of a table of assets with addresses in sequence and few texts, a Delta reader reads what is left after one, half and all went."""
    texts = {"title": "A walk by the sea", "creator": "somebody"}
    assets = [
        Asset(asset_id=f"{i:032x}", asset_sha256=bytes(32), asset_md5=bytes(16), size_bytes=i, uri=f"/media/{i:06d}.mp4",
              asset_no=i, **(texts if i % 3 == 0 else {}))
        for i in range(n)
    ]  # fmt: skip
    store = ManifestStore(tmp_path)
    store.commit("r" * 32, append={"assets": to_table(Asset, assets)})
    (path,) = scrub.part_files(store, "assets")
    size = path.stat().st_size
    for gone in (assets[:1], assets[::2], assets):
        ids = [a.asset_id for a in gone]
        scrub.rewrite_in_place(path, scrub.forget_assets(ids), ("asset_id",), tmp_path / "scratch")
        assert path.stat().st_size == size
        read = DeltaTable(store.folder / "assets").to_pyarrow_table().to_pylist()
        assert {r["asset_id"] for r in read if r["uri"] == "removed" and r["title"] is None} == set(ids)
        assert len(read) == n


def test_members_become_filler_and_the_tar_stays_readable(tmp_path: Path) -> None:
    """All offsets stay, other members keep their bytes, and with the new hashes in the tables the dataset verifies."""
    store = make_dataset(tmp_path, 30)
    kept, _ = kept_and_dropped(store)
    clips = set(kept.column("clip_id").to_pylist()[:3])
    places = scrub.members_of(store, clips)
    before = {p: (tmp_path / p).read_bytes() for p in places}
    hashes = {p: scrub.overwrite(tmp_path / p, members) for p, members in places.items()}
    for path, data in before.items():
        now = (tmp_path / path).read_bytes()
        touched = {i for offset, size, _ in places[path] for i in range(offset, offset + size)}
        assert len(now) == len(data) and all(a == b for i, (a, b) in enumerate(zip(now, data, strict=True)) if i not in touched)
        with (tmp_path / path).open("rb") as tar:
            assert len(list(list_members(tar))) >= len(places[path])
    assert verify(store) != []
    for table, change in (("members", scrub.rehash_members(clips)), ("shards", scrub.rehash_shards(hashes))):
        for path in scrub.part_files(store, table):
            scrub.rewrite_in_place(path, change, (), tmp_path / "scratch")
    assert verify(store) == []


def test_tars_that_no_version_names_are_searched(tmp_path: Path) -> None:
    """A shard of a purged version still holds the bytes: it is found by its members' names, which are compared and never used as paths."""
    store = make_dataset(tmp_path, 30)
    kept, _ = kept_and_dropped(store)
    clip = kept.column("clip_id").to_pylist()[0]
    (path,) = scrub.members_of(store, {clip})
    (tmp_path / path).rename(tmp_path / "shards" / "orphan.tar")
    assert set(scrub.members_of(store, {clip})) == {"shards/orphan.tar"}


@given(st.sampled_from(["json", "txt", "mp4", "jpg"]), st.integers(0, 3000))
def test_filler_has_the_length_and_nothing_else(extension: str, size: int) -> None:
    """As many bytes as were there; JSON stays JSON where it can."""
    import json

    data = scrub.filler(extension, size)
    assert len(data) == size
    if extension == "json" and size >= 2:
        assert json.loads(data) == {}


def test_the_deny_list_is_live_and_keeps_what_it_has(tmp_path: Path) -> None:
    """A list made before the file sees it, and sees it change; a clip keeps its first number, or gets one; a broken file is an error, never a pass."""
    live = deny.DenyList(tmp_path)
    assert live.takedown_of("a") is None
    deny.deny(tmp_path, ["a"], 1)
    assert live.takedown_of("a") == 1
    deny.deny(tmp_path, ["a", "b"], 2)
    assert live.clips() == {"a": 1, "b": 2}
    deny.deny(tmp_path, ["a", "c"], deny.WAITING)
    assert live.clips() == {"a": 1, "b": 2, "c": 0}
    deny.deny(tmp_path, ["b", "c"], 3)
    assert live.clips() == {"a": 1, "b": 2, "c": 3}
    (tmp_path / deny.NAME).write_text("a one\n")
    with pytest.raises(ValueError, match="expected lines of a clip id"):
        live.clips()
