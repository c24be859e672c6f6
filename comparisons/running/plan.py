"""What a run has to do in its folder: which methods are done, which go on, and what would be replaced, and why."""

from dataclasses import dataclass, field
from pathlib import Path

from linf_plugin.datasets import DIGESTS
from linf_plugin.files import WouldReplace
from linf_plugin.training import state

from ..certificates import norm_named
from ..methods.parts import ATTACKING, arguments_of
from ..recipes.recipe import Recipe
from ..results import file
from ..results.digests import digests
from ..results.schema import AttackSettings, Identity, MethodResult, Results
from ..results.settings import changes, few, plain_data, settings_changes, settings_of


@dataclass(frozen=True)
class Wanted:
    """A run as it is asked for.  chosen: its methods, all of the recipe's or some.  data: ``Dataset.identity`` of the
    whole data set, before a part is held out."""

    recipe: Recipe
    chosen: list[str]
    data: dict[str, str]
    seed: int
    held_out: float
    budget: float | None

    @property
    def attacks(self) -> dict[str, AttackSettings]:
        rows = ATTACKING.registry
        attacks = self.recipe.evaluation.attacks
        return {a["name"]: AttackSettings(rows[a["name"]].norm, arguments_of(a)) for a in attacks}

    @property
    def norm(self) -> float:
        return norm_named(self.recipe.evaluation.norm)

    def of_all(self) -> dict:
        """What results say once, for all methods: plain data."""
        eps_values = tuple(self.recipe.evaluation.eps_values)
        return _of_all(
            self.recipe.name,
            self.data["dataset"],
            self.norm,
            self.recipe.eps,
            eps_values,
            self.attacks,
            self.seed,
            self.held_out,
        )

    def identity(self, key: str) -> Identity:
        settings, *earlier = digests(self.recipe, key)
        return Identity(
            recipe=self.recipe.name,
            dataset=self.data["dataset"],
            method=key,
            seed=self.seed,
            held_out=self.held_out,
            budget=self.budget,
            settings=settings,
            earlier=tuple(earlier),
        )

    def training(self, key: str) -> dict:
        """What the state of a method's training is kept with."""
        return {"recipe": settings_of(self.recipe, key), "held_out": self.held_out}

    def kept_with(self, key: str, path: Path) -> dict:
        """The same as the state in ``path`` has it, if it means the same: the trainer compares the two word by word."""
        ours = self.training(key)
        try:
            theirs = state.read(path)["settings"]["identity"]
            return ours if self.changed_training(key, theirs, ours) else theirs
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return ours

    def changed_training(self, key: str, theirs: dict, ours: dict) -> list[str]:
        """How the state of a training, maybe of an earlier version, differs in what it was kept with."""
        rest = ({name: value for name, value in side.items() if name != "recipe"} for side in (theirs, ours))
        return settings_changes(theirs["recipe"], self.recipe, key) + changes(*rest)

    def changed(self, key: str, entry: MethodResult) -> list[str]:
        """How a method of the results differs from what is asked for now; empty where it is the same."""
        new = self.identity(key)
        lines = changes(_plain_identity(entry.identity), _plain_identity(new))
        if entry.settings is not None:
            lines += settings_changes(entry.settings, self.recipe, key)
        elif entry.identity.settings not in (new.settings, *new.earlier):
            lines.append("settings: others, which an earlier version did not keep")
        return lines + (self._changed_data(entry.data) if entry.data is not None else [])

    def beside(self, results: Results, key: str) -> list[str]:
        """Why a method of ``results`` cannot stand in one table with those of this run; empty where it can."""
        r, data = results, results.methods[key].data or self.data
        theirs = _of_all(r.recipe, r.dataset, r.norm, r.eps, r.eps_values, r.attacks, r.seed, r.held_out)
        return changes(theirs, self.of_all()) + self._changed_data(data)

    def _changed_data(self, data: dict) -> list[str]:
        return changes({k: data[k] for k in DIGESTS}, {k: self.data[k] for k in DIGESTS})


def _of_all(recipe, dataset, norm, eps, eps_values, attacks, seed, held_out) -> dict:
    return plain_data(
        {
            "recipe": recipe,
            "dataset": dataset,
            "norm": norm,
            "eps": eps,
            "eps_values": eps_values,
            "attack": {name: [a.norm, ATTACKING.filled({"name": name, **a.arguments})] for name, a in attacks.items()},
            "seed": seed,
            "held_out": held_out,
        }
    )


def _plain_identity(identity: Identity) -> dict:
    """But for the digests of settings."""
    names = ("recipe", "dataset", "method", "seed", "held_out", "budget")
    return {name: getattr(identity, name) for name in names}


