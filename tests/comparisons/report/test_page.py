"""The page of results: from made-up files, and that the committed one is what the committed files give."""

import json
from pathlib import Path

import pytest
from runs import made_up

from comparisons.cli import main
from comparisons.report import page as module
from comparisons.report import published
from comparisons.report.page import BEGIN, END, Shipped, collect, page, panels, result_files, short, with_block
from linf_plugin.datasets import DIGESTS, SOURCES

ROOT = Path(__file__).parents[3]
RECIPES = {
    "cifar": Shipped("cifar10", 8 / 255, {"linf-dist": "ℓ∞-dist net", "ibp": "IBP"}),
    "cifar-fast": Shipped("cifar10", 8 / 255, {"linf-dist": "ℓ∞-dist net", "ibp": "IBP"}),
    "toy": Shipped("digits", 0.25, {"ibp": "IBP"}),
    "round": Shipped("cifar10", 36 / 255, {"sll": "SLL", "cpl": "CPL"}, 2.0, (72 / 255, 1.0)),
}


def write(path: Path, clean: dict[str, float], recipe: str = "cifar", seed: int = 0, **change) -> Path:
    about = RECIPES[recipe]
    content = made_up(clean, recipe=recipe, eps=about.eps, seed=seed, **{"dataset": about.dataset, **change})
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def minutes(number: float) -> dict:
    return {"training": {"epochs": 6, "seconds_per_epoch": 20.0, "seconds": 60 * number}}


def rendered(*paths: Path) -> str:
    groups, refused = collect(result_files(list(paths)))
    return page(groups, refused, RECIPES, published.load())


def section(text: str, title: str) -> str:
    return text.split(f"## {title}\n")[1].split("\n## ")[0]


@pytest.fixture
def seeds(tmp_path):
    """Three seeds of one recipe, one of which has one method; in folders as they are committed."""
    folder = tmp_path / "cifar"
    write(folder / "seed-0.json", {"linf-dist": 0.50, "ibp": 0.40}, method=minutes(10))
    write(folder / "seed-2.json", {"linf-dist": 0.54}, seed=2, method=minutes(11))
    write(folder / "seed-10.json", {"linf-dist": 0.52, "ibp": 0.42}, seed=10, method=minutes(12))
    return tmp_path


def write_l2(path: Path, clean: dict[str, float], **change) -> Path:
    """Results of the recipe "round": certified and attacked at 36/255, 72/255, 0.5 and 1."""
    content = json.loads(write(path, clean, recipe="round", norm="l2", **change).read_text())
    values = {str(eps): part for eps, part in ((36 / 255, 0.1), (72 / 255, 0.2), (0.5, 0.25), (1.0, 0.3))}
    content["eps_values"] = [float(eps) for eps in values]
    content["attacks"] = {"pgd-l2": {"norm": "l2", "arguments": {"steps": 10}}}
    for name, m in content["methods"].items():
        certified = {eps: clean[name] - part for eps, part in values.items()}
        m["certified"] = {c: {"norm": "l2", "failure": 0.0, "accuracy": certified} for c in ("lipschitz-l2", "best")}
        m["attacked"] = {"pgd-l2": {eps: a + 0.01 for eps, a in certified.items()}}
        m |= {"kind": name, "label": name.upper()}
    path.write_text(json.dumps(content))
    return path


def test_results_in_l2_stand_beside_published_rows_in_l2_at_every_radius_that_these_have(tmp_path):
    write_l2(tmp_path / "l2.json", {"sll": 0.6})
    write(tmp_path / "linf.json", {"ibp": 0.5})
    text = rendered(tmp_path)
    first, second, last = (section(text, f"CIFAR-10, ε = {eps} in ℓ2") for eps in ("36/255", "72/255", "1.0"))
    assert (
        "| SLL | X-Large, 236M parameters | 73.3 | – | 65.8 | – | – | – | Araujo et al., 2023, in [2311.16833]" in first
    )
    assert "| LipNeXt | L32W2048, 256M parameters | 85.0 | – | 73.2 |" in first
    assert "| **SLL** | 25.9k pairs, 6 epochs | 60.00 | 51.00 | 50.00 | 20.00 |" in first
    assert "recipe `round`, seed 0, PGD, ℓ2 10 |" in first
    assert "| **SLL** | 25.9k pairs, 6 epochs | 60.00 | 41.00 | 40.00 | 20.00 |" in second and "58.4" in second
    assert "| **SLL** | 25.9k pairs, 6 epochs | 60.00 | 31.00 | 30.00 | 20.00 |" in last and "27.3" in last
    for found in (first, second, last):
        assert "| **CPL** | – | not run | – | – | – | – | – | recipe `round` |" in found
    assert "ε = 0.5 in ℓ2" not in text  # no row is published there


