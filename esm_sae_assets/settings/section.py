"""What every section of the settings is: frozen, without unknown names and without secrets."""

from typing import Any

from pydantic import BaseModel, ConfigDict, field_validator

from esm_sae.url_secrets import holds_secret


class Section(BaseModel):
    """A part of the settings."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @field_validator("*")
    @classmethod
    def _require_no_secret(cls, value: Any) -> Any:
        # Outputs record their sources, and Dagster keeps for months what it was configured with.
        if isinstance(value, str) and holds_secret(value):
            raise ValueError(
                "holds a user name, a password or a token; a download takes them from the netrc "
                "file, an object store from its own variables (docs/security.md)"
            )
        return value


def split_list(value: Any) -> Any:
    """Take apart a list that came as the text of an environment variable."""
    return (
        [part.strip() for part in value.split(",") if part.strip()]
        if isinstance(value, str)
        else value
    )
