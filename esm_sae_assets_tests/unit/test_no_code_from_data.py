"""Nothing in the packages runs what data or settings hold: their source is searched for it."""

import ast
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
FOLDERS = ("esm_sae", "esm_sae_assets", "benchmarks", "deploy")

# Any mention of these, a base class included.
DANGEROUS_NAMES = {
    "cloudpickle",
    "dill",
    "joblib",
    "marshal",
    "os.execv",
    "os.popen",
    "os.spawnv",
    "os.system",
    "pandas.read_pickle",
    "pickle",
    "runpy",
    "shelve",
    "torch.jit.load",
    "xml.dom",
    "xml.sax",
    "yaml.full_load",
    "yaml.load",
    "yaml.unsafe_load",
}
DANGEROUS_BUILTINS = {"__import__", "compile", "eval", "exec"}
# Methods of objects whose class the source does not tell.
DANGEROUS_METHODS = {"extractall", "unpack_archive"}
# Calls that are dangerous unless, or if, an argument has a value.
REQUIRED_ARGUMENTS = {
    "jinja2.Environment": ("autoescape", True),
    "torch.load": ("weights_only", True),
}
DANGEROUS_ARGUMENTS = {"allow_pickle": True, "shell": True, "trust_remote_code": True}
# What marks text as HTML that needs no escaping.
UNESCAPED = {"markupsafe.Markup"}

# One by one, with the reason.
KNOWN = {
    # The reader that lets a pickle name arrays and plain containers only.
    ("esm_sae/formats/npy_dict.py", "pickle"): 1,
    ("esm_sae/formats/npy_dict.py", "pickle.Unpickler"): 1,
    # Names the error that torch's own restricted reader raises.
    ("esm_sae/embedding/torch_files.py", "pickle"): 1,
    ("esm_sae/embedding/torch_files.py", "pickle.UnpicklingError"): 1,
    # Writes a checkpoint in the original's format, which is a pickled dictionary.
    ("esm_sae/formats/checkpoint.py", "allow_pickle=True"): 1,
    # Our own style and script, and data that embedded_json has escaped.
    ("esm_sae/report/page.py", "markupsafe.Markup"): 4,
    # Markdown, whose values its own finalizer escapes.
    ("esm_sae/sharing/markdown.py", "jinja2.Environment"): 1,
}


def test_the_packages_run_nothing_that_data_holds():
    found: dict[tuple[str, str], int] = {}
    for folder in FOLDERS:
        for path in sorted((REPOSITORY / folder).rglob("*.py")):
            for danger in dangers_in(path.read_text()):
                place = (str(path.relative_to(REPOSITORY)), danger)
                found[place] = found.get(place, 0) + 1
    assert found == KNOWN


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import pickle\npickle.load(file)", ["pickle", "pickle.load"]),
        ("from pickle import loads as f\nf(data)", ["pickle.loads", "pickle.loads"]),
        ("import numpy as np\nnp.load(path, allow_pickle=True)", ["allow_pickle=True"]),
        ("import torch\ntorch.load(path)", ["torch.load"]),
        ("import torch\ntorch.load(path, weights_only=False)", ["torch.load"]),
        ("import torch\ntorch.load(path, weights_only=True)", []),
        ("def f():\n    from torch import load\n    load(path)", ["torch.load"]),
        ("import yaml\nyaml.load(text)", ["yaml.load"]),
        ("import yaml\nyaml.safe_load(text)", []),
        ("eval(text)", ["eval"]),
        ("model.eval()", []),
        ("import re\nre.compile(text)", []),
        ("import subprocess\nsubprocess.run(line, shell=True)", ["shell=True"]),
        ("import subprocess\nsubprocess.run(line, shell=flag)", ["shell=?"]),
        ("import os\nos.system(line)", ["os.system"]),
        ("archive.extractall(folder)", ["extractall"]),
        ("from jinja2 import Environment\nEnvironment()", ["jinja2.Environment"]),
        ("from markupsafe import Markup\nMarkup(text)", ["markupsafe.Markup"] * 2),
    ],
)
def test_the_search_finds_what_it_is_for(source, expected):
    assert dangers_in(source) == expected


def dangers_in(source: str) -> list[str]:
    """Return what a module's source imports, names or calls that could run what data holds."""
    tree = ast.parse(source)
    nodes = list(ast.walk(tree))
    aliases = {}
    found = []
    for node in nodes:
        for local, name in _imports(node):
            aliases[local] = name
            found += [name] if _is_dangerous(name) else []
    for node in nodes:
        name = _full_name(node, aliases)
        if name is not None and "." in name and _is_dangerous(name):
            found.append(name)
        if isinstance(node, ast.Call):
            found += _dangers_of_call(node, _full_name(node.func, aliases))
    return found


def _imports(node: ast.AST) -> list[tuple[str, str]]:
    if isinstance(node, ast.Import):
        return [(alias.asname or alias.name, alias.name) for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        return [(alias.asname or alias.name, f"{node.module}.{alias.name}") for alias in node.names]
    return []


def _is_dangerous(name: str) -> bool:
    parts = name.split(".")
    prefixes = {".".join(parts[:end]) for end in range(1, len(parts) + 1)}
    return bool(prefixes & (DANGEROUS_NAMES | UNESCAPED))


def _full_name(node: ast.AST, aliases: dict[str, str]) -> str | None:
    """Return the dotted name that an expression means, as far as imports tell."""
    if isinstance(node, ast.Name):
        return aliases.get(node.id, node.id)
    if isinstance(node, ast.Attribute):
        owner = _full_name(node.value, aliases)
        return None if owner is None else f"{owner}.{node.attr}"
    return None


def _dangers_of_call(call: ast.Call, name: str | None) -> list[str]:
    arguments = {keyword.arg: keyword.value for keyword in call.keywords}
    found = []
    if isinstance(call.func, ast.Name) and name in DANGEROUS_BUILTINS:
        found.append(name)
    if isinstance(call.func, ast.Attribute) and call.func.attr in DANGEROUS_METHODS:
        found.append(call.func.attr)
    if name in REQUIRED_ARGUMENTS:
        argument, value = REQUIRED_ARGUMENTS[name]
        if _constant(arguments.get(argument)) is not value:
            found.append(name)
    for argument, value in DANGEROUS_ARGUMENTS.items():
        given = _constant(arguments.get(argument, ast.Constant(False)))
        if given is not False:
            found.append(f"{argument}={value if given is value else '?'}")
    return found


def _constant(node: ast.AST | None) -> object:
    return node.value if isinstance(node, ast.Constant) else None
