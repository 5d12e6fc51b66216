"""Servers are reached from this machine only, unless somebody decides otherwise."""

import re
from pathlib import Path

import pytest
from dagster_webserver.cli import DEFAULT_WEBSERVER_HOST

REPOSITORY = Path(__file__).resolve().parents[2]
TEXTS = [
    REPOSITORY / name for name in ("Makefile", "README.md", "CONTRIBUTING.md", "workspace.yaml")
] + [
    path
    for folder in ("docs", "deploy", "esm_sae", "esm_sae_assets", ".ci")
    for path in sorted((REPOSITORY / folder).rglob("*"))
    if path.suffix in (".md", ".yaml", ".yml", ".py", ".sh", ".toml", ".service", "")
    and path.is_file()
]

# A server that listens on every interface, as commands and files of settings say it.
_EVERYWHERE = re.compile(r"(?<![\d.])0\.0\.0\.0|\[::\]|[\"']::[\"']|--host[ =]\*")
# The word that the lines around must have: within a container or a namespace, its network decides.
_EXPLAINED = re.compile(r"container|pod|namespace|never|not ", re.IGNORECASE)


def unexplained(text: str) -> list[str]:
    """Return the lines that open a server to the network and don't say why that is safe."""
    lines = text.splitlines()
    return [
        line
        for number, line in enumerate(lines)
        if _EVERYWHERE.search(line)
        and not _EXPLAINED.search("\n".join(lines[max(number - 3, 0) : number + 2]))
    ]


def test_nothing_listens_on_every_interface_without_a_word():
    assert {path.name: lines for path in TEXTS if (lines := unexplained(path.read_text()))} == {}


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("dagster dev -h 0.0.0.0", 1),
        ("host: '::'", 1),
        ("# In the container; the pod's network decides.\nCMD dagster api grpc -h 0.0.0.0", 0),
        ("polars::read and 10.0.0.0.1", 0),
    ],
)
def test_the_search_finds_such_lines(text, count):
    assert len(unexplained(text)) == count


def test_make_dev_names_loopback():
    [command] = [
        line
        for line in (REPOSITORY / "Makefile").read_text().splitlines()
        if re.search(r"/dagster dev\b", line)
    ]
    assert " -h 127.0.0.1 " in command


def test_dagster_listens_on_loopback_where_no_host_is_given():
    assert DEFAULT_WEBSERVER_HOST == "127.0.0.1"
