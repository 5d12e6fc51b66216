import json
from pathlib import Path

import pytest

from esm_sae.errors import InputError
from esm_sae.formats.manifest import (
    fingerprint_of,
    identity_of,
    in_place,
    manifest_beside,
    produce_files,
    produce_folder,
    read_manifest,
)


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


class Builder:
    """Writes files of a given content and counts how often it was asked to."""

    def __init__(
        self,
        content: str = "content",
        names: tuple[str, ...] = ("a.txt", "b.txt"),
        summary: dict | None = None,
    ):
        self.content = content
        self.names = names
        self.summary = summary
        self.calls = 0

    def folder(self, work: Path) -> dict:
        self.calls += 1
        for name in self.names:
            (work / name).write_text(self.content)
        return self.summary or {"files": len(self.names)}

    def files(self, paths: list[Path]) -> dict:
        self.calls += 1
        for path in paths:
            path.write_text(self.content)
        return self.summary or {"files": len(paths)}


def make_folder(root, builder, **determinants):
    return produce_folder(
        root / "made", kind="test", determinants=determinants, build=builder.folder
    )


def make_files(root, builder, names=("x.txt", "x.parquet"), **determinants):
    return produce_files(
        [root / name for name in names],
        manifest=manifest_beside(root / names[0]),
        kind="test",
        determinants=determinants,
        build=builder.files,
    )


@pytest.mark.parametrize("make", [make_folder, make_files])
def test_a_summary_is_read_in_the_order_it_was_given(tmp_path, make):
    summary = {"rows": 3, "fvu": 0.1, "best": [{"taxon": "x", "count": 1}]}
    builder = Builder(summary=summary)
    made, again = make(tmp_path, builder), make(tmp_path, builder)
    assert again.unchanged
    for product in (made, again):
        assert list(product.manifest.summary) == ["rows", "fvu", "best"]
        assert list(product.manifest.summary["best"][0]) == ["taxon", "count"]


@pytest.mark.parametrize("make", [make_folder, make_files])
def test_same_fingerprint_is_unchanged_and_not_built_again(tmp_path, make):
    builder = Builder()
    first = make(tmp_path, builder, seed=1)
    names = names_in(tmp_path)
    second = make(tmp_path, builder, seed=1)
    assert (first.unchanged, second.unchanged, builder.calls) == (False, True, 1)
    assert second.manifest == first.manifest
    assert second.manifest.summary == {"files": 2}
    assert names_in(tmp_path) == names


@pytest.mark.parametrize(("make", "file"), [(make_folder, "made/a.txt"), (make_files, "x.parquet")])
def test_a_flipped_byte_is_built_again(tmp_path, make, file):
    first = make(tmp_path, Builder(), seed=1)
    (tmp_path / file).write_text("contenT")
    builder = Builder()
    second = make(tmp_path, builder, seed=1)
    assert (second.unchanged, builder.calls) == (False, 1)
    assert second.manifest == first.manifest
    assert (tmp_path / file).read_text() == "content"


@pytest.mark.parametrize(("make", "file"), [(make_folder, "made/a.txt"), (make_files, "x.parquet")])
def test_a_missing_file_is_built_again(tmp_path, make, file):
    make(tmp_path, Builder(), seed=1)
    (tmp_path / file).unlink()
    assert not make(tmp_path, Builder(), seed=1).unchanged
    assert (tmp_path / file).read_text() == "content"


def test_another_fingerprint_replaces_the_folder_whole(tmp_path):
    make_folder(tmp_path, Builder("old", ("a.txt", "old.txt")), seed=1)
    product = make_folder(tmp_path, Builder("new", ("a.txt",)), seed=2)
    assert names_in(tmp_path / "made") == ["a.txt", "manifest.json"]
    assert (tmp_path / "made" / "a.txt").read_text() == "new"
    assert read_manifest(tmp_path / "made") == product.manifest
    assert names_in(tmp_path) == ["made"]


def test_another_fingerprint_replaces_the_files(tmp_path):
    make_files(tmp_path, Builder("old"), seed=1)
    product = make_files(tmp_path, Builder("new"), seed=2)
    assert not product.unchanged
    assert names_in(tmp_path) == ["x.parquet", "x.txt", "x.txt.manifest.json"]
    assert (tmp_path / "x.parquet").read_text() == "new"


