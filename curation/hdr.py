"""Pictures of high dynamic range as a screen of standard range shows them.

PQ (SMPTE ST 2084) and HLG (ARIB STD-B67) code light that no 8-bit picture holds: read as if they were BT.709 they are grey and flat.
FFmpeg's scaler (8 and later) brings them to BT.709's transfer and primaries, with highlights beyond reference white clipped.
"""

from typing import Any

BT709 = 1
_TRANSFERS = {16: "PQ", 18: "HLG"}
"""Of high dynamic range, by their numbers in H.273."""

SCALE_OPTIONS = "out_transfer=bt709:out_primaries=bt709"
"""The same for FFmpeg's scale filter."""


def is_hdr(source: Any) -> bool:
    """Whether the frame, or the codec context, says that its picture is of high dynamic range."""
    return int(source.color_trc or 0) in _TRANSFERS
