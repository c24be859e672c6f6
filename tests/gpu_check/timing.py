"""The benchmark's cases against their peers; what compiles comes last, since it takes longest."""

from . import absent

absent.stand_in()

from comparisons import bench, bench_report  # noqa: E402

from .record import Record  # noqa: E402

CASES = ("overhead", "medium", "large", "conv")
EXPONENTS = (8.0, float("inf"))
FAST = ("ours", "cdist", "blocked", "matmul")
COMPILED = ("ours", "compile")


def _words(row: dict) -> str:
    ours = row["times"]["ours"]["median"]
    share = f", {row['pairs'] / ours / row['ceiling']:.0%} of the ceiling" if row["ceiling"] else ""
    return f"p={row['p']} {row['size']} {row['direction']} {ours * 1e3:.3g} ms{share}"


def run(record: Record) -> str:
    cases = CASES[:1] if record.quick else CASES
    seconds = 0.01 if record.quick else 0.15
    results: dict = {}
    for peers in (FAST,) if record.quick else (FAST, COMPILED):
        for name in cases:
            for p in EXPONENTS:
                more = bench.run(
                    [bench.CASES[name]], [p], device=record.device, seconds=seconds, progress=False, peers=peers
                )
                for wrong in more["wrong"]:
                    record.fail(wrong)
                results = results or {**more, "rows": [], "wrong": []}
                results["rows"] += more["rows"]
                results["wrong"] += more["wrong"]
                record.found |= {"results": results, "table": bench_report.table(results).splitlines()}
                record.save()
    rows = [row for row in results["rows"] if row["direction"] == "forward" and row["case"] == bench.CASES[cases[-1]]]
    rows += [row for row in results["rows"] if row["direction"] == "forward" and row["case"] == bench.CASES["large"]]
    return "; ".join(map(_words, rows[-2:]))
