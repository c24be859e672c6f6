"""The commands of ``linf-compare``, a file each.  None imports torch before it runs: ``--help`` is quick."""
