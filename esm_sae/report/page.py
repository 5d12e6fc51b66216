"""A page: data, style and script joined into one HTML file that needs no network."""

import base64
import hashlib
import json
from importlib import resources
from typing import Any

_BASE, _STYLE, _SCRIPT = "page.html.j2", "page.css", "page.js"


def page_assets(*names: str) -> dict[str, str]:
    """Return the text of files of this package by name, with those that all pages share first."""
    folder = resources.files("esm_sae.report")
    return {
        name: folder.joinpath(name).read_text(encoding="utf-8")
        for name in (_BASE, _STYLE, _SCRIPT, *names)
    }


def render_page(
    assets: dict[str, str], template: str, data: Any, *, encoder_note: str, **values: Any
) -> str:
    """Return a page as HTML.

    Args:
        assets: of ``page_assets``; its styles and its scripts are joined in their order.
        template: name of the template among them.
        data: what the script reads, as JSON.
        encoder_note: what is known of the encoder; a banner at the top of the page tells of an
            untrained or a demonstration one.
        values: what the template shows; it is escaped.
    """
    from jinja2 import DictLoader, Environment, StrictUndefined
    from markupsafe import Markup

    style, script = (_joined(assets, suffix) for suffix in (".css", ".js"))
    environment = Environment(autoescape=True, undefined=StrictUndefined, loader=DictLoader(assets))
    # Style and script are ours and the data is escaped below: only these three are not escaped.
    return environment.get_template(template).render(
        values,
        encoder_note=encoder_note,
        style=Markup(style),
        style_hash=_csp_hash(style),
        script=Markup(script),
        script_hash=_csp_hash(script),
        data=Markup(embedded_json(data)),
    )


def embedded_json(value: Any) -> str:
    """Encode a value as JSON that cannot end or reopen the script element it stands in."""
    text = json.dumps(value, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _joined(assets: dict[str, str], suffix: str) -> str:
    return "\n".join(text for name, text in assets.items() if name.endswith(suffix))


def _csp_hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
