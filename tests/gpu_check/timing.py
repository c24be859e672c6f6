"""The benchmark's cases against their peers; what compiles comes last, since it takes longest."""

from . import absent

absent.stand_in()

from comparisons.studies import bench, bench_report

from .record import Record

CASES = ("overhead", "medium", "large", "conv")
EXPONENTS = (8.0, float("inf"))
FAST = ("ours", "cdist", "blocked", "matmul")
COMPILED = ("ours", "compile")
COMPILING = 40  # seconds that compiling for one p may take


def _words(row: dict) -> str:
    ours = row["times"]["ours"]["median"]
    share = f", {row['pairs'] / ours / row['ceiling']:.0%} of the ceiling" if row["ceiling"] else ""
    return f"p={row['p']} {row['size']} {row['direction']} {ours * 1e3:.3g} ms{share}"


def run(record: Record) -> str:
    cases = [bench.OPERATOR_CASES[name] for name in (CASES[:1] if record.quick else CASES)]
    work = [(FAST, [case], p) for case in cases for p in EXPONENTS]
    work += [] if record.quick else [(COMPILED, cases, p) for p in EXPONENTS]  # one compilation serves all sizes
    results: dict = {}
    for peers, some, p in work:
        if peers == COMPILED and record.seconds_left < COMPILING:
            record.found["left out"] = "torch.compile, for want of time"
            break
        more = bench.run(
            some, [p], device=record.device, seconds=0.01 if record.quick else 0.15, progress=False, peers=peers
        )
        for wrong in more["wrong"]:
            record.fail(wrong)
        results = results or {**more, "rows": [], "wrong": []}
        results["rows"] += more["rows"]
        results["wrong"] += more["wrong"]
        record.found |= {"results": results, "table": bench_report.table(results).splitlines()}
        record.save()
    largest = max(results["rows"], key=lambda row: row["pairs"])["size"]
    return "; ".join(
        _words(row)
        for row in results["rows"]
        if row["size"] == largest and row["direction"] == "forward" and "matmul" in row["times"]
    )