@pytest.mark.parametrize("make", [make_folder, make_files])
def test_a_failed_build_keeps_the_old_output(tmp_path, make):
    first = make(tmp_path, Builder("old"), seed=1)

    class Failing(Builder):
        def folder(self, work):
            super().folder(work)
            raise InputError("no use")

        def files(self, paths):
            super().files(paths)
            raise InputError("no use")

    with pytest.raises(InputError, match="no use"):
        make(tmp_path, Failing(), seed=2)
    again = make(tmp_path, Builder("old"), seed=1)
    assert again.unchanged
    assert again.manifest == first.manifest
    assert [name for name in names_in(tmp_path) if name.startswith(".")] == []


def test_a_folder_build_goes_on_from_what_a_failed_one_left(tmp_path):
    seen = []

    def build(work):
        seen.append(names_in(work))
        (work / "shard_1").write_text("1")
        if len(seen) == 1:
            raise InputError("stopped")
        (work / "shard_2").write_text("2")
        return {}

    def make(seed):
        return produce_folder(
            tmp_path / "made", kind="test", determinants={"seed": seed}, build=build
        )

    with pytest.raises(InputError):
        make(1)
    product = make(1)
    assert seen == [[], ["shard_1"]]
    assert sorted(product.manifest.files) == ["shard_1", "shard_2"]


def test_work_folders_of_other_fingerprints_are_removed_but_not_those_of_other_targets(tmp_path):
    stale = tmp_path / f".made.{'0' * 16}.work"
    others = tmp_path / f".made.more.{'0' * 16}.work"
    for folder in (stale, others):
        folder.mkdir()
        (folder / "half").write_text("")
    make_folder(tmp_path, Builder(), seed=1)
    assert names_in(tmp_path) == [others.name, "made"]


def test_unfinished_files_in_a_resumed_work_folder_do_not_get_in(tmp_path):
    fingerprint = fingerprint_of("test", {"seed": 1})
    work = tmp_path / f".made.{fingerprint[:16]}.work"
    work.mkdir()
    (work / ".a.txt.0123456789ab.partial").write_text("half")
    (work / ".a.txt.lock").write_text("")
    (work / "manifest.json").write_text("{}")
    product = make_folder(tmp_path, Builder(), seed=1)
    assert sorted(product.manifest.files) == ["a.txt", "b.txt"]
    assert make_folder(tmp_path, Builder(), seed=1).unchanged


def test_temporaries_of_a_killed_writer_are_removed(tmp_path):
    for name in (".x.txt.0123456789ab.partial", ".x.txt.manifest.json.0123456789ab.partial"):
        (tmp_path / name).write_text("half")
    make_files(tmp_path, Builder(), seed=1)
    assert names_in(tmp_path) == ["x.parquet", "x.txt", "x.txt.manifest.json"]


def test_files_of_two_names_with_one_manifest_are_not_taken_for_one_another(tmp_path):
    builder = Builder()
    make_files(tmp_path, builder, names=("x.txt",), seed=1)
    product = make_files(tmp_path, builder, names=("x.json",), seed=1)
    assert not product.unchanged
    assert (tmp_path / "x.json").exists()


def test_identity_is_the_content_and_not_the_place(tmp_path):
    one, other = tmp_path / "one.txt", tmp_path / "other.txt"
    one.write_text("same")
    other.write_text("same")
    assert identity_of(one) == identity_of(other)
    other.write_text("else")
    assert identity_of(one) != identity_of(other)


def test_identity_of_a_manifested_file_is_the_recorded_hash_while_the_size_agrees(tmp_path):
    make_files(tmp_path, Builder(), seed=1)
    target = tmp_path / "x.txt"
    recorded = read_manifest(tmp_path / "x.txt.manifest.json").files["x.txt"]["sha256"]
    assert identity_of(target) == recorded
    target.write_text("longer content")
    assert identity_of(target) != recorded


def test_identity_of_a_folder_is_that_of_its_files(tmp_path):
    product = make_folder(tmp_path, Builder(), seed=1)
    assert identity_of(product.path) == product.manifest.data_version
    other = make_folder(tmp_path, Builder(), seed=2)
    assert identity_of(other.path) == product.manifest.data_version
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="incomplete"):
        identity_of(tmp_path / "empty")
    with pytest.raises(InputError, match="no such file"):
        identity_of(tmp_path / "missing.txt")


