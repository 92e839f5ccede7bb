"""What the report compares: licence by source, a run with earlier ones, a source with the others, the paper with us."""

import dataclasses
import json
from collections import Counter
from functools import cache

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from manifests import events, ledger, records
from manifests.comparison_charts import drift_chart, heading_text, matrix_chart, moved, paper_chart, source_chart
from manifests.comparisons import Heading, Said
from manifests.cubes import build_cubes, with_earlier
from manifests.paper_funnel import PAPER
from manifests.report import ReportData, collect, render, to_json
from manifests.rules import Rule
from manifests.schema import from_table, to_table
from tests.fake_dataset import RULES, _rule_row, fake_jpeg, fake_tables, make
from tests.unit.test_report import NASTY, assert_safe

LOOSER = tuple(dataclasses.replace(r, threshold=0.9) if r.name == "little text" else r for r in RULES if r.name != "calm")


@cache
def several_runs(n: int, policies: tuple[tuple[Rule, ...], ...] = (RULES, RULES, LOOSER), n_sources: int = 3) -> dict[str, pa.Table]:
    """The tables of a dataset that was decided under these policies one after another, each run appending what changed."""
    tables = dict(fake_tables(n))
    assets = tables["assets"]
    source = pa.array([(i * i + i // 7) % n_sources for i in range(assets.num_rows)], pa.int32())
    at = assets.schema.get_field_index("source_no")
    tables["assets"] = assets.set_column(at, assets.schema.field(at), source)
    tables["sources"] = to_table(records.Source, [make(records.Source, source_no=i, name=f"source {i}") for i in range(n_sources)])
    numbers: dict[Rule, int] = {}
    base = from_table(events.Run, tables["runs"])[0]
    runs, said, cubes = [], [], to_table(events.Cube, [])
    for run_no, policy in enumerate(policies):
        numbered = [(numbers.setdefault(r, len(numbers)), r) for r in policy]
        of_assets, of_clips = (
            ledger.decide([p for p in numbered if p[1].subject == s], tables[t]) for s, t in (("asset", "assets"), ("clip", "clips"))
        )
        for table, decided in (("assets", of_assets), ("clips", of_clips)):
            said += [ledger.to_decisions(v, tables[table], run_no) for v in decided.verdicts]
            tables[table] = ledger.with_state(tables[table], decided.first_fail)
        cubes = with_earlier(build_cubes(run_no, tables["assets"], of_assets, tables["clips"], of_clips), cubes)
        command = "curate" if not run_no else "decide"
        runs.append(dataclasses.replace(base, run_no=run_no, command=command, policy=[number for number, _ in numbered]))
    empty = {name: to_table(record, []) for name, record in (("shards", records.Shard), ("members", records.Member))}
    return (
        tables
        | empty
        | {
            "runs": to_table(events.Run, runs),
            "rules": to_table(events.RuleRow, [_rule_row(number, rule) for rule, number in numbers.items()]),
            "decisions": pa.concat_tables(said),
            "cubes": cubes,
        }
    )


@cache
def report(n: int, n_runs: int = 3) -> ReportData:
    return collect(several_runs(n, (RULES, RULES, LOOSER)[:n_runs]), fake_jpeg, title="harbour", version=4)


@pytest.mark.parametrize("n", [0, 1, 900])
@pytest.mark.parametrize("n_runs", [1, 3])
def test_every_count_agrees_with_cubes_and_several_runs(n: int, n_runs: int) -> None:
    """The box of counts agrees, the page is safe, and every picture has a table, with 0, 1 and many clips, one run and several."""
    data = report(n, n_runs)
    assert [c for c in data.checks if not c.ok] == []
    html = render(data)
    text = " ".join(assert_safe(html).text)
    assert "NaN" not in text and "None" not in text
    if n_runs == 1:
        assert "nothing to compare it with" in html


def test_matrix_is_that_of_a_walk_over_the_clips() -> None:
    """Each licence and source has the kept and dropped clips and their times that walking over all clips finds."""
    tables = several_runs(900)
    names = {s.source_no: s.name for s in from_table(records.Source, tables["sources"])}
    assets = {a.asset_no: a for a in from_table(records.Asset, tables["assets"])}
    expected: Counter[tuple[str | None, str, str]] = Counter()
    for clip in from_table(records.Clip, tables["clips"]):
        asset = assets[clip.asset_no]
        expected[asset.licence_expr, names[asset.source_no], clip.decision] += 1
        expected[asset.licence_expr, names[asset.source_no], clip.decision + " us"] += clip.end_us - clip.start_us
    found: Counter[tuple[str | None, str, str]] = Counter()
    for c in report(900).rights_matrix.cells:
        key = c.licence.label, str(c.source.label)
        found[*key, "keep"], found[*key, "keep us"] = c.kept.n, c.kept.time_us
        found[*key, "drop"], found[*key, "drop us"] = c.dropped.n, c.dropped.time_us
    assert +found == +expected
    cut = set(tables["clips"]["asset_no"].to_pylist())
    assert sum(c.uncut.n for c in report(900).rights_matrix.cells) == len(assets) - len(cut)


def test_what_does_not_fit_the_matrix_is_summed() -> None:
    """With more licences and sources than are shown every file is still in a cell, and the sums say of how many values they are."""
    assets = [
        make(records.Asset, asset_id=f"{i:032x}", asset_no=i, uri=f"f{i}", licence_expr=f"L-{i % 40}", source_no=i % 30) for i in range(600)
    ]
    data = collect({"assets": to_table(records.Asset, assets)}, fake_jpeg)
    matrix = data.rights_matrix
    assert (matrix.licences[-1].others, matrix.sources[-1].others) == (28, 25)
    assert sum(c.files.n for c in matrix.cells) == 600
    assert [c for c in data.checks if not c.ok] == []


def test_what_was_taken_down_is_told_apart() -> None:
    """Clips that a takedown removed count as held in the funnel and the matrix, and every count agrees."""
    tables = several_runs(900)
    clips, assets = tables["clips"], tables["assets"]
    kept = clips.filter(pc.equal(clips["decision"], "keep"))
    gone = pa.array([kept["asset_no"][0].as_py()])
    decision = pc.if_else(pc.is_in(clips["asset_no"], value_set=gone), "removed", clips["decision"])
    state = pc.if_else(pc.is_in(assets["asset_no"], value_set=gone), "removed", assets["state"])
    tables = tables | {
        "clips": clips.set_column(clips.schema.get_field_index("decision"), clips.schema.field("decision"), decision),
        "assets": assets.set_column(assets.schema.get_field_index("state"), assets.schema.field("state"), state),
    }
    data = collect(tables, fake_jpeg)
    assert [c for c in data.checks if not c.ok] == []
    assert sum(f.held.n for f in data.funnels if f.subject == "clip") > 0
    assert sum(c.held.n for c in data.rights_matrix.cells) == pc.sum(pc.equal(decision, "removed")).as_py()


def test_drift_has_the_verdicts_of_each_run() -> None:
    """A rule's point in a run is its threshold then and what deciding every clip under it gives; a rule that was switched off has none."""
    clips = from_table(records.Clip, several_runs(900)["clips"])
    drift = report(900).drift
    assert [r.run_no for r in drift.runs] == [0, 1, 2] and drift.uncounted == 0
    text = next(r for r in drift.rules if r.name == "little text")
    for point, rule in zip(text.points, (RULES[6], RULES[6], LOOSER[5]), strict=True):
        assert point is not None and point.threshold == rule.threshold
        verdicts = Counter(rule.verdict(c.text_score) for c in clips if c.kind in rule.kinds)
        assert point.said == Said(passed=verdicts[True], rejected=verdicts[False], unknown=verdicts[None])
    calm = next(r for r in drift.rules if r.name == "calm")
    assert (calm.in_force, calm.points[-1]) == (False, None)
    assert {r.name for r in moved(drift)} == {"little text", "calm"}
    assert text.points_changed is not None and text.points_changed > 0 and text.other_condition


def test_runs_without_counts_are_counted() -> None:
    """Deciding runs whose funnels were not kept are said, not passed over."""
    tables = several_runs(40)
    cubes = tables["cubes"].filter(pc.greater(tables["cubes"]["run_no"], 0))
    drift = collect(tables | {"cubes": cubes}, fake_jpeg).drift
    assert ([r.run_no for r in drift.runs], drift.uncounted) == ([1, 2], 1)


def test_a_biased_source_comes_first_and_is_marked() -> None:
    """A source whose clips all carry text is the first of ten and marked on that rule; the others that are shown are not."""
    tables = several_runs(900, (RULES,), 10)
    clips, assets = tables["clips"], tables["assets"]
    of_source = set(assets.filter(pc.equal(assets["source_no"], 7))["asset_no"].to_pylist())
    scores = [
        0.95 if a in of_source and s is not None else s
        for a, s in zip(clips["asset_no"].to_pylist(), clips["text_score"].to_pylist(), strict=True)
    ]
    field = clips.schema.get_field_index("text_score")
    clips = clips.set_column(field, clips.schema.field(field), pa.array(scores, pa.float32()))
    of_assets, of_clips = (
        ledger.decide([(i, r) for i, r in enumerate(RULES) if r.subject == s], t) for s, t in (("asset", assets), ("clip", clips))
    )
    clips = ledger.with_state(clips, of_clips.first_fail)
    rates = collect(tables | {"clips": clips, "cubes": build_cubes(0, assets, of_assets, clips, of_clips)}, fake_jpeg).source_rates
    assert rates.sources[0].label == "source 7" and rates.sources[-1].others == 4
    marked = {(r.name, i) for r in rates.rows for i, c in enumerate(r.cells) if c.differs}
    assert ("little text", 0) in marked
    assert not [i for name, i in marked if name == "little text" and 0 < i < 6]


def test_source_counts_sum_to_the_whole() -> None:
    """For every rule the shown sources and the others sum to what the rule said of all."""
    for row in report(900).source_rates.rows:
        for part in ("passed", "rejected", "unknown"):
            assert sum(getattr(c.said, part) for c in row.cells) == getattr(row.whole, part)


def test_the_paper_has_the_shares_of_the_paper() -> None:
    """Each share is what is left after the step over what was left before it; what the paper does not give is None and said."""
    given = [f.left for f in PAPER if f.left is not None]
    assert given == [100.0, 25.0, 7.0, 1.94, 1.87, 1.78, 1.57, 1.32, 1.22, 1.15, 0.94]
    paper = report(900).paper
    shares = [s.share for s in paper.steps if s.share is not None]
    product = 100.0
    for share in shares:
        product *= share
    assert product == pytest.approx(paper.left_percent) and len(shares) == len(given) - 1
    assert "not given" in render(report(900))


def test_our_side_of_the_paper_is_our_funnel() -> None:
    """A filter's numbers are those of our rules on the same measure, and rules that stand for none are named."""
    video = next(f for f in report(900).funnels if f.name == "video")
    text = next(s for s in video.steps if s.name == "little text")
    ours = next(s for s in report(900).paper.steps if s.name == "text")
    assert (ours.entered, ours.survived) == (text.met, text.met - text.rejected - text.unknown)
    assert "readable size" in report(900).paper.ours_only


def test_hostile_sources_and_licences_stay_text() -> None:
    """Markup in the names of sources, licences and rules is shown, in the pictures and in their tables."""
    tables = dict(several_runs(40))
    for name, column in (("sources", "name"), ("assets", "licence_expr"), ("rules", "name"), ("runs", "command")):
        at = tables[name].schema.get_field_index(column)
        nasty = pa.array([f"{NASTY}{i}" for i in range(tables[name].num_rows)], pa.string())
        tables[name] = tables[name].set_column(at, tables[name].schema.field(at), nasty)
    data = collect(tables, fake_jpeg)
    html = render(data)
    page = assert_safe(html)
    assert "\u202e" not in html and any("<script>alert(1)" in t for t in page.text)
    charts = [paper_chart(data.paper), drift_chart(data.drift), source_chart(data.source_rates), matrix_chart(data.rights_matrix)]
    assert not any("<script" in c or "<img" in c or "\u202e" in c for c in charts)
    assert heading_text(Heading(label=None, others=2)) == "2 others"


def test_json_twin_has_the_comparisons() -> None:
    """report.json holds the four comparisons with the page's numbers."""
    twin, data = json.loads(to_json(report(900))), report(900)
    assert [c["kept"]["n"] for c in twin["rights_matrix"]["cells"]] == [c.kept.n for c in data.rights_matrix.cells]
    assert len(twin["drift"]["rules"]) == len(data.drift.rules)
    assert [r["whole"]["passed"] for r in twin["source_rates"]["rows"]] == [r.whole.passed for r in data.source_rates.rows]
    assert [s["left_percent"] for s in twin["paper"]["steps"]] == [f.left for f in PAPER]


def test_earlier_funnels_stay_and_histograms_do_not() -> None:
    """The cubes of a run keep the funnels of earlier runs, once each, and nothing else of them."""
    cubes = several_runs(40)["cubes"].to_pylist()
    assert {c["run_no"] for c in cubes if c["name"] == "funnel"} == {0, 1, 2}
    assert {c["run_no"] for c in cubes if c["name"] != "funnel"} == {2}
    keys = [(c["run_no"], c["kind"], c["rule_no"], c["verdict"]) for c in cubes if c["name"] == "funnel"]
    assert len(keys) == len(set(keys))
