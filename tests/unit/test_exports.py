"""What a release says in the formats of others: valid by their own checkers, complete, and safe whatever the names."""

import csv
import dataclasses
import io
import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from manifests.events import Block, Takedown
from manifests.exports import attribution, croissant, data_card, eu_summary, openlineage, removals
from manifests.exports.facts import Facts, collect, hours
from manifests.exports.openlineage import StageRun
from manifests.query import connect
from manifests.records import Source
from manifests.schema import from_table, to_table
from manifests.tables import ManifestStore
from tests.fake_dataset import make
from tests.release_maker import CREATED, kept_and_dropped, make_dataset, release

STAGES = (
    StageRun(
        run_no=1,
        stage="ingest",
        shape="map",
        version="1",
        engine="ray",
        reads=("source",),
        writes=("work/ingest",),
        rows_out=10,
        files=1,
        size_bytes=900,
        started_at=CREATED,
        ended_at=CREATED,
    ),
    StageRun(run_no=1, stage="mix", shape="table", version="1", engine="spark", reads=("work/sets",), writes=("work/mix",)),
)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ManifestStore:
    """A dataset of 80 clips with addresses, a takedown, and one of every kind of blocklist row; and a release of it."""
    made = make_dataset(tmp_path_factory.mktemp("exports") / "films", 80)
    assets = made.read("assets")
    urls = [
        None if i % 4 == 0 else f"https://user:pw@www{i % 3}.example.co.uk:8080/v?x={i}" if i % 2 else f"http://cdn.films.org/{i}"
        for i in range(assets.num_rows)
    ]
    index = assets.schema.get_field_index("source_url")
    assets = assets.set_column(index, assets.schema.field("source_url"), [urls])
    blocks = [
        Block(kind=k, value=v, takedown_no=1) for k, v in (("sha256", "aa" * 32), ("md5", "bb" * 16), ("url", "https://secret.example/x"))
    ]
    takedown = make(Takedown, takedown_no=1, basis="privacy", selector="https://secret.example/x", state="closed")
    made.commit(
        "e" * 32, append={"takedowns": to_table(Takedown, [takedown])}, replace={"assets": assets, "blocklist": to_table(Block, blocks)}
    )
    release(made)
    return made


@pytest.fixture(scope="module")
def facts(store: ManifestStore) -> Facts:
    """The facts of that version."""
    given = {
        "name": "v1",
        "dataset": "films",
        "version": store.version(),
        "created_at": CREATED,
        "code_version": "test",
        "root": "ab" * 32,
        "signed": False,
    }
    return collect(connect(store), **given)


def text_of(store: ManifestStore, name: str) -> str:
    """A file of the release."""
    return (store.root / "releases" / "v1" / name).read_text()


def test_the_facts_add_up(store: ManifestStore, facts: Facts) -> None:
    """Kept clips by kind, set, licence and source are the same number, and that of the clips table; hours too."""
    kept, _ = kept_and_dropped(store)
    for rows in (facts.kinds, facts.sets, facts.licences, facts.sources, facts.signals):
        assert sum(r["kept"] for r in rows) == kept.num_rows
    assert sum(c["kept"] for c in facts.captioners) == kept.num_rows
    spans = sum(e - s for s, e in zip(kept.column("start_us").to_pylist(), kept.column("end_us").to_pylist(), strict=True))
    assert facts.kept_us == spans and hours(3_600_000_000) == 1.0
    assert sum(k["assets"] for k in facts.kinds) == store.read("assets").num_rows


def test_domains_are_those_of_the_addresses(facts: Facts) -> None:
    """Registrable part, without user, port or path; two-part public suffixes keep three labels."""
    assert {d["domain"] for d in facts.domains} == {"example.co.uk", "films.org"}


def test_croissant_is_valid_by_mlcroissant(store: ManifestStore) -> None:
    """mlcroissant 1.1 loads it without an error, and reads clips and assets through it: the released rows, licence and all."""
    library = pytest.importorskip("mlcroissant")
    dataset = library.Dataset(store.root / "releases" / "v1" / "croissant.json")
    assert "error" not in dataset.metadata.issues.report().lower()
    assert dataset.metadata.ctx.is_v1_1()
    clips = list(dataset.records("clips"))
    assert {r["clips/clip_id"].decode() for r in clips} == set(store.read("clips").column("clip_id").to_pylist())
    licences = [r["assets/licence_expr"] for r in dataset.records("assets")]
    assert b"CC-BY-4.0" in licences


