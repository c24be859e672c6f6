"""Asks ``exact_radius`` whether a class changes within a distance.  ``child.Child`` runs this file by itself."""

from linf_plugin.certificates.exact.radius import ExactRadius, exact_radius
from linf_plugin.certificates.exact.steps import steps_of


def answer(question: dict) -> ExactRadius | None:
    """Returns what ``exact_radius`` proves about a distance.

    Args:
        question: the arguments of ``exact_radius`` by name, with decide.  With only model and x, it is checked that the
            model can be written as exact steps, and None is returned.
    """
    if question.keys() == {"model", "x"}:
        steps_of(question["model"], tuple(question["x"].shape))
        return None
    return exact_radius(**question)
