"""The commands of ``linf-compare``, one file each.  A command imports torch only when it runs: ``--help`` is quick."""
