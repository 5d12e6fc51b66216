"""A data root on object storage and its local copies, on a store in memory, with faults."""

import json
import os
import uuid
from contextlib import suppress

import numpy as np
import pytest

from esm_sae import storage
from esm_sae.errors import InputError
from esm_sae.formats.manifest import (
    Product,
    manifest_beside,
    produce_files,
    produce_folder,
    read_manifest,
)
from esm_sae.formats.shards import open_shards, publish_manifest
from esm_sae.formats.verification import product_at
from esm_sae.remote import Mirror, ObjectStore, manifest_at
from esm_sae.remote.store import is_object_name

ROOMY = 10**9


class CountingStore(ObjectStore):
    """A store that counts what is sent and fetched, and can fail as a killed process does."""

    def __init__(self, url):
        super().__init__(url)
        self.sent, self.fetched = [], []
        self.dies_before = ""

    def upload(self, source, name):
        super().upload(source, name)
        self.sent.append(name)

    def write(self, name, content):
        if self.dies_before and name.endswith(self.dies_before):
            raise KeyboardInterrupt
        super().write(name, content)
        self.sent.append(name)

    def fetch(self, name, target):
        super().fetch(name, target)
        self.fetched.append(name)


@pytest.fixture
def url():
    return f"memory://bucket/{uuid.uuid4().hex}"


@pytest.fixture
def machine(url, tmp_path):
    """Return a function that gives a machine of its own: a copy of the one store."""

    def make(name="one", limit=ROOMY):
        return Mirror(CountingStore(url), tmp_path / name, limit)

    return make


def make_file(mirror, content, name="table.parquet", *, push=True):
    path = mirror.folder / name
    mirror.bring_file(name)

    def build(paths):
        paths[0].write_bytes(content)
        paths[1].write_bytes(content * 2)
        return {}

    product = produce_files(
        [path, path.with_suffix(".second")],
        manifest=manifest_beside(path),
        kind="test",
        determinants={"content": content.decode()},
        build=build,
    )
    if push:
        mirror.push(product)
    return product


def make_folder(mirror, content, name="model", *, push=True):
    mirror.bring_folder(name)

    def build(work):
        (work / "inner").mkdir(exist_ok=True)
        (work / "inner" / "weights.npy").write_bytes(content)
        (work / "config.json").write_bytes(b"{}")
        return {}

    product = produce_folder(
        mirror.folder / name,
        kind=f"test {name}",
        determinants={"content": content.decode()},
        build=build,
    )
    if push:
        mirror.push(product)
    return product


def read(mirror, name="table.parquet"):
    mirror.bring_file(name)
    path = mirror.folder / name
    assert product_at(path) is not None
    contents = path.read_bytes(), path.with_suffix(".second").read_bytes()
    assert contents[1] == contents[0] * 2, "files of two outputs mixed"
    return contents[0]


def objects(mirror):
    return {name for name in mirror.store.list("", below=True) if is_object_name(name)}


def test_another_machine_gets_the_bytes_and_finds_the_output_unchanged(machine):
    made = make_file(machine(), b"rows")
    other = machine("two")
    assert read(other) == b"rows"
    again = make_file(other, b"rows")
    assert again.unchanged
    assert again.manifest == made.manifest
    assert other.store.sent == []


def test_objects_are_named_by_content_and_the_manifest_comes_last(machine):
    mirror = machine()
    product = make_file(mirror, b"rows")
    digest = product.manifest.files["table.parquet"]["sha256"]
    assert mirror.store.sent[0] == f"table.{digest}.parquet"
    assert mirror.store.sent[-1] == "table.parquet.manifest.json"
    assert mirror.address(product) == mirror.store.address(mirror.store.sent[0])
    at = mirror.manifest_address(product.manifest_path)
    assert manifest_at(at) == product.manifest
    assert manifest_at(at + "x") is None


def test_a_folder_is_fetched_whole_with_its_inner_folders(machine):
    make_folder(machine(), b"one")
    other = machine("two")
    other.bring_folder("model")
    assert (other.folder / "model/inner/weights.npy").read_bytes() == b"one"
    assert product_at(other.folder / "model") is not None


def test_only_what_changed_is_sent_and_fetched(machine):
    one, two = machine(), machine("two")
    make_folder(one, b"one")
    two.bring_folder("model")
    one.store.sent.clear()
    two.store.fetched.clear()
    make_folder(one, b"two")
    assert [name for name in one.store.sent if "config" in name] == []
    two.bring_folder("model")
    assert len(two.store.fetched) == 1
    assert (two.folder / "model/inner/weights.npy").read_bytes() == b"two"


