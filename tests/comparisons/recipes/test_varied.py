"""A recipe with changed settings: what may be changed, what it says of itself, and what is refused."""

from pathlib import Path

import pytest

from comparisons.cli import main
from comparisons.recipes.recipe import available, load_recipe
from comparisons.recipes.varied import folder_of, load_varied
from linf_plugin.training import Schedule

EARLY = str(Path(__file__).parents[2] / "early" / "digits.toml")  # four methods
DIGITS = load_recipe(EARLY)


def test_a_setting_is_changed_and_said_and_the_rest_stays():
    found = load_varied(EARLY, ["methods.ibp.batch_size=32", "attack.steps=5"])
    assert found.changed == ("methods.ibp.batch_size = 32", "attack.steps = 5")
    assert found.methods["ibp"].batch_size == 32 and found.evaluation.attacks[0]["steps"] == 5
    assert {k: m for k, m in found.methods.items() if k != "ibp"} == {
        k: m for k, m in DIGITS.methods.items() if k != "ibp"
    }
    assert load_recipe(EARLY) == DIGITS and DIGITS.changed == ()


@pytest.mark.parametrize("name", available())
def test_epochs_scale_every_schedule_as_a_budget_does(name):
    found, before = load_varied(name, epochs=7), load_recipe(name)
    assert found.changed == ("epochs = 7",)
    for key, method in found.methods.items():
        assert method.schedule == before.methods[key].schedule.scaled(7)


def test_times_that_are_set_stay_and_the_others_change_in_proportion():
    found = load_varied(EARLY, ["methods.ibp.schedule.epochs=40", "methods.ibp.schedule.eps_end=40"])
    assert found.methods["ibp"].schedule == Schedule(
        epochs=40, eps=0.14, eps_start=1.5, eps_end=40, lr_drops=(30.0, 36.0)
    )
    both = load_varied(EARLY, ["methods.ibp.schedule.epochs=40"], epochs=10)
    assert {key: m.schedule.epochs for key, m in both.methods.items()} == {
        "linf-dist": 10,
        "linf-dist-mlp": 10,
        "ibp": 40,
        "crown-ibp": 10,
    }


def test_shared_epochs_scale_the_methods_that_share_them(tmp_path):
    path = tmp_path / "shared.toml"
    path.write_text(
        """
        description = "shared"
        dataset = "digits"
        eps = 0.1
        eps_values = [0.1]
        certificates = ["ibp"]
        attack = { steps = 1 }
        [defaults]
        architecture = { name = "relu-mlp", width = 8, depth = 2 }
        loss = { name = "ibp" }
        optimizer = { name = "adam", lr = 1e-3 }
        batch_size = 64
        schedule = { epochs = 10, eps = 0.1, eps_end = 5 }
        [methods.ibp]
        [methods.crown-ibp]
        schedule = { epochs = 20, lr_drops = [10] }
        """
    )
    found = load_varied(str(path), ["defaults.schedule.epochs=20"]).methods
    assert found["ibp"].schedule == Schedule(epochs=20, eps=0.1, eps_end=10)
    assert found["crown-ibp"].schedule == load_recipe(str(path)).methods["crown-ibp"].schedule


def test_a_list_is_changed_entry_by_entry_or_whole():
    path = "methods.ibp.schedule.lr_drops"
    assert load_varied(EARLY, [f"{path}.1=70"]).methods["ibp"].schedule.lr_drops == (60, 70)
    assert load_varied(EARLY, [f"{path}=[5, 6]"]).methods["ibp"].schedule.lr_drops == (5, 6)


@pytest.mark.parametrize("eps", ("8/255", '"8/255"'))
def test_a_fraction_needs_no_quotes(eps):
    found = load_varied(EARLY, [f"eps={eps}", 'eps_values=["8/255"]'])
    assert found.eps == 8 / 255 and found.changed == ('eps = "8/255"', 'eps_values = ["8/255"]')


def test_what_is_set_to_its_own_value_is_no_change():
    assert load_varied(EARLY, ["methods.ibp.batch_size=64", "eps=0.1"]).changed == ()
    assert load_varied(EARLY, ["methods.ibp.batch_size=64", "attack.steps=5"]).changed == ("attack.steps = 5",)
    assert load_varied(EARLY, ["attack.steps=4", "attack.steps=5"]).changed == ("attack.steps = 5",)


