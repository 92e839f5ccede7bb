"""The sound copy: lossless, in rows of a minute, read by span, and refused when it is not what was written."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curation import soundtrack
from curation.soundtrack import SoundtrackError, decode_flac, encode_flac, read_soundtrack, samples_between, to_table
from tests.sound_makers import copy_of, noise, tone


@given(st.integers(1, 20_000), st.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_flac_gives_back_every_sample(n: int, seed: int) -> None:
    """Encoding and decoding 16-bit sound of any length changes nothing."""
    wave = np.clip(noise(seed, 2, 16000)[:n] * 32767, -32768, 32767).astype(np.int16)
    assert np.array_equal(decode_flac(encode_flac(wave), n) * 32768, wave)


def test_players_read_it(tmp_path: Path) -> None:
    """The bytes are an ordinary FLAC file."""
    import av

    wave = (tone(440, 1, 16000) * 32767).astype(np.int16)
    (tmp_path / "a.flac").write_bytes(encode_flac(wave))
    with av.open(str(tmp_path / "a.flac")) as container:
        found = np.concatenate([f.to_ndarray()[0] for f in container.decode(audio=0)])
        assert container.streams.audio[0].sample_rate == 16000
    assert np.array_equal(found, wave)


def test_rows_are_at_most_a_minute_and_meet() -> None:
    """150 s are three rows end to end; a span over their border is read from both."""
    wave = noise(3, 150, 16000)
    rows = copy_of(wave, start_us=7)
    assert [(r.start_us, r.end_us) for r in rows] == [(7, 60_000_007), (60_000_007, 120_000_007), (120_000_007, 150_000_007)]
    sound = samples_between(rows, 59_000_007, 61_000_007)
    assert sound is not None
    assert np.allclose(sound, wave[59 * 16000 : 61 * 16000], atol=1 / 32000)


def test_rows_are_stored_and_read_by_span(tmp_path: Path) -> None:
    """Parquet gives back the rows; with a span only those that reach into it; a span without sound has none."""
    import pyarrow.parquet as pq

    rows = copy_of(noise(3, 150, 16000))
    pq.write_table(to_table(rows), tmp_path / "a.parquet")
    assert read_soundtrack(tmp_path / "a.parquet") == rows
    assert read_soundtrack(tmp_path / "a.parquet", 119_000_000, 120_000_000) == rows[1:2]
    assert samples_between(rows, 200_000_000, 201_000_000) is None
    beyond = samples_between(rows, 149_500_000, 150_500_000)
    assert beyond is not None and len(beyond) == 16000 and not beyond[8000:].any()


def test_what_was_not_written_is_refused(tmp_path: Path) -> None:
    """Cut, foreign or lying bytes raise, naming what was expected; a missing or foreign file does, too."""
    row = copy_of(tone(440, 1, 16000))[0]
    for flac, n in ((row.flac[:2000], 16000), (b"RIFF" + row.flac[4:], 16000), (row.flac, 15999), (row.flac, 10**9), (b"", 1)):
        with pytest.raises(SoundtrackError, match="expected"):
            decode_flac(flac, n)
    with pytest.raises(SoundtrackError):
        samples_between([replace(row, flac=row.flac[:100])], 0, 1_000_000)
    with pytest.raises(FileNotFoundError):
        read_soundtrack(tmp_path / "none.parquet")
    (tmp_path / "bad.parquet").write_bytes(b"PAR1")
    with pytest.raises(SoundtrackError):
        read_soundtrack(tmp_path / "bad.parquet")


def test_little_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the bytes that may be held nothing is kept: later sound is unknown, not an endless list."""
    monkeypatch.setattr(soundtrack, "MOST_HELD_BYTES", 1_000_000)
    assert [r.index for r in copy_of(noise(4, 400, 16000))] == [0]
