"""A run that failed, as opposed to one that was asked for wrongly (data_pipeline.errors.InputError)."""


class RunError(Exception):
    """A failure while running. One line that says what happened and what to do; exit code 1."""


class AskedToEnd(BaseException):
    """A signal asked the process to end. Like KeyboardInterrupt, nothing that handles failures may swallow it."""


ASKED_TO_END = 75
"""Exit code of a run that was asked to end by a signal, and has saved: the same command goes on with it.

It is that of sysexits.h for "try again later", so that a job script can tell it from an end and from a failure.
"""
