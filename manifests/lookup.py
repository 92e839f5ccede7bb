"""One clip among millions: its row by id, through the Bloom filters of the files, reading a row group and not the table."""

# SQL is put together from names of the schema; the id is a parameter.

import re
from typing import Any

from manifests.ids import ID_HEX
from manifests.query import Snapshot
from manifests.records import Clip
from manifests.schema import from_row
from manifests.whatif import Limits, open_files

_ID = re.compile(rf"[0-9a-f]{{{ID_HEX}}}")


def is_id(text: str) -> bool:
    """Whether the text is a whole id, as clips and assets have."""
    return _ID.fullmatch(text) is not None


def clip_by_id(store: Snapshot, clip_id: str, version: int | None = None) -> Clip | None:
    """The clip with this whole id at a version (newest by default), or None. ValueError for what is no id."""
    if not is_id(clip_id):
        raise ValueError(f"expected {ID_HEX} hexadecimal digits, found {clip_id[:100]!r}")
    version = store.version() if version is None else version
    con = open_files(store, version, ("clips",), Limits())
    try:
        # First the number alone: the Bloom filters leave a row group or two of one column, and the number's range leaves one of all.
        found: list[dict[str, Any]] = []
        numbers = con.execute("SELECT clip_no FROM clips WHERE clip_id = ?", [clip_id]).fetchall()
        if numbers:
            found = con.sql("SELECT * FROM clips WHERE clip_no = ?", params=[numbers[0][0]]).to_arrow_table().to_pylist()
    finally:
        con.close()
    clip: Clip | None = from_row(Clip, found[0]) if found else None
    return clip
