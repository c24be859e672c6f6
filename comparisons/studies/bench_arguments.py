"""What the study ``bench`` and the command ``linf-compare bench`` are told.  It imports no torch."""

import argparse

DESCRIPTION = """\
Times the distance operators, forward and backward, beside torch.cdist, blocked PyTorch, torch.compile and a matrix
product of the same size, and beside what the processor can do with the same arithmetic in registers only.  An
operator that does not agree with its specification is not timed, and the exit status is 1."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--p", default="inf,8,100.5", metavar="A,B", help="exponents; default: inf,8,100.5")
    parser.add_argument("--cases", metavar="A,B", help="cases, separated by commas; default: all")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: auto")
    parser.add_argument("--threads", type=int, metavar="N", help="default: as many as torch chooses")
    parser.add_argument("--seconds", type=float, default=0.5, metavar="S", help="for each figure; default: 0.5")
    parser.add_argument("--full", action="store_true", help="slow peers on the whole batch too")
