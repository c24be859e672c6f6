"""What this process does with floating-point numbers: the direction of rounding, and what libraries were told."""

import os

# Device → environment variable → (harmless values, library).  With any other value the library may compute in less than
# float32.  Libraries read most of these variables when the process starts or at the first product.
ENVIRONMENT: dict[str, dict[str, tuple[tuple[str, ...], str]]] = {
    "cpu": {
        "ONEDNN_DEFAULT_FPMATH_MODE": (("STRICT",), "oneDNN"),
        "DNNL_DEFAULT_FPMATH_MODE": (("STRICT",), "oneDNN"),
        "MKL_BLAS_COMPUTE_MODE": (("STANDARD", "NONE"), "MKL"),
    },
    "cuda": {
        "NVIDIA_TF32_OVERRIDE": (("0",), "cuBLAS"),
        "CUBLAS_EMULATE_SINGLE_PRECISION": (("0",), "cuBLAS"),
        "CUBLAS_EMULATE_DOUBLE_PRECISION": (("0",), "cuBLAS"),
        "HIPBLASLT_ALLOW_TF32": (("0",), "hipBLASLt"),
    },
}
_AT_IMPORT = dict(os.environ)
_ABOVE, _BELOW = 0.75 * 2.0**-52, 0.25 * 2.0**-52  # rounding to nearest takes 1 + _ABOVE up and 1 + _BELOW down


def check_environment(device: str, doing: str) -> None:
    """Raises RuntimeError if an environment variable lets a library of ``device`` compute in less than float32.

    The variables count as they are now and as they were when this module was imported.  The message names the
    variable and says what is computed: ``doing``.
    """
    for name, (harmless, library) in ENVIRONMENT[device].items():
        for value in (os.environ.get(name), _AT_IMPORT.get(name)):
            if value and value.strip().upper() not in harmless:
                raise RuntimeError(
                    f"{name}={value} in the environment lets {library} {doing} in less than float32, which no bound of "
                    f"the rounding error covers: start the process without it"
                )


def check_rounding() -> None:
    """Raises RuntimeError if this thread does not round to nearest.  (A GPU always does.)

    A library can set another direction, which then holds for numbers of all types.
    """
    if (1.0 + _ABOVE, 1.0 + _BELOW, -1.0 - _ABOVE, -1.0 - _BELOW) != (1 + 2.0**-52, 1.0, -1 - 2.0**-52, -1.0):
        raise RuntimeError(
            "this thread does not round to nearest, but every bound of the rounding error assumes that it does: a "
            "library changed the direction; set it back with fesetround(FE_TONEAREST) of the C library"
        )
