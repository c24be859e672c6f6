"""Complete verifiers as the last methods of ``linf-compare certify``."""

import json
import sys

import numpy as np
import pytest
import torch
from torch import nn

import comparisons.verifiers.verify
from comparisons.cli import main
from comparisons.report.tables import table
from comparisons.results.file import read
from comparisons.running.verdicts import Verdicts

NET = """
import torch
from torch import nn

def half():
    net = nn.Sequential(nn.Flatten(), nn.Linear(1, 2)).eval()
    with torch.no_grad():
        net[1].weight.copy_(torch.tensor([[0.0], [1.0]]))
        net[1].bias.copy_(torch.tensor([0.0, -0.5]))
    return net
"""


@pytest.fixture
def halves(tmp_path):
    """What to certify: a net that says class 0 below 0.5, and samples 0.00, 0.01, …, 0.07 of class 0.

    At ε = 0.445, certificates hold for the samples up to 0.05.
    """
    (tmp_path / "net.py").write_text(NET)
    np.savez(tmp_path / "x.npz", x=np.arange(8, dtype=np.float32)[:, None] / 100, y=np.zeros(8, int))
    out = tmp_path / "out"
    return out, ["certify", "--model", f"{tmp_path}/net.py:half", "--data", f"{tmp_path}/x.npz", "--out", str(out)]


SCRIPTED = ["--eps", "0.445,0.1", "--methods", "ibp,scripted", "--attack", "none", "--quiet"]


def test_they_are_asked_about_what_is_left_at_the_headline(halves, scripted, capsys):
    out, call = halves
    scripted.words, scripted.point = [""] * 6 + ["sat", "timeout"], [0.501]
    assert main([*call, *SCRIPTED, "--time-limit", "9"]) == 0
    results = read(out)
    (m,) = results.methods.values()
    found = m.verification
    assert scripted.asked() == [6, 7] and m.proved(0.445) == 6 / 8
    assert (found.eps, found.time_limit, found.samples, found.certified, found.broken) == (0.445, 9, 8, 6, 0)
    said = found.verifiers["scripted"]
    assert (said.verified, said.falsified, said.unknown) == ((), (6,), {"time": (7,)})
    assert [step.method for step in m.cascade[0.445]] == ["ibp"]
    assert m.settings["verify"] == {"methods": ["scripted"], "time_limit": 9.0, "certified": False}
    lines = [json.loads(line) for line in (out / "net-half.verdicts.jsonl").read_text().splitlines()[1:]]
    assert [(line["row"], line["status"], line.get("point")) for line in lines] == [
        (6, "falsified", [pytest.approx(0.501)]),
        (7, "unknown", None),
    ]
    text = capsys.readouterr().out
    assert "ε = 0.445, scripted: of 2 samples 0 verified, 1 falsified (6), 1 unknown\n" in text
    assert text.endswith("results.json, table.md, certified.png, net-half.samples.csv, net-half.verdicts.jsonl\n")
    written = (out / "table.md").read_text()
    assert written == table(results) and "| method | samples | certified | broken | verifier |" in written
    assert "| net:half | 8 | 6 | 0 | scripted one | 2 | 0 | 1 | 1 | " in written
    assert "No attack has tested these certificates." in written


def test_samples_that_the_attack_broke_are_not_asked_about(halves, scripted):
    out, call = halves
    assert main([*call, *SCRIPTED, "--attack", "pgd,steps=20,restarts=2"]) == 0
    (m,) = read(out).methods.values()
    assert (m.verification.certified, m.verification.broken, scripted.asked()) == (6, 2, [])
    assert not (out / "net-half.verdicts.jsonl").exists()


def test_a_falsified_sample_that_is_certified_gives_status_1(halves, scripted, capsys, monkeypatch):
    out, call = halves
    scripted.words, scripted.point = ["unsat"] * 6 + ["sat"] * 2, [0.501]
    call += [*SCRIPTED, "--verify-certified"]
    assert main(call) == 0  # it agrees with the certificates
    assert scripted.asked() == list(range(8)) and read(out).contradictions == 0
    text = (out / "table.md").read_text()
    assert "Certified samples are asked about too." in text and "at an ε at which scripted one broke it" in text
    monkeypatch.setattr(Verdicts, "proved", lambda self: self.correct)  # wrong about 6 and 7
    assert main([*call, "--force"]) == 1
    out_text, error = capsys.readouterr()
    assert "ε = 0.445: 2 are certified and falsified: 6, 7\n" in out_text
    assert "2 certificates are contradicted by scripted one" in error and read(out).contradictions == 2
    assert "**2 certificates are contradicted by scripted one: a bound is wrong.**" in (out / "table.md").read_text()


