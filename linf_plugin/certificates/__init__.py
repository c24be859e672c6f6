"""What is proved of a net's predictions.  Importing this needs no auto_LiRPA."""

from .cascade import CERTIFICATES, Certificate, certify, certify_each, margin_bound
from .lipschitz import sound_radius
from .margin import certified_radius, margin

__all__ = [
    "CERTIFICATES",
    "Certificate",
    "certified_radius",
    "certify",
    "certify_each",
    "margin",
    "margin_bound",
    "sound_radius",
]
