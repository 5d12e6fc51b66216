import json

import pytest

from esm_sae.clusters.taxa_figure import taxa_figure
from esm_sae.errors import InputError

PNG = b"\x89PNG\r\n"
REASONS = ("without_taxon", "unknown_taxon", "above_rank", "rank_missing")


def statistics(sizes, **more):
    clusters = {name: {"taxid": None, "size": size} for name, size in sizes.items()}
    return {"totals": {}, "sizes": {}, "clusters": clusters, **more}


def row(members, records, *left_out):
    return {"members": members, "records": records, **dict(zip(REASONS, left_out, strict=True))}


BY_MEMBERS = [
    row("1", 9, 0, 0, 0, 0),
    row("2-4", 4, 0, 1, 2, 1),
    row("no UniRef header", 2, 2, 0, 0, 0),
]
SIZES = {f"Taxon {number} $x_{{$ (a/b)": 1 + 1000 // (number + 1) for number in range(40)}


def draw(path, content):
    path.write_text(json.dumps(content))
    return taxa_figure(path)


@pytest.mark.parametrize(
    "content",
    [
        statistics({"Only one": 1}),
        statistics({"a": 3, "b": 3}),
        statistics(SIZES),
        statistics(SIZES, rank="genus", left_out=BY_MEMBERS),
        statistics(SIZES, rank="genus", left_out=BY_MEMBERS[:1]),
    ],
)
def test_the_figure_is_a_png_and_the_same_again(tmp_path, content):
    figure = draw(tmp_path / "s.json", content)
    assert figure.startswith(PNG)
    assert draw(tmp_path / "again.json", content) == figure


def test_what_was_left_out_is_in_the_figure(tmp_path):
    plain = draw(tmp_path / "s.json", statistics(SIZES))
    assert draw(tmp_path / "s.json", statistics(SIZES, rank="genus", left_out=BY_MEMBERS)) != plain


@pytest.mark.parametrize("content", [[], {}, {"clusters": {"a": 3}}, {"clusters": [1]}, 7])
def test_other_json_is_refused(tmp_path, content):
    with pytest.raises(InputError, match=r"s\.json: not the statistics of taxon clusters"):
        draw(tmp_path / "s.json", content)
