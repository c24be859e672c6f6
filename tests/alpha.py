"""α-CROWN in few steps, for tests that need its bounds and not its best bounds."""

from contextlib import contextmanager

import pytest

STEPS = 4


@contextmanager
def few_steps():
    """α-CROWN optimises in 4 steps instead of 20.  Its bounds hold after any number of them."""
    from linf_plugin.bounds.versions import import_auto_lirpa  # other tests run without auto_LiRPA

    bounded_module = import_auto_lirpa().BoundedModule
    made = bounded_module.__init__

    def made_quick(self, *args, **options):
        made(self, *args, **options)
        chosen = self.bound_opts["optimize_bound_args"]
        chosen["iteration"] = min(chosen["iteration"], STEPS)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bounded_module, "__init__", made_quick)
        yield
