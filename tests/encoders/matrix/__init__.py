"""Matrix of checkpoint layouts, one ``Case`` per layout."""

from tests.encoders.matrix import hugging_face, resnets

CASES = [*resnets.CASES, *hugging_face.CASES]
