"""The report: its numbers are those of the tables, and its page is safe and complete whatever the names in it."""

import dataclasses
import json
import re
import shutil
from collections import Counter
from functools import cache
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manifests import events, records
from manifests.histogram import bin_edges
from manifests.report import ReportData, collect, render, to_json, write_report
from manifests.rules import Rule, applies
from manifests.schema import TABLES, from_table, to_table
from manifests.summary import SummaryConfig
from manifests.tables import ManifestStore
from manifests.wording import bytes_text, name_text, near_text, share_text, time_text, visible
from pipelines import provenance, reporting
from tests.fake_dataset import HOSTILE_NAMES, RULES, fake_jpeg, fake_tables, make, write_store

SIZES = (0, 1, 40, 1500)
NASTY = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>\u202e\n{{ 7*7 }}"


@cache
def tables(n: int) -> dict[str, pa.Table]:
    return fake_tables(n)


@cache
def report(n: int) -> ReportData:
    return collect(tables(n), fake_jpeg, title="harbour", version=4)


class Page(HTMLParser):
    """Every tag with its attributes, and the text between them."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.open: Counter[str] = Counter()
        self.text: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {k: v or "" for k, v in attrs}))
        self.open[tag] += 1

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {k: v or "" for k, v in attrs}))

    def handle_endtag(self, tag: str) -> None:
        self.open[tag] -= 1

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def assert_safe(html: str) -> Page:
    page = Page(html)
    for tag, attributes in page.tags:
        assert tag not in ("script", "iframe", "object", "embed", "link", "base", "form", "a:script"), tag
        assert not [k for k in attributes if k.startswith("on")], attributes
        for name in ("src", "href", "xlink:href", "action", "srcset", "data", "poster"):
            value = attributes.get(name, "#")
            assert value.startswith(("#", "data:image/jpeg;base64,")), (tag, name, value[:80])
    assert not re.search(r"url\(|@import", html)
    left_open = {t for t, n in page.open.items() if n and t not in ("meta", "img", "br")}
    assert not left_open, left_open
    return page


@pytest.mark.parametrize("n", SIZES)
def test_funnel_numbers_add_up(n: int) -> None:
    """before = met + skipped, met = passed + rejected + unknown, each rule starts from what the last left; in clips and in time."""
    for funnel in report(n).funnels:
        before = funnel.start
        for s in funnel.steps:
            assert s.before == before
            assert s.met + s.skipped == s.before and s.skipped.n >= 0
            assert s.passed + s.rejected + s.unknown == s.met
            lost = s.rejected if s.on_unknown == "accept" else s.rejected + s.unknown
            assert s.left == s.before - lost
            before = s.left
        assert funnel.left == before == funnel.kept + funnel.undecided


@pytest.mark.parametrize("n", SIZES)
def test_every_check_agrees_on_a_sound_dataset(n: int) -> None:
    """The counts that must come out the same two ways do."""
    assert [c for c in report(n).checks if not c.ok] == []


def test_funnel_equals_a_replay_in_python() -> None:
    """Passed, rejected and unknown per rule are what walking every clip through the rules one by one gives."""
    expected: Counter[tuple[str, int, bool | None]] = Counter()
    for clip in from_table(records.Clip, tables(1500)["clips"]):
        for i, rule in enumerate(RULES):
            if rule.subject != "clip" or not applies(rule, clip):
                continue
            verdict = rule.verdict(getattr(clip, rule.measure))
            expected[clip.kind, i, verdict] += 1
            if not rule.survives(verdict):
                break
    found: Counter[tuple[str, int, bool | None]] = Counter()
    for f in report(1500).funnels:
        for s in f.steps if f.subject == "clip" else ():
            found.update(
                {(f.name, s.rule_no, True): s.passed.n, (f.name, s.rule_no, False): s.rejected.n, (f.name, s.rule_no, None): s.unknown.n}
            )
    assert +found == expected


def test_only_the_latest_run_counts() -> None:
    """A clip decided again by a later run with another threshold is counted once, by the later verdict."""
    rule = make(
        events.RuleRow,
        rule_no=0,
        name="moves",
        subject="clip",
        kinds="video",
        measure="motion",
        op=">",
        threshold=2.0,
        on_unknown="reject",
    )
    changed = dataclasses.replace(rule, rule_no=1, threshold=1.0)
    clip = make(
        records.Clip,
        clip_id="a" * 32,
        clip_no=0,
        asset_id="b" * 32,
        asset_no=0,
        kind="video",
        end_us=4_000_000,
        motion=1.5,
        decision="keep",
    )
    said = [
        make(events.Decision, run_no=run, rule_no=run - 1, asset_no=0, clip_no=0, score=1.5, passed=run == 2, reason_code="")
        for run in (1, 2)
    ]
    data = collect(
        {
            "clips": to_table(records.Clip, [clip]),
            "rules": to_table(events.RuleRow, [rule, changed]),
            "decisions": to_table(events.Decision, said),
        },
        fake_jpeg,
    )
    (funnel,) = data.funnels
    assert [(s.rule_no, s.passed.n, s.rejected.n) for s in funnel.steps] == [(1, 1, 0)]
    assert [c.histogram.rule_no for c in data.cards if c.histogram.measure == "motion"] == [1]


def test_a_wrong_count_is_reported() -> None:
    """When the table says kept and the ledger says dropped, the check fails and the page shows it opened."""
    broken = dict(tables(40))
    clips = broken["clips"]
    broken["clips"] = clips.set_column(clips.schema.get_field_index("decision"), clips.schema.field("decision"), pa.array(["keep"] * 40))
    data = collect(broken, fake_jpeg)
    assert any(not c.ok for c in data.checks)
    assert "counts do not agree" in render(data)


def test_histograms_hold_every_measured_clip() -> None:
    """The bins of a measure sum to what was measured, failures to the clips whose verdict is a reject, and the threshold is an edge."""
    clips = from_table(records.Clip, tables(1500)["clips"])
    seen = 0
    for h in (c.histogram for c in report(1500).cards if c.histogram.subject == "clip"):
        assert sum(b.kept + b.elsewhere + b.fails for b in h.bins) == h.n_measured
        if h.rule is None:
            continue
        met = [c for c in clips if applies(h.rule, c)]
        assert h.n_measured + h.n_missing == len(met)
        assert h.n_fails == sum(h.rule.verdict(getattr(c, h.measure)) is False for c in met)
        if h.scale != "values":
            assert h.rule.threshold in [h.bins[0].low, *(b.high for b in h.bins)]
        seen += 1
    assert seen == sum(r.subject == "clip" for r in RULES)


def test_failures_lie_on_their_side_of_the_threshold() -> None:
    """No bin wholly on the passing side of a threshold holds a failure, beyond scores equal to it."""
    for h in (c.histogram for c in report(1500).cards if c.histogram.rule and c.histogram.scale != "values"):
        assert h.rule is not None
        for b in h.bins:
            above = h.rule.op.startswith(">")
            passing = b.low > h.rule.threshold if above else b.high < h.rule.threshold
            failing = b.high <= h.rule.threshold if above else b.low > h.rule.threshold
            assert not (passing and b.fails) and not (failing and b.kept + b.elsewhere), (h.measure, b)


def test_examples_are_the_nearest_to_the_threshold() -> None:
    """The pictures beside a histogram are the clips closest to the threshold on either side, nearest first."""
    clips = from_table(records.Clip, tables(1500)["clips"])
    card = next(c for c in report(1500).cards if c.histogram.rule and c.histogram.rule.name == "pleasing")
    rule = card.histogram.rule
    assert rule is not None
    met = [c for c in clips if applies(rule, c) and c.aesthetic is not None and c.keyframe_part]
    for passed, shown in ((True, card.passed), (False, card.rejected)):
        side = sorted((c for c in met if rule.verdict(c.aesthetic) is passed), key=lambda c: (abs(c.aesthetic - 4.5), c.clip_id))
        assert [p.clip_id for p in shown] == [c.clip_id for c in side[:4]]


finite = st.floats(-1e6, 1e6, allow_nan=False).map(lambda x: float(np.float32(x)))


@given(st.lists(finite, min_size=1, max_size=40), st.none() | finite, st.integers(1, 48))
@settings(max_examples=300, deadline=None)
def test_bin_edges_rise_and_hold_the_threshold(values: list[float], threshold: float | None, bins: int) -> None:
    """Edges strictly increase for any values; the threshold, where there is one, is exactly an edge."""
    quantiles = [float(q) for q in np.quantile(values, [0.01, 0.5, 0.99])]
    _, edges = bin_edges(min(values), quantiles, max(values), threshold, bins)
    assert len(edges) >= 2 and all(a < b for a, b in pairwise(edges))
    assert threshold is None or threshold in edges
    assert len(edges) <= bins + 3


@pytest.mark.parametrize("n", SIZES)
def test_page_needs_nothing_else(n: int) -> None:
    """No script, no handler, no request: every picture is a data: URI, every link an anchor, and the policy forbids the rest."""
    page = assert_safe(render(report(n)))
    policy = next(a["content"] for t, a in page.tags if t == "meta" and a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'; img-src data:; style-src 'unsafe-inline'")
    ids = {a["id"] for _, a in page.tags if "id" in a}
    assert {a["href"][1:] for t, a in page.tags if t == "a"} <= ids


def test_every_chart_has_a_table() -> None:
    """Each figure with an SVG of its own holds a details element with the same data as a table, or shares one with its section."""
    html = render(report(1500))
    for section in re.findall(r"<section.*?</section>", html, re.S):
        assert "<svg" not in section or "<table" in section
    for figure in re.findall(r'<figure class="card">.*?</figure>', html, re.S):
        assert "<svg" in figure and "<details>" in figure and "<table" in figure


def test_hostile_text_in_every_column_stays_text() -> None:
    """Markup, quotes, newlines, bidi overrides and template syntax in any text of any table are shown, not obeyed."""
    fixed = {"op", "measure", "subject", "on_unknown", "kinds", "decision", "clip_id", "asset_id", "kind"}
    hostile = {}
    for name, table in tables(40).items():
        for i, field in enumerate(table.schema):
            if field.type == pa.string() and field.name not in fixed:
                table = table.set_column(i, field, pa.array([NASTY] * table.num_rows, pa.string()))
        hostile[name] = table
    html = render(collect(hostile, fake_jpeg, title=NASTY))
    page = assert_safe(html)
    assert "\u202e" not in html
    assert any("{{ 7*7 }}" in t for t in page.text)


def test_hostile_kinds_and_sets_are_values_not_sql() -> None:
    """A quote in a rule's kinds or set name neither breaks the query nor widens it."""
    row = make(
        events.RuleRow,
        rule_no=0,
        name="x",
        subject="clip",
        kinds="vi'deo",
        set_name="a' OR 1=1 --",
        measure="motion",
        op=">",
        threshold=1.0,
        on_unknown="reject",
    )
    data = collect({**tables(40), "rules": to_table(events.RuleRow, [row])}, fake_jpeg)
    assert all(c.histogram.rule is None for c in data.cards)


