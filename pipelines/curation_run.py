"""A curation while it runs: the configuration, the place, and the tables that its steps fill column by column.

A step is a function of this and of what the steps before it left; `curate` has them in order.
"""

from collections import Counter
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from curation.blocklist import Blocklist
from manifests import ledger
from manifests.events import Block, Pick
from manifests.records import Asset, Clip, Source
from manifests.rules import Rule
from manifests.schema import arrow_schema, from_table
from manifests.tables import ManifestStore
from pipelines import on_ray, plan
from pipelines.progress import Progress
from pipelines.settings import CurateConfig
from pipelines.stage import Place, Stage
from pipelines.work import missing, read, waiting_keys

LIVE = "live"
"""The state of an asset that nobody took down."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """Clips whose copies were looked for among all, and those whose copies among themselves were known from an earlier run."""

    fresh: int = 0
    known: int = 0


class Curation:
    """One run: the configuration, the place, and the tables of assets and clips, which grow column by column."""

    def __init__(self, dataset: Path, config: CurateConfig, progress: Progress, today: date) -> None:
        self.config, self.progress = config, progress
        self.place = Place(dataset.absolute())
        self.store = ManifestStore(self.place.dataset)
        self.store.recover()
        self.parent = self.store.version()
        self.assets = arrow_schema(Asset).empty_table()
        self.clips = arrow_schema(Clip).empty_table()
        self.sources = arrow_schema(Source).empty_table()
        self.noted = plan.INGEST.writes["rows"].empty_table()
        self.blocks = self.store.read("blocklist")
        self.blocklist = Blocklist.of(from_table(Block, self.blocks))
        self.picks: list[Pick] = from_table(Pick, self.store.read("picks"))
        self.today = today
        self.compared = Compared()
        self.lost = arrow_schema(Clip).empty_table()
        """Clips of an earlier version whose asset could not be read again: they are dropped, and stay in the manifest."""
        self.tried: dict[str, set[str]] = {}
        """By stage, the keys of failures that this run has tried again already."""

    def do(self, *stages: Stage, inputs: pa.Table) -> None:
        """The outputs of the stages, which need nothing of one another, exist for all rows of the input."""
        units = [(stage, unit) for stage in stages for unit in missing(stage, self.config, self.place, self._untried(stage, inputs))]
        todo, every = sum(u.n_rows for _, u in units), inputs.num_rows * len(stages)
        name = stages[0].name if len(stages) == 1 else "measures"
        with self.progress.stage(name, every, every - todo) as advance:
            for done in on_ray.run(units, self.config, self.place, self.config.engine):
                advance(done["rows_in"])
        for stage in stages if units else ():
            self._tell(stage, inputs)

    def _untried(self, stage: Stage, inputs: pa.Table) -> pa.Table:
        tried = pa.array(sorted(self.tried.get(stage.name, ())), pa.string())
        return inputs.filter(pc.invert(pc.is_in(inputs.column(stage.key), value_set=tried)))

    def waiting(self, stage: Stage, rows: pa.Table) -> pa.Table:
        """Those of the rows that failed for a reason that may pass, and that the same command may try again."""
        keys = waiting_keys(stage, self.config, self.place) if rows.num_rows else ()
        return rows.filter(pc.is_in(rows.column(stage.key), value_set=pa.array(sorted(keys), pa.string())))

    def failed(self, stage: Stage, rows: pa.Table) -> list[dict[str, Any]]:
        """The stage's outputs for those of the rows that failed for a reason that may pass."""
        return [row for row in self.outputs(stage, rows).to_pylist() if row["error_code"] and stage.again and stage.again(row)]

    def _tell(self, stage: Stage, rows: pa.Table) -> None:
        """Of the rows that the same command would try again, a line for people says how many, why, and what the first says."""
        if failed := self.failed(stage, self.waiting(stage, rows)):
            codes = ", ".join(f"{n} {code}" for code, n in sorted(Counter(row["error_code"] for row in failed).items()))
            first = failed[0]["error_detail"]
            self.progress.say(f"{stage.name}: {len(failed)} failed for reasons that may pass ({codes}); the first: {first}")

    def readable(self) -> pa.Table:
        """The assets whose bytes were read and are not on the blocklist."""
        return self.assets.filter(pc.and_(pc.is_null(self.assets.column("error_stage")), pc.equal(self.assets.column("blocked"), 0.0)))

    def passing(self, probed: pa.Table) -> pa.Table:
        """Those of the probed assets that the rules on rights and facts keep; whatever these say, nothing blocked is opened."""
        passing = probed.filter(pa.array(ledger.survivors(self.rules("rights", "facts"), probed)))
        return passing.filter(pc.equal(passing.column("blocked"), 0.0))

    def outputs(self, stage: Stage, inputs: pa.Table, output: str = "rows", key: str | None = None) -> pa.Table:
        """The stage's outputs for the rows of the input."""
        return read(stage, self.config, self.place, output, inputs.column(stage.key).combine_chunks().unique(), key)

    def rules(self, *stages: str) -> list[tuple[int, Rule]]:
        """The configured rules of these rule stages, in order, numbered by position."""
        return [(i, r) for i, r in enumerate(self.config.policy()) if r.stage in stages]

    def alive(self, *stages: str) -> pa.Table:
        """The clips that survive the rules of these stages."""
        return self.clips.filter(pa.array(ledger.survivors(self.rules(*stages), self.clips)))
