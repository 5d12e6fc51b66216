"""The exceptions that mean: not the program is at fault, but its input; and what they may say."""


class InputError(ValueError):
    """Input that cannot be used.

    Its message is one line for the user: it names the file, the record where there is one, and
    the remedy. Commands print it as ``error: ...`` and exit with status 2; assets fail with it.
    """

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


class ResumableError(InputError):
    """What stopped the work may pass: what is finished is kept, and a rerun goes on from there."""


def one_line(text: str) -> str:
    """Return text of foreign origin as it may be shown on a terminal.

    Line breaks and other white space become spaces, what else cannot be printed ``?``: a header,
    a file name or a server's answer may hold control characters.
    """
    if text.isprintable():
        return text
    return "".join(
        letter if letter.isprintable() else " " if letter.isspace() else "?" for letter in text
    )
