"""The table of a campaign, from its JSON alone."""


def _row(name: str, files: list[dict]) -> list[str]:
    refused = sum(f["status"] == 2 for f in files)
    read, failed = sum(f["status"] == 0 for f in files), sum(bool(f["failures"]) for f in files)
    seconds = max((f["cpu_seconds"] or 0.0 for f in files), default=0.0)
    memory = max((f["peak_mb"] or 0.0 for f in files), default=0.0)
    return [name, *(f"{n:,}" for n in (len(files), refused, read, failed)), f"{seconds:.1f}", f"{memory:.0f}"]


def table(results: dict) -> str:
    """Markdown: a row a kind of file and reader."""
    files = results["files"]
    groups = list(dict.fromkeys((f["kind"], f["action"]) for f in files))
    header = ["files", "number", "refused in a sentence", "read", "failures", "longest, s", "peak, MB"]
    lines = [header, ["---"] + ["---:"] * (len(header) - 1)]
    lines += [_row(", ".join(group), [f for f in files if (f["kind"], f["action"]) == group]) for group in groups]
    lines.append(_row("all", files))
    failed = [f for f in files if f["failures"]]
    verdict = "No file led to a traceback, or beyond the limits." if not failed else f"**{len(failed)} files failed.**"
    versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    return (
        "\n\n".join(
            [
                "## Hostile files",
                f"`python -m hostile --files {results['count']} --seed {results['seed']}`: ONNX files, checkpoints and "
                "states of runs, each changed on purpose, each given to its reader in a process of its own. A file "
                f"must be read, or refused in one sentence, within {results['limits']['seconds']} s of processor time "
                f"and {results['limits']['mb']} MB, of which the process has {results['idle_mb']:.0f} MB before it "
                "starts. A net that was read from an ONNX file must compute what onnxruntime computes of that file.",
                "\n".join("| " + " | ".join(line) + " |" for line in lines),
                f"{verdict} {versions}.",
            ]
        )
        + "\n"
    )
