"""The exceptions, here so that the compiled module can import them."""


class JetBlockError(Exception):
    """Anything that JetBlock cannot do; the message says what was expected and what was found."""


class ModelError(JetBlockError):
    """A model folder or file cannot be opened or read."""


class ArgumentError(JetBlockError, ValueError):
    """An argument has a value, shape or dtype that cannot be."""
