"""OpenVINO's core, of which a process has one."""

import functools
from typing import Any


@functools.cache
def core() -> Any:
    """The ``openvino.Core`` of this process; it stays to the end.

    A core gives the thread that makes it another stack for signal handlers, and puts the one of before in its place
    when it goes. Of two that go in the order in which they came, the second puts in place the first one's, which is no
    longer there: the next signal, such as that of Ctrl-C or of a worker that ends, is a segmentation fault then
    (OpenVINO 2026.4).
    """
    import openvino

    return openvino.Core()
