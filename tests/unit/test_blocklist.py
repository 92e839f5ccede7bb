"""The blocklist: files refused by bytes or address, pictures by what they show; and the trail that is left of a refused file."""

from pathlib import Path

import numpy as np
import pytest

from curation import pdq
from curation.blocklist import AREA, CANONICAL, Blocklist, picture_hashes
from curation.keyframes import KeyFrame, decode_jpeg, encode_jpeg
from manifests.events import Block
from manifests.purgeable import PURGEABLE, normal_url, redact, url_key
from manifests.records import Asset, Caption, Clip

SHA, MD5 = b"s" * 32, b"m" * 16


def _asset(**given: object) -> Asset:
    named: dict[str, object] = {"asset_id": "a" * 32, "asset_sha256": SHA, "asset_md5": MD5, "size_bytes": 1, "uri": "/in/a.mp4"}
    return Asset(**(named | given))  # type: ignore[arg-type]


def _list(*rows: tuple[str, str]) -> Blocklist:
    return Blocklist.of(Block(kind=k, value=v) for k, v in rows)


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
    assert (found.asset_sha256, found.licence_expr, found.uri) == (SHA, "CC0-1.0", f"removed:{found.asset_id}")


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
    assert (listed.distance([area], None, "c") or 0) <= 31 and (listed.distance(None, [canonical], "c") or 0) <= 31
    other = np.random.Generator(np.random.Philox(key=1)).bytes(32)
    assert (listed.distance([other], [other], "c") or 0) > 31
    assert listed.distance(None, None, "c") is None and listed.distance([], [], "c") is None


def test_flat_pictures_block_nothing() -> None:
    """A black frame is in half of all films: it is no mark of any."""
    assert picture_hashes(None, [_frame(np.zeros((64, 64, 3), np.uint8))]) == []
    assert not _list().has_pictures


def test_kinds_of_hashes_are_not_mixed(picture: np.ndarray) -> None:
    """Canonical hashes are compared with canonical ones, ours with ours."""
    rows = picture_hashes(None, [_frame(picture)])
    assert {k for k, _ in rows} == {AREA, CANONICAL}
    only_canonical = _list(*(r for r in rows if r[0] == CANONICAL))
    assert only_canonical.distance([bytes.fromhex(rows[0][1])], None, "c") is None
