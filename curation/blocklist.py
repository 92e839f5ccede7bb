"""The blocklist at work: files known by hash or address are refused at ingest, and pictures that show the same once they are hashed.

PDQ compares pictures: sound alone is known by its exact bytes only. A list holds hashes, never addresses or names.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from curation import hash_observer, pdq
from curation.hash_index import HashIndex
from curation.keyframes import KeyFrame, KeyFrameError, decode_jpeg
from curation.near_hashes import to_words
from curation.tracks import Track
from manifests.events import Block
from manifests.purgeable import url_key
from manifests.records import Asset
from manifests.takedown import sources_of

CANONICAL, AREA = "pdq", "pdq_area"
MIN_QUALITY = 50
"""PDQ's authors hold hashes of flatter pictures for noise; blocking by one would refuse every dark frame."""
_SAME_BITS = 3
"""A picture nearer than this to the one before adds nothing to a list that is compared with an allowance of 31."""
_CLIPS_AT_ONCE = 256
_NOTHING = 257
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601, as decoded planes


@dataclass(frozen=True, slots=True)
class Blocklist:
    """The rows of the table, ready to be asked."""

    files: frozenset[str]
    urls: frozenset[str]
    canonical: HashIndex | None
    area: HashIndex | None
    """None where there is no picture of the kind."""

    @classmethod
    def of(cls, blocks: Iterable[Block]) -> "Blocklist":
        """The list of these rows; a picture hash of another length than 32 bytes is a HashError."""
        by_kind: dict[str, list[str]] = {}
        for block in blocks:
            by_kind.setdefault(block.kind, []).append(block.value)
        words = [to_words([bytes.fromhex(v) for v in sorted(set(by_kind.get(k, [])))], "blocklist") for k in (CANONICAL, AREA)]
        files = frozenset(v for k in ("sha256", "md5") for v in by_kind.get(k, []))
        return cls(files, frozenset(by_kind.get("url", [])), *(HashIndex(w) if len(w) else None for w in words))

    def blocks(self, asset: Asset) -> bool:
        """Whether the file is on the list, by its bytes or by an address that it or a copy of it was found at."""
        if asset.asset_sha256.hex() in self.files or asset.asset_md5.hex() in self.files:
            return True
        return bool(self.urls) and any(url_key(a) in self.urls for a in sources_of(asset)["addresses"] if "://" in a)

    @property
    def has_pictures(self) -> bool:
        """Whether there is any picture to compare with."""
        return self.canonical is not None or self.area is not None


def block_distances(table: Blocklist, described: pa.Table) -> pa.Table:
    """`clip_id, block_distance` of clips as `embeddings` describes them: the smallest distance in bits of a clip's hashes (own and probes)
    and canonical hashes to the list, 32 where it is more than 31, null where nothing compares."""
    ids = described.column("clip_id").to_pylist()
    found = np.full(len(ids), _NOTHING)
    for listed, name in ((table.area, "pdq"), (table.canonical, "pdq_reference")):
        if listed is not None:
            for first in range(0, len(ids), _CLIPS_AT_ONCE):
                rows = described.column(name).slice(first, _CLIPS_AT_ONCE).to_pylist()
                words = [to_words(hashes, clip_id) for hashes, clip_id in zip(rows, ids[first:], strict=False)]
                owner = first + np.repeat(np.arange(len(words)), [len(w) for w in words])
                np.minimum.at(found, owner, listed.nearest(np.concatenate(words)))
    return pa.table({"clip_id": pa.array(ids, pa.string()), "block_distance": pa.array(found, pa.int32(), mask=found == _NOTHING)})


def picture_hashes(track: Track | None, keyframes: Sequence[KeyFrame]) -> list[tuple[str, str]]:
    """(kind, value) of blocklist rows for an asset's pictures: its scan's eight hashes a second, and its key frames both ways."""
    area: list[bytes] = []
    if track is not None:
        pairs = zip(hash_observer.hashes_of(track), track["quality"].tolist(), strict=True)
        area = _thinned([h for h, quality in pairs if quality >= MIN_QUALITY])
    canonical: list[bytes] = []
    for frame in keyframes:
        try:
            rgb = decode_jpeg(frame.jpeg)
        except KeyFrameError:
            continue  # a damaged key frame hides nothing: the scan's hashes are there too
        value, seen = pdq.hash_plane(np.rint(rgb.astype(np.float32) @ _LUMA).astype(np.uint8))
        if seen >= MIN_QUALITY:
            area.append(value)
            canonical.append(pdq.reference_hash(rgb)[0])
    return sorted({(AREA, h.hex()) for h in area} | {(CANONICAL, h.hex()) for h in canonical})


def _thinned(hashes: list[bytes]) -> list[bytes]:
    kept: list[bytes] = []
    for value in hashes:
        if not kept or pdq.hamming(kept[-1], value) > _SAME_BITS:
            kept.append(value)
    return kept
