"""`dailies decide`: other thresholds on stored scores. First what they would change; with `commit`, one version that has it. No medium is opened.

The rules are those that `dailies curate` with the same overrides applies. What only a curation can do is left to the next one and counted
here: measuring what an earlier rule had dropped, encoding, and the table stages (near-duplicates, concepts, sets, mix), whose columns
stay as the last curation computed them.
"""

import dataclasses
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pds

from manifests import ids, ledger, whatif
from manifests.cubes import SCORES, Cubes, with_earlier
from manifests.events import Cube, Run
from manifests.newest import keep_newest, ledger_files
from manifests.policy import DECIDING, Numbered, policy_at
from manifests.records import Asset, Clip
from manifests.rules import Rule
from manifests.schema import TABLES, arrow_schema, from_table, to_table
from manifests.tables import ManifestStore
from pipelines import provenance
from pipelines.config import ConfigError, bind, digest, to_record, with_overrides, without_unknown
from pipelines.one_run import alone
from pipelines.progress import Progress
from pipelines.settings import CurateConfig

CHUNK = 500_000
"""Clips decided at once: some 1 GB with all their columns."""


class DecideError(Exception):
    """The decision cannot be made; the message says what was found and what helps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleChange:
    """A rule that is not what it was: as text, 'motion > 2' to 'motion > 3'; empty where it is off."""

    name: str
    before: str
    after: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What other rules change, and the version that has it; None for a dry run or when nothing changes."""

    dataset: str
    parent: int
    version: int | None
    rules: tuple[RuleChange, ...]
    changes: tuple[whatif.Change, ...]
    config_sha256: str
    query_seconds: float
    commit_seconds: float


def decide(dataset: Path, overrides: list[str], *, commit: bool = False, progress: Progress | None = None) -> Decision:
    """The change that these overrides of the rules in force make; with `commit` it is the newest version.

    Raises DecideError, ConfigError, ManifestConflict when another run commits meanwhile, and, with `commit`, DatasetBusy.
    """
    with alone(dataset, "decide") if commit else nullcontext():
        return _decide(dataset, overrides, commit, progress or Progress(quiet=True))


def _decide(dataset: Path, overrides: list[str], commit: bool, progress: Progress) -> Decision:
    store = ManifestStore(dataset)
    store.recover()
    parent = store.version()
    before = policy_at(store, parent)
    settings = settings_in_force(store, overrides, [rule.name for _, rule in before])
    after = _policy(settings)
    numbers, new_rules = provenance.number_rules(store, after)
    numbered: list[Numbered] = list(zip(numbers, after, strict=True))
    begun = time.monotonic()
    changes = whatif.preview(store, before, numbered, parent)
    asked = time.monotonic()
    version = None
    if commit and numbers != [n for n, _ in before]:
        total = 2 * sum(c.before.start.n for c in changes if c.subject == "clip")  # once for the ledger, once for the state
        with progress.stage("decide", total) as advance:
            version = _commit(store, parent, settings, numbered, new_rules, advance)
    return Decision(
        dataset=str(dataset),
        parent=parent,
        version=version,
        rules=_changed_rules(before, numbered),
        changes=changes,
        config_sha256=digest(settings),
        query_seconds=round(asked - begun, 3),
        commit_seconds=round(time.monotonic() - asked, 3),
    )


def settings_in_force(store: ManifestStore, overrides: Sequence[str] = (), order: Sequence[str] = ()) -> CurateConfig:
    """The settings of the newest deciding run with the overrides; the rules in funnel order, those in force as `order` has them."""
    runs = [r for r in from_table(Run, store.read("runs")) if r.command in DECIDING]
    if not runs:
        raise DecideError(f"{store.root}: expected a curated dataset, found no run of curate in its manifest")
    for override in overrides:
        if not override.startswith("rules.") or "=" not in override:
            raise DecideError(
                f"{override}: expected a change of a rule like rules.motion.threshold=3; what is measured, and how sets are made, "
                "is changed by `dailies curate`"
            )
    stored = without_unknown(CurateConfig, json.loads(max(runs, key=lambda r: r.run_no).config_json))
    names = [n for n in stored["rules"] if stored["rules"][n].get("enabled", True)]
    if sorted(names) == sorted(order) and names != list(order):  # a run of before records kept their order: rules that were off come last
        stored["rules"] = {n: stored["rules"][n] for n in [*order, *(n for n in stored["rules"] if n not in order)]}
    settings = with_overrides(stored, list(overrides))
    return bind(CurateConfig, settings, f"{store.root}: settings of the last run")


def _policy(settings: CurateConfig) -> tuple[Rule, ...]:
    """The rules, each on a column of numbers that its subject has."""
    schemas = {"asset": arrow_schema(Asset), "clip": arrow_schema(Clip)}
    try:
        policy = settings.policy()
    except ValueError as error:
        raise ConfigError(str(error)) from error
    for rule in policy:
        schema = schemas[rule.subject]
        numeric = [f.name for f in schema if pa.types.is_floating(f.type) or pa.types.is_integer(f.type) or pa.types.is_boolean(f.type)]
        if rule.measure not in numeric:
            raise ConfigError(f"rules.{rule.name}.measure: expected a column of numbers of the {rule.subject}s, found {rule.measure!r}")
    return policy


