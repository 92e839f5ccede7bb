"""Takedown: everything derived from somebody's media is found by one call, and nothing of it is left afterwards, whatever kills it."""

import dataclasses
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from manifests import integrity, rebuild
from manifests.cubes import recount
from manifests.deny import DenyList
from manifests.events import Block, Takedown
from manifests.policy import policy_at
from manifests.records import Asset
from manifests.release_check import Trust, check_release
from manifests.schema import from_table
from manifests.signing import generate_key, load_public, unseal
from manifests.tables import ManifestStore
from manifests.takedown import Radius, Selector, TakedownError, resolve, survey
from pipelines.takedown import execute
from pipelines.takedown_case import Request, pictures_of
from tests.release_maker import release
from tests.takedown_maker import Place, add_checkpoint, found, make_place

NO_STEP = lambda exposure, clip: None  # noqa: E731


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """The dataset with a signed release and a checkpoint; read only."""
    folder = tmp_path_factory.mktemp("takedown")
    place = make_place(folder / "dataset")
    generate_key(folder / "key")
    release(place.store, key=folder / "key")
    shutil.copytree(place.root, folder / "untrained")
    add_checkpoint(place)
    return place


@pytest.fixture
def place(original: Place, tmp_path: Path) -> Place:
    """A copy of it."""
    shutil.copytree(original.root, tmp_path / "dataset")
    root = tmp_path / "dataset"
    for name in ("key", "key.pub"):
        shutil.copy(original.root.parent / name, tmp_path / name)
    inside = {n: v.replace(str(original.root).encode(), b"") for n, v in original.needles.items()}
    _move_addresses(root, original.root)
    return Place(root, ManifestStore(root), original.asset, original.clips, inside)


def _move_addresses(root: Path, before: Path) -> None:
    """The collection lies inside the copy: its assets' addresses are those of the copy."""
    from manifests.schema import to_table

    store = ManifestStore(root)
    assets: list[Asset] = from_table(Asset, store.read("assets"))
    moved = [dataclasses.replace(a, uri=a.uri.replace(str(before), str(root))) for a in assets]
    store.commit("d" * 32, replace={"assets": to_table(Asset, moved)})


def _seen(exposure: object, clip: str) -> int | None:
    return int(clip[:2], 16)


def _request(place: Place) -> Request:
    return Request(selectors=(Selector(kind="asset", value=place.asset.asset_id),), basis="copyright", reason="test")


def _survey(place: Place) -> Radius:
    return survey(place.store, _request(place).selectors, _seen)


def _run(place: Place) -> Path:
    return execute(place.root, _request(place), _survey(place), place.root.parent / "key", lambda step: None)[1]


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("url", "http://www.example.org/films/{no}?"),
        ("asset", "{id}"),
        ("hash", "{sha}"),
        ("channel", "CHANNEL-{no}"),
        ("channel", "secret-creator-{no}"),
    ],
)
def test_every_selector_finds_the_asset(original: Place, kind: str, value: str) -> None:
    """By address in any spelling, id, hash, channel and creator: that asset, and no other."""
    asset = original.asset
    text = value.format(no=asset.asset_no, id=asset.asset_id[:10], sha=asset.asset_sha256.hex())
    assert resolve(original.store, [Selector(kind=kind, value=text)]) == [asset.asset_id]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("kind", "value", "meant"),
    [
        ("url", "http://www.example.org/copy/", True),
        ("url", "/in/copy.mp4", True),
        ("url", "UC-copy", False),
        ("url", "https://example.org/co", False),
        ("channel", "uc-COPY", True),
        ("channel", "Somebody Else", True),
        ("channel", "https://example.org/copy", False),
        ("channel", " stefan van der walt ", True),
        ("channel", "dailies sample generator", True),
        ("channel", "Stefan van der Walt; dailies sample generator", True),
        ("channel", "Stefan", False),
        ("channel", "UC", False),
        ("channel", ";", False),
        ("hash", "ab" * 32, False),
    ],
)
def test_an_owner_is_found_among_several_and_at_every_copy(kind: str, value: str, meant: bool) -> None:
    """One of several creators in one field, and whatever a byte-identical copy was found at or published by; nothing looser than that."""
    other = {
        "addresses": ["/in/copy.mp4", "https://example.org/copy"],
        "channels": ["UC-copy", "UC-1;2"],
        "creators": ["me;  somebody else"],
    }
    asset = Asset(
        asset_id="a" * 32,
        asset_sha256=b"s" * 32,
        asset_md5=b"m" * 16,
        size_bytes=1,
        uri="/in/a.mp4",
        creator="Stefan van der Walt; dailies sample generator",
        other_sources=json.dumps(other | {"left_out": 3}),
    )
    assert Selector(kind=kind, value=value).matches(asset) == meant  # type: ignore[arg-type]


