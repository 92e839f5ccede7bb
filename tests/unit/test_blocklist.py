"""The blocklist: files refused by bytes or address, pictures by what they show; and the trail that is left of a refused file."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from curation import pdq
from curation.blocklist import AREA, CANONICAL, Blocklist, block_distances, picture_hashes
from curation.hash_index import HashIndex
from curation.keyframes import KeyFrame, decode_jpeg, encode_jpeg
from curation.near_hashes import distances, to_words
from manifests.events import Block
from manifests.purgeable import PURGEABLE, normal_url, redact, url_key
from manifests.records import Asset, Caption, Clip
from pipelines.config import load
from pipelines.settings import CurateConfig

SHA, MD5 = b"s" * 32, b"m" * 16


def _asset(**given: object) -> Asset:
    named: dict[str, object] = {"asset_id": "a" * 32, "asset_sha256": SHA, "asset_md5": MD5, "size_bytes": 1, "uri": "/in/a.mp4"}
    return Asset(**(named | given))  # type: ignore[arg-type]


def _list(*rows: tuple[str, str]) -> Blocklist:
    return Blocklist.of(Block(kind=k, value=v) for k, v in rows)


def _distances(table: Blocklist, *clips: tuple[list[bytes] | None, list[bytes] | None]) -> list[int | None]:
    """The distances of clips given by their hashes and canonical hashes."""
    kind = pa.list_(pa.binary())
    described = {
        "clip_id": [str(i) for i in range(len(clips))],
        "pdq": pa.array([h for h, _ in clips], kind),
        "pdq_reference": pa.array([r for _, r in clips], kind),
    }
    found = block_distances(table, pa.table(described))
    assert found.column("clip_id").to_pylist() == described["clip_id"]
    return found.column("block_distance").to_pylist()


@pytest.mark.parametrize(
    ("row", "blocked"),
    [
        (("sha256", SHA.hex()), True),
        (("md5", MD5.hex()), True),
        (("sha256", "00" * 32), False),
        (("url", url_key("HTTP://www.Example.org/x/")), True),
        (("url", url_key("https://example.org/y")), False),
    ],
)
def test_a_file_is_blocked_by_bytes_or_address(row: tuple[str, str], blocked: bool) -> None:
    """SHA-256, MD5 (as foreign lists have) and an address in any spelling; other hashes and addresses do not."""
    assert _list(row).blocks(_asset(source_url="https://example.org/x")) == blocked


def test_a_file_is_blocked_by_the_address_of_a_copy() -> None:
    """An address on the list blocks the bytes that were found there, also where another copy of them came first."""
    other = '{"addresses": ["/in/b.mp4", "https://www.example.org/x/"], "channels": ["https://example.org/y"]}'
    assert _list(("url", url_key("http://example.org/x"))).blocks(_asset(source_url="https://example.org/z", other_sources=other))
    assert not _list(("url", url_key("https://example.org/y"))).blocks(_asset(other_sources=other))


def test_addresses_are_compared_in_one_form() -> None:
    """Scheme, case of the host, www and a last slash do not matter; path, query and fragment do."""
    assert normal_url("http://WWW.Example.org/a/?v=1#t") == "https://example.org/a?v=1#t"
    assert len({url_key(u) for u in ("https://e.org/a?v=1", "https://e.org/a?v=2", "https://e.org/A?v=1", "https://e.org/a?v=1#x")}) == 4
    assert normal_url("no address") == "no address" and normal_url("http://[") == "http://["


def test_a_redacted_asset_keeps_hashes_and_loses_every_text() -> None:
    """All columns that the schema calls purgeable are gone, and so is the address; hashes and verdicts stay."""
    texts = dict.fromkeys(PURGEABLE["assets"], "SECRET")
    found = redact(_asset(**texts, licence_expr="CC0-1.0", uri="/in/SECRET.mp4"))
    assert "SECRET" not in repr(found)
    assert (found.asset_sha256, found.licence_expr, found.uri) == (SHA, "CC0-1.0", "removed")


def test_every_purgeable_column_of_the_schema_is_purged() -> None:
    """What the records call purgeable is in the list of what has to go, so that a new column cannot be forgotten."""
    for table, record in (("assets", Asset), ("clips", Clip), ("captions", Caption)):
        said = {n for n, f in record.__dataclass_fields__.items() if "(purgeable)" in f.metadata["doc"]}
        assert said - {"text"} <= set(PURGEABLE[table]), table


@pytest.fixture(scope="module")
def picture(media: Path) -> np.ndarray:
    """A photograph of at most 512 px."""
    from PIL import Image

    with Image.open(sorted((media / "image").glob("bridge_orig*"))[0]) as image:
        image.thumbnail((512, 512))
        return np.asarray(image.convert("RGB"))


def _frame(rgb: np.ndarray, quality: int = 90) -> KeyFrame:
    return KeyFrame(asset_id="a", index=0, pts_us=0, width=rgb.shape[1], height=rgb.shape[0], jpeg=encode_jpeg(rgb, quality))


def test_a_picture_is_met_again_when_scaled_and_compressed(picture: np.ndarray) -> None:
    """Both kinds of hash of a key frame meet a smaller, harder compressed copy within 31 bit, and no other picture."""
    listed = _list(*picture_hashes(None, [_frame(picture)]))
    small = decode_jpeg(_frame(np.ascontiguousarray(picture[::2, ::2]), 40).jpeg)
    luma = np.rint(small.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)).astype(np.uint8)
    area, canonical = pdq.hash_plane(luma)[0], pdq.reference_hash(small)[0]
    other = np.random.Generator(np.random.Philox(key=1)).bytes(32)
    found = _distances(listed, ([area], None), (None, [canonical]), ([other], [other]), ([other, area], None), (None, None), ([], []))
    assert max(found[0] or 99, found[1] or 99) <= 31 and found[2:] == [32, found[0], None, None]


def test_flat_pictures_block_nothing() -> None:
    """A black frame is in half of all films: it is no mark of any."""
    assert picture_hashes(None, [_frame(np.zeros((64, 64, 3), np.uint8))]) == []
    assert not _list().has_pictures


def test_kinds_of_hashes_are_not_mixed(picture: np.ndarray) -> None:
    """Canonical hashes are compared with canonical ones, ours with ours."""
    rows = picture_hashes(None, [_frame(picture)])
    assert {k for k, _ in rows} == {AREA, CANONICAL}
    only_canonical = _list(*(r for r in rows if r[0] == CANONICAL))
    assert _distances(only_canonical, ([bytes.fromhex(rows[0][1])], None)) == [None]


def test_a_long_list_says_what_comparing_one_by_one_says() -> None:
    """Of 2,000 pictures on the list, each clip has the distance that comparing all of its hashes with all of them gives, up to 31 bit, and 32
    where it is more: also where every band of 16 bits differs, and where hundreds of listed pictures are alike."""
    rng = np.random.Generator(np.random.Philox(key=5))
    listed = np.unpackbits(rng.integers(0, 256, (2000, 32), dtype=np.uint8), axis=1)
    listed[:300] = listed[0]
    asked = listed[rng.integers(0, 2000, 400)]
    for i, row in enumerate(asked):
        row[rng.choice(256, i % 40, replace=False)] ^= 1
    for i, row in enumerate(asked[:16]):  # the hardest: two bits in all bands but one, which has one
        row[:] = listed[1000 + i]
        row[[b for band in range(16) for b in (16 * band + 3, 16 * band + 12)][: 2 * i + 1] + list(range(16 * i + 16, 256, 8))] ^= 1
    hashes = [h.tobytes() for h in np.packbits(asked, axis=1)]
    table = _list(*((AREA, h.tobytes().hex()) for h in np.packbits(listed, axis=1)))
    clips = [(hashes[i : i + 1 + i % 3], None) for i in range(400)]
    here = to_words([h.tobytes() for h in np.packbits(listed, axis=1)], "")
    wanted = [min(32, int(distances(to_words(h, ""), here).min())) for h, _ in clips]
    assert _distances(table, *clips) == wanted
    assert len(set(wanted)) > 25 and wanted.count(32) > 30


def test_an_index_tells_each_pair_once() -> None:
    """All pairs within 31 bits and no other, each once with its distance, and none is told beyond."""
    rng = np.random.Generator(np.random.Philox(key=6))
    bits = np.unpackbits(rng.integers(0, 256, (3, 32), dtype=np.uint8), axis=1)[rng.integers(0, 3, 60)]
    for row in bits:
        row[rng.choice(256, rng.integers(0, 25), replace=False)] ^= 1
    words = to_words([h.tobytes() for h in np.packbits(bits, axis=1)], "")
    index, apart = HashIndex(words[:40]), distances(words, words[:40])
    for most in (0, 12, 31):
        told = [row for piece in index.near_pairs(words, most) for row in zip(*(a.tolist() for a in piece), strict=True)]
        assert sorted(told) == [(i, j, int(apart[i, j])) for i, j in zip(*np.nonzero(apart <= most), strict=True)]
    assert len(told) > 300
    with pytest.raises(ValueError, match="0 to 31"):
        next(index.near_pairs(words, 32))


def test_a_rule_beyond_what_is_looked_for_is_refused() -> None:
    """A threshold of more than 31 bits for blocked pictures would drop everything: it is an error that names the rule."""
    with pytest.raises(ValueError, match=r"rules.blocked_copy.threshold: expected at most 31 bits.*found 40"):
        load(CurateConfig, "curate", "paper", ["rules.blocked_copy.threshold=40"]).policy()
