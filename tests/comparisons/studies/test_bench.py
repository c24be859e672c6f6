"""The benchmark: peers do the same work, a wrong operator is refused, the figures are the measured ones."""

import json
import math

import pytest
import torch
from cases import INF, few_p

from comparisons.cli import main
from comparisons.studies import bench, bench_peers
from comparisons.studies.bench_picture import operator_times
from comparisons.studies.bench_report import WIDTH, table
from linf_plugin import ops
from linf_plugin.kernels import cpu

DENSE = {"batch": 6, "in": 7, "out": 3}
CONV = {"batch": 4, "in": 2, "out": 5, "pixels": 4, "kernel": 3}
TINY = {"dense": DENSE, "conv": CONV}
SECONDS = 1e-3
each_case = pytest.mark.parametrize("case", TINY.values(), ids=TINY)


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    """No compiler, small cases, small sweeps."""
    monkeypatch.setitem(bench_peers.COMPILER, "backend", "eager")
    bench_peers._compiled.cache_clear()
    monkeypatch.setattr(bench, "OPERATOR_CASES", TINY)
    monkeypatch.setattr(
        bench,
        "SWEEPS",
        {"width": [{"batch": 3, "in": n, "out": n} for n in (4, 8)], "batch": [DENSE | {"batch": n} for n in (1, 5)]},
    )
    yield
    bench_peers._compiled.cache_clear()


def run(case, *exponents, **options):
    options = {"seconds": SECONDS, "progress": False} | options
    return bench.run([case], exponents, **options)


def times(results, direction="forward"):
    (row,) = (row for row in results["rows"] if row["direction"] == direction)
    return row["times"]