def test_names_are_shown_whole_enough() -> None:
    """Each hostile file name that is among the errors or captions reads as itself, with invisible characters written out."""
    text = " ".join(Page(render(report(1500))).text)
    assert "<script>alert(1)</script>.mp4" in text
    assert name_text("raw/two\nlines.mp4") == "raw/two\\x0alines.mp4"
    assert name_text(f"raw/{'n' * 300}.mp4").endswith("n.mp4") and len(name_text(HOSTILE_NAMES[5])) <= 100
    assert visible("\u202egnp.exe") == "\\u202egnp.exe"


def test_json_twin_has_the_numbers() -> None:
    """report.json holds every number of the page's data and gives pictures by size and digest."""
    data = report(1500)
    twin = json.loads(to_json(data))
    assert twin["headline"]["kept"]["n"] == data.headline.kept.n
    assert [s["left"]["n"] for f in twin["funnels"] for s in f["steps"]] == [s.left.n for f in data.funnels for s in f.steps]
    assert set(twin) == {f.name for f in dataclasses.fields(ReportData)}
    picture = twin["captions"]["sample"]["shown"][0]["picture"]
    assert picture["jpeg"] is None or len(picture["jpeg"]["sha256"]) == 64


def test_same_tables_same_report() -> None:
    """Two reports of the same tables are the same bytes, also when the rows stand in another order."""
    order = np.random.Generator(np.random.Philox(key=3)).permutation(tables(1500)["clips"].num_rows)
    shuffled = {**tables(1500), "clips": tables(1500)["clips"].take(pa.array(order))}
    again = collect(shuffled, fake_jpeg, title="harbour", version=4)
    assert to_json(again) == to_json(report(1500))
    assert render(again) == render(report(1500))