def test_no_section_has_rows_of_two_norms(tmp_path):
    write_l2(tmp_path / "l2.json", {"sll": 0.6})
    write(tmp_path / "linf.json", {"ibp": 0.5})
    text = rendered(tmp_path)
    titles = [line for line in text.split("\n") if line.startswith("## ") and "ε" in line]
    in_l2 = [" in ℓ2" in title for title in titles]
    assert in_l2 == sorted(in_l2) and any(in_l2) and not all(in_l2)
    known = published.load()
    for norm, names in ((2.0, ("SLL", "BRONet", "BCP")), (float("inf"), ("SortNet", "IBP", "COLT"))):
        assert set(names) <= {row.method for row in known.rows if row.norm == norm}
        assert not set(names) & {row.method for row in known.rows if row.norm != norm}
    linf = section(text, "CIFAR-10, ε = 8/255")
    assert "SLL" not in linf and "**IBP**" in linf and "**IBP**" not in section(text, "CIFAR-10, ε = 36/255 in ℓ2")
    groups, _ = collect(result_files([tmp_path]))
    assert "SLL" not in short(groups, known) and "in ℓ∞ balls" in short(groups, known)
    first, second = panels(groups, known)
    assert [first["title"], second["title"]] == ["CIFAR-10, ε = 8/255", "CIFAR-10, ε = 36/255 in ℓ2"]
    assert {row["family"] for row in second["published"]} == {"lipschitz"} and len(second["ours"]) == 1
    labels = [row["label"] for row in second["published"]]
    assert {"SLL [2311.16833, Table 4]", "SLL [2311.16833, Table 2]", "SOC"} <= set(labels)
    assert len(set(labels)) == len(labels)


def test_recipes_in_l2_are_shown_at_their_radii():
    shipped = module.shipped()
    assert shipped["cifar10-l2"].settings == [("cifar10", eps, 2.0) for eps in (36 / 255, 72 / 255, 108 / 255, 1.0)]
    assert shipped["mnist-l2-small"].settings == [("mnist", 0.5, 2.0), ("mnist", 1.58, 2.0)]
    assert shipped["digits-l2"].settings == [("digits", 0.5, 2.0)]
    assert shipped["cifar10"].settings == [("cifar10", 8 / 255, float("inf"))]


def test_seeds_are_grouped_and_averaged_with_their_spread(seeds):
    lines = section(rendered(seeds), "CIFAR-10, ε = 8/255").split("\n")
    ours = [line for line in lines if line.startswith("| **")]
    assert ours[0] == (
        "| **ℓ∞-dist net** | 25.9k pairs, 6 epochs | 52.00 ± 2.00 | 42.00 ± 2.00 | 32.00 ± 2.00 | 20.00 | 11.0 | "
        "cuda: NVIDIA H200 | recipe `cifar`, seeds 0, 2, 10, PGD 100 × 2 |"
    )
    assert ours[1].startswith("| **IBP** | 25.9k pairs, 6 epochs | 41.00 ± 1.41 | 31.00 ± 1.41 | 21.00 ± 1.41 |")
    assert "seeds 0, 10, PGD" in ours[1]
    published_rows = [i for i, line in enumerate(lines) if "arxiv.org" in line]
    assert published_rows and max(published_rows) < lines.index(ours[0])


