"""What personalisation needs of faces that were found: the crop beside a clip in its shard, and the pairs of clips of one person.

    shards/<set>/…   <clip_id>.face.jpg, the largest face of the clip's middle key frame that has one, masked
    work/identity-pairs/pairs.parquet    clip_id, other_id, cosine: in both directions, so that a takedown of either ends the pair

Both come of what the people stage left: nothing is detected again. Where no identity network was given there are neither.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from curation import keyframes
from curation.faces import agreeing, masked_face
from manifests.tables import write_parquet
from pipelines.stage import Place

PAIRS = "identity-pairs"
SCHEMA = pa.schema([("clip_id", pa.string()), ("other_id", pa.string()), ("cosine", pa.float32())])

_JPEG_QUALITY = 95


def middle_face(row: dict[str, Any]) -> dict[str, Any]:
    """Which key frame, and the box in it, of the middle one of those that have a named face."""
    middle = len(row["identity_frame"]) // 2
    return {"index": row["identity_frame"][middle], "box": [round(v, 6) for v in row["identity_box"][middle]]}


def write_pairs(place: Place, rows: list[dict[str, Any]], threshold: float) -> Path:
    """The pairs of clips whose mean vectors agree by more than the threshold are on disk; vectors of other networks are not compared."""
    pairs: list[dict[str, Any]] = []
    for model in sorted({row["identity_model"] for row in rows}):
        mine = sorted((row for row in rows if row["identity_model"] == model), key=lambda row: str(row["clip_id"]))
        for i, j, cosine in agreeing(np.stack([mean_vector(row["identity"]) for row in mine]), threshold):
            ends = (mine[i]["clip_id"], mine[j]["clip_id"])
            pairs += [{"clip_id": a, "other_id": b, "cosine": cosine} for a, b in (ends, ends[::-1])]
    path = place.work / PAIRS / "pairs.parquet"
    write_parquet(path, pa.Table.from_pylist(sorted(pairs, key=lambda p: (p["clip_id"], p["other_id"])), schema=SCHEMA))
    return path


def mean_vector(vectors: list[list[float]]) -> np.ndarray:
    """The mean of vectors of length 1, at length 1; zero where they cancel out."""
    mean = np.asarray(vectors, np.float32).mean(0)
    return np.asarray(mean / max(float(np.linalg.norm(mean)), 1e-9), np.float32)


def face_jpg(place: Place, face: dict[str, Any]) -> bytes | None:
    """The masked face as a JPEG; None where its key frame is gone or cannot be decoded: then a clip has no face, and no less."""
    try:
        frames = keyframes.read_keyframes(place.dataset / face["part"])
        found = [f for f in frames if (f.asset_id, f.index) == (face["asset_id"], face["index"])]
        crop = masked_face(keyframes.decode_all(face["asset_id"], found[:1])[0], face["box"])
    except (FileNotFoundError, keyframes.KeyFrameError):
        return None
    return None if crop is None else keyframes.encode_jpeg(crop, _JPEG_QUALITY)
