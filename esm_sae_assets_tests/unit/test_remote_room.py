"""Local copies of object storage take no more room than they may."""

import pytest

from esm_sae.errors import InputError
from esm_sae.formats.verification import product_at
from mirrored_outputs import make_file, make_folder, read


def fill(machine, names, size=1000):
    mirror = machine()
    for name in names:
        make_file(mirror, name[:1].encode() * size, name)


def here(mirror):
    return {path.name for path in mirror.folder.glob("*.parquet")}


def test_the_longest_unused_goes_first(machine):
    fill(machine, ["a.parquet", "b.parquet", "c.parquet"])
    # Each has 3,000 bytes.
    mirror = machine("two", limit=6_000)
    for name in ("a.parquet", "b.parquet", "a.parquet", "c.parquet"):
        with mirror.step():
            mirror.bring_file(name)
    assert here(mirror) == {"a.parquet", "c.parquet"}
    assert read(mirror, "b.parquet") == b"b" * 1000


def test_what_a_step_asked_for_stays_and_too_much_is_one_error(machine):
    fill(machine, ["a.parquet", "b.parquet", "c.parquet"])
    mirror = machine("two", limit=6_500)
    with mirror.step():
        mirror.bring_file("a.parquet")
        mirror.bring_file("b.parquet")
        with pytest.raises(InputError, match=r"has 9,000 bytes.*may have 6,500.*CACHE_SIZE_GB"):
            mirror.bring_file("c.parquet")
        assert here(mirror) == {"a.parquet", "b.parquet"}


def test_what_another_process_uses_stays(machine, start_python, tmp_path, bucket_url):
    fill(machine, ["a.parquet", "b.parquet"])
    mirror = machine("two", limit=3_000)
    with mirror.step():
        mirror.bring_file("a.parquet")
    user = start_python(
        "import sys\n"
        "from pathlib import Path\n"
        "from esm_sae.remote.room import Room\n"
        "room = Room(Path(sys.argv[1]), 1, lambda name, version: False)\n"
        "room.hold('a.parquet')\n"
        "print('holds', flush=True)\n"
        "sys.stdin.readline()\n",
        str(mirror.folder / ".store"),
    )
    assert user.stdout.readline() == "holds\n"
    with pytest.raises(InputError, match="has 6,000 bytes"):
        mirror.bring_file("b.parquet")
    user.kill()
    user.wait()
    mirror.bring_file("b.parquet")
    assert here(mirror) == {"b.parquet"}


def test_what_has_not_reached_the_store_is_never_removed(machine):
    fill(machine, ["a.parquet"])
    mirror = machine("two", limit=3_000)
    with mirror.step():
        make_file(mirror, b"u" * 1000, "unsent.parquet", push=False)
        mirror.bring_file("a.parquet")
    with mirror.step():
        pass
    assert here(mirror) == {"a.parquet", "unsent.parquet"}


def test_the_copies_are_within_the_bound_once_a_step_is_over(machine):
    mirror = machine(limit=3_000)
    with mirror.step():
        make_file(mirror, b"a" * 1000, "a.parquet")
        make_file(mirror, b"b" * 1000, "b.parquet")
        assert here(mirror) == {"a.parquet", "b.parquet"}
    assert here(mirror) == {"b.parquet"}


def test_a_folder_with_another_output_in_it_goes_after_that(machine):
    mirror = machine(limit=1_500)
    with mirror.step():
        make_folder(mirror, b"m" * 1000)
        make_folder(mirror, b"f" * 1000, "model/metrics")
    assert product_at(mirror.folder / "model") is not None
    assert not (mirror.folder / "model/metrics/manifest.json").exists()


def test_within_a_step_an_output_stays_what_it_was(machine):
    one, two = machine(), machine("two")
    make_file(one, b"old")
    with two.step():
        assert read(two) == b"old"
        make_file(one, b"new")
        assert read(two) == b"old"
    assert read(two) == b"new"