def test_results_of_a_copy_have_a_mark_and_a_footnote(tmp_path):
    name, (of, note) = next(iter(published.load().copies.items()))
    write(tmp_path / "a.json", {"linf-dist": 0.5}, recipe="cifar-fast", dataset=name, method=minutes(1))
    write(tmp_path / "b.json", {"linf-dist": 0.6}, method=minutes(1))
    cifar = section(rendered(tmp_path), "CIFAR-10, ε = 8/255")
    assert "| **ℓ∞-dist net** † | 25.9k pairs" in cifar and "| **ℓ∞-dist net** | 25.9k pairs" in cifar
    assert cifar.count("†") == 2 and " ".join(cifar.split("\n\n")[-1].split()) == f"† Measured on {name}: {note}."
    groups, _ = collect(result_files([tmp_path]))
    table = short(groups, published.load())
    assert table.count("†") == 2 and f"† Measured on {name}" in table
    (panel,) = panels(groups, published.load())
    assert [point["label"] for point in panel["ours"]] == ["ℓ∞-dist net"] * 2  # one mark in pictures
    assert [point["recipe"].endswith(" †") for point in panel["ours"]] == [False, True]


def test_published_rows_are_shown_with_their_digits(tmp_path):
    text = section(rendered(tmp_path), "CIFAR-10, ε = 8/255")
    assert "| DiffAI | 96.3M FLOPs | 40.2 | – | 23.2 | – | – | – | Mirman et al., 2019, in [2102.05363]" in text
    assert "| ℓ∞-dist net | 6×5120, 121M FLOPs | 56.80 | 37.46 | 33.30 | 19.7 |" in text
    assert "| SortNet | 6×5120 | 54.49 ± 0.27 | 41.85 ± 1.54 | 39.96 ± 0.35 |" in text and "mean of 8 runs" in text


def test_recipes_and_methods_without_a_result_are_named(seeds):
    text = rendered(seeds)
    cifar = section(text, "CIFAR-10, ε = 8/255")
    assert "| **ℓ∞-dist net, IBP** | – | not run | – | – | – | – | – | recipe `cifar-fast` |" in cifar
    assert cifar.count("not run") == 1 and "not run" not in section(text, "MNIST, ε = 0.3")
    assert "| **IBP** | – | not run |" in section(text, "digits, ε = 0.25")
    write(seeds / "fast.json", {"ibp": 0.3}, recipe="cifar-fast")
    assert "| **ℓ∞-dist net** | – | not run |" in section(rendered(seeds), "CIFAR-10, ε = 8/255")


def test_minutes_are_those_of_the_epochs_where_no_time_was_written(tmp_path):
    write(tmp_path / "a.json", {"ibp": 0.5})
    assert "| 20.00 | 2.0 | cuda" in rendered(tmp_path)  # 6 epochs of 20 s


def test_another_setting_of_a_recipe_is_another_row(tmp_path):
    write(tmp_path / "a.json", {"ibp": 0.5})
    content = json.loads(write(tmp_path / "b.json", {"ibp": 0.6}, seed=1).read_text())
    content["methods"]["ibp"]["identity"]["settings"] = "changed"
    (tmp_path / "b.json").write_text(json.dumps(content))
    groups, _ = collect(result_files([tmp_path]))
    assert [list(g.runs) for g in groups] == [[0], [1]]


def test_a_recipe_with_changed_settings_is_a_row_that_says_so_and_the_recipe_is_still_not_run(tmp_path):
    write(tmp_path / "a.json", {"ibp": 0.5}, changed=["epochs = 5", 'description = "a|b"'])
    text = section(rendered(tmp_path), "CIFAR-10, ε = 8/255")
    assert '| recipe `cifar` with `epochs = 5`, `description = "a/b"`, seed 0, PGD 100 × 2 |' in text
    assert "| **ℓ∞-dist net, IBP** | – | not run | – | – | – | – | – | recipe `cifar` |" in text
    groups, _ = collect(result_files([tmp_path]))
    assert "| recipe `cifar` with `epochs = 5`, " in short(groups, published.load())


