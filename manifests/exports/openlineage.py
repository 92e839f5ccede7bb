"""`openlineage.ndjson`: every run of the dataset and every stage of it as OpenLineage events, one a line, for any lineage server.

A run is a job of its own and the parent of its stages. Run ids are UUIDs (version 7) made from the start and the run's own id, so the
same release always gives the same lines. Data sets are named by their place in the dataset, not by where it lies on a machine.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from manifests.exports.facts import Facts, Row

if TYPE_CHECKING:
    from openlineage.client.event_v2 import RunEvent

NAME = "openlineage.ndjson"
PRODUCER = "urn:dailies:openlineage:v1"


@dataclass(frozen=True, slots=True, kw_only=True)
class StageRun:
    """One stage of one run. `reads` and `writes` are places under the dataset; counts and times are None where the work area is purged."""

    run_no: int
    stage: str
    shape: str
    version: str
    engine: str
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    rows_out: int | None = None
    files: int | None = None
    size_bytes: int | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None


def write_lineage(facts: Facts, stages: Sequence[StageRun]) -> bytes:
    """START and COMPLETE of every run, around those of its stages, as newline-delimited JSON."""
    from openlineage.client.event_v2 import set_producer
    from openlineage.client.serde import Serde

    set_producer(PRODUCER)
    lines = []
    for run in facts.runs:
        mine = [s for s in stages if s.run_no == run["run_no"]]
        lines += [Serde.to_json(event) for event in _events(facts, run, mine)]
    return "".join(line + "\n" for line in lines).encode()


def _events(facts: Facts, run: Row, stages: Sequence[StageRun]) -> Iterator["RunEvent"]:
    start = run["started_at"] or facts.created_at
    end = max(run["ended_at"] or start, start)
    whole = _Part(facts, run, start, None)
    reads, writes = _ends(facts, str(run["command"]))
    sources = [_dataset("input", facts, name) for name in reads]
    yield whole.event("START", start, sources, [])
    for stage in stages:
        part = _Part(facts, run, start, stage)
        # What an earlier run left was found and not made again: its times are outside of this run.
        began = min(max(stage.started_at or start, start), end)
        done = min(max(stage.ended_at or end, began), end)
        inputs = [_dataset("input", facts, name) for name in stage.reads]
        yield part.event("START", began, inputs, [])
        yield part.event("COMPLETE", done, inputs, [_dataset("output", facts, name, stage) for name in stage.writes])
    tables = [_dataset("output", facts, f"manifest/{name}", rows=facts.tables[name]) for name in writes if facts.tables[name]]
    yield whole.event("COMPLETE", end, sources, tables)


def _ends(facts: Facts, command: str) -> tuple[list[str], list[str]]:
    """What a run reads, and the tables that it writes."""
    if command.startswith("train"):
        return ["shards", "manifest/shards", "manifest/members"], ["exposures", "runs"]
    if command == "curate":
        return [f"source/{s['source_no']}" for s in facts.sources], list(facts.tables)
    return ["manifest/assets", "manifest/clips", "manifest/rules"], ["decisions", "rules", "runs", "assets", "clips", "cubes"]


class _Part:
    """A run, or one stage of it, as a job."""

    def __init__(self, facts: Facts, run: Row, start: datetime, stage: StageRun | None) -> None:
        self.facts, self.run, self.start, self.stage = facts, run, start, stage

    def event(self, state: str, at: datetime, inputs: list[Any], outputs: list[Any]) -> "RunEvent":
        from openlineage.client import event_v2, facet_v2

        command = str(self.run["command"])
        shape = "COMMAND" if self.stage is None else self.stage.shape.upper()
        job = event_v2.Job(
            self._namespace(),
            command if self.stage is None else f"{command}.{self.stage.stage}",
            {
                "jobType": facet_v2.job_type_job.JobTypeJobFacet("BATCH", "DAILIES", shape),
                "sourceCodeLocation": facet_v2.source_code_location_job.SourceCodeLocationJobFacet(
                    type="dailies", url=f"urn:dailies:code:{self.run['code_version']}", version=str(self.run["code_version"])
                ),
            },
        )
        run = event_v2.Run(self._id(self.stage), self._run_facets())
        return event_v2.RunEvent(
            eventType=event_v2.RunState[state], eventTime=at.isoformat(), run=run, job=job, inputs=inputs, outputs=outputs
        )

    def _run_facets(self) -> dict[str, Any]:
        from openlineage.client import facet_v2

        if self.stage is None:
            return {"dailies_curation": _curation(self.facts, self.run)}
        parent = facet_v2.parent_run
        command = str(self.run["command"])
        return {
            "parent": parent.ParentRunFacet(run=parent.Run(self._id(None)), job=parent.Job(self._namespace(), command)),
            "processing_engine": facet_v2.processing_engine_run.ProcessingEngineRunFacet(
                version=self.stage.version, name=self.stage.engine
            ),
        }

    def _id(self, stage: StageRun | None) -> str:
        from openlineage.client.uuid import generate_static_uuid

        return str(generate_static_uuid(self.start, f"{self.run['run_id']}/{stage.stage if stage else ''}".encode()))

    def _namespace(self) -> str:
        return f"dailies://{self.facts.dataset}"


def _dataset(side: str, facts: Facts, name: str, stage: StageRun | None = None, rows: int | None = None) -> Any:
    """An input or output; with what was written where it is known."""
    from openlineage.client import event_v2, facet_v2

    facets: dict[str, Any] = {}
    if name.startswith("manifest/"):
        facets["version"] = facet_v2.dataset_version_dataset.DatasetVersionDatasetFacet(str(facts.version))
    if side == "input":
        return event_v2.InputDataset(f"dailies://{facts.dataset}", name, facets=facets)
    statistics = facet_v2.output_statistics_output_dataset.OutputStatisticsOutputDatasetFacet(
        rowCount=stage.rows_out if stage else rows, size=stage.size_bytes if stage else None, fileCount=stage.files if stage else None
    )
    known = stage is None or stage.rows_out is not None
    return event_v2.OutputDataset(
        f"dailies://{facts.dataset}", name, facets=facets, outputFacets={"outputStatistics": statistics} if known else {}
    )


def _curation(facts: Facts, run: Row) -> Any:
    """Our own facet: what decided, and the root of the release that tells it."""
    import attr
    from openlineage.client.generated.base import RunFacet

    @attr.define
    class CurationRunFacet(RunFacet):
        release: str
        merkleRoot: str
        configSha256: str
        policy: list[dict[str, Any]]

        @staticmethod
        def _get_schema() -> str:
            return "urn:dailies:curation-run-facet:v1"

    policy = [
        {n: r[n] for n in ("name", "version", "measure", "op", "threshold", "unit", "on_unknown", "passed", "rejected", "unknown")}
        for r in facts.policy
    ]
    return CurationRunFacet(release=facts.name, merkleRoot=facts.root, configSha256=str(run["config_sha256"]), policy=policy)
