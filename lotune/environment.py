"""Versions, hardware and git revision of a run."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "transformers", "peft", "tokenizers", "safetensors", "numpy", "jieba", "pydantic")

GPU_DEVICES = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg", "/dev/nvhost-gpu", "/dev/nvmap")
"""Device files of GPUs on Linux: NVIDIA, AMD, WSL, Tegra. Without any of them, a process cannot use a GPU."""


def environment() -> dict[str, Any]:
    """Return versions, hardware and git revision; no environment variables, as these may hold secrets."""
    import platform

    import psutil

    versions = _all_installed()
    return {
        "lotune": installed("lotune"),
        "python": platform.python_version(),
        "packages": {name: versions.get(name) for name in PACKAGES},
        "installed": versions,
        "system": platform.platform(),
        "processor": processor(),
        "cores": psutil.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "accelerators": _accelerators(),
        "git_revision": _git_revision(),
    }


def installed(name: str) -> str | None:
    """Return the version of a package, None if it is not installed."""
    from importlib import metadata

    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _all_installed() -> dict[str, str]:
    """Return the version of every installed package by its name, in the order of the names."""
    from importlib import metadata

    headers = (found.metadata for found in metadata.distributions())  # each access reads the file anew
    names = {found["Name"]: found["Version"] for found in headers}
    return dict(sorted((name, version) for name, version in names.items() if name and version))


def processor() -> str:
    """Return the model name of the CPU."""
    import platform

    # On Linux, `platform.processor` says x86_64 or nothing, which explains no difference in speed.
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _accelerators() -> list[str]:
    if sys.platform == "linux" and not any(map(os.path.exists, GPU_DEVICES)):
        return []  # avoids importing torch
    import torch

    if torch.cuda.is_available():
        return [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    return ["mps"] if torch.backends.mps.is_available() else []


def _git_revision() -> str | None:
    """Return the git revision that lotune runs from, with "-dirty" if edited; None outside a checkout."""
    import subprocess

    def git(*arguments: str) -> str | None:
        command = ["git", "-C", str(Path(__file__).parent), *arguments]
        try:
            return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
        except (OSError, subprocess.SubprocessError):
            return None

    # An installed lotune may lie in a virtual environment inside some other project's checkout.
    if git("ls-files", "--error-unmatch", Path(__file__).name) is None:
        return None
    revision = git("rev-parse", "HEAD")
    return f"{revision}-dirty" if revision and git("status", "--porcelain", "--untracked-files=no") else revision
