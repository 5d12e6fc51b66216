import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysed_runs import MadeUp, write_run
from esm_sae.errors import InputError
from esm_sae.formats import analysis_tables
from esm_sae.report import write_report
from esm_sae.report.examples import over_the_range
from esm_sae.report.page import embedded_json
from esm_sae.report.payload import accession_of, on_grid

HOSTILE_NAME = "</script><script>alert(1)</script><img src=x onerror=alert(2)> & <!--"
OPTIONAL = ("concepts", "clusters", "matches")


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

    @property
    def ids(self) -> set[str | None]:
        return {attributes.get("id") for _, attributes in self.tags}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Make all tables of a residue run."""
    return write_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def page(run: dict[str, Path]) -> _Page:
    return _Page(_write(run))


def _write(run: dict[str, Path], **options: Any) -> Path:
    return write_report(run["summary"].parent / "report.html", **run, **options).path


def _summary(run: dict[str, Path]) -> pl.DataFrame:
    return pl.read_parquet(run["summary"])


@pytest.mark.parametrize("pooling", ["mean", "residue"])
def test_page_carries_every_latent(tmp_path: Path, pooling: str) -> None:
    run = write_run(tmp_path, MadeUp(pooling=pooling))
    page, summary = _Page(_write(run)), _summary(run)
    latents = page.data["latents"]
    for key, column in (
        ("firingRows", "firing_rows"),
        ("label", "label"),
        ("memory", "memory"),
        ("decoderCluster", "decoder_cluster"),
    ):
        assert latents[key] == summary[column].to_list()
    assert [len(top) for top in page.data["top"]] == summary["top_proteins"].list.len().to_list()
    assert len(page.scripts) == 2


def test_page_loads_nothing_and_its_policy_forbids_it(page: _Page) -> None:
    for tag, attributes in page.tags:
        source = attributes.get("src") or ""
        assert tag != "link"
        assert not source or source.startswith("data:image/png;base64,")
    policy = next(a["content"] for _, a in page.tags if a.get("http-equiv")) or ""
    assert policy.startswith("default-src 'none'")
    for text in (page.scripts[1], page.styles[0]):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in policy


def test_hostile_text_stays_text(tmp_path: Path) -> None:
    hostile = MadeUp(
        names=(HOSTILE_NAME,),
        taxa=("<script>alert(3)</script>", "Plain"),
        config={"encoder": "<b>encoder</b>", "encoder_note": "<b>note</b>"},
    )
    run = write_run(tmp_path, hostile)
    concepts = run["concepts"] / analysis_tables.CONCEPTS
    table = pl.read_parquet(concepts)
    table.with_columns(concept=pl.lit("<script>alert(5)</script>")).write_parquet(concepts)
    path = _write(run, title="</title><script>alert(4)</script>")
    page = _Page(path)
    assert sum(tag == "script" for tag, _ in page.tags) == 2
    assert not any("onerror" in attributes for _, attributes in page.tags)
    assert "<script>alert" not in path.read_text()
    assert "<b>" not in path.read_text().replace("</dt><dd><b>", "")
    assert page.data["names"] == [HOSTILE_NAME]
    assert "<script>alert(3)</script> 0" in page.data["taxa"]


@given(st.recursive(st.text() | st.sampled_from(["</script>", "<!--", "]]>", "&lt;"]), st.lists))
def test_embedded_json_is_the_value_and_no_markup(value: Any) -> None:
    text = embedded_json(value)
    assert json.loads(text) == value
    assert not re.search("[<>&]", text)


def test_windows_mark_what_fires_around_the_peak(run: dict[str, Path], page: _Page) -> None:
    sequences = pl.read_parquet(run["activations"] / analysis_tables.SEQUENCES)
    by_id = {row["sequence_id"]: row for row in sequences.iter_rows(named=True)}
    rows = pl.read_parquet(run["activations"] / analysis_tables.BY_ROW / "*.parquet")
    fired = {
        (row["latent"], row["protein"], row["position"]): row["activation"]
        for row in rows.iter_rows(named=True)
    }
    encoded = set(rows.select("protein", "position").iter_rows())
    data = page.data
    highest = data["latents"]["max"]
    shown = [(j, *entry) for j, top in enumerate(data["top"]) for entry in top]
    shown += [(j, *entry[1:]) for j, drawn in enumerate(data["examples"]) for entry in drawn]
    assert len(shown) > 300
    for latent, place, activation, position, (start, text, marks) in shown:
        protein = by_id[data["proteins"]["id"][place]]
        assert protein["sequence"][start - 1 :].startswith(text)
        assert len(marks) == len(text)
        at = protein["protein"]
        assert activation == pytest.approx(fired[latent, at, position], rel=1e-3)
        for offset, mark in enumerate(marks):
            value = fired.get((latent, at, start + offset))
            if value is not None:
                assert int(mark, 36) == pytest.approx(35 * value / highest[latent], abs=1.01)
            else:
                assert mark == (".", "_")[(at, start + offset) not in encoded]


def test_examples_come_from_every_fifth_and_are_not_the_top_ones(
    run: dict[str, Path],
) -> None:
    summary = _summary(run)
    drawn = over_the_range(summary, run["activations"])
    pairs = pl.read_parquet(run["activations"] / analysis_tables.PROTEINS)
    assert len(drawn) > 100
    for (latent,), examples in drawn.group_by("latent"):
        ranks = {
            protein: rank
            for rank, protein in enumerate(pairs.filter(pl.col("latent") == latent)["protein"])
        }
        assert examples["fifth"].to_list().count(4) == 2
        for protein, fifth in examples.select("protein", "fifth").iter_rows():
            rank = ranks[protein]
            assert fifth * len(ranks) // 5 <= rank < (fifth + 1) * len(ranks) // 5
            assert rank >= 10


def test_examples_of_a_latent_do_not_depend_on_the_others(run: dict[str, Path]) -> None:
    summary = _summary(run)
    without = summary.with_columns(
        firing_proteins="firing_proteins",
        top_proteins=pl.when(pl.col("latent") == 3).then("top_proteins"),
    ).with_columns(pl.col("top_proteins").fill_null([]))
    draws = [over_the_range(table, run["activations"]) for table in (summary, without)]
    one, other = (draw.filter(pl.col("latent") == 3) for draw in draws)
    assert one.equals(other)


def test_examples_need_the_table_sorted_as_counted(run: dict[str, Path]) -> None:
    wrong = _summary(run).with_columns(firing_proteins=pl.col("firing_proteins") + 1)
    with pytest.raises(InputError, match="not sorted by latent"):
        over_the_range(wrong, run["activations"])


def test_taxa_surely_enriched_come_first(run: dict[str, Path], page: _Page) -> None:
    table = pl.read_parquet(run["taxonomy"] / analysis_tables.TAXONOMY)
    for latent, bars in enumerate(page.data["bars"][:-2]):
        q = [bar[9] for bar in bars]
        known = [value for value in q if value is not None]
        assert q[: len(known)] == sorted(known)
        best = table.filter(pl.col("latent") == latent)["q_value"].min()
        assert known[0] == pytest.approx(best, rel=1e-3)
        assert all(bar[8] is None for bar in bars)
    assert page.data["bars"][-2:] == [[], []]


def test_concepts_are_eligible_and_told_better_than_by_calling_everything(
    run: dict[str, Path], page: _Page
) -> None:
    data = page.data
    # Kinase has the lower F1, and more above that of calling everything.
    assert data["conceptNames"] == [
        ["name", "Kinase", "protein", 0.1],
        ["sequence", "N-X-S/T", "residue", 0.7],
    ]
    table = pl.read_parquet(run["concepts"] / analysis_tables.FEATURE_CONCEPTS)
    assert any(len(concepts) < 2 for concepts in data["concepts"][:-2])
    for latent, concepts in enumerate(data["concepts"][:-2]):
        skills = []
        for number, validation, *_ in concepts:
            _, concept, _, trivial = data["conceptNames"][number]
            row = table.filter(pl.col("latent") == latent, pl.col("concept") == concept)
            assert validation == pytest.approx(row["validation_f1"][0], rel=1e-3)
            skills.append((validation - trivial) / (1 - trivial))
        assert skills == sorted(skills, reverse=True)
        assert all(skill > 0 for skill in skills)
    text = run["summary"].with_name("report.html").read_text()
    assert "Rare family" not in text


def test_a_latent_is_found_from_another_seed_one_to_one_or_not_one_to_one(
    run: dict[str, Path], page: _Page
) -> None:
    latents, summary = page.data["latents"], _summary(run)
    for row in summary.iter_rows(named=True):
        again = latents["again"][row["latent"]]
        cosine, correlation = row["stability_cosine"], row["stability_correlation"]
        if row["stable"] is None:
            assert again is None
            continue
        found = "found, not one to one" if max(cosine, correlation) > 0.7 else "not found"
        assert again == ("stable" if row["stable"] else found)
        assert latents["stabilityCosine"][row["latent"]] == pytest.approx(cosine, rel=1e-3)
        assert latents["stabilityCorrelation"][row["latent"]] == pytest.approx(
            correlation, rel=1e-3
        )
    assert set(latents["again"]) == {"stable", "found, not one to one", "not found", None}


def test_a_bound_is_shown_as_its_label_has_it(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    summary = _summary(run).with_columns(label_threshold=pl.lit(4.28474, pl.Float32))
    summary.write_parquet(run["summary"])
    assert {f"{bound:.3g}" for bound in _Page(_write(run)).data["latents"]["threshold"]} == {"4.28"}


def test_families_are_spoken_of_only_where_they_are_known(
    run: dict[str, Path], page: _Page, tmp_path: Path
) -> None:
    promises = (
        "enriched in a taxon, in 3 families or more",
        "similarity cluster counts once per taxon",
        "in several families",
        "few families per taxon",
        "Similarity clusters are never split",
        "over similarity clusters",
        "of few similarity clusters, fewer than ten say",
        "positives (clusters)</th>",
        '<td class="n">8 (5)</td>',
        "of other similarity clusters",
        "Similarity clusters catch relatives",
        "90% of the activation in one family",
    )
    warnings = ("Families are not controlled for", "Relatives are not kept apart")
    known = run["summary"].with_name("report.html").read_text()
    assert all(promise in known for promise in promises)
    assert not any(warning in known for warning in warnings)
    path = _write(write_run(tmp_path, MadeUp(families=False)))
    text = path.read_text()
    assert not any(promise in text for promise in promises)
    assert [text.count(warning) for warning in warnings] == [1, 1]
    assert "enriched in a taxon, in 3 proteins or more" in text
    assert [page.data["families"], _Page(path).data["families"]] == [True, False]


def test_baselines_are_spoken_of_only_where_the_figure_has_them(
    run: dict[str, Path], page: _Page, tmp_path: Path
) -> None:
    claim = "it holds the same search over raw dimensions"
    assert claim in run["summary"].with_name("report.html").read_text()
    text = _write(write_run(tmp_path, MadeUp(baselines=False))).read_text()
    assert claim not in text
    assert "nothing else was searched" in text


def test_near_duplicates_are_shown_at_both(page: _Page) -> None:
    near = page.data["near"]
    assert near[0] == [[2, 0.95, None], [1, 0.9, 0.5]]
    assert near[1] == [[0, 0.9, 0.5]]
    assert near[2] == [[0, 0.95, None]]


def test_clusters_and_matches_are_shown(page: _Page) -> None:
    assert page.data["marked"][1] == [[1, None, 12, 0.6, 0.7, 0.65]]
    assert [match[0] for match in page.data["matches"][0]] == [4, 8]
    assert page.data["matches"][-1] == []


def test_sections_without_a_table_vanish(run: dict[str, Path], page: _Page) -> None:
    assert {"concepts", "matches", "map"} <= page.ids
    folder = run["summary"].parent
    without = {name: path for name, path in run.items() if name not in OPTIONAL}
    empty = {name: pl.lit(None, dtype) for name, dtype in analysis_tables.SUMMARY_ADDITIONS.items()}
    summary = folder / "plain.parquet"
    _summary(run).with_columns(**empty).write_parquet(summary)
    plain = _Page(write_report(folder / "plain.html", **without | {"summary": summary}).path)
    assert not {"concepts", "matches", "map"} & plain.ids
    keys = {attributes.get("data-sort") for _, attributes in plain.tags} - {None}
    assert keys == {"latent", "nameCount", "proteinDensity", "taxonQ"}
    assert plain.data["concepts"] == [[]] * 24


def test_a_summary_of_another_kind_is_refused(run: dict[str, Path], tmp_path: Path) -> None:
    summary = tmp_path / "summary.parquet"
    _summary(run).drop("label").write_parquet(summary)
    with pytest.raises(InputError, match="no column label; make it again"):
        write_report(tmp_path / "r.html", **run | {"summary": summary})


def test_cluster_page_is_linked_relative(run: dict[str, Path], tmp_path: Path) -> None:
    target = tmp_path / "other folder" / "clusters.html"
    path = write_report(tmp_path / "a" / "r.html", **run, cluster_page=target).path
    page = _Page(path)
    assert page.data["clusterPage"] == "../other%20folder/clusters.html"
    assert page.data["clusterPage"] in [attributes.get("href") for _, attributes in page.tags]


def test_unknown_sequences_have_no_window(tmp_path: Path) -> None:
    data = _Page(_write(write_run(tmp_path, MadeUp(sequences_known=False)))).data
    assert {entry[3] for top in data["top"] for entry in top} == {None}


def test_same_inputs_give_the_same_bytes(run: dict[str, Path], tmp_path: Path) -> None:
    one = write_report(tmp_path / "one.html", **run)
    assert write_report(tmp_path / "one.html", **run).unchanged
    other = write_report(tmp_path / "other.html", **run)
    assert one.path.read_bytes() == other.path.read_bytes()


def test_folders_of_other_kinds_and_of_another_sae_are_refused(
    run: dict[str, Path], tmp_path: Path
) -> None:
    page = tmp_path / "r.html"
    with pytest.raises(InputError, match="holds feature_concepts, not feature_taxonomy"):
        write_report(page, **run | {"taxonomy": run["concepts"]})
    other = write_run(tmp_path / "other", MadeUp(k=5))
    for name in ("concepts", "clusters"):
        with pytest.raises(InputError, match="made from another SAE or other activations"):
            write_report(page, **run | {name: other[name]})
    manifest = other["taxonomy"] / "manifest.json"
    manifest.write_text(manifest.read_text().replace("made up", "another"))
    with pytest.raises(InputError, match="made from another SAE"):
        write_report(page, **other)
    (tmp_path / "junk.parquet").write_bytes(b"junk")
    with pytest.raises(InputError, match="not a parquet table"):
        write_report(page, **run | {"summary": tmp_path / "junk.parquet"})
    assert not page.exists()


def test_a_run_of_silent_latents_has_a_page(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    summary = _summary(run).with_columns(
        pl.col("firing_rows", "firing_proteins", "density", "protein_density") * 0,
        pl.col("top_proteins").list.head(0),
    )
    summary.write_parquet(run["summary"])
    data = _Page(_write(run)).data
    assert data["top"] == data["examples"] == [[]] * 24
    assert data["proteins"]["id"] == []


def test_incomplete_activations_are_refused(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    (run["activations"] / "manifest.json").unlink()
    with pytest.raises(InputError, match="incomplete"):
        write_report(tmp_path / "report.html", **run)
    assert not (tmp_path / "report.html").exists()


def test_maps_keep_their_shape() -> None:
    plane = np.array([[1.0, 5.0], [3.0, 5.5], [np.nan, np.nan]])
    assert on_grid(plane) == ([0, 10_000, None], [0, 2_500, None])
    assert on_grid(np.full((2, 2), np.nan)) == ([None, None], [None, None])


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
