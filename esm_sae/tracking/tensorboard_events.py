"""A training as TensorBoard's event files.

Written record by record: ``torch.utils.tensorboard`` would load torch into a process that trains
with jax, and its writer is a thread, which a full disk would leave the training waiting for.
"""

import json
import time
from pathlib import Path
from typing import Any

from tensorboard.compat.proto import event_pb2, summary_pb2
from tensorboard.plugins.text.summary_v2 import text_pb
from tensorboard.summary.writer.record_writer import RecordWriter

from esm_sae.tracking.followed import Row, TrackedRun

# protobuf makes its classes while it is imported, which type checkers do not see.
_Event: Any = getattr(event_pb2, "Event")  # noqa: B009
_SessionLog: Any = getattr(event_pb2, "SessionLog")  # noqa: B009
_Summary: Any = getattr(summary_pb2, "Summary")  # noqa: B009

_FILE_VERSION = "brain.Event:2"
_FILE_NAME = "events.out.tfevents."


class TensorBoardEvents:
    """One event file of a training, each row on the disk once it is logged.

    A training has the folder ``PROJECT/NAME/FINGERPRINT``, so that one with other options does not
    mix with it. Going on makes the next file, at whose head stands that what was told before is
    void; then comes the whole record, with the rows that were made while nobody was told.
    """

    def __init__(self, directory: Path, run: TrackedRun) -> None:
        folder = directory / run.project / run.name / run.fingerprint[:8]
        folder.mkdir(parents=True, exist_ok=True)
        # TensorBoard reads them in the order of their names.
        self._file = (folder / f"{_FILE_NAME}{_next_number(folder):010d}").open("xb")
        self._writer = RecordWriter(self._file)
        self._last_step = 0
        self._write(file_version=_FILE_VERSION)
        self._write(step=0, session_log=_SessionLog(status=_SessionLog.START))
        self._write(step=0, summary=_text("config", run.config))
        for row in run.rows:
            self._add(row)
        self._flush()

    def log(self, row: Row) -> None:
        """Write the figures of a row."""
        self._add(row)
        self._flush()

    def finish(self, summary: Row | None) -> None:
        """Write the summary and close the file."""
        with self._file:
            if summary is not None:
                self._write(step=self._last_step, summary=_text("summary", summary))

    def _add(self, row: Row) -> None:
        values = [
            _Summary.Value(tag=name, simple_value=value)
            for name, value in row.items()
            if name != "step" and value is not None
        ]
        self._last_step = row["step"]
        self._write(step=row["step"], summary=_Summary(value=values))

    def _write(self, **content: Any) -> None:
        event = _Event(wall_time=time.time(), **content)
        self._writer.write(event.SerializeToString())

    def _flush(self) -> None:
        self._writer.flush()


def _next_number(folder: Path) -> int:
    # One above the last, not their count: older ones may have been removed.
    endings = [path.name.removeprefix(_FILE_NAME) for path in folder.glob(f"{_FILE_NAME}*")]
    return max((int(ending) for ending in endings if ending.isdecimal()), default=-1) + 1


def _text(tag: str, content: Row) -> Any:
    # Indented by four columns it is code in Markdown.
    lines = json.dumps(content, indent=2, default=str).splitlines()
    return text_pb(tag, "\n".join(f"    {line}" for line in lines))
