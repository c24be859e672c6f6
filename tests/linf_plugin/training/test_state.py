"""States that are not of this run, or not whole: refused, and the message says why."""

import math
import os

import pytest
import torch

from linf_plugin import build, checkpoint
from linf_plugin.training import Schedule, adam, clipped_hinge, fit
from linf_plugin.training.state import differences

X, Y = torch.rand(40, 1, 3, 3), torch.arange(40) % 2
IDENTITY = {"recipe": {"eps": 0.1, "methods": {"decay": 0.0}}, "seed": 3}


def run(path, resume=True, width=6, depth=2, lr=0.05, betas=(0.9, 0.99), schedule=None, images=40, first=0, **options):
    model = build("linf-mlp", shape=(1, 3, 3), classes=2, width=width, depth=depth)
    settings = {"batch_size": 10, "identity": IDENTITY, "seed": 0} | options
    fit(
        model,
        lambda net, x, y, step: clipped_hinge(net(x), y, 0.1, 0.1),
        adam(model, lr, betas=betas),
        schedule or Schedule(epochs=2, eps=0.1, p_end=1.5),
        X[first:][:images],
        Y[first:][:images],
        state_path=path,
        resume=resume,
        progress=False,
        **settings,
    )
    return model


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    path = tmp_path_factory.mktemp("state") / "state.pt"
    run(path, resume=False)
    return path.read_bytes()


@pytest.fixture
def path(tmp_path, whole):
    path = tmp_path / "state.pt"
    path.write_bytes(whole)
    return path


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"width": 7}, ["model.2.weight: (6, 9) torch.float32 there, (7, 9) torch.float32 here"]),
        ({"depth": 3}, ["model.6.weight: none there, (2, 6) torch.float32 here"]),
        ({"lr": 0.04}, ["optimizer.groups[0].lr: 0.05 there, 0.04 here"]),
        ({"betas": (0.8, 0.99)}, ["optimizer.groups[0].betas[0]: 0.9 there, 0.8 here"]),
        ({"schedule": Schedule(epochs=3, eps=0.1, p_end=1.0)}, ["schedule.epochs: 2 there, 3 here", "e.p_end"]),
        ({"batch_size": 8}, ["batch_size: 10 there, 8 here"]),
        ({"seed": 1}, ["seed: 0 there, 1 here"]),
        ({"images": 39}, ["samples: 40 there, 39 here"]),
        ({"first": 1}, ["labels: "]),
        ({"average": 0.5}, ["average: 0.0 there, 0.5 here"]),
        ({"budget": 60.0}, ["budget: none there, 60.0 here"]),
        ({"validate": lambda model: {"certified": 0}}, ["validated: False there, True here"]),
        ({"identity": {**IDENTITY, "seed": 4}}, ["identity.seed: 3 there, 4 here"]),
        (
            {"identity": {"recipe": {"eps": 0.1, "methods": {"decay": 0.5}}, "seed": 3}},
            ["identity.recipe.methods.decay: 0.0 there, 0.5 here"],
        ),
        ({"identity": None}, ["identity: {'recipe'"]),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_state_of_other_settings_is_refused_by_what_differs(change, words, path):
    with pytest.raises(ValueError, match="state.pt belongs to another run") as error:
        run(path, **change)
    assert all(word in str(error.value) for word in words), error.value
    assert "batch_size" in change or "batch_size" not in str(error.value)  # nothing else is named


def test_the_same_settings_go_on(path, whole):
    run(path)
    assert path.read_bytes() == whole


def test_other_images_are_refused(path, monkeypatch):
    monkeypatch.setitem(globals(), "X", X.flip(2))
    with pytest.raises(ValueError, match="state.pt belongs to another run: images: [0-9a-f]{16}… there, [0-9a-f]{16}"):
        run(path)


def test_a_state_without_a_digest_of_the_images_goes_on_with_a_word(path):
    content = checkpoint.read(path)
    del content["settings"]["images"]
    checkpoint.write(path, content)
    with pytest.warns(UserWarning, match="state.pt was written by a version that kept no digest of the images"):
        run(path)


