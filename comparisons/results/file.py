"""Reads and writes ``results.json``.  No other module does.

The file has a version, ``"schema"``.  Files of earlier versions are upgraded as they are read (``upgrade``).  Unknown
keys are kept, because a later version may add keys without a new number.
"""

from pathlib import Path

from linf_plugin import plain
from linf_plugin.datasets import DIGESTS
from linf_plugin.files import write_json

from ..certificates import BEST, name_of_norm, norm_named
from .schema import (
    NO_RECIPE,
    AttackSettings,
    Certified,
    Identity,
    MethodResult,
    Results,
    Step,
    Training,
    VerificationResult,
    VerifierResult,
)
from .table import REQUIRED, Table
from .upgrade import upgraded

FILE = "results.json"
SCHEMA = 2


def eps_key(eps: float) -> str:
    """Returns ε as a key of the file: its shortest decimal."""
    return repr(float(eps))


# Reading.


def read(path: str | Path) -> Results:
    """Returns the results in a folder that ``run`` wrote, or in a copy of its results.json.

    Raises:
        FileNotFoundError: results.json does not exist.
        ValueError: it is not one of ours; the message says what is wrong with it.
    """
    path = Path(path)
    path = path if path.suffix == ".json" else path / FILE
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; `linf-compare run` writes it")
    try:
        return from_plain(plain.loads(path.read_text(encoding="utf-8")))
    except ValueError as error:
        raise ValueError(f"{path} is not a results file of linf-compare: {error}") from error


def from_plain(content) -> Results:
    """Returns the results in the content of a file.

    Raises:
        ValueError: the version is later, something is missing, or a type is wrong; the message says where.
    """
    if not isinstance(content, dict):
        raise ValueError(f"its content must be a dict, got {type(content).__name__}")
    version = content.get("schema", 1)
    if version not in (1, SCHEMA) or isinstance(version, bool):
        raise ValueError(f"schema must be at most {SCHEMA}, which this version reads, got {version!r:.80}")
    table = Table(content if version == SCHEMA else upgraded(content))
    table.number("schema")
    eps, values = table.eps("eps"), tuple(table.list_of_eps("eps_values"))
    attacks = {name: _attack(each) for name, each in table.tables("attacks")}
    recipe, wanted = table.text("recipe"), {eps, *values}
    if not attacks and recipe != NO_RECIPE:
        raise ValueError("attacks must not be empty")
    of_ours = REQUIRED if recipe != NO_RECIPE else None  # the default of facts that only the harness knows
    return Results(
        recipe=recipe,
        dataset=table.text("dataset"),
        eps=eps,
        eps_values=values,
        attacks=attacks,
        seed=table.whole("seed"),
        test_samples=_at_least_one(table, "test_samples"),
        device=table.text("device"),
        norm=_norm(table),
        held_out=table.number("held_out", 0.0),
        description=table.text("description", ""),
        train_samples=table.whole("train_samples", None),
        shape=_shape(table),
        versions=table.mapping("versions", None),
        changed=tuple(table.texts("changed", ())),
        methods={name: _method(each, wanted, tuple(attacks), of_ours) for name, each in table.tables("methods")},
        more=table.rest(),
    )


def _at_least_one(table: Table, key: str) -> int:
    found = table.whole(key)
    if found < 1:
        raise ValueError(f"{key} must be at least 1, got {found}")
    return found


def _fraction(name: str, value: float) -> float:
    if not 0 <= value <= 1:
        raise ValueError(f"{name} must lie in [0, 1], got {value}")
    return value


def _norm(table: Table) -> float:
    name = table.text("norm")
    try:
        return norm_named(name)
    except ValueError as error:
        raise ValueError(f"{table.where}: {error}") from None


def _shape(table: Table) -> tuple[int, ...] | None:
    sizes = table.sequence("shape", None)
    if sizes is None:
        return None
    if not sizes or not all(type(size) is int and size > 0 for size in sizes):
        raise ValueError(f"shape must be a list of positive whole numbers, got {sizes!r:.80}")
    return tuple(sizes)


def _attack(table: Table) -> AttackSettings:
    arguments = table.mapping("arguments")
    return AttackSettings(_norm(table), arguments)


