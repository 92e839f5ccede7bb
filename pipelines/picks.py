"""`dailies pick`: sets that people choose. Their yes and no become ledger rows of the rule `picked`; a set that is `picked` takes the yes alone.

    dailies pick DATASET SET                    the candidates nobody has said anything of yet, as CSV to be filled in
    dailies pick DATASET SET --file picks.csv   what people said, committed at once; the next `dailies curate` composes the set of it

The file has a line a clip: clip_id, picked (yes or no), reason (may be empty); further columns are ignored. Rows are only ever added: who changes
their mind gives another file, and the newest row of a clip and set holds.
"""

import csv
import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from curation.buckets import assign_set
from curation.plain_text import clean_text
from curation.sets import SetConfig
from manifests import ids
from manifests.events import Decision, Pick, Run
from manifests.policy import PICKED
from manifests.records import Asset, Clip
from manifests.rules import Rule
from manifests.schema import from_table, to_table
from manifests.tables import ManifestStore
from pipelines import provenance
from pipelines.decide import settings_in_force
from pipelines.one_run import alone

COLUMNS = ("clip_id", "picked", "reason")
_SAID = {"yes": True, "no": False}
_MAX_REASON = 1000
MAX_FILE_BYTES = 256 << 20


class PickError(Exception):
    """The picks cannot be taken; the message names file, line, what was expected and found, and what helps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Picked:
    """What a file of picks said that was new: yes and no; those that said what held already; and the version that has them, if any."""

    set_name: str
    file_sha256: str
    yes: int
    no: int
    unchanged: int
    version: int | None


def pick(dataset: Path, set_name: str, file: Path, note: str | None = None) -> Picked:
    """The file's picks are in the ledger, all or none; the same file again adds nothing.

    Raises PickError, OSError, DatasetBusy, ManifestConflict.
    """
    with alone(dataset, "pick"):
        return _pick(dataset, set_name, file, note)


def _pick(dataset: Path, set_name: str, file: Path, note: str | None) -> Picked:
    store = ManifestStore(dataset)
    store.recover()
    parent = store.version()
    cfg = set_of(store, set_name)
    data = _read(file)
    said = _parse(data, file)
    clips = _clips(store, said, cfg, file)
    held = latest(from_table(Pick, store.read("picks", parent)))
    new = {i: s for i, s in said.items() if (i, set_name) not in held or held[i, set_name].chosen != s[0]}
    version = _commit(store, parent, set_name, new, clips, hashlib.sha256(data).digest(), note) if new else None
    return Picked(
        set_name=set_name,
        file_sha256=hashlib.sha256(data).hexdigest(),
        yes=sum(chosen for chosen, _ in new.values()),
        no=sum(not chosen for chosen, _ in new.values()),
        unchanged=len(said) - len(new),
        version=version,
    )


def candidates(store: ManifestStore, set_name: str) -> Iterator[dict[str, str]]:
    """Clips that the set would take were they picked, and of which nobody has said anything: by id, times in s of their file, and its address."""
    cfg = replace(set_of(store, set_name), picked=False)
    later = [r["rule_no"] for r in store.read("rules").to_pylist() if r["stage"] in ("sets", "placed")]
    uris = {a.asset_no: a.uri for a in from_table(Asset, store.read("assets"))}
    held = latest(from_table(Pick, store.read("picks")))
    for clip in from_table(Clip, store.read("clips")):
        alive = clip.decision == "keep" or (clip.decision == "drop" and clip.first_fail_rule in later)
        if alive and (clip.clip_id, set_name) not in held and assign_set(clip, [cfg]).set_name:
            times = {"start_s": f"{clip.start_us / 1e6:.3f}", "end_s": f"{clip.end_us / 1e6:.3f}"}
            yield {"clip_id": clip.clip_id, "picked": "", "reason": "", **times, "file": uris[clip.asset_no]}


def latest(picks: Iterable[Pick]) -> dict[tuple[str, str], Pick]:
    """The row that holds for each clip and set."""
    return {(p.clip_id, p.set_name): p for p in sorted(picks, key=lambda p: p.run_no)}


def column_of(picks: Iterable[Pick], clip_ids: Sequence[str]) -> list[str | None]:
    """The column `picks` of these clips."""
    found: dict[str, list[str]] = {}
    for (clip_id, set_name), row in sorted(latest(picks).items()):
        found.setdefault(clip_id, []).append(f"{set_name}={'yes' if row.chosen else 'no'}")
    return [",".join(found[i]) if i in found else None for i in clip_ids]


def set_of(store: ManifestStore, set_name: str) -> SetConfig:
    """The set of the settings in force; PickError where there is none of that name that is picked."""
    sets = settings_in_force(store).sets
    names = sorted(s.name for s in sets.values() if s.picked)
    cfg = next((s for s in sets.values() if s.name == set_name and s.picked), None)
    if cfg is None:
        raise PickError(
            f"{store.root}: expected a set that is picked ({', '.join(names) or 'this dataset has none'}), found {set_name!r}: curate with a "
            "set whose file in conf/sets says picked: true"
        )
    return cfg


def _read(file: Path) -> bytes:
    if file.stat().st_size > MAX_FILE_BYTES:
        raise PickError(f"{file}: expected at most {MAX_FILE_BYTES >> 20} MiB of picks, found {file.stat().st_size} bytes: divide it")
    return file.read_bytes()


def _parse(data: bytes, file: Path) -> dict[str, tuple[bool, str | None]]:
    """Yes or no, and the reason, by clip id."""
    try:
        rows = csv.DictReader(data.decode("utf-8-sig").splitlines(), strict=True)
        if missing := {"clip_id", "picked"} - set(rows.fieldnames or ()):
            raise PickError(f"{file}: expected the columns {', '.join(COLUMNS)}, found none named {' or '.join(sorted(missing))}")
        found: dict[str, tuple[bool, str | None]] = {}
        for row in rows:
            clip_id, said = (row["clip_id"] or "").strip().lower(), (row["picked"] or "").strip().lower()
            if not said:
                continue  # a candidate that nobody has looked at
            if said not in _SAID:
                raise PickError(f"{file}, line {rows.line_num}: expected yes or no, found {said[:40]!r}")
            if clip_id in found and found[clip_id][0] != _SAID[said]:
                raise PickError(f"{file}, line {rows.line_num}: clip {clip_id[:40]!r} is both yes and no: keep one of the lines")
            found[clip_id] = (_SAID[said], clean_text(row.get("reason") or "", _MAX_REASON) or None)
    except (UnicodeDecodeError, csv.Error) as error:
        raise PickError(f"{file}: expected a CSV file in UTF-8, found {error}") from error
    return found


def _clips(store: ManifestStore, said: Iterable[str], cfg: SetConfig, file: Path) -> dict[str, tuple[int, int]]:
    """clip_no and asset_no of the clips; PickError for one that is not there, was taken down, or is of another kind than the set."""
    wanted = sorted(said)
    table = store.read("clips", columns=["clip_id", "clip_no", "asset_no", "kind", "decision"])
    rows = {r["clip_id"]: r for r in table.filter(pc.is_in(table["clip_id"], value_set=pa.array(wanted, pa.string()))).to_pylist()}
    for clip_id in wanted:
        row = rows.get(clip_id)
        found = "no such clip" if row is None else "one that was taken down" if row["decision"] == "removed" else row["kind"]
        if found != cfg.kind:
            raise PickError(f"{file}: clip {clip_id[:40]!r}: expected a clip of kind {cfg.kind} for the set {cfg.name}, found {found}")
    return {i: (r["clip_no"], r["asset_no"]) for i, r in rows.items()}


def _commit(
    store: ManifestStore,
    parent: int,
    set_name: str,
    said: dict[str, tuple[bool, str | None]],
    clips: dict[str, tuple[int, int]],
    file_sha256: bytes,
    note: str | None,
) -> int:
    rule = Rule(
        name=PICKED, stage="sets", subject="clip", measure=PICKED, op="==", threshold=1, set_name=set_name, reason="1 = people chose it"
    )
    (rule_no,), new_rules = provenance.number_rules(store, (rule,))
    run_no, now = store.read("runs", parent, ["run_no"]).num_rows, datetime.now(UTC)
    settings = json.dumps({"set": set_name, "file_sha256": file_sha256.hex(), "note": note}, sort_keys=True)
    record = Run(
        run_no=run_no,
        run_id=ids.digest("pick/v1", parent, set_name, file_sha256.hex()),
        command="pick",
        inputs_digest=file_sha256.hex(),
        code_version=provenance.code_version(),
        config_sha256=ids.digest("config/v1", settings),
        config_json=settings,
        parent_version=parent,
        started_at=now,
        ended_at=now,
    )
    picks, decisions = [], []
    for clip_id, (chosen, reason) in sorted(said.items(), key=lambda item: clips[item[0]]):
        clip_no, asset_no = clips[clip_id]
        picks.append(
            Pick(run_no=run_no, rule_no=rule_no, clip_no=clip_no, clip_id=clip_id, set_name=set_name, chosen=chosen, reason=reason, note=note, file_sha256=file_sha256)
        )  # fmt: skip
        decisions.append(
            Decision(run_no=run_no, rule_no=rule_no, asset_no=asset_no, clip_no=clip_no, score=float(chosen), passed=chosen, reason_code="pass" if chosen else "threshold")
        )  # fmt: skip
    tables = {
        "picks": to_table(Pick, picks),
        "decisions": to_table(Decision, decisions),
        "rules": new_rules,
        "runs": to_table(Run, [record]),
    }
    return store.commit(record.run_id, append=tables, parent=parent)
