"""Objects that no manifest names are removed once they are old, and nothing else is."""

import uuid
from datetime import UTC, datetime, timedelta

import pytest

from esm_sae.errors import InputError
from esm_sae.formats.manifest import manifest_beside, produce_files
from esm_sae.remote import Mirror, ObjectStore, prune
from esm_sae_assets.prune import main

WEEK = timedelta(days=7)
OWNERS = ("notes.txt", "notes.json", f"backup.{'5a' * 16}.tar")


@pytest.fixture
def store():
    return ObjectStore(f"memory://bucket/{uuid.uuid4().hex}")


@pytest.fixture
def older_output(store, tmp_path):
    """An output with an older version, of which the object of 3 bytes is left."""
    mirror = Mirror(store, tmp_path, 10**9)
    path = tmp_path / "x.txt"
    for content in (b"old", b"newer"):
        product = produce_files(
            [path],
            manifest=manifest_beside(path),
            kind="test",
            determinants={"content": content.decode()},
            build=lambda paths, content=content: {"bytes": paths[0].write_bytes(content)},
        )
        mirror.push(product)
    for name in OWNERS:
        store.write(name, b"of the owner")
    return mirror


def later(days):
    return lambda: datetime.now(UTC) + timedelta(days=days)


def test_only_old_objects_that_no_manifest_names_go(store, older_output):
    before = store.list("", below=True)
    assert prune(store, older_than=WEEK, remove=True).old == 0
    counted = prune(store, older_than=WEEK, remove=False, clock=later(8))
    assert counted == (1, 5, 1, 3, 1, 3)
    assert store.list("", below=True).keys() == before.keys()
    prune(store, older_than=WEEK, remove=True, clock=later(8))
    gone = before.keys() - store.list("", below=True).keys()
    assert [before[name].bytes for name in gone] == [3]
    assert store.read(OWNERS).keys() == set(OWNERS)
    assert prune(store, older_than=WEEK, remove=True, clock=later(8)) == (1, 5, 0, 0, 0, 0)


def test_an_age_of_less_than_a_day_is_refused(store, older_output):
    with pytest.raises(InputError, match="too short"):
        prune(store, older_than=timedelta(hours=23), remove=True, clock=later(8))


def test_nothing_is_removed_where_a_manifest_cannot_be_read(store, older_output):
    before = store.list("", below=True)
    store.write("y.txt.manifest.json", b"{")
    with pytest.raises(InputError, match=r"y\.txt\.manifest\.json: not a manifest"):
        prune(store, older_than=WEEK, remove=True, clock=later(8))
    assert before.keys() < store.list("", below=True).keys()


@pytest.mark.parametrize(("hours", "is_sent"), [(1, False), (13, True), (23, True)])
def test_an_object_that_may_go_before_the_upload_is_done_is_sent_again(
    store, older_output, tmp_path, monkeypatch, hours, is_sent
):
    name = next(n for n, found in store.list("", below=True).items() if found.bytes == 3)
    written = datetime.now(UTC) - timedelta(hours=hours)
    # So the store in memory tells when an object was written.
    monkeypatch.setattr(store._files.store[store._place(name)], "created", written)
    path = tmp_path / "x.txt"
    product = produce_files(
        [path],
        manifest=manifest_beside(path),
        kind="test",
        determinants={"content": "old"},
        build=lambda paths: {"bytes": paths[0].write_bytes(b"old")},
    )
    sent = []
    monkeypatch.setattr(store, "upload", lambda source, target: sent.append(target))
    older_output.push(product)
    assert sent == ([name] if is_sent else [])


def test_the_command_counts_and_removes(store, older_output, monkeypatch, capsys):
    monkeypatch.setenv("ESM_SAE_DATA_ROOT", store.url)
    assert main(["--older-than", "1d"]) == 0
    shown = capsys.readouterr().out
    assert "1 objects (5 bytes) that a manifest names" in shown
    assert "0 of them (0 bytes) older than 1 days; remove them with --remove" in shown
    assert main(["--remove"]) == 0


def test_the_command_says_that_the_store_cannot_be_reached(store, monkeypatch, capsys):
    def fail(*_arguments, **_options):
        raise TimeoutError("slow")

    monkeypatch.setattr("fsspec.implementations.memory.MemoryFileSystem.find", fail)
    monkeypatch.setenv("ESM_SAE_DATA_ROOT", store.url)
    assert main([]) == 2
    said = capsys.readouterr().err
    assert said == f"error: {store.url}: cannot be reached (TimeoutError: slow)\n"


@pytest.mark.parametrize("arguments", [["--older-than", "0"], []])
def test_the_command_refuses_what_makes_no_sense(arguments, store, tmp_path, monkeypatch, capsys):
    root = store.url if arguments else str(tmp_path)
    monkeypatch.setenv("ESM_SAE_DATA_ROOT", root)
    assert main(arguments) == 2
    assert capsys.readouterr().err.startswith("error: ")
