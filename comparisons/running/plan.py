"""Plans a run in its folder: which methods are done, which go on, what would be replaced, and why."""

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

CHANGED = "changed settings"


@dataclass(frozen=True)
class Wanted:
    """A run as the user asks for it.

    chosen: its methods, all or some of the recipe's.  data: ``Dataset.identity`` of the whole data set, before a part
    is held out.
    """

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
        """Returns what results say once for all methods, as plain data."""
        eps_values = tuple(self.recipe.evaluation.eps_values)
        return facts_of_all(
            self.recipe.name,
            self.data["dataset"],
            self.norm,
            self.recipe.eps,
            eps_values,
            self.attacks,
            self.seed,
            self.held_out,
            self.recipe.changed,
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
            changed=self.recipe.changed,
        )

    def training(self, key: str) -> dict:
        """Returns the settings that are stored with the state of a method's training."""
        return {"recipe": settings_of(self.recipe, key), "held_out": self.held_out}

    def kept_with(self, key: str, path: Path) -> dict:
        """Returns the stored form of ``training`` from the state in ``path`` if both mean the same, else our own.

        The trainer compares them literally, so a state of an earlier version must meet its own form again.
        """
        ours = self.training(key)
        try:
            theirs = state.read(path)["settings"]["identity"]
            return ours if self.changed_training(key, theirs, ours) else theirs
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return ours

    def changed_training(self, key: str, theirs: dict, ours: dict) -> list[str]:
        """Returns how settings stored with a state, maybe by an earlier version, differ from ours."""
        rest = ({name: value for name, value in side.items() if name != "recipe"} for side in (theirs, ours))
        return settings_changes(theirs["recipe"], self.recipe, key) + changes(*rest)

    def changed(self, key: str, entry: MethodResult) -> list[str]:
        """Returns how a method of the results differs from what is asked for now; empty if it is the same."""
        new = self.identity(key)
        lines = changes(_plain_identity(entry.identity), _plain_identity(new))
        if entry.settings is not None:
            lines += settings_changes(entry.settings, self.recipe, key)
        elif entry.identity.settings not in (new.settings, *new.earlier):
            lines.append("settings: they differ, and an earlier version did not store them")
        return lines + (self._changed_data(entry.data) if entry.data is not None else [])

    def beside(self, results: Results, key: str) -> list[str]:
        """Returns why a method of ``results`` and those of this run cannot share a table; empty if they can."""
        r, data = results, results.methods[key].data or self.data
        theirs = facts_of_all(
            r.recipe, r.dataset, r.norm, r.eps, r.eps_values, r.attacks, r.seed, r.held_out, r.changed
        )
        return changes(theirs, self.of_all()) + self._changed_data(data)

    def _changed_data(self, data: dict) -> list[str]:
        return changes({k: data[k] for k in DIGESTS}, {k: self.data[k] for k in DIGESTS})


def facts_of_all(
    recipe: str,
    dataset: str,
    norm: float,
    eps: float,
    eps_values: tuple[float, ...],
    attacks: dict[str, AttackSettings],
    seed: int,
    held_out: float,
    changed: tuple[str, ...] = (),
) -> dict:
    """Returns what must agree for methods to share a table, as plain data."""
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
            **_changed(changed),
        }
    )


def _plain_identity(identity: Identity) -> dict:
    """Returns an identity as plain data, without the digests of settings."""
    names = ("recipe", "dataset", "method", "seed", "held_out", "budget")
    return {name: getattr(identity, name) for name in names} | _changed(identity.changed)


def _changed(lines: tuple[str, ...]) -> dict:
    """Returns an entry for a recipe with changed settings, and none without."""
    return {CHANGED: ", ".join(lines)} if lines else {}


@dataclass(frozen=True)
class Plan:
    """What a run will do.

    there: the results in the folder; None if it has none.  do: method to train → whether it goes on from its state.
    notes: lines that say what is kept, what is not, and why.  is_ours: False if results.json is not one of ours.
    """

    there: Results | None
    is_ours: bool = True
    do: dict[str, bool] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def methods(self) -> dict[str, MethodResult]:
        return {} if self.there is None else self.there.methods


def results_in(out: Path) -> Results | None:
    """Returns the results in a folder; None without results.json.  Raises ValueError if it is not one of ours."""
    return file.read(out) if (out / file.FILE).exists() else None


def plan(wanted: Wanted, out: Path, *, resume: bool, force: bool) -> Plan:
    """Plans what a run does in ``out``.  Writes nothing.

    A finished method with the same recipe, data and seed is kept.  With ``resume`` an interrupted method goes on.
    All other work on the chosen methods is replaced, but only with ``force``.  ``force`` without ``resume`` also
    repeats methods that are finished or interrupted.  Methods that are not chosen stay.

    Raises:
        WouldReplace: the run would replace something, without ``force``; the message says what and why.
        ValueError: results.json is not one of ours, or has methods of another run that would share its tables.
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
            lost.append(f"{model.name} is there, but {file.FILE} does not mention it")
        if lost:
            replaced.append(f"{key} ({'; '.join(lost)})")
        found.do[key] = goes_on
    if replaced and not force:
        raise WouldReplace(f"{out} holds work that would be replaced: {', '.join(replaced)}", resumable)
    found.notes.extend(f"done again: {each}" for each in replaced)
    _look_at_others(wanted, found, path, anew)
    return found


def _unknown_data(entry: MethodResult) -> str:
    if entry.data is not None:
        return ""
    return "; it has no digest of its data, so the data could not be compared"


def _interrupted(wanted: Wanted, key: str, path: Path) -> tuple[str, list[str]]:
    """Returns how far a training came, and how it differs from what is asked for now.

    Images and labels are compared later, when the training goes on.
    """
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
    """Looks at the methods in results.json that are not done now.  They stay if they and the new ones fit in one table.

    Raises ValueError if they do not fit, unless all methods are done again.
    """
    if not found.do:
        return
    for key, entry in found.methods.items():
        if key in found.do:
            continue
        if not (other := wanted.beside(found.there, key)):
            if key in wanted.recipe.methods and (changed := wanted.changed(key, entry)):
                found.notes.append(f"{key} stays as it was measured, with other settings ({few(changed)})")
        elif anew and set(wanted.chosen) == set(wanted.recipe.methods):
            found.notes.append(f"dropped: {key}, which is of another run ({few(other)})")
        else:
            raise ValueError(
                f"{path} has {key} of another run ({few(other)}), which cannot share a table with these methods: "
                "choose another folder, or do all methods again"
            )
