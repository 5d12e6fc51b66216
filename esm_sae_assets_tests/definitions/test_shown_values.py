import io

import dagster as dg
import numpy as np
import pytest
from PIL import Image

from esm_sae_assets.catalogue.shown_values import in_order, page, plot, table

SHOWN_IN_PLACE = 1_000


def test_plots_come_first_then_figures_then_tables_then_texts():
    figure = dg.MetadataValue.md("![map](data:image/png;base64,AAAA)")
    values = {
        "layout": "pca",
        "top": [{"taxon": "Homo sapiens", "size": 3}],
        "rows": 7,
        "map": figure,
        "fvu": 0.123456789,
    }
    shown = in_order(values)
    assert list(shown) == ["map", "rows", "fvu", "top", "layout"]
    assert (shown["map"], shown["fvu"]) == (figure, 0.123457)


def test_counts_by_name_are_numbers_of_their_own():
    shown = in_order({"dropped": {"too short": 0, "too long": 103}, "lengths": {"mean": 0.5}})
    assert shown == {"dropped: too short": 0, "dropped: too long": 103, "lengths: mean": 0.5}


def test_what_is_the_same_in_every_run_is_no_number():
    assert in_order({"seed": 0, "k": 16, "width": 256}) == {"seed": "0", "k": "16", "width": "256"}


def test_what_is_empty_is_left_out():
    assert in_order({"project": "", "untrained_fvu": None, "skipped": 0, "ks": []}) == {
        "skipped": 0,
        "ks": "none",
    }


def test_lists_and_nested_counts_can_be_read():
    shown = in_order(
        {
            "largest": [19, 18],
            "explained": [0.23538288, 0.1599912],
            "levels": {"protein": {"eligible": 15}, "residue": {"eligible": 6}},
            "provenance": {"encoder": "esmc_demo", "layer": 3},
        }
    )
    assert (shown["largest"], shown["explained"]) == ("19, 18", "0.2354, 0.16")
    assert shown["levels"].md_str.splitlines() == [
        "| level | eligible |",
        "| --- | --- |",
        "| protein | 15 |",
        "| residue | 6 |",
    ]
    assert "| encoder | esmc\\_demo |" in shown["provenance"].md_str


def test_a_long_name_can_be_wrapped():
    assert list(in_order({"share_of_permutations_with_discovery": 0.01, "dead_share": 0.1})) == [
        "share of permutations with discovery",
        "dead_share",
    ]


def test_a_narrow_table_is_shown_in_place_and_a_wide_one_behind_a_click():
    narrow = table([{"taxon": "Homo sapiens", "records": 107}] * 10)
    assert len(narrow.md_str or "") < SHOWN_IN_PLACE
    wide = table([{f"column_{number}": 0.123456 for number in range(8)}])
    assert len(wide.md_str or "") > SHOWN_IN_PLACE
    heading, rule, row = (wide.md_str or "").splitlines()
    assert len(heading) < 200
    assert set(rule) == set("|- ")
    assert row.count("0.1235") == 8


def test_cells_are_short_and_bring_no_markup():
    (row,) = (table([{"name": "a|b\n<img src=x>", "long": "x" * 500, "none": None}]).md_str or "")[
        1:
    ].splitlines()[2:]
    assert row.startswith("| a\\|b \\<img src=x\\> | xxx")
    assert "…" in row
    assert len(row) < 120
    assert row.endswith("| - |")


def test_a_plot_is_kept_in_few_colours_and_looks_the_same():
    pixels = np.zeros((200, 300, 3), dtype=np.uint8)
    pixels[:, :, 0] = np.linspace(0, 255, 300)
    pixels[50:150, 100:200] = (31, 119, 180)
    pixels[10:13, 10:13] = (44, 160, 44)
    written = io.BytesIO()
    Image.fromarray(pixels).save(written, "PNG", compress_level=0)
    shown = plot(written.getvalue(), "figure").md_str or ""
    assert shown.startswith("![figure](data:image/png;base64,")
    assert len(shown) < len(written.getvalue()) / 4
    reduced = _decoded(shown)
    assert reduced.shape == pixels.shape
    assert np.abs(reduced.astype(int) - pixels).max() <= 16


@pytest.mark.parametrize(
    ("address", "kind"),
    [
        ("file:///data/report.html", dg.PathMetadataValue),
        ("s3://bucket/report.html", dg.PathMetadataValue),
        ("https://example.org/report.html", dg.UrlMetadataValue),
    ],
)
def test_only_what_a_browser_would_open_is_a_link(address, kind):
    shown = page(address)
    assert isinstance(shown, kind)
    assert shown.value == address


def _decoded(markdown):
    import base64

    png = base64.b64decode(markdown.partition("base64,")[2].removesuffix(")"))
    with Image.open(io.BytesIO(png)) as image:
        return np.asarray(image.convert("RGB"))
