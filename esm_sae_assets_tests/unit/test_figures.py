import ast
import itertools
from pathlib import Path
from types import SimpleNamespace

import esm_sae
from esm_sae.figures import add_legend, new_figure, png_bytes

ROOT = Path(esm_sae.__file__).parents[1]


def test_a_slow_machine_is_no_reason_for_a_warning_about_a_legend(monkeypatch):
    hours = itertools.count(step=3600)
    monkeypatch.setattr("matplotlib.legend.time", SimpleNamespace(perf_counter=lambda: next(hours)))
    figure, axes = new_figure()
    axes.plot([0, 1], [0, 1], label="a line")
    add_legend(axes, title="what is shown")
    assert png_bytes(figure).startswith(b"\x89PNG")
    assert next(hours) > 0, "the clock was not asked"


def test_every_legend_names_its_place():
    for package in ("esm_sae", "esm_sae_assets", "benchmarks"):
        for path in (ROOT / package).rglob("*.py"):
            for call in ast.walk(ast.parse(path.read_text())):
                if isinstance(call, ast.Call) and getattr(call.func, "attr", None) == "legend":
                    named = {keyword.arg for keyword in call.keywords}
                    assert named & {"loc", None}, f"{path}:{call.lineno}: use add_legend"
