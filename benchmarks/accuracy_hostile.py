"""Broken and unusual files: do they end as decided by hand, is damage seen, and does anything escape the sandbox?

    python benchmarks/accuracy_hostile.py

The decisions, with their reasons, are `tests/data/hostile_truth.json`; they were written by looking at what the files are, and the code
was mended until it agreed, so the first figure says that nothing has moved. The fuzz cases here are others than those of the tests;
`benchmarks/fuzz.py` runs 20,000.
"""

import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.decode import media_folder
from benchmarks.figures import Figure, as_table

TRUTH = Path(__file__).resolve().parent.parent / "tests" / "data" / "hostile_truth.json"
N_CASES, FIRST_CASE = 600, 5_000_000


def ends_as_decided(path: Path, said: dict[str, Any]) -> bool:
    """Whether stage and code of the error, or all facts, and the frames and errors counted by the decode, are those of the table."""
    from curation.decode import DecodeLog, decode
    from curation.media import MediaConfig
    from curation.probe import probe_asset
    from manifests.records import Asset

    asset = Asset(asset_id="a" * 32, asset_sha256=b"", asset_md5=b"", size_bytes=path.stat().st_size, uri=str(path))
    asset = probe_asset(asset, str(path), MediaConfig())
    if "error" in said:
        return [asset.error_stage, asset.error_code] == said["error"]
    facts = {k: v for k, v in said["facts"].items() if k not in ("fps", "container")}
    good = {k: getattr(asset, k) for k in facts} == facts
    if "decoded" in said:
        log = DecodeLog()
        n_frames = sum(1 for _ in decode(str(path), MediaConfig(), log=log))
        good &= (n_frames, log.n_errors) == (said["decoded"]["n_frames"], said["decoded"]["n_errors"])
    return good


def damage_is_seen(path: Path, said: dict[str, Any]) -> bool:
    """Whether damaged frames are found in a video just when its decode counts errors."""
    from curation.damage import DamageObserver
    from curation.decode import DecodeLog
    from curation.media import MediaConfig
    from curation.probe import probe_asset
    from curation.scan import watch
    from curation.spared_frames import Spare
    from manifests.records import Asset

    asset = Asset(asset_id="a" * 32, asset_sha256=b"", asset_md5=b"", size_bytes=path.stat().st_size, uri=str(path))
    log = DecodeLog()
    (track,) = watch(str(path), probe_asset(asset, str(path), MediaConfig()), [DamageObserver(log)], MediaConfig(), Spare(log))
    return bool(len(track)) == bool(said["decoded"]["n_errors"])


def figures(media: Path) -> list[Figure]:
    """The figures of hostile input beside their targets."""
    from benchmarks.damages import seeds
    from benchmarks.fuzz import fuzz_all

    truth = json.loads(TRUTH.read_text())
    ends = [ends_as_decided(media / "hostile" / name, said) for name, said in truth.items()]
    videos = {name: said for name, said in truth.items() if "decoded" in said}
    damage = [damage_is_seen(media / "hostile" / name, said) for name, said in videos.items()]
    totals = fuzz_all(range(FIRST_CASE, FIRST_CASE + N_CASES), seeds(media), n_workers=1)
    lost = sum(n for outcome, n in totals.outcomes.items() if "lost" in outcome)
    cases = f"{N_CASES} damaged media"
    return [
        Figure(subject="hostile", what="files that end as decided", value=sum(ends) / len(ends), target=1, on=f"{len(ends)} files, tuned on them"),
        Figure(subject="hostile", what="videos whose damage is seen, or rightly none", value=sum(damage) / len(damage), target=1, on=f"{len(damage)} videos"),
        Figure(subject="hostile", what="faults: crash of the run, limit broken, two verdicts", value=len(totals.faults), target=0, on=cases, at_least=False),
        Figure(subject="hostile", what="share of cases that cost a process", value=lost / N_CASES, target=0.001, on=cases, at_least=False),
        Figure(subject="hostile", what="CPU seconds of the worst case", value=totals.worst_cpu_s, target=5, on=cases, at_least=False),
    ]  # fmt: skip


if __name__ == "__main__":
    print(as_table(figures(media_folder())))