def _changed_rules(before: Sequence[Numbered], after: Sequence[Numbered]) -> tuple[RuleChange, ...]:
    told = [{r.name: (n, _sentence(r)) for n, r in policy} for policy in (before, after)]
    none = (-1, "")
    names = dict.fromkeys([*told[0], *told[1]])
    changed = [(name, told[0].get(name, none), told[1].get(name, none)) for name in names]
    return tuple(RuleChange(name=name, before=old[1], after=new[1]) for name, old, new in changed if old[0] != new[0] and old[1] != new[1])


def _sentence(rule: Rule) -> str:
    unknown = ", unknown accepted" if rule.on_unknown == "accept" else ""
    return f"{rule.measure} {rule.op} {rule.threshold:g} {rule.unit}".rstrip() + unknown


def _commit(
    store: ManifestStore,
    parent: int,
    settings: CurateConfig,
    policy: list[Numbered],
    new_rules: pa.Table,
    advance: Callable[[int], None],
) -> int:
    """One version with the new decisions, rules, run, state and cubes, worked out range by range."""
    started = datetime.now(UTC)
    run_no = store.read("runs", parent, ["run_no"]).num_rows
    work = _Redecision(store, parent, policy, run_no, advance)
    inputs_digest = ids.digest("decide/v1", parent, digest(settings))
    record = Run(
        run_no=run_no,
        run_id=ids.digest("run/v1", parent, inputs_digest),
        command="decide",
        inputs_digest=inputs_digest,
        code_version=provenance.code_version(),
        config_sha256=digest(settings),
        config_json=to_record(settings),
        parent_version=parent,
        started_at=started,
        ended_at=datetime.now(UTC),
        policy=[number for number, _ in policy],
    )
    reader = pa.RecordBatchReader.from_batches
    version = store.commit(
        record.run_id,
        append={"decisions": reader(ledger.SCHEMA, work.new_rows()), "rules": new_rules, "runs": to_table(Run, [record])},
        # In this order: the cubes are counted while assets and clips stream by.
        replace={
            "assets": reader(arrow_schema(Asset), work.assets()),
            "clips": reader(arrow_schema(Clip), work.clips()),
            "cubes": reader(arrow_schema(Cube), work.cubes()),
        },
        parent=parent,
    )
    keep_newest(store)
    return version


