"""Builds the CPU kernels if there is a compiler.  Everything else about the package is in setup.cfg.

The library has a plain C interface, so it does not depend on the Python or the torch that builds it.  Each unit that is
compiled has one line with its seconds.  pip shows these lines with ``-v``.
"""

import os
import platform
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext
from setuptools.errors import CCompilerError

KERNELS = Path("linf_plugin/kernels")
FLAGS = [
    "-std=c++17",
    "-O2",
    "-g0",
    "-fPIC",
    "-fvisibility=hidden",
    "-pthread",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-Wno-psabi",
    "-Wno-ignored-attributes",
    "-Wno-uninitialized",
    "-Wno-maybe-uninitialized",  # warnings from the intrinsics themselves
]
FLAGS += os.environ.get("LINF_CXXFLAGS", "").split()  # for `make sanitize`, which instruments the kernels
TYPES = "float", "double"  # cpu_kernels.cpp is compiled for each, and for each level; cpu.cpp picks a level at run time
LEVELS = {"baseline": []}
if platform.machine().lower() in ("x86_64", "amd64"):
    LEVELS |= {
        "avx2": ["-mavx2", "-mfma"],
        "avx512": ["-mavx2", "-mfma", "-mavx512f", "-mavx512dq", "-mavx512bw", "-mavx512vl"],
    }


UNITS = [  # what is compiled: name, source, macros, flags.  The longest come first, so that all cores end together.
    *[
        (f"{level}_{kind}", "cpu_kernels.cpp", [("LINF_TABLE", f"linf_{level}_{kind}"), ("LINF_TYPE", kind)], flags)
        for kind in TYPES
        for level, flags in LEVELS.items()
    ],
    *[(Path(name).stem, name, [], []) for name in ("cpu.cpp", "cpu_onnx.cpp", "cpu_windows.cpp")],
]
NOT_BUILT = """\
linf-plugin: the CPU kernels were not built: {error}
linf-plugin: the package works without them, but slowly: PyTorch's own operators compute the distances.
linf-plugin: for the kernels, install a C++ compiler such as g++, then install the package again."""


def cores():
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class BuildKernels(build_ext):
    """Compiles the units on all cores and links them.  The library's name contains no Python version."""

    def get_ext_filename(self, name):
        return str(Path(*name.split("."))) + ".so"

    def build_extension(self, ext):
        start = time.monotonic()
        processes = min(cores(), len(UNITS))
        print(f"linf-plugin: compiling the CPU kernels: {len(UNITS)} units, {processes} at a time", flush=True)
        try:
            with ThreadPoolExecutor(processes) as pool:
                objects = list(pool.map(lambda unit: self.compile_unit(ext, *unit), UNITS))
            library = self.get_ext_fullpath(ext.name)
            self.compiler.link_shared_object(objects, library, extra_postargs=FLAGS, target_lang="c++")
        except CCompilerError as error:
            print(NOT_BUILT.format(error=error), flush=True)
            raise  # setuptools goes on, because the extension is optional
        print(f"linf-plugin: the CPU kernels took {time.monotonic() - start:.0f} s", flush=True)

    def compile_unit(self, ext, name, source, macros, flags):
        start = time.monotonic()
        (path,) = self.compiler.compile(
            [str(KERNELS / source)],
            output_dir=str(Path(self.build_temp) / name),
            depends=ext.depends,
            macros=macros,
            extra_postargs=FLAGS + flags,
        )
        print(f"linf-plugin: {source} as {name}: {time.monotonic() - start:.1f} s", flush=True)
        return path


class AnyPython(bdist_wheel):
    """A wheel for this platform and every Python 3."""

    def get_tag(self):
        return "py3", "none", super().get_tag()[2]


sources = [str(KERNELS / "cpu.cpp"), *map(str, sorted({*KERNELS.glob("cpu_*.cpp"), *KERNELS.glob("cpu*.h")}))]
setup(
    # On Windows, no compiler takes this source.  It is optional: the package installs without a compiler too.
    ext_modules=[Extension("linf_plugin.kernels.libcpu", sources[:1], depends=sources, optional=True)]
    if sys.platform != "win32"
    else [],
    cmdclass={"build_ext": BuildKernels, "bdist_wheel": AnyPython},
)
