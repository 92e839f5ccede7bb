"""Assets that cost processes: counted, tried again, and given up after the n-th time with their reason."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from curation.media import MediaError
from curation.quarantine import Loss, QuarantineConfig, attempts, is_quarantined, note_failure, release, try_often

CFG = QuarantineConfig(max_attempts=2)
ASSET = "a" * 32


class Work:
    """Fails with the codes given, in turn, then returns."""

    def __init__(self, *codes: str) -> None:
        self.codes, self.n_calls = list(codes), 0

    def __call__(self) -> str:
        self.n_calls += 1
        if self.codes:
            code = self.codes.pop(0)
            raise MediaError(code, f"film.mp4: {code} no. {self.n_calls}")
        return "done"


def test_a_passing_trouble_is_tried_again(tmp_path: Path) -> None:
    """One crash in a run costs nothing but time."""
    work = Work("crashed")
    assert try_often(work, tmp_path, ASSET, "1", CFG) == "done"
    assert work.n_calls == 2
    assert not is_quarantined(tmp_path, ASSET, "1", CFG)


@pytest.mark.parametrize("code", ["crashed", "timeout", "memory"])
def test_the_nth_loss_quarantines(tmp_path: Path, code: str) -> None:
    """After two lost processes the asset's error has the last reason; later it is not tried at all and gives the same error."""
    work = Work(code, code, code)
    errors = []
    for _ in range(3):
        with pytest.raises(MediaError) as e:
            try_often(work, tmp_path, ASSET, "1", CFG)
        errors.append((e.value.code, e.value.detail))
    assert work.n_calls == 2
    assert set(errors) == {(code, f"quarantined after 2 attempts, the last: film.mp4: {code} no. 2")}


def test_a_broken_file_is_not_counted(tmp_path: Path) -> None:
    """An error that the decoder itself reports is the verdict, at the first attempt."""
    work = Work("truncated")
    with pytest.raises(MediaError, match="truncated"):
        try_often(work, tmp_path, ASSET, "1", CFG)
    assert work.n_calls == 1 and attempts(tmp_path, ASSET, "1") == []


def test_a_run_that_died_leaves_its_count(tmp_path: Path) -> None:
    """A loss noted by a run before counts in the next one, and a note cut off by a crash counts too."""
    assert note_failure(tmp_path, ASSET, "1", "crashed", "film.mp4: signal 11") == 1
    (tmp_path / ASSET / "1" / "1.json").write_bytes(b'{"code": "cra')
    work = Work("timeout", "timeout")
    with pytest.raises(MediaError):
        try_often(work, tmp_path, ASSET, "1", CFG)
    assert work.n_calls == 1
    assert [a.code for a in attempts(tmp_path, ASSET, "1")] == ["crashed", "timeout"]


def test_another_version_or_a_release_tries_again(tmp_path: Path) -> None:
    """New code has attempts of its own; `release` forgets all of them; other assets are not touched."""
    for asset in (ASSET, "b" * 32):
        for _ in range(2):
            note_failure(tmp_path, asset, "1", "crashed", "x")
    assert is_quarantined(tmp_path, ASSET, "1", CFG) and not is_quarantined(tmp_path, ASSET, "2", CFG)
    assert release(tmp_path, ASSET) == 2
    assert not is_quarantined(tmp_path, ASSET, "1", CFG) and is_quarantined(tmp_path, "b" * 32, "1", CFG)


def test_notes_at_the_same_time_are_all_counted(tmp_path: Path) -> None:
    """Forty notes by eight threads are forty losses."""
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: note_failure(tmp_path, ASSET, "1", "crashed", str(i)), range(40)))
    assert {a.detail for a in attempts(tmp_path, ASSET, "1")} == {str(i) for i in range(40)}
    assert attempts(tmp_path, ASSET, "1")[0] == Loss(code="crashed", detail=attempts(tmp_path, ASSET, "1")[0].detail)


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".", "x\0", "a" * 200])
def test_names_never_leave_the_folder(tmp_path: Path, name: str) -> None:
    """An id that is no plain name is refused."""
    with pytest.raises(ValueError, match="quarantine"):
        note_failure(tmp_path, name, "1", "crashed", "x")