def test_the_fingerprint_depends_on_kind_and_determinants_but_not_on_their_order():
    assert fingerprint_of("a", {"x": 1, "y": [2]}) == fingerprint_of("a", {"y": [2], "x": 1})
    different = [
        fingerprint_of("a", {"x": 1}),
        fingerprint_of("b", {"x": 1}),
        fingerprint_of("a", {"x": 2}),
        fingerprint_of("a", {"x": "1"}),
        fingerprint_of("a", {"x": 1, "y": None}),
    ]
    assert len(set(different)) == len(different)


@pytest.mark.parametrize("content", ["[1]", "{}", '{"kind": 1}', "3"])
def test_a_file_that_is_no_manifest_is_named(tmp_path, content):
    path = tmp_path / "x.txt.manifest.json"
    path.write_text(content)
    with pytest.raises(InputError, match=r"x\.txt\.manifest\.json: not a manifest"):
        read_manifest(path)


def test_a_file_in_place_of_a_folder_is_refused(tmp_path):
    (tmp_path / "made").write_text("mine")
    with pytest.raises(InputError, match="is a file, expected a directory"):
        make_folder(tmp_path, Builder(), seed=1)
    assert (tmp_path / "made").read_text() == "mine"


def test_the_manifest_is_readable_json_with_sizes_and_hashes(tmp_path):
    make_files(tmp_path, Builder(), seed=1)
    content = json.loads((tmp_path / "x.txt.manifest.json").read_text())
    assert content["determinants"] == {"seed": 1}
    assert content["files"]["x.txt"]["bytes"] == len("content")


def test_a_folder_of_other_files_is_not_replaced(tmp_path):
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="would be lost"):
        make_folder(tmp_path, Builder(), seed=1)
    assert names_in(tmp_path) == ["made"]
    assert (tmp_path / "made" / "thesis.txt").read_text() == "mine"


def test_an_output_of_another_kind_is_not_replaced(tmp_path):
    make_folder(tmp_path, Builder("old"), seed=1)
    with pytest.raises(InputError, match="no earlier other"):
        produce_folder(
            tmp_path / "made", kind="other", determinants={"seed": 1}, build=Builder().folder
        )
    assert (tmp_path / "made" / "a.txt").read_text() == "old"


def test_an_empty_folder_is_filled(tmp_path):
    (tmp_path / "made").mkdir()
    assert not make_folder(tmp_path, Builder(), seed=1).unchanged


def test_a_build_that_fails_at_once_leaves_no_work_folder(tmp_path):
    def build(work):
        raise InputError("no use")

    with pytest.raises(InputError, match="no use"):
        produce_folder(tmp_path / "made", kind="test", determinants={}, build=build)
    assert names_in(tmp_path) == []


def test_a_dropped_name_that_holds_another_file_now_is_left_alone(tmp_path):
    first = make_files(tmp_path, Builder(), ("x.txt", "y.txt"), seed=1)
    (tmp_path / "y.txt").write_text("someone's own")
    produce_files(
        [tmp_path / "x.txt"],
        manifest=first.manifest_path,
        kind="test",
        determinants={"seed": 2},
        build=Builder().files,
    )
    assert (tmp_path / "y.txt").read_text() == "someone's own"


def test_files_in_place_are_told_by_their_sizes(tmp_path):
    made = make_folder(tmp_path, Builder(), seed=1)
    assert in_place(made.manifest, made.manifest_path)
    (made.path / "a.txt").unlink()
    assert not in_place(made.manifest, made.manifest_path)


@pytest.mark.parametrize("change", [{"files": []}, {"files": {"a": 3}}, {"determinants": None}])
def test_a_manifest_of_another_shape_is_refused(tmp_path, change):
    whole = {"kind": "k", "fingerprint": "f", "determinants": {}, "files": {}, "summary": {}}
    (tmp_path / "manifest.json").write_text(json.dumps(whole | change))
    with pytest.raises(InputError, match="not a manifest"):
        read_manifest(tmp_path)


def test_a_folder_in_place_of_a_file_is_named(tmp_path):
    (tmp_path / "a.txt").mkdir()
    with pytest.raises(InputError, match=r"a\.txt: is a directory"):
        produce_files(
            [tmp_path / "a.txt"],
            manifest=tmp_path / "m.json",
            kind="test",
            determinants={},
            build=Builder().files,
        )
    assert names_in(tmp_path) == ["a.txt"]
