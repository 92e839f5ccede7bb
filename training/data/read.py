"""The bytes of a sample, by the index and never by a name inside the tar."""

import hashlib
from pathlib import Path

from manifests.shards import read_payload
from training.data.index import Sample
from training.errors import SampleError


def read_sample(dataset: Path, sample: Sample, verify: bool) -> bytes:
    """The member's payload; SampleError when the shard is missing, ends early or (with `verify`) holds other bytes."""
    path = dataset / sample.shard_path
    where = f"{sample.shard_path} clip {sample.clip_id}"
    if not path.resolve().is_relative_to(dataset.resolve()):
        raise SampleError(where, "read", "a path under the dataset", sample.shard_path)
    try:
        data = read_payload(path, sample.offset, sample.size_bytes)
    except (OSError, ValueError) as error:
        raise SampleError(where, "read", f"{sample.size_bytes} bytes at {sample.offset}", str(error)) from error
    if verify and (found := hashlib.sha256(data).digest()) != sample.sha256:
        raise SampleError(where, "verify", f"SHA-256 {sample.sha256.hex()}", found.hex())
    return data
