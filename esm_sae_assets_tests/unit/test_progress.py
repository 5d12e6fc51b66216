import logging
import sys

import pytest

from esm_sae import progress as progress_module
from esm_sae.progress import Progress, progress, set_quiet


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test moves."""

    class Clock:
        now = 100.0

        def monotonic(self):
            return self.now

    moved = Clock()
    monkeypatch.setattr(progress_module, "time", moved)
    return moved


@pytest.fixture(autouse=True)
def _talkative():
    yield
    set_quiet(False)


def test_the_line_tells_share_rate_and_time_left(clock):
    work = Progress(1000, unit="residues", description="embedding")
    clock.now += 2
    work.update(200)
    assert work.line() == "embedding: 200 of 1,000 residues (20%), 100 residues/s, 8 s left"


def test_the_line_without_a_total(clock):
    work = Progress(None, unit="records", description="reading")
    clock.now += 4
    work.update(2000)
    assert work.line() == "reading: 2,000 records, 500 records/s"


def test_what_was_done_before_counts_for_the_share_and_not_for_the_rate(clock):
    work = Progress(1000, unit="bytes", description="downloading", start=600)
    clock.now += 2
    work.update(200)
    assert work.line() == "downloading: 800 of 1,000 bytes (80%), 100 bytes/s, 2 s left"


def test_off_a_terminal_there_is_a_line_every_ten_seconds(clock, caplog):
    caplog.set_level(logging.INFO, "esm_sae")
    with progress(40, unit="rows", description="working") as work:
        for _ in range(40):
            clock.now += 1
            work.update(1)
    assert [message.split(" (")[0] for message in caplog.messages] == [
        "working: 10 of 40 rows",
        "working: 20 of 40 rows",
        "working: 30 of 40 rows",
        "working: 40 of 40 rows",
    ]


def test_quiet_shows_nothing(clock, caplog, capsys):
    caplog.set_level(logging.INFO, "esm_sae")
    set_quiet(True)
    with progress(2, unit="rows", description="working") as work:
        clock.now += 60
        work.update(2)
    assert work.done == 2
    assert caplog.messages == []
    assert capsys.readouterr() == ("", "")


def test_on_a_terminal_there_is_a_bar(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with progress(2, unit="rows", description="working") as work:
        work.update(2)
    shown = capsys.readouterr().err
    assert "working" in shown
    assert "100%" in shown


def test_a_bar_starts_with_what_was_done_before(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with progress(4, unit="rows", description="working", start=3) as work:
        assert work.done == 3
    assert " 75%" in capsys.readouterr().err