@pytest.mark.parametrize(("kind", "value"), [("hash", "xyz"), ("asset", "12"), ("asset", "../x"), ("url", "  "), ("hash", "' OR 1=1 --")])
def test_a_selector_that_names_nothing_sensible_is_refused(kind: str, value: str) -> None:
    """An error says what was expected; nothing is looked up with it."""
    with pytest.raises(TakedownError, match="expected"):
        Selector(kind=kind, value=value)  # type: ignore[arg-type]


def test_the_survey_names_everything_derived(original: Place) -> None:
    """Clips with times, captions, scores, sets and shards; releases; checkpoints with the first step that saw each clip."""
    seen = survey(original.store, [Selector(kind="hash", value=original.asset.asset_sha256.hex())], _seen)
    assert [c.clip_id for c in seen.clips] == [c.clip_id for c in original.clips]
    kept = [c for c in seen.clips if c.decision == "keep"]
    assert kept and all(c.shard and c.captions and c.scores and c.set_name and c.members for c in kept)
    assert {c.clip_no for c in kept} == {c.clip_no for c in original.clips if c.decision == "keep"}
    (hit,) = seen.releases
    assert (hit.name, hit.clips, hit.assets) == ("v1", len(original.clips), 1) and hit.signed_by
    (checkpoint,) = seen.checkpoints
    assert checkpoint.first_steps == {c.clip_id: int(c.clip_id[:2], 16) for c in original.clips}
    assert survey(original.store, [Selector(kind="url", value="https://elsewhere.example/")], _seen).assets == ()


def test_the_search_finds_what_is_there(original: Place) -> None:
    """Before the takedown every secret is found: the search below can be trusted."""
    assert {f.partition(" in ")[0] for f in found(original)} >= {n for n in original.needles if not n.startswith("payload")}


def test_nothing_is_left_and_everything_verifies(place: Place) -> None:
    """No byte of media, captions, titles, pictures or vectors in any file or version; dataset and release verify; others are untouched."""
    others = [a for a in from_table(Asset, place.store.read("assets")) if a.asset_id != place.asset.asset_id]
    sizes = {p: p.stat().st_size for p in place.root.rglob("*.parquet") if "manifest" in p.parts}
    receipt = json.loads(_run(place).read_bytes())
    assert found(place) == set()
    for version in place.store.readable():
        assert integrity.verify(place.store, version) == [], version
    trust = Trust(key=load_public(place.root.parent / "key.pub"))
    assert check_release(place.root / "releases" / "v1", trust, None, lambda n: None).faults == ()
    assert rebuild.compare(place.store) == []
    assert {p: p.stat().st_size for p in sizes} == sizes, "what Delta says of a file's size holds"
    left = {a.asset_id: a for a in from_table(Asset, place.store.read("assets"))}
    gone = left.pop(place.asset.asset_id)
    assert sorted(left.values(), key=lambda a: a.asset_no) == sorted(others, key=lambda a: a.asset_no)
    assert (gone.state, gone.decision, gone.asset_sha256, gone.title) == ("removed", "removed", place.asset.asset_sha256, None)
    assert receipt["asset_sha256"] == [place.asset.asset_sha256.hex()] and receipt["done"]["releases"] == ["v1"]
    assert set(receipt["clip_ids"]) == {c.clip_id for c in place.clips} == set(DenyList(place.root).clips())


def test_the_ledger_of_takedowns_and_the_blocklist_say_what_was_done(place: Place) -> None:
    """Two rows of one number, open and executed; hashes of bytes and pictures are blocked; none of it is an address."""
    _run(place)
    rows: list[Takedown] = from_table(Takedown, place.store.read("takedowns"))
    assert [(r.takedown_no, r.state, r.n_assets, r.n_clips) for r in rows] == [(1, s, 1, len(place.clips)) for s in ("open", "executed")]
    blocks: list[Block] = from_table(Block, place.store.read("blocklist"))
    assert {b.kind for b in blocks} == {"sha256", "md5", "pdq", "pdq_area"} and {b.takedown_no for b in blocks} == {1}


