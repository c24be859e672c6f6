"""A run that is killed, again and again: whatever it was doing, it goes on to the same bits."""

import time

import victims

from linf_plugin import checkpoint, files


def test_killed_at_any_moment_a_run_goes_on_to_the_same_bits(tmp_path):
    """At most the running epoch is lost: by kills between steps, while saving and while validating."""
    epochs = 12
    victims.start(victims.train, tmp_path, epochs, False, False).join()
    whole, state = checkpoint.read(tmp_path / "done"), checkpoint.read(tmp_path / "state.pt")
    cut, kills, wanted = tmp_path / "cut", 0, 0.6
    cut.mkdir()
    while True:
        process = victims.start(victims.train, cut, epochs, True, True)
        while process.is_alive() and reached(cut) < wanted:
            time.sleep(0.001)
        if not process.is_alive():
            break
        victims.kill(process)
        kills += 1
        if (cut / "state.pt").exists():
            kept = len(checkpoint.read(cut / "state.pt")["history"].splitlines())
            assert kept >= int(reached(cut))  # every epoch before the running one
        wanted += 2.3
    assert process.exitcode == 0 and kills >= 2
    assert files.digest(checkpoint.read(cut / "done")) == files.digest(whole)
    again = checkpoint.read(cut / "state.pt")
    assert files.digest(again["parts"]) == files.digest(state["parts"])
    assert files.digest(again["best"]) == files.digest(state["best"])


def reached(folder) -> float:
    """The epoch in which a slow victim is."""
    try:
        return float((folder / "steps").read_text() or 0)
    except FileNotFoundError:
        return 0.0
