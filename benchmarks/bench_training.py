"""Training TopK SAEs: this project against its peers, on the same rows in one run.

    python -m venv PEERS && PEERS/bin/pip install -r benchmarks/peers/requirements.txt
    PEERS/bin/pip uninstall -y torchvision      # why: see the requirements' first lines
    python benchmarks/bench_training.py speed --peers PEERS/bin/python
    python benchmarks/bench_training.py quality --peers PEERS/bin/python
    python benchmarks/bench_training.py quality --peers PEERS/bin/python --np_dir DIR \\
        --latent-dim 1024 --batch-size 256 --samples 393216
    python benchmarks/bench_training.py whole-run

Without ``--peers`` this project runs alone.

``speed``: samples per second of each contender's own training step, rows in memory. The
contenders take turns, each run in a process of its own; the first steps, compilation among them,
are not counted. Printed are the medians over the rounds. Shares are of the rate of matrix products
of the encoder's shape, the faster of jax's and torch's in the same rounds: a step cannot be faster
than the encoder's product alone, and a step of dense products has five of that size.

``quality``: each contender trains on the same batches in the same order, at five learning rates,
its default among them: the others follow the best so far, up or down by a factor of 3, then
between. Peers have their own loss, constraints, schedule and treatment of dead latents; a warm-up
of 1,000 steps becomes 5% of a shorter run. One judge (``training_evaluator.py``) reads the saved
weights. The rows are those of a planted dictionary, or, with ``--np_dir``, of embedding shards,
with the split of ``train``:

    python -m esm_sae.embed_uniref --fasta esm_sae/data/proteins.fasta.gz --model esmc_demo \\
        --pooling residue --residues_per_protein 24 --max_len 256 --long skip --output DIR

``whole-run``: the command ``train`` for one epoch of rows on disk: time, and memory without the
pages of mapped files, which the system takes back when it needs them.
"""

import argparse
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import training_quality
import training_speed
import training_whole_run
from training_processes import Machine

_MODES = {
    "speed": training_speed,
    "quality": training_quality,
    "whole-run": training_whole_run,
}


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the options, run the mode and print its tables."""
    options = _parser().parse_args(argv)
    with tempfile.TemporaryDirectory(dir=options.scratch) as scratch:
        machine = Machine(Path(scratch), Path(options.peers) if options.peers else None)
        print(machine.describe(options.device), flush=True)
        figures: dict[str, Any] = _MODES[options.mode].run(options, machine)
    if options.json:
        content = {"options": vars(options), "machine": machine.describe(options.device)}
        Path(options.json).write_text(json.dumps(content | figures, indent=1))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    modes = parser.add_subparsers(dest="mode", required=True, metavar="MODE")
    for name, module in _MODES.items():
        mode = modes.add_parser(name, help=module.__doc__.splitlines()[0])
        mode.add_argument("--width", type=int, default=960, help="D of the planted rows")
        mode.add_argument("--latent-dim", type=int, default=3840, help="L")
        mode.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
        mode.add_argument("--seed", type=int, default=0)
        mode.add_argument("--peers", metavar="PYTHON", help="the peers' interpreter")
        mode.add_argument("--scratch", metavar="DIR", help="where data lies during the run")
        mode.add_argument("--json", metavar="PATH", help="write the figures there too")
        module.add_options(mode)
    return parser


if __name__ == "__main__":
    main()
