"""docs/custom_op.md is what it says: its code runs, and its check finds wrong rules."""

import re
from pathlib import Path

import pytest
import torch

DOC = (Path(__file__).parents[3] / "docs" / "custom_op.md").read_text()
CODE = "\n".join(re.findall(r"```python\n(.*?)```", DOC, re.DOTALL))


@pytest.fixture
def run():
    """``run(code)`` as a program of its own; the default dtype, which it sets, is put back."""
    before = torch.get_default_dtype()
    yield lambda code: exec(compile(code, "docs/custom_op.md", "exec"), {"__name__": "custom_op"})
    torch.set_default_dtype(before)


def test_the_example_runs(run, capsys):
    run(CODE)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["IBP", "CROWN-IBP", "CROWN"] * 6
    widths = [float(line.split()[-1]) for line in lines]
    assert widths[2] <= widths[0] and widths[5] < widths[3]  # CROWN against IBP in the narrow boxes


WRONG = {
    "near": ("-above).clamp(min=0).amax(2)", "above).clamp(min=0).amax(2)"),
    "far": ("far = torch.maximum(below.abs(), above.abs()).amax(2)", "far = above.abs().amax(2)"),
    "slope": ("scatter(2, i, s)", "scatter(2, i, 1.5 * s)"),
    "offset": ("-(slope * w).sum(2)", "(slope * w).sum(2)"),
    "signs": ("back(last_lA.clamp(min=0), last_lA.clamp(max=0))", "back(last_lA.clamp(max=0), last_lA.clamp(min=0))"),
    "upper from last_lA": (
        "back(last_uA.clamp(max=0), last_uA.clamp(min=0))",
        "back(last_lA.clamp(min=0), last_lA.clamp(max=0))",
    ),
}


@pytest.mark.parametrize("right, wrong", WRONG.values(), ids=WRONG)
def test_its_check_finds_wrong_rules(run, right, wrong):
    assert CODE.count(right) == 1
    with pytest.raises(AssertionError, match="is wrong at eps="):
        run(CODE.replace(right, wrong))
