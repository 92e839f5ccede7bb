"""A shard's name is that of its content (docs/decisions/003)."""

from typing import Any

from pipelines.shard_files import ShardConfig, plan_shards


def _names(**other: Any) -> list[str]:
    sample = {
        "clip_id": "c", "set_name": "s", "bucket": "b", "part": "work/encode/x/1.parquet", "payload_sha256": "00", "json": "{}", "txt": "t",
        "face": {"part": "work/keyframes/1.parquet", "asset_id": "a"},
    }  # fmt: skip
    return [p.path for p in plan_shards([sample | other], ShardConfig())]


def test_a_name_never_changes_its_bytes() -> None:
    """Other bytes of a payload, or another caption, are another name, so that no released shard is written over."""
    assert len({*_names(), *_names(payload_sha256="01"), *_names(txt="u"), *_names(json="{1}")}) == 4


def test_the_same_content_has_the_same_name() -> None:
    """In whichever part of the work area an encoded clip or a face lies."""
    assert _names() == _names(part="work/encode/x/2.parquet", face={"part": "work/keyframes/2.parquet", "asset_id": "a"})
