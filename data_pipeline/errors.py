"""The one error that a user can mend: wrong configuration or bad input."""


class InputError(Exception):
    """Bad input or a wrong configuration.

    The message is one line that names the file, key or record and the mend. The command line prints it
    without a traceback and exits with code 2.
    """


class MissingInputError(InputError):
    """A path of a recipe at which there is nothing, or that cannot be looked at now."""


class TaskError(Exception):
    """Processes or nodes that failed, for no fault of the input. A message as above; exit code 1."""
