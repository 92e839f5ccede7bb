"""Which of some copies is kept: a figure of how much of the picture each still holds. Copies show the same, so their coded bits compare.

No measure of a picture alone tells an original from its copies: smaller ones are sharper by the pixel, enlarged ones have more pixels,
coarsely coded ones have hard edges, and a logo adds detail. What was thrown away is seen in the bits, except by an enlargement or a
wasteful coder. `benchmarks/accuracy_keepers.py` holds this figure against sharpness, pixels and plain bits.
"""

import pyarrow as pa
import pyarrow.compute as pc

EFFICIENCY = {
    "av1": 1.8, "libdav1d": 1.8, "hevc": 1.5, "vp9": 1.4, "vp8": 0.9, "mpeg4": 0.6, "msmpeg4v3": 0.5, "wmv3": 0.7, "wmv2": 0.6, "vc1": 0.8,
    "mpeg2video": 0.5, "mpeg1video": 0.4, "h263": 0.6, "flv1": 0.6, "theora": 0.6, "prores": 0.2, "dnxhd": 0.2, "dvvideo": 0.15,
    "mjpeg": 0.25, "jpeg": 0.25, "mpo": 0.25, "jpeg2000": 0.35, "webp": 0.35, "avif": 0.6, "heif": 0.5, "heic": 0.5, "cinepak": 0.15, "msmpeg4v2": 0.5, "huffyuv": 0.06, "ffv1": 0.1,
    "png": 0.06, "gif": 0.06, "tiff": 0.02, "bmp": 0.02, "rawvideo": 0.02,
}  # fmt: skip
"""Bits of H.264 that show a picture as well as one bit of this coder: rounded, from common comparisons; others count as H.264. Videos
have FFmpeg's names, stills those of Pillow in lower case."""

_PCM_BITS = {"pcm_u8": 8, "pcm_s8": 8, "pcm_mulaw": 8, "pcm_alaw": 8, "pcm_s24le": 24, "pcm_s24be": 24, "pcm_s32le": 32, "pcm_f32le": 32}


def copy_quality(clips: pa.Table, assets: pa.Table) -> pa.ChunkedArray:
    """float64 [clips]: coded bits a second (of a still: bits), as H.264 would need, times the share of the resolution that holds detail.

    The bits are those of the whole file, without sound that is stored as it is (PCM); packed sound is little beside a picture. 0 where the
    detail or the duration is not known.
    """
    of = assets.take(pc.index_in(clips.column("asset_id"), value_set=assets.column("asset_id").combine_chunks()))
    coder = pc.index_in(of.column("vcodec"), value_set=pa.array(list(EFFICIENCY)))
    factor = pc.fill_null(pa.chunked_array([list(EFFICIENCY.values())], pa.float64()).take(coder), 1.0)
    seconds = pc.if_else(pc.equal(clips.column("kind"), "image"), 1.0, pc.divide(of.column("duration_us").cast(pa.float64()), 1e6))
    bits = pc.divide(pc.multiply(of.column("size_bytes").cast(pa.float64()), 8.0), pc.if_else(pc.greater(seconds, 0.0), seconds, None))
    bits = pc.max_element_wise(pc.subtract(bits, _pcm_bits_per_s(of)), 0.0, skip_nulls=False)
    detail = clips.column("effective_resolution").cast(pa.float64())
    return pc.fill_null(pc.multiply(pc.multiply(bits, factor), detail), 0.0)


def _pcm_bits_per_s(assets: pa.Table) -> pa.ChunkedArray:
    """Of sound that is stored sample by sample, 0 of any other."""
    known = pc.index_in(assets.column("acodec"), value_set=pa.array(list(_PCM_BITS)))
    depth = pc.fill_null(pa.chunked_array([list(_PCM_BITS.values())], pa.int64()).take(known), 16)
    rate = pc.multiply(assets.column("sample_rate_hz").cast(pa.int64()), assets.column("channels").cast(pa.int64()))
    is_pcm = pc.fill_null(pc.starts_with(assets.column("acodec"), "pcm_"), False)
    return pc.if_else(is_pcm, pc.fill_null(pc.multiply(depth, rate), 0), 0).cast(pa.float64())
