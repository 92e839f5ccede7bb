"""Sets that people choose: a yes is needed, what was said is kept with its file, and nothing is ever overwritten."""

import csv
import hashlib
import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from benchmarks.ledger_manifest import build
from curation.buckets import assign_sets, columns_of
from curation.sets import find_unmeasured
from manifests import rebuild
from manifests.events import Pick
from manifests.explain import explain
from manifests.records import Clip
from manifests.schema import from_table, to_table
from manifests.tables import ManifestStore
from pipelines import plan
from pipelines.cli import app
from pipelines.decide import settings_in_force
from pipelines.picks import PickError, candidates, column_of, pick
from pipelines.seeds import candidates_near, read_seeds

SET = "low_res"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A decided dataset in which one set is picked."""
    root = tmp_path_factory.mktemp("built")
    build(root, 400, [f"sets.{SET}.picked=true"])
    return root


@pytest.fixture
def dataset(built: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(built, tmp_path / "dataset"))


def _file(folder: Path, *lines: tuple[str, ...], head: str = "clip_id,picked,reason") -> Path:
    path = folder / "picks.csv"
    path.write_text("\n".join([head, *(",".join(line) for line in lines)]) + "\n")
    return path


def _wanted(dataset: Path, n: int) -> list[str]:
    return [c["clip_id"] for c in candidates(ManifestStore(dataset), SET)][:n]


def test_what_people_said_is_in_the_ledger_with_its_file(dataset: Path, tmp_path: Path) -> None:
    """Yes and no are rows of picks and decisions under the rule of the set, with reason, note and the file's SHA-256; the explanation shows them,
    the rebuilt state is the stored one, and those clips are candidates no more."""
    store, (first, second, third) = ManifestStore(dataset), _wanted(dataset, 3)
    file = _file(tmp_path, (first, "yes", "calm light"), (second, "NO", "logo"), (third, "", ""))
    found = pick(dataset, SET, file, "two people")
    assert (found.yes, found.no, found.unchanged, found.version) == (1, 1, 0, store.version())
    rows: list[Pick] = from_table(Pick, store.read("picks"))
    assert {(r.clip_id, r.chosen, r.reason, r.note) for r in rows} == {
        (first, True, "calm light", "two people"),
        (second, False, "logo", "two people"),
    }
    assert {r.file_sha256 for r in rows} == {hashlib.sha256(file.read_bytes()).digest()}
    for clip_id, passed in ((first, True), (second, False)):
        (verdict,) = [v for v in explain(store, clip_id).verdicts if v.name == "picked"]
        assert (verdict.passed, verdict.score, verdict.subject) == (passed, float(passed), "clip")
    assert rebuild.compare(store) == []
    assert not {first, second} & set(_wanted(dataset, 10_000)) and third in _wanted(dataset, 10_000)


def test_the_last_word_holds_and_the_first_stays(dataset: Path, tmp_path: Path) -> None:
    """The same file again commits nothing; another mind is another row, and the newest holds; going back is a third row."""
    store, (clip,) = ManifestStore(dataset), _wanted(dataset, 1)
    assert pick(dataset, SET, _file(tmp_path, (clip, "yes", "")), None).version is not None
    again = pick(dataset, SET, tmp_path / "picks.csv", None)
    assert (again.version, again.unchanged) == (None, 1)
    for word, n in (("no", 2), ("yes", 3)):
        pick(dataset, SET, _file(tmp_path, (clip, word, "")), None)
        rows: list[Pick] = from_table(Pick, store.read("picks"))
        assert len(rows) == n and column_of(rows, [clip, "0" * 32]) == [f"{SET}={word}", None]


def test_a_set_that_is_picked_takes_a_yes_and_nothing_else(dataset: Path) -> None:
    """Of clips that meet all needs the set takes those with a yes; no and nobody asked are refused, each with its reason, and that nobody chose
    anything is said. Another set is not asked."""
    store = ManifestStore(dataset)
    sets = tuple(s for s in settings_in_force(store).sets.values() if s.name == SET)
    ids = _wanted(dataset, 4)
    clips = {c.clip_id: c for c in from_table(Clip, store.read("clips"))}
    table = to_table(Clip, [clips[i] for i in ids])
    said = pa.array([f"{SET}=yes", f"{SET}=no", None, f"other=yes,{SET}x=yes"])
    table = table.set_column(table.schema.get_field_index("picks"), "picks", said)
    found = assign_sets(table, sets)
    assert found["set_name"].to_pylist() == [SET, None, None, None]
    assert found["set_reason"].to_pylist() == ["ok", "picked", "picked not_run", "picked not_run"]
    assert find_unmeasured(table.select(columns_of(sets)), sets) == []
    (unasked,) = find_unmeasured(table.slice(1).select(columns_of(sets)), sets)
    assert "set low_res takes what people chose; none of 3 video clips was" in unasked


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([("f" * 32, "yes", "")], "expected a clip of kind video for the set low_res, found no such clip"),
        ([("{audio}", "yes", "")], "expected a clip of kind video for the set low_res, found"),
        ([("{clip}", "maybe", "")], "line 2: expected yes or no, found 'maybe'"),
        ([("{clip}", "yes", ""), ("{clip}", "no", "")], "line 3: clip .* is both yes and no"),
    ],
)
def test_a_file_is_taken_as_a_whole_or_not_at_all(dataset: Path, tmp_path: Path, lines: list[tuple[str, ...]], said: str) -> None:
    """A clip that is not there or of another kind, a word that is neither, and a clip that is both: an error, and no row of the good lines."""
    store, (clip, good) = ManifestStore(dataset), _wanted(dataset, 2)
    other = next(c.clip_id for c in from_table(Clip, store.read("clips")) if c.kind != "video")
    given = [(line[0].format(clip=clip, audio=other), *line[1:]) for line in lines]
    with pytest.raises(PickError, match=said):
        pick(dataset, SET, _file(tmp_path, *given, (good, "yes", "")), None)
    assert store.read("picks").num_rows == 0


def test_the_command_gives_a_sheet_and_takes_it_back(dataset: Path, tmp_path: Path) -> None:
    """The printed sheet has one line a candidate with times and file; filled in, it is taken; a set that is not picked, and a file without the columns,
    are status 2 and a sentence."""
    run = CliRunner()
    sheet = run.invoke(app, ["pick", str(dataset), SET])
    rows = list(csv.DictReader(sheet.stdout.splitlines()))
    assert (
        [r["clip_id"] for r in rows] == _wanted(dataset, 10_000) and float(rows[0]["end_s"]) > float(rows[0]["start_s"]) and rows[0]["file"]
    )
    filled = tmp_path / "filled.csv"
    with filled.open("w", newline="") as sink:
        writer = csv.DictWriter(sink, list(rows[0]))
        writer.writeheader()
        writer.writerows([r | {"picked": "yes" if i % 2 else "no"} for i, r in enumerate(rows[:7])])
    done = run.invoke(app, ["pick", str(dataset), SET, "--file", str(filled), "--json"])
    assert (done.exit_code, json.loads(done.stdout)["yes"], json.loads(done.stdout)["no"]) == (0, 3, 4)
    assert run.invoke(app, ["pick", str(dataset), "high_res"]).exit_code == 2
    assert run.invoke(app, ["pick", str(dataset), SET, "--file", str(_file(tmp_path, ("a", "b"), head="x,y"))]).exit_code == 2


def _describe(dataset: Path, vectors: dict[str, list[float]]) -> None:
    """The curation's descriptions of the clips, as its stage writes them."""
    folder = dataset / "work" / plan.DESCRIBE.name / plan.DESCRIBE.digest(settings_in_force(ManifestStore(dataset)))
    folder.mkdir(parents=True)
    schema = plan.DESCRIBE.writes["rows"]
    rows = [dict.fromkeys(schema.names) | {"clip_id": clip, "concept": vector} for clip, vector in vectors.items()]
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), folder / "part-0.parquet")


