"""What the report shows, as records. Everything is bounded: a page about 10^9 clips is as long as one about 10^4."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from manifests.comparisons import Drift, PaperFunnel, RightsMatrix, SourceRates
from manifests.funnel import Amount, Funnel
from manifests.histogram import Histogram

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Top(Generic[T]):
    """The first few of a list, and how many more there are."""

    shown: tuple[T, ...] = ()
    more: int = 0


def top(items: Sequence[T], n: int) -> Top[T]:
    """The first `n`."""
    return Top(shown=tuple(items[:n]), more=max(len(items) - n, 0))


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFacts:
    """The last run that changed the dataset. Times are ISO 8601, UTC."""

    run_no: int
    run_id: str
    command: str
    code_version: str
    config_sha256: str
    started_at: str | None
    ended_at: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class KindRow:
    """Clips of one kind: found and kept."""

    kind: str
    clips: Amount
    kept: Amount


@dataclass(frozen=True, slots=True, kw_only=True)
class Headline:
    """The numbers at the top."""

    version: int | None
    run: RunFacts | None
    n_runs: int
    assets: Amount
    asset_bytes: int
    unreadable: int
    exact_copies: int
    clips: Amount
    kept: Amount
    pending: int
    kinds: tuple[KindRow, ...]
    shards: int
    shard_bytes: int
    samples: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """A count that must come out the same two ways."""

    name: str
    expected: int
    found: int

    @property
    def ok(self) -> bool:
        """Whether it did."""
        return self.expected == self.found


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A clip at a glance. `score` is the measure it is shown for; `jpeg` is None where there is no small key frame."""

    clip_id: str
    uri: str
    decision: str
    score: float | None
    jpeg: bytes | None


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasureCard:
    """A histogram, and the clips nearest to the threshold on either side, nearest first."""

    histogram: Histogram
    rejected: tuple[Picture, ...]
    passed: tuple[Picture, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class BucketCell:
    """Kept clips of one set and bucket."""

    set_name: str
    bucket: str
    clips: Amount


@dataclass(frozen=True, slots=True, kw_only=True)
class ConceptRow:
    """One concept cluster: clips before and after sampling."""

    cluster_no: int
    before: int
    after: int
    keep_probability: float | None
    picture: Picture | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Concepts:
    """The clusters, largest first. Effective number = exp(entropy): how many equal clusters would be as diverse."""

    clusters: int
    before: int
    after: int
    effective_before: float | None
    effective_after: float | None
    rows: Top[ConceptRow]


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One clip of a duplicate group."""

    picture: Picture
    rank: int
    distance_bits: int | None
    width: int | None
    height: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Near-duplicates: the keeper and its copies."""

    keeper: Member | None
    copies: Top[Member]


@dataclass(frozen=True, slots=True, kw_only=True)
class Duplicates:
    """Groups of near-duplicate clips, largest first."""

    groups: int
    copies: int
    rows: Top[Group]


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorRow:
    """One reason why a stage could not do its work, with some of the files it met."""

    stage: str
    code: str
    n: int
    examples: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class CountRow:
    """A value, the assets that have it, and the kept clips cut from them. None = nothing is stated."""

    value: str | None
    note: str | None
    assets: Amount
    kept_clips: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Rights:
    """What the files say about rights. `reserved_kept` counts kept clips whose asset reserves training."""

    licences: Top[CountRow]
    optouts: tuple[CountRow, ...]
    consents: tuple[CountRow, ...]
    signals: Top[tuple[str, int]]
    sources: Top[CountRow]
    states: tuple[tuple[str, int], ...]
    takedowns: int
    reserved_kept: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptionRow:
    """A caption in use."""

    picture: Picture
    text: str
    prefix: str | None
    captioner: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Captions:
    """Kept clips with a caption, by captioner, and a sample of them in order of clip id, which is a hash: a fair draw."""

    captioned: int
    without: int
    captioners: Top[tuple[str, int]]
    sample: Top[CaptionRow]


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardRow:
    """One tar."""

    path: str
    set_name: str
    bucket: str
    samples: int
    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SetRow:
    """The shards of one set together."""

    set_name: str
    shards: int
    samples: int
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportData:
    """Everything the report shows."""

    title: str
    headline: Headline
    checks: tuple[Check, ...]
    funnels: tuple[Funnel, ...]
    paper: PaperFunnel
    drift: Drift
    source_rates: SourceRates
    cards: tuple[MeasureCard, ...]
    buckets: tuple[BucketCell, ...]
    concepts: Concepts
    duplicates: Duplicates
    errors: Top[ErrorRow]
    rights: Rights
    rights_matrix: RightsMatrix
    captions: Captions
    sets: tuple[SetRow, ...]
    shards: Top[ShardRow]
    pictures_left_out: int