def test_croissant_carries_rai_provenance_and_use(store: ManifestStore) -> None:
    """Both profiles, every RAI property of ours with a text, PROV of sources and runs, use conditions, hashes of the files."""
    data = json.loads(text_of(store, "croissant.json"))
    assert data["conformsTo"] == croissant.CONFORMS_TO
    rai = {k: v for k, v in data.items() if k.startswith("rai:")}
    assert len(rai) >= 19 and all(rai.values())
    assert len(data["prov:wasDerivedFrom"]) == 3
    assert data["prov:wasGeneratedBy"][0]["prov:wasAssociatedWith"]["prov:label"] == "dailies 0.1.0"
    assert data["usageInfo"]["@type"] == "odrl:Set" and data["usageInfo"]["odrl:duty"]
    assert all(len(d["sha256"]) == 64 for d in data["distribution"] if d["@type"] == "cr:FileObject")
    licence = next(f for r in data["recordSet"] for f in r["field"] if f["@id"] == "assets/licence_expr")
    assert licence["equivalentProperty"] == "sc:license"


def test_a_table_of_several_files_is_several_record_sets(store: ManifestStore, facts: Facts) -> None:
    """mlcroissant cannot read a set of Parquet files as one, so each is a part."""
    from manifests.release_file import Entry

    two = [Entry(path=f"manifest/rules/{n}.parquet", size_bytes=1, sha256="0" * 64, rows=1) for n in range(2)]
    sets = croissant.write_croissant(facts, {"rules": two})["recordSet"]
    assert [s["@id"] for s in sets] == ["rules-0", "rules-1"]


def test_lineage_events_are_openlineage(store: ManifestStore, facts: Facts) -> None:
    """Every line is an event the library takes: START and COMPLETE for the run and each stage, children named after their parent."""
    from openlineage.client import event_v2

    lines = [json.loads(line) for line in openlineage.write_lineage(facts, STAGES).splitlines()]
    assert [(e["eventType"], e["job"]["name"]) for e in lines] == [
        ("START", "curate"), ("START", "curate.ingest"), ("COMPLETE", "curate.ingest"),
        ("START", "curate.mix"), ("COMPLETE", "curate.mix"), ("COMPLETE", "curate"),
    ]  # fmt: skip
    for e in lines:
        assert e["schemaURL"].startswith("https://openlineage.io/spec/2-") and e["producer"]
        event_v2.RunEvent(
            eventTime=e["eventTime"],
            eventType=event_v2.RunState[e["eventType"]],
            run=event_v2.Run(e["run"]["runId"]),
            job=event_v2.Job(e["job"]["namespace"], e["job"]["name"]),
        )
        for facet in [*e["run"]["facets"].values(), *e["job"]["facets"].values()]:
            assert facet["_producer"] and facet["_schemaURL"]
    run = lines[0]["run"]["runId"]
    assert run[14] == "7" and all(e["run"]["facets"]["parent"]["run"]["runId"] == run for e in lines[1:-1])
    assert lines[2]["outputs"][0]["outputFacets"]["outputStatistics"] | {"_producer": 0, "_schemaURL": 0} == {
        "rowCount": 10,
        "size": 900,
        "fileCount": 1,
        "_producer": 0,
        "_schemaURL": 0,
    }
    policy = {r["name"]: r["threshold"] for r in lines[0]["run"]["facets"]["dailies_curation"]["policy"]}
    assert policy["moves"] == 2.0
    clips = next(o for o in lines[-1]["outputs"] if o["name"] == "manifest/clips")
    assert clips["outputFacets"]["outputStatistics"]["rowCount"] == 80 and clips["facets"]["version"]["datasetVersion"] == str(
        store.version()
    )
    assert openlineage.write_lineage(facts, STAGES) == openlineage.write_lineage(facts, STAGES)


def test_the_times_of_stages_lie_in_their_run(facts: Facts) -> None:
    """A stage whose outputs an earlier run made is told at the bounds of the run that found them."""
    early = dataclasses.replace(STAGES[0], started_at=datetime(2020, 1, 1, tzinfo=UTC), ended_at=datetime(2020, 1, 2, tzinfo=UTC))
    times = [json.loads(line)["eventTime"] for line in openlineage.write_lineage(facts, (early,)).splitlines()]
    assert times == sorted(times)


