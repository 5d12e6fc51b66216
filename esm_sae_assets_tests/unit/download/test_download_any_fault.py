import hashlib
import shutil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from download_setup import CONTENT, OTHER, PATH, list_in_metalink, names_in, quick
from esm_sae.errors import InputError
from esm_sae.formats.manifest import read_manifest
from esm_sae.sequences.download import download
from misbehaving_server import Fault, File

POSITIONS = st.integers(0, 1200)
SMALL, CHANGED = File(CONTENT[:1000]), File(OTHER[:1000], etag='"two"')
HONEST = st.one_of(
    st.just(Fault()),
    st.builds(Fault, drop_after=st.integers(1, 999)),
    st.builds(Fault, drop_after=POSITIONS, reset=st.booleans(), chunked=st.booleans()),
    st.builds(Fault, ignore_range=st.booleans(), chunked=st.booleans(), drop_after=POSITIONS),
    st.builds(Fault, shift=st.integers(1, 50), total=st.none() | st.just(999) | st.just("*")),
    st.builds(Fault, file=st.just(CHANGED), drop_after=st.none() | POSITIONS),
    st.just(Fault(file=CHANGED, ignore_if_range=True)),
    st.builds(Fault, status=st.sampled_from([500, 503, 429, 416, 404, 206, 301])),
    st.just(Fault(encoding="gzip")),
    st.just(Fault(unframed=True)),
    st.just(Fault(file=File(b"<html>log in</html>", content_type="text/html"))),
)
LIES = st.one_of(
    st.builds(Fault, truncate_to=POSITIONS, chunked=st.booleans(), unframed=st.booleans()),
    st.builds(Fault, shift=st.integers(1, 50), lie=st.just(True)),
    st.builds(Fault, file=st.just(File(OTHER[:1000])), drop_after=st.none() | POSITIONS),
    st.builds(Fault, file=st.just(File(OTHER[:1300])), drop_after=st.none() | POSITIONS),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("any")


@pytest.mark.parametrize("verified", [True, False])
@settings(max_examples=60)
@given(data=st.data())
def test_whatever_goes_wrong_the_file_is_right_or_the_old_one_stays(
    running, folder, verified, data
):
    target = folder / f"{verified}" / "x.gz"
    shutil.rmtree(target.parent, ignore_errors=True)
    target.parent.mkdir()
    old = data.draw(st.sampled_from([None, b"old"]))
    if old is not None:
        target.write_bytes(old)
    running.reset()
    running.files[PATH] = SMALL
    if verified:
        list_in_metalink(running, SMALL.content)
    faults = HONEST | LIES if verified else HONEST
    retry = quick(failures=3, sleep=lambda seconds: None)
    allowed = [SMALL.content] if verified else [SMALL.content, CHANGED.content]
    for _ in range(2):
        running.faults.clear()
        running.fail(*data.draw(st.lists(faults, max_size=6)))
        try:
            download(running.url(), target, retry=retry)
        except InputError:
            assert (target.read_bytes() if target.exists() else None) == old
        else:
            assert target.read_bytes() in allowed
            old = target.read_bytes()
            recorded = read_manifest(target.with_name("x.gz.manifest.json"))
            assert recorded.summary["sha256"] == hashlib.sha256(old).hexdigest()
    running.faults.clear()
    download(running.url(), target, retry=retry)
    assert target.read_bytes() == SMALL.content
    assert names_in(target.parent) == ["x.gz", "x.gz.manifest.json"]
