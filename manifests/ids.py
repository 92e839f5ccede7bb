"""Ids made from content hashes and integers, so that moving or renaming a file never renames what was derived from it."""

import hashlib
from typing import Protocol

ID_HEX = 32
"""Length of an asset or clip id: the first 128 bits of a SHA-256, in hexadecimal."""

_BLOCK_BYTES = 1 << 20


class Readable(Protocol):
    """What bytes are read from."""

    def read(self, size: int, /) -> bytes:
        """At most `size` bytes; none at the end."""


def asset_id(sha256: bytes) -> str:
    """The id of an asset: the first 128 bits of the SHA-256 of its bytes, as 32 hexadecimal digits."""
    return sha256.hex()[:ID_HEX]


def clip_id(asset: str, kind: str, start_us: int, end_us: int) -> str:
    """The id of the half-open span [start_us, end_us) of an asset; the same span of the same bytes has the same id for ever."""
    return digest("clip/v1", asset, kind, start_us, end_us)


def digest(*parts: object) -> str:
    """32 hexadecimal digits of the SHA-256 over the parts' text, each preceded by its length so that no two lists collide."""
    h = hashlib.sha256()
    for part in parts:
        text = str(part).encode()
        h.update(len(text).to_bytes(8, "big") + text)
    return h.hexdigest()[:ID_HEX]


def uniform(*parts: object) -> float:
    """A number in [0, 1) that depends on the parts alone: 53 bits of their SHA-256. The draw behind every sampling decision."""
    return (int(digest(*parts)[:14], 16) >> 3) / 2**53


def hash_stream(stream: Readable) -> tuple[bytes, bytes, int]:
    """SHA-256, MD5 and size in bytes of what is left in the stream. MD5 only because external hash lists use it."""
    sha256, md5, size = hashlib.sha256(), hashlib.md5(usedforsecurity=False), 0
    while block := stream.read(_BLOCK_BYTES):
        sha256.update(block)
        md5.update(block)
        size += len(block)
    return sha256.digest(), md5.digest(), size
