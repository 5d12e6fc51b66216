"""What the tests of downloads share: a served file, its metalink, looks at what happened."""

import hashlib

from esm_sae.sequences.http import RetryPolicy
from misbehaving_server import File

PATH = "/rel/x.gz"
METALINK = "/rel/RELEASE.metalink"
CONTENT = hashlib.shake_256(b"content").digest(200_000)
OTHER = hashlib.shake_256(b"other").digest(200_000)


def quick(**options):
    return RetryPolicy(**{"failures": 4, "requests": 30, "read_timeout": 5.0} | options)


def checksum_of(content, algorithm="md5"):
    return f"{algorithm}:{hashlib.new(algorithm, content).hexdigest()}"


def metalink3(content, name="x.gz", release="2026_05", size=True, **hashes):
    hashes = hashes or {"md5": hashlib.md5(content).hexdigest()}
    listed = "".join(f'<hash type="{type}">{hash}</hash>' for type, hash in hashes.items())
    return f"""<?xml version="1.0" encoding="UTF-8"?>
<metalink version="3.0" xmlns="http://www.metalinker.org/" type="static">
  <identity>UniRef50</identity>
  <version>{release}</version>
  <files>
    <file name="other.gz"><size>1</size>
      <verification><hash type="md5">{"0" * 32}</hash></verification></file>
    <file name="{name}">{f"<size>{len(content)}</size>" if size else ""}
      <verification>{listed}<pieces length="1" type="md5"><hash piece="0">1</hash></pieces>
      </verification>
      <resources><url type="https">https://example.org/x.gz</url></resources>
    </file>
  </files>
</metalink>""".encode()


def list_in_metalink(server, content, **options):
    server.files[METALINK] = File(metalink3(content, **options))


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def ranges(server):
    return [request.headers.get("range") for request in server.seen()]
