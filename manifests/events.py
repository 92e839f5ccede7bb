"""The records of what was decided and done: verdicts, rules, runs, what was trained on, what was taken down, and the counts made of them.

One frozen dataclass a table, as in `manifests.records`.
"""

from dataclasses import dataclass
from datetime import datetime

import pyarrow as pa

from manifests.columns import UTC, column
from manifests.columns import flag as _flag
from manifests.columns import score as _score
from manifests.columns import small as _small
from manifests.columns import text as _text
from manifests.columns import whole as _whole


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """One rule's verdict on one asset or clip. Append only; the newest row of a rule and subject holds, and a run appends what changed."""

    run_no: int = column(pa.int32(), "run that decided")
    rule_no: int = column(pa.int32(), "rule that decided")
    asset_no: int = column(pa.int64(), "the asset, or the clip's asset")
    clip_no: int | None = _whole("the clip; null for rules on assets")
    score: float | None = _score("what was compared; null = not measured")
    passed: bool | None = _flag("true pass, false reject, null unknown")
    reason_code: str = column(
        pa.string(), "pass, threshold, not_run, failed_earlier, measure_failed; not_applicable withdraws an earlier row"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleRow:
    """A rule as it stood in a run: where thresholds and versions live."""

    rule_no: int = column(pa.int32(), "dense key; a changed threshold is a new row")
    name: str = column(pa.string(), "name")
    version: int = column(pa.int32(), "version of the rule's meaning")
    position: int = column(pa.int32(), "place in the funnel of the run that used it first; runs.policy has the places of each run")
    stage: str = column(pa.string(), "facts, motion, content, tables or rights")
    subject: str = column(pa.string(), "asset or clip")
    kinds: str = column(pa.string(), "media kinds it applies to, comma separated")
    set_name: str = column(pa.string(), "set it belongs to, empty for all")
    measure: str = column(pa.string(), "column it compares")
    measure_version: str = column(pa.string(), "version of the measure")
    op: str = column(pa.string(), "<, <=, >, >= or ==")
    threshold: float = column(pa.float64(), "threshold")
    unit: str = column(pa.string(), "unit of score and threshold")
    on_unknown: str = column(pa.string(), "reject or accept")
    reason: str = column(pa.string(), "what the measure means, in words")


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One execution of a command that changed the dataset."""

    run_no: int = column(pa.int32(), "dense key")
    run_id: str = column(pa.string(), "digest of what the run depends on: inputs, config, code; the idempotence key of its commit")
    command: str = column(pa.string(), "curate, train …")
    inputs_digest: str = column(pa.string(), "digest of the inputs: assets, sidecars and settings decide what there is to do")
    code_version: str = column(pa.string(), "distribution version and git commit where known")
    config_sha256: str = column(pa.string(), "hash of the resolved configuration")
    config_json: str = column(pa.string(), "the resolved configuration")
    parent_version: int | None = _whole("manifest version before the run")
    started_at: datetime | None = column(UTC, "wall clock", default=None)
    ended_at: datetime | None = column(UTC, "wall clock", default=None)
    policy: list[int] | None = column(
        pa.list_(pa.int32()),
        "rule_no of the rules in force from this run on, in funnel order; null when the run decided nothing",
        default=None,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Pick:
    """What a person said of a clip and a set. Append only; the newest row of a clip and set holds. Its verdict is in `decisions` too."""

    run_no: int = column(pa.int32(), "run that took it in")
    rule_no: int = column(pa.int32(), "the rule `picked` of the set")
    clip_no: int = column(pa.int64(), "the clip")
    clip_id: str = column(pa.string(), "the clip")
    set_name: str = column(pa.string(), "the set")
    chosen: bool = column(pa.bool_(), "true yes, false no")
    reason: str | None = _text("why, in the reviewer's words (purgeable)")
    note: str | None = _text("who looked and how, as given with the file")
    file_sha256: bytes = column(pa.binary(), "SHA-256 of the file of picks")


@dataclass(frozen=True, slots=True, kw_only=True)
class Exposure:
    """What a checkpoint has seen: enough to replay the plan and prove it."""

    run_no: int = column(pa.int32(), "training run")
    checkpoint: str = column(pa.string(), "path of the checkpoint, relative to the training run's folder")
    run_path: str = column(pa.string(), "folder of the training run as given on the command line")
    stage: str = column(pa.string(), "training stage, e.g. tae")
    manifest_version: int = column(pa.int64(), "dataset version the plan was made from")
    plan_digest: str = column(pa.string(), "digest of the plan's inputs")
    plan_json: str = column(pa.string(), "the plan's inputs: enough to replay it")
    first_step: int = column(pa.int64(), "first step of the segment, inclusive", "step")
    end_step: int = column(pa.int64(), "end of the segment, exclusive", "step")
    n_samples: int = column(pa.int64(), "samples consumed from step 0 to end_step")
    rolling_digest: str = column(pa.string(), "hash chain over the sample ids in order")
    exceptions_json: str = column(pa.string(), "samples replaced or refused, with reason")


@dataclass(frozen=True, slots=True, kw_only=True)
class Takedown:
    """A request to stop using or destroy something, and what was done. Append only; the newest row of a number holds."""

    takedown_no: int = column(pa.int32(), "dense key")
    received_at: datetime | None = column(UTC, "when it arrived", default=None)
    basis: str = column(pa.string(), "copyright, privacy, contract, opt-out or unlawful")
    selector: str = column(pa.string(), "what it names; addresses and channels as SHA-256")
    state: str = column(pa.string(), "open, executed or closed")
    reason: str | None = _text("reason as given by the person who ran it")
    n_assets: int | None = _whole("assets taken down")
    n_clips: int | None = _whole("clips taken down")
    executed_at: datetime | None = column(UTC, "when all of it was done", default=None)
    receipt: str | None = _text("path of the receipt under the dataset")


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A hash or address that must not enter again. Read at ingest, and of pictures once a clip's are hashed."""

    kind: str = column(
        pa.string(), "sha256, md5, url (SHA-256 of its normal form), pdq (canonical), or pdq_area (as curation.pdq makes it)"
    )
    value: str = column(pa.string(), "the value, hexadecimal")
    takedown_no: int | None = _small("the request behind it")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cube:
    """Counts made at commit, so that a page reads kilobytes whatever the size of the dataset."""

    run_no: int = column(pa.int32(), "run")
    name: str = column(pa.string(), "funnel (kept of earlier runs too), source or histogram")
    kind: str = column(pa.string(), "media kind")
    rule_no: int | None = _small("rule, for funnel and source; null in source for all rules on clips together")
    source_no: int | None = _small("source of the asset, for source")
    measure: str | None = _text("score column, for histograms")
    bin: int | None = _small("bin, for histograms")
    low: float | None = column(pa.float64(), "lower edge of the bin", default=None)
    high: float | None = column(pa.float64(), "upper edge of the bin", default=None)
    verdict: str = column(pa.string(), "pass, reject or unknown; keep or drop for histograms")
    n: int = column(pa.int64(), "assets or clips")
    duration_us: int = column(pa.int64(), "their time", "us")
