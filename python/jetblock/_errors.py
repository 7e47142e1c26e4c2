"""The exceptions, here so that the compiled module can import them."""


class JetBlockError(Exception):
    """Anything that JetBlock cannot do; the message says what was expected and what was found."""


class ModelError(JetBlockError):
    """A model folder or file cannot be opened or read."""


class ArgumentError(JetBlockError, ValueError):
    """An argument has a value, shape or dtype that cannot be."""


class UncoveredOperatorError(JetBlockError):
    """In strict deterministic mode: an operator that the contract does not cover.

    Attributes:
        operator: As in `torch.ops`, such as `aten.randn`.
        site: The line of Python that called it.
    """

    def __init__(self, operator: str, detail: str, site: str) -> None:
        super().__init__(
            f"{operator}{detail} is not covered by the contract, called at {site};"
            " jetblock.deterministic(strict=False) would leave it to PyTorch and list it"
        )
        self.operator = operator
        self.site = site
