"""The record of what a run has seen: with the plan it proves which clips entered which checkpoint.

Every rank keeps the hash chain over the planned sample ids of all ranks, in global order; it needs no communication, because the plan
is a function. What a rank could not read and replaced is in its own list of exceptions.
"""

from typing import Any

from training.data.batch import Replaced
from training.data.plan import Plan, roll


class Exposure:
    """What was planned and what was replaced, from step 0 to now."""

    def __init__(self, plan: Plan, record: dict[str, Any] | None = None) -> None:
        self._plan = plan
        self.rolling_digest: str = record["rolling_digest"] if record else plan.digest
        self._n_samples: int = record["n_samples"] if record else 0
        self._earlier: list[dict[str, Any]] = record["exceptions"] if record else []
        self.exceptions: list[dict[str, Any]] = []

    def saw(self, step: int, replaced: tuple[Replaced, ...]) -> None:
        """Step `step` was taken as planned, but for this rank's replacements."""
        clip_ids = self._plan.clip_ids(step)
        self.rolling_digest = roll(self.rolling_digest, step, clip_ids)
        self._n_samples += len(clip_ids)
        self.exceptions += [r.row() for r in replaced]

    def record(self, end_step: int, exceptions_of_ranks: list[dict[str, Any]]) -> dict[str, Any]:
        """`exposure.json` of a checkpoint after `end_step` steps."""
        settings = self._plan.settings
        exceptions = sorted(self._earlier + exceptions_of_ranks, key=lambda e: (e["step"], e["place"]))
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
