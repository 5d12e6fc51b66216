"""Model cards as their readers see them: the hub, and people."""

from typing import Any

import yaml
from markdown_it import MarkdownIt


def text_of(card: str) -> str:
    """Return what a reader of the rendered card sees, a line for each block or cell."""
    body = card.removeprefix("---\n").partition("\n---\n")[2]
    tokens = MarkdownIt("gfm-like", {"linkify": False}).parse(body)
    inline = [token for token in tokens if token.type == "inline"]
    return "\n".join(
        "".join(" " if each.type == "softbreak" else each.content for each in token.children or [])
        for token in inline
    )


def front_matter_of(card: str) -> Any:
    """Return what the hub reads."""
    return yaml.safe_load(card.removeprefix("---\n").partition("\n---\n")[0])
