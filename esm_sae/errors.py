"""The one exception that means: the input, not the program, is at fault."""


class InputError(ValueError):
    """Input that cannot be used.

    Its message is one line for the user: it names the file, the record where there is one, and
    the remedy. Commands print it as ``error: ...`` and exit with status 2; assets fail with it.
    """
