"""The device of a run, and the versions of packages: its figures depend on both."""

import platform
from importlib.metadata import PackageNotFoundError, version

import torch


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
