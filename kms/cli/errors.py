"""What goes wrong for the person at the keyboard."""


class CommandError(Exception):
    """A command cannot do its work; the text is one line, what is wrong and what to do. Never a secret."""
