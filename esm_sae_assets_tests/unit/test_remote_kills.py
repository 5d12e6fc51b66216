"""A process is killed before each of its steps on the local disk: nothing is mixed or leaks."""

import os
import uuid

import pytest

from esm_sae import storage
from esm_sae.formats.manifest import (
    manifest_beside,
    produce_files,
    produce_folder,
    read_manifest,
)
from esm_sae.remote import Mirror, ObjectStore

STEPS = ("replace", "unlink", "mkdir", "rmdir")
ROOMY = 10**9
MODEL = "model/manifest.json"
NEW = {MODEL, "model/both/x", "model/only_new/x"}


@pytest.fixture
def machine(tmp_path):
    """Return a function that gives a process of a machine: a copy of the one store."""
    url = f"memory://bucket/{uuid.uuid4().hex}"

    def make(name="one", limit=ROOMY):
        return Mirror(ObjectStore(url), tmp_path / name, limit)

    return make


@pytest.fixture(autouse=True)
def unsynced(monkeypatch):
    # A kill loses nothing that was written, so the slow part of syncing can be left out.
    monkeypatch.setattr(os, "fsync", lambda _descriptor: None)


def bring(mirror, name="model"):
    with mirror.step():
        (mirror.bring_file if "." in name else mirror.bring_folder)(name)


def make_model(mirror, content, name="model"):
    bring(mirror, name)

    def build(work):
        for part in ("both", f"only_{content}"):
            (work / part).mkdir()
            (work / part / "x").write_text(content)
        return {}

    product = produce_folder(
        mirror.folder / name, kind="model", determinants={"content": content}, build=build
    )
    mirror.push(product)


def make_table(mirror, content):
    bring(mirror, "table.txt")
    path = mirror.folder / "table.txt"
    product = produce_files(
        [path, path.with_suffix(".second")],
        manifest=manifest_beside(path),
        kind="table",
        determinants={"content": content},
        build=lambda paths: {"bytes": [each.write_text(content) for each in paths]},
    )
    mirror.push(product)


def kill_before(step, monkeypatch, work):
    """Do work, and stop it as a kill does; tell whether it was."""
    steps = iter(range(step + 1))

    def counted(original):
        def call(path, *arguments, **options):
            # A killed process's locks end with it.
            if not str(path).endswith(".lock") and next(steps, None) == step:
                raise KeyboardInterrupt
            return original(path, *arguments, **options)

        return call

    with monkeypatch.context() as patch:
        for name in STEPS:
            patch.setattr(os, name, counted(getattr(os, name)))
        try:
            work()
        except KeyboardInterrupt:
            return True
    return False


def is_whole(mirror):
    """Whether an output is here with all its files; those that are here must be its own."""
    folder = mirror.folder / "model"
    manifest = read_manifest(folder)
    if manifest is None:
        return False
    there = {name: entry for name, entry in manifest.files.items() if (folder / name).exists()}
    for name, entry in there.items():
        assert storage.sha256_of(folder / name) == entry["sha256"]
    return there == manifest.files


def files_of(mirror):
    names = {
        path.relative_to(mirror.folder).as_posix()
        for path in mirror.folder.rglob("*")
        if path.is_file() and path.suffix != ".lock"
    }
    return {name for name in names if not name.startswith(".store/")}


def make_room(mirror):
    with mirror.step():
        pass


def kills(machine, monkeypatch, prepare, work):
    """Yield a machine for each step that a process of it is killed before."""
    for step in range(1000):
        name = f"killed before {step}"
        prepare(machine(name))
        if not kill_before(step, monkeypatch, lambda name=name: work(name)):
            assert step > 5
            return
        yield name


@pytest.fixture
def killed_fetches(machine, monkeypatch):
    """Names of machines that were killed while a second version came in place of a first."""

    def prepare(mirror):
        make_model(machine(), "old")
        bring(mirror)
        make_model(machine(), "new")

    return kills(machine, monkeypatch, prepare, lambda name: bring(machine(name)))


def test_a_killed_fetch_leaves_no_mixture_and_is_gone_on_with(machine, killed_fetches):
    for name in killed_fetches:
        mirror = machine(name)
        is_whole(mirror)
        bring(mirror)
        assert is_whole(mirror)
        assert files_of(mirror) == NEW


def test_after_a_killed_fetch_nothing_is_left_of_what_is_gone_from_the_store(
    machine, killed_fetches
):
    for name in killed_fetches:
        mirror = machine(name)
        # What is complete and not recorded yet passes for made here.
        is_new = is_whole(mirror) and (mirror.folder / "model/only_new").exists()
        mirror.store.remove([MODEL])
        bring(mirror)
        left = files_of(mirror)
        assert left == set() or (is_new and left == NEW)


def test_after_a_killed_fetch_what_takes_room_can_go(machine, killed_fetches):
    for name in killed_fetches:
        make_room(machine(name, limit=0))
        mirror = machine(name)
        # What is complete and not recorded yet passes for made here.
        assert files_of(mirror) == (NEW if is_whole(mirror) else set())


@pytest.mark.parametrize("name", ["model", "table.txt"])
def test_a_killed_eviction_is_gone_on_with(machine, monkeypatch, name):
    make = make_table if "." in name else make_model
    make(machine(), "old")
    killed = kills(
        machine,
        monkeypatch,
        lambda mirror: bring(mirror, name),
        lambda each: make_room(machine(each, limit=0)),
    )
    for each in killed:
        make_room(machine(each, limit=0))
        mirror = machine(each)
        assert files_of(mirror) == set()
        assert list((mirror.folder / ".store/incoming").glob("*")) == []


def test_what_a_killed_process_was_bringing_goes_when_room_is_made(machine, monkeypatch):
    make_model(machine(), "one")
    killed = machine("killed")
    fetch = killed.store.fetch

    def die(name, target):
        fetch(name, target)
        raise KeyboardInterrupt

    killed.store.fetch = die
    with pytest.raises(KeyboardInterrupt):
        bring(killed)
    incoming = killed.folder / ".store/incoming"
    assert list(incoming.iterdir()) != []
    make_model(machine(), "two", "other")
    bring(machine("killed"), "other")
    assert list(incoming.iterdir()) == []
