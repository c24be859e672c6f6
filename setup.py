"""Builds the CPU kernels if there is a compiler.  Everything else about the package is in setup.cfg.

The library has a plain C interface, so it does not depend on the Python or the torch that builds it.
"""

import os
import platform
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

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
LEVELS = {"baseline": []}  # cpu_kernels.cpp is compiled for each; cpu.cpp picks one at run time
if platform.machine().lower() in ("x86_64", "amd64"):
    LEVELS |= {
        "avx2": ["-mavx2", "-mfma"],
        "avx512": ["-mavx2", "-mfma", "-mavx512f", "-mavx512dq", "-mavx512bw", "-mavx512vl"],
    }


class BuildKernels(build_ext):
    """Compiles one object for each level and links them.  The library's name contains no Python version."""

    def get_ext_filename(self, name):
        return str(Path(*name.split("."))) + ".so"

    def build_extension(self, ext):
        def compile_for(name, level, flags):
            return self.compiler.compile(
                [str(KERNELS / name)],
                output_dir=str(Path(self.build_temp) / level),
                depends=ext.depends,
                macros=[("LINF_TABLE", f"linf_{level}")],
                extra_postargs=FLAGS + flags,
            )

        jobs = [(name, "interface", []) for name in ("cpu.cpp", "cpu_windows.cpp", "cpu_onnx.cpp")]
        jobs += [("cpu_kernels.cpp", level, flags) for level, flags in LEVELS.items()]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            objects = [path for paths in pool.map(lambda job: compile_for(*job), jobs) for path in paths]
        self.compiler.link_shared_object(
            objects, self.get_ext_fullpath(ext.name), extra_postargs=FLAGS, target_lang="c++"
        )


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
