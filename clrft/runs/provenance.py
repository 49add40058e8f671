"""Where a result comes from: versions, code, hardware, peak memory; written into every manifest.

Deliberately absent: host names, user names, environment variables and paths.
"""

import hashlib
import importlib.metadata
import os
import platform
import resource
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).resolve().parents[2]
_PACKAGES = ("task_streams", "eval", "methods", "clrft")
_REPORTED = (
    "clrft", "torch", "torchvision", "transformers", "tokenizers", "trl", "peft", "accelerate", "datasets",
    "mlflow", "pydantic", "numpy", "scipy", "scikit-learn", "pillow", "safetensors", "matplotlib",
    "flash-attn", "vllm", "deepspeed",
)  # fmt: skip


def versions(packages: Sequence[str] = _REPORTED) -> dict[str, str]:
    """Version of Python and of some packages, by default each main one; ``not installed`` for one that is absent."""
    found = {"python": platform.python_version()}
    for name in packages:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def code_identity(root: Path = _ROOT) -> dict[str, Any]:
    """Which code ran: the commit, whether the checkout differs from it, and a hash of the packages' sources.

    Returns:
        ``commit`` (hex; null outside a git checkout or before its first commit), ``dirty`` (null likewise)
        and ``source_sha256``, the same for the same sources, be they in a checkout or from a wheel.
    """
    commit = _git(root, "rev-parse", "HEAD") if (root / ".git").exists() else None
    status = _git(root, "status", "--porcelain") if commit else None
    return {"commit": commit, "dirty": None if status is None else bool(status), "source_sha256": source_hash(root)}


def source_hash(root: Path = _ROOT) -> str:
    """SHA-256 over the names and contents of every Python file of the four packages under ``root``."""
    digest = hashlib.sha256()
    for package in _PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            digest.update(path.relative_to(root).as_posix().encode() + b"\0")
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def hardware() -> dict[str, Any]:
    """Processor, cores this process may use, torch threads, RAM in GB, each visible GPU, and the run's processes."""
    import torch

    from methods.distributed import ranks

    facts = Path("/proc/cpuinfo")
    lines = facts.read_text().splitlines() if facts.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": next(names, platform.processor() or platform.machine()),
        "cores": usable_cores(),
        "torch_threads": torch.get_num_threads(),
        "ram_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "gpus": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
        "cuda": torch.version.cuda if torch.cuda.is_available() else None,
        "processes": ranks.world_size(),
        "weights_split": ranks.weights_split(),
    }


def usable_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def forget_peaks() -> None:
    """Let the highest memory be counted from now on: a worker of a sweep runs one cell after the other.

    Where the system has no such switch (it is Linux's), a peak is that of the process since it began.
    """
    import torch

    switch = Path("/proc/self/clear_refs")
    if switch.exists() and os.access(switch, os.W_OK):
        switch.write_text("5")
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


def peak_memory_mb() -> float:
    """Highest resident memory of this process since ``forget_peaks``, MB; GPU memory is not in it."""
    status = Path("/proc/self/status")
    if status.exists():  # Linux's ru_maxrss starts at the size of the process that launched this one
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return round(int(line.split()[1]) / 2**10, 1)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (2**20 if sys.platform == "darwin" else 2**10), 1)  # bytes on macOS, kB elsewhere


def _git(root: Path, *arguments: str) -> str | None:
    """Output of a git command, or None where git is missing or has nothing to tell."""
    command = ["git", "-C", str(root), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def circumstances() -> dict[str, Any]:
    """What a measurement is told with: versions, hardware, code."""
    return {"versions": versions(), "hardware": hardware(), "code": code_identity()}
