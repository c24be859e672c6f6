"""``python -m linf_plugin.info``: which kernels run here, and why."""

import torch

from .kernels import cpu, gpu


def report() -> str:
    """Returns a few lines about the kernels of this process."""
    usable, reason = cpu.available()
    lines = [f"torch    {torch.__version__}, {torch.get_num_threads()} threads"]
    if usable:
        lines += [
            f"CPU      compiled kernels, {reason} (this machine has {', '.join(cpu.levels())})",
            f"library  linf_plugin/{cpu.LIBRARY.parent.name}/{cpu.LIBRARY.name}",
        ]
    else:
        lines.append(f"CPU      blocked PyTorch: {reason}")
    for index in range(torch.cuda.device_count()) or (None,):
        usable, reason = gpu.available(index)
        name = "" if index is None else f"{torch.cuda.get_device_name(index)}: "
        lines.append(f"GPU      {name}{'CUDA kernels' if usable else 'blocked PyTorch'}, {reason}")
    return "\n".join(lines)


if __name__ == "__main__":
    print(report())
