"""Copies of media under the dataset are found wherever they were listed, and others are left as they are."""

import tarfile
from io import BytesIO
from pathlib import Path

import pyarrow as pa

from curation.listing import list_inputs
from curation.quarantine import note_failure
from manifests import ids
from manifests.records import Asset
from manifests.tables import write_parquet
from pipelines.stage import Place
from pipelines.takedown_media import remove_media

MEDIA = {name: (b"%s-BYTES-" % name.encode()) * 90 for name in ("film", "other")}


def _tar(path: Path) -> Path:
    """A collection of two samples, each with the members that state its rights."""
    with tarfile.open(path, "w") as tar:
        for name, data in MEDIA.items():
            for extension, content in (
                ("mp4", data),
                ("json", b'{"title": "TITLE-%s"}' % name.encode()),
                ("txt", b"TEXT-" + name.encode()),
            ):
                info = tarfile.TarInfo(f"a/{name}.{extension}")
                info.size = len(content)
                tar.addfile(info, BytesIO(content))
    return path


def _asset(uri: str) -> Asset:
    return Asset(asset_id=ids.digest("film"), asset_sha256=b"s" * 32, asset_md5=b"m" * 16, size_bytes=1, uri=uri)


def _list_in_work(place: Place, uris: list[str]) -> None:
    """What ingest left of the asset's copies."""
    rows = pa.table({"asset_id": [ids.digest("film")] * len(uris), "uri": uris})
    write_parquet(place.work / "ingest" / "0123456789abcdef" / "0000.parquet", rows)


def test_members_of_a_tar_are_filled_where_they_lie(tmp_path: Path) -> None:
    """In a tar inside the dataset the film's bytes, title and caption are gone, the other sample is untouched and no member moves; a second
    time nothing changes."""
    place = Place(tmp_path / "dataset")
    place.dataset.mkdir()
    tar = _tar(place.dataset / "collection.tar")
    before = list_inputs([str(tar)])
    uri = next(x.uri for x in before if "film" in (x.fields_json or ""))
    assert remove_media(place, [_asset(uri)]) == 3
    data = tar.read_bytes()
    assert not any(secret in data for secret in (b"film-BYTES", b"TITLE-film", b"TEXT-film"))
    assert all(kept in data for kept in (MEDIA["other"], b"TITLE-other", b"TEXT-other"))
    assert [x.uri for x in list_inputs([str(tar)])] == [x.uri for x in before]
    remove_media(place, [_asset(uri)])
    assert tar.read_bytes() == data


def test_every_listed_copy_goes_and_nothing_outside(tmp_path: Path) -> None:
    """Fetched bytes, a second copy of which only ingest knows, its sidecar and a copy in a tar go; the same file and tar outside stay."""
    place = Place(tmp_path / "dataset")
    inside, outside = place.dataset / "media", tmp_path / "media"
    for folder in (inside, outside, place.fetched):
        folder.mkdir(parents=True)
    for folder in (inside, outside):
        for name in ("a.mp4", "b.mp4"):
            (folder / name).write_bytes(MEDIA["film"])
        (folder / "b.mp4.json").write_text('{"title": "TITLE-film"}')
        _tar(folder / "c.tar")
    (place.fetched / ids.digest("film")).write_bytes(MEDIA["film"])
    untouched = {p: p.read_bytes() for p in outside.iterdir()}
    members = [x.uri for folder in (inside, outside) for x in list_inputs([str(folder / "c.tar")]) if "film" in (x.fields_json or "")]
    _list_in_work(place, [*members, str(inside / "b.mp4"), str(outside / "b.mp4"), "https://example.org/film.mp4"])
    assert remove_media(place, [_asset(str(inside / "a.mp4"))]) == 1 + 1 + 2 + 3
    left = b"".join(p.read_bytes() for p in place.dataset.rglob("*") if p.is_file() and p.suffix != ".parquet")
    assert b"film-BYTES" not in left and b"TITLE-film" not in left and MEDIA["other"] in left
    assert {p: p.read_bytes() for p in outside.iterdir()} == untouched


def test_sidecars_in_any_case_go_with_their_film(tmp_path: Path) -> None:
    """What ingest reads beside a film or in its tar, whatever the case of the suffix, is gone with it; that of another film stays."""
    place = Place(tmp_path / "dataset")
    place.dataset.mkdir()
    for name in ("film.mp4", "film.JSON", "film.mp4.Txt", "other.JSON"):
        (place.dataset / name).write_bytes(b"x")
    assert remove_media(place, [_asset(str(place.dataset / "film.mp4"))]) == 3
    assert [p.name for p in place.dataset.iterdir() if p.is_file()] == ["other.JSON"]
    tar = place.dataset / "c.tar"
    with tarfile.open(tar, "w") as sink:
        for name, data in (("film.mp4", MEDIA["film"]), ("film.JSON", b'{"title": "TITLE-film"}'), ("other.JSON", b"TITLE-other")):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            sink.addfile(info, BytesIO(data))
    (listing,) = list_inputs([str(tar)])
    assert remove_media(place, [_asset(listing.uri)]) == 2
    assert b"TITLE-film" not in tar.read_bytes() and b"TITLE-other" in tar.read_bytes()


def test_what_was_noted_of_its_decoding_goes_too(tmp_path: Path) -> None:
    """The counts in quarantine, whose errors name the file, are removed with the asset; those of others stay."""
    place = Place(tmp_path / "dataset")
    for asset_id in (ids.digest("film"), "b" * 32):
        note_failure(place.quarantine, asset_id, "scan-1", "crashed", "film.mp4: signal 11")
    assert remove_media(place, [_asset("https://example.org/film.mp4")]) == 1
    assert [p.name for p in place.quarantine.iterdir()] == ["b" * 32]


def test_what_states_a_film_goes_however_its_name_is_written(tmp_path: Path) -> None:
    """`./e.json` beside the member `e.mp4`, accents composed or apart, in a tar and in a folder: what was read of it is what goes."""
    place, composed, apart = Place(tmp_path / "dataset"), "caf\u00e9", "cafe\u0301"
    folder = place.dataset / "media"
    folder.mkdir(parents=True)
    with tarfile.open(folder / "c.tar", "w") as tar:
        for name, content in ((f"{composed}.mp4", MEDIA["film"]), (f"./{apart}.json", b'{"title": "TITLE-film"}')):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, BytesIO(content))
    (folder / f"{composed}.mp4").write_bytes(MEDIA["film"])
    (folder / f"{apart}.json").write_text('{"title": "TITLE-film"}')
    (member,) = list_inputs([str(folder / "c.tar")])
    assert "TITLE-film" in (member.fields_json or "")
    assert remove_media(place, [_asset(member.uri)]) == 2
    assert remove_media(place, [_asset(str(folder / f"{composed}.mp4"))]) == 2
    assert b"TITLE-film" not in b"".join(p.read_bytes() for p in folder.iterdir())
