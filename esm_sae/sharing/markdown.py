"""Values in Markdown: text of foreign origin stays text."""

import json
import re
from typing import Any

from esm_sae.errors import one_line

UNKNOWN = "unknown"

_MEANT = re.compile(r"([\\`*_{}\[\]<>#|~$&])")
_PLAIN = re.compile(r"[A-Za-z0-9 .:/@+=_-]+")


class Verbatim(str):
    """Text that is put into a template as it is."""

    __slots__ = ()


def render(template: str, values: dict[str, Any]) -> str:
    """Return a Jinja template filled in as Markdown.

    What a value holds is shown: Markdown in it is escaped, counts get commas, other numbers four
    significant digits, and None is ``unknown``. The filter ``code`` shows text as code, ``percent``
    a share.
    """
    from jinja2 import Environment, StrictUndefined

    environment = Environment(
        # That is for HTML; ``finalize`` sees every value and escapes Markdown.
        autoescape=False,
        undefined=StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"code": code, "percent": _percent, "quoted": _quoted}
    return environment.from_string(template).render(values)


def code(value: object) -> str | None:
    """Return text as a code span, or escaped where it could end one."""
    if value is None:
        return None
    text = one_line(str(value))
    return Verbatim(f"`{text}`") if _PLAIN.fullmatch(text) else text


def _percent(share: object) -> object:
    return Verbatim(f"{share:.1%}") if isinstance(share, int | float) else share


def _quoted(text: str) -> str:
    """Return text as a string of YAML, which is also one of JSON and of Python."""
    return Verbatim(json.dumps(text))


def _shown(value: Any) -> Any:
    if value is None:
        return UNKNOWN
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Verbatim):
        return value
    # A whole line of a template is never a value: what begins one needs no escape.
    return _MEANT.sub(r"\\\1", one_line(str(value)))
