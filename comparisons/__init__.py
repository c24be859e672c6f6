"""Trains, certifies, attacks and compares ℓ∞-distance nets and their rivals."""

import sys


class _Former:
    """Finds modules that have moved.  Imports ``linf_plugin.moved``, which lists them, only if no module is found."""

    @staticmethod
    def find_spec(fullname: str, path=None, target=None):
        if not fullname.startswith(f"{__name__}."):
            return None
        from linf_plugin.moved import find_spec

        return find_spec(fullname)


sys.meta_path.append(_Former)
