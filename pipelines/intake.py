"""What comes in: every listed file as an asset with its rights, merged with what the dataset holds already.

An asset keeps its number; what was taken down stays as it is, whatever the inputs say of it.
"""

import dataclasses
import json
from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from curation.ingest import complete, defaults, merge_copies, unread_id, unused_defaults, with_sources
from curation.listed import Listing, member_of
from curation.listing import list_inputs
from curation.rights import merge, of_asset, put, settle
from curation.rights_table import RightsTable
from manifests import ledger
from manifests.events import Run
from manifests.purgeable import REMOVED_URI, redact
from manifests.records import Asset, Source
from manifests.schema import from_table, to_table
from manifests.tables import ManifestStore
from manifests.takedown import sources_of
from pipelines import jobs, plan
from pipelines.curation_run import LIVE, Curation


def ingest(run: Curation, inputs: list[str]) -> int:
    """`run.assets` holds every asset of the dataset and of the inputs, with rights; returns how many files were listed."""
    csv = run.config.ingest.rights_csv
    table = None if csv is None else RightsTable(Path(csv))  # wrong, it is said before any file is read
    _tell_of_left_out_rights(run)
    listings = to_table(Listing, list_inputs(inputs))
    run.do(plan.INGEST, inputs=listings)
    inputs_of = _inputs_of(listings)
    given = {source for found in inputs_of.values() for source in found}
    sources = _source_numbers(run.store, given)
    if unused := unused_defaults(run.config.ingest, given):
        run.progress.say(f"ingest.source_defaults: {', '.join(unused)}: no such source among these inputs")
    rows = run.outputs(plan.INGEST, listings)
    found = [redact(a) if a.blocked else a for a in merge_copies(_with_rights(run, inputs_of, rows, sources, table))]
    known = {a.asset_id: a for a in from_table(Asset, run.store.read("assets"))}
    first = max(max((a.asset_no for a in known.values()), default=-1) + 1, ledger.next_number(run.store.files("decisions"), "asset"))
    came = {a.asset_id for a in found}
    for asset_id in map(unread_id, _read_addresses(listings, rows)):
        if asset_id not in came and asset_id in known and known[asset_id].state == LIVE:
            del known[asset_id]  # what stood for a file that nobody could read: its content has a row now
    for asset in found:
        old = known.get(asset.asset_id)
        if old is None:
            known[asset.asset_id] = asset
        elif old.state == LIVE:  # what was taken down stays as it is, whatever the inputs say
            here = dataclasses.replace(asset, asset_no=old.asset_no, source_no=old.source_no)
            known[asset.asset_id] = here if old.uri == REMOVED_URI else _beside(here, old)
    fresh = sorted(i for i, a in known.items() if a.asset_no < 0)
    for number, asset_id in enumerate(fresh, first):
        known[asset_id] = dataclasses.replace(known[asset_id], asset_no=number)
    # Facts and verdicts are made again below, from the stages' own outputs.
    run.assets = to_table(Asset, [_settled(run, known[i]) for i in sorted(known, key=lambda i: known[i].asset_no)])
    run.sources = to_table(Source, [_source(run, n, s) for s, n in sorted(sources.items(), key=lambda item: item[1])])
    return int(listings.num_rows)


def _beside(here: Asset, old: Asset) -> Asset:
    """The asset as this run found it, with where else it was found; what was stated there holds too where this run did not look there."""
    both = with_sources(here, [old])
    return both if _places(old) <= _places(here) else put(both, merge(of_asset(both), of_asset(old)))


def _places(asset: Asset) -> set[str]:
    """Where its bytes lay: no web addresses that a statement names."""
    return {asset.uri, *(a for a in sources_of(asset)["addresses"] if not a.lower().startswith(("http://", "https://")))}


def _read_addresses(listings: pa.Table, rows: pa.Table) -> set[str]:
    """Where bytes were found: the addresses that were read, and the tars whose members were."""
    uri_of = dict(zip(listings.column("key").to_pylist(), listings.column("uri").to_pylist(), strict=True))
    read = {uri_of[key] for key in rows.filter(pc.is_null(rows.column("error_code"))).column("key").to_pylist()}
    return read | {member[0] for uri in read if (member := member_of(uri))}


def _tell_of_left_out_rights(run: Curation) -> None:
    """A line for people where the last curation had a rights table and this one has none: what it stated no longer holds."""
    last = max((r for r in from_table(Run, run.store.read("runs")) if r.command == "curate"), key=lambda r: r.run_no, default=None)
    before = None if last is None else json.loads(last.config_json).get("ingest", {}).get("rights_csv")
    if before and run.config.ingest.rights_csv is None:
        run.progress.say(f"the last curation took rights from {before}, this one does not: give it again with --rights, or they are gone")


def _with_rights(
    run: Curation, inputs_of: dict[str, tuple[str, ...]], rows: pa.Table, sources: dict[str, int], table: RightsTable | None
) -> Iterable[Asset]:
    """Every listed file as an asset with all that is stated of it: beside it, in the rights table, of its source."""
    config = run.config.ingest
    run.noted = rows.select(["asset_id", "uri", jobs.NOTED])
    for asset, key in zip(from_table(Asset, rows), rows.column("key").to_pylist(), strict=True):
        placed = dataclasses.replace(asset, source_no=sources[inputs_of[key][0]])
        # Of what is on the blocklist nothing is known but its hashes.
        yield placed if asset.blocked or run.blocklist.blocks(asset) else complete(placed, inputs_of[key], config, table)
    if table is not None and (unused := table.unused()):
        run.progress.say(f"{config.rights_csv}: {len(unused)} lines match no file of these inputs, the first is line {unused[0]}")


def _settled(run: Curation, asset: Asset) -> Asset:
    """The asset as rules may judge it today: contracts, consent and blocklist."""
    # An address that was redacted cannot be looked up again: what was found then stands.
    blocked = run.blocklist.blocks(asset) or asset.state != LIVE or bool(asset.blocked and asset.uri == REMOVED_URI)
    if asset.state == LIVE:
        asset = jobs.without_facts(redact(asset) if blocked else asset)
    return dataclasses.replace(settle(asset, run.config.rights, run.today), blocked=float(blocked))


def _source(run: Curation, number: int, name: str) -> Source:
    said = defaults(name, run.config.ingest)
    licence = said.licence_expr or run.config.ingest.default_licence
    return Source(source_no=number, name=name, supplier=said.supplier, licence_default=licence)


def _inputs_of(listings: pa.Table) -> dict[str, tuple[str, ...]]:
    """The inputs that each file, by the key of its listing, was listed from."""
    rows = zip(*(listings.column(n).to_pylist() for n in ("key", "source", "also_from")), strict=True)
    return {key: (source, *json.loads(also or "[]")) for key, source, also in rows}


def _source_numbers(store: ManifestStore, given: Iterable[str]) -> dict[str, int]:
    sources = {s.name: s.source_no for s in from_table(Source, store.read("sources"))}
    for name in sorted(given):
        sources.setdefault(name, len(sources))
    return sources
