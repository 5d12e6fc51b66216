"""A data root on object storage and its local copies, on a store in memory, with faults."""

import json
import os
from contextlib import suppress

import pytest

from esm_sae.errors import InputError
from esm_sae.formats.verification import product_at
from esm_sae.remote import Mirror, ObjectStore, manifest_at
from mirrored_outputs import ROOMY, make_file, make_folder, objects, read


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


def test_a_damaged_object_is_found_and_named(machine, bucket_url):
    make_file(machine(), b"rows")
    for damage in (b"rowz", b"ro"):
        mirror = machine(damage.decode())
        name = next(name for name in objects(mirror) if name.endswith(".parquet"))
        mirror.store.write(name, damage)
        with pytest.raises(InputError, match="is damaged, its hash is another") as raised:
            mirror.bring_file("table.parquet")
        assert f"{bucket_url}/{name}" in str(raised.value)
        assert f"remove {bucket_url}/table.parquet.manifest.json" in str(raised.value)
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


def test_what_is_no_manifest_is_named(machine, bucket_url):
    mirror = machine()
    for content in (b"{", b"[]", json.dumps({"kind": "x"}).encode()):
        mirror.store.write("table.parquet.manifest.json", content)
        with pytest.raises(
            InputError, match=f"{bucket_url}/table.parquet.manifest.json: not a manifest"
        ):
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
def test_errors_name_the_object(machine, bucket_url, monkeypatch, raised, kind, says):
    mirror = machine()
    make_file(mirror, b"rows")

    def fail(*_arguments, **_options):
        raise raised

    monkeypatch.setattr("fsspec.implementations.memory.MemoryFileSystem.get_file", fail)
    with pytest.raises(kind, match=f"^{bucket_url}/table.*{says}"):
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
