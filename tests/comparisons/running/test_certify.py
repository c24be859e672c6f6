"""``linf-compare certify`` on small nets and a few digits: what it writes, resuming, and what it refuses."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from graphs import chain
from safetensors.torch import save_file
from torch import nn

import comparisons.running.certify
import onnx_export
from comparisons.cli import main
from comparisons.report.tables import table
from comparisons.results import samples
from comparisons.results.file import from_plain, read
from comparisons.results.schema import NO_RECIPE
from linf_plugin import build
from linf_plugin.certificates import CERTIFICATES, certify
from linf_plugin.datasets import load_dataset

pytestmark = pytest.mark.usefixtures("few_alpha_steps")

ROOT = Path(__file__).parents[3]
CODE = """
import torch
from torch import nn

def net():
    return nn.Sequential(nn.Conv2d(1, 4, 3, stride=2, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(64, 10))

class Exponential(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(64, 10), nn.Linear(64, 10)

    def forward(self, x):
        x = x.flatten(1)
        return self.a(x) + self.b(x).exp()

class Deciding(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(64, 10)

    def forward(self, x):
        h = self.a(x.flatten(1))
        return h if h.sum() > 0 else h.relu()

class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(64, 10), nn.Linear(10, 10)

    def forward(self, x):
        return self.b(self.a(x.flatten(1)).softmax(1))

def five():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 5))

def of_rgb():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(144, 10))
"""
FAST = ["--samples", "40", "--attack", "pgd,steps=2,restarts=1", "--quiet"]


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """A folder with net.py, and with a trained net as net.pt, net.safetensors and net.onnx."""
    folder, data = tmp_path_factory.mktemp("given"), load_dataset("digits")
    (folder / "net.py").write_text(CODE)
    scope: dict = {}
    exec(CODE, scope)
    torch.manual_seed(0)
    model = scope["net"]()
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(data.x_train), data.y_train).backward()
        optimizer.step()
    torch.save(
        {"state_dict": {f"module.{k}": a for k, a in model.state_dict().items()}, "epoch": 60}, folder / "net.pt"
    )
    save_file(model.state_dict(), folder / "net.safetensors")
    conv, _, _, last = model
    graph = chain(
        ("Conv", ["·", "cw", "cb"], {"strides": [2, 2], "pads": [1, 1, 1, 1]}),
        ("Relu", ["·"], {}),
        ("Flatten", ["·"], {}),
        ("Gemm", ["·", "lw", "lb"], {"transB": 1}),
        shape=("N", 1, 8, 8),
        **{
            n: a.detach().numpy()
            for n, a in zip(("cw", "cb", "lw", "lb"), (conv.weight, conv.bias, last.weight, last.bias))
        },
    )
    onnx.save(graph, folder / "net.onnx")
    return folder, model.eval()


def _run(*arguments, data="digits", eps="0.05", options=FAST):
    return main(["certify", *map(str, arguments), "--data", data, "--eps", eps, *options])


def _model(folder, function="net", weights=None):
    return ["--model", f"{folder}/net.py:{function}", *(["--weights", folder / weights] if weights else [])]


def test_a_model_file_with_weights_is_certified_as_certify_does(given, tmp_path, capsys):
    folder, model = given
    assert _run(*_model(folder, weights="net.pt"), "--out", tmp_path, eps="0.15,8/255") == 0
    results, data = read(tmp_path), load_dataset("digits")
    assert (results.recipe, results.eps, results.eps_values) == (NO_RECIPE, 0.15, (8 / 255, 0.15))
    assert (results.dataset, results.test_samples, results.device[:3]) == ("digits", 40, "cpu")
    (m,) = results.methods.values()
    x, y = data.x_test[:40], data.y_test[:40]
    for eps in results.eps_values:
        found = certify(model, x, y, eps, ["lipschitz", "ibp", "crown-ibp", "crown"])
        assert m.proved(eps) == found.certified.double().mean().item()
        # CROWN is not tried on what the attack broke, except for a few samples as a check.
        steps = {s.method: (s.tried, s.certified) for s in m.cascade[eps]}
        tallies = dict(zip(found.methods, found.tallies))
        assert sum(certified for _, certified in steps.values()) == found.certified.sum()
        assert all(steps[name] == tallies[name][:2] for name in ("lipschitz", "ibp"))
        assert steps["crown"][0] <= tallies["crown"].tried
        assert m.proved(eps) <= m.attacked["pgd"][eps] <= m.clean
    assert m.clean == (model(x).argmax(1) == y).double().mean().item() and 0 < m.proved(0.15) < 1
    assert (m.contradictions, m.kind, m.label, m.parameters) == (0, "given", "net:net", 40 + 650)
    assert m.data == data.identity and m.settings["net"]["weights"] == "net.pt"
    written = (tmp_path / "table.md").read_text()
    assert written.startswith(table(results)) and (tmp_path / "certified.png").stat().st_size > 1000
    out = capsys.readouterr().out
    certified = round(40 * m.proved(0.15))
    assert out.startswith(written)
    assert f"ε = 0.15: of 40 samples 38 classified correctly, {certified} certified, " in out
    rows = samples.read(tmp_path / m.samples)
    assert (len(rows), m.samples, m.points) == (40, "net-net.samples.csv", "net-net.points.npz")
    for eps in results.eps_values:
        assert rows.certified(eps).mean() == m.proved(eps) and rows.survives(eps).mean() == m.attacked["pgd"][eps]
    assert sum(m.broken_by.values()) == round(40 * (m.clean - m.attacked["pgd"][0.15])) > 0
    names = [
        "certified.png",
        "net-net.points.npz",
        "net-net.samples.csv",
        "results.json",
        *(f"table.{kind}" for kind in ("csv", "md", "tex")),
    ]
    assert sorted(p.name for p in tmp_path.iterdir()) == names


def test_the_formats_of_one_net_give_the_same_figures_in_one_table(given, tmp_path):
    folder, _ = given
    for arguments, name in (
        (_model(folder, weights="net.pt"), "pt"),
        (_model(folder, weights="net.safetensors"), "safetensors"),
        (["--onnx", folder / "net.onnx"], "onnx"),
    ):
        assert _run(*arguments, "--name", name, "--out", tmp_path) == 0
    results = read(tmp_path)
    assert list(results.methods) == ["pt", "safetensors", "onnx"]
    assert (
        len({(m.clean, m.proved(0.05), m.attacked["pgd"][0.05], m.parameters) for m in results.methods.values()}) == 1
    )
    text = (tmp_path / "table.md").read_text()
    assert "## digits, ε = 0.05 (given nets, seed 0)" in text and "| onnx | " in text
    assert "Each certificate," not in text and "of those on which it was tried:" in text
    about = results.methods["onnx"].about
    assert about.startswith("the PyTorch program read from net.onnx, with its rounding in float32; onnxruntime ")
    assert " agreed within " in about and about.endswith("on 128 inputs")
    assert f"What is certified of onnx: {about}." in text
    assert (
        "What is certified of pt: the PyTorch program net.py:net with the weights in net.pt, with its rounding" in text
    )


def test_our_own_onnx_files_are_read_as_nets(tmp_path):
    net = build("linf-mlp", shape=(1, 8, 8), classes=10, width=8, depth=1).eval()
    onnx_export.export(net, tmp_path / "ours.onnx")
    assert _run("--onnx", tmp_path / "ours.onnx", "--out", tmp_path / "out") == 0
    (m,) = read(tmp_path / "out").methods.values()
    assert m.cascade[0.05][0].method == "lipschitz" and m.pairs_per_sample == net.pairs_per_sample()
    assert m.date and m.processor and sum(m.seconds.values()) == pytest.approx(m.certify_seconds + m.attack_seconds)


def test_a_report_puts_it_beside_a_recipe(given, tmp_path, capsys):
    folder, _ = given
    ours = ROOT / "tests" / "early"
    before = {path: path.read_bytes() for path in ours.iterdir()}
    assert _run("--onnx", folder / "net.onnx", "--out", tmp_path / "mine", eps="0.1") == 0
    assert main(["report", str(ours), str(tmp_path / "mine"), "--out", str(tmp_path / "both")]) == 0
    written = sorted(p.name for p in (tmp_path / "both").iterdir())
    assert written == [f"comparison.{kind}" for kind in ("csv", "md", "png", "tex")]
    first, rest = (tmp_path / "both" / "comparison.md").read_text().split("\n\n", 2)[0::2]
    assert first == "## digits, ε = 0.1 in ℓ∞: side by side"
    assert {path: path.read_bytes() for path in ours.iterdir()} == before
    lines = (tmp_path / "both" / "comparison.md").read_text().splitlines()[2:9]
    assert lines[0] == "| method | from | of | clean % | PGD % | certified % | parameters |"
    assert lines[2].startswith("| ℓ∞-dist net | recipe `digits` | 360 test images | 92.50 | 81.39 | 80.56 |")
    assert lines[6].startswith("| net.onnx | given net | 40 test images | ")
    assert "given nets" in rest and "recipe `digits`" in rest


def test_runs_of_other_data_or_seeds_are_not_put_side_by_side(given, tmp_path):
    ours, tiny = (str(ROOT / "docs" / "results" / name) for name in ("digits", "mnist-tiny"))
    assert main(["report", ours, tiny, "--out", str(tmp_path)]) == 0
    assert "side by side" not in (tmp_path / "comparison.md").read_text()


def test_a_page_of_results_refuses_given_nets(given, tmp_path, capsys):
    folder, _ = given
    assert _run("--onnx", folder / "net.onnx", "--out", tmp_path / "mine", eps="0.1") == 0
    assert main(["results", str(tmp_path / "mine"), "--out", str(tmp_path / "page.md")]) == 1
    assert "measured by `linf-compare certify`, on nets that no recipe trained" in (tmp_path / "page.md").read_text()


def test_a_net_without_a_bound_of_its_rounding_is_refused_or_certified_without_it(given, tmp_path, capsys):
    folder, _ = given
    place = _model(folder, function="Exponential")
    assert _run(*place, "--out", tmp_path) == 2
    (error,) = capsys.readouterr().err.splitlines()
    assert re.fullmatch(
        r"linf-compare: error: no bound of the rounding error is known for exp at .*net\.py, line 15: no rule is known "
        r"for it\. --unsound leaves rounding out",
        error,
    )
    assert not list(tmp_path.iterdir())
    assert _run(*place, "--out", tmp_path, "--unsound", "--methods", "ibp,crown") == 0
    (m,) = read(tmp_path).methods.values()
    assert m.label == "net:Exponential (rounding not covered)" and m.settings["sound"] is False
    assert m.about.endswith("in exact arithmetic, rounding not covered")
    assert "| net:Exponential (rounding not covered) |" in (tmp_path / "table.md").read_text()


REFUSED = {  # function of net.py, options → what the message ends with
    "decides-by-values": (
        "Deciding",
        [],
        r"\(the code decides by values of a tensor, at .*net\.py, line 24\)\. --unsound leaves rounding out",
    ),
    "softmax": ("Attention", [], r"for softmax at .*net\.py, line 32: no rule is known for it\. --unsound leaves .*"),
    "softmax-unsound": (
        "Attention",
        ["--unsound"],
        "ibp, crown-ibp, crown cannot bound this net: NotImplementedError: .*",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_refused_program_is_one_sentence_with_its_place(name, given, tmp_path, capfd):
    function, options, ending = REFUSED[name]
    assert _run(*_model(given[0], function=function), "--out", tmp_path / "out", *options) == 2
    (error,) = capfd.readouterr().err.splitlines()
    assert re.fullmatch(f"linf-compare: error: .*{ending}", error) and not (tmp_path / "out").exists()


def test_without_an_attack_the_table_says_so(given, tmp_path):
    folder, _ = given
    options = ["--samples", "20", "--attack", "none", "--quiet"]
    assert _run("--onnx", folder / "net.onnx", "--out", tmp_path, options=options) == 0
    text = (tmp_path / "table.md").read_text()
    assert "No attack was run." in text and "No attack has tested these certificates." in text
    assert "| method | clean | certified |" in text and read(tmp_path).attacks == {}


def test_a_sample_that_is_certified_and_broken_stops_the_command_and_is_written_down(
    given, tmp_path, capsys, monkeypatch
):
    """The interval bound lies; the results of another net stay."""
    folder, model = given
    options = ["--attack", "pgd,steps=10,restarts=1", "--samples", "40", "--quiet", "--seed", "3", "--eps", "0.2,0.3"]
    assert _run("--onnx", folder / "net.onnx", "--out", tmp_path, "--name", "first", options=options) == 0
    before = (tmp_path / "results.json").read_bytes()
    capsys.readouterr()
    lie = replace(CERTIFICATES["ibp"], bound=lambda problem: lambda x, labels: torch.full((len(x),), 7.0).double())
    monkeypatch.setitem(CERTIFICATES, "ibp", lie)
    assert _run("--onnx", folder / "net.onnx", "--out", tmp_path, options=options) == 1
    out, error = capsys.readouterr()
    line = error.splitlines()[0]
    assert re.fullmatch(r"linf-compare: net-onnx: sample \d+ is certified by interval at ε = 0\.3, and .*", line)
    assert "a bound is wrong; " in line and "samples are certified and broken" in line
    files = sorted(tmp_path.glob("contradiction-net-onnx-*.npz"))
    first = min(files, key=lambda file: int(file.stem.rpartition("-")[2]))
    assert len(files) == 24 and str(first) in error and out == ""
    with np.load(first, allow_pickle=False) as f:
        said = {name: f[name] for name in f.files}
    data, row = load_dataset("digits"), int(said["sample"])
    assert (said["certificate"], said["attack"], said["bound"], said["seed"]) == ("ibp", "pgd", 7.0, 3)
    assert (said["certified_eps"], said["label"], said["recipe"]) == (0.3, data.y_test[row], NO_RECIPE)
    assert said["eps"] in (0.2, 0.3) and np.array_equal(said["x"], data.x_test[row])
    assert np.abs(said["perturbation"]).max() <= said["eps"]
    for name, key in (("x", "logits"), ("adversarial", "adversarial_logits")):
        np.testing.assert_allclose(model(torch.tensor(said[name][None]))[0].detach(), said[key], rtol=1e-4, atol=1e-4)
    assert said["logits"].argmax() == said["label"] != said["adversarial_logits"].argmax()
    assert (tmp_path / "results.json").read_bytes() == before


# Earlier work in the folder.


@pytest.fixture
def parts(monkeypatch):
    """Parts of 16 samples, and which of them were measured."""
    done = []
    real = comparisons.running.certify.measure

    def counted(model, x, y, asked, **options):
        done.append((options["first"], len(x)))
        return real(model, x, y, asked, **options)

    monkeypatch.setattr(comparisons.running.certify, "PART", 16)
    monkeypatch.setattr(comparisons.running.certify, "measure", counted)
    return done


def test_an_interrupted_call_goes_on_from_the_last_finished_part(given, tmp_path, capsys, monkeypatch, parts):
    folder, _ = given
    arguments = ["--onnx", folder / "net.onnx", "--out", tmp_path]
    counted = comparisons.running.certify.measure

    def interrupted(*a, **k):
        if len(parts) == 2:
            raise KeyboardInterrupt
        return counted(*a, **k)

    monkeypatch.setattr(comparisons.running.certify, "measure", interrupted)
    assert _run(*arguments, eps="0.05,0.02") == 130
    assert "--resume goes on from the last finished part" in capsys.readouterr().err
    assert (tmp_path / "net-onnx.state.pt").exists() and not (tmp_path / "results.json").exists()
    monkeypatch.setattr(comparisons.running.certify, "measure", counted)
    assert _run(*arguments, eps="0.05,0.02") == 2
    assert "net-onnx (interrupted): --resume goes on with it, --force replaces it" in capsys.readouterr().err
    assert _run(*arguments, "--resume", eps="0.05,0.02") == 0
    assert parts == [(0, 16), (16, 16), (32, 8)]
    resumed = read(tmp_path).methods["net-onnx"]
    assert not (tmp_path / "net-onnx.state.pt").exists()
    assert _run("--onnx", folder / "net.onnx", "--out", tmp_path / "again", eps="0.05,0.02") == 0
    again = read(tmp_path / "again").methods["net-onnx"]
    assert (resumed.clean, resumed.certified, resumed.attacked) == (again.clean, again.certified, again.attacked)
    steps = [[(s.tried, s.certified) for s in m.cascade[0.05]] for m in (resumed, again)]
    assert steps[0] == steps[1]
    one, two = ((folder / "net-onnx.samples.csv").read_bytes() for folder in (tmp_path, tmp_path / "again"))
    assert one == two and len(one.splitlines()) == 41


def test_a_finished_net_is_kept_and_changed_settings_need_force(given, tmp_path, capsys, parts):
    folder, _ = given
    arguments = ["--onnx", folder / "net.onnx", "--out", tmp_path]
    assert _run(*arguments) == 0 and len(parts) == 3
    before = (tmp_path / "results.json").read_bytes()
    for options in ([], ["--resume"], ["--resume", "--force"]):
        assert _run(*arguments, *options) == 0
        assert "net.onnx: already in" in capsys.readouterr().err
    assert len(parts) == 3 and (tmp_path / "results.json").read_bytes() == before
    assert _run(*arguments, "--methods", "ibp") == 2
    error = capsys.readouterr().err
    assert "holds work that would be replaced: net-onnx (finished, with other settings (methods: " in error
    assert "--force replaces it" in error and (tmp_path / "results.json").read_bytes() == before
    assert _run(*arguments, "--methods", "ibp", "--force") == 0
    assert [s.method for s in read(tmp_path).methods["net-onnx"].cascade[0.05]] == ["ibp"]
    assert _run(*arguments, "--methods", "ibp", "--force") == 0 and len(parts) == 9  # it is measured again


def test_other_weights_are_another_net(given, tmp_path, capsys):
    folder, model = given
    torch.save(model.state_dict(), tmp_path / "w.pt")
    arguments = ["--model", f"{folder}/net.py:net", "--weights", tmp_path / "w.pt", "--out", tmp_path / "out"]
    assert _run(*arguments) == 0
    changed = {name: a * 1.001 for name, a in model.state_dict().items()}
    torch.save(changed, tmp_path / "w.pt")
    assert _run(*arguments) == 2
    assert "finished, with other settings (net.state_sha256: " in capsys.readouterr().err


def test_nets_that_cannot_share_a_table_need_another_folder(given, tmp_path, capsys):
    folder, _ = given
    assert _run("--onnx", folder / "net.onnx", "--out", tmp_path) == 0
    for change in (["--eps", "0.1"], ["--seed", "3"], ["--samples", "30"], ["--attack", "none"]):
        assert _run("--onnx", folder / "net.onnx", "--name", "b", "--out", tmp_path, options=[*FAST, *change]) == 2
        error = capsys.readouterr().err
        assert "has net-onnx of another call (" in error and "choose another folder" in error
    assert _run("--onnx", folder / "net.onnx", "--name", "b", "--out", tmp_path) == 0
    assert list(read(tmp_path).methods) == ["net-onnx", "b"]


def test_what_cannot_be_read_is_replaced_only_with_force(given, tmp_path, capsys):
    folder, _ = given
    (tmp_path / "results.json").write_text("{}")
    arguments = ["--onnx", folder / "net.onnx", "--out", tmp_path]
    assert _run(*arguments) == 2 and (tmp_path / "results.json").read_text() == "{}"
    assert _run(*arguments, "--force") == 0 and list(read(tmp_path).methods) == ["net-onnx"]


# Bad input: one sentence, status 2, and nothing is written.


def _onnx(folder, *nodes, name="bad.onnx", shape=("N", 1, 8, 8), **constants):
    onnx.save(chain(*nodes, shape=shape, **constants), folder / name)
    return ["--onnx", folder / name]


def _weights(folder, change):
    state = dict(torch.load(folder / "net.pt")["state_dict"])
    change(state)
    torch.save(state, folder / "bad.pt")
    return _model(folder, weights="bad.pt")


FLAT = ("Flatten", ["·"], {})
DENSE = np.random.default_rng(0).standard_normal((64, 10)).astype(np.float32)
BAD = {
    "missing-key": (
        lambda f: _weights(f, lambda s: s.pop("module.3.bias")),
        [],
        "bad.pt does not fit the model: it lacks 3.bias",
    ),
    "extra-key": (lambda f: _weights(f, lambda s: s.update({"module.x": torch.ones(1)})), [], "the model has no x"),
    "shape": (
        lambda f: _weights(f, lambda s: s.update({"module.3.bias": torch.ones(3)})),
        [],
        "3.bias has the shape (3,) in it, and (10,) in the model",
    ),
    "not-finite": (
        lambda f: _weights(f, lambda s: s.update({"module.3.bias": torch.full((10,), float("nan"))})),
        [],
        "model has NaN or infinite values in 3.bias",
    ),
    "no-weights-file": (lambda f: _model(f, weights="none.pt"), [], "none.pt does not exist"),
    "labels": (lambda f: _model(f, function="five"), [], "labels must lie in [0, 4], got 0 to 9"),
    "channels": (
        lambda f: _model(f, function="of_rgb"),
        [],
        "net:of_rgb cannot run on a sample of shape (1, 8, 8): RuntimeError: ",
    ),
    "no-function": (lambda f: _model(f, function="none"), [], "net.py has no function none"),
    "onnx-and-weights": (
        lambda f: ["--onnx", f / "net.onnx", "--weights", f / "net.pt"],
        [],
        "--weights goes with --model",
    ),
    "no-onnx": (lambda f: ["--onnx", f / "none.onnx"], [], "none.onnx does not exist"),
    "damaged-onnx": (lambda f: ["--onnx", f / "net.pt"], [], "net.pt is not a complete ONNX file"),
    "unknown-operators": (
        lambda f: _onnx(f, ("Hardmax", ["·"], {}), ("Shrink", ["·"], {})),
        [],
        "does not know the operators Hardmax, Shrink",
    ),
    "open-sizes": (
        lambda f: _onnx(f, ("Relu", ["·"], {}), shape=("N", 1, "H", 8)),
        [],
        "must have sizes that are known, except the first",
    ),
    "other-shape": (
        lambda f: _onnx(f, FLAT, shape=("N", 3, 4, 4)),
        [],
        "bad.onnx: the net takes samples of shape (3, 4, 4), and the data have (1, 8, 8)",
    ),
    "no-logits": (
        lambda f: _onnx(f, ("Relu", ["·"], {})),
        [],
        "model must map x to (N, classes ≥ 2), got (1, 1, 8, 8)",
    ),
    "two-classes": (
        lambda f: _onnx(f, FLAT, ("MatMul", ["·", "w"], {}), w=DENSE[:, :2]),
        [],
        "labels must lie in [0, 1], got 0 to 9",
    ),
    "eps": (
        lambda f: ["--onnx", f / "net.onnx"],
        ["--eps", "8/0"],
        "--eps: must be a number or a fraction such as 8/255",
    ),
    "large-eps": (
        lambda f: ["--onnx", f / "net.onnx"],
        ["--eps", "0.1,8"],
        "--eps: each radius must lie in [0, 1], got 0.1,8",
    ),
    "norm": (lambda f: ["--onnx", f / "net.onnx"], ["--norm", "l3"], "norm must be one of linf, l2, l1, got 'l3'"),
    "attack-of-another-norm": (
        lambda f: ["--onnx", f / "net.onnx"],
        ["--norm", "l2"],
        "--attack pgd moves samples in ℓ∞, and --norm is ℓ2: give --attack one of pgd-l2, pgd-margin-l2, ",
    ),
    "method": (
        lambda f: ["--onnx", f / "net.onnx"],
        ["--methods", "ibp,none"],
        "--methods: each must be one of lipschitz, lipschitz-l2, ibp, ",
    ),
    "attack": (lambda f: ["--onnx", f / "net.onnx"], ["--attack", "fgsm"], "attack needs a name among pgd"),
    "attack-setting": (
        lambda f: ["--onnx", f / "net.onnx"],
        ["--attack", "pgd,steps=0"],
        "steps must be a whole number ≥ 1, got 0",
    ),
    "attack-key": (lambda f: ["--onnx", f / "net.onnx"], ["--attack", "pgd,speed=3"], "unknown key 'speed'"),
    "attack-words": (
        lambda f: ["--onnx", f / "net.onnx"],
        ["--attack", "pgd,fast"],
        "--attack: 'fast' must be KEY=NUMBER",
    ),
    "name": (lambda f: ["--onnx", f / "net.onnx"], ["--name", "a|b"], "the name of a net must be one line without |"),
    "samples": (lambda f: ["--onnx", f / "net.onnx"], ["--samples", "0"], "--samples must be at least 1, got 0"),
    "data": (lambda f: ["--onnx", f / "net.onnx"], ["--data", "none"], "none"),
}


def test_a_state_of_other_settings_is_not_gone_on_with(given, tmp_path, capsys, parts, monkeypatch):
    folder, _ = given
    real = comparisons.running.certify.measure

    def interrupted(*a, **k):
        if parts:
            raise KeyboardInterrupt
        return real(*a, **k)

    monkeypatch.setattr(comparisons.running.certify, "measure", interrupted)
    arguments = ["--onnx", folder / "net.onnx", "--out", tmp_path]
    assert _run(*arguments) == 130
    monkeypatch.setattr(comparisons.running.certify, "measure", real)
    for state in ("as it is", "damaged"):
        assert _run(*arguments, "--methods", "ibp", "--resume") == 2, state
        assert "net-onnx (interrupted, with other settings): --force replaces it" in capsys.readouterr().err
        (tmp_path / "net-onnx.state.pt").write_bytes(b"nonsense")
    assert _run(*arguments, "--methods", "ibp", "--resume", "--force") == 0
    assert len(parts) == 4 and not (tmp_path / "net-onnx.state.pt").exists()


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_sentence_and_writes_nothing(name, given, tmp_path, capsys):
    make, options, message = BAD[name]
    assert _run(*make(given[0]), "--out", tmp_path / "out", options=[*FAST, *options]) == 2
    error = capsys.readouterr().err
    assert error.startswith("linf-compare: error: ") and error.count("\n") == 1 and message in error
    assert not (tmp_path / "out").exists()


def test_a_file_that_onnxruntime_computes_otherwise_is_refused(given, tmp_path, capsys, monkeypatch):
    from onnx_export.reading import ordinary

    folder, _ = given
    real = ordinary.to_torch
    monkeypatch.setattr(ordinary, "to_torch", lambda model: nn.Sequential(real(model), nn.Softplus()).eval())
    assert _run("--onnx", folder / "net.onnx", "--out", tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert "net.onnx: onnxruntime and the PyTorch form of the file do not agree: logits differ by up to" in error
    assert not (tmp_path / "out").exists()


# The schema.


def test_results_of_recipes_still_need_what_only_the_harness_knows(given, tmp_path):
    folder, _ = given
    assert (
        _run(
            "--onnx", folder / "net.onnx", "--out", tmp_path, options=["--attack", "none", "--samples", "9", "--quiet"]
        )
        == 0
    )
    content = json.loads((tmp_path / "results.json").read_text())
    assert from_plain(content) == read(tmp_path)
    with pytest.raises(ValueError, match="attacks must not be empty"):
        from_plain(content | {"recipe": "digits"})
    content["attacks"] = {"pgd": {"norm": "linf", "arguments": {}}}
    content["methods"]["net-onnx"]["attacked"] = {"pgd": {"0.05": 0.5}}
    with pytest.raises(ValueError, match="lacks 'epochs'"):
        from_plain(content | {"recipe": "digits"})
    content["methods"]["net-onnx"]["cascade"] = {"0.05": [{"method": "ibp", "tried": 3}]}
    with pytest.raises(ValueError, match="lacks 'certified'"):
        from_plain(content)
    content["methods"]["net-onnx"]["cascade"] = {"a lot": []}
    with pytest.raises(ValueError, match="has the key 'a lot', which is not an ε"):
        from_plain(content)
