import base64
import hashlib
import json
import re

import numpy as np
import polars as pl
import pytest

from described_clusters import write_table
from esm_sae.clusters import describe_clusters
from esm_sae.errors import InputError
from esm_sae.formats.cluster_summary import map_path, read_map
from esm_sae.formats.manifest import manifest_beside
from esm_sae.report import write_cluster_report

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)> & <!--"
HEADER = "tr|P{0:05d}|P_TEST {1} OS=<b>Taxon {2}</b>"


def described(folder, *, name=HOSTILE, clusters=(0, 0, 0, 1, 1, 1, -1, -1), **options):
    headers = [HEADER.format(row, name, row % 2) for row in range(len(clusters))]
    points = np.random.default_rng(0).normal(size=(len(clusters), 3))
    table = write_table(folder, headers, clusters, points, **options)
    return table, describe_clusters(table, folder / "summary.parquet").path


def write(folder, **options):
    table, summary = described(folder, **options)
    path = write_cluster_report(folder / "report.html", summary=summary, table=table).path
    return path.read_text(encoding="utf-8"), table, summary


def data_of(text):
    return json.loads(re.search(r'id="data">(.*?)</script>', text, re.DOTALL)[1])


def test_the_page_carries_clusters_members_and_map(tmp_path):
    text, table, summary = write(tmp_path)
    data = data_of(text)
    clusters, proteins = pl.read_parquet(summary), pl.read_parquet(table)
    assert data["clusters"]["size"] == [3, 3]
    assert [len(members) for members in data["members"]] == [3, 3]
    ids = data["proteins"]["id"]
    for cluster in range(2):
        assert ids[data["clusters"]["medoid"][cluster]] == clusters["medoid_id"][cluster]
        shown = [ids[place] for place, _ in data["members"][cluster]]
        assert shown == proteins.filter(pl.col("cluster") == cluster)["sequence_id"].to_list()
    drawn, _ = read_map(summary)
    assert [ids[place] for place in data["map"]["protein"]] == drawn["sequence_id"].to_list()
    assert data["map"]["cluster"] == drawn["cluster"].to_list()
    x, y = np.array(data["map"]["x"]), np.array(data["map"]["y"])
    assert max(np.ptp(x), np.ptp(y)) == 10_000
    scale = np.ptp(x) / np.ptp(drawn["x"].to_numpy())
    assert scale == pytest.approx(np.ptp(y) / np.ptp(drawn["y"].to_numpy()), rel=1e-3)
    assert data["proteins"]["accession"] == [f"P{row:05d}" for row in range(8)]


def test_members_are_the_surest_ten(tmp_path):
    table, _ = described(tmp_path, clusters=[0] * 30)
    probabilities = np.random.default_rng(1).random(30)
    pl.read_parquet(table).with_columns(probability=probabilities).write_parquet(table)
    summary = describe_clusters(table, tmp_path / "again.parquet").path
    page = write_cluster_report(tmp_path / "r.html", summary=summary, table=table).path
    data = data_of(page.read_text())
    shown = [data["proteins"]["id"][place] for place, _ in data["members"][0]]
    best = np.argsort(-probabilities)[:10]
    assert shown == [f"tr|P{row:05d}|P_TEST" for row in best]


def test_hostile_headers_stay_text_and_nothing_is_loaded(tmp_path):
    text, table, summary = write(tmp_path, embeddings="<i>demonstration</i>")
    assert text.count("<script") == 2
    assert "<i>" not in text
    assert "<b>Taxon" not in text
    assert data_of(text)["proteins"]["name"][0] == HOSTILE
    style = re.search("<style>(.*?)</style>", text, re.DOTALL)[1]
    script = re.search("<script>(.*?)</script>", text, re.DOTALL)[1]
    for part in (style, script):
        digest = base64.b64encode(hashlib.sha256(part.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in text
    assert "default-src 'none'" in text
    assert not re.search(r'(src|href)="(?!#|data:)', text)
    page = write_cluster_report(
        tmp_path / "t.html", summary=summary, table=table, title="</title><script>"
    )
    assert "<title>&lt;/title&gt;&lt;script&gt;" in page.path.read_text()


def test_encoders_that_prove_nothing_are_said(tmp_path):
    demonstration, *_ = write(tmp_path / "a", embeddings="x (a small demonstration model)")
    untrained, *_ = write(tmp_path / "b", embeddings="x (untrained: seeded random weights)")
    assert "not for conclusions" in demonstration
    assert "The encoder is untrained." in untrained


def test_a_page_of_noise_says_so(tmp_path):
    text, *_ = write(tmp_path, clusters=[-1] * 5)
    assert "all proteins are noise" in text
    assert data_of(text)["members"] == []


def test_same_inputs_give_the_same_bytes(tmp_path):
    table, summary = described(tmp_path)
    pages = [tmp_path / "one.html", tmp_path / "two.html"]
    for page in pages:
        write_cluster_report(page, summary=summary, table=table)
    assert pages[0].read_bytes() == pages[1].read_bytes()
    assert write_cluster_report(pages[0], summary=summary, table=table).unchanged


def test_a_summary_of_another_table_or_an_incomplete_one_is_refused(tmp_path):
    table, summary = described(tmp_path / "one")
    other, _ = described(tmp_path / "two", name="Kinase")
    page = tmp_path / "r.html"
    with pytest.raises(InputError, match="describes another table"):
        write_cluster_report(page, summary=summary, table=other)
    manifest = manifest_beside(summary)
    content = manifest.read_bytes()
    manifest.unlink()
    with pytest.raises(InputError, match="it has no manifest"):
        write_cluster_report(page, summary=summary, table=table)
    manifest.write_bytes(content)
    map_path(summary).write_bytes(b"no parquet")
    with pytest.raises(InputError, match="not a parquet table"):
        write_cluster_report(page, summary=summary, table=table)
    assert not page.exists()
