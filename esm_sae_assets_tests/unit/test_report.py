import base64
import hashlib
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from esm_sae import storage
from esm_sae.errors import InputError
from esm_sae.formats.manifest import produce_folder
from esm_sae.report import write_report
from esm_sae.report.page import embedded_json
from esm_sae.report.payload import accession_of

Run = Callable[..., dict[str, Path]]

HOSTILE_NAME = "</script><script>alert(1)</script><img src=x onerror=alert(2)> & <!--"
HOSTILE = "tr|P{0:05d}|P_TEST " + HOSTILE_NAME + " OS=Some taxon"


class _Page(HTMLParser):
    """Collects elements and the text of scripts as a browser separates them."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.styles: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1][0] in ("script", "style") and data.strip():
            place = self.scripts if self.tags[-1][0] == "script" else self.styles
            place.append(data)

    @property
    def data(self) -> dict[str, Any]:
        return json.loads(self.scripts[0])


def _write(run: dict[str, Path], **options: Any) -> Path:
    return write_report(run["summary"].parent / "report.html", **run, **options).path


@pytest.mark.parametrize("pooling", ["mean", "residue", "unknown"])
def test_page_carries_every_latent(fake_sae: Any, analysis_run: Run, pooling: str) -> None:
    run = analysis_run(fake_sae(pooling=pooling))
    page = _Page(_write(run))
    summary = pl.read_parquet(run["summary"])
    data = page.data
    assert data["latents"]["firingRows"] == summary["firing_rows"].to_list()
    assert [len(top) for top in data["top"]] == summary["top_proteins"].list.len().to_list()
    assert len(page.scripts) == 2


def test_page_loads_nothing_and_its_policy_forbids_it(fake_sae: Any, analysis_run: Run) -> None:
    page = _Page(_write(analysis_run(fake_sae(pooling="residue"))))
    for tag, attributes in page.tags:
        source = attributes.get("src") or ""
        assert tag != "link"
        assert not source or source.startswith("data:image/png;base64,")
    policy = next(a["content"] for _, a in page.tags if a.get("http-equiv")) or ""
    assert policy.startswith("default-src 'none'")
    for text in (page.scripts[1], page.styles[0]):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in policy


def test_hostile_headers_stay_text(fake_sae: Any, analysis_run: Run) -> None:
    run = analysis_run(
        fake_sae(pooling="residue", encoder_note="<b>note</b>"),
        header=HOSTILE,
        sizes={"<script>alert(3)</script>": 5, "Plain": 5},
    )
    path = _write(run, title="</title><script>alert(4)</script>")
    page = _Page(path)
    assert sum(tag == "script" for tag, _ in page.tags) == 2
    assert not any("onerror" in attributes for _, attributes in page.tags)
    assert "b" not in {tag for tag, attributes in page.tags if "note" in str(attributes)}
    assert "<script>alert" not in path.read_text()
    names = {protein[1] for protein in page.data["proteins"]}
    assert names == {HOSTILE_NAME}


@given(st.recursive(st.text() | st.sampled_from(["</script>", "<!--", "]]>", "&lt;"]), st.lists))
def test_embedded_json_is_the_value_and_no_markup(value: Any) -> None:
    text = embedded_json(value)
    assert json.loads(text) == value
    assert not re.search("[<>&]", text)


def test_untrained_encoder_is_said_at_the_top(fake_sae: Any, analysis_run: Run) -> None:
    note = "untrained: seeded random weights"
    text = _write(analysis_run(fake_sae(encoder="esmc_demo", encoder_note=note))).read_text()
    assert note in text.split('id="browse"')[0]


def test_unknown_origin_is_said(fake_sae: Any, analysis_run: Run) -> None:
    assert "unknown origin" in _write(analysis_run(fake_sae())).read_text()


def test_metrics_and_their_figures_are_shown(
    fake_sae: Any, analysis_run: Run, tmp_path: Path
) -> None:
    def build(folder: Path) -> dict[str, Any]:
        metrics = {"fvu": 0.25, "pca_fvu": 0.125, "dead_share": 0.5, "l0_histogram": [1, 2]}
        storage.publish_json(folder / "metrics.json", metrics)
        (folder / "curves.png").write_bytes(b"\x89PNG")
        return {}

    product = produce_folder(tmp_path / "metrics", kind="sae_metrics", determinants={}, build=build)
    text = _write(analysis_run(fake_sae()), metrics=product.path).read_text()
    for expected in ("25.0%", "12.5%", "PCA is better here", "50.0%", 'alt="curves"'):
        assert expected in text


def test_windows_show_the_residues_around_the_peak(fake_sae: Any, analysis_run: Run) -> None:
    run = analysis_run(fake_sae(pooling="residue"))
    sequences = pl.read_parquet(run["activations"] / "sequences.parquet")
    by_id = dict(sequences.select("sequence_id", "sequence").iter_rows())
    data = _Page(_write(run)).data
    entries = [entry for top in data["top"] for entry in top]
    assert entries
    for place, activation, position, window in entries:
        sequence = by_id[data["proteins"][place][0]]
        start = window["start"]
        assert sequence[start - 1 :].startswith(window["text"])
        assert dict(map(tuple, window["fired"]))[position - start] == activation
        assert window["seen"] is None


def test_same_inputs_give_the_same_bytes(fake_sae: Any, analysis_run: Run, tmp_path: Path) -> None:
    run = analysis_run(fake_sae(pooling="residue"))
    one = write_report(tmp_path / "one.html", **run)
    assert write_report(tmp_path / "one.html", **run).unchanged
    other = write_report(tmp_path / "other.html", **run)
    assert one.path.read_bytes() == other.path.read_bytes()


def test_incomplete_activations_are_refused(
    fake_sae: Any, analysis_run: Run, tmp_path: Path
) -> None:
    run = analysis_run(fake_sae())
    (run["activations"] / "manifest.json").unlink()
    with pytest.raises(InputError, match="incomplete"):
        write_report(tmp_path / "report.html", **run)
    assert not (tmp_path / "report.html").exists()


@pytest.mark.parametrize(
    ("sequence_id", "accession"),
    [
        ("tr|A0A0S1XBG1|A0A0S1XBG1_9EURY", "A0A0S1XBG1"),
        ("sp|Q8AWH3|SX17A_XENTR", "Q8AWH3"),
        ("UniRef50_P12345", "P12345"),
        ("UniRef50_UPI0000000001", None),
        ("embeddings:12", None),
        ("P12345-2", "P12345"),
        ("protein_one", None),
    ],
)
def test_accessions_are_found_in_ids(sequence_id: str, accession: str | None) -> None:
    assert accession_of(sequence_id) == accession
