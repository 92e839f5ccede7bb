"""What a curation depends on: every stage's own configuration, the rules in funnel order and the sets, composed."""

import dataclasses
from dataclasses import dataclass, field
from typing import Literal

from curation.actions import ActionsConfig, HumanActionConfig
from curation.adapters.open_clip import OpenClipConfig
from curation.adapters.sscd import SscdConfig
from curation.captions import CaptionConfig
from curation.concepts import ConceptsConfig
from curation.diegetic import DiegeticConfig
from curation.duplicates import DuplicatesConfig
from curation.embeddings import DescriptorConfig
from curation.encode import EncodeConfig
from curation.ingest import IngestConfig
from curation.near_hashes import MAX_DISTANCE
from curation.people import PeopleConfig
from curation.quarantine import QuarantineConfig
from curation.rights import RightsConfig
from curation.scan import ScanConfig
from curation.sets import SetConfig
from curation.sound_tags import SoundTagsConfig
from curation.speech import SpeechConfig
from curation.split import SplitConfig
from curation.text import TextConfig
from manifests.rules import Rule
from pipelines.batches import BATCHES
from pipelines.measures import MEASURES, MeasuresConfig
from pipelines.on_ray import EngineConfig
from pipelines.shard_files import ShardConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleConfig:
    """A rule as it stands in `conf/rules/`, under its name."""

    stage: Literal["rights", "facts", "assets", "analysed", "content", "tables", "sets", "placed"]
    subject: Literal["asset", "clip"]
    measure: str
    op: str
    threshold: float
    unit: str = ""
    kinds: tuple[str, ...] = ("video", "image", "audio")
    set_name: str = ""
    on_unknown: Literal["reject", "accept"] = "reject"
    version: int = 1
    reason: str = ""
    enabled: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class CurateConfig:
    """Everything that a curation depends on: the stages' own configurations, the rules in funnel order, and the sets."""

    rules: dict[str, RuleConfig]
    sets: dict[str, SetConfig]
    seed: int = 0
    ingest: IngestConfig = field(default_factory=IngestConfig)
    rights: RightsConfig = field(default_factory=RightsConfig)
    scan: ScanConfig = field(default_factory=ScanConfig)
    quarantine: QuarantineConfig = field(default_factory=QuarantineConfig)
    split: SplitConfig = field(default_factory=SplitConfig)
    measures: MeasuresConfig = field(default_factory=MeasuresConfig)
    text: TextConfig = field(default_factory=TextConfig)
    descriptors: DescriptorConfig = field(default_factory=DescriptorConfig)
    open_clip: OpenClipConfig = field(default_factory=OpenClipConfig)
    sscd: SscdConfig = field(default_factory=SscdConfig)
    people: PeopleConfig = field(default_factory=PeopleConfig)
    actions: ActionsConfig = field(default_factory=ActionsConfig)
    human_action: HumanActionConfig = field(default_factory=HumanActionConfig)
    speech: SpeechConfig = field(default_factory=SpeechConfig)
    sound_tags: SoundTagsConfig = field(default_factory=SoundTagsConfig)
    diegetic: DiegeticConfig = field(default_factory=DiegeticConfig)
    duplicates: DuplicatesConfig = field(default_factory=DuplicatesConfig)
    concepts: ConceptsConfig = field(default_factory=ConceptsConfig)
    captions: CaptionConfig = field(default_factory=CaptionConfig)
    encode: EncodeConfig = field(default_factory=EncodeConfig)
    shards: ShardConfig = field(default_factory=ShardConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)

    def policy(self) -> tuple[Rule, ...]:
        """The enabled rules, in order; each says which version of its measure it judges, "1" of facts that nothing measures."""
        versions = {column: made.version for made in (*MEASURES, *BATCHES) for column in made.columns}
        names = [f.name for f in dataclasses.fields(RuleConfig) if f.name != "enabled"]
        for name, rule in self.rules.items():
            if rule.enabled and rule.measure == "block_distance" and rule.threshold > MAX_DISTANCE:
                raise ValueError(
                    f"rules.{name}.threshold: expected at most {MAX_DISTANCE} bits, up to which pictures on the blocklist are looked for, "
                    f"found {rule.threshold:g}"
                )
        return tuple(
            Rule(name=k, measure_version=versions.get(r.measure, "1"), **{n: getattr(r, n) for n in names})
            for k, r in self.rules.items()
            if r.enabled
        )