class _Redecision:
    """The tables under a new policy, as streams."""

    def __init__(self, store: ManifestStore, parent: int, policy: list[Numbered], run_no: int, advance: Callable[[int], None]) -> None:
        self._store, self._parent, self._run_no, self._advance = store, parent, run_no, advance
        self._of_assets, self._of_clips = ([p for p in policy if p[1].subject == s] for s in ("asset", "clip"))
        self._kept_assets, self._held_assets = self._judge_assets()
        self._shard_of, self._caption_of = (_Places(store, parent, t, c) for t, c in (("members", "shard_no"), ("captions", "caption_no")))
        self._cubes = Cubes(run_no, _score_ends(store, parent))

    def new_rows(self) -> Iterator[pa.RecordBatch]:
        """What the ledger does not say yet, by ranges of subjects."""
        files = ledger_files(self._store, self._parent)
        for subject, rules in (("asset", self._of_assets), ("clip", self._of_clips)):
            needed = {f"{subject}_no", "asset_no", "kind", "error_code", *(r.measure for _, r in rules)}
            columns = [*needed, *(["set_name", "asset_kept"] if subject == "clip" else [])]
            for table in self._tables(subject, list(dict.fromkeys(columns))):
                yield from ledger.append_to(files, rules, table, self._run_no)[0].combine_chunks().to_batches()

    def assets(self) -> Iterator[pa.RecordBatch]:
        """Every asset with its new state; one that was taken down keeps its own."""
        for table in self._tables("asset"):
            decided = ledger.decide(self._of_assets, table)
            self._cubes.add_assets(table, decided)
            new = _keep_where(_held(table), table, ledger.with_state(table, decided.first_fail), ("decision", "first_fail_rule"))
            yield from new.combine_chunks().to_batches()

    def clips(self) -> Iterator[pa.RecordBatch]:
        """Every clip with its new state; kept ones that lie in a shard say in which, others in none."""
        for table in self._tables("clip"):
            decided = ledger.decide(self._of_clips, table)
            held = _held(table) | np.isin(table.column("asset_no").to_numpy(), self._held_assets)
            new = _keep_where(held, table, ledger.with_state(table, decided.first_fail), ("decision", "first_fail_rule"))
            kept = pc.equal(new.column("decision"), "keep").to_numpy()
            number = new.column("clip_no").to_numpy()
            values = {"shard_no": self._shard_of.find(number, kept), "caption_no": self._caption_of.find(number, kept)}
            values["decided_run_no"] = pa.array(np.full(new.num_rows, self._run_no, np.int32))
            for name, column in values.items():
                new = _set(new, name, column)
            self._cubes.add_clips(new, decided)
            yield from new.combine_chunks().to_batches()

    def cubes(self) -> Iterator[pa.RecordBatch]:
        """What was counted of the assets and clips that have gone by, and the funnels of earlier runs."""
        yield from with_earlier(self._cubes.table(), self._store.read("cubes", self._parent)).to_batches()

    def _tables(self, subject: str, columns: list[str] | None = None) -> Iterator[pa.Table]:
        """The stored rows by ranges of numbers, clips with `asset_kept` as the new rules on assets say."""
        table = "assets" if subject == "asset" else "clips"
        files, key = self._store.files(table, self._parent), f"{subject}_no"
        if not files:
            return
        rows = pds.dataset(files, schema=arrow_schema(TABLES[table]), format="parquet")
        last = max((pc.max(b.column(0)).as_py() for b in rows.to_batches(columns=[key]) if b.num_rows), default=-1)
        for start, end in ledger.ranges(0, last, CHUNK):
            found = rows.to_table(columns=columns, filter=(pc.field(key) >= start) & (pc.field(key) < end)).sort_by(key)
            if subject == "clip" and found.num_rows:
                kept = np.isin(found.column("asset_no").to_numpy(), self._kept_assets)
                found = _set(found, "asset_kept", pa.array(kept.astype(np.float32)))
            if found.num_rows:
                yield found
                self._advance(found.num_rows if subject == "clip" else 0)

    def _judge_assets(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """The assets that pass the new rules of the stages that make `asset_kept`, and those that a takedown or a quarantine holds."""
        rules = [r for r in self._of_assets if r[1].stage in whatif.ASSET_STAGES]
        kept, held = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
        columns = ["asset_no", "kind", "error_code", "decision", "state", *(r.measure for _, r in rules)]
        for table in self._tables("asset", list(dict.fromkeys(columns))):
            number = table.column("asset_no").to_numpy()
            kept.append(number[ledger.survivors(rules, table)])
            held.append(number[_held(table)])
        return np.concatenate(kept), np.concatenate(held)


class _Places:
    """A number of each clip that a table names: its shard, or its caption."""

    def __init__(self, store: ManifestStore, version: int, table: str, column: str) -> None:
        rows = store.read(table, version, ["clip_no", column])
        self._clips, first = np.unique(rows.column("clip_no").to_numpy(), return_index=True)
        self._values, self._type = rows.column(column).to_numpy()[first], rows.schema.field(column).type

    def find(self, clips: npt.NDArray[np.int64], wanted: npt.NDArray[np.bool_]) -> pa.Array:
        """The number of each wanted clip, null for others and for those that the table does not name."""
        if not len(self._clips):
            return pa.nulls(len(clips), self._type)
        at = np.minimum(np.searchsorted(self._clips, clips), len(self._clips) - 1)
        return pa.array(self._values[at], self._type, mask=~(wanted & (self._clips[at] == clips)))


def _held(table: pa.Table) -> npt.NDArray[np.bool_]:
    """Which rows a takedown or a quarantine decided: no rule changes that."""
    ruled = pc.is_in(table.column("decision"), value_set=pa.array(["keep", "drop", "pending"])).to_numpy()
    live = pc.equal(table.column("state"), "live").to_numpy() if "state" in table.schema.names else np.ones(len(ruled), bool)
    held: npt.NDArray[np.bool_] = ~(ruled & live)
    return held


def _keep_where(mask: npt.NDArray[np.bool_], old: pa.Table, new: pa.Table, columns: Sequence[str]) -> pa.Table:
    """The new table, with the old values of these columns where the mask says."""
    if not mask.any():
        return new
    for name in columns:
        new = _set(new, name, pc.if_else(pa.array(mask), old.column(name).combine_chunks(), new.column(name).combine_chunks()))
    return new


def _set(table: pa.Table, name: str, values: Any) -> pa.Table:
    index = table.schema.get_field_index(name)
    return table.set_column(index, table.schema.field(index), values)


def _score_ends(store: ManifestStore, version: int) -> Mapping[tuple[str, str], tuple[float, float]]:
    con = whatif.open_files(store, version, ("clips",), whatif.Limits())
    try:
        ends = ", ".join(f"min({s}), max({s})" for s in SCORES)
        rows = con.sql(f"SELECT kind, {ends} FROM clips GROUP BY kind").fetchall()  # noqa: S608 (names of the schema)
    finally:
        con.close()
    found = {(row[0], score): (row[1 + 2 * i], row[2 + 2 * i]) for row in rows for i, score in enumerate(SCORES)}
    # asset_kept is made anew, so its ends are what it can be.
    return {k: (0.0, 1.0) if k[1] == "asset_kept" else v for k, v in found.items() if v[0] is not None}


def to_dict(decision: Decision) -> dict[str, Any]:
    """The decision as plain values, for JSON."""
    return dataclasses.asdict(decision)
