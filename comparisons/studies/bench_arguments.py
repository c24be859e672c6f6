"""The arguments of the study ``bench`` and of the command ``linf-compare bench``.  It does not import torch."""

import argparse

DESCRIPTION = """\
Times the distance operators, forward and backward, beside torch.cdist, blocked PyTorch, torch.compile and a matrix
product of the same size.  A loop with the same arithmetic, only in registers, shows what the processor can reach.
An operator that does not agree with its specification is not timed, and the exit status is 1."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--p", default="inf,8,100.5", metavar="A,B", help="exponents; default: inf,8,100.5")
    parser.add_argument("--cases", metavar="A,B", help="cases, separated by commas; default: all")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: auto")
    parser.add_argument("--threads", type=int, metavar="N", help="default: torch's choice")
    parser.add_argument("--seconds", type=float, default=0.5, metavar="S", help="for each figure; default: 0.5")
    parser.add_argument("--full", action="store_true", help="also run slow peers on the whole batch")
