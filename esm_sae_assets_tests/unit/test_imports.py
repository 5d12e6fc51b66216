import ast
import pkgutil
from pathlib import Path

import esm_sae

ROOT = Path(esm_sae.__file__).parent
HEAVY = ["torch", "jax", "optax", "esm", "hdbscan", "sklearn", "matplotlib", "dagster"]
PARTS = {"sequences", "embedding", "sae", "clusters", "analysis", "report", "sharing"}
PUBLIC = sorted(
    ["esm_sae"]
    + [f"esm_sae.{name}" for name in ("cli", "figures", "progress", "split", "storage")]
    + [f"esm_sae.{name}" for _, name, package in pkgutil.iter_modules([str(ROOT)]) if package]
    + [f"esm_sae.formats.{name}" for _, name, _ in pkgutil.iter_modules([str(ROOT / "formats")])]
)  # fmt: skip


def modules():
    return sorted(ROOT.rglob("*.py"))


def imported_by(path):
    """Return the absolute names that a module imports anywhere, functions included."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def test_the_public_packages_are_there():
    assert {f"esm_sae.{part}" for part in ("formats", "sequences")} <= set(PUBLIC)


IMPORT_ALL = """
import importlib, sys
heavy = set(sys.argv[1].split())
for name in sys.argv[2].split():
    importlib.import_module(name)
    if found := heavy & set(sys.modules):
        sys.exit(f"{name} imports {sorted(found)}")
"""


def test_importing_the_packages_imports_no_heavy_library(python):
    result = python(IMPORT_ALL, " ".join(HEAVY), " ".join(PUBLIC), check=False)
    assert (result.returncode, result.stderr) == (0, "")


def test_nothing_in_the_library_imports_dagster():
    for path in modules():
        found = {
            name
            for name in imported_by(path)
            if name.split(".")[0] in ("dagster", "esm_sae_assets")
        }
        assert not found, f"{path.relative_to(ROOT)} imports {found}"


def test_parts_do_not_import_each_other():
    for part in PARTS:
        for path in sorted((ROOT / part).rglob("*.py")):
            others = {
                name
                for name in imported_by(path)
                if name.startswith("esm_sae.") and name.split(".")[1] in PARTS - {part}
            }
            assert not others, f"{path.relative_to(ROOT)} imports {others}"


def test_formats_and_what_is_below_import_no_part():
    below = [
        *(ROOT / "formats").rglob("*.py"),
        *(ROOT / f"{name}.py" for name in ("storage", "split")),
    ]
    for path in below:
        found = {
            name
            for name in imported_by(path)
            if name.startswith("esm_sae.") and name.split(".")[1] in PARTS
        }
        assert not found, f"{path.relative_to(ROOT)} imports {found}"