def test_page_stays_bounded() -> None:
    """Lists end with 'and n more': the page of many clips is below the budget that the limits give."""
    data = report(1500)
    html = render(data)
    cfg = SummaryConfig()
    assert len(data.duplicates.rows.shown) == cfg.max_groups and data.duplicates.rows.more > 0
    assert len(data.concepts.rows.shown) == cfg.max_concepts and f"and {data.concepts.rows.more:,} more clusters" in html
    assert len(html) < 1_500_000


def test_many_reasons_and_licences_are_cut() -> None:
    """More reasons and licences than a page shows are counted, not listed."""
    assets = [
        make(
            records.Asset, asset_id=f"{i:032x}", asset_no=i, uri=f"f{i}", error_stage="probe", error_code=f"code_{i}", licence_expr=f"L-{i}"
        )
        for i in range(100)
    ]
    data = collect({"assets": to_table(records.Asset, assets)}, fake_jpeg)
    assert (len(data.errors.shown), data.errors.more) == (40, 60)
    assert (len(data.rights.licences.shown), data.rights.licences.more) == (40, 60)
    assert "and 60 more reasons" in render(data)


def test_only_small_jpegs_are_embedded() -> None:
    """What is not a JPEG or is too large is left out, counted and said on the page."""
    for wrong in (b"<svg onload=alert(1)>", b"\xff\xd8\xff" + b"0" * 100_000):
        data = collect(tables(40), lambda clip_id, part, wrong=wrong: wrong)
        html = render(data)
        assert data.pictures_left_out > 0 and "<img" not in html and "pictures were left out" in html
    assert "<img" not in render(collect(tables(40), lambda clip_id, part: None))