def test_counts_are_of_what_is_left(place: Place) -> None:
    """The newest counts, of funnel, sources and scores, are those of the live clips, as the next curation would count; earlier funnels stay."""
    store = place.store
    before = recount(0, policy_at(store), store.read("assets"), store.read("clips"))
    store.commit("7" * 32, replace={"cubes": before})
    _run(place)
    clips, cubes = store.read("clips"), store.read("cubes")
    gone = {c.clip_no for c in place.clips}
    kept = sum(d == "keep" and n not in gone for d, n in zip(clips["decision"].to_pylist(), clips["clip_no"].to_pylist(), strict=True))
    rows = [r for r in cubes.to_pylist() if r["run_no"] == max(cubes["run_no"].to_pylist())]
    said = {
        v: sum(r["n"] for r in rows if r["name"] == "source" and r["rule_no"] is None and r["verdict"] == v) for v in ("pass", "reject")
    }
    assert kept and said == {"pass": kept, "reject": clips.num_rows - len(gone) - kept}
    known = sum(v is not None for n, v in zip(clips["clip_no"].to_pylist(), clips["motion"].to_pylist(), strict=True) if n not in gone)
    assert known and sum(r["n"] for r in rows if r["name"] == "histogram" and r["measure"] == "motion") == known
    earlier = [r for r in cubes.to_pylist() if r["run_no"] == 0]
    assert earlier == [r for r in before.to_pylist() if r["name"] == "funnel"] and earlier
    per_rule = {
        r["rule_no"]: sum(x["n"] for x in rows if x["name"] == "funnel" and x["rule_no"] == r["rule_no"]) for r in rows if r["rule_no"]
    }
    of_clips = [n for n, r in policy_at(store) if r.subject == "clip" and set(r.kinds) == {"video", "image", "audio"} and not r.set_name]
    assert of_clips and {per_rule[n] for n in of_clips} == {clips.num_rows - len(gone)}


def test_the_receipt_is_signed(place: Place) -> None:
    """The envelope names the receipt by its SHA-256, and the public key checks it."""
    import hashlib

    receipt = _run(place)
    said = unseal(json.loads(receipt.with_suffix(".dsse.json").read_bytes()), load_public(place.root.parent / "key.pub"))
    assert (said.subject, said.sha256) == (receipt.name, hashlib.sha256(receipt.read_bytes()).hexdigest())


def test_without_the_key_of_a_release_it_is_quarantined_and_nothing_is_removed(place: Place) -> None:
    """The error names release and key; nobody trains on the clips from then on, no byte of media is gone; with the key it goes on to the end."""
    media = [p for p in place.root.rglob("*") if p.is_file() and p.suffix in (".tar", ".mp4", ".csv", ".html")]
    before = {p: p.read_bytes() for p in media}
    with pytest.raises(TakedownError, match=r"release v1: expected the key that signed it .* quarantined"):
        execute(place.root, _request(place), _survey(place), None, lambda step: None)
    assert before and {p: p.read_bytes() for p in media} == before
    assert {c.clip_id for c in place.clips} <= set(DenyList(place.root).clips())
    _run(place)
    assert found(place) == set()


def test_what_names_nothing_is_refused(place: Place) -> None:
    """A channel that nobody has gives an error and no case, since there is nothing to remove and nothing to block."""
    request = dataclasses.replace(_request(place), selectors=(Selector(kind="channel", value="nobody"),))
    with pytest.raises(TakedownError, match="found neither"):
        execute(place.root, request, survey(place.store, request.selectors, {}), None, lambda step: None)
    assert not (place.root / "takedowns").exists() and not (place.root / "deny.txt").exists()


@pytest.mark.parametrize("name", [".999998.tmp", ".part-0.parquet.999998.tmp", ".v9.999998.tmp/attribution.csv"])
def test_what_killed_writers_left_goes(place: Place, name: str) -> None:
    """Half-written files and folders of processes that are no more are deleted, also under a number that a younger process has now."""
    left = [place.root / "work" / name, place.root / "work" / name.replace("999998", str(os.getpid()))]
    for path in left:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"media")
        os.utime(path, (1, 1))
        os.utime(path.parent if "/" in name else path, (1, 1))
    _run(place)
    assert not any(path.exists() for path in left)


