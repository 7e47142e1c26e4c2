"""A causal convolution whose taps are made from the text: Gu et al. 2025, "Jet-Nemotron", arXiv 2508.15884."""

from torch import Tensor, nn

from jetblock import ops


class KernelGenerator(nn.Module):
    """The two projections that make taps."""

    def __init__(self, input_size: int, hidden_size: int, output_size: int) -> None:
        super().__init__()
        self.w1 = nn.Linear(input_size, hidden_size, bias=False)
        self.w2 = nn.Linear(hidden_size, output_size)


class DynamicConvolutionKernel(nn.Module):
    """`y[t] = silu(sum over k of w[t, k] x[t - (K - 1) + k])`, `w[t] = w2(silu(w1(u[t])))`: K taps for each channel.

    Parameters have the names and layout of Jet-Nemotron's `DynamicShortConvolution`: `kernel_generator.w1`, `.w2`.

    >>> import torch
    >>> convolution = DynamicConvolutionKernel(hidden_size=16, kernel_size=4)
    >>> x = torch.randn(1, 5, 16)
    >>> whole, _ = convolution(x)
    >>> first, state = convolution(x[:, :4])
    >>> torch.equal(convolution(x[:, 4:], state=state)[0], whole[:, 4:])
    True
    """

    def __init__(
        self,
        hidden_size: int,
        kernel_size: int,
        generator_input_size: int | None = None,
        generator_reduction: int = 8,
    ) -> None:
        super().__init__()
        self.hidden_size = hidden_size
        self.kernel_size = kernel_size
        generator_hidden_size = max(hidden_size // generator_reduction, 1)
        self.kernel_generator = KernelGenerator(
            generator_input_size or hidden_size, generator_hidden_size, hidden_size * kernel_size
        )

    def forward(
        self, x: Tensor, generator_input: Tensor | None = None, state: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Convolves.

        Args:
            x: `[B, T, D]`.
            generator_input: What the taps are made from, `[B, T, G]`; x where not given.
            state: The K - 1 inputs before, oldest first, `[B, K - 1, D]`; zeros where not given.

        Returns:
            `[B, T, D]`, and the state after the last token in f32.
        """
        taps = self.taps(x if generator_input is None else generator_input)
        return ops.dynamic_causal_conv1d(x, taps, initial_state=state)

    def taps(self, generator_input: Tensor) -> Tensor:
        """The taps of each token, `[B, T, K, D]`."""
        w1, w2 = self.kernel_generator.w1, self.kernel_generator.w2
        flat = ops.linear(ops.silu(ops.linear(generator_input, w1.weight)), w2.weight, w2.bias)
        return flat.unflatten(-1, (self.hidden_size, self.kernel_size)).transpose(2, 3).contiguous()

    def extra_repr(self) -> str:
        """Its sizes."""
        return f"hidden_size={self.hidden_size}, kernel_size={self.kernel_size}"
