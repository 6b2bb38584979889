"""The errors a person can cause or mend, and the exit code that each one ends a command with.

Code below ``cli`` raises these and never prints or exits. A message says what is wrong, where, what was
given and what to do, in one or two sentences: ``cli`` shows it as it stands, without a traceback.
"""


class RcdmError(Exception):
    """Something failed that no change of the input would mend (exit code 1)."""

    exit_code = 1


class InputError(RcdmError):
    """A wrong option, recipe, file or image: the person can mend it (exit code 2)."""

    exit_code = 2


class CheckFailed(RcdmError):
    """A check that was asked for did not hold: parity, a gate, doctor (exit code 3)."""

    exit_code = 3


class Interrupted(RcdmError):
    """The person or the batch system asked to stop; what was done so far is kept (exit code 130)."""

    exit_code = 130