def test_a_reader_sees_the_old_output_until_the_manifest_is_there(machine):
    make_file(machine(), b"old")
    killed = machine("two")
    killed.store.dies_before = ".json"
    with suppress(KeyboardInterrupt):
        make_file(killed, b"new")
    assert len(objects(killed)) == 4
    assert read(machine("three")) == b"old"


def test_what_a_killed_process_had_not_sent_is_sent_by_the_next(machine):
    make_file(machine(), b"old")
    killed = machine("two")
    killed.store.dies_before = ".json"
    with suppress(KeyboardInterrupt):
        make_file(killed, b"new")
    successor = machine("two")
    again = make_file(successor, b"new")
    assert again.unchanged
    # Its objects were sent before the kill.
    assert successor.store.sent == ["table.parquet.manifest.json"]
    assert read(machine("three")) == b"new"


def test_what_was_not_sent_gives_way_to_what_another_machine_sent_since(machine):
    make_file(machine(), b"old")
    make_file(machine("two"), b"lost", push=False)
    make_file(machine(), b"new")
    assert read(machine("two")) == b"new"


def test_two_writers_whose_steps_interleave_leave_one_whole_output(machine):
    one, two = machine(), machine("two")
    first = make_file(one, b"one", push=False)
    second = make_file(two, b"two", push=False)
    sent = one.store.upload

    def send_between(source, name):
        sent(source, name)
        if len(one.store.sent) == 1:
            two.push(second)

    one.store.upload = send_between
    one.push(first)
    assert read(machine("three")) == b"one"
    assert len(objects(one)) == 4


def test_a_damaged_object_is_found_and_named(machine, url):
    make_file(machine(), b"rows")
    for damage in (b"rowz", b"ro"):
        mirror = machine(damage.decode())
        name = next(name for name in objects(mirror) if name.endswith(".parquet"))
        mirror.store.write(name, damage)
        with pytest.raises(InputError, match="is damaged, its hash is another") as raised:
            mirror.bring_file("table.parquet")
        assert f"{url}/{name}" in str(raised.value)
        assert f"remove {url}/table.parquet.manifest.json" in str(raised.value)
        assert not (mirror.folder / "table.parquet").exists()
        assert product_at(mirror.folder / "table.parquet") is None


def test_a_missing_object_is_named_and_mended_by_making_the_output_again(machine):
    make_file(machine(), b"rows")
    mirror = machine("two")
    name = next(name for name in objects(mirror) if name.endswith(".parquet"))
    mirror.store.remove([name])
    with pytest.raises(InputError, match=f"{name}: is missing"):
        mirror.bring_file("table.parquet")
    mirror.store.remove(["table.parquet.manifest.json"])
    make_file(mirror, b"rows")
    assert read(machine("three")) == b"rows"


def test_what_is_no_manifest_is_named(machine, url):
    mirror = machine()
    for content in (b"{", b"[]", json.dumps({"kind": "x"}).encode()):
        mirror.store.write("table.parquet.manifest.json", content)
        with pytest.raises(InputError, match=f"{url}/table.parquet.manifest.json: not a manifest"):
            mirror.bring_file("table.parquet")


def test_a_manifest_cannot_name_files_outside_of_its_folder(machine):
    mirror = machine()
    product = make_file(mirror, b"rows")
    for name in ("../stolen", "/etc/stolen", "a/../../stolen"):
        content = json.loads(product.manifest_path.read_bytes())
        content["files"] = {name: {"sha256": "0" * 64, "bytes": 1}}
        mirror.store.write("other.parquet.manifest.json", json.dumps(content).encode())
        with pytest.raises(InputError, match="not a manifest"):
            machine("two").bring_file("other.parquet")


@pytest.mark.parametrize("name", ["../stolen", "a/../../stolen", "/etc/stolen", "a\0b"])
def test_names_that_lead_out_of_the_copy_are_refused(machine, tmp_path, name):
    mirror = machine()
    brought = (
        lambda: mirror.bring_file(name),
        lambda: mirror.bring_folder(name),
        lambda: mirror.bring([f"{name}.json"], hold="a"),
    )
    for bring in brought:
        with pytest.raises(InputError, match="leaves the data root"):
            bring()
    assert list(tmp_path.rglob("*stolen*")) == []


