"""Runs in ℓ2: recipes and given nets are certified and attacked in ℓ2 balls, also in wide ones."""

import dataclasses

import numpy as np
import pytest
import torch

from comparisons.cli import main
from comparisons.report.tables import table
from comparisons.results import samples
from comparisons.results.file import read
from comparisons.running import certify
from linf_plugin import load, sound_radius
from linf_plugin.certificates import CERTIFICATES, lipschitz
from linf_plugin.datasets import load_dataset

RECIPE = """
description = "ℓ2"
dataset = "digits"
norm = "l2"
eps = 0.3
eps_values = [0.1, 0.3, 1.58]
certificates = ["lipschitz-l2"]
attacks = [{ name = "pgd-l2", steps = 3, restarts = 1 }, { name = "square-l2", queries = 5 }]
[defaults]
optimizer = { name = "adam", lr = 0.01 }
batch_size = 128
[methods.sll]
architecture = { name = "sll-mlp", depth = 2, hidden = 32 }
loss = { name = "offset-ce", temperature = 0.1, offset = 1.0 }
schedule = { epochs = 12, eps = 0.3 }
select = 0.2
validate_every = 4
[methods.lip-reg]
architecture = { name = "relu-mlp", width = 16, depth = 2 }
loss = { name = "pgd", steps = 1, spectral = 0.3 }
schedule = { epochs = 6, eps = 0.05 }
select = 0.2
validate_every = 3
"""
CODE = """
import linf_plugin as lp

def net():
    return lp.load({path!r})[0]
"""


@pytest.fixture(scope="module")
def there(tmp_path_factory):
    """The folder of a run, with its recipe above it."""
    folder = tmp_path_factory.mktemp("l2")
    (folder / "tiny.toml").write_text(RECIPE)
    assert main(["run", str(folder / "tiny.toml"), "--out", str(folder / "out"), "--quiet"]) == 0
    return folder / "out"


def test_a_run_is_certified_and_attacked_in_l2(there):
    results, data = read(there), load_dataset("digits")
    assert results.norm == 2.0 and {attack.norm for attack in results.attacks.values()} == {2.0}
    for key, m in results.methods.items():
        assert set(m.certified) == {"lipschitz-l2", "best"} and {c.norm for c in m.certified.values()} == {2.0}
        assert m.kind == key and 0.1 < m.proved(0.1) <= m.attacked["square-l2"][0.1] <= m.attacked["pgd-l2"][0.1]
        assert (
            m.proved(0.1) >= m.proved(0.3) >= m.proved(1.58) and m.attacked["pgd-l2"][1.58] < m.attacked["pgd-l2"][0.1]
        )
        net, _ = load(there / m.checkpoint)
        radii = sound_radius(net, data.x_test, data.y_test, norm="l2")
        assert m.proved(0.3) == pytest.approx((radii >= 0.3).double().mean().item(), abs=0.003)
        rows = samples.read(there / m.samples)
        assert rows.radius("lipschitz-l2") == pytest.approx(radii.numpy(), rel=1e-4)
        chosen = [v["last"] for v in m.training.validation]
        assert len(chosen) >= 2 and all(0.1 < v["certified"] <= v["clean"] for v in chosen)
    assert results.methods["sll"].proved(0.3) > 0.3


def test_adversarial_points_lie_in_the_ball(there):
    for m in read(there).methods.values():
        points = samples.read_points(there / m.points)
        moved = (points["adversarial"].astype(np.float64) - points["x"]).reshape(len(points["x"]), -1)
        assert len(moved) and (np.linalg.norm(moved, axis=1) <= points["eps"]).all()
        assert points["adversarial"].dtype == np.float32 and 0 <= points["adversarial"].min()
        assert points["adversarial"].max() <= 1


def test_the_table_shows_the_radii_in_both_norms(there):
    text = table(read(there))
    assert text.startswith("## digits, ε = 0.3 in ℓ2 (recipe `tiny`") and "| ℓ∞ radius | ℓ2 radius |" in text
    assert text.count("| 0.0375 | 0.3 |") + text.count("| 0.03749 | 0.3 |") == 2
    assert (there / "table.md").read_text().startswith(text[:1000])


def test_a_given_net_is_certified_and_attacked_in_wide_balls(there, tmp_path, capsys, monkeypatch):
    bounded, real = [], lipschitz.known
    monkeypatch.setattr(lipschitz, "known", lambda *a: (bounded.append(a), real(*a))[1])
    monkeypatch.setattr(certify, "PART", 16)  # three parts share one Lipschitz bound
    (tmp_path / "net.py").write_text(CODE.format(path=str(there / "sll.pt")))
    out = tmp_path / "out"
    command = [
        "certify",
        "--model",
        f"{tmp_path / 'net.py'}:net",
        "--data",
        "digits",
        "--norm",
        "l2",
        "--samples",
        "40",
    ]
    command += ["--out", str(out), "--quiet", "--eps", "0.1,1.58"]
    assert main([*command, "--attack", "pgd-l2,steps=2,restarts=1"]) == 0
    results = read(out)
    (m,) = results.methods.values()
    assert (results.norm, results.eps, results.eps_values) == (2.0, 0.1, (0.1, 1.58))
    assert m.proved(1.58) <= m.proved(0.1) <= m.attacked["pgd-l2"][0.1] and 0.5 < m.proved(0.1)
    assert len(bounded) == 1
    assert "| ℓ∞ radius | ℓ2 radius |" in capsys.readouterr().out


def test_a_contradicted_certificate_stops_the_run(tmp_path, monkeypatch, capsys):
    def bound(problem):
        return lambda x, labels: torch.ones(len(x), dtype=torch.float64)

    row = dataclasses.replace(
        CERTIFICATES["lipschitz-l2"], bound=bound, hopeful=lambda problem, among: among, radius=None
    )
    monkeypatch.setitem(CERTIFICATES, "lipschitz-l2", row)
    (tmp_path / "tiny.toml").write_text(RECIPE)
    assert main(["run", str(tmp_path / "tiny.toml"), "--out", str(tmp_path / "out"), "--quiet"]) == 1
    error = capsys.readouterr().err
    assert "is certified by Lipschitz, ℓ2 at ε = 1.58, and PGD, ℓ2 broke it at ε = " in error
    first = min((tmp_path / "out").glob("contradiction-sll-*.npz"))
    with np.load(first, allow_pickle=False) as f:
        moved = f["adversarial"].astype(np.float64) - f["x"]
        assert np.linalg.norm(moved) <= f["eps"] and f["adversarial_logits"].argmax() != f["label"]
    assert not (tmp_path / "out" / "results.json").exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            'certificates=["lipschitz-l2", "ibp"]',
            "ibp does not certify balls of the norm l2; those that do: lipschitz-l2",
        ),
        ('attacks.0.name="apgd"', "the attack apgd moves samples in ℓ∞, and the balls of the recipe are those of ℓ2"),
        ('norm="linf"', "eps_values must lie in the pixel range [0, 1], got 1.58"),
    ],
)
def test_what_is_of_another_norm_is_refused_before_anything_is_trained(change, words, tmp_path, capsys):
    (tmp_path / "tiny.toml").write_text(RECIPE)
    out = tmp_path / "out"
    assert main(["run", str(tmp_path / "tiny.toml"), "--out", str(out), "--quiet", "--set", change]) == 2
    error = capsys.readouterr().err
    assert error.startswith("linf-compare: error: tiny.toml") and words in error and error.count("\n") == 1
    assert not out.exists()
