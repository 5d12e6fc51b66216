"""Runs the whole graph on the bundled proteins, without a daemon: ``make demo``.

One job cannot span two partition definitions, so the assets are materialised one after another
in the order of the graph, each for all its partitions. What is there and current is left alone.
"""

import argparse
import importlib.resources
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import dagster as dg

from esm_sae import storage
from esm_sae.errors import InputError
from esm_sae_assets.currency import Target, is_current, targets_in_order
from esm_sae_assets.definitions import build_defs
from esm_sae_assets.settings import Settings, load_settings
from esm_sae_assets.summary import summarise

INSTANCE_FOLDER = ".dagster"


@dataclass(frozen=True)
class Outcome:
    """What became of the targets of a run."""

    materialised: int
    current: int
    seconds: float


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m esm_sae_assets.demo", description=__doc__)
    parser.add_argument(
        "--prepare-only", action="store_true", help="set up the Dagster instance and stop"
    )
    options = parser.parse_args(argv)
    try:
        home = prepare_instance(Path.cwd())
        if options.prepare_only:
            return 0
        settings = load_settings()
        with dg.DagsterInstance.from_config(str(home)) as instance:
            outcome = run_graph(settings, instance)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except dg.Failure as failure:
        print(f"error: {failure.description}", file=sys.stderr)
        return 1
    print(
        f"\n{outcome.materialised} materialised, {outcome.current} current, "
        f"in {outcome.seconds:.0f} s\n"
    )
    print(summarise(settings))
    return 0


def prepare_instance(project: Path) -> Path:
    """Make the Dagster instance of a project folder and name it in ``.env``; return its folder.

    An instance file that is there is kept, as are the other lines of ``.env``.
    """
    home = (project / INSTANCE_FOLDER).resolve()
    storage.make_folder(home)
    if not (home / "dagster.yaml").exists():
        template = importlib.resources.files("esm_sae_assets") / "instance" / "dagster.yaml"
        storage.publish_text(home / "dagster.yaml", template.read_text())
    environment = project / ".env"
    lines = environment.read_text().splitlines() if environment.exists() else []
    kept = [line for line in lines if not line.startswith("DAGSTER_HOME=")]
    storage.publish_text(environment, "\n".join([*kept, f"DAGSTER_HOME={home}"]) + "\n")
    os.environ["DAGSTER_HOME"] = str(home)
    return home


def run_graph(settings: Settings, instance: dg.DagsterInstance) -> Outcome:
    """Materialise every asset partition that is missing or older than what it is made from.

    Raises:
        dg.Failure: a step failed; nothing after it is run.
    """
    started = time.monotonic()
    defs = build_defs(settings)
    targets = targets_in_order(defs)
    materialised = 0
    for number, target in enumerate(targets, start=1):
        if is_current(target, defs, instance):
            continue
        _say(f"[{number}/{len(targets)}] {target.label}")
        _materialise(target, defs, instance)
        materialised += 1
    return Outcome(materialised, len(targets) - materialised, time.monotonic() - started)


def _materialise(target: Target, defs: dg.Definitions, instance: dg.DagsterInstance) -> None:
    started = time.monotonic()
    result = dg.materialize(
        list(defs.assets or []),  # pyright: ignore[reportArgumentType]
        selection=[target.key],
        partition_key=target.partition,
        resources=dict(defs.resources or {}),
        instance=instance,
        # Everything is in the instance's event log; a terminal shows the progress bars.
        run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
        tags={"esm_sae/launched_by": "demo"},
        raise_on_error=True,
    )
    event = result.asset_materializations_for_node(target.key.path[-1])[0]
    rows = event.metadata.get("dagster/row_count")
    counted = f"{rows.value:>12,} rows" if rows is not None else ""
    _say(f"{'':8}{time.monotonic() - started:6.1f} s {counted}")


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
