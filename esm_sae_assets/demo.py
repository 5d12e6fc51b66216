"""Runs the whole graph on the bundled proteins, without a daemon: ``make demo``.

One job cannot span two partition definitions, so the assets are materialised one after another
in the order of the graph, each for all its partitions. What is there and current is left alone.
"""

import argparse
import importlib.resources
import itertools
import operator
import os
import socket
import stat
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import dagster as dg

from esm_sae import storage
from esm_sae.errors import InputError
from esm_sae_assets.definitions import build_defs
from esm_sae_assets.partition_ranges import range_tags
from esm_sae_assets.progress.attempts import LAUNCHED_BY_TAG
from esm_sae_assets.progress.currency import Target, is_current, runs_of, targets_in_order
from esm_sae_assets.run_processes import HOST_TAG, fail_abandoned_runs
from esm_sae_assets.settings import Settings, load_settings
from esm_sae_assets.summary import summarise

INSTANCE_FOLDER = ".dagster"

_ROWS = "dagster/row_count"
_DEMO = "demo"


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
    # People keep passwords in it: readable for others only where they made it so.
    mode = stat.S_IMODE(environment.stat().st_mode) if environment.exists() else 0o600
    with storage.publish(environment) as temporary:
        temporary.touch(mode)
        temporary.write_text("\n".join([*kept, f"DAGSTER_HOME={home}"]) + "\n")
    os.environ["DAGSTER_HOME"] = str(home)
    return home


def run_graph(settings: Settings, instance: dg.DagsterInstance) -> Outcome:
    """Materialise every asset partition that is missing or older than what it is made from.

    What an earlier call left in progress when it was killed is failed first.

    Raises:
        dg.Failure: a step failed; nothing after it is run, what it had finished stays.
    """
    started = time.monotonic()
    fail_abandoned_runs(_DEMO, instance)
    defs = build_defs(settings)
    graph = defs.resolve_asset_graph()
    targets = targets_in_order(graph)
    materialised = 0
    for _, partitions in itertools.groupby(targets, operator.attrgetter("key")):
        outdated = [target for target in partitions if not is_current(target, graph, instance)]
        for run in runs_of(outdated, graph):
            _say(f"[{targets.index(run[0]) + 1}/{len(targets)}] {_label(run)}")
            _materialise(run, defs, instance)
            materialised += len(run)
    return Outcome(materialised, len(targets) - materialised, time.monotonic() - started)


def _label(run: Sequence[Target]) -> str:
    names = [target.partition for target in run if target.partition is not None]
    return f"{run[0].name} [{', '.join(names)}]" if names else run[0].name


def _materialise(run: Sequence[Target], defs: dg.Definitions, instance: dg.DagsterInstance) -> None:
    started = time.monotonic()
    over = range_tags([str(target.partition) for target in run]) if len(run) > 1 else {}
    result = dg.materialize(
        list(defs.assets or []),  # pyright: ignore[reportArgumentType]
        selection=[run[0].key],
        partition_key=None if over else run[0].partition,
        resources=dict(defs.resources or {}),
        instance=instance,
        # Everything is in the instance's event log; a terminal shows the progress bars.
        run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
        tags={LAUNCHED_BY_TAG: _DEMO, HOST_TAG: socket.gethostname(), **over},
        raise_on_error=True,
    )
    events = result.asset_materializations_for_node(run[0].key.path[-1])
    rows = [cast(int, event.metadata[_ROWS].value) for event in events if _ROWS in event.metadata]
    counted = f"{sum(rows):>12,} rows" if rows else ""
    _say(f"{'':8}{time.monotonic() - started:6.1f} s {counted}")


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
