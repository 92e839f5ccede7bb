"""Columns that follow from others, so that rules can compare them: sizes, aspect, duration."""

import dataclasses

from manifests.records import Asset, Clip


def derive_asset(asset: Asset) -> Asset:
    """The asset with readable, short_side_px, aspect_ratio and duration_s filled from its facts.

    Whatever failed in reading it, from ingest to the last frame of its scan, it is not readable.
    """
    width, height = asset.width, asset.height
    sized = bool(width and height)
    return dataclasses.replace(
        asset,
        readable=0.0 if asset.error_stage in ("ingest", "probe", "scan") else 1.0,
        short_side_px=float(min(width or 0, height or 0)) if sized else None,
        aspect_ratio=max(width or 1, height or 1) / min(width or 1, height or 1) if sized else None,
        duration_s=None if asset.duration_us is None else asset.duration_us / 1e6,
    )


def derive_clip(clip: Clip) -> Clip:
    """The clip with duration_s filled."""
    return dataclasses.replace(clip, duration_s=(clip.end_us - clip.start_us) / 1e6)