def _method(table: Table, eps: set[float], attacks: tuple[str, ...], of_ours) -> MethodResult:
    attacked = {name: _accuracy(each, eps) for name, each in table.tables("attacked", attacks)}
    certified = {
        name: Certified(
            _norm(each), each.number("failure"), _accuracy(each.table("accuracy"), eps if name == BEST else set())
        )
        for name, each in table.tables("certified", (BEST,))
    }
    return MethodResult(
        kind=table.text("kind"),
        label=table.text("label"),
        clean=_fraction("clean", table.number("clean")),
        attacked=attacked,
        certified=certified,
        contradictions=table.whole("contradictions"),
        parameters=table.number("parameters"),
        pairs_per_sample=table.number("pairs_per_sample", None),
        certify_seconds=table.number("certify_seconds"),
        training=_training(table.table("training"), of_ours),
        identity=_identity(table.table("identity")),
        broken={name: table.table("broken").whole(name) for name in table.mapping("broken", {})},
        attack_seconds=table.number("attack_seconds", None),
        verification=_verification(table),
        device=table.text("device", None),
        versions=table.mapping("versions", None),
        checkpoint=table.text("checkpoint", None),
        data=_data(table),
        settings=table.mapping("settings", None),
        cascade=_cascade(table) if table.mapping("cascade", None) is not None else {},
        about=table.text("about", ""),
        architecture=table.mapping("architecture", None),
        seconds={name: table.table("seconds").number(name) for name in table.mapping("seconds", {})},
        date=table.text("date", None),
        processor=table.text("processor", None),
        commit=table.text("commit", None),
        samples=_name(table, "samples"),
        points=_name(table, "points"),
        broken_by={name: table.table("broken_by").whole(name) for name in table.mapping("broken_by", {})},
        trials=table.whole("trials", None),
        more=table.rest(),
    )


def _name(table: Table, key: str) -> str | None:
    """Returns the name of a file in the same folder.  A path elsewhere is refused: results may come from anyone."""
    name = table.text(key, None)
    if name is not None and (name in ("", "..") or name != Path(name).name or "\\" in name):
        raise ValueError(f"{key} must be the name of a file in the same folder, got {name!r:.80}")
    return name


def _cascade(table: Table) -> dict[float, tuple[Step, ...]]:
    return {eps: tuple(map(_step, steps)) for eps, steps in table.table("cascade").tables_by_eps()}


def _step(table: Table) -> Step:
    return Step(table.text("method"), table.whole("tried"), table.whole("certified"), table.number("seconds"))


def _accuracy(table: Table, eps: set[float]) -> dict[float, float]:
    found = table.numbers_by_eps()
    if missing := eps - found.keys():
        raise ValueError(f"{table.where} lacks ε = {min(missing)}")
    return {eps: _fraction(table.where, accuracy) for eps, accuracy in found.items()}


def _verification(table: Table) -> VerificationResult | None:
    if table.mapping("verification", None) is None:
        return None
    found = table.table("verification")
    return VerificationResult(
        eps=found.eps("eps"),
        time_limit=found.number("time_limit"),
        samples=found.whole("samples"),
        certified=found.whole("certified"),
        broken=found.whole("broken"),
        asks_certified=found.flag("asks_certified"),
        contradictions=found.rows("contradictions"),
        verifiers={name: _verifier(each) for name, each in found.tables("verifiers")},
    )


def _verifier(table: Table) -> VerifierResult:
    unknown = table.mapping("unknown")
    return VerifierResult(
        verified=table.rows("verified"),
        falsified=table.rows("falsified"),
        unknown={reason: table.table("unknown").rows(reason) for reason in unknown},
        seconds=table.number("seconds"),
        refused=table.text("refused", None),
    )


def _training(table: Table, of_ours) -> Training:
    return Training(
        epochs=table.whole("epochs", of_ours),
        seconds_per_epoch=table.number("seconds_per_epoch", of_ours),
        seconds=table.number("seconds", None),
        images_per_second=table.number("images_per_second", None),
        peak_memory_mib=table.number("peak_memory_mib", None),
        loss=tuple(table.sequence("loss", ())),
        schedule=table.mapping("schedule", None),
        select=table.number("select", None),
        chosen=table.mapping("chosen", None),
        validation=tuple(table.sequence("validation", ())),
    )


def _identity(table: Table) -> Identity:
    found = Identity(
        seed=table.whole("seed"),
        settings=table.text("settings", None),
        recipe=table.text("recipe", None),
        dataset=table.text("dataset", None),
        method=table.text("method", None),
        held_out=table.number("held_out", None),
        budget=table.number("budget", None),
        earlier=tuple(table.texts("earlier", ())),
        changed=tuple(table.texts("changed", ())),
    )
    if unknown := table.rest():
        raise ValueError(f"{table.where} has an unknown key {min(unknown)[:80]!r}")
    return found


