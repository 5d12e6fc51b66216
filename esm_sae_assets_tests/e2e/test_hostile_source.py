"""The whole graph on a source whose headers are made to do harm where they are shown."""

import re
from html.parser import HTMLParser

import dagster as dg
import pytest
from markdown_it import MarkdownIt

from esm_sae.formats.fasta import read_fasta
from esm_sae_assets.demo import run_graph
from esm_sae_assets.settings import load_settings

pytestmark = pytest.mark.slow

HARM = "http://harm.invalid/x"
TAXA = [
    "../../../../../../../tmp/escaped",
    "/etc/passwd",
    f"<script src={HARM}></script>",
    f'<img src="{HARM}" onerror="fetch(1)">',
    f"![x]({HARM}) [y]({HARM})",
    "| a | `b` **c** $(touch escaped) `touch escaped`",
    "\x1b[31mred\x1b[0m\x07\x08",
    "\u202eright to left\u2066",
    "{{ 7 * 7 }} {% raw %} ${jndi:ldap://x}",
    "=HYPERLINK(1) %s %n {0} \\x41 \\u0041",
]


@pytest.fixture(scope="module")
def graph(small_source, tmp_path_factory):
    """The folder around a data root, and the instance and settings of the graph made there."""
    folder = tmp_path_factory.mktemp("hostile")
    source = folder / "source.fasta"
    with source.open("w", encoding="utf-8") as file:
        for number, record in enumerate(read_fasta(small_source)):
            taxon = TAXA[number % len(TAXA)]
            header = f"UniRef50_{taxon.split()[0]}{number} {taxon} n=1 Tax={taxon} TaxID="
            header += f"{1000 + number % len(TAXA)} RepID={taxon.split()[0]}_X"
            file.write(f">{header}\n{record.sequence}\n")
    settings = load_settings(
        {},
        source=str(source),
        data_root=str(folder / "data"),
        samples={"small_size": 120},
        embedding={"sequences_per_shard": 120, "residues_per_protein": 4},
        sae={"latent_dim": 32, "ks": [4], "num_epochs": 1, "batch_size": 64, "replicate": False}
        | {"untrained_baseline": False},
        clusters={"taxon_min_size": 2, "per_taxon": 2, "min_cluster_size": 3},
    )
    with dg.DagsterInstance.ephemeral() as instance:
        run_graph(settings, instance)
        yield folder, settings, instance


def test_nothing_is_written_outside_of_the_data_root(graph):
    folder, settings, _ = graph
    assert sorted(path.name for path in folder.iterdir()) == ["data", "source.fasta"]
    names = {path.name for path in settings.root.rglob("*")}
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+", name) for name in names)


def test_what_is_shown_on_a_page_is_text(graph):
    _, settings, _ = graph
    pages = [*settings.root.rglob("*.html")]
    assert len(pages) == 2
    for path in pages:
        text = path.read_text(encoding="utf-8")
        assert "harm.invalid" in text
        assert not [value for value in _addresses_in(text) if "harm.invalid" in value]


def test_what_dagster_shows_is_text(graph):
    _, _, instance = graph
    shown = 0
    for key in instance.all_asset_keys():
        event = instance.get_latest_materialization_event(key)
        assert event is not None
        assert event.asset_materialization is not None
        for value in event.asset_materialization.metadata.values():
            if isinstance(value, dg.MarkdownMetadataValue):
                page = MarkdownIt("commonmark", {"html": True}).enable("table").render(value.md_str)
                addresses = _addresses_in(page)
                assert all(address.startswith("data:image/png") for address in addresses)
                shown += "harm.invalid" in page
    assert shown > 0


class _Addresses(HTMLParser):
    """Collects what the elements of a page link to or load, and what they run."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        wanted = ("src", "href", "action", "data", "srcset", "poster")
        self.found += [
            value or "" for name, value in attrs if name in wanted or name.startswith("on")
        ]


def _addresses_in(page: str) -> list[str]:
    parser = _Addresses()
    parser.feed(page)
    return parser.found
