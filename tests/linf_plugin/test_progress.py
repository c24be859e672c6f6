"""Progress bars: only where people see them, and with or without tqdm."""

import sys

import pytest
import tqdm

from linf_plugin import progress


def test_bars_are_for_terminals_and_notebooks(monkeypatch):
    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)
    assert progress.hidden(True) and progress.hidden(False)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert not progress.hidden(True) and progress.hidden(False)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False, raising=False)
    monkeypatch.setitem(sys.modules, "ipykernel", progress)
    assert not progress.hidden(True)


@pytest.mark.parametrize("installed", [True, False])
def test_a_bar_gives_the_items_and_takes_what_the_trainer_calls(installed, monkeypatch, capsys):
    if not installed:
        monkeypatch.setitem(sys.modules, "tqdm", None)  # its import fails
    assert list(progress.bar([1, 2, 3], disable=True)) == [1, 2, 3]
    with progress.bar(total=2, disable=True) as bar:
        assert isinstance(bar, tqdm.tqdm if installed else progress.NoBar)
        bar.reset(total=3)
        bar.update()
        bar.set_description("net", refresh=False)
        bar.set_postfix(loss=1.0, refresh=False)
    progress.say("fitted")
    assert capsys.readouterr().err == "fitted\n"
