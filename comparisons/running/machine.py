"""What the figures of a run depend on besides its recipe: the device, the processor, the versions and the commit."""

import os
import platform
import re
import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

OURS = ("linf_plugin", "onnx_export", "comparisons")


def device_of(choice: str) -> str:
    """Returns the device for "auto", "cpu" or "cuda".  Raises ValueError for "cuda" if torch sees no CUDA device."""
    if choice == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if choice == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: torch sees no CUDA device here")
    return choice


def device_name(device: torch.device) -> str:
    """Returns the name of the device for tables."""
    if device.type == "cuda":
        return f"cuda: {torch.cuda.get_device_name(device)}"
    threads = torch.get_num_threads()
    return f"cpu: {platform.machine()}, {threads} thread{'s' * (threads != 1)}"


def processor_name() -> str:
    """Returns the name of the processor, or of its architecture where the system does not tell more."""
    try:
        found = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        found = None
    return found[1].strip() if found else platform.processor() or platform.machine()


def commit() -> str | None:
    """Returns the git commit of this package's source, and whether files differ from it; None for an installed copy."""
    return commit_of(Path(__file__).parents[2])


def commit_of(folder: Path) -> str | None:
    """Returns the commit in ``folder`` if git tracks our packages there."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}

    def git(*arguments: str) -> str:
        command = ["git", "--no-optional-locks", "-c", "core.fsmonitor=false", *arguments]
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, encoding="utf-8", timeout=30, check=True
        )
        return done.stdout.strip()

    try:
        git("ls-files", "--error-unmatch", "--", *(f"{package}/__init__.py" for package in OURS))
        head = git("rev-parse", "HEAD")
        differs = git("status", "--porcelain", "--untracked-files=no", "--", *OURS)
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
    return f"{head} with changes" if differs else head


def now() -> str:
    """Returns the date and time in UTC, as 2026-01-31T12:00:00Z."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def versions() -> dict[str, str]:
    """Returns package → version, for the packages on which figures may depend."""

    def of(package: str) -> str:
        try:
            return version(package)
        except PackageNotFoundError:
            return "unknown"

    import linf_plugin.bounds  # makes auto_LiRPA importable: it comes first

    import auto_LiRPA  # isort: skip

    found = {name: of(name) for name in ("torch", "numpy", "adversarial-robustness-toolbox")}
    return {
        "linf-plugin": linf_plugin.__version__,
        "auto_LiRPA": auto_LiRPA.__version__,
        **found,
        "python": platform.python_version(),
    }
