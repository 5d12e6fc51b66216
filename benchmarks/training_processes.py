"""Contenders of bench_training.py and how they are run: each in a process of its own."""

import json
import os
import platform
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).parent
_MEMORY_UNIT = 1 if sys.platform == "darwin" else 1024
_SECONDS_BETWEEN_LOOKS = 0.05
# No peer is to ask a hub, to log to a service or to fill the terminal.
_QUIET = {
    "HF_HUB_OFFLINE": "1",
    "PYTHONWARNINGS": "ignore",
    "TQDM_DISABLE": "1",
    "WANDB_MODE": "disabled",
}


@dataclass(frozen=True)
class Contender:
    """A way of training.

    Attributes:
        name: as it is printed.
        script: its script in this folder.
        variant: which form of it.
        precision: ``float32`` or ``bfloat16``.
        auxk: whether it has an auxiliary loss for dead latents.
    """

    name: str
    script: str
    variant: str = ""
    precision: str = "float32"
    auxk: bool = True

    @property
    def is_ours(self) -> bool:
        """Whether it is this project."""
        return not self.script.startswith("peers/")


_OURS, _DENSE = "training_esm_sae.py", "peers/dense_torch.py"
OURS = Contender("esm_sae", _OURS)
SPARSIFY = Contender("eai-sparsify", "peers/eai_sparsify.py")
DICTIONARY_LEARNING = Contender("dictionary_learning TopK", "peers/dictionary_learning_topk.py")
SAE_LENS = Contender("SAELens TopK", "peers/sae_lens_topk.py")
DENSE = Contender("dense torch", _DENSE, auxk=False)
CONTENDERS = (
    OURS,
    Contender("esm_sae, AuxK at work in every step", _OURS, "auxk"),
    SPARSIFY,
    DICTIONARY_LEARNING,
    SAE_LENS,
    Contender("SAELens TopK, sparse activations", SAE_LENS.script, "sparse"),
    DENSE,
    Contender("dense torch, compiled", _DENSE, "compiled", auxk=False),
    Contender("esm_sae, bfloat16", _OURS, precision="bfloat16"),
    Contender("dense torch, compiled, autocast", _DENSE, "compiled", "bfloat16", auxk=False),
)


class Usage(NamedTuple):
    """What a process took.

    Attributes:
        output: what it wrote to its standard output.
        seconds: wall time.
        peak_bytes: largest resident memory, mapped files included.
        own_bytes: the same without mapped files; None where the system does not tell.
    """

    output: str
    seconds: float
    peak_bytes: int
    own_bytes: int | None


@dataclass(frozen=True)
class Machine:
    """Where things run.

    Attributes:
        scratch: folder for data.
        peers: the peers' interpreter; None without peers.
    """

    scratch: Path
    peers: Path | None

    def contenders(self, starts: Sequence[str]) -> list[Contender]:
        """Return those that can run and whose names begin with one of the given texts."""
        return [
            contender
            for contender in CONTENDERS
            if (contender.is_ours or self.peers) and contender.name.startswith(tuple(starts))
        ]

    def train(self, contender: Contender, options: Mapping[str, Any]) -> dict[str, Any]:
        """Run a contender; return what it says and its peak memory."""
        python = sys.executable if contender.is_ours else str(self.peers)
        arguments = {"variant": contender.variant, "precision": contender.precision} | options
        command = [python, str(HERE / contender.script)]
        for name, value in arguments.items():
            if value not in (None, ""):
                command += [f"--{name.replace('_', '-')}", str(value)]
        usage = run(command, _QUIET | {"TORCHINDUCTOR_CACHE_DIR": str(self.scratch / "inductor")})
        return {"peak_bytes": usage.peak_bytes, **last_json(usage.output)}

    def describe(self, device: str) -> str:
        """Say what runs."""
        gpu = f", {_gpu_name()}" if device == "cuda" else ""
        return f"Python {platform.python_version()}, {_processor()}, {os.cpu_count()} cores{gpu}"


def run(command: Sequence[str], environment: Mapping[str, str] | None = None) -> Usage:
    """Run a command; stop with its status if it fails.

    What this process itself holds counts as the command's memory, up to the point where it
    starts: keep it small where memory is asked for.
    """
    started = time.perf_counter()
    path = os.pathsep.join(filter(None, [str(HERE), os.environ.get("PYTHONPATH")]))
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": path, **(environment or {})},
    )
    largest = [0]
    watcher = threading.Thread(target=_watch, args=(process.pid, largest), daemon=True)
    watcher.start()
    output = process.stdout.read() if process.stdout else b""
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.perf_counter() - started
    watcher.join()
    if status:
        raise SystemExit(f"{' '.join(command)}: failed with status {process.returncode}")
    return Usage(output.decode(), seconds, usage.ru_maxrss * _MEMORY_UNIT, largest[0] or None)


def last_json(output: str) -> dict[str, Any]:
    """Return the JSON object of the last line; libraries may print others before."""
    return json.loads(output.strip().splitlines()[-1])


def _watch(process: int, largest: list[int]) -> None:
    """Keep the largest memory of a process that is not mapped files, where Linux tells it."""
    status = Path(f"/proc/{process}/status")
    while True:
        try:
            lines = status.read_text().splitlines()
        except OSError:
            return
        sizes = [int(line.split()[1]) for line in lines if line.startswith(("RssAnon", "RssShm"))]
        if not sizes:
            return
        largest[0] = max(largest[0], sum(sizes) * 1024)
        time.sleep(_SECONDS_BETWEEN_LOOKS)


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    if information.is_file():
        for line in information.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _gpu_name() -> str:
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