def test_what_was_removed_from_the_store_goes_from_the_copy(machine):
    mirror = machine()
    product = make_file(mirror, b"rows")
    make_folder(mirror, b"one")
    mirror.store.remove(["table.parquet.manifest.json", "model/manifest.json"])
    mirror.bring_file("table.parquet")
    mirror.bring_folder("model")
    assert not product.path.exists()
    assert not (mirror.folder / "model").exists()


def test_a_new_folder_takes_the_outputs_in_the_old_one_with_it(machine):
    mirror = machine()
    make_folder(mirror, b"one")
    make_folder(mirror, b"figures", "model/metrics")
    make_folder(mirror, b"two")
    assert mirror.store.read(["model/metrics/manifest.json"]) == {}
    other = machine("two")
    other.bring_folder("model/metrics")
    assert not (other.folder / "model/metrics").exists()


def test_an_output_in_a_folder_outlives_that_the_folder_is_fetched(machine):
    one = machine()
    make_folder(one, b"one")
    make_folder(one, b"figures", "model/metrics")
    two = machine("two")
    two.bring_folder("model/metrics")
    two.bring_folder("model")
    for name in ("model", "model/metrics"):
        assert product_at(two.folder / name) is not None


def test_what_others_do_in_a_folder_outlives_that_it_is_fetched(machine):
    one, two = machine(), machine("two")
    make_folder(one, b"one")
    two.bring_folder("model")
    theirs = two.folder / "model/.metrics.0123456789abcdef.work/half"
    theirs.parent.mkdir()
    with theirs.open("w") as being_written:
        make_folder(one, b"two")
        two.bring_folder("model")
        assert os.path.samestat(os.fstat(being_written.fileno()), theirs.stat())
    assert (two.folder / "model/inner/weights.npy").read_bytes() == b"two"


def test_what_was_not_sent_outlives_that_the_folder_around_it_is_removed(machine):
    mirror = machine()
    make_folder(mirror, b"one")
    make_folder(mirror, b"sent", "model/figures")
    make_folder(mirror, b"unsent", "model/metrics", push=False)
    mirror.store.remove(["model/manifest.json", "model/figures/manifest.json"])
    mirror.bring_folder("model")
    assert {path.name for path in (mirror.folder / "model").iterdir()} == {"metrics"}
    assert product_at(mirror.folder / "model/metrics") is not None


def test_outputs_stay_where_the_folder_around_them_is_none(machine):
    mirror = machine()
    make_folder(mirror, b"one", "analysis/activations")
    mirror.bring_folder("analysis")
    assert product_at(mirror.folder / "analysis/activations") is not None


def test_files_of_the_owner_stay_beside_an_output(machine):
    mirror = machine()
    make_folder(mirror, b"one")
    own = ["model/notes.json", "model/mine/notes.json", "model/mine/manifest.json"]
    for name in own:
        mirror.store.write(name, b"{}")
    make_folder(mirror, b"two")
    assert mirror.store.read(own).keys() == set(own)


def test_a_file_changed_by_hand_is_not_sent(machine):
    mirror = machine()
    product = make_file(mirror, b"rows", push=False)
    product.path.write_bytes(b"rowz")
    with pytest.raises(InputError, match="not the file that its manifest records"):
        mirror.push(product)
    assert mirror.store.read(["table.parquet.manifest.json"]) == {}


def test_what_another_process_has_replaced_is_not_sent(machine):
    mirror = machine()
    product = make_file(mirror, b"mine", push=False)
    make_file(mirror, b"other")
    with pytest.raises(InputError, match="replaced by another process"):
        mirror.push(product)


def test_what_is_made_while_the_store_is_asked_stays(machine):
    make_file(machine(), b"old")
    mirror = machine("two")
    mirror.bring_file("table.parquet")
    asked = mirror.store.read

    def read_then_make(names):
        found = asked(names)
        mirror.store.read = asked
        make_file(machine("two"), b"new")
        return found

    mirror.store.read = read_then_make
    mirror.bring_file("table.parquet")
    assert (mirror.folder / "table.parquet").read_bytes() == b"new"
    assert read(mirror) == b"new"


def test_a_file_lost_from_the_copy_is_fetched_again(machine):
    mirror = machine()
    make_folder(mirror, b"one")
    (mirror.folder / "model/inner/weights.npy").unlink()
    mirror.bring_folder("model")
    assert (mirror.folder / "model/inner/weights.npy").read_bytes() == b"one"
    assert len(mirror.store.fetched) == 1


# ---- the bound


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


def test_what_another_process_uses_stays(machine, start_python, tmp_path, url):
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


# ---- shards