def test_seeds_balance_concepts(dataset: Path, tmp_path: Path) -> None:
    """Of three clips like the one seed and ten like the other, each concept gets its two nearest, nearest first; a clip without a vector is no
    candidate, a seed is none either, and the sheet can be filled in and given back."""
    clips = _wanted(dataset, 17)
    rare, common, blank, seeds = clips[:3], clips[3:13], clips[13], clips[14:16]
    vectors = {c: [1.0, 0.01 * (i + 1)] for i, c in enumerate(rare)} | {c: [0.01 * (i + 1), 1.0] for i, c in enumerate(common)}
    _describe(dataset, vectors | {seeds[0]: [2.0, 0.0], seeds[1]: [0.0, 1.0]})
    file = _file(tmp_path, (seeds[0], "walking"), (seeds[1], "cooking"), head="clip_id,concept")
    command = ["pick", str(dataset), SET, "--seeds", str(file), "--each", "2"]
    rows = list(csv.DictReader(CliRunner().invoke(app, command, catch_exceptions=False).stdout.splitlines()))
    assert [(r["concept"], r["clip_id"], r["seed"]) for r in rows] == [
        ("cooking", common[0], seeds[1]), ("cooking", common[1], seeds[1]), ("walking", rare[0], seeds[0]), ("walking", rare[1], seeds[0])
    ]  # fmt: skip
    assert all(float(r["cosine"]) > 0.99 for r in rows)
    near = candidates_near(ManifestStore(dataset), SET, file, 100)
    assert len(near) == 13 and blank not in {r["clip_id"] for r in near}
    filled = tmp_path / "filled.csv"
    filled.write_text("clip_id,picked,reason\n" + "".join(f"{r['clip_id']},yes,\n" for r in rows))
    assert pick(dataset, SET, filled).yes == 4
    with pytest.raises(PickError, match="expected clips with a concept vector"):
        candidates_near(ManifestStore(dataset), SET, _file(tmp_path, (blank, "x"), head="clip_id,concept"), 5)
    for head in ("clip,concept", "clip_id,Concept"):
        with pytest.raises(PickError, match="expected the columns clip_id and concept"):
            read_seeds(_file(tmp_path, ("a", "b"), head=head))
    with pytest.raises(PickError, match="line 3: clip 'a' is a seed of two concepts"):
        read_seeds(_file(tmp_path, ("a", "b"), ("A", "c"), head="clip_id,concept"))
    assert read_seeds(_file(tmp_path, ("a", "=1+1"), ("b", ""), head="clip_id,concept")) == {"a": "1+1", "b": "b"}
    with pytest.raises(PickError, match="expected at least one seed"):
        read_seeds(_file(tmp_path, head="clip_id,concept"))
