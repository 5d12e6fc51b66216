from html.parser import HTMLParser

import pytest
from markdown_it import MarkdownIt

from esm_sae_assets.catalogue.shown_values import table

# A page that only shows this would make Dagster run a mutation: it takes queries in addresses.
ADDRESS = "http://127.0.0.1:3000/graphql?query=mutation%7Bx%7D"
HARMFUL = [
    f"![x]({ADDRESS})",
    f"[x]({ADDRESS})",
    f"<img src='{ADDRESS}'>",
    f"<{ADDRESS}>",
    f"`code`</td><img src={ADDRESS}>",
    f"\\![x]({ADDRESS})",
    f"\\\\<img src={ADDRESS}>",
    f"| ![x]({ADDRESS}) |",
    f"&lt;img src={ADDRESS}&gt;",
]


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.text = ""

    def handle_starttag(self, tag: str, attrs: object) -> None:
        del attrs
        self.names.add(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.mark.parametrize("name", HARMFUL)
def test_a_name_in_a_table_stays_text(name, monkeypatch):
    # Whole, not shortened to where it does no harm.
    monkeypatch.setattr("esm_sae_assets.catalogue.shown_values._WIDEST_CELL", 500)
    shown = table([{"taxon": name, "proteins": 3}]).md_str
    assert shown is not None
    page = _Tags()
    page.feed(MarkdownIt("commonmark", {"html": True}).enable("table").render(shown))
    assert page.names == {"table", "thead", "tbody", "tr", "th", "td"}
    assert name in page.text
