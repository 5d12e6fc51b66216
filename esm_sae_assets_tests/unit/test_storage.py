import fcntl
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esm_sae import locks, storage
from esm_sae.errors import InputError

CRASHES = Path(__file__).with_name("crash_at_every_step.py")


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def test_publish_replaces_a_file_and_leaves_nothing_else(tmp_path):
    target = tmp_path / "new" / "x.txt"
    storage.publish_text(target, "old")
    storage.publish_text(target, "new")
    assert target.read_text() == "new"
    assert names_in(target.parent) == ["x.txt"]


def test_failed_publish_keeps_the_old_file_and_removes_the_temporary(tmp_path):
    target = tmp_path / "x.txt"
    storage.publish_text(target, "old")

    def fail():
        with storage.publish(target) as temporary:
            temporary.write_text("half")
            raise RuntimeError("disk full")

    with pytest.raises(RuntimeError, match="disk full"):
        fail()
    assert target.read_text() == "old"
    assert names_in(tmp_path) == ["x.txt"]


def test_a_file_being_published_is_not_seen_under_its_name(tmp_path):
    target = tmp_path / "x.txt"
    with storage.publish(target) as temporary:
        temporary.write_text("half")
        assert not target.exists()
        assert storage.list_files(tmp_path, "*.txt") == []


def test_publish_refuses_a_directory_and_a_file_in_place_of_its_folder(tmp_path):
    with pytest.raises(InputError, match="is a directory"):
        storage.publish_text(tmp_path, "text")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is a file, expected a directory"):
        storage.publish_text(tmp_path / "file" / "x.txt", "text")


def test_killed_publish_leaves_the_old_file(tmp_path, start_python):
    target = tmp_path / "x.txt"
    storage.publish_text(target, "old")
    code = """
import sys, time
from esm_sae import storage
with storage.publish(sys.argv[1]) as temporary:
    temporary.write_text("half")
    print("writing", flush=True)
    time.sleep(60)
"""
    writer = start_python(code, target)
    assert writer.stdout.readline() == "writing\n"
    writer.kill()
    writer.wait()
    assert target.read_text() == "old"


@pytest.mark.parametrize(
    "scenario", ["publish", "files", "folder", "folder_without_exchange"], ids=str
)
def test_a_kill_before_any_step_leaves_old_or_new(scenario, python_environment):
    result = subprocess.run(
        [sys.executable, CRASHES, scenario],
        capture_output=True,
        text=True,
        timeout=120,
        env=python_environment,
    )
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) >= 4


@pytest.mark.parametrize("exchange", [True, False])
def test_swap_folder_puts_the_new_folder_in_place_whole(tmp_path, monkeypatch, exchange):
    if not exchange:
        monkeypatch.setattr(storage, "_exchange", lambda one, other: False)
    for name, files in {"old": ["a", "b"], "new": ["b", "c"]}.items():
        (tmp_path / name).mkdir()
        for file in files:
            (tmp_path / name / file).write_text(name)
    storage.swap_folder(tmp_path / "new", tmp_path / "old")
    assert names_in(tmp_path) == ["old"]
    assert {path.name: path.read_text() for path in (tmp_path / "old").iterdir()} == {
        "b": "new",
        "c": "new",
    }


def test_swap_folder_without_an_old_one(tmp_path):
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "a").write_text("new")
    storage.swap_folder(tmp_path / "work", tmp_path / "target")
    assert names_in(tmp_path) == ["target"]


def test_hashes_of_several_kinds_are_made_in_one_read(tmp_path, monkeypatch):
    content = b"0123456789" * 100
    (tmp_path / "x").write_bytes(content)
    monkeypatch.setattr(storage, "_HASH_CHUNK", 64)
    assert storage.digests_of(tmp_path / "x", ["md5", "sha256"]) == {
        "md5": hashlib.md5(content).hexdigest(),
        "sha256": hashlib.sha256(content).hexdigest(),
    }
    assert storage.sha256_of(tmp_path / "x") == hashlib.sha256(content).hexdigest()


HOLD = """
import sys
from esm_sae import storage
with storage.locked(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.readline()
print("released", flush=True)
"""


