"""What comes in is met with what the dataset holds: statements of other copies and blocked addresses are not forgotten."""

import json
from datetime import date
from pathlib import Path

import pytest
from PIL import Image

from manifests import ids
from manifests.events import Block, Run
from manifests.purgeable import REMOVED_URI, url_key
from manifests.records import Asset
from manifests.schema import from_table, to_table
from manifests.tables import ManifestStore
from pipelines.config import load, to_json
from pipelines.curation_run import Curation
from pipelines.intake import ingest
from pipelines.progress import Progress
from pipelines.settings import CurateConfig


def _picture(folder: Path, name: str, **stated: object) -> Path:
    """A picture, the same in every folder, with what stands beside it."""
    folder.mkdir(exist_ok=True)
    Image.new("RGB", (64, 64), (200, 30, 30)).save(folder / f"{name}.png")
    if stated:
        (folder / f"{name}.json").write_text(json.dumps(stated))
    return folder


def _taken_in(dataset: Path, *inputs: Path) -> list[Asset]:
    """The assets after the inputs came in, which the dataset now holds."""
    run = Curation(dataset, load(CurateConfig, "curate", "tiny", ["engine.name=local"]), Progress(quiet=True), date(2026, 11, 30))
    ingest(run, [str(p) for p in inputs])
    run.store.commit(ids.digest("test", run.store.version()), replace={"assets": run.assets, "sources": run.sources})
    return from_table(Asset, run.assets)


def test_a_copy_listed_later_does_not_lift_what_another_states(tmp_path: Path) -> None:
    """Whether two copies come in one run or in two, the stricter statement holds; given anew by the same file, its own statement counts."""
    reserved = _picture(tmp_path / "b", "x", licence="CC-BY-NC-4.0", training="reserved")
    free = _picture(tmp_path / "a", "x", licence="CC0-1.0", training="allowed")
    dataset = tmp_path / "dataset"
    for inputs in ([reserved], [free], [reserved, free]):
        (asset,) = _taken_in(dataset, *inputs)
        assert (asset.licence_class, asset.reservation) == (1, 1.0), inputs
    _picture(tmp_path / "b", "x", licence="CC0-1.0", training="allowed")
    (asset,) = _taken_in(dataset, reserved, free)
    assert (asset.licence_class, asset.reservation) == (0, 0.0)


def test_an_address_that_is_blocked_blocks_its_bytes(tmp_path: Path) -> None:
    """A file whose sidecar names a blocked address is blocked, with a copy of which nobody says so; neither address is kept."""
    dataset = tmp_path / "dataset"
    blocked = Block(kind="url", value=url_key("https://example.org/film"), takedown_no=1)
    ManifestStore(dataset).commit("b" * 32, replace={"blocklist": to_table(Block, [blocked])})
    _picture(tmp_path / "in", "named", source_url="https://example.org/film")
    for _ in range(2):
        (asset,) = _taken_in(dataset, _picture(tmp_path / "in", "plain"))
        assert (asset.blocked, asset.uri, asset.other_sources, asset.error_code) == (1.0, REMOVED_URI, None, None)


def test_a_rights_table_that_is_left_out_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What the last curation took from it is gone without it: one line says so, and nothing where it is given, or never was."""
    table, dataset = tmp_path / "rights.csv", tmp_path / "dataset"
    table.write_text("file,licence\nx.png,CC0-1.0\n")
    folder = _picture(tmp_path / "in", "x")
    for given, told in ((table, False), (None, True)):
        config = load(CurateConfig, "curate", "tiny", ["engine.name=local", *([f"ingest.rights_csv={given}"] if given else [])])
        run = Curation(dataset, config, Progress(), date(2026, 11, 30))
        ingest(run, [str(folder)])
        assert ("give it again with --rights" in capsys.readouterr().err) is told
        made = Run(
            run_no=0, run_id="c" * 32, command="curate", inputs_digest="", code_version="", config_sha256="", parent_version=-1,
            config_json=to_json(config),
        )  # fmt: skip
        if given:
            run.store.commit(made.run_id, replace={"assets": run.assets, "sources": run.sources}, append={"runs": to_table(Run, [made])})