def test_an_interrupted_verification_goes_on_with_the_next_sample(halves, scripted, capsys, monkeypatch):
    out, call = halves
    scripted.words, scripted.point = ["unsat"] * 8, [0.5]
    real = comparisons.verifiers.verify._verdict

    def interrupted(row, model, x, question, *rest):
        if float(x) > 0.065:
            raise KeyboardInterrupt
        return real(row, model, x, question, *rest)

    monkeypatch.setattr(comparisons.verifiers.verify, "_verdict", interrupted)
    assert main([*call, *SCRIPTED]) == 130 and scripted.asked() == [6]
    monkeypatch.setattr(comparisons.verifiers.verify, "_verdict", real)
    assert main([*call, *SCRIPTED, "--resume"]) == 0 and scripted.asked() == [6, 7]
    assert main([*call, *SCRIPTED]) == 0 and scripted.asked() == [6, 7]  # it is finished
    assert main([*call, *SCRIPTED, "--time-limit", "7"]) == 2
    assert "finished, with other settings (verify.time_limit: 60.0 → 7.0)" in capsys.readouterr().err
    assert main([*call, *SCRIPTED, "--force"]) == 0 and scripted.asked() == [6, 7, 6, 7]


def test_a_net_that_a_verifier_does_not_take_keeps_its_certificates(halves, scripted, capsys):
    out, call = halves
    scripted.refuses = "it is too round"
    assert main([*call, *SCRIPTED]) == 0
    assert "ε = 0.445, scripted: scripted one does not take this model: it is too round" in capsys.readouterr().out
    assert read(out).methods["net-half"].proved(0.445) == 6 / 8


def test_without_a_certificate_the_usual_ones_come_first(halves, scripted):
    out, call = halves
    scripted.words, scripted.point = ["unsat"] * 8, [0.5]
    assert main([*call, *SCRIPTED, "--methods", "scripted"]) == 0
    (m,) = read(out).methods.values()
    assert [step.method for step in m.cascade[0.445]][:2] == ["lipschitz", "ibp"] and scripted.asked() == [6, 7]


def test_the_exact_radius_decides_what_certificates_leave(tmp_path):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(2, 6), nn.ReLU(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)).eval()
    with torch.no_grad():
        net[0].weight.mul_(3)
        net[4].bias.sub_(net(torch.rand(1000, 2)).mean(0))  # no class has it all
        x = torch.rand(40, 2)
        np.savez(tmp_path / "x.npz", x=x.numpy(), y=net(x).argmax(1).numpy())
    torch.save(net, tmp_path / "net.pt")
    (tmp_path / "net.py").write_text(
        f"import torch\n\ndef net():\n    return torch.load({str(tmp_path / 'net.pt')!r}, weights_only=False)"
    )
    call = [
        "certify",
        "--model",
        f"{tmp_path}/net.py:net",
        "--data",
        f"{tmp_path}/x.npz",
        "--out",
        str(tmp_path / "out"),
    ]
    options = ["--eps", "0.1", "--methods", "ibp,exact", "--attack", "none", "--quiet"]
    assert main([*call, *options]) == 0
    (m,) = read(tmp_path / "out").methods.values()
    said = m.verification.verifiers["exact"]
    assert said.verified and said.falsified and said.asked == 40 - m.verification.certified
    assert not said.unknown


# Bad input: before any work.

WRONG = {
    "limit": (["--methods", "exact", "--time-limit", "0"], "--time-limit must be positive and finite, got 0.0"),
    "no-verifier": (["--methods", "ibp", "--time-limit", "5"], "--time-limit is for complete verifiers: --methods"),
    "no-check": (["--verify-certified"], "--verify-certified is for complete verifiers"),
    "norm": (["--methods", "exact", "--norm", "l2", "--attack", "none"], "exact takes ℓ∞ balls only, and --norm is l2"),
    "unknown": (["--methods", "ibp,milp"], "--methods: each must be one of lipschitz, lipschitz-l2, ibp, "),
    "not-installed": (["--methods", "ibp,scripted"], "scripted is not installed: get it"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_requests_are_one_sentence_before_any_work(name, scripted, tmp_path, capsys, monkeypatch):
    def missing():
        raise ImportError("scripted is not installed: get it")

    options, message = WRONG[name]
    monkeypatch.setattr(sys.modules["comparisons.verifiers.scripted"], "installed", missing)
    call = ["certify", "--model", "none.py:net", "--data", "none.npz", "--eps", "0.1", "--out", str(tmp_path / "out")]
    assert main([*call, *options]) == 2
    (error,) = capsys.readouterr().err.splitlines()
    assert error.startswith(f"linf-compare: error: {message}") and not (tmp_path / "out").exists()
