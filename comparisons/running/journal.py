"""The journal of a search: the settings that Optuna chose for each trial, and what came of them.

Each trial is chosen by a sampler with a seed of its own, from the trials before it in the journal.  So a search that
was interrupted goes on with the settings that it would have had without the interruption.
"""

import re
import shutil
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from linf_plugin import extras
from linf_plugin.files import WouldReplace

from ..recipes.recipe import Recipe
from ..results import trials
from ..results.settings import changes, few
from ..results.trials import Found, Trial

FILE = "search.journal"
NAME = "search"  # of the study in the journal
ASKED, SECONDS = "asked", "seconds"  # attributes in the journal
AT_RANDOM = 8  # trials before the estimator chooses
WRITTEN = (FILE, trials.FILE, "search.md", "search.png")  # what a search writes, with its trials
Range = tuple[str, float, float, bool]  # path in the method's table, least and largest value, whether by the logarithm


def folder_of_trial(out: Path, number: int) -> Path:
    """Returns the folder of one trial's results."""
    return out / f"trial-{number:04}"


@dataclass(frozen=True)
class Next:
    """A trial that is to be run.  settings: path → value."""

    number: int
    settings: dict[str, float]


class Journal:
    """The journal in a folder, which is made if missing.

    Args:
        out: the folder.
        asked: all that decides what trials give, as plain data.
        resume: go on with the search in the folder.
        force: replace the search in the folder; with ``resume`` only one that cannot go on.

    Raises:
        WouldReplace: the folder has a search that would be replaced, without ``force``.
        ImportError: Optuna is not installed.
    """

    def __init__(self, out: Path, asked: dict, *, resume: bool = False, force: bool = False):
        with extras.named():
            import optuna

        self.optuna, self.path, self.seed = optuna, out / FILE, asked["seed"]
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        if not self._goes_on(out, asked, resume, force):
            _remove(out)
        out.mkdir(parents=True, exist_ok=True)
        directions = ["maximize", "maximize"]
        self.study = optuna.create_study(
            storage=self._storage(), study_name=NAME, directions=directions, load_if_exists=True
        )
        self.study.set_user_attr(ASKED, asked)

    def _storage(self):
        storages = self.optuna.storages
        return storages.JournalStorage(storages.journal.JournalFileBackend(str(self.path)))

    def _goes_on(self, out: Path, asked: dict, resume: bool, force: bool) -> bool:
        """Returns whether the search in the folder goes on; otherwise it is to be replaced.  Raises WouldReplace."""
        if not self.path.exists():
            if not force and (there := _written(out)):
                raise WouldReplace(f"{there[0]} exists")
            return False
        try:
            there = self.optuna.load_study(storage=self._storage(), study_name=NAME).user_attrs[ASKED]
        except (KeyError, ValueError, TypeError):
            if not force:
                raise WouldReplace(f"{self.path} exists, and is damaged or not the journal of a search") from None
            return False
        other = changes(there, asked)
        if not force:
            if other:
                raise WouldReplace(f"{self.path} exists, and is of another search ({few(other)})")
            if not resume:
                raise WouldReplace(f"{self.path} exists", resumable=True)
        return resume and not other

    @property
    def finished(self) -> int:
        """How many trials have ended, those that failed among them."""
        return sum(trial.state.is_finished() for trial in self.study.get_trials(deepcopy=False))

    def next(self, ranges: Sequence[Range], first: dict[str, float]) -> Next:
        """Returns the trial that was interrupted, or chooses a new one.

        Args:
            ranges: what is varied.
            first: settings of the first trial.
        """
        known = self.study.get_trials(deepcopy=False)
        interrupted = [trial for trial in known if trial.state == self.optuna.trial.TrialState.RUNNING]
        number = interrupted[0].number if interrupted else len(known)
        self.study.sampler = self._sampler(number)
        if interrupted:
            self.trial = self.optuna.trial.Trial(self.study, interrupted[0]._trial_id)  # keeps the settings that it has
        else:
            if not known:
                self.study.enqueue_trial(first)
            self.trial = self.study.ask()
        return Next(
            number, {path: self.trial.suggest_float(path, low, high, log=log) for path, low, high, log in ranges}
        )

    def _sampler(self, number: int):
        seed = int(np.random.SeedSequence([self.seed, number]).generate_state(1)[0])
        with warnings.catch_warnings():  # some versions call an argument experimental
            warnings.simplefilter("ignore", self.optuna.exceptions.ExperimentalWarning)
            return self.optuna.samplers.TPESampler(
                seed=seed, multivariate=True, constant_liar=False, n_startup_trials=AT_RANDOM
            )

    def tell(self, clean: float, certified: float, seconds: float) -> None:
        """Notes what the trial gave that ``next`` returned last."""
        self.trial.set_user_attr(SECONDS, seconds)
        self.study.tell(self.trial, (clean, certified))

    def fail(self) -> None:
        """Notes that this trial failed."""
        self.study.tell(self.trial, state=self.optuna.trial.TrialState.FAIL)

    def found(self, recipe: Recipe, method: str, held_out: float) -> Found:
        """Returns the trials so far, and their front."""
        known = self.study.get_trials(deepcopy=False)
        good = [trial for trial in known if trial.state == self.optuna.trial.TrialState.COMPLETE]
        return Found(
            recipe=recipe.name,
            method=method,
            label=recipe.methods[method].label,
            eps=recipe.eps,
            held_out=held_out,
            seed=self.seed,
            trials=tuple(
                Trial(t.number, dict(t.params), t.values[0], t.values[1], t.user_attrs[SECONDS]) for t in good
            ),
            front=tuple(sorted(trial.number for trial in self.study.best_trials)),
            failed=self.finished - len(good),
        )


def _written(out: Path) -> list[Path]:
    """Returns the files and folders of an earlier search."""
    there = sorted(out.iterdir()) if out.is_dir() else []
    return [path for path in there if path.name in WRITTEN or re.fullmatch(r"trial-\d{4,}", path.name)]


def _remove(out: Path) -> None:
    """Removes the files and folders of an earlier search."""
    for path in _written(out):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