MISTAKES = {
    "method": (
        "methods.linf-dits.batch_size=5",
        "methods has linf-dist, linf-dist-mlp, ibp, crown-ibp, not 'linf-dits'",
    ),
    "key of a schedule": (
        "methods.ibp.schedule.epoch=5",
        "digits.toml with methods.ibp.schedule.epoch = 5 [methods.ibp] schedule: unknown key 'epoch'; known: ",
    ),
    "table": ("methods.ibp.course.epochs=5", "unknown key 'course'; known: architecture, augmentation, average"),
    "key of the recipe": ("epss=0.1", "unknown key 'epss'; known: attack, attacks, certificates, dataset"),
    "argument": ("methods.ibp.loss.kapa=1", "loss 'ibp': unknown key 'kapa'; known: kappa"),
    "through a number": ("eps.x=5", "eps.x: eps is no table but 0.1"),
    "entry": (
        "methods.ibp.schedule.lr_drops.2=3",
        "methods.ibp.schedule.lr_drops is a list with entries 0 to 1, not '2'",
    ),
    "type": ("methods.ibp.batch_size=true", "batch_size must be a whole number ≥ 1, got True"),
    "value": ("eps=0.3", "eps_values must contain eps=0.3"),
    "not finite": ("methods.ibp.clip=nan", "clip must be a number ≥ 0, got nan"),
    "no TOML": ("dataset=mine.npz", """the value must be TOML: 5, 0.1, true, [1, 2], or a text in double quotes"""),
    "two lines": ("eps=0.1\nseed=5", "the value must be TOML"),
    "deep": ("eps=" + "[" * 5000, "the value must be TOML"),
    "no value": ("methods.ibp", "must be PATH=VALUE, such as methods.ibp.batch_size=64, got 'methods.ibp'"),
    "no path": ("=5", "must be PATH=VALUE"),
    "no keys": ("a b=5", "must be PATH=VALUE"),
    "deep path": (".".join("a" * 5000) + "=5", "unknown key 'a'; known: attack"),
    "no effect": ("defaults.batch_size=5", "defaults.batch_size = 5 changes nothing"),
    "not a table any more": ("methods=3", "methods must be a table, got 3"),
}


@pytest.mark.parametrize(("setting", "message"), MISTAKES.values(), ids=MISTAKES)
def test_a_wrong_setting_is_named_with_what_exists(setting, message, capsys, tmp_path):
    with pytest.raises(ValueError) as error:
        load_varied(EARLY, [setting])
    assert message in str(error.value) and "--" not in str(error.value)
    assert main(["run", EARLY, "--set", setting, "--out", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err and not (tmp_path / "out").exists()


@pytest.mark.parametrize("epochs", (0, -3, 2**70))
def test_epochs_are_checked_as_those_of_a_file(epochs):
    with pytest.raises(ValueError, match="epochs must be a whole number ≥ 1"):
        load_varied(EARLY, epochs=epochs)


def test_epochs_that_every_setting_overrides_are_refused():
    with pytest.raises(ValueError, match="epochs = 3 changes nothing"):
        load_varied(EARLY, [f"methods.{key}.schedule.epochs=5" for key in DIGITS.methods], epochs=3)


def test_a_folder_tells_what_was_changed():
    assert folder_of(DIGITS) == "digits" and folder_of(load_varied(EARLY, epochs=5)) == "digits-epochs-5"
    found = load_varied(EARLY, ["methods.ibp.batch_size=32", "attack.steps=5"])
    assert folder_of(found) == "digits-ibp.batch_size-32-attack.steps-5"
    many = [load_varied(EARLY, [f"methods.{k}.batch_size={n}" for k in DIGITS.methods]) for n in (8, 9)]
    assert len({folder_of(each) for each in many}) == 2 and all(len(folder_of(each)) < 90 for each in many)


@pytest.mark.parametrize("name", available())
def test_show_prints_a_recipe_as_it_is(name, capfdbinary):
    assert main(["show", name]) == 0
    assert capfdbinary.readouterr().out == available()[name].read_bytes()


def test_show_takes_a_path_and_names_the_recipes(tmp_path, capfdbinary):
    path = tmp_path / "mine.toml"
    path.write_bytes(b"# mine, \xce\xb5\r\neps = 0.1\n")
    assert main(["show", str(path)]) == 0 and capfdbinary.readouterr().out == b"# mine, \xce\xb5\neps = 0.1\n"
    assert main(["show", "digit"]) == 2
    assert b"no recipe or file 'digit'; recipes: cifar10-16-fast, " in capfdbinary.readouterr().err
