import shutil

import dagster as dg
import pytest

from esm_sae_assets.settings import load_settings
from recorded_world import RecordedWorld


@pytest.fixture
def instance():
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


@pytest.fixture(scope="module")
def data_root(tmp_path_factory):
    """One for all tests of a module, as the code location is loaded once for each."""
    return tmp_path_factory.mktemp("world") / "data"


@pytest.fixture
def world_of(request, data_root, instance):
    """Return a function that builds the world of the module's ``SECTIONS`` of settings."""

    def build(**changed):
        sections = request.module.SECTIONS
        merged = {
            name: sections.get(name, {}) | changed.get(name, {}) for name in sections | changed
        }
        return RecordedWorld(load_settings({}, data_root=str(data_root), **merged), instance)

    shutil.rmtree(data_root, ignore_errors=True)
    return build