def test_a_copy_counts_once_and_a_contradiction_is_refused(tmp_path):
    first = write(tmp_path / "a.json", {"ibp": 0.5})
    (tmp_path / "b.json").write_text(first.read_text())
    groups, _ = collect(result_files([tmp_path]))
    assert [list(g.runs) for g in groups] == [[0]]
    write(tmp_path / "c.json", {"ibp": 0.6})
    with pytest.raises(ValueError, match=r"c\.json and .*a\.json both have seed 0 of ibp"):
        collect(result_files([tmp_path]))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"held_out": 0.2}, "held_out = 0.2"),
        ({"method": {"contradictions": 3}}, "3 certificates are contradicted by PGD"),
    ],
)
def test_files_that_prove_nothing_are_listed_apart(tmp_path, capsys, change, words):
    write(tmp_path / "in" / "cifar" / "seed-0.json", {"ibp": 0.9876}, **change)
    write(tmp_path / "in" / "cifar" / "seed-1.json", {"ibp": 0.5}, seed=1)
    text = rendered(tmp_path / "in")
    assert "98.76" not in text and "seed 1, PGD" in text
    (line,) = section(text, "Refused").strip().split("\n")
    assert line.startswith("- `cifar/seed-0.json`: ") and words in line
    assert main(["results", str(tmp_path / "in"), "--out", str(tmp_path / "page.md")]) == 1
    assert "cifar/seed-0.json is refused" in capsys.readouterr().err
    assert "## Refused" not in rendered(tmp_path / "in" / "cifar" / "seed-1.json")


def test_a_file_of_other_images_than_its_name_says_is_refused(tmp_path):
    """By its digests; without any, it is taken for what it says."""
    path = write(tmp_path / "a.json", {"ibp": 0.5}, recipe="toy")
    assert collect([path])[1] == []
    content = json.loads(path.read_text())
    data = dict(zip(DIGESTS, SOURCES["digits"].published))
    for digest, refused in ((data[DIGESTS[1]], []), ("another", ["not of the images published as digits"])):
        content["methods"]["ibp"]["data"] = data | {DIGESTS[1]: digest}
        path.write_text(json.dumps(content))
        assert [reason.split(":")[0] for _, reason in collect([path])[1]] == refused


def test_a_picture_of_something_else_is_not_replaced(seeds, tmp_path, capsys):
    page, picture = tmp_path / "page.md", tmp_path / "picture.png"
    picture.write_bytes(b"mine")
    command = ["results", str(seeds), "--out", str(page), "--plot", str(picture)]
    assert main(command) == 2
    assert "picture.png exists: --force replaces it" in capsys.readouterr().err
    assert picture.read_bytes() == b"mine" and not page.exists()
    assert main([*command, "--force"]) == 0 and picture.read_bytes().startswith(b"\x89PNG")


def test_the_short_table_has_the_best_rows_and_ours(seeds):
    groups, _ = collect(result_files([seeds]))
    rows = [line.split(" | ") for line in short(groups, published.load()).split("\n") if line.startswith("| ")][2:]
    cifar = next(i for i, row in enumerate(rows) if row[0] == "| CIFAR-10, ε = 8/255")
    methods = [(row[1], row[4]) for row in rows[cifar : cifar + 7]]
    assert methods == [
        ("IBP", "35.28"),
        ("CROWN-IBP", "33.06"),
        ("CROWN-IBP, loss fusion", "33.38"),
        ("MTL-IBP", "35.41"),
        ("ℓ∞-dist net", "40.06"),
        ("**ℓ∞-dist net**", "32.00 ± 2.00"),
        ("**IBP**", "21.00 ± 1.41"),
    ]
    assert sum("not run" in row for row in rows) == len(published.load().datasets) - 1
    tiny = rows[next(i for i, row in enumerate(rows) if "TinyImageNet" in row[0]) :]
    assert [row[4] for row in tiny] == ["15.86", "17.70 ± 0.21", "–"]  # one line for four nets of one method


def test_the_block_of_a_readme_is_replaced_and_nothing_else():
    text = with_block(f"before\n{BEGIN}\nold\n{END}\nafter\n", r"new \1 | block")
    assert text == f"before\n{BEGIN}\nnew \\1 | block\n{END}\nafter\n"
    assert with_block(text, r"new \1 | block") == text
    for wrong in ("nothing", f"{END} {BEGIN}", f"{BEGIN} {END} {BEGIN}"):
        with pytest.raises(ValueError, match="--readme"):
            with_block(wrong, "new")


