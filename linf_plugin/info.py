"""``python -m linf_plugin.info``: which kernels run here, and why."""

import torch

from .kernels import cpu


def report() -> str:
    """A few lines on the kernels of this process."""
    usable, reason = cpu.available()
    lines = [f"torch    {torch.__version__}, {torch.get_num_threads()} threads"]
    if usable:
        lines += [
            f"CPU      compiled kernels, {reason} (this machine has {', '.join(cpu.levels())})",
            f"library  linf_plugin/{cpu.LIBRARY.parent.name}/{cpu.LIBRARY.name}",
        ]
    else:
        lines.append(f"CPU      blocked PyTorch: {reason}")
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "none here"
    lines.append(f"GPU      blocked PyTorch; {device}")
    return "\n".join(lines)


if __name__ == "__main__":
    print(report())
