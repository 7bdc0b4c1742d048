"""A run that failed, as opposed to one that was asked for wrongly (data_pipeline.errors.InputError)."""


class RunError(Exception):
    """A failure while running. One line that says what happened and what to do; exit code 1."""
