"""The record of what a run has seen: with the plan it proves which clips entered which checkpoint.

Every rank keeps the hash chain over the planned sample ids of all ranks, in global order; it needs no communication, because the plan
is a function; each rank looks that it was fed its share of it. What a rank could not read and replaced is in its own list of exceptions, and so is every other clip whose picture was shown
beside one: `{step, shown}`, once a clip, at the first step. So are, at step 0, the clips whose principal components or scale the run begins from.
"""

from collections.abc import Sequence
from typing import Any

from training.data.batch import Replaced
from training.data.plan import Plan, roll
from training.errors import TrainingError


class Exposure:
    """What was planned and what was replaced, from step 0 to now."""

    def __init__(self, plan: Plan, record: dict[str, Any] | None = None, measured: Sequence[str] = ()) -> None:
        """`measured` are the clips that a run without a record begins from the numbers of; one rank's record names them."""
        self._plan = plan
        self.rolling_digest: str = record["rolling_digest"] if record else plan.digest
        self._n_samples: int = record["n_samples"] if record else 0
        self._earlier: list[dict[str, Any]] = record["exceptions"] if record else []
        self.exceptions: list[dict[str, Any]] = [] if record else [{"step": 0, "shown": clip} for clip in measured]
        self._shown = {e["shown"] for e in self._earlier + self.exceptions if "shown" in e}

    def saw(self, step: int, replaced: tuple[Replaced, ...], shown: tuple[str, ...]) -> None:
        """Step `step` was taken as planned, but for this rank's replacements; `shown` are the clips beside its own, empty where none is."""
        clip_ids = self._plan.clip_ids(step)
        self.rolling_digest = roll(self.rolling_digest, step, clip_ids)
        self._n_samples += len(clip_ids)
        self.exceptions += [r.row() for r in replaced]
        self.exceptions += [{"step": step, "shown": clip} for clip in sorted({*shown} - {"", *self._shown})]
        self._shown.update(shown)

    def check(self, step: int, fed: Sequence[str], replaced: Sequence[Replaced], rank: int, world: int) -> None:
        """TrainingError unless what the rank was fed at the step is its share of the plan, but for what was replaced: the record says what
        was planned, and would be wrong of anything else."""
        places = self._plan.batch(step).of_rank(rank, world)
        swaps = {r.place - rank * len(places): r.used for r in replaced}
        wanted = [swaps.get(i, self._plan.samples[place.position].clip_id) for i, place in enumerate(places)]
        if list(fed) != wanted:
            raise TrainingError(f"step {step}: expected the clips that were planned for rank {rank}, {wanted}, found {list(fed)}")

    def record(self, end_step: int, exceptions_of_ranks: list[dict[str, Any]]) -> dict[str, Any]:
        """`exposure.json` of a checkpoint after `end_step` steps."""
        settings = self._plan.settings
        places = [e for e in self._earlier + exceptions_of_ranks if "shown" not in e]
        first: dict[str, int] = {}
        for e in self._earlier + exceptions_of_ranks:
            if "shown" in e:
                first[e["shown"]] = min(e["step"], first.get(e["shown"], e["step"]))
        exceptions = sorted(places, key=lambda e: (e["step"], e["place"]))
        exceptions += [{"step": step, "shown": clip} for clip, step in sorted(first.items())]
        return {
            "stage": settings.stage,
            "manifest_version": settings.manifest_version,
            "plan_digest": self._plan.digest,
            "plan_json": self._plan.json,
            "first_step": 0,
            "end_step": end_step,
            "n_samples": self._n_samples,
            "rolling_digest": self.rolling_digest,
            "exceptions": exceptions,
        }
