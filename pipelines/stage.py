"""A stage is one step of curation. Four shapes, and nothing else:

    map     record -> record            one in, one out
    split   record -> list of records   one in, any number out
    batch   a class: loads weights once, maps equal-length lists of records
    table   DataFrame -> DataFrame      sees the whole table (Spark; see `on_spark`)

Stages are pure: no clock, network or global random state inside. The subject's own file in `curation` holds the function; here
it is given a name, a version, what of the configuration it depends on, and a *job*: input rows -> output tables. Engines run jobs.
"""

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa

from manifests import ids

Shape = Literal["map", "split", "batch"]
Job = Callable[[pa.Table, str], dict[str, pa.Table]]
"""Rows in, named tables out; the text is the stem of the unit's parts, relative to the dataset, for rows that refer to a sibling
part. The table named 'rows' says which inputs are done: it is written last."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a dataset keeps what its stages make."""

    dataset: Path

    @property
    def work(self) -> Path:
        """Outputs of stages, purgeable."""
        return self.dataset / "work"

    @property
    def quarantine(self) -> Path:
        """Counts of the attempts that cost a process or were refused, by asset (`curation.quarantine`)."""
        return self.work / "quarantine"

    @property
    def fetched(self) -> Path:
        """Bytes of assets that are not plain local files."""
        return self.work / "fetched"


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """A named step. Two runs with the same `depends_on(config)` and `version` give the same outputs for the same rows."""

    name: str
    shape: Shape
    version: str
    reads: pa.Schema
    key: str
    writes: dict[str, pa.Schema]
    make: Callable[[Any, Place], Job]
    """The job for a configuration; heavy imports and weights are loaded here, on the worker."""
    depends_on: Callable[[Any], Any]
    """The part of the configuration that changes the outputs: its digest names the folder of the outputs."""
    unit_rows: Callable[[Any], int]
    """Rows of one unit of work: what a crash can cost."""
    cost: Callable[[dict[str, Any]], float] = lambda row: 1.0
    """Predicted cost of a row in arbitrary units: dear rows run first, so that no worker is left alone with one at the end."""
    group_by: str | None = None
    """Column whose equal values are kept in one unit, because they share a file."""
    again: Callable[[dict[str, Any]], bool] | None = None
    """Whether an output row with an `error_code` should be tried again in another run: what failed for a passing reason, such as a budget."""
    rests: Callable[[dict[str, Any], Any, Place], bool] | None = None
    """Whether such a row is left alone all the same, for now: what it is about has used up its tries, by configuration and place."""
    weights: Callable[[Any], bool] = lambda config: False
    """Whether the configuration gives the job a network that is heavy, or anything else of which there may be but one: Ray then gives it
    actors of its own, which load it once and end with the stage."""

    on_gpu: Callable[[Any], bool] = lambda config: False
    """Whether the configuration puts its networks on GPUs: Ray then gives each actor one."""

    def digest(self, config: Any) -> str:
        """Names the outputs of this stage under this configuration."""
        return ids.digest("stage/v1", self.name, self.version, canonical(self.depends_on(config)))[:16]


def canonical(settings: Any) -> str:
    """Configurations, alone or in tuples and mappings, as JSON that changes with any value in them."""
    return json.dumps(settings, default=dataclasses.asdict, sort_keys=True)


def names_gpu(settings: Any) -> bool:
    """Whether a `device` anywhere in the settings is a GPU."""
    found = [dataclasses.asdict(settings)]
    while found:
        values = found.pop()
        if str(values.get("device", "")).startswith("cuda"):
            return True
        found += [value for value in values.values() if isinstance(value, dict)]
    return False
