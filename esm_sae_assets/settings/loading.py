"""A named profile, overlaid by environment variables."""

import importlib.resources
import os
import tomllib
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from esm_sae.embedding.encoders import require_encoder
from esm_sae.embedding.imported import is_imported_name
from esm_sae.errors import InputError
from esm_sae.url_secrets import without_secrets
from esm_sae_assets.settings.deployment import Settings
from esm_sae_assets.settings.section import Section

_PREFIX = "ESM_SAE_"


def load_settings(environment: Mapping[str, str] | None = None, **overrides: Any) -> Settings:
    """Return the settings of the profile ``ESM_SAE_PROFILE`` (``demo`` by default).

    Other variables overlay it: ``ESM_SAE_DATA_ROOT``, ``ESM_SAE_SAE_LATENT_DIM``, and so on, the
    section's name before the setting's. ``overrides`` overlay both; a section is given as a
    dictionary of what differs.

    Raises:
        InputError: the profile does not exist, a variable names no setting, or a value does not
            fit.
    """
    variables = os.environ if environment is None else environment
    profile = overrides.get("profile") or variables.get(f"{_PREFIX}PROFILE", "demo")
    content = _read_profile(profile)
    _overlay(content, _from_environment(variables))
    _overlay(content, overrides)
    try:
        settings = Settings.model_validate({**content, "profile": profile})
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        shown = without_secrets(repr(first["input"]))
        raise InputError(f"settings: {name} = {shown}: {first['msg']}") from None
    _require_untrained_encoder(settings)
    return settings


def profile_names() -> list[str]:
    """Return the names of the profiles that come with the package."""
    folder = importlib.resources.files("esm_sae_assets") / "profiles"
    return sorted(entry.name[:-5] for entry in folder.iterdir() if entry.name.endswith(".toml"))


def _require_untrained_encoder(settings: Settings) -> None:
    if not settings.sae.untrained_baseline:
        return
    try:
        require_encoder(settings.untrained_encoder)
    except InputError as error:
        twin = settings.untrained_encoder
        how, why = ("define", f" ({error})") if is_imported_name(twin) else ("register", "")
        raise InputError(
            f"settings: sae.untrained_baseline = True: encoder '{settings.embedding.encoder}' has "
            f"no untrained twin{why}; {how} '{twin}', or set {_PREFIX}SAE_UNTRAINED_BASELINE=false"
        ) from None


def _read_profile(name: str) -> dict[str, Any]:
    if name not in profile_names():
        raise InputError(f"settings: no profile '{name}'; there are {', '.join(profile_names())}")
    file = importlib.resources.files("esm_sae_assets") / "profiles" / f"{name}.toml"
    return tomllib.loads(file.read_text())


def _from_environment(variables: Mapping[str, str]) -> dict[str, Any]:
    places = _places_of_variables()
    content: dict[str, Any] = {}
    for variable, value in variables.items():
        if not variable.startswith(_PREFIX) or variable == f"{_PREFIX}PROFILE":
            continue
        if variable not in places:
            raise InputError(
                f"settings: {variable} names no setting; known are {', '.join(sorted(places))}"
            )
        section, field = places[variable]
        if section:
            content.setdefault(section, {})[field] = value
        else:
            content[field] = value
    return content


def _places_of_variables() -> dict[str, tuple[str, str]]:
    places = {}
    for name, field in Settings.model_fields.items():
        annotation = field.annotation
        if isinstance(annotation, type) and issubclass(annotation, Section):
            for inner in annotation.model_fields:
                places[f"{_PREFIX}{name}_{inner}".upper()] = (name, inner)
        elif name != "profile":
            places[f"{_PREFIX}{name}".upper()] = ("", name)
    return places


def _overlay(content: dict[str, Any], other: Mapping[str, Any]) -> None:
    for name, value in other.items():
        if isinstance(value, Mapping):
            content[name] = {**content.get(name, {}), **value}
        else:
            content[name] = value
