"""The digest binds what a file claims to its content."""

import forge
import numpy as np
import onnx
import pytest
from onnx import helper

from onnx_export.files.load import load
from onnx_export.files.seal import DIGEST, content_sha256, props_of
from onnx_export.running.session import run, session

X = np.random.default_rng(0).random((40, 1, 8, 8), np.float32)


def test_claims_are_checked_and_other_files_run(made, tmp_path):
    """Whatever of a claim is left in a file, it must be as it was written."""

    def written(change):
        model = onnx.load(made.onnx)
        change(model)
        onnx.save(model, tmp_path / "net.onnx")
        return tmp_path / "net.onnx"

    def without_metadata(model):
        model.ClearField("metadata_props")

    def without_digest(model):
        helper.set_model_props(model, {k: v for k, v in props_of(model).items() if k != DIGEST})

    def only_the_bound(model):
        helper.set_model_props(model, {"lipschitz": "1"})
        del model.graph.output[2:]

    for change in (without_metadata, without_digest, only_the_bound):
        with pytest.raises(ValueError, match="has no digest that binds the claim to its content"):
            session(written(change), "cpu")

    def twice(model):
        model.metadata_props.add(key=DIGEST, value="0")

    with pytest.raises(ValueError, match="'content_sha256' are there 2 times"):
        session(written(twice), "cpu")

    def foreign(model):
        without_metadata(model)
        del model.graph.output[2:]

    assert len(run(session(written(foreign), "cpu"), X)) == 2


def test_the_digest_does_not_depend_on_where_weights_lie(beside, made):
    path, *_ = beside
    model = load(path)
    assert props_of(model)[DIGEST] == content_sha256(model)
    model = onnx.load(made.onnx)
    digests = {
        content_sha256(f.model)
        for f in forge.forgeries(
            model, lambda where, kind: kind.startswith("graph/initializer/") and where[-1] != "data_location"
        )
    }
    assert len(digests) > 100 and content_sha256(model) not in digests
