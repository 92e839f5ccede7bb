"""Which of some copies is kept: a figure of how much of the picture each still holds. Copies show the same, so their coded bits compare.

No measure of a picture alone tells an original from its copies: smaller ones are sharper by the pixel, enlarged ones have more pixels,
coarsely coded ones have hard edges, and a logo adds detail. What was thrown away is seen in the bits, except by an enlargement or a
wasteful coder. `benchmarks/accuracy_keepers.py` holds this figure against sharpness, pixels and plain bits.
"""

import pyarrow as pa
import pyarrow.compute as pc

EFFICIENCY = {
    "av1": 1.8, "hevc": 1.5, "vp9": 1.4, "vp8": 0.9, "mpeg4": 0.6, "msmpeg4v3": 0.5, "wmv3": 0.7, "wmv2": 0.6, "vc1": 0.8, "mpeg2video": 0.5,
    "mpeg1video": 0.4, "h263": 0.6, "flv1": 0.6, "theora": 0.6, "prores": 0.2, "dnxhd": 0.2, "mjpeg": 0.25, "ffv1": 0.1, "rawvideo": 0.02,
    "webp": 0.35, "png": 0.06, "gif": 0.06, "bmp": 0.02, "tiff": 0.02,
}  # fmt: skip
"""Bits of H.264 that show a picture as well as one bit of this coder: rounded, from common comparisons; others count as H.264."""


def copy_quality(clips: pa.Table, assets: pa.Table) -> pa.ChunkedArray:
    """float64 [clips]: coded bits a second (of a still: bits), as H.264 would need, times the share of the resolution that holds detail.

    The bits are those of the whole file, sound included. 0 where the detail or the duration is not known.
    """
    of = assets.take(pc.index_in(clips.column("asset_id"), value_set=assets.column("asset_id").combine_chunks()))
    coder = pc.index_in(of.column("vcodec"), value_set=pa.array(list(EFFICIENCY)))
    factor = pc.fill_null(pa.chunked_array([list(EFFICIENCY.values())], pa.float64()).take(coder), 1.0)
    seconds = pc.if_else(pc.equal(clips.column("kind"), "image"), 1.0, pc.divide(of.column("duration_us").cast(pa.float64()), 1e6))
    bits = pc.divide(pc.multiply(of.column("size_bytes").cast(pa.float64()), 8.0), pc.if_else(pc.greater(seconds, 0.0), seconds, None))
    detail = clips.column("effective_resolution").cast(pa.float64())
    return pc.fill_null(pc.multiply(pc.multiply(bits, factor), detail), 0.0)
