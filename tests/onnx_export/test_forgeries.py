"""Forged files: none that could change a certificate verifies.  ``python -m forge`` tries them all."""

import forge
import onnx

# Fields of which every one is forged, and not one of each kind: constants, nodes, metadata.
EVERY = (
    "graph/initializer/raw_data: last number",
    "graph/initializer/raw_data: zeros",
    "graph/node/op_type: longer",
    "graph/node/input: reversed",
    "metadata_props/value: empty",
    "metadata_props/value: doubled",
    "metadata_props/unknown field: is there",
)


def test_no_forgery_verifies(tmp_path):
    """One of each kind of field, and what has a meaning of its own one by one; the digest left, recomputed, deleted."""
    seen, forged, why = set(), 0, set()

    def chosen(where, kind):
        new = kind not in seen or kind in EVERY
        seen.add(kind)
        return new

    for name in forge.FILES:
        found = forge.tried(forge.file_of(name, tmp_path), chosen)
        assert found.wrong == []
        forged, why = forged + found.forged, why | found.let_through.keys()
    assert forged >= 700
    assert why == {
        "the order of metadata",
        "the weights of another net, of which the file says what is right",
        "what a file tells of its making: run_",
        "what a file tells of its making: versions",
        "what a file tells of its making: method",
        "what a file tells of its making: dataset",
        "what a file tells of its making: seed",
        "what a file tells of its making: recipe",
        "what a file tells of its making: checkpoint",
        "what a file tells of its making: checkpoint_sha256",
        "the ε at which certified accuracy is recomputed, by the radii, when the file is run",
    }


def test_what_is_never_written_is_forged_too(made):
    kinds = set()
    assert not list(forge.forgeries(onnx.load(made.onnx), lambda where, kind: kinds.add(kind)))
    for kind in (
        "/training_info: one more",
        "graph/sparse_initializer: one more",
        "graph/quantization_annotation: one more",
        "/functions: one more",
        "/unknown field: is there",
        "graph/unknown field: is there",
    ):
        assert kind in kinds