@pytest.fixture
def shards(write_shards, random_proteins):
    """Return a function that writes shards of random rows into a folder."""

    def write(folder, *, count=2, seed=0):
        generator = np.random.default_rng(seed)
        proteins = [
            (header, generator.standard_normal((1, 4)).astype(np.float32))
            for header, _ in random_proteins(6)
        ]
        return write_shards(folder, proteins, count=count)

    return write


def push_shards(mirror, shards, **options):
    folder = shards(mirror.folder / "embeddings3", **options)
    for path in sorted(folder.glob("*-of-*.json")):
        mirror.push(shard_at(path))
    return folder


def shard_at(path):
    manifest = read_manifest(path)
    assert manifest is not None
    return Product(path.with_suffix(".npy"), manifest, path, unchanged=False)


def bring_tables(mirror, count=2):
    names = [f"embeddings3/embeddings_{n:04d}-of-{count:04d}.json" for n in range(count)]
    names.append("embeddings3/manifest.json")
    mirror.bring(names, hold="embeddings3", without=".npy")
    return mirror.folder / "embeddings3"


def test_one_shard_is_brought_without_the_others(machine, shards):
    push_shards(machine(), shards)
    two = machine("two")
    two.bring(["embeddings3/embeddings_0001-of-0002.json"])
    assert {path.name for path in (two.folder / "embeddings3").glob("*.npy")} == {
        "embeddings_0001-of-0002.npy"
    }


def test_the_common_manifest_is_made_and_read_without_the_matrices(machine, shards):
    folder = push_shards(machine(), shards)
    two = machine("two")
    product = publish_manifest(bring_tables(two), count=2, matrices=False)
    two.push(product)
    assert not [name for name in two.store.fetched if name.endswith(".npy")]
    local = publish_manifest(folder, count=2)
    assert product.manifest == local.manifest
    three = machine("three")
    three.bring_folder("embeddings3")
    opened = open_shards(three.folder / "embeddings3")
    np.testing.assert_array_equal(
        opened.rows_at(np.arange(6)), open_shards(folder).rows_at(np.arange(6))
    )
    two.bring_folder("embeddings3")
    assert open_shards(two.folder / "embeddings3").fingerprint == opened.fingerprint


def test_two_processes_that_want_more_and_less_of_a_shard_both_get_it(machine, shards):
    push_shards(machine(), shards)
    less, more = machine("two"), machine("two")
    asked = more.store.read

    def read_then_bring_tables(names):
        found = asked(names)
        more.store.read = asked
        bring_tables(less)
        return found

    more.store.read = read_then_bring_tables
    more.bring_folder("embeddings3")
    assert open_shards(more.folder / "embeddings3").rows == 6


def test_rows_of_matrices_that_are_elsewhere_are_nan(machine, shards):
    push_shards(machine(), shards)
    opened = open_shards(bring_tables(machine("two")), matrices=False)
    assert (opened.rows, opened.width, opened.proteins) == (6, 4, 6)
    assert np.isnan(opened.rows_at(np.arange(6))).all()


def test_shards_of_another_split_go_from_the_store_and_from_other_copies(machine, shards):
    one, two = machine(), machine("two")
    push_shards(one, shards)
    one.push(publish_manifest(bring_tables(one), count=2, matrices=False))
    two.bring_folder("embeddings3")
    three = machine("three")
    bring_tables(three, 3)
    push_shards(three, shards, count=3)
    three.push(publish_manifest(bring_tables(three, 3), count=3, matrices=False))
    two.bring_folder("embeddings3")
    opened = open_shards(two.folder / "embeddings3")
    assert [path.name for path in opened.paths] == [
        f"embeddings_{n:04d}-of-0003.npy" for n in range(3)
    ]


def change_shard(mirror):
    """Make the first shard anew, of the same size, with rows of ones, and send it."""
    matrix = mirror.folder / "embeddings3/embeddings_0000-of-0002.npy"
    storage.replace(saved(np.ones((3, 4), np.float32), mirror.folder / "ones.npy"), matrix)
    content = json.loads(matrix.with_suffix(".json").read_bytes())
    content["files"][matrix.name] = {
        "sha256": storage.sha256_of(matrix),
        "bytes": os.path.getsize(matrix),
    }
    storage.publish_json(matrix.with_suffix(".json"), content)
    mirror.push(shard_at(matrix.with_suffix(".json")))
    return matrix


def saved(array, path):
    np.save(path, array)
    return path