def _data(table: Table) -> dict | None:
    data = table.mapping("data", None)
    for key in () if data is None else DIGESTS:
        table.table("data").text(key)
    return data


# Writing.


def write(path: str | Path, results: Results) -> None:
    """Writes results to a file: whole or not at all, as ``linf_plugin.files.write_text`` does."""
    write_json(path, to_plain(results))


def to_plain(results: Results) -> dict:
    """Returns the content of the file, which ``from_plain`` reads.  A value of None is left out."""
    r = results
    return {
        "schema": SCHEMA,
        "recipe": r.recipe,
        **_known(changed=list(r.changed) or None),
        "description": r.description,
        "dataset": r.dataset,
        "norm": name_of_norm(r.norm),
        "eps": r.eps,
        "eps_values": list(r.eps_values),
        "seed": r.seed,
        "held_out": r.held_out,
        "attacks": {name: {"norm": name_of_norm(a.norm), "arguments": a.arguments} for name, a in r.attacks.items()},
        **_known(train_samples=r.train_samples),
        "test_samples": r.test_samples,
        **_known(shape=None if r.shape is None else list(r.shape)),
        **_known(versions=r.versions),
        "device": r.device,
        **r.more,
        "methods": {name: _plain_method(m) for name, m in r.methods.items()},
    }


def _plain_method(m: MethodResult) -> dict:
    t, i = m.training, m.identity
    return {
        "kind": m.kind,
        "label": m.label,
        "clean": m.clean,
        "attacked": {name: _plain_accuracy(accuracy) for name, accuracy in m.attacked.items()},
        "certified": {
            name: {"norm": name_of_norm(c.norm), "failure": c.failure, "accuracy": _plain_accuracy(c.accuracy)}
            for name, c in m.certified.items()
        },
        "contradictions": m.contradictions,
        "broken": m.broken,
        "certify_seconds": m.certify_seconds,
        **_known(attack_seconds=m.attack_seconds, verification=_plain_verification(m.verification)),
        "parameters": m.parameters,
        **_known(pairs_per_sample=m.pairs_per_sample),
        "training": _known(
            epochs=t.epochs,
            seconds_per_epoch=t.seconds_per_epoch,
            seconds=t.seconds,
            images_per_second=t.images_per_second,
            peak_memory_mib=t.peak_memory_mib,
            schedule=t.schedule,
            select=t.select,
            chosen=t.chosen,
            validation=list(t.validation),
            loss=list(t.loss),
        ),
        **_known(about=m.about or None, cascade=_plain_cascade(m.cascade) or None),
        **_known(date=m.date, seconds=m.seconds or None, processor=m.processor, commit=m.commit),
        **_known(architecture=m.architecture, samples=m.samples, points=m.points),
        **_known(broken_by=m.broken_by or None, trials=m.trials),
        **_known(device=m.device, versions=m.versions, checkpoint=m.checkpoint, data=m.data),
        "identity": _known(
            recipe=i.recipe,
            dataset=i.dataset,
            method=i.method,
            seed=i.seed,
            held_out=i.held_out,
            budget=i.budget,
            settings=i.settings,
            earlier=list(i.earlier) or None,
            changed=list(i.changed) or None,
        ),
        **_known(settings=m.settings),
        **m.more,
    }


def _plain_cascade(cascade: dict[float, tuple[Step, ...]]) -> dict:
    return {eps_key(eps): [vars(step) for step in steps] for eps, steps in cascade.items()}


def _plain_verification(v: VerificationResult | None) -> dict | None:
    """Returns its fields by name, without those that are None."""
    if v is None:
        return None
    return {**vars(v), "verifiers": {name: _known(**vars(each)) for name, each in v.verifiers.items()}}


def figures(m: MethodResult) -> dict:
    """Returns the accuracies that a checkpoint states: clean, under each attack, and by each certificate."""
    return {
        "clean": m.clean,
        **{name: _plain_accuracy(accuracy) for name, accuracy in m.attacked.items()},
        "certified": {name: _plain_accuracy(c.accuracy) for name, c in m.certified.items()},
        "contradictions": m.contradictions,
        "certify_seconds": m.certify_seconds,
        "attack_seconds": m.attack_seconds,
    }


def _plain_accuracy(accuracy: dict[float, float]) -> dict[str, float]:
    return {eps_key(eps): fraction for eps, fraction in accuracy.items()}


def _known(**values) -> dict:
    return {key: value for key, value in values.items() if value is not None}
