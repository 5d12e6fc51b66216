"""Two writers of one output at once, and one that is killed."""

import select

import pytest

from esm_sae.formats.manifest import read_manifest

WRITE = """
import json, sys
from pathlib import Path
from esm_sae.formats.manifest import produce_files, produce_folder

form, root, content = sys.argv[1], Path(sys.argv[2]), sys.argv[3]

def pause():
    print("building", flush=True)
    sys.stdin.readline()

def build_files(paths):
    paths[0].write_text(content)
    pause()
    paths[1].write_text(content)
    return {}

def build_folder(work):
    return build_files([work / "x.txt", work / "y.txt"])

print("starting", flush=True)
common = dict(kind="test", determinants={"content": content})
if form == "files":
    product = produce_files([root / "x.txt", root / "y.txt"], manifest=root / "manifest.json",
                            build=build_files, **common)
else:
    product = produce_folder(root, build=build_folder, **common)
print(json.dumps(product.unchanged), flush=True)
"""


def start_writer(start_python, *arguments):
    writer = start_python(WRITE, *arguments)
    assert writer.stdout.readline() == "starting\n"
    return writer


def waits(process):
    return select.select([process.stdout], [], [], 0.5)[0] == []


def go_on(process):
    process.stdin.write("\n")
    process.stdin.flush()


@pytest.mark.parametrize("form", ["files", "folder"])
def test_the_second_of_two_equal_writers_finds_the_first_ones_output(tmp_path, start_python, form):
    root = tmp_path / "made"
    first = start_writer(start_python, form, root, "content")
    assert first.stdout.readline() == "building\n"
    second = start_writer(start_python, form, root, "content")
    assert waits(second)
    go_on(first)
    assert first.stdout.readline() == "false\n"
    assert second.stdout.readline() == "true\n"


@pytest.mark.parametrize("form", ["files", "folder"])
def test_two_different_writers_do_not_mix(tmp_path, start_python, form):
    root = tmp_path / "made"
    first = start_writer(start_python, form, root, "first")
    assert first.stdout.readline() == "building\n"
    second = start_writer(start_python, form, root, "second")
    assert waits(second)
    go_on(first)
    assert first.stdout.readline() == "false\n"
    assert second.stdout.readline() == "building\n"
    assert {(root / name).read_text() for name in ("x.txt", "y.txt")} == {"first"}
    assert read_manifest(root).determinants == {"content": "first"}
    go_on(second)
    assert second.stdout.readline() == "false\n"
    assert {(root / name).read_text() for name in ("x.txt", "y.txt")} == {"second"}
    assert read_manifest(root).determinants == {"content": "second"}


@pytest.mark.parametrize("form", ["files", "folder"])
def test_a_writer_killed_while_building_leaves_the_old_output(tmp_path, start_python, form):
    root = tmp_path / "made"
    old = start_writer(start_python, form, root, "old")
    go_on(old)
    assert [old.stdout.readline() for _ in range(2)] == ["building\n", "false\n"]
    killed = start_writer(start_python, form, root, "new")
    assert killed.stdout.readline() == "building\n"
    killed.kill()
    killed.wait()
    assert start_writer(start_python, form, root, "old").stdout.readline() == "true\n"
