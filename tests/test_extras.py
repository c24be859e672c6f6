"""Without the optional packages: an entry either works, or one message names the extra that it needs."""

import configparser
import importlib
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import onnx_export
from linf_plugin import extras

ROOT = Path(__file__).parents[1]

# What is run without the optional packages → the package that the message names, or None where it works.
ENTRIES = {
    "import linf_plugin.training, linf_plugin.datasets, linf_plugin.weights, linf_plugin.info": None,
    "import onnx_export, comparisons, linf_plugin.tracing": None,
    "net(x), lp.sound_radius(net, x, y), lp.certified_radius(net(x), y, 1.0), lp.lipschitz_bound(net, 'linf')": None,
    "lp.save('again.pt', net, {}); lp.load('again.pt')": None,
    "training.fit(net, loss, training.adam(net, lr=0.01), schedule, x, y, batch_size=8, progress=True)": None,
    "load_dataset((x, y, x, y), own_name='mine')": None,
    "from linf_plugin import certificates; certificates.certify(net, x, y, 0.1, methods=('lipschitz',))": None,
    "import linf_plugin.bounds": "auto_LiRPA",
    "from linf_plugin.certificates import certify; certify(net, x, net(x).argmax(1), 0.1, ('crown',))": "auto_LiRPA",
    "from linf_plugin.certificates import exact_radius": "scipy",
    "import linf_plugin.smoothing": None,
    "from linf_plugin.smoothing import certify": "scipy",
    "load_dataset('digits')": "sklearn",
    "load_dataset('images')": "PIL",
    "from linf_plugin.weights import read_weights; read_weights('net.safetensors')": "safetensors",
    **{f"import onnx_export; onnx_export.{name}": "onnx" for name in onnx_export.__all__},
    **{
        f"export.main({line.split()})": package
        for line, package in {
            "model net.pt -o net.onnx": "onnx",
            "show net.onnx": "onnx",
            "check net.onnx": "onnx",
            "verify net.onnx": "onnx",
            "import net.onnx -o back.pt": "onnx",
            "vnnlib net.pt --eps 0.1 --out vnnlib": "onnx",
            "cross-check net.pt": "onnx",
            "abcrown net.pt --eps 0.1 --out abcrown": "sklearn",
            "bench --quick --out bench": "onnx",
        }.items()
    },
    **{
        f"compare.main({line.split()})": package
        for line, package in {
            "list": None,
            "study --list": None,
            "run digits": "matplotlib",
            "search digits --method ibp": "optuna",
            "certify --model net.py:net --data digits --eps 0.1": "matplotlib",
            f"report {ROOT}/docs/results/digits --out report": "matplotlib",
            "bench --cases overhead --p inf --seconds 0.01": "matplotlib",
            **{f"study {name} --out {name}": "matplotlib" for name in ("widths", "tightness", "steps", "bench")},
            "study cost --parts a --out cost": "auto_LiRPA",
            "study ablation mnist": "matplotlib",
            "study onnx --out onnx": "onnx",
            "study marabou --out marabou": "onnx",
        }.items()
    },
}
PROGRAM = """
import contextlib, io, json, sys, tempfile, os
optional, entries = json.loads(sys.argv[1]), json.loads(sys.argv[2])

class Others:
    # finds no optional package
    def __init__(self, finder):
        self.finder = finder
    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in optional else self.finder.find_spec(name, path, target)

sys.meta_path[:] = [Others(finder) for finder in sys.meta_path]
os.chdir(sys.argv[3])
import torch
import linf_plugin as lp
from linf_plugin import training
from linf_plugin.datasets import load_dataset
from comparisons import cli as compare
from onnx_export import cli as export

torch.manual_seed(0)
net = lp.build("linf-mlp", shape=(1, 8, 8), classes=10, width=8, depth=1).eval()
lp.save("net.pt", net, {"dataset": "digits"})
x, y = torch.rand(20, 1, 8, 8), torch.arange(20) % 10
schedule = training.Schedule(epochs=2, eps=0.1, p_end=20)
def loss(net, x, y, step):
    return training.clipped_hinge(net(x), y, radius=step.eps, weight=0.1)
open("net.safetensors", "wb").write(b"1")
open("net.onnx", "wb").write(b"1")
open("net.py", "w").write("import linf_plugin as lp\\ndef net(): return lp.load('net.pt')[0]\\n")
for part in ("train", "test"):
    for kind in "ab":
        os.makedirs(f"images/{part}/{kind}")
        open(f"images/{part}/{kind}/1.png", "wb").write(b"1")
found = {}
for entry in entries:
    net.eval()
    said, names = io.StringIO(), {**globals()}
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(said):
            done = eval(entry, names) if entry.endswith("])") else exec(entry, names)
        found[entry] = None if not done else [done, said.getvalue()]
    except Exception as error:
        found[entry] = [type(error).__name__, str(error)]
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    arguments = [json.dumps(list(value)) for value in (extras.OPTIONAL, ENTRIES)]
    folder = tmp_path_factory.mktemp("extras")
    command = [sys.executable, "-c", PROGRAM, *arguments, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, encoding="utf-8")
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("entry", ENTRIES)
def test_it_works_or_names_the_extra(entry, found):
    package, result = ENTRIES[entry], found[entry]
    if package is None:
        assert result is None
        return
    kind, text = result
    assert kind in ("ImportError", 2)
    *_, said = text.strip().splitlines()
    assert re.search(rf"[\w-]+ is not installed: pip install 'linf-plugin\[{extras.OPTIONAL[package]}\]'", said), text
    assert "Traceback" not in text


def _lists(extra: str) -> set[str]:
    """The distributions of an extra in setup.cfg, those of the extras that it includes among them."""
    metadata = configparser.ConfigParser()
    metadata.read(ROOT / "setup.cfg", encoding="utf-8")
    found = set()
    for line in metadata["options.extras_require"][extra].split("\n"):
        if own := re.match(r"linf-plugin\[([\w,-]+)\]", line):
            found.update(*map(_lists, own[1].split(",")))
        elif line and not line.startswith("#"):
            found.add(re.match(r"[\w-]+", line)[0])
    return found


def test_the_extras_install_what_the_messages_say():
    for package, extra in extras.OPTIONAL.items():
        name = extras.DISTRIBUTED_AS.get(package, package)
        assert name in _lists(extra) or package in extras.ALSO, (package, extra)
    assert {*_lists("bounds"), *_lists("onnx"), *_lists("compare"), *_lists("search")} == _lists("all")
    for extra, others in extras.INCLUDES.items():
        assert all(_lists(other) <= _lists(extra) for other in others)


def test_another_fault_of_an_import_stays_as_it_is():
    with pytest.raises(ModuleNotFoundError, match="No module named 'nothing'"), extras.named():
        importlib.import_module("nothing")
    with pytest.raises(ModuleNotFoundError, match=r"scipy\.nothing"), extras.named():
        importlib.import_module("scipy.nothing")


def test_a_program_names_the_extra_that_it_needs():
    assert "'linf-plugin[bounds]'" in str(extras.missing("scipy"))
    assert "'linf-plugin[compare]'" in str(extras.missing("scipy", "compare"))
    assert "'linf-plugin[search]'" in str(extras.missing("matplotlib", "search"))
    assert "'linf-plugin[onnx]'" in str(extras.missing("onnx", "compare"))