def test_a_matrix_that_was_left_out_is_not_taken_for_that_of_the_new_shard(machine, shards):
    one, two = machine(), machine("two")
    push_shards(one, shards)
    two.bring_folder("embeddings3")
    matrix = change_shard(one)
    bring_tables(two)
    two.bring_folder("embeddings3")
    assert (np.load(two.folder / "embeddings3" / matrix.name) == 1).all()


def test_a_shard_that_was_only_read_is_not_sent_with_the_common_manifest(machine, shards):
    one, two = machine(), machine("two")
    push_shards(one, shards)
    product = publish_manifest(bring_tables(two), count=2, matrices=False)
    change_shard(one)
    changed = two.store.list("embeddings3").keys()
    with pytest.raises(InputError, match=r"0000-of-0002\.json: has been replaced .* step again"):
        two.push(product)
    assert two.store.list("embeddings3").keys() == changed
    # The step is run again.
    product = publish_manifest(bring_tables(two), count=2, matrices=False)
    two.push(product)
    three = machine("three")
    three.bring_folder("embeddings3")
    assert product_at(three.folder / "embeddings3").manifest == product.manifest
    assert (open_shards(three.folder / "embeddings3").rows_at(np.arange(3)) == 1).all()


def test_the_common_manifest_is_not_sent_where_a_shard_is_gone(machine, shards):
    one, two = machine(), machine("two")
    push_shards(one, shards)
    product = publish_manifest(bring_tables(two), count=2, matrices=False)
    one.store.remove(["embeddings3/embeddings_0001-of-0002.json"])
    with pytest.raises(InputError, match=r"0001-of-0002\.json: has been replaced or removed"):
        two.push(product)


def test_what_another_process_brought_meanwhile_is_counted(machine, shards, monkeypatch):
    push_shards(machine(), shards)
    less, more = machine("two"), machine("two")
    add = less._copies.add

    def add_then_bring_matrices(output, *arguments, **options):
        fetched = add(output, *arguments, **options)
        more.bring([output.name])
        return fetched

    monkeypatch.setattr(less._copies, "add", add_then_bring_matrices)
    bring_tables(less)
    for path in (less.folder / "embeddings3").glob("*.json"):
        record = less._room.record_of(f"embeddings3/{path.name}")
        files = [path.with_suffix(".npy"), path.with_suffix(".parquet")]
        assert record.bytes == sum(file.stat().st_size for file in files)


def test_a_changed_shard_reaches_other_copies_alone(machine, shards):
    one, two = machine(), machine("two")
    push_shards(one, shards)
    two.bring_folder("embeddings3")
    two.store.fetched.clear()
    matrix = change_shard(one)
    two.bring_folder("embeddings3")
    assert len(two.store.fetched) == 1
    assert (np.load(two.folder / "embeddings3" / matrix.name) == 1).all()


# ---- what a store says no to


def test_an_unknown_kind_of_store_is_one_error(tmp_path):
    mirror = Mirror(ObjectStore("nosuch://bucket"), tmp_path, ROOMY)
    with pytest.raises(InputError, match="nosuch://bucket: cannot be opened"):
        mirror.bring_file("x.parquet")


@pytest.mark.parametrize(
    ("raised", "kind", "says"),
    [
        (PermissionError("Forbidden"), InputError, "access denied"),
        (type("NoCredentialsError", (Exception,), {})("none"), InputError, "no credentials"),
        (type("EndpointError", (Exception,), {})("down"), OSError, "cannot be reached"),
        (TimeoutError("slow"), OSError, "cannot be reached"),
    ],
)
def test_errors_name_the_object(machine, url, monkeypatch, raised, kind, says):
    mirror = machine()
    make_file(mirror, b"rows")

    def fail(*_arguments, **_options):
        raise raised

    monkeypatch.setattr("fsspec.implementations.memory.MemoryFileSystem.get_file", fail)
    with pytest.raises(kind, match=f"^{url}/table.*{says}"):
        machine("two").bring_file("table.parquet")


def test_a_killed_fetch_is_gone_on_with(machine, monkeypatch):
    make_folder(machine(), b"one")
    two = machine("two")
    fetch = two.store.fetch

    def die(name, target):
        fetch(name, target)
        raise KeyboardInterrupt

    two.store.fetch = die
    with pytest.raises(KeyboardInterrupt):
        two.bring_folder("model")
    assert not (two.folder / "model").exists()
    two.store.fetch = fetch
    two.bring_folder("model")
    assert product_at(two.folder / "model") is not None
    assert list((two.folder / ".store/incoming").iterdir()) == []
