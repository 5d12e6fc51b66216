import importlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esm_sae import storage
from esm_sae.errors import InputError
from esm_sae.url_secrets import holds_secret, require_no_secret, without_secrets

SECRET = "hunter2"
WITH_SECRET = {
    f"https://someone:{SECRET}@host/x.gz": "https://host/x.gz",
    f"HTTPS://{SECRET}@host/x.gz": "HTTPS://host/x.gz",
    f"https://some@one:{SECRET}@host/x": "https://host/x",
    f"ftp://someone:{SECRET}@host:21/x": "ftp://host:21/x",
    f"s3://KEY:{SECRET}@bucket/x": "s3://bucket/x",
    f"zip://x.fasta::https://a:{SECRET}@host/x.zip": "zip://x.fasta::https://host/x.zip",
    f"https://host/x?X-Amz-Date=1&X-Amz-Signature={SECRET}": (
        "https://host/x?X-Amz-Date=...&X-Amz-Signature=..."
    ),
    f"https://host/x?versionId=3&Signature={SECRET}&Expires=4": (
        "https://host/x?versionId=3&Signature=...&Expires=4"
    ),
    f"https://host/x?sv=2024&sig={SECRET}#part": "https://host/x?sv=2024&sig=...#part",
    f"https://host/x?access_token={SECRET}": "https://host/x?access_token=...",
    f"https://host/x?API-Key={SECRET}": "https://host/x?API-Key=...",
    f"https://host/x#id_token={SECRET}": "https://host/x#id_token=...",
    f"https://host/x?passphrase={SECRET}": "https://host/x?passphrase=...",
    f"https://host/x?pw={SECRET}": "https://host/x?pw=...",
    f"https://host/x?token=ab;{SECRET}==&b=1": "https://host/x?token=...&b=1",
    f"https://host/x?a=1;token={SECRET}": "https://host/x?a=1;token=...",
    f"https://host/x?url=https://h/x?token={SECRET}": "https://host/x?url=https://h/x?token=...",
    # A password with what by the standard is the end of the host's place.
    f"s3://KEY:wJalr/{SECRET}@bucket/prefix": "s3://bucket/prefix",
    f"s3://KEY:/{SECRET}@bucket/prefix": "s3://bucket/prefix",
    f"s3://some@one:wJalr/{SECRET}@bucket/x": "s3://bucket/x",
    f"https://someone:12a/{SECRET}@host/x": "https://host/x",
    f"https://someone:a?{SECRET}@host/x": "https://host/x",
    f"https://someone:a#{SECRET}@host/x": "https://host/x",
    f"zip://x.fasta::https://a:b/{SECRET}@host/x.zip": "zip://x.fasta::https://host/x.zip",
}
WITHOUT = [
    "bundled",
    "data/a@b:c?token=1&key=2.fasta",
    "/data/x:y@z.fasta",
    "s3://bucket/folder/x.fasta.gz",
    "sftp://someone@host/x",
    "https://ftp.uniprot.org/pub/databases/uniprot/uniref50.fasta.gz",
    "https://rest.uniprot.org/uniprotkb/stream?query=(reviewed:true)&fields=keyword&format=tsv",
    "https://host/a@b/x?size=500&cursor=1",
    "https://host:8080/a:b@c/x",
    "http://[::1]:8080/a@b",
    "s3://bucket/a:b@c",
    "zip://x.fasta::https://host/a@b.zip",
    "sftp://someone@host:22/a@b",
]


@pytest.mark.parametrize(("url", "shown"), WITH_SECRET.items())
def test_secrets_are_found_and_not_shown(url, shown):
    assert holds_secret(url)
    assert without_secrets(url) == shown
    assert not holds_secret(shown) or "..." in shown
    with pytest.raises(InputError) as raised:
        require_no_secret(url, "do otherwise")
    assert shown in str(raised.value)
    assert SECRET not in str(raised.value)


@pytest.mark.parametrize("url", WITHOUT)
def test_other_urls_and_paths_are_let_through(url):
    assert not holds_secret(url)
    require_no_secret(url, "do otherwise")


@pytest.mark.parametrize("url", [url for url in WITHOUT if not url.startswith("sftp")])
def test_what_holds_no_secret_is_shown_as_it_is(url):
    assert without_secrets(url) == url


LETTERS = "abcXYZ0189._~-%!*'()@:/?;"


def secrets(letters):
    return st.text(letters, min_size=8).map(lambda text: f"<{text}>")


@given(
    # A value ends at the next & or #; a password does not.
    st.tuples(st.just("https://u:{}@host/x"), secrets(LETTERS + "&#"))
    | st.tuples(st.just("{{'a': 's3://u:{}@host/x', 'b': 1}}"), secrets(LETTERS + "&#"))
    | st.tuples(st.just("{{'a': 'https://h/x?token={}', 'b': 1}}"), secrets(LETTERS))
)
def test_no_password_gets_through_a_text(text_and_secret):
    text, secret = text_and_secret
    found = text.format(secret)
    assert holds_secret(found)
    shown = without_secrets(found)
    assert not any(secret[at : at + 4] in shown for at in range(len(secret) - 3))


@given(secrets(LETTERS + "&#").filter(lambda text: "://" not in text))
def test_a_text_without_a_url_is_shown_as_it_is(text):
    assert without_secrets(text) == text


def test_a_text_of_many_parameters_is_read_at_once():
    text = "https://host/x?" + ";a=1" * 10_000
    assert without_secrets(text) == text
    assert without_secrets(f"{text};token={SECRET}") == f"{text};token=..."


@pytest.mark.parametrize("url", [url for url in WITH_SECRET if not url.startswith("HTTPS")])
def test_a_url_with_a_secret_is_not_opened(url):
    with pytest.raises(InputError, match=r"esm_sae\.download") as raised:
        storage.open_binary(url)
    assert SECRET not in str(raised.value)


@pytest.mark.parametrize(
    "command",
    [
        "sample_fasta --fasta {} --n 1 --output x.fasta",
        "embed_uniref --fasta y.fasta --output x --model esmc_300m --weights {}",
        "train --np_dir x --latent_dim 4 --output {}",
        "cluster --by taxon --fasta {} --output x.parquet",
        "cluster --by taxon --fasta y.fasta --taxonomy {} --output x.parquet",
        "download {} --output x --checksum md5:0",
    ],
)
def test_no_command_shows_the_password_of_a_url(tmp_path, monkeypatch, capsys, command):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "y.fasta").write_text(">a Tax=b TaxID=1\nACD\n")
    name, *arguments = command.format(f"https://someone:{SECRET}@127.0.0.1:9/x").split()
    main = importlib.import_module(f"esm_sae.{name}").main
    try:
        status = main(arguments)
    except SystemExit as ended:
        status = ended.code
    shown = "".join(capsys.readouterr())
    assert status == 2
    assert "error: " in shown
    assert SECRET not in shown
    assert [path.name for path in tmp_path.iterdir()] == ["y.fasta"]
