"""What the first bytes and the outline of a file say, before anything parses it."""

import os
import struct
from typing import BinaryIO

_SIGNATURES = (
    b"\x1aE\xdf\xa3",
    b"RIFF",
    b"OggS",
    b"fLaC",
    b"FLV\x01",
    b"\x00\x00\x01\xba",
    b"\x30\x26\xb2\x75",
    b"GIF8",
    b"FORM",
    b"caff",
    b"wvpk",
)
_BOXES = (b"ftyp", b"moov", b"mdat", b"free", b"wide", b"skip")


def head_of(file: BinaryIO) -> bytes:
    """The first 64 bytes; the file's position does not move."""
    return os.pread(file.fileno(), 64, 0)


def is_container(head: bytes) -> bool:
    """Whether a file that starts with these bytes (at least 12) claims to be a container of video or sound that we read."""
    return head[4:8] in _BOXES or head.startswith(_SIGNATURES)


def picture_kind(head: bytes) -> str | None:
    """The picture format of a file that starts with these bytes (at least 32), or None when it is not a still picture."""
    if head[:3] == b"\xff\xd8\xff":
        return "JPEG"
    if head[:8] == b"\x89PNG\r\n\x1a\n":
        return "PNG"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    if head[:2] == b"BM" and head[6:10] == bytes(4):
        return "BMP"
    if head[4:8] == b"ftyp":
        return {b"avif": "AVIF", b"heic": "HEIC", b"heix": "HEIC", b"mif1": "HEIC"}.get(head[8:12])
    return None


def is_cut_off(file: BinaryIO) -> bool:
    """Whether the file ends before it says it does: RIFF by its length, MP4 by its boxes or for want of a `moov`; shorter than 64 bytes."""
    fd, at, seen = file.fileno(), 0, set()
    size = os.fstat(fd).st_size
    head = head_of(file)
    if size < 64:
        return True
    if head[:4] == b"RIFF":
        return int.from_bytes(head[4:8], "little") + 8 > size
    if head[4:8] not in _BOXES:
        return False
    for _ in range(10_000):
        if at + 8 > size:
            break
        length, kind = struct.unpack(">I4s", os.pread(fd, 8, at))
        if length == 1:
            length = int.from_bytes(os.pread(fd, 8, at + 8), "big")
        if length < 8:  # 0: to the end of the file; less makes no sense
            length = size - at
        seen.add(kind)
        at += length
    return at > size or b"moov" not in seen