def test_reserved_rights_among_kept_clips_raise_an_alarm() -> None:
    """Kept clips of an asset that reserves training are counted and named on the page."""
    assets = tables(40)["assets"]
    column = assets.schema.get_field_index("optout_state")
    reserved = assets.set_column(column, assets.schema.field(column), pa.array([1] * assets.num_rows, pa.int32()))
    data = collect({**tables(40), "assets": reserved}, fake_jpeg)
    assert data.rights.reserved_kept == data.headline.kept.n > 0
    assert "reserve their rights" in render(data)


def test_empty_dataset_reads_well() -> None:
    """With no table at all the page is complete and says that nothing is there."""
    html = render(collect({}, fake_jpeg))
    assert_safe(html)
    assert "Nothing has been found yet" in html and "NaN" not in html and "None" not in html


def test_report_of_a_store_equals_that_of_its_tables(tmp_path: Path) -> None:
    """Reading the snapshot's Parquet files gives the same numbers as the tables in memory; both files are written."""
    write_store(tmp_path, tables(40))
    page = write_report(ManifestStore(tmp_path), tmp_path / "releases" / "one", fake_jpeg, title="harbour")
    assert page.read_text() == render(collect(tables(40), fake_jpeg, title="harbour", version=0))
    assert json.loads((page.parent / "report.json").read_text())["headline"]["version"] == 0


