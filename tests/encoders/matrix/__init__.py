"""Matrix of checkpoint layouts, one ``Case`` per layout."""

from tests.encoders.matrix import hugging_face, resnets, vits

CASES = [*resnets.CASES, *vits.CASES, *hugging_face.CASES]
