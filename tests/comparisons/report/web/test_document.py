"""The page of a report: what stands on it, what is missing, and that nothing of a file becomes part of its code."""

import json
import re
from html.parser import HTMLParser

import pytest
from matplotlib.figure import Figure
from pages import write_run
from runs import DOCS, form_1, made_up

from comparisons.report.gathered import gather
from comparisons.report.web import drawing
from comparisons.report.web.document import document

HARD = '<script>alert("1")</script> & "b" \'c\' </style>'
VOID = {"meta", "img", "br"}


class Read(HTMLParser):
    """What a browser would read: elements in order, texts by the element that they stand in, ids."""

    def __init__(self, text: str):
        super().__init__()
        self.open, self.elements, self.texts, self.attributes = [], [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append(tag)
        self.attributes.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append(tag)
        self.attributes.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append((self.open[-1] if self.open else "", data.strip()))

    def of(self, tag: str) -> list[str]:
        return [text for element, text in self.texts if element == tag and text]

    def values(self, key: str) -> list[str]:
        return [attributes[key] for _, attributes in self.attributes if key in attributes]


def page(*folders) -> Read:
    return Read(document(gather(folders)))


@pytest.fixture
def quick(monkeypatch):
    """Without the drawings, which take most of the time."""
    monkeypatch.setattr(drawing, "_svg", lambda *arguments: "<svg></svg>")


@pytest.fixture
def seeds(tmp_path):
    for seed in (0, 1):
        write_run(tmp_path / f"seed-{seed}", seed=seed)
    return tmp_path


def test_the_page_says_what_was_measured_and_how(seeds):
    read = page(seeds)
    facts = dict(zip(read.of("dt"), read.of("dd"), strict=True))
    assert read.of("h1") == ["digits, ε = 0.1"]
    assert facts["Data"] == "digits, 200 test images" and facts["Recipe"] == "recipe r" and facts["Seeds"] == "0, 1"
    assert facts["ε"] == "0.1 in ℓ∞, pixel range [0, 1]; curve at 0.05, 0.1, 0.2"
    assert facts["Hardware"] == "cuda: NVIDIA H200 (a processor)" and facts["Versions"] == "torch 2.13.0"
    assert facts["Measured"] == "2026-01-01 12:00 to 2026-01-02 12:00 UTC" and facts["Commit"] == "not recorded"
    assert facts["Attacks"] == "PGD: 100 steps, 2 random starts"
    assert read.of("p")[0] == "No image is certified at an ε at which PGD broke it."


def test_every_figure_and_table_has_a_caption_with_data_eps_seeds_and_hardware(seeds):
    read = page(seeds)
    captions = read.of("figcaption")
    assert len(captions) == read.elements.count("figure") == 6 and read.elements.count("svg") == 12
    tables = [text for text in read.of("p") if text.endswith("hardware: cuda: NVIDIA H200 (a processor).")]
    assert read.elements.count("table") == 4 and len(tables) == 5  # and that of the images
    for text in captions + tables:
        assert re.search(r"Data: digits, 200 test images; ε (=|up to) 0\.\d; seeds: 0, 1; hardware: cuda", text)


def test_the_page_is_one_file_in_plain_order(seeds):
    read = page(seeds)
    assert not {"link", "iframe", "object", "embed", "base"} & set(read.elements) and read.elements.count("script") == 1
    for key in ("src", "href"):
        assert all(value.startswith(("data:image/png;base64,", "#")) for value in read.values(key))
    assert not re.search(r"@import|url\((?!#)", "".join(read.of("style")))
    ids, headings = read.values("id"), [tag for tag in read.elements if re.fullmatch(r"h\d", tag)]
    assert len(ids) == len(set(ids)) and headings == ["h1", *["h2"] * 7, "h3", "h3"]
    assert [attributes for tag, attributes in read.attributes if tag == "html"] == [{"lang": "en"}]
    assert all(value[1:] in ids for value in read.values("href")) and set(read.values("aria-labelledby")) <= set(ids)
    assert all(attributes["alt"] for tag, attributes in read.attributes if tag == "img")


def test_rows_have_seeds_minutes_intervals_and_marks(quick, seeds):
    write_run(seeds / "seed-0", {"ibp": None, "linf-dist": None, "mine": "mine"}, method={"trials": 30})
    text = document(gather([seeds]))
    first = text.split('<section id="accuracies">')[1].split("</table>")[0]
    header = re.findall(r'<th scope="col"><button type="button">(.*?)</button>', first)
    assert header == [
        "method",
        "seeds",
        "minutes",
        "clean %",
        "PGD %",
        "certified %",
        "95 % confidence",
        "ℓ∞ radius",
        "ℓ2 radius",
        "by interval %",
        "trials",
    ]
    (mine,) = (row for row in first.split("<tr>") if ">mine</th>" in row)
    cells = re.findall(r"<td[^>]*>(.*?)</td>", mine)
    assert cells[0] == "0" and cells[1] == "1.50" and " – " in cells[5] and cells[-1] == "30"
    assert cells[6:8] == ["0.1", "0.1"]  # a ball in ℓ∞ holds that of the same radius in ℓ2
    assert re.search(r'<td data-value="2">0, 1</td>', first)


def test_a_page_in_l2_says_so_and_shows_the_radii_in_both_norms(tmp_path, monkeypatch):
    named = set()

    def svg(name, title, draw, *rest):
        draw(figure := Figure(), False)
        named.update([figure.get_supxlabel(), *(axis.get_xlabel() for axis in figure.axes)])
        return "<svg></svg>"

    monkeypatch.setattr(drawing, "_svg", svg)
    write_run(tmp_path, {"sll": None, "cpl": None}, norm="l2", eps=0.5)
    text = document(gather([tmp_path]))
    read = Read(text)
    facts = dict(zip(read.of("dt"), read.of("dd"), strict=True))
    assert read.of("h1") == ["digits, ε = 0.5 in ℓ2"] and facts["ε"].startswith("0.5 in ℓ2, pixel range")
    assert all("ε = 0.5 in ℓ2;" in said or "ε up to 0.5 in ℓ2;" in said for said in read.of("figcaption"))
    first = text.split('<section id="accuracies">')[1].split("</table>")[0]
    for row in first.split("<tr>")[2:]:
        assert re.findall(r"<td[^>]*>(.*?)</td>", row)[6:8] == ["0.0625", "0.5"]  # 0.5/√64
    assert "An ℓ2 ball of radius r holds the ℓ∞ ball of radius r/√d" in text
    assert {"ε in ℓ2", "certified radius in ℓ2"} <= named


def test_a_page_of_two_norms_is_refused(tmp_path):
    write_run(tmp_path / "a")
    write_run(tmp_path / "b", {"sll": None}, norm="l2", recipe="other")
    with pytest.raises(ValueError, match=r"cannot be compared. They differ in norm: ℓ∞ in .*; ℓ2 in ") as refused:
        document(gather([tmp_path]))
    assert str(tmp_path / "b") in str(refused.value)


def test_unequal_times_are_marked_and_said_below(quick, tmp_path):
    names = dict.fromkeys(["ibp", "a", "b", "c"])
    text = document(gather([write_run(tmp_path, names, beside=False)]))
    assert "† 1.75</td>" in text and "† 1.50</td>" not in text
    assert "the longest took 1.8 times as long as the shortest" in text


@pytest.mark.parametrize("where", ["label", "dataset", "device", "processor", "attack", "version", "recipe"])
def test_nothing_of_a_file_becomes_code(tmp_path, where, monkeypatch):
    if where not in ("label", "attack"):  # the others are in no drawing
        monkeypatch.setattr(drawing, "_svg", lambda *arguments: "<svg></svg>")
    folder = write_run(tmp_path)
    content = json.loads((folder / "results.json").read_text())
    m = content["methods"]["ibp"]
    if where in ("label", "processor", "device"):
        m[where] = HARD
    elif where in ("dataset", "recipe"):
        content[where] = HARD
    elif where == "version":
        content["versions"] = {"torch": HARD}
    else:
        content["attacks"][HARD] = content["attacks"].pop("pgd")
        for each in content["methods"].values():
            each["attacked"][HARD] = each["attacked"].pop("pgd")
    (folder / "results.json").write_text(json.dumps(content))
    text = document(gather([folder]))
    read = Read(text)  # every element that opens closes
    assert "alert(" in text and "<script>alert" not in text and text.count("</style>") == 1
    assert read.elements.count("script") == 1 and text.count("</script>") == 1


def test_older_results_say_what_is_missing_and_why(quick, tmp_path):
    content = form_1(made_up({"ibp": 0.9, "linf-dist": 0.8}, method={"broken": {}}))
    (tmp_path / "results.json").write_text(json.dumps(content))
    read = page(tmp_path)
    missing = read.of("li")
    wanted = f"IBP: {tmp_path} names no file with one row a sample. Versions before this one wrote none."
    assert missing.count(wanted) == 2  # tests and radii
    assert f"IBP: {tmp_path} names no file with adversarial points. Versions before this one wrote none." in missing
    assert any("recorded only their sum" in text for text in missing)
    assert read.elements.count("figure") == 4 and read.elements.count("table") == 3
    assert dict(zip(read.of("dt"), read.of("dd")))["Measured"] == "not recorded"


@pytest.mark.parametrize("name", ["digits", "mnist-tiny", "recipes/mnist-small", "recipes/fashion-small"])
def test_committed_results_have_a_page(quick, name):
    folder = DOCS / name
    whole = (folder / "results.json").exists() or any(folder.glob("*/results.json"))
    files = [folder] if whole else sorted(folder.glob("*.json"))
    assert page(*files).of("h1")


def test_a_lost_file_is_named(quick, tmp_path):
    folder = write_run(tmp_path)
    (folder / "ibp.samples.csv").unlink()
    (folder / "linf-dist.points.npz").unlink()
    read = page(folder)
    assert f"IBP: ibp.samples.csv is not in {folder}." in read.of("li")
    assert f"ℓ∞-dist net: linf-dist.points.npz is not in {folder}." in read.of("li")
    assert read.of("h3") == ["IBP"] and read.elements.count("figure") == 6


def test_rows_of_numbers_have_no_images(quick, tmp_path):
    read = page(write_run(tmp_path, shape=(30,)))
    assert "img" not in read.elements and "IBP: its samples are rows of numbers, or there are none." in read.of("li")


def test_one_method_has_no_tests(quick, tmp_path):
    assert "A test needs two methods." in page(write_run(tmp_path, {"ibp": None})).of("li")


def test_a_broken_file_beside_the_results_is_refused(quick, tmp_path):
    folder = write_run(tmp_path)
    (folder / "ibp.points.npz").write_bytes(b"nonsense")
    with pytest.raises(ValueError, match="ibp.points.npz is not a file of points of linf-compare"):
        page(folder)
    (folder / "ibp.samples.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="ibp.samples.csv is not a file of samples of linf-compare"):
        page(folder)


def test_contradicted_certificates_are_said_at_the_top(quick, tmp_path):
    read = page(write_run(tmp_path, method={"contradictions": 2}))
    assert read.of("p")[0] == "4 certificates are contradicted by PGD: a bound is wrong."


@pytest.mark.parametrize(
    "change",
    [
        {"eps": 0.0},
        {"norm": "l2"},
        {"recipe": "", "attacks": {}, "method": {"attacked": {}, "training": {}}},
        {"test_samples": 1, "clean": 1.0},
        {"clean": 0.2},
    ],
    ids=["no radius", "another norm", "a given net", "one sample", "nothing certified"],
)
def test_unusual_results_have_a_page(tmp_path, change):
    change = dict(change)
    content = made_up({"ibp": change.pop("clean", 0.9)}, **change)
    if change.get("test_samples") == 1:
        m = content["methods"]["ibp"]
        m["attacked"]["pgd"] = m["certified"]["best"]["accuracy"] = {"0.25": 0.0}
    (tmp_path / "results.json").write_text(json.dumps(content))
    read = page(tmp_path)
    assert read.elements.count("svg") == 8 and read.elements.count("table") == 3
