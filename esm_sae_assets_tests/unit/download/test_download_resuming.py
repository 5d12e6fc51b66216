import pytest

from download_setup import CONTENT, OTHER, PATH, checksum_of, list_in_metalink, names_in, ranges
from esm_sae.errors import InputError
from misbehaving_server import LONG_AGO, Fault, File


@pytest.mark.parametrize("verified", [True, False])
@pytest.mark.parametrize("chunked", [True, False])
def test_a_broken_connection_is_resumed_where_it_broke(
    server, fetch, tmp_path, pauses, verified, chunked
):
    if verified:
        list_in_metalink(server, CONTENT)
    else:
        server.fail(Fault())
    drops = (60_000, 1, 70_000)
    server.fail(*(Fault(drop_after=drop, chunked=chunked and verified) for drop in drops))
    fetch()
    assert (tmp_path / "x.gz").read_bytes() == CONTENT
    transfers = server.seen()[0 if verified else 1 :]
    assert [request.headers.get("range") for request in transfers] == [
        None,
        "bytes=60000-",
        "bytes=60001-",
        "bytes=130001-",
    ]
    assert {request.headers.get("if-range") for request in transfers[1:]} == {'"one"'}
    assert sum(request.sent for request in transfers) == len(CONTENT)
    # Each brought something new, so that the pause does not grow.
    assert pauses == [1.0, 1.0, 1.0]


@pytest.mark.parametrize(
    ("file", "condition"),
    [
        (File(CONTENT, etag='W/"weak"'), LONG_AGO),
        (File(CONTENT, etag=None), LONG_AGO),
        (File(CONTENT, last_modified=None), '"one"'),
        (File(CONTENT, etag='"öne"'), LONG_AGO),
        (File(CONTENT, etag=None, last_modified=None), None),
    ],
    ids=["weak", "time", "etag", "not_ascii", "none"],
)
def test_the_strongest_validator_guards_the_range(server, fetch, tmp_path, file, condition):
    server.files[PATH] = file
    server.fail(Fault(drop_after=60_000))
    fetch(checksum=checksum_of(CONTENT))
    assert (tmp_path / "x.gz").read_bytes() == CONTENT
    assert [
        (request.headers.get("range"), request.headers.get("if-range")) for request in server.seen()
    ] == [(None, None), ("bytes=60000-", condition)]


def test_with_neither_validator_nor_checksum_nothing_is_resumed(server, fetch, tmp_path):
    server.files[PATH] = File(CONTENT, etag=None, last_modified=None)
    server.fail(Fault(), Fault(drop_after=60_000))
    fetch()
    assert (tmp_path / "x.gz").read_bytes() == CONTENT
    assert ranges(server) == [None, None, None]


@pytest.mark.parametrize("verified", [True, False])
@pytest.mark.parametrize(
    "fault",
    [
        Fault(shift=100),
        Fault(total="*"),
        Fault(total=len(CONTENT) + 1),
        Fault(total=len(CONTENT) - 1),
        Fault(status=416),
        Fault(validators=False),
        Fault(file=File(OTHER, etag='"two"'), ignore_if_range=True),
        Fault(file=File(OTHER[:-7]), ignore_if_range=True),
        Fault(file=File(CONTENT, last_modified="Tue, 06 Jan 2026 10:00:00 GMT")),
        Fault(headers={"Content-Range": "bytes"}),
    ],
    ids=str,
)
def test_a_range_that_does_not_fit_the_part_is_not_believed(
    server, fetch, tmp_path, fault, verified
):
    if verified:
        list_in_metalink(server, CONTENT)
    else:
        server.fail(Fault())
    server.fail(Fault(drop_after=60_000), fault)
    fetch()
    assert (tmp_path / "x.gz").read_bytes() == CONTENT
    assert ranges(server)[-3:] == [None, "bytes=60000-", None]


def test_a_whole_file_in_place_of_a_range_is_taken(server, fetch, tmp_path):
    list_in_metalink(server, CONTENT)
    server.fail(Fault(drop_after=60_000), Fault(ignore_range=True))
    fetch()
    assert (tmp_path / "x.gz").read_bytes() == CONTENT
    assert ranges(server) == [None, "bytes=60000-"]


@pytest.mark.parametrize(
    "fault",
    [
        Fault(shift=100, lie=True, truncate_to=100),
        Fault(file=File(OTHER)),
        Fault(file=File(OTHER, etag=None, last_modified=None), ignore_if_range=True),
    ],
    ids=["shifted", "same_validators", "none"],
)
def test_a_mixture_is_found_out_and_fetched_afresh_once(server, fetch, tmp_path, caplog, fault):
    server.files[PATH] = File(CONTENT, *((None, None) if fault.ignore_if_range else ()))
    server.fail(Fault(drop_after=60_000), fault)
    fetch(checksum=checksum_of(CONTENT))
    assert (tmp_path / "x.gz").read_bytes() == CONTENT
    assert ranges(server)[-1] is None
    assert "fetching it afresh" in caplog.text


def test_a_new_file_on_resume_is_fetched_whole_and_then_checked(server, fetch, tmp_path):
    server.fail(Fault(drop_after=60_000), Fault(file=File(OTHER, etag='"two"')))
    with pytest.raises(InputError, match=rf"has the checksum {checksum_of(OTHER)}"):
        fetch(checksum=checksum_of(CONTENT))
    assert names_in(tmp_path) == []
    assert len(server.seen()) == 2
    fetch(checksum=checksum_of(CONTENT))
    assert ranges(server)[2:] == [None]


def test_a_new_file_on_resume_is_taken_whole_without_a_checksum(server, fetch, tmp_path):
    server.fail(Fault(), Fault(drop_after=60_000))
    new = File(OTHER, etag='"two"')
    server.fail(*[Fault(file=new)] * 3)
    assert fetch().manifest.determinants["etag"] == new.etag
    assert (tmp_path / "x.gz").read_bytes() == OTHER


def test_a_mixture_twice_is_an_error(server, fetch, tmp_path):
    server.fail(*[Fault(drop_after=60_000), Fault(file=File(OTHER))] * 2)
    with pytest.raises(InputError, match=rf"{checksum_of(CONTENT)} is expected"):
        fetch(checksum=checksum_of(CONTENT))
    assert names_in(tmp_path) == []
