"""``linf-compare certify``."""

import argparse
import os
import sys
from pathlib import Path

SUMMARY = "certify and attack a net of your own"
DESCRIPTION = """\
Certifies and attacks a net that you bring, on a test set, and writes what `run` writes: results.json, table.md and
certified.png.  `report` puts it beside the nets of a recipe.  Every ε is in units of the range [0, 1] of the data."""
EPILOG = """\
examples:
  linf-compare certify --model net.py:net --weights net.pt --data digits --eps 0.1
  linf-compare certify --onnx net.onnx --data mnist --data-dir data --eps 8/255,0.1 --samples 1000
  linf-compare certify --onnx net.onnx --data rows.npz --eps 0.02 --methods ibp,crown,exact,marabou --time-limit 20
  linf-compare report results/digits results/net --out results/both

--model runs FILE.py and calls FUNCTION without arguments.  The file is your own code: it can do whatever you can.
FUNCTION returns a torch.nn.Module, which is put into evaluation mode.  Nothing in the files of --weights and --onnx
is executed.  A state dict may lie under "state_dict" or "model", and its names may begin with "module.".

--onnx reads an ordinary ONNX file, with one input, one output and any batch (or a batch of 1), by onnx2torch.  Before
anything is claimed, its logits are compared with those of onnxruntime, on random inputs and on some of the data.  The
certificates are about the float32 program of the PyTorch form.  A file with operators of this package is read as
`linf-export import` reads it.

--data takes a known name, an .npz file or a folder of images, as `linf-compare run --help` describes them.  Samples
are images or rows of numbers, with values in [0, 1].  Own data without a test part are measured whole.

Each sample is certified by the cheapest certificate that can do it.  A certificate holds for the float32 program of
any net whose graph torch.export can read and whose operators all have a bound of their rounding: convolutions,
BatchNorm, pools, activations, branches and more.  A net that is refused is refused by the operator and the line of
code.  --unsound leaves rounding out: the certificates are then about exact arithmetic.

Complete verifiers in --methods (exact, marabou, abcrown) come last: at the first ε they are asked about the samples
that no certificate covers and that the attack did not break.  "Verified" is kept apart from "certified", because it
says nothing about float32.  "Falsified" comes with a point, which the net itself classifies otherwise.

exit status: 0; 1 if an attack or a verifier breaks a certified sample, which is then named; 2 for a wrong request.
An attack that breaks a certified sample stops the command; all about the sample is in contradiction-NAME-SAMPLE.npz.

Written to --out: results.json, table.md, certified.png; one row for each sample (NAME.samples.csv: prediction, margin,
radius by each certificate, what broke it), some adversarial points (NAME.points.npz); with complete verifiers also
NAME.verdicts.jsonl, which has their points.  `linf-compare diff` compares the rows of two nets.

Earlier work in --out.  A finished net is kept if the net, the data and the settings are the same; other nets in the
folder stay.  --resume goes on where an interrupted call stopped.  --force replaces what is there."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    net = parser.add_mutually_exclusive_group(required=True)
    net.add_argument("--model", metavar="FILE.py:FUNCTION", help="your own code, which builds the net")
    net.add_argument("--onnx", type=Path, metavar="NET.onnx", help="the net as an ONNX file")
    parser.add_argument(
        "--weights", type=Path, metavar="FILE", help="for --model: a state dict, of torch.save or .safetensors"
    )
    parser.add_argument(
        "--data",
        required=True,
        metavar="DATA",
        help="digits, mnist, fashion-mnist, cifar10, tinyimagenet, an .npz file, or a folder of images",
    )
    parser.add_argument("--data-dir", type=Path, metavar="DIR", help="folder with MNIST/raw, FashionMNIST/raw, …")
    parser.add_argument("--data-name", metavar="NAME", help="name of your data, if they are not the published data")
    parser.add_argument(
        "--eps",
        required=True,
        metavar="E[,E…]",
        help="radii in the range [0, 1] (in l2 also larger), such as 8/255; the headline first",
    )
    parser.add_argument("--norm", default="linf", metavar="NORM", help="of the balls: linf (default), l2 or l1")
    parser.add_argument(
        "--methods",
        metavar="A,B",
        help="certificates (lipschitz, lipschitz-l2, ibp, crown-ibp, crown, alpha-crown; default: all theorems of the "
        "norm except alpha-crown) and complete verifiers (exact, marabou, abcrown; default: none)",
    )
    parser.add_argument(
        "--time-limit", type=float, metavar="SECONDS", help="of a complete verifier for one sample; default: 60"
    )
    parser.add_argument(
        "--verify-certified", action="store_true", help="ask complete verifiers about certified samples too, as a check"
    )
    parser.add_argument(
        "--attack",
        default="pgd,steps=20,restarts=2",
        metavar="NAME[,KEY=N…]",
        help="an attack (pgd, pgd-margin, apgd, square; in l2 balls pgd-l2, pgd-margin-l2, apgd-l2, square-l2) with "
        "the settings that a recipe may give, or none; default: pgd,steps=20,restarts=2",
    )
    parser.add_argument("--unsound", action="store_true", help="leave rounding out: exact arithmetic")
    parser.add_argument("--samples", type=int, metavar="N", help="only the first N of the test set")
    parser.add_argument("--batch-size", type=int, metavar="N", help="how many samples are bounded at a time")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: auto")
    parser.add_argument("--name", metavar="LABEL", help="of the net in tables; default: the name of its file")
    parser.add_argument("--out", type=Path, metavar="DIR", help="default: results/ and the name of the file")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the attack; default: 0")
    parser.add_argument("--resume", action="store_true", help="go on where an earlier call in --out stopped")
    parser.add_argument("--force", action="store_true", help="replace what an earlier call left in --out")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")


def run(args: argparse.Namespace) -> int:
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # as for `run`
    from ..report.verification import breakers_of
    from ..report.written import write_report
    from ..running.certify import certify_net
    from ..running.contradiction import Contradiction
    from ..running.data import load
    from ..running.given import from_onnx, from_python
    from ..running.machine import device_of
    from ..running.verdicts import said

    asked = _asked(args)
    device = device_of(args.device)
    if args.onnx is not None and args.weights is not None:
        raise ValueError("--weights goes with --model: an ONNX file has its own weights")
    data = load(args.data, args.data_dir, args.data_name)
    net = from_onnx(args.onnx, data.x_test) if args.onnx is not None else from_python(args.model, args.weights)
    out = args.out or Path("results") / (args.onnx.stem if args.onnx is not None else net.label.partition(":")[0])
    try:
        results, name, verdicts = certify_net(
            net,
            data,
            out,
            asked,
            label=args.name,
            samples=args.samples,
            device=device,
            resume=args.resume,
            force=args.force,
            progress=not args.quiet,
        )
    except Contradiction as error:
        print(f"linf-compare: {error}", file=sys.stderr)
        return 1
    except (TypeError, ValueError, RuntimeError) as error:  # a refusal of certify, or of torch: one sentence
        raise ValueError(" ".join(str(error).split()).replace("sound=False", "--unsound")) from error
    print(write_report([results], out))
    for eps, found in verdicts.items():
        print(found.summary(eps))
    verification = results.methods[name].verification
    if verdicts and verification is not None:
        print("\n".join(said(verification)))
    more = [file for file in (f"{name}.samples.csv", f"{name}.verdicts.jsonl") if (out / file).exists()]
    print(f"Written to {out}: {', '.join(('results.json', 'table.md', 'certified.png', *more))}")
    wrong = results.contradictions
    if wrong:
        print(f"linf-compare: {wrong} certificates are contradicted by {breakers_of(results)}", file=sys.stderr)
    return 1 if wrong else 0


def _asked(args: argparse.Namespace):
    """Returns what the arguments ask for.  Raises ValueError, which names the flag."""
    from linf_plugin.arguments import check_count, check_seed

    from ..attacks.attack import ATTACKS, of_norm
    from ..certificates import norm_named, symbol_of_norm
    from ..running.asked import Asked

    for flag, value, least in (("--samples", args.samples, 1), ("--batch-size", args.batch_size, 1)):
        if value is not None:
            check_count(flag, value, least)
    check_seed(args.seed, "--seed")
    norm, attack = norm_named(args.norm), _attack(args.attack)
    if attack is not None and ATTACKS[attack["name"]].norm != norm:
        moved, asked = symbol_of_norm(ATTACKS[attack["name"]].norm), symbol_of_norm(norm)
        others = ", ".join((*of_norm(norm), "none"))
        raise ValueError(
            f"--attack {attack['name']} moves samples in {moved}, and --norm is {asked}: give --attack one of {others}"
        )
    methods, request = _methods(args, norm)
    attacks = () if attack is None else (attack,)
    return Asked(
        _eps_values(args.eps, args.norm), norm, methods, not args.unsound, attacks, args.seed, args.batch_size, request
    )


def _methods(args: argparse.Namespace, norm: float):
    """Returns the certificates of ``--methods``, and what its complete verifiers are asked, or None."""
    import math

    from ..certificates import check_norms, names, symbol_of_norm
    from ..verifiers.complete import COMPLETE, check_installed
    from ..verifiers.request import Request

    given = tuple(dict.fromkeys(filter(None, map(str.strip, (args.methods or "").split(",")))))
    if args.methods is not None and not given:
        raise ValueError(f"--methods: name at least one of {', '.join((*names(), *COMPLETE))}")
    known = (*names(), *COMPLETE)
    if unknown := [name for name in given if name not in known]:
        raise ValueError(f"--methods: each must be one of {', '.join(known)}, got {unknown[0]!r}")
    methods, asked = ([name for name in given if (name in COMPLETE) is last] for last in (False, True))
    check_norms(methods, norm)
    if not asked:
        for flag, value in (("--time-limit", args.time_limit), ("--verify-certified", args.verify_certified or None)):
            if value is not None:
                raise ValueError(f"{flag} is for complete verifiers: --methods must name one of {', '.join(COMPLETE)}")
        return tuple(methods), None
    if norm != math.inf:
        raise ValueError(f"{asked[0]} takes {symbol_of_norm(math.inf)} balls only, and --norm is {args.norm}")
    try:
        limit = {} if args.time_limit is None else {"time_limit": args.time_limit}
        request = Request(tuple(asked), certified=args.verify_certified, **limit)
    except ValueError as error:
        raise ValueError(str(error).replace("time_limit", "--time-limit")) from error
    check_installed(asked)
    return tuple(methods), request


def _eps_values(text: str, norm: str) -> tuple[float, ...]:
    from linf_plugin.plain import fraction

    from ..certificates import largest_eps

    try:
        found = tuple(dict.fromkeys(fraction(part.strip()) for part in text.split(",")))
    except ValueError as error:
        raise ValueError(f"--eps: {error}") from error
    if not all(0 <= eps <= largest_eps(norm) for eps in found):
        allowed = "lie in [0, 1]" if largest_eps(norm) == 1 else "be at least 0"
        raise ValueError(f"--eps: each radius must {allowed}, got {text}")
    return found


def _attack(text: str) -> dict | None:
    """Returns the table of an attack, as a recipe has it; None for "none"."""
    from ..methods.parts import ATTACKING
    from ..recipes.toml_arguments import check_named

    name, *settings = (part.strip() for part in text.split(","))
    if name == "none" and not settings:
        return None
    table = {"name": name}
    for setting in settings:
        key, _, value = setting.partition("=")
        try:
            table[key] = int(value) if value.isdecimal() else float(value)
        except ValueError:
            raise ValueError(f"--attack: {setting!r} must be KEY=NUMBER") from None
    check_named(table, "attack", ATTACKING, "--attack")
    return table
