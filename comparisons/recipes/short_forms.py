"""Short forms of a recipe's tables: keys that stand outside their table.  They are moved into it.

    shift = 1                      augmentation = { name = "shift-flip", shift = 1 }
    eps_values, certificates       evaluation = { eps_values = …, certificates = … }
    attacks = [{ name = … }]       evaluation = { attacks = [{ name = … }] }
    verify = { … }                 evaluation = { verify = { … } }
    norm = "l2"                    evaluation = { norm = "l2" }
    attack = { steps = 20 }        evaluation = { attacks = [{ name = "pgd", steps = 20 }] }

Files of earlier versions also hold settings in these forms.
"""

AUGMENTATION, EVALUATION, ATTACK = "augmentation", "evaluation", "attack"
OF_AUGMENTATION = ("shift", "shift_share", "padding", "flip")
OF_EVALUATION = ("eps_values", "certificates", "attacks", "verify", "norm")
SHIFT_FLIP, PGD = "shift-flip", "pgd"


def long_method(table: dict, where: str) -> dict:
    """Returns a method's table, or a part of one, without short forms.  Raises ValueError if a key stands twice."""
    return _moved(table, AUGMENTATION, OF_AUGMENTATION, where)


def named(table: dict) -> dict:
    """Adds the name of the augmentation to a table where only keys of ``OF_AUGMENTATION`` tell it."""
    augmentation = table.get(AUGMENTATION)
    if isinstance(augmentation, dict) and augmentation and augmentation.keys() <= set(OF_AUGMENTATION):
        return {**table, AUGMENTATION: {"name": SHIFT_FLIP, **augmentation}}
    return table


def long_recipe(table: dict, where: str) -> dict:
    """Returns a recipe's table without short forms, except in its methods.  Raises ValueError if a key stands twice."""
    table = _moved(table, EVALUATION, OF_EVALUATION, where)
    if not isinstance(attack := table.get(ATTACK), dict):
        return table
    rest = {key: value for key, value in table.items() if key != ATTACK}
    return _moved({**rest, "attacks": [{"name": PGD, **attack}]}, EVALUATION, ("attacks",), where)


def _moved(table: dict, target: str, keys: tuple[str, ...], where: str) -> dict:
    """Returns ``table`` with these keys moved into its table ``target``."""
    moved = {key: table[key] for key in keys if key in table}
    there = table.get(target, {})
    if not moved or not isinstance(there, dict):  # of another type: the reader of the table reports it
        return table
    if twice := [key for key in moved if key in there]:
        raise ValueError(f"{where}: {twice[0]} stands twice: by itself and in {target}")
    return {**{key: value for key, value in table.items() if key not in keys}, target: {**there, **moved}}