def test_a_run_whose_p_has_changed_goes_on(tmp_path, monkeypatch):
    """The text of p in a layer's state then has another length than in a new net."""
    path, write, written = tmp_path / "state.pt", checkpoint.write, []
    monkeypatch.setattr(checkpoint, "write", lambda p, content: (write(p, content), written.append(p.read_bytes()))[0])
    schedule = Schedule(epochs=3, eps=0.1, p_first=8, p_last=1000, p_end=3.0)
    torch.manual_seed(1)
    whole = run(path, resume=False, schedule=schedule)
    monkeypatch.undo()
    path.write_bytes(written[0])
    for name, a in run(path, schedule=schedule).state_dict().items():
        assert torch.equal(a, whole.state_dict()[name])


@pytest.mark.parametrize("part", (0.0, 0.3, 0.9, 0.999))
def test_a_truncated_state_is_refused(part, path, whole):
    path.write_bytes(whole[: int(part * len(whole))])
    with pytest.raises(ValueError, match="state.pt is not a readable checkpoint"):
        run(path)


def test_code_in_a_state_does_not_run(path, tmp_path):
    class Harm:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "harm"),)

    sealed = torch.load(path, weights_only=True)
    for place in (sealed, sealed["content"], sealed["content"]["parts"]):
        place["harm"] = Harm()
        torch.save(sealed, path)
        with pytest.raises(ValueError, match="state.pt is not a readable checkpoint"):
            run(path)
        del place["harm"]
    assert not (tmp_path / "harm").exists()


def test_an_edited_state_is_refused(path):
    sealed = torch.load(path, weights_only=True)
    sealed["content"]["parts"]["model"]["2.weight"][0, 0] += 1
    torch.save(sealed, path)
    with pytest.raises(ValueError, match="state.pt was damaged or changed"):
        run(path)


def _model_is_missing(content):
    del content["parts"]["model"]


def _weight_is_missing(content):
    del content["parts"]["model"]["2.weight"]


def _shape_is_another(content):
    content["parts"]["model"]["2.weight"] = torch.ones(2)


def _best_is_another(content):
    content["best"] = {"epoch": 1}


def _history_is_none(content):
    content["history"] = None


def _settings_are_no_table(content):
    content["settings"] = "{"


def _kind_is_another(content):
    content["kind"] = "something else"


@pytest.mark.parametrize(
    "change",
    [
        _model_is_missing,
        _weight_is_missing,
        _shape_is_another,
        _best_is_another,
        _history_is_none,
        _settings_are_no_table,
        _kind_is_another,
    ],
)
def test_a_state_with_other_content_and_the_digest_of_it_is_refused(change, path):
    content = checkpoint.read(path)
    change(content)
    checkpoint.write(path, content)
    with pytest.raises(ValueError, match="state.pt"):
        run(path)


def test_a_model_is_no_state(path):
    checkpoint.save(path, build("linf-mlp", shape=(1, 3, 3), classes=2, width=6, depth=2))
    with pytest.raises(ValueError, match="state.pt is not the state of a training run"):
        run(path)


@pytest.mark.parametrize(
    ("theirs", "ours", "lines"),
    [
        ({}, {}, []),
        ({"a": [1, {"b": 2}]}, {"a": [1, {"b": 2}]}, []),
        ({"a": [1, {"b": 2}]}, {"a": [1, {"b": 3}]}, ["a[1].b: 2 there, 3 here"]),
        ({"a": [1]}, {"a": [1, 2]}, ["a: [1] there, [1, 2] here"]),
        ({"a": 1}, {"b": 1}, ["a: 1 there, none here", "b: none there, 1 here"]),
        ({"a": {"b": 1}}, {"a": 1}, ["a: {'b': 1} there, 1 here"]),
        ({"p": math.inf}, {"p": math.inf}, []),
    ],
)
def test_differences(theirs, ours, lines):
    assert differences(theirs, ours) == lines
