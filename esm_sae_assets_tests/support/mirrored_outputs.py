"""Outputs on a store in memory that counts, made and read through local copies."""

from esm_sae.formats.manifest import (
    manifest_beside,
    produce_files,
    produce_folder,
)
from esm_sae.formats.verification import product_at
from esm_sae.remote import ObjectStore
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