def test_every_kind_of_run_is_told(facts: Facts) -> None:
    """A training run reads shards and writes exposures; a new decision reads the tables and writes the ledger; neither has stages."""
    runs = tuple({**facts.runs[0], "run_no": n, "command": c} for n, c in enumerate(("train tae", "decide"), 2))
    tables = facts.tables | {"exposures": 3}
    lines = [
        json.loads(line) for line in openlineage.write_lineage(dataclasses.replace(facts, runs=runs, tables=tables), STAGES).splitlines()
    ]
    assert [e["job"]["name"] for e in lines] == ["train tae", "train tae", "decide", "decide"]
    assert "shards" in [i["name"] for i in lines[0]["inputs"]] and "manifest/exposures" in [o["name"] for o in lines[1]["outputs"]]
    assert "manifest/decisions" in [o["name"] for o in lines[3]["outputs"]]


def _leaves(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [leaf for v in value.values() for leaf in _leaves(v)] or [value]
    return [leaf for v in value for leaf in _leaves(v)] or [value] if isinstance(value, list) else [value]


@pytest.mark.parametrize("empty", [False, True])
def test_the_eu_summary_has_no_blank_field(facts: Facts, empty: bool) -> None:
    """Every field says something, of a full and of an empty dataset; what only people know says so."""
    nothing = {f.name: () for f in dataclasses.fields(Facts) if isinstance(getattr(facts, f.name), tuple)}
    summary = eu_summary.write_summary(dataclasses.replace(facts, **nothing) if empty else facts, 3)
    found = _leaves(summary)
    assert all(leaf not in (None, "", [], {}) for leaf in found)
    assert eu_summary.PERSON in found and eu_summary.NOT in str(found)
    sections = "1_general_information", "2_list_of_data_sources", "3_data_processing"
    assert all(s in summary for s in sections)
    text = eu_summary.to_markdown(summary)
    assert "None" not in text and not re.search(r"\*\*: *$", text, re.M)


def test_the_eu_summary_counts_what_is_used(store: ManifestStore, facts: Facts) -> None:
    """Hours and bands by modality, the top tenth of domains, hashes removed, rules that honour reservations."""
    summary = json.loads(text_of(store, "eu-ai-act-summary.json"))
    modalities = summary["1_general_information"]["1.3_modalities_and_size"]
    video = next(k for k in facts.kinds if k["kind"] == "video")
    assert modalities["video"] == {
        "size": "less than 10 000 hours",
        "hours": hours(video["kept_us"]),
        "note": "sound inside video counts as video",
    }
    assert modalities["image"]["size"] == "less than 1 million images"
    assert [d["domain"] for d in summary["2_list_of_data_sources"]["2.3_data_crawled_and_scraped"]["most_relevant_domains"]] == [
        facts.domains[0]["domain"]
    ]
    assert summary["3_data_processing"]["3.2_illegal_content"]["hashes_removed_or_blocked"] == 2
    assert any("optout_state" in r for r in summary["3_data_processing"]["3.1_rights_reservations"]["rules_that_honour_them"])


@pytest.mark.parametrize(("amount", "words"), [(9_999, "less than 10 000 hours"), (10_000, "10 000 to 1 million hours"), (10**6, "more")])
def test_size_bands_are_the_templates(amount: int, words: str) -> None:
    """The bounds of the Commission's bands."""
    assert eu_summary.band(amount, eu_summary._HOURS, "more") == words


def test_the_card_has_front_matter_and_numbers(store: ManifestStore, facts: Facts) -> None:
    """YAML that parses, the hub's fields, every rule with its threshold, licences, sources, root."""
    card = text_of(store, "README.md")
    front = yaml.safe_load(card.split("---")[1])
    assert front["license"] == "other" and front["size_categories"] == ["n<1K"] and front["license_link"] == "attribution.csv"
    assert set(front["task_categories"]) >= {"text-to-video", "text-to-image"}
    assert front["configs"][0]["data_files"].startswith("../../shards/")
    for rule in facts.policy:
        assert f"{rule['threshold']:g}" in card
    assert f"{facts.kept:,}" in card and "Merkle root `" in card


HOSTILE = [
    "a: b\n---\nlicense: mit",
    "<script>alert(1)</script>",
    "| x | y |",
    "=cmd()",
    "\u202egnp",
    "[x](javascript:1)",
    "\"'\\",
    "{{7*7}}",
    "# h",
    "a\x00b",
]


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_stay_text(store: ManifestStore, facts: Facts, name: str) -> None:
    """A source, licence or dataset called anything: the YAML keeps its keys, tables their cells, pages no markup."""
    sources = tuple({**s, "name": name, "supplier": name} for s in facts.sources)
    licences = tuple({**r, "licence": name} for r in facts.licences)
    nasty = dataclasses.replace(facts, sources=sources, licences=licences, dataset=name)
    card = data_card.write_card(nasty)
    front = yaml.safe_load(card.split("\n---\n")[0].removeprefix("---\n"))
    assert front["license"] in ("other", name.lower()) and next(iter(front)) == "pretty_name"
    body = card.split("\n---\n", 1)[1]
    page = eu_summary.to_markdown(eu_summary.write_summary(nasty, 0))
    for written in (body, page):
        assert "<script" not in written and "](javascript" not in written.replace("\\]", "")
    widths = {
        len(re.findall(r"(?<!\\)\|", line))
        for line in body.splitlines()
        if line.startswith("| ") and "supplier" not in line and line.count("|") >= 5
    }
    assert widths <= {5, 6, 7}
    json.dumps(croissant.write_croissant(nasty, {}), allow_nan=False)
    openlineage.write_lineage(nasty, STAGES)


def test_credits_name_the_makers_of_what_is_in_the_set(store: ManifestStore) -> None:
    """One row for each asset with a kept clip and for no other; the number of clips adds up; formulas are text."""
    rows = list(csv.DictReader(io.StringIO(text_of(store, "attribution.csv"))))
    kept, _ = kept_and_dropped(store)
    assert len(rows) == len(set(kept.column("asset_no").to_pylist()))
    assert sum(int(r["clips"]) for r in rows) == kept.num_rows
    evil = {"asset_sha256": b"a" * 32, "title": "=HYPERLINK(1)", "creator": "x\ny", "licence": None, "source_url": "+1", "clips": 1}
    row = next(csv.DictReader(io.StringIO(attribution.write_attribution([evil]).decode())))
    assert row["title"] == "'=HYPERLINK(1)" and row["source_url"] == "'+1" and "\n" not in row["creator"]
    assert list(csv.reader(io.StringIO(attribution.without(attribution.write_attribution([evil]), [(b"a" * 32).hex()]).decode()))) == [
        list(attribution.COLUMNS)
    ]


def test_removals_are_hashes_only(store: ManifestStore) -> None:
    """Addresses of a blocklist are not published; reasons are; adding twice changes nothing."""
    text = text_of(store, "removals.jsonl")
    assert "secret" not in text
    assert [json.loads(line)["kind"] for line in text.splitlines()] == ["md5", "sha256"]
    assert all(json.loads(line)["reason"] == "privacy" for line in text.splitlines())
    once = removals.with_hashes(text.encode(), ["cc" * 32], 4, "copyright")
    assert removals.with_hashes(once, ["cc" * 32], 4, "copyright") == once


def test_no_export_tells_where_a_source_lay(store: ManifestStore, facts: Facts) -> None:
    """The path of a folder on somebody's machine does not leave it: card and summary show its last part."""
    rows = from_table(Source, store.read("sources"))
    assert rows
    nasty = dataclasses.replace(facts, sources=tuple({**s, "name": "/home/somebody/films"} for s in facts.sources))
    for written in (
        data_card.write_card(nasty),
        eu_summary.to_markdown(eu_summary.write_summary(nasty, 0)),
        openlineage.write_lineage(nasty, STAGES).decode(),
    ):
        assert "somebody" not in written
    assert data_card.source_name("C:\\x\\films") == "films" and data_card.source_name("/") == "unnamed"


def test_report_is_of_the_release(store: ManifestStore) -> None:
    """The page of the released version lies in the folder."""
    assert "release v1" in text_of(store, "report.html")
    assert Path(store.root / "releases" / "v1" / "eu-ai-act-summary.md").is_file()
