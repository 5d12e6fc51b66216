from pathlib import Path

import pytest
import yaml

REPOSITORY = Path(__file__).resolve().parents[2]
TEMPLATE = REPOSITORY / "esm_sae_assets" / "instance" / "dagster.yaml"
INSTANCES = [
    path
    for path in sorted((REPOSITORY / "deploy").rglob("dagster.yaml"))
    if "postgres" in path.read_text()
]


def read(path):
    return yaml.safe_load(path.read_text())


def test_the_instance_differs_from_that_of_one_machine_in_its_storage_only():
    ours = read(REPOSITORY / "deploy" / "postgres" / "dagster.yaml")
    assert {key: value for key, value in ours.items() if key != "storage"} == read(TEMPLATE)


@pytest.mark.parametrize("path", INSTANCES, ids=lambda path: path.parent.name)
def test_how_the_database_is_reached_is_left_to_the_environment(path):
    connection = read(path)["storage"]["postgres"]["postgres_db"]
    # From SQLAlchemy 2.1 on, plain postgresql is a driver that is not among our dependencies.
    assert connection.pop("scheme") == "postgresql+psycopg2"
    assert {value["env"] for value in connection.values()} == {
        f"DAGSTER_POSTGRES_{name}" for name in ("HOST", "PORT", "USER", "PASSWORD", "DB")
    }


def test_dagster_on_kubernetes_has_the_same_driver():
    values = read(REPOSITORY / "deploy" / "k8s" / "values.yaml")
    assert values["postgresql"]["postgresqlScheme"] == "postgresql+psycopg2"
