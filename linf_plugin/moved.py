"""Names that have moved.  The old names still work.  Each warns once and tells the new place."""

import importlib
import importlib.abc
import importlib.machinery
import sys
import types
import warnings
from collections.abc import Callable

# Old module → new module.  Each old name is looked up in the new module, unless NAMES says otherwise.
MODULES = {
    "comparisons.ablation": "comparisons.studies.ablation",
    "comparisons.baselines": "comparisons.methods.robust",
    "comparisons.bench": "comparisons.studies.bench",
    "comparisons.cost": "comparisons.studies.cost",
    "comparisons.plots": "comparisons.report.plots",
    "comparisons.published": "comparisons.report.published",
    "comparisons.recipe": "comparisons.recipes.recipe",
    "comparisons.runner": "comparisons.running.run",
    "comparisons.standing": "comparisons.report.page",
    "comparisons.steps": "comparisons.studies.steps",
    "comparisons.tightness": "comparisons.studies.tightness",
    "comparisons.widths": "comparisons.studies.widths",
    "linf_plugin.arithmetic": "linf_plugin.float32.products",
    "linf_plugin.bounds.certify": "linf_plugin.certificates",
    "linf_plugin.bounds.exact": "linf_plugin.certificates.exact.radius",
    "linf_plugin.bounds.piecewise": "linf_plugin.certificates.exact.steps",
    "linf_plugin.compat": "linf_plugin.tracing",
    "linf_plugin.program": "linf_plugin.float32.program",
    "linf_plugin.rounding": "linf_plugin.float32.reach",
    "linf_plugin.spec": "linf_plugin.models.spec",
    "onnx_export.cross_check": "onnx_export.verifiers.marabou_study",
    "onnx_export.export": "onnx_export.exporting",
    "onnx_export.load": "onnx_export.files.load",
    "onnx_export.read": "onnx_export.reading.net",
    "onnx_export.translate": "onnx_export.writing.translate",
    "onnx_export.verify": "onnx_export.running.verify",
    "onnx_export.vnnlib": "onnx_export.verifiers.vnnlib",
}
# (old module, name) → (new module, name)
NAMES = {
    ("linf_plugin.arithmetic", "ENVIRONMENT"): ("linf_plugin.process", "ENVIRONMENT"),
    ("linf_plugin.bounds", "CERTIFICATES"): ("linf_plugin.certificates", "CERTIFICATES"),
    ("linf_plugin.bounds", "Certificate"): ("linf_plugin.certificates", "Certified"),
    ("linf_plugin.bounds", "certify"): ("linf_plugin.certificates", "certify"),
    ("linf_plugin.bounds", "certify_each"): ("linf_plugin.certificates", "certify_each"),
    ("linf_plugin.bounds", "margin_bound"): ("linf_plugin.certificates", "margin_bound"),
    ("linf_plugin.bounds.certify", "Certificate"): ("linf_plugin.certificates", "Certified"),
    ("linf_plugin.bounds.certify", "specification"): ("linf_plugin.bounds", "specification"),
    ("linf_plugin.bounds.certify", "LIRPA_METHODS"): ("linf_plugin.certificates.table", "LIRPA_METHODS"),
    ("linf_plugin.compat", "float64_by_default"): ("linf_plugin.bounds.versions", "float64_by_default"),
    ("linf_plugin.compat", "import_auto_lirpa"): ("linf_plugin.bounds.versions", "import_auto_lirpa"),
    ("linf_plugin.rounding", "RULES"): ("linf_plugin.float32.rules", "ROUNDING"),
    **{
        (module, name): ("linf_plugin.float32.rules", name)
        for module in ("linf_plugin.rounding", "linf_plugin.float32.reach")
        for name in ("MOST_TERMS", "OUTWARD", "POWER_UNITS", "TANH_UNITS", "UNIT", "gamma")
    },
    ("linf_plugin.rounding", "noise"): ("linf_plugin.float32.allowance", "noise"),
    ("linf_plugin.rounding", "sound_margin"): ("linf_plugin.certificates.lipschitz", "sound_margin"),
    ("linf_plugin.rounding", "sound_radius"): ("linf_plugin.certificates", "sound_radius"),
}

_told: set[str] = set()


def warn_once(old: str, new: str, stacklevel: int = 3) -> None:
    """Warns with a DeprecationWarning that ``new`` replaces ``old``, but only at the first call for this old name.

    stacklevel: where the warning points; 3 is the caller of the function that calls this one.
    """
    if old not in _told:
        _told.add(old)
        warnings.warn(f"{old} is deprecated: use {new}", DeprecationWarning, stacklevel=stacklevel)


def former(module: str) -> Callable[[str], object]:
    """Returns a ``__getattr__`` for a module that finds the names which the module had in an earlier version.

    ``__getattr__`` raises AttributeError for a name that the module never had.
    """

    def find(name: str):
        if (module, name) in NAMES:
            new, now = NAMES[module, name]
        elif module in MODULES and not name.startswith("__"):
            new, now = MODULES[module], name
        else:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        found = getattr(importlib.import_module(new), now)
        warn_once(f"{module}.{name}", f"{new}.{now}")
        return found

    return find


class _OldModule(types.ModuleType):
    """Can be called as the function of its own name, without a warning: an import of the module ``onnx_export.export``
    puts it where the function ``onnx_export.export`` is."""

    def __call__(self, *args, **kwargs):
        name = self.__name__.rpartition(".")[2]
        new, now = NAMES.get((self.__name__, name), (MODULES[self.__name__], name))
        return getattr(importlib.import_module(new), now)(*args, **kwargs)


class _Loader(importlib.abc.Loader):
    """Makes an old module: an empty module that looks its names up in the new one."""

    def exec_module(self, module: types.ModuleType) -> None:
        module.__class__ = _OldModule
        module.__getattr__ = former(module.__name__)

    def get_code(self, fullname: str) -> types.CodeType:
        """Returns the code for ``python -m``: it runs the new module."""
        new = MODULES[fullname]
        lines = (
            "import runpy",
            "from linf_plugin.moved import warn_once",
            f"warn_once({fullname!r}, {new!r}, 2)",
            f"runpy.run_module({new!r}, run_name='__main__', alter_sys=True)",
        )
        return compile("\n".join(lines), f"<{fullname}>", "exec")


def find_spec(fullname: str, path=None, target=None) -> importlib.machinery.ModuleSpec | None:
    """Returns the spec of a module of ``MODULES``, else None, as a finder on ``sys.meta_path`` must do."""
    return importlib.machinery.ModuleSpec(fullname, _Loader()) if fullname in MODULES else None


def install() -> None:
    """Makes the old modules importable.  A second call changes nothing."""
    this = sys.modules[__name__]
    if this not in sys.meta_path:
        sys.meta_path.append(this)
