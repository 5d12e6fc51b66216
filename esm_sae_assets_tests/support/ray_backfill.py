"""A backfill of shards on two Ray nodes: ``unshare -rn python ray_backfill.py PROJECT``.

Prints as JSON how the backfill ended and on which node each of its steps ran.
"""

import json
import signal
import sys
from pathlib import Path

from dagster_dev import dagster_dev, launch_backfill, wait_for_backfill
from ray_nodes import DASHBOARD, two_nodes


def main(project: Path) -> None:
    """Run the backfill and print what became of it."""
    address = {"RAY_API_SERVER_ADDRESS": DASHBOARD}
    with (
        two_nodes(project / "ray.log"),
        dagster_dev(project, "meeting_definitions", **address) as ask,
    ):
        status = wait_for_backfill(ask, launch_backfill(ask, ["embedding_shards"]))
        # Not earlier: Ray looks for the cluster's token when it is imported.
        from ray.job_submission import JobSubmissionClient

        jobs = JobSubmissionClient(DASHBOARD).list_jobs()
    steps = [[job.metadata["dagster/op"], job.driver_node_id] for job in jobs]
    json.dump({"status": status, "steps": steps}, sys.stdout)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    main(Path(sys.argv[1]))
