"""Trains, certifies, attacks and compares ℓ∞-distance nets and their rivals."""

from onnx_export.late import former_modules

former_modules(__name__)
