"""Wrong requests to every command: one sentence and status 2, in every encoding, also if nobody reads it."""

import io
import sys

import numpy as np
import pytest
import torch

import linf_plugin
import onnx_export
from comparisons import cli as compare
from onnx_export import cli as export
from onnx_export.console import PIPE_CLOSED

MAINS = {"linf-compare": compare.main, "linf-export": export.main}
LINES = 12  # of a message, with the usage that argparse prints before it

NET = """\
import torch
def net(): return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
def training(): return net().train()
def two(): return 2
def wrong(): return torch.nn.Linear(3, 2)
def broken(): raise RuntimeError("no net today")
"""
RECIPE = """\
dataset = "digits"
eps = 0.1
[methods.linf-dist]
architecture = { name = "linf-mlp", width = 8, depth = 2 }
"""
CERTIFY = "linf-compare certify --quiet --out out --data digits --eps 0.1"
MINE = f"{CERTIFY} --model net.py:net"

WRONG = f"""\
linf-compare
linf-compare nothing
linf-compare list more
linf-compare run
linf-compare run nothing
linf-compare run nothing.toml
linf-compare run .
linf-compare run net.pt
linf-compare run broken.toml
linf-compare run recipe.toml
linf-compare run digits --out out --seed -1
linf-compare run digits --out out --seed 1e3
linf-compare run digits --out out --seed 99999999999
linf-compare run digits --out out --methods nothing
linf-compare run digits --out out --methods ,
linf-compare run digits --out out --held-out 1
linf-compare run digits --out out --held-out -0.1
linf-compare run digits --out out --held-out half
linf-compare run digits --out out --budget 0
linf-compare run digits --out out --budget fast
linf-compare run digits --out out --device tpu
linf-compare run digits --out out --data-name mnist
linf-compare run digits --out net.pt
linf-compare run mnist-tiny --out out
linf-compare run mnist-tiny --out out --data-dir empty
linf-compare run mnist-tiny --out out --data-dir missing
linf-compare diff
linf-compare diff missing missing
linf-compare diff missing:ibp empty:ibp
linf-compare diff missing.csv missing.csv
linf-compare diff net.pt net.pt
linf-compare diff empty empty --eps 0
linf-compare report
linf-compare report missing
linf-compare report empty
linf-compare report net.pt
linf-compare report --summary empty
linf-compare results missing
linf-compare results empty
linf-compare results net.pt
linf-compare show
linf-compare show nothing
linf-compare show empty
linf-compare run digits --out out --set
linf-compare run digits --out out --set eps
linf-compare run digits --out out --set eps=8
linf-compare run digits --out out --set nothing=1
linf-compare run digits --out out --set methods.nothing.lr=1
linf-compare run digits --out out --set methods.ibp.batch_size=many
linf-compare run digits --out out --epochs 0
linf-compare run digits --out out --epochs 1.5
linf-compare run digits --out out --seeds 0
linf-compare run digits --out out --seeds many
linf-compare run digits --out out --seeds 2 --seed 4294967295
linf-compare run digits --out out --jobs 0
linf-compare run digits --out out --jobs 2 --seed -1
linf-compare run digits --out out --jobs 2 --methods nothing
linf-compare run mnist-tiny --out out --jobs 2 --data-dir missing
linf-compare search
linf-compare search digits
linf-compare search nothing --method ibp
linf-compare search digits --out out --method nothing
linf-compare search digits --out out --method ibp --trials 0
linf-compare search digits --out out --method ibp --held-out 0
linf-compare search digits --out out --method ibp --held-out 1
linf-compare search digits --out out --method ibp --seed -1
linf-compare search digits --out out --method ibp --vary loss.kappa
linf-compare search digits --out out --method ibp --vary loss.kappa=1
linf-compare search digits --out out --method ibp --vary loss.kappa=1..0
linf-compare search digits --out out --method ibp --vary loss.kappa=0..1:log
linf-compare search digits --out out --method ibp --vary loss.kappa=0..inf
linf-compare search digits --out out --method ibp --vary loss.kappa=0.6..1
linf-compare search digits --out out --method ibp --vary loss.kappa=0..2
linf-compare search digits --out out --method ibp --vary loss.nothing=0..1
linf-compare search digits --out out --method ibp --vary nothing=0..1
linf-compare search digits --out out --method ibp --vary schedule.epochs=10..100
linf-compare search digits --out out --method ibp --vary loss.kappa=0..1 --vary loss.kappa=0..1
linf-compare search digits --out out --method ibp --epochs 0
linf-compare search digits --out net.pt --method ibp
linf-compare search mnist-tiny --out out --method ibp
linf-compare fronts
linf-compare fronts missing
linf-compare fronts empty
linf-compare spectral
linf-compare spectral --model net.py
linf-compare spectral --model net.py:two
linf-compare spectral --model net.py:net --checkpoint net.pt
linf-compare spectral --model net.py:net --weights missing.pt
linf-compare spectral --model net.py:net --methods nothing
linf-compare spectral --model net.py:net --methods ,
linf-compare spectral --model net.py:net --shape 3,x
linf-compare spectral --model net.py:net --shape 0
linf-compare spectral --model net.py:net --shape 1,3,3
linf-compare spectral --model net.py:net --out net.pt
linf-compare spectral --checkpoint missing.pt
linf-compare spectral --checkpoint net.onnx
linf-compare spectral --checkpoint net.pt --weights net.pt
linf-compare study
linf-compare study nothing
linf-compare study widths --nothing
linf-compare study ablation nothing
linf-compare bench --p 0.5
linf-compare bench --p x
linf-compare bench --cases nothing
linf-compare bench --threads 0
linf-compare bench --seconds -1
linf-compare bench --device tpu
linf-compare bench --json net.pt
linf-compare certify
linf-compare certify --model net.py:net
linf-compare certify --model net.py:net --data digits
{CERTIFY} --model net.py
{CERTIFY} --model net.py:missing
{CERTIFY} --model missing.py:net
{CERTIFY} --model net.py:two
{CERTIFY} --model net.py:wrong
{CERTIFY} --model net.py:broken
{CERTIFY} --model net.pt:net
{CERTIFY} --model net.py:net --onnx net.onnx
{CERTIFY} --onnx missing.onnx
{CERTIFY} --onnx net.pt
{CERTIFY} --onnx net.onnx --weights net.pt
{MINE} --weights missing.pt
{MINE} --weights net.onnx
{MINE} --weights other.pt
{MINE} --eps 8
{MINE} --eps -0.1
{MINE} --eps x
{MINE} --eps 1/0
{MINE} --eps ,
{MINE} --norm l3
{MINE} --norm l2 --attack pgd
{MINE} --methods nothing
{MINE} --methods ,
{MINE} --attack nothing
{MINE} --attack pgd,steps=0
{MINE} --attack pgd,steps=many
{MINE} --attack pgd,nothing=1
{MINE} --samples 0
{MINE} --batch-size -1
{MINE} --time-limit 0
{MINE} --seed -1
{MINE} --device tpu
{MINE} --data missing.npz
{MINE} --data wrong.npz
{MINE} --data empty
{MINE} --data mnist
linf-export
linf-export nothing
linf-export model
linf-export model net.pt
linf-export model missing.pt -o a.onnx
linf-export model net.onnx -o a.onnx
linf-export model other.pt -o a.onnx
linf-export model net.pt -o net.onnx
linf-export model net.pt -o .
linf-export model net.pt -o a.onnx --flavour nothing
linf-export model net.pt -o a.onnx --certificate interval --epsilon 2
linf-export model net.pt -o a.onnx --epsilon x
linf-export model net.pt -o a.onnx --pixels word
linf-export model net.pt -o a.onnx --data missing
linf-export model net.pt -o a.onnx --model net.py:net
linf-export model -o a.onnx --model net.py:net
linf-export model -o a.onnx --model net.py:net --input-shape 1,8
linf-export model -o a.onnx --model net.py:net --input-shape x
linf-export model -o a.onnx --model net.py:net --input-shape 3,3,3
linf-export show
linf-export show missing.onnx
linf-export show net.pt
linf-export show empty
linf-export check missing.onnx
linf-export check net.pt
linf-export check net.onnx --limit 0
linf-export check net.onnx --checkpoint missing.pt
linf-export check net.onnx --data missing
linf-export verify missing.onnx
linf-export verify net.pt
linf-export verify net.onnx --device tpu
linf-export verify net.onnx --limit x
linf-export import net.onnx
linf-export import missing.onnx -o a.pt
linf-export import net.pt -o a.pt
linf-export import net.onnx -o net.pt
linf-export vnnlib net.pt --out folder
linf-export vnnlib net.pt --eps 2 --out folder
linf-export vnnlib missing.pt --eps 0.1 --out folder
linf-export vnnlib net.pt --eps 0.1 --out folder --count 0
linf-export vnnlib net.pt --eps 0.1 --out folder --seed -1
linf-export cross-check missing.pt
linf-export cross-check net.pt --count 0
linf-export cross-check net.pt --time-limit 0
linf-export cross-check net.pt --memory 0
linf-export cross-check net.pt --json net.onnx
linf-export abcrown net.pt --out folder
linf-export abcrown net.pt --eps 2 --out folder
linf-export abcrown net.pt --eps 0.1 --out folder --samples 0
linf-export bench --nothing
""".splitlines()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Nets, files and folders that requests name."""
    path = tmp_path_factory.mktemp("wrong")
    torch.manual_seed(0)
    net = linf_plugin.build("linf-mlp", shape=(1, 8, 8), classes=10, width=4, depth=2).eval()
    linf_plugin.save(path / "net.pt", net, {"dataset": "digits"})
    onnx_export.export(net, path / "net.onnx", {"dataset": "digits"})
    torch.save({"weight": torch.zeros(3)}, path / "other.pt")
    (path / "net.py").write_text(NET)
    (path / "recipe.toml").write_text(RECIPE)
    (path / "broken.toml").write_text("dataset = ")
    np.savez(path / "wrong.npz", a=np.zeros(3))
    (path / "empty").mkdir()
    return path


def _status(line: str) -> int:
    name, *arguments = line.split()
    try:
        return MAINS[name](arguments)
    except SystemExit as ended:  # argparse
        return ended.code


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "cp1252"])
@pytest.mark.parametrize("line", WRONG)
def test_a_wrong_request_is_one_sentence(line, encoding, folder, monkeypatch):
    monkeypatch.chdir(folder)
    before = sorted(path.name for path in folder.iterdir())
    streams = {name: io.TextIOWrapper(io.BytesIO(), encoding) for name in ("stdout", "stderr")}
    for name, stream in streams.items():
        monkeypatch.setattr(sys, name, stream)
    status = _status(line)
    said = {}
    for name, stream in streams.items():
        stream.flush()
        said[name] = stream.buffer.getvalue().decode(encoding)
    assert status == 2, said
    assert "Traceback" not in said["stderr"] and "error: " in said["stderr"] and said["stdout"] == ""
    assert len(said["stderr"].splitlines()) <= LINES
    assert sorted(path.name for path in folder.iterdir()) == before


class _Closed(io.RawIOBase):
    """A pipe that nobody reads."""

    def writable(self):
        return True

    def write(self, data):
        raise BrokenPipeError(32, "Broken pipe")

    def fileno(self):
        return self.number


READS = ["linf-compare list", "linf-export show net.onnx"]


@pytest.mark.parametrize("line", [*READS, *WRONG[::10]])
def test_nobody_reads(line, folder, monkeypatch, tmp_path):
    monkeypatch.chdir(folder)
    with open(tmp_path / "there", "w") as there:
        closed = _Closed()
        closed.number = there.fileno()
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(closed, "utf-8"))
        assert _status(line) == (PIPE_CLOSED if line in READS else 2)
        monkeypatch.undo()


def test_there_are_a_hundred_wrong_requests_of_every_command():
    asked = {tuple(line.split()[:2]) for line in WRONG}
    known = {("linf-compare", name) for name in compare.COMMANDS} | {
        ("linf-export", name) for name in export.EXPORT_COMMANDS
    }
    assert len(WRONG) >= 100 and known <= asked
