"""Matrix of checkpoint layouts, one ``Case`` per layout."""

from tests.encoders.matrix import hugging_face, more_resnets, more_vits, other_layouts, resnets, vits

CASES = [
    *resnets.CASES,
    *more_resnets.CASES,
    *vits.CASES,
    *more_vits.CASES,
    *other_layouts.CASES,
    *hugging_face.CASES,
]
