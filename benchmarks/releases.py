"""What a release costs: leaves a second, bytes a clip, seconds for a proof, and peak memory, on tables made up for it.

    python benchmarks/releases.py --clips 1000000

Shards are left out: making a release reads none, and verifying them is the speed of SHA-256 (1.6 GB/s a core).
"""

import argparse
import resource
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from manifests import leaves, treefile
from manifests.leaves import TREES, Tree
from manifests.release_check import _check_rows
from manifests.schema import TABLES, arrow_schema

CLIPS_AN_ASSET, KEPT_SHARE, CHUNK = 7, 0.4, 1_000_000


def main() -> None:
    """Prints one line a step."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=1_000_000)
    n = parser.parse_args().clips
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        with timed("make up the tables"):
            files = make_tables(root, n)
        for tree in TREES:
            measure(tree, files, root)
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f} GB")


def measure(tree: Tree, files: leaves.Files, root: Path) -> None:
    """Pack, hash and write a tree; prove a row; compare every row with it."""
    with timed(f"{tree.name}: read and pack"):
        rows = leaves.rows_of(tree, files)
    with timed(f"{tree.name}: salt, hash, write", len(rows.keys)):
        expected = treefile.write_tree(root, tree, rows)
    size = (root / treefile.rows_path(tree)).stat().st_size + (root / treefile.nodes_path(tree)).stat().st_size
    print(f"{tree.name}: {size / max(1, len(rows.keys)):.1f} bytes a row")
    key, n = rows.keys[len(rows.keys) // 2].tobytes(), len(rows.keys)
    del rows
    file = treefile.open_tree(root, tree)
    with timed(f"{tree.name}: path of one row"):
        file.path(file.find(key) or 0)
    with timed(f"{tree.name}: fields of one row"):
        leaves.one_row(tree, files, key)
    with timed(f"{tree.name}: verify: root", n):
        assert treefile.root_of_rows(file) == expected
    with timed(f"{tree.name}: verify: every row", n):
        assert not list(_check_rows(tree, file, files))


def make_tables(root: Path, n: int) -> leaves.Files:
    """Parquet files of clips, assets and members, a million rows each at most."""
    draw = np.random.Generator(np.random.Philox(key=4))
    n_assets = -(-n // CLIPS_AN_ASSET)
    files: dict[str, list[Path]] = {"clips": [], "assets": [], "members": []}
    for first in range(0, n_assets, CHUNK):
        m = min(CHUNK, n_assets - first)
        hashes = binary(draw, m, 32)
        columns = {
            "asset_no": pa.array(np.arange(first, first + m)),
            "asset_sha256": hashes,
            "size_bytes": pa.array(draw.integers(10**5, 10**8, m)),
        }
        columns |= {
            "kind": constant("video", m),
            "decision": constant("keep", m),
            "licence_expr": constant("CC-BY-4.0", m),
            "n_copies": pa.array(np.ones(m, np.int32)),
        }
        files["assets"].append(write(root, "assets", first, m, columns))
    for first in range(0, n, CHUNK):
        m = min(CHUNK, n - first)
        numbers, kept = np.arange(first, first + m), draw.random(m) < KEPT_SHARE
        ids = draw.bytes(16 * m).hex()
        start = draw.integers(0, 10**9, m)
        columns = {
            "clip_id": pa.array([ids[i : i + 32] for i in range(0, len(ids), 32)]),
            "clip_no": pa.array(numbers),
            "asset_no": pa.array(numbers // CLIPS_AN_ASSET),
        }
        columns |= {"kind": constant("video", m), "start_us": pa.array(start), "end_us": pa.array(start + 5_000_000)}
        columns |= {
            "decision": pa.array(np.where(kept, "keep", "drop").tolist()),
            "shard_no": pa.array((numbers // 1000).astype(np.int32), mask=~kept),
        }
        files["clips"].append(write(root, "clips", first, m, columns))
        of = numbers[kept]
        columns = {
            "clip_no": pa.array(of),
            "extension": constant("mp4", len(of)),
            "offset": pa.array(draw.integers(0, 10**9, len(of))),
            "size_bytes": pa.array(draw.integers(1, 10**7, len(of))),
        }
        files["members"].append(write(root, "members", first, len(of), columns | {"sha256": binary(draw, len(of), 32)}))
    return files


def write(root: Path, table: str, first: int, n: int, columns: dict[str, pa.Array]) -> Path:
    """The columns, and nulls for the others, as a file of that table."""
    path = root / f"{table}-{first}.parquet"
    fields = [f.with_nullable(True) for f in arrow_schema(TABLES[table])]
    data = [columns[f.name].cast(f.type) if f.name in columns else pa.nulls(n, f.type) for f in fields]
    pq.write_table(pa.table(data, schema=pa.schema(fields)), path, compression="zstd")
    return path


def binary(draw: np.random.Generator, n: int, width: int) -> pa.Array:
    """n values of that many drawn bytes."""
    offsets = pa.py_buffer(np.arange(0, (n + 1) * width, width, dtype=np.int32).tobytes())
    return pa.Array.from_buffers(pa.binary(), n, [None, offsets, pa.py_buffer(draw.bytes(n * width))])


def constant(value: str, n: int) -> pa.Array:
    """The value n times."""
    return pa.array([value], pa.string()).take(pa.array(np.zeros(n, np.int32)))


@contextmanager
def timed(title: str, rows: int = 0) -> Iterator[None]:
    """Says what the block cost in CPU time, which a busy machine changes less than the clock, and rows a second of it."""
    begun = time.process_time()
    yield
    seconds = time.process_time() - begun
    print(f"{title}: {seconds:.3f} CPU s" + (f", {rows / seconds:,.0f} rows/s" if rows else ""), flush=True)


if __name__ == "__main__":
    main()
