"""The device: what it is, what our kernels are compiled with, and how it multiplies float32 numbers."""

import os
import platform

import torch
import torch.nn.functional as F

from linf_plugin.kernels import cpu, gpu

from .record import Record, attempt

SETTINGS = (  # of the environment: what decides about devices, arithmetic and memory
    "CUDA_VISIBLE_DEVICES",
    "CUDA_LAUNCH_BLOCKING",
    "CUDA_MODULE_LOADING",
    "CUBLAS_WORKSPACE_CONFIG",
    "CUBLAS_EMULATE_SINGLE_PRECISION",
    "NVIDIA_TF32_OVERRIDE",
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE",
    "PYTORCH_ALLOC_CONF",
    "PYTORCH_CUDA_ALLOC_CONF",
    "ONEDNN_DEFAULT_FPMATH_MODE",
    "DNNL_DEFAULT_FPMATH_MODE",
    "OMP_NUM_THREADS",
    "OMP_WAIT_POLICY",
    "LINF_CPU_LEVEL",
)
WHOLE = 23  # bits after the point of a float32
SIDE = 256  # of the matrices, large enough for the units that multiply in less


def _versions() -> dict:
    found = {"torch": torch.__version__, "CUDA of torch": torch.version.cuda, "python": platform.python_version()}
    if torch.backends.cudnn.is_available():
        found["cuDNN"] = torch.backends.cudnn.version()
    try:
        import cuda.bindings
        from cuda.bindings import driver, nvrtc

        found["cuda-bindings"] = cuda.bindings.__version__
        found["NVRTC"] = ".".join(map(str, nvrtc.nvrtcVersion()[1:]))
        found["CUDA of the driver"] = driver.cuDriverGetVersion()[1]
    except Exception as error:  # a package or a library is not there, which gpu.available tells in words
        found["cuda-bindings"] = found.get("cuda-bindings", f"{type(error).__name__}: {error}")
    return found


def _gpus() -> list[dict]:
    about = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    return [
        {
            "name": gpu.name,
            "capability": f"{gpu.major}.{gpu.minor}",
            "multiprocessors": gpu.multi_processor_count,
            "memory_gib": round(gpu.total_memory / 2**30, 1),
        }
        for gpu in about
    ]


def _settings() -> dict:
    """What torch says of float32 products."""
    found = {"float32_matmul_precision": torch.get_float32_matmul_precision()}
    for name, settings in (
        ("cuda.matmul", torch.backends.cuda.matmul),
        ("cudnn.conv", torch.backends.cudnn.conv),
        ("mkldnn.matmul", torch.backends.mkldnn.matmul),
        ("mkldnn.conv", torch.backends.mkldnn.conv),
    ):
        found[f"{name}.fp32_precision"] = settings.fp32_precision
    return found | {
        "cudnn.enabled": torch.backends.cudnn.enabled,
        "deterministic": torch.are_deterministic_algorithms_enabled(),
    }


def bits_kept(product, device: str) -> int | None:
    """How many bits after the point of 1 + 2⁻ᵏ a product with 1 keeps, all other terms being 0: 23 for float32, 10
    for TF32, 7 for bfloat16.  None where a product of small whole numbers is not exact."""
    for bits in range(WHOLE, 0, -1):
        number = 1 + 2.0**-bits
        if product(number, device):
            return bits
    return 0 if product(2.0, device) else None


def _matmul(number: float, device: str) -> bool:
    eye = torch.eye(SIDE, device=device)
    return torch.equal(F.linear(number * eye, eye), number * eye)


def _convolution(number: float, device: str) -> bool:
    channels = 64
    x = torch.full((8, channels, 16, 16), number, device=device)
    w = torch.zeros(channels, channels, 3, 3, device=device)
    w[range(channels), range(channels), 1, 1] = 1
    return torch.equal(F.conv2d(x, w, padding=1), x)


def _products(record: Record) -> dict:
    device = record.device
    kept = {"product": bits_kept(_matmul, device), "convolution": bits_kept(_convolution, device)}
    with torch.backends.cudnn.flags(enabled=False):
        kept["convolution without cuDNN"] = bits_kept(_convolution, device)
    if device == "cuda" and torch.backends.cuda.matmul.fp32_precision in ("none", "ieee") and kept["product"] != WHOLE:
        record.fail(f"a matrix product keeps {kept['product']} of {WHOLE} bits, though the settings say float32")
    if device == "cuda" and kept["convolution without cuDNN"] != WHOLE:
        record.fail(f"a convolution without cuDNN keeps {kept['convolution without cuDNN']} of {WHOLE} bits")
    return kept


def run(record: Record) -> str:
    on_gpu = record.device == "cuda"
    found = record.found
    found["versions"], found["gpus"] = _versions(), _gpus()
    found["environment"] = {name: os.environ[name] for name in SETTINGS if name in os.environ}
    found["settings"] = attempt(record, "settings", _settings)
    usable, reason = (gpu if on_gpu else cpu).available()
    found["kernels"] = {"usable": usable, "reason": reason}
    if on_gpu and not usable:
        record.fail(f"the GPU kernels cannot be used: {reason}")
    found["bits kept"] = kept = attempt(record, "products", _products, record)
    name = found["gpus"][0]["name"] if on_gpu else platform.machine()
    bits = ", ".join(f"{what} {count}" for what, count in (kept or {}).items())
    return f"{name}; torch {torch.__version__}; kernels: {reason}; bits kept: {bits}"
