"""What makes an asset's output another one beside its inputs: its algorithm and its settings."""

import hashlib
import json
from typing import Any

from pydantic import BaseModel


def code_version(algorithm: int, *values: Any) -> str:
    """Return an asset's code version: its algorithm's version and the settings that it reads.

    Dagster does not see settings otherwise; so a changed one makes stale what depends on it.
    """
    plain = [value.model_dump() if isinstance(value, BaseModel) else value for value in values]
    text = json.dumps(plain, sort_keys=True, default=str)
    return f"{algorithm}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
