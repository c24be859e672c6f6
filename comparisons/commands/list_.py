"""``linf-compare list``."""

import argparse

SUMMARY = "recipes, methods, data sets and verifiers"
DESCRIPTION = "Lists the recipes, methods, data sets and complete verifiers that `run` accepts."
EPILOG = None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds no arguments."""


def run(args: argparse.Namespace) -> int:
    from linf_plugin.datasets import SOURCES

    from ..methods.kinds import METHODS, certificates_of
    from ..recipes.recipe import available, load_recipe
    from ..report.words import eps_text
    from ..verifiers.complete import COMPLETE

    print("recipes")
    for name in available():
        recipe = load_recipe(name)
        print(f"  {name:16} {recipe.description}")
        print(f"  {'':16} {recipe.dataset}, ε = {eps_text(recipe.eps)}: {', '.join(recipe.methods)}")
    print("methods")
    for kind, method in METHODS.items():
        print(f"  {kind:16} {method.label}; certificates {', '.join(certificates_of(kind))}")
    print("data sets")
    for name, source in SOURCES.items():
        print(f"  {name:16} {'--data-dir with ' + source.files[0] + ' …' if source.files else 'part of scikit-learn'}")
    print(f"  {'your own':16} the path of an .npz file or of a folder of images, in a recipe")
    print("complete verifiers")
    for name, verifier in COMPLETE.items():
        print(f"  {name:16} {verifier.label}; verified is {verifier.proves}")
    return 0