class Killed(BaseException):
    """Stands for SIGKILL: nothing catches it."""


class Deadly:
    """Calls the real function until the n-th call, which kills."""

    def __init__(self, name: str, n: int) -> None:
        self.real, self.left = getattr(os, name), n

    def __call__(self, *args: object, **named: object) -> object:
        self.left -= 1
        if not self.left:
            raise Killed
        return self.real(*args, **named)


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("name", "every"), [("replace", 5), ("fsync", 9), ("unlink", 2)])
def test_killed_anywhere_it_continues(place: Place, monkeypatch: pytest.MonkeyPatch, name: str, every: int) -> None:
    """Killed at every few renames, syncs or deletions, and started again: the same end, one case, one receipt; denied from the first on."""
    kills = 0
    while True:
        with monkeypatch.context() as patch:
            patch.setattr(os, name, Deadly(name, every * kills + 3))
            try:
                _run(place)
                break
            except Killed:
                kills += 1
        if kills > 1:
            assert set(DenyList(place.root).clips()) == {c.clip_id for c in place.clips}
    assert kills > 1
    assert found(place) == set()
    assert integrity.verify(place.store) == []
    assert sorted(p.name for p in (place.root / "takedowns").iterdir()) == ["000001.case.json", "000001.dsse.json", "000001.json"]


def test_done_again_it_finds_nothing_to_do(place: Place) -> None:
    """The same request is the same case: no version, no row and no receipt is added, and leftovers of a late writer go."""
    receipt = _run(place)
    said, version = receipt.read_bytes(), place.store.version()
    late = place.root / "work" / "fetched" / place.asset.asset_id
    late.write_bytes(b"MEDIA")
    assert _run(place) == receipt and receipt.read_bytes() == said
    assert place.store.version() == version and not late.exists()


def test_what_is_not_there_yet_is_blocked(place: Place) -> None:
    """A request that names nothing in the dataset still keeps it from entering, by hash and by address without naming it."""
    selectors = (Selector(kind="hash", value="ab" * 32), Selector(kind="url", value="https://other.example/x"))
    request = Request(selectors=selectors, basis="privacy", reason="r")
    execute(place.root, request, survey(place.store, selectors, NO_STEP), place.root.parent / "key", lambda step: None)
    blocks: list[Block] = from_table(Block, place.store.read("blocklist"))
    assert {b.kind for b in blocks} == {"sha256", "url"}
    assert not any(b"other.example" in p.read_bytes() for p in place.root.rglob("*") if p.is_file())


def test_a_file_that_is_not_in_the_dataset_is_blocked_by_what_it_shows(place: Place, media: Path, tmp_path: Path) -> None:
    """Its pictures are hashed in the sandbox and blocked with its bytes; of one that cannot be decoded the bytes alone are."""
    pictures = pictures_of(media / "image" / "bridge_orig.jpg")
    assert {k for k, _ in pictures} == {"pdq", "pdq_area"}
    (tmp_path / "broken.mp4").write_bytes(b"no media at all")
    assert pictures_of(tmp_path / "broken.mp4") == ()
    selectors = (Selector(kind="hash", value="ab" * 32),)
    request = Request(selectors=selectors, basis="privacy", reason="r", pictures=pictures)
    execute(place.root, request, survey(place.store, selectors, NO_STEP), place.root.parent / "key", lambda step: None)
    blocks: list[Block] = from_table(Block, place.store.read("blocklist"))
    assert {b.kind for b in blocks} == {"sha256", "pdq", "pdq_area"}


def test_the_command_says_the_same_to_programs_and_people(original: Place, dailies: Any) -> None:
    """A dry run changes nothing and names every clip; nothing named, or something that is no selector, is status 2 and a sentence."""
    root = original.root.parent / "untrained"
    said = dailies("takedown", root, "--asset", original.asset.asset_id, "--json")
    assert said.status == 0 and {c["clip_id"] for c in said.json["clips"]} == {c.clip_id for c in original.clips}
    assert dailies("takedown", root).status == 2
    refused = dailies("takedown", root, "--hash", "xyz")
    assert refused.status == 2 and "expected 64 hexadecimal digits" in refused.err