def test_lock_is_held_by_one_process_at_a_time(tmp_path, start_python):
    first = start_python(HOLD, tmp_path / "x")
    assert first.stdout.readline() == "held\n"
    with (tmp_path / ".x.lock").open() as lock, pytest.raises(BlockingIOError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    second = start_python(HOLD, tmp_path / "x")
    first.stdin.write("\n")
    first.stdin.flush()
    assert first.stdout.readline() == "released\n"
    assert second.stdout.readline() == "held\n"


def test_lock_of_a_killed_process_is_free(tmp_path, start_python, python):
    holder = start_python(HOLD, tmp_path / "x")
    assert holder.stdout.readline() == "held\n"
    holder.kill()
    holder.wait()
    code = (
        "import sys; from esm_sae import storage\nwith storage.locked(sys.argv[1]): print('held')"
    )
    assert python(code, tmp_path / "x").stdout == "held\n"
    assert names_in(tmp_path) == []


def test_a_lock_that_another_holds_need_not_be_waited_for(tmp_path, start_python):
    holder = start_python(HOLD, tmp_path / "x")
    assert holder.stdout.readline() == "held\n"
    with storage.locked(tmp_path / "x", wait=False) as held:
        assert not held
    assert names_in(tmp_path) == [".x.lock"]
    holder.stdin.write("\n")
    holder.stdin.flush()
    assert holder.stdout.readline() == "released\n"
    with storage.locked(tmp_path / "x", wait=False) as held:
        assert held
    assert names_in(tmp_path) == []


def test_who_waits_long_for_a_lock_says_for_whom(tmp_path, start_python, monkeypatch, caplog):
    monkeypatch.setattr(locks, "_SECONDS_IN_SILENCE", 0.0)
    holder = start_python(HOLD, tmp_path / "x")
    assert holder.stdout.readline() == "held\n"

    def release(record):
        holder.stdin.write("\n")
        holder.stdin.flush()
        return True

    with monkeypatch.context() as patch:
        patch.setattr(locks.LOGGER, "filters", [release])
        with storage.locked(tmp_path / "x") as held:
            assert held
    (line,) = caplog.messages
    place = f"{tmp_path / 'x'}: process {holder.pid} on {os.uname().nodename}"
    assert line == f"{place} is writing it; waiting until that is done"


def test_many_processes_increment_a_counter_under_the_lock(tmp_path, start_python):
    counter = tmp_path / "counter"
    counter.write_text("0")
    code = """
import pathlib, sys
from esm_sae import storage
path = pathlib.Path(sys.argv[1])
for _ in range(50):
    with storage.locked(path):
        path.write_text(str(int(path.read_text()) + 1))
"""
    writers = [start_python(code, counter) for _ in range(3)]
    assert [writer.wait(timeout=60) for writer in writers] == [0, 0, 0]
    assert counter.read_text() == "150"


def test_bad_paths_are_named(tmp_path):
    with pytest.raises(InputError, match=r"missing\.txt: no such file"):
        storage.read_bytes(tmp_path / "missing.txt")
    with pytest.raises(InputError, match="is a directory, expected a file"):
        storage.read_bytes(tmp_path)
    with pytest.raises(InputError, match="no such directory"):
        storage.list_files(tmp_path / "missing")
    (tmp_path / "file").write_text("{")
    with pytest.raises(InputError, match="is a file, expected a directory"):
        storage.list_files(tmp_path / "file")
    with pytest.raises(InputError, match="not valid JSON"):
        storage.read_json(tmp_path / "file")


def test_urls_are_read_by_the_same_functions():
    import fsspec

    with fsspec.open("memory://folder/x.json", "wb") as file:
        file.write(b'{"a": 1}')
    assert storage.read_json("memory://folder/x.json") == {"a": 1}
    expected = hashlib.sha256(b'{"a": 1}').hexdigest()
    assert storage.sha256_of("memory://folder/x.json") == expected
    with pytest.raises(InputError, match="no such file"):
        storage.read_bytes("memory://folder/y.json")
    with pytest.raises(InputError, match="cannot be opened"):
        storage.read_bytes("nosuchprotocol://x")


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("x.fasta", "x"),
        ("x.fasta.gz", "x"),
        ("sample.10k.fasta", "sample.10k"),
        ("folder/uniref50.source.json", "uniref50.source"),
    ],
)
def test_stem(name, stem):
    assert storage.stem(name) == stem


@given(
    st.dictionaries(st.text(), st.integers() | st.text() | st.floats(allow_nan=False) | st.none())
)
def test_json_of_equal_values_is_equal_bytes(value):
    if any(item in (float("inf"), float("-inf")) for item in value.values()):
        with pytest.raises(ValueError, match="not JSON compliant"):
            storage.encode_json(value)
        return
    backwards = dict(reversed(value.items()))
    assert storage.encode_json(value) == storage.encode_json(backwards)
    assert json.loads(storage.encode_json(value)) == value
