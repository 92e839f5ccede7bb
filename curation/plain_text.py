"""Text from outside, made fit for a column and for a screen: names of files, sidecars, what a decoder says."""

MAX_TEXT = 8192
"""Characters kept of a text where nothing else is said."""

_DROPPED = dict.fromkeys([*range(9), *range(0x0B, 0x20), *range(0x7F, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A)])
"""Control and direction-changing characters; tab and line feed stay."""


def clean_text(text: str, limit: int = MAX_TEXT) -> str:
    """Text from outside as valid Unicode, without control and direction-changing characters, at most `limit` characters."""
    return text.encode("utf-8", "replace").decode().translate(_DROPPED)[:limit].strip()
