"""The arguments of the commands of ``linf-export``, one file each.  Help is quick, because nothing imports torch."""
