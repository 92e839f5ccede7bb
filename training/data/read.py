"""The bytes of a sample, by the index and never by a name inside the tar; none of a clip that the dataset's deny list names."""

import hashlib
from pathlib import Path

from manifests.deny import DenyList
from manifests.shards import read_payload
from training.data.index import Sample
from training.errors import DeniedError, SampleError


def read_sample(dataset: Path, sample: Sample, verify: bool, denied: DenyList | None = None) -> bytes:
    """The member's payload; SampleError when the shard is missing, ends early or (with `verify`) holds other bytes, DeniedError when it may
    not be used."""
    path = dataset / sample.shard_path
    where = f"{sample.shard_path} clip {sample.clip_id}"
    if denied is not None and (number := denied.takedown_of(sample.clip_id)) is not None:
        raise DeniedError(where, "read", "a clip that may be used", f"takedown {number}")
    if not path.resolve().is_relative_to(dataset.resolve()):
        raise SampleError(where, "read", "a path under the dataset", sample.shard_path)
    try:
        data = read_payload(path, sample.offset, sample.size_bytes)
    except (OSError, ValueError) as error:
        raise SampleError(where, "read", f"{sample.size_bytes} bytes at {sample.offset}", str(error)) from error
    if verify and (found := hashlib.sha256(data).digest()) != sample.sha256:
        raise SampleError(where, "verify", f"SHA-256 {sample.sha256.hex()}", found.hex())
    return data