@pytest.fixture(scope="module")
def results():
    """A whole run, read from JSON."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(bench_peers.COMPILER, "backend", "eager")
        patch.setattr(bench, "SWEEPS", {"width": [DENSE, DENSE | {"in": 14, "out": 14}], "batch": [DENSE, CONV]})
        found = bench.run([DENSE, CONV], [INF, 8.0], sweeps=True, seconds=SECONDS, progress=False)
    return json.loads(json.dumps(found, allow_nan=False))


# The competitors and the gate.


@each_case
@few_p
@pytest.mark.parametrize("peer", [peer for peer in bench.PEERS if peer not in ("ours", "matmul")])
def test_peers_compute_what_we_compute(peer, p, case):
    tensors = [a.requires_grad_() for a in bench_peers.tensors(case, case["batch"], "cpu")]
    values = [bench_peers.function_of(name, case)(*tensors, p) for name in (peer, "ours")]
    torch.testing.assert_close(*values)
    grad = torch.randn_like(values[0])
    for ours, theirs in zip(*(torch.autograd.grad(y, tensors, grad) for y in values), strict=True):
        torch.testing.assert_close(ours, theirs)


@each_case
def test_the_matrix_product_has_as_many_pairs(case):
    with torch.utils.flop_counter.FlopCounterMode(display=False) as flops:
        bench_peers.function_of("matmul", case)(*bench_peers.tensors(case, case["batch"], "cpu"), INF)
    assert flops.get_total_flops() == 2 * case["batch"] * bench_peers.counts(case)[2]


@each_case
@few_p
def test_the_operators_pass(p, case):
    assert bench.deviation(case, p, "cpu") is None


def test_the_gate_takes_rows_of_a_large_problem(monkeypatch):
    monkeypatch.setattr(bench_peers, "CHECK_PAIRS", 64)
    for case in ({"batch": 40, "in": 9, "out": 50}, CONV):
        assert bench.deviation(case, INF, "cpu") is None and bench.deviation(case, 8.0, "cpu") is None


class _ScaledGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, a, factor):
        ctx.factor = factor
        return a.clone()

    @staticmethod
    def backward(ctx, grad):
        return ctx.factor * grad, None


def _last_row(y, change):
    return torch.cat([y[:-1], change(y[-1:])])


WRONG = {  # p, operator, what the message names
    "one-ulp": (INF, lambda x, w, p, ours: ours(x, w, p) * (1 + 2**-23), "distance"),
    "power": (8.0, lambda x, w, p, ours: ours(x, w, p + 1), "distance"),
    "last-row": (8.0, lambda x, w, p, ours: _last_row(ours(x, w, p), lambda y: y + 1e-3), "distance"),
    "nan": (INF, lambda x, w, p, ours: _last_row(ours(x, w, p), lambda y: y * math.nan), "distance"),
    "gradient-x": (8.0, lambda x, w, p, ours: ours(_ScaledGradient.apply(x, 1.001), w, p), "gradient of x"),
    "gradient-w": (INF, lambda x, w, p, ours: ours(x, _ScaledGradient.apply(w, 0.0), p), "gradient of w"),
}


@each_case
@pytest.mark.parametrize(("p", "operator", "what"), WRONG.values(), ids=WRONG)
def test_a_wrong_operator_is_named_and_not_timed(p, operator, what, case, monkeypatch):
    ours = bench_peers.function_of("ours", case)
    wrong = {key: lambda x, w, p: operator(x, w, p, ours) for key in ("dense", "conv")}
    monkeypatch.setitem(bench.PEERS, "ours", bench.PEERS["ours"] | wrong)
    found = run(case, p)
    assert found["rows"] == []
    (message,) = found["wrong"]
    assert message.startswith(f"p = {p:g}, {bench.size_of(case)}: the {what} is off by up to")
    assert message in " ".join(table(found).splitlines())


def test_a_gradient_outside_of_the_rows_compared_is_wrong(monkeypatch):
    """It must be 0 there."""
    monkeypatch.setattr(bench_peers, "CHECK_PAIRS", 64)
    case = {"batch": 40, "in": 9, "out": 50}
    leak = _Leak.apply
    monkeypatch.setitem(bench.PEERS, "ours", {"dense": lambda x, w, p: ops.dist(leak(x), w, p)})
    assert "gradient of x" in bench.deviation(case, 8.0, "cpu")


class _Leak(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        return grad + (grad == 0).all(1, keepdim=True)


def test_the_command_fails_where_an_operator_is_wrong(monkeypatch, capsys):
    ours = ops.dist
    monkeypatch.setattr(ops, "dist", lambda x, w, p: ours(x, w, p) + (p == 8))
    assert main(["bench", "--p", "inf,8", "--seconds", str(SECONDS), "--quiet"]) == 1
    captured = capsys.readouterr()
    assert "p = 8, 6×7×3: the distance is off by up to 1" in captured.out and "1 wrong operators" in captured.err
    _, _, after = captured.out.partition("p = 8 ")
    assert "6×7×3\n" not in after and "conv 4×2→5, 4², k3\n" in after  # the others are timed


# The figures.


def test_results_have_every_field(results):
    assert {"processor", "kernels", "threads", "torch", "device"} <= set(results["machine"])
    assert results["wrong"] == [] and results["full"] is False
    rows = [row for row in results["rows"] if row["kind"] == "table"]
    assert [(row["p"], row["size"], row["direction"]) for row in rows] == [
        (p, size, direction)
        for p in ("inf", "8")
        for size in ("6×7×3", "conv 4×2→5, 4², k3")
        for direction in ("forward", "training", "backward")
        if p == "inf" or direction != "training"
    ]
    for row in results["rows"]:
        if row["kind"] == "table":
            assert row["pairs"] == {"6×7×3": 126, "conv 4×2→5, 4², k3": 4 * 16 * 5 * 18}[row["size"]]
        expected = tuple(bench.PEERS) if row["kind"] == "table" else bench.SWEEP_PEERS
        assert tuple(row["times"]) == (("ours",) if row["direction"] == "training" else expected)
        for time in row["times"].values():
            low, high = time["quartiles"]
            assert 0 < min(time["readings"]) <= low <= time["median"] <= high <= max(time["readings"])
            assert time["rows"] == row["case"]["batch"] and not time["scaled"] and time["finite"]
        arithmetic = row["p"] == "8" or row["direction"] != "backward"
        assert (row["ceiling"] is not None) == (arithmetic and cpu.available()[0])
        assert row["ceiling"] is None or row["ceiling"] > 1e6


class Clock:
    """Time passes only in calls: ``fixed`` and ``each`` a row."""

    def __init__(self, monkeypatch, fixed=0.0, each=0.0):
        self.fixed, self.each, self.calls = fixed, each, []
        monkeypatch.setattr(bench, "_call", self.call)
        monkeypatch.setattr(bench, "_seconds", lambda call, number=1: number * (fixed + each * call.rows))

    def call(self, peer, case, p, direction, rows, device):
        def call():
            self.calls.append(peer)
            return torch.ones(1)

        call.rows = rows
        return call


LONG = {"batch": 512, "in": 1024, "out": 1024}


def measure(full=False, direction="forward"):
    return bench._measure(tuple(bench.PEERS), LONG, 8.0, direction, "cpu", 0.5, full)


def test_slow_peers_are_measured_on_a_slice_and_scaled(monkeypatch):
    Clock(monkeypatch, fixed=0.2, each=0.1)
    found = measure()
    for peer, time in found.items():
        slow = bench.PEERS[peer].get("slow", False)
        assert time["scaled"] == slow == (time["rows"] < 512), peer
        assert time["median"] == pytest.approx(0.2 + 512 * 0.1)
        if slow:
            few, first = time["first"]
            assert few < time["rows"] and first == pytest.approx(0.2 + 0.1 * few)
            assert min(time["readings"]) >= 1  # twice the time given


def test_a_hiccup_of_the_first_call_makes_no_peer_fast():
    assert bench._whole(1.0, {"rows": 16, "first": (4, 0.25)}, 512) == pytest.approx(32)
    assert bench._whole(1.0, {"rows": 16, "first": (4, 3.0)}, 512) == pytest.approx(1 + 496 / 32)
    assert bench._whole(1.0, {"rows": 512, "first": (4, 3.0)}, 512) == 1.0


def test_nothing_is_scaled_when_all_is_asked_for(monkeypatch):
    Clock(monkeypatch, fixed=0.2, each=0.1)
    for time in measure(full=True).values():
        assert not time["scaled"] and time["rows"] == 512 and time["median"] == pytest.approx(0.2 + 512 * 0.1)


def test_a_peer_that_is_fast_enough_is_measured_whole(monkeypatch):
    Clock(monkeypatch, each=1e-3)
    for time in measure().values():
        assert not time["scaled"] and time["median"] == pytest.approx(0.512)


def test_short_calls_are_timed_several_at_a_time(monkeypatch):
    numbers = []
    Clock(monkeypatch, fixed=1e-5)
    seconds = bench._seconds
    monkeypatch.setattr(bench, "_seconds", lambda call, number=1: numbers.append(number) or seconds(call, number))
    bench._measure(("ours",), DENSE, 8.0, "forward", "cpu", 0.1, False)
    assert numbers[0] == 1 and all(number * 1e-5 >= 0.0099 for number in numbers[1:]) and len(numbers) >= 10


def test_a_peer_that_would_exceed_the_memory_is_not_run(monkeypatch):
    monkeypatch.setattr(bench, "_free_bytes", lambda device: 100.0)  # 126 pairs of 4 bytes
    found = run(DENSE, INF, 8.0)
    missing = [
        (row["p"], row["direction"], peer, time["reason"])
        for row in found["rows"]
        for peer, time in row["times"].items()
        if time["median"] is None
    ]
    assert missing == [("inf", "backward", "compile", "needs 0 GB of memory, 0 GB are free")]
    text = table(json.loads(json.dumps(found)))
    assert text.count("  n/a  ") == 1 and "n/a: torch.compile, 6×7×3, backward: needs 0 GB" in text


def test_free_memory_is_plausible():
    assert 1e6 < bench._free_bytes("cpu") < 1e15


def test_a_peer_that_fails_says_why(monkeypatch):
    def backend(*_):
        raise RuntimeError("no compiler here")

    monkeypatch.setitem(bench_peers.COMPILER, "backend", backend)
    found = run(DENSE, INF)
    for direction in ("forward", "backward"):
        time = times(found, direction)["compile"]
        assert time["median"] is None and "no compiler here" in time["reason"]
        assert times(found, direction)["cdist"]["median"] > 0
    assert "no compiler here" in table(found)


def test_our_own_failure_is_not_hidden(monkeypatch):
    monkeypatch.setattr(bench, "deviation", lambda *_: None)
    monkeypatch.setitem(bench.PEERS, "ours", {"dense": lambda x, w, p: x @ w})
    with pytest.raises(RuntimeError):
        bench._measure(("ours",), DENSE, INF, "forward", "cpu", SECONDS, False)


def test_a_result_that_overflows_is_marked():
    found = run(DENSE, 1000.0)
    assert {peer for peer, time in times(found).items() if not time["finite"]} == {"cdist", "compile"}
    text = table(found)
    assert text.count("!") == 4 + 1  # forward and backward of both; the explanation


def test_without_kernels_there_is_no_ceiling(monkeypatch):
    monkeypatch.setattr(cpu, "available", lambda: (False, "not built"))
    found = run(DENSE, 8.0)
    assert all(row["ceiling"] is None for row in found["rows"])
    assert "blocked PyTorch (not built)" in table(found).splitlines()[0]


# The table and the picture.


def test_the_table_is_narrow_and_says_what_was_measured(results):
    lines = table(results).splitlines()
    assert max(map(len, lines)) <= WIDTH
    assert f"torch {torch.__version__}" in lines[0]
    row = results["rows"][0]
    median = {peer: time["median"] for peer, time in row["times"].items()}
    cells = lines[4].replace(" µs", "µs").replace(" ms", "ms").split()
    assert lines[3] == "6×7×3" and cells[0] == "forward"
    factor = {"µs": 1e-6, "ms": 1e-3}
    seconds = [float(c[:-2]) * factor[c[-2:]] for c in (cells[1], *cells[3:11:2])]
    assert seconds == pytest.approx([median[peer] for peer in bench.PEERS], rel=6e-3)
    assert float(cells[2]) == pytest.approx(row["pairs"] / median["ours"] / 1e9, abs=6e-3)
    ratios = {"×": (cells[4], median["cdist"] / median["ours"]), "÷": (cells[10], median["ours"] / median["matmul"])}
    for sign, (text, ratio) in ratios.items():
        assert text[0] == sign and float(text[1:]) == pytest.approx(ratio, rel=6e-3, abs=6e-3)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (4.2e-6, "4.20 µs"),
        (36.24e-6, "36.2 µs"),
        (999.4e-6, "999 µs"),
        (999.7e-6, "1.00 ms"),
        (0.0131, "13.1 ms"),
        (8.98, "8.98 s"),
        (9.996, "10.0 s"),
        (190.2, "190 s"),
        (1234.0, "1234 s"),
    ],
)
def test_durations_have_three_digits(seconds, text):
    from comparisons.studies.bench_report import _duration

    assert _duration(seconds) == text


def test_the_table_fits_slow_scaled_results():
    def time(median, **marks):
        return {"median": median, "scaled": True, "finite": False} | marks

    row = {
        "p": "100.5",
        "size": "512×5120×5120",
        "direction": "backward",
        "kind": "table",
        "pairs": 13_421_772_800,
        "ceiling": 16.7e12,
        "times": {"ours": time(0.9876), **{peer: time(1234.5) for peer in bench.PEERS if peer != "ours"}},
    }
    about = {"processor": "p", "kernels": "k", "threads": 2, "torch": "2"}
    titles = {peer: entry["title"] for peer, entry in bench.PEERS.items()}
    text = table({"machine": about, "titles": titles, "rows": [row], "wrong": []})
    assert max(map(len, text.splitlines())) <= WIDTH
    assert "~!1234 s ×1250" in text and "2 threads" in text and "~: measured on a slice" in text


def test_the_picture_comes_from_the_results_alone(results, tmp_path):
    for line in results["rows"]:
        line["times"].get("cdist", {})["scaled"] = True
    operator_times(results, tmp_path / "cost.png")
    picture = (tmp_path / "cost.png").read_bytes()
    assert picture.startswith(b"\x89PNG") and len(picture) > 20_000


def test_a_picture_of_nothing_but_refused_cases_is_drawn(results, tmp_path):
    operator_times(
        results | {"rows": [row for row in results["rows"] if row["kind"] == "table"]}, tmp_path / "cost.png"
    )
    assert (tmp_path / "cost.png").exists()


# The command.


def test_the_command_writes_what_it_prints(tmp_path, capsys):
    threads = torch.get_num_threads()
    arguments = ["--cases", "dense", "--p", "8", "--threads", "1", "--seconds", str(SECONDS), "--quiet"]
    files = [tmp_path / "bench.json", tmp_path / "cost.png"]
    assert main(["bench", *arguments, "--json", str(files[0]), "--plot", str(files[1])]) == 0
    found = json.loads(files[0].read_text())
    assert capsys.readouterr().out == table(found) + "\n"
    assert found["machine"]["threads"] == 1 and torch.get_num_threads() == threads
    assert {row["kind"] for row in found["rows"]} == {"table", "width", "batch"}
    assert files[1].read_bytes().startswith(b"\x89PNG")


def test_a_picture_is_not_drawn_of_nothing(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(bench, "deviation", lambda case, p, device: "all wrong")
    arguments = ["--cases", "dense", "--p", "8", "--quiet", "--plot", str(tmp_path / "cost.png")]
    assert main(["bench", *arguments]) == 1
    assert "all wrong" in capsys.readouterr().out and not (tmp_path / "cost.png").exists()


def test_the_study_writes_what_the_command_prints(tmp_path, capsys):
    arguments = ["study", "bench", "--cases", "dense", "--p", "8", "--seconds", str(SECONDS), "--quiet"]
    assert main([*arguments, "--out", str(tmp_path / "plain")]) == 0
    folder, found = tmp_path / "plain", json.loads((tmp_path / "plain" / "results.json").read_text())
    assert {row["kind"] for row in found["rows"]} == {"table"} and not (folder / "cost.png").exists()
    assert (folder / "table.txt").read_text() == table(found) and table(found) in capsys.readouterr().out
    assert main([*arguments, "--sweeps", "--out", str(tmp_path / "sweeps")]) == 0
    assert (tmp_path / "sweeps" / "cost.png").read_bytes().startswith(b"\x89PNG")


def test_help_names_every_case(monkeypatch, capsys):
    monkeypatch.undo()
    with pytest.raises(SystemExit):
        main(["bench", "--help"])
    text = capsys.readouterr().out
    assert all(name in text for name in bench.OPERATOR_CASES)
    assert all(bench.size_of(case) in text for case in bench.OPERATOR_CASES.values() if "pixels" not in case)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--p", "0.5"], "at least 1"),
        (["--p", "nan"], "at least 1"),
        (["--p", "8,x"], "--p 8,x"),
        (["--cases", "dense,huge"], "dense, conv"),
        (["--cases", ","], "dense, conv"),
        (["--seconds", "-1"], "--seconds"),
        (["--seconds", "nan"], "--seconds"),
        (["--threads", "0"], "--threads"),
        (["--plot", "nowhere/cost.png"], "nowhere"),
        (["--json", "nowhere/bench.json"], "nowhere"),
    ],
)
def test_a_wrong_request_is_one_line_that_names_it(arguments, words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["bench", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("linf-compare: error: ") and words in error and error.count("\n") == 1


@pytest.mark.gpu
def test_the_gpu_is_timed(capsys):
    assert main(["bench", "--device", "cuda", "--seconds", str(SECONDS), "--quiet"]) == 0
    assert torch.cuda.get_device_name() in capsys.readouterr().out