@dataclass(frozen=True)
class Plan:
    """there: the results as they are; None where there are none.  do: the methods that are trained, and whether each
    goes on from its state.  notes: lines that say what is kept and what is not, and why.  is_ours: False where
    results.json is none of ours."""

    there: Results | None
    is_ours: bool = True
    do: dict[str, bool] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def methods(self) -> dict[str, MethodResult]:
        return {} if self.there is None else self.there.methods


def results_in(out: Path) -> Results | None:
    """None where there is no results.json.  Raises ValueError where it is not one of ours."""
    return file.read(out) if (out / file.FILE).exists() else None


def plan(wanted: Wanted, out: Path, *, resume: bool, force: bool) -> Plan:
    """What a run is to do in ``out``; nothing is written.

    A method that is finished there, with the same recipe, data and seed, is kept.  An interrupted one goes on with
    ``resume``.  Everything else that is there is replaced, but only with ``force``.  ``force`` without ``resume`` also
    repeats what is finished or interrupted.  Methods that are not chosen stay.

    Raises:
        WouldReplace: something would be replaced, without ``force``; the message says all of it, and why.
        ValueError: results.json is none of ours, or has methods of another run that would stand beside these.
    """
    path, anew = out / file.FILE, force and not resume
    try:
        found = Plan(results_in(out))
    except ValueError as error:
        if not anew:
            raise
        found = Plan(None, is_ours=False, notes=[f"replaced: {error}"])
    replaced, resumable = [], False
    for key in wanted.chosen:
        entry, model, kept = found.methods.get(key), out / f"{key}.pt", out / f"{key}.state.pt"
        lost, changed, goes_on = [], entry and wanted.changed(key, entry), False
        if entry is not None:
            if not changed and model.exists() and not anew:
                label = wanted.recipe.methods[key].label
                found.notes.append(f"{label}: already in {path}" + _unknown_data(entry))
                continue
            other = f", with other settings ({few(changed)})" if changed else ""
            lost.append(f"finished{other}" + ("" if model.exists() else f", but {model.name} is missing"))
        if kept.exists():
            epochs, changed = _interrupted(wanted, key, kept)
            goes_on = resume and not changed
            if not goes_on:
                lost.append(f"interrupted{epochs}" + (f", with other settings ({few(changed)})" if changed else ""))
            resumable |= not (resume or changed or entry)
        elif entry is None and model.exists():
            lost.append(f"{model.name} is there and {file.FILE} tells nothing of it")
        if lost:
            replaced.append(f"{key} ({'; '.join(lost)})")
        found.do[key] = goes_on
    if replaced and not force:
        raise WouldReplace(f"{out} holds work that would be replaced: {', '.join(replaced)}", resumable)
    found.notes.extend(f"done anew: {each}" for each in replaced)
    _look_at_others(wanted, found, path, anew)
    return found


def _unknown_data(entry: MethodResult) -> str:
    if entry.data is not None:
        return ""
    return "; whether it is of the same data could not be compared: it names no digest"


def _interrupted(wanted: Wanted, key: str, path: Path) -> tuple[str, list[str]]:
    """How far a training came, and in what it differs from what is asked for now.  Images and labels are compared
    when it goes on."""
    try:
        content = state.read(path)
        theirs = {name: content["settings"][name] for name in ("seed", "budget")}
        theirs |= content["settings"]["identity"]
        epochs = f" after {len(content['history'].splitlines())} of {content['epochs']} epochs"
        ours = plain_data({"seed": wanted.seed, "budget": wanted.budget, **wanted.training(key)})
        return epochs, wanted.changed_training(key, theirs, ours)
    except (ValueError, KeyError, TypeError, AttributeError):
        return "", [f"{path.name} cannot be read"]


def _look_at_others(wanted: Wanted, found: Plan, path: Path, anew: bool) -> None:
    """The methods in results.json that are not done now: they stay, if one table may hold them and these."""
    if not found.do:
        return
    for key, entry in found.methods.items():
        if key in found.do:
            continue
        if not (other := wanted.beside(found.there, key)):
            if key in wanted.recipe.methods and (changed := wanted.changed(key, entry)):
                found.notes.append(f"{key} stays as it was measured, with other settings ({few(changed)})")
        elif anew and set(wanted.chosen) == set(wanted.recipe.methods):
            found.notes.append(f"dropped: {key}, of another run ({few(other)})")
        else:
            raise ValueError(
                f"{path} has {key} of another run ({few(other)}), and no table can hold it beside these methods: "
                "choose another folder, or do all methods anew"
            )
