"""Matrix of checkpoint layouts, one ``Case`` per layout."""

from tests.encoders.matrix import resnets

CASES = [*resnets.CASES]