def test_the_command_writes_once_and_checks(seeds, tmp_path, capsys):
    out, readme = tmp_path / "page.md", tmp_path / "README.md"
    readme.write_text(f"# Title\n\n{BEGIN}\n{END}\n")
    command = ["results", str(seeds / "cifar"), "--out", str(out), "--readme", str(readme)]
    assert main([*command, "--check"]) == 1 and not out.exists()
    assert main(command) == 0
    first = out.read_text(), readme.read_text()
    assert "**ℓ∞-dist net**" in first[0] and "**ℓ∞-dist net**" in first[1] and first[1].startswith("# Title\n")
    capsys.readouterr()
    assert main(command) == 0 and capsys.readouterr().out == ""  # nothing to do
    assert (out.read_text(), readme.read_text()) == first and main([*command, "--check"]) == 0
    readme.write_text(first[1].replace("52.00", "58.00"))
    assert main([*command, "--check"]) == 1
    assert "README.md: not what" in capsys.readouterr().out and "58.00" in readme.read_text()


def test_the_picture_is_drawn_from_the_files_alone(seeds, tmp_path):
    groups, _ = collect(result_files([seeds]))
    (panel,) = module.panels(groups, published.load())
    assert panel["title"] == "CIFAR-10, ε = 8/255" and len(panel["published"]) == 11  # PVT, DiffAI, COLT left out
    first, second = panel["ours"]
    assert (first["recipe"], first["kind"], first["minutes"]) == ("cifar", "linf-dist", pytest.approx(11))
    assert first["clean"] == pytest.approx((52, 2)) and second["certified"] == pytest.approx((21, 2**0.5))
    picture = tmp_path / "picture.png"
    command = ["results", str(seeds), "--out", str(tmp_path / "page.md"), "--plot", str(picture)]
    assert main(command) == 0
    content = picture.read_bytes()
    assert content.startswith(b"\x89PNG") and 10_000 < len(content) < 200_000
    assert main(command) == 0 and picture.read_bytes() == content


def test_two_widths_of_one_kind_are_two_rows_with_labels_of_their_own(tmp_path):
    path = write(tmp_path / "a.json", {"linf-dist": 0.5})
    content = json.loads(path.read_text())
    wide = json.loads(json.dumps(content["methods"]["linf-dist"])) | {"label": "ℓ∞-dist net (wide)", "clean": 0.6}
    wide["identity"] |= {"method": "wide", "settings": "def"}
    content["methods"]["wide"] = wide
    path.write_text(json.dumps(content))
    groups, _ = collect([path])
    assert [(g.method, g.label, g.first[1].kind) for g in groups] == [
        ("linf-dist", "ℓ∞-dist net", "linf-dist"),
        ("wide", "ℓ∞-dist net (wide)", "linf-dist"),
    ]
    cifar = section(rendered(path), "CIFAR-10, ε = 8/255")
    assert "| **ℓ∞-dist net** |" in cifar and "| **ℓ∞-dist net (wide)** |" in cifar


def test_a_setting_without_results_is_not_drawn(tmp_path):
    write(tmp_path / "in" / "a.json", {"ibp": 0.5}, recipe="toy")
    picture = tmp_path / "picture.png"
    assert main(["results", str(tmp_path / "in"), "--out", str(tmp_path / "page.md"), "--plot", str(picture)]) == 0
    assert not picture.exists()


def test_a_wrong_request_is_one_line(tmp_path, capsys):
    (tmp_path / "notes.json").write_text("{}")
    wrong = {tmp_path / "nowhere": "nowhere does not exist", tmp_path: "notes.json is not a results file"}
    for folder, words in wrong.items():
        assert main(["results", str(folder), "--out", str(tmp_path / "page.md")]) == 2
        error = capsys.readouterr().err
        assert error.startswith("linf-compare: error: ") and words in error
    assert not (tmp_path / "page.md").exists()


def test_without_any_result_file_every_recipe_is_not_run(tmp_path):
    folder = tmp_path / "empty"
    folder.mkdir()
    assert rendered(folder).count("not run") == sum(len(recipe.settings) for recipe in RECIPES.values())


def test_the_committed_page_is_what_the_committed_files_give():
    folders = [ROOT / folder for folder in module.FOLDERS if (ROOT / folder).exists()]
    groups, refused = collect(result_files(folders))
    assert refused == []
    texts = module.documents(groups, refused, ROOT / "docs" / "results.md", ROOT / "README.md")
    assert module.stale(texts) == [], "run `linf-compare results --readme README.md`"


def test_every_recipe_of_the_package_is_on_the_committed_page():
    text = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    for name in module.shipped():
        assert f"recipe `{name}`" in text
