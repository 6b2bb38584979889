"""Matrix of checkpoint layouts, one ``Case`` per layout."""

from tests.encoders.matrix import hugging_face, other_layouts, resnets, vits

CASES = [*resnets.CASES, *vits.CASES, *other_layouts.CASES, *hugging_face.CASES]
