"""Tables as CSV and as LaTeX."""

import csv as of_python
import shutil
import subprocess

import pytest
from runs import made_up

from comparisons.report.formats import csv, latex
from comparisons.report.statistics import interval
from comparisons.results.file import from_plain

HARD = "50 % of_all & #1 {x} $y$ ~ ^ \\ ℓ∞ ± ε ≤ β"


def run(clean: dict[str, float], **change):
    return from_plain(made_up(clean, **change))


def test_csv_has_a_row_for_each_run_and_method_with_exact_figures():
    runs = [run({"ibp": 0.9, "linf-dist": 0.8}), run({"ibp": 0.7}, seed=1, eps=1 / 3, changed=["epochs = 5"])]
    rows = list(of_python.DictReader(csv(runs).splitlines()))
    assert [row["method"] for row in rows] == ["ibp", "linf-dist", "ibp"] and [row["seed"] for row in rows] == [*"001"]
    assert [float(row["clean"]) for row in rows] == [0.9, 0.8, 0.7] and float(rows[2]["eps"]) == 1 / 3
    assert [float(row["certified"]) for row in rows] == [m.proved(r.eps) for r in runs for m in r.methods.values()]
    assert (float(rows[0]["certified_low"]), float(rows[0]["certified_high"])) == interval(0.9 - 0.2, 10_000)
    assert float(rows[0]["attacked_pgd"]) == float(rows[0]["attacked_pgd_0.25"]) == 0.9 - 0.1
    assert [row["changed"] for row in rows] == ["", "", "epochs = 5"] and {row["minutes"] for row in rows} == {"2.0"}


def test_latex_has_rules_of_booktabs_and_means_over_seeds():
    text = latex([run({"ibp": 0.9}), run({"ibp": 0.8}, seed=1)])
    for part in (r"\toprule", r"\midrule", r"\bottomrule", r"\begin{tabular}{lrrrrrrr}", r"95 \% confidence"):
        assert part in text
    assert (
        r"IBP & 0, 1 & 2.00 & 85.00 $\pm$ 7.07 & 75.00 $\pm$ 7.07 & 65.00 $\pm$ 7.07 & 59.03 -- 70.90 & -- \\" in text
    )


def test_latex_names_the_data_where_they_differ():
    text = latex([run({"ibp": 0.9}), run({"ibp": 0.8}, dataset="mnist", recipe="other")])
    assert r"IBP & digits, $\varepsilon$ = 0.25 & 0 &" in text and r"IBP & mnist, $\varepsilon$ = 0.25 & 0 &" in text
    assert r"\begin{tabular}{llrrrrrrr}" in text


def test_csv_has_the_headline_in_both_norms():
    runs = [run({"ibp": 0.9}), run({"sll": 0.9}, norm="l2", eps=1.58, shape=[1, 28, 28])]
    one, two = of_python.DictReader(csv(runs).splitlines())
    assert (one["norm"], one["eps_linf"], one["eps_l2"]) == ("linf", "0.25", "0.25")
    assert (two["norm"], two["eps_l2"]) == ("l2", "1.58") and float(two["eps_linf"]) == pytest.approx(1.58 / 28)


def test_latex_has_a_table_for_each_norm_with_the_radii_in_both():
    l2 = run({"sll": 0.9}, norm="l2", eps=0.5, shape=[1, 8, 8], recipe="other")
    assert "radius" not in latex([run({"ibp": 0.9})])
    assert latex([l2]).count(r"\begin{tabular}") == 1 and "eps = 0.5 in l2." in latex([l2])
    both = latex([l2, run({"ibp": 0.9}, shape=[1, 8, 8])])
    assert both.isascii() and both.count(r"\begin{tabular}") == both.count(r"$\ell_2$ radius") == 2
    first, second = both.split("% Needs")[1:]
    assert "IBP & 0" in first and "sll" not in first and "0.25 & 0.25" in first
    assert "sll & 0" in second and "IBP &" not in second and "0.0625 & 0.5" in second


def test_signs_and_labels_are_escaped():
    text = latex([run({"ibp": 0.9}, method={"label": HARD})])
    assert text.isascii()
    row = next(line for line in text.split("\n") if line.startswith("50"))
    assert row.startswith(
        r"50 \% of\_all \& \#1 \{x\} \$y\$ \textasciitilde \space \textasciicircum \space \textbackslash \space "
        r"$\ell_\infty$ $\pm$ $\varepsilon$ $\le$ $\beta$ & 0 &"
    )


@pytest.mark.parametrize("label", ["ℓ∞-dist net", HARD])
def test_latex_compiles_where_there_is_an_engine(label, tmp_path):
    """Without one, the escapes above are what is tested."""
    text = latex([run({"ibp": 0.9}, method={"label": label})])
    assert text.count("{") == text.count("}") and text.count("$") % 2 == label.count("$") % 2
    if engine := shutil.which("pdflatex"):
        (tmp_path / "a.tex").write_text(
            "\\documentclass{article}\\usepackage{booktabs}\\begin{document}" + text + "\\end{document}"
        )
        done = subprocess.run([engine, "-interaction=nonstopmode", "a.tex"], cwd=tmp_path, capture_output=True)
        assert done.returncode == 0, done.stdout[-2000:]
