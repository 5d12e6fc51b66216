"""Progress of long work: a bar on a terminal, log lines with rate and ETA elsewhere."""

import contextlib
import logging
import sys
import time
from collections.abc import Iterator
from typing import Any

LOGGER = logging.getLogger("esm_sae")

_SECONDS_BETWEEN_LINES = 10.0
_quiet = False


def set_quiet(quiet: bool) -> None:
    """Switch all progress of this process off or on."""
    global _quiet
    _quiet = quiet


class Progress:
    """Counts the work done and shows it."""

    def __init__(
        self,
        total: int | None,
        *,
        unit: str,
        description: str,
        start: int = 0,
        bar: Any = None,
    ) -> None:
        self.total = total
        self.unit = unit
        self.description = description
        self.done = start
        self._start = start
        self._bar = bar
        self._started = self._last_line = time.monotonic()

    def update(self, count: int) -> None:
        """Add ``count`` units of finished work."""
        self.done += count
        if self._bar is not None:
            self._bar.update(count)
        elif not _quiet and time.monotonic() - self._last_line >= _SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            LOGGER.info(self.line())

    def line(self) -> str:
        """Describe the state in one line: share done, rate and the time left."""
        seconds = max(time.monotonic() - self._started, 1e-9)
        rate = (self.done - self._start) / seconds
        # A rate of three digits says enough, and 0 steps/s would say nothing.
        pace = f"{rate:,.0f}" if rate >= 100 else f"{rate:.3g}"
        if not self.total:
            return f"{self.description}: {self.done:,} {self.unit}, {pace} {self.unit}/s"
        left = (self.total - self.done) / rate if rate else float("inf")
        return (
            f"{self.description}: {self.done:,} of {self.total:,} {self.unit} "
            f"({self.done / self.total:.0%}), {pace} {self.unit}/s, {left:,.0f} s left"
        )


@contextlib.contextmanager
def progress(
    total: int | None, *, unit: str, description: str, start: int = 0
) -> Iterator[Progress]:
    """Show the progress of a block of work.

    Args:
        total: number of units, or None where it is not known beforehand.
        unit: what is counted, in the plural, such as ``"residues"``.
        description: what is being done.
        start: units done before, which count for the share done and not for the rate.
    """
    if _quiet or not sys.stderr.isatty():
        yield Progress(total, unit=unit, description=description, start=start)
        return
    from tqdm import tqdm

    with tqdm(
        total=total, unit=f" {unit}", desc=description, unit_scale=True, initial=start
    ) as bar:
        yield Progress(total, unit=unit, description=description, start=start, bar=bar)