def test_a_report_is_made_again_only_of_something_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where version, code, templates and title are those that a report was made of, and its files are as they were made, it stays; another of
    each of these, and a work area that is gone, make it again."""
    dataset, made = tmp_path / "harbour", []

    def make_quickly(store: ManifestStore, folder: Path, images: object, *, title: str) -> Path:
        made.append(title)
        for name in ("report.html", "report.json"):
            (folder / name).write_text(f"{title} {store.version()}")
        return folder / "report.html"

    def twice() -> tuple[int, str]:
        """How often it was made, and what it then is."""
        made.clear()
        page = [reporting.update_report(dataset) for _ in range(2)][1]
        return len(made), page.read_text()

    write_store(dataset, tables(1))
    monkeypatch.setattr(reporting.report, "write_report", make_quickly)
    assert twice() == (1, "harbour 0")
    for name in ("report.html", "report.json"):
        (dataset / name).write_text("of an older version")
        assert twice() == (1, "harbour 0")
        (dataset / name).unlink()
        assert twice() == (1, "harbour 0")
    shutil.rmtree(dataset / "work")
    assert twice() == (1, "harbour 0")
    ManifestStore(dataset).commit("1" * 32, replace={"clips": tables(1)["clips"].slice(1)})
    assert twice() == (1, "harbour 1")
    monkeypatch.setattr(provenance, "code_version", lambda: "of tomorrow")
    assert twice() == (1, "harbour 1")
    plain = reporting._hash
    monkeypatch.setattr(reporting, "_hash", lambda path: plain(path) + ("changed" if path.parent.name == "templates" else ""))
    assert twice() == (1, "harbour 1")
    dataset = dataset.rename(tmp_path / "bay")
    assert twice() == (1, "bay 1")


def test_what_is_taken_down_while_a_report_is_made_is_not_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A version that another command commits while the page is being made, and whose page it wrote itself, is the one that is shown."""
    dataset, made = tmp_path / "harbour", []

    def make_while_others_commit(store: ManifestStore, folder: Path, images: object, *, title: str) -> Path:
        version = store.version()
        made.append(version)
        if len(made) == 1:
            ManifestStore(dataset).commit("1" * 32, replace={"clips": tables(1)["clips"].slice(1)})
        (folder / "report.html").write_text(f"{title} {version}")
        return folder / "report.html"

    write_store(dataset, tables(1))
    monkeypatch.setattr(reporting.report, "write_report", make_while_others_commit)
    assert reporting.write_report(dataset).read_text() == "harbour 1" and made == [0, 1]


def test_rows_of_every_table_are_made() -> None:
    """The helper's tables have the stored schema, so that these tests speak about real columns."""
    for name, record in TABLES.items():
        assert tables(40)[name].schema.names == to_table(record, []).schema.names


def test_words_for_numbers() -> None:
    """Units step up where they should, shares never round something to nothing, near scores differ from the threshold."""
    assert [time_text(t) for t in (0, 4_200_000, 720_000_000, 3_600_000_000 * 1204)] == ["0 s", "4.2 s", "12 min", "1,204 h"]
    assert [bytes_text(b) for b in (90, 1_234_567, 3.4e12)] == ["90 B", "1.23 MB", "3.4 TB"]
    assert [share_text(*p) for p in ((1, 10_000), (9_999, 10_000), (0, 5), (5, 5), (0, 0))] == ["< 0.1 %", "> 99.9 %", "0 %", "100 %", "–"]
    assert near_text(4.4997, 4.5) not in ("4.5", "4.50")
    assert Rule(name="x", stage="", subject="clip", measure="motion", op=">", threshold=1.0).verdict(2.0)
