"""What a run finds in its folder: which methods are done, which go on, and what would be replaced, and why."""

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path

from linf_plugin import plain
from linf_plugin.datasets import DIGESTS, SOURCES
from linf_plugin.files import WouldReplace
from linf_plugin.training import state

from ..methods.kinds import METHODS
from ..recipe import Recipe

RESULTS = "results.json"
SHOWN = 5  # differences that a message lists


def settings_of(recipe: Recipe, key: str) -> dict:
    """All that the recipe says about a method: plain data."""
    settings = dataclasses.asdict(recipe)
    settings["methods"] = settings["methods"][key]
    del settings["description"]
    return settings


def identity_of(
    recipe: Recipe, key: str, seed: int, held_out: float, budget: float | None, dataset: str | None = None
) -> dict:
    """What must agree for results to be kept, or averaged over seeds, besides the digests of the data: plain data.

    dataset: the name of the data, where it is not that of the recipe.
    """
    text = json.dumps(settings_of(recipe, key), sort_keys=True)
    return {
        "recipe": recipe.name,
        "dataset": dataset or recipe.dataset,
        "method": key,
        "seed": seed,
        "held_out": held_out,
        **({} if budget is None else {"budget": budget}),
        "settings": hashlib.sha256(text.encode()).hexdigest(),
    }


def digests_of(entry: dict) -> tuple[str, str] | None:
    """Of the data behind a method's entry in results.json.  Versions that wrote none knew published data alone."""
    if "data" in entry:
        return tuple(entry["data"][key] for key in DIGESTS)
    dataset = entry["identity"].get("dataset")
    return SOURCES[dataset].published if dataset in SOURCES else None


def _plain(value):
    return json.loads(json.dumps(value))


def changes(old, new) -> list[str]:
    """What differs in plain data: lines such as "clip: 10 → 11"."""
    found = state.differing(old, new)
    return [f"{name.removeprefix('methods.')}: {state.shown(a)} → {state.shown(b)}" for name, a, b in found]


def few(lines: list[str]) -> str:
    """The first of them, for a message."""
    return ", ".join(lines[:SHOWN]) + (", …" if len(lines) > SHOWN else "")


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

    def of_all(self) -> dict:
        """What results.json says once, for all methods."""
        recipe = {key: getattr(self.recipe, key) for key in ("eps", "eps_values", "attack")}
        return _plain(
            {
                "recipe": self.recipe.name,
                "dataset": self.data["dataset"],
                **recipe,
                "seed": self.seed,
                "held_out": self.held_out,
            }
        )

    def identity(self, key: str) -> dict:
        return identity_of(self.recipe, key, self.seed, self.held_out, self.budget, self.data["dataset"])

    def training(self, key: str) -> dict:
        """What the state of a method's training is kept with."""
        return {"recipe": settings_of(self.recipe, key), "held_out": self.held_out}

    def changed(self, key: str, entry: dict) -> list[str]:
        """How a method of results.json differs from what is asked for now; empty where it is the same."""
        old, new = entry["identity"], self.identity(key)
        lines = changes({**old, "settings": None}, {**new, "settings": None})
        if old["settings"] != new["settings"]:
            ours = _plain(settings_of(self.recipe, key))
            lines += (
                changes(entry["settings"], ours)
                if "settings" in entry
                else ["settings: others, which an earlier version did not keep"]
            )
        if "data" in entry:
            lines += self._changed_data(entry["data"])
        return lines

    def beside(self, results: dict, key: str) -> list[str]:
        """Why a method of ``results``, a results.json, cannot stand in one table with those of this run; empty where it
        can."""
        ours, data = self.of_all(), results["methods"][key].get("data", self.data)
        return changes({k: results.get(k, value) for k, value in ours.items()}, ours) + self._changed_data(data)

    def _changed_data(self, data: dict) -> list[str]:
        return changes({k: data[k] for k in DIGESTS}, {k: self.data[k] for k in DIGESTS})


@dataclass(frozen=True)
class Plan:
    """there: results.json as it is.  do: the methods that are trained, and whether each goes on from its state.  notes:
    lines that say what is kept and what is not, and why.  is_ours: False where results.json is none of ours."""

    there: dict
    is_ours: bool = True
    do: dict[str, bool] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def read_results(path: Path) -> dict:
    """results.json, or {"methods": {}} where there is none.  Raises ValueError where it is not one of ours."""
    try:
        results = plain.loads(path.read_text(encoding="utf-8"))
        for entry in results["methods"].values():
            entry["identity"]["settings"], digests_of(entry)
        return results
    except FileNotFoundError:
        return {"methods": {}}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is not a results file of linf-compare") from error


def plan(wanted: Wanted, out: Path, *, resume: bool, force: bool) -> Plan:
    """What a run is to do in ``out``; nothing is written.

    A method that is finished there, by the same recipe, data and seed, is kept.  An interrupted one goes on with
    ``resume``.  All else that is there is replaced with ``force`` alone; ``force`` without ``resume`` does what is
    finished or interrupted anew, too.  Methods that are not chosen stay.

    Raises:
        WouldReplace: something would be replaced, without ``force``; the message says all of it, and why.
        ValueError: results.json is none of ours, or has methods of another run that would stand beside these.
    """
    path, anew = out / RESULTS, force and not resume
    try:
        found = Plan(read_results(path))
    except ValueError as error:
        if not anew:
            raise
        found = Plan({"methods": {}}, is_ours=False, notes=[f"replaced: {error}"])
    replaced, resumable = [], False
    for key in wanted.chosen:
        entry, model, kept = found.there["methods"].get(key), out / f"{key}.pt", out / f"{key}.state.pt"
        lost, changed, goes_on = [], entry and wanted.changed(key, entry), False
        if entry is not None:
            if not changed and model.exists() and not anew:
                found.notes.append(f"{METHODS[key].label}: already in {path}" + _unknown_data(entry))
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
            lost.append(f"{model.name} is there and {RESULTS} tells nothing of it")
        if lost:
            replaced.append(f"{key} ({'; '.join(lost)})")
        found.do[key] = goes_on
    if replaced and not force:
        raise WouldReplace(f"{out} holds work that would be replaced: {', '.join(replaced)}", resumable)
    found.notes.extend(f"done anew: {each}" for each in replaced)
    _look_at_others(wanted, found, path, anew)
    return found


def _unknown_data(entry: dict) -> str:
    return "" if "data" in entry else "; whether it is of the same data could not be compared: it names no digest"


def _interrupted(wanted: Wanted, key: str, path: Path) -> tuple[str, list[str]]:
    """How far a training came, and in what it differs from what is asked for now.  Images and labels are compared
    when it goes on."""
    try:
        content = state.read(path)
        theirs = {name: content["settings"][name] for name in ("seed", "budget")}
        theirs |= content["settings"]["identity"]
        epochs = f" after {len(content['history'].splitlines())} of {content['epochs']} epochs"
    except (ValueError, KeyError, TypeError, AttributeError):
        return "", [f"{path.name} cannot be read"]
    ours = _plain({"seed": wanted.seed, "budget": wanted.budget, **wanted.training(key)})
    return epochs, changes(theirs.pop("recipe", None), ours.pop("recipe")) + changes(theirs, ours)


def _look_at_others(wanted: Wanted, found: Plan, path: Path, anew: bool) -> None:
    """The methods in results.json that are not done now: they stay, if one table may hold them and these."""
    if not found.do:
        return
    for key, entry in found.there["methods"].items():
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
