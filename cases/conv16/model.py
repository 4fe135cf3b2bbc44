"""The network of the thread (https://forums.developer.nvidia.com/t/253924) as its author wrote it.

The kit builds its ONNX without torch; a test exports this module and proves both equal.
"""

from torch import Tensor, nn


class TestModel(nn.Module):
    """Three convolutions without activation."""

    __test__ = False  # Not a test of pytest's, in spite of the thread's name for it.

    def __init__(self, n_feats: int = 16, kernel_size: int = 3, *, bias: bool = True) -> None:
        super().__init__()
        padding = kernel_size // 2
        self.conv1 = nn.Conv2d(n_feats, n_feats, kernel_size, padding=padding, bias=bias)
        self.conv2 = nn.Conv2d(n_feats, n_feats, kernel_size, padding=padding, bias=bias)
        self.conv3 = nn.Conv2d(n_feats, n_feats, kernel_size, padding=padding, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map [1, n_feats, height, width] to the same shape."""
        x = self.conv1(x)
        x = self.conv2(x)
        return self.conv3(x)


class Stack(nn.Module):
    """The same with any number of layers and channels, as the case's variants have it."""

    def __init__(self, channels: tuple[int, ...], kernel_size: int = 3, *, bias: bool = True) -> None:
        super().__init__()
        self.layers = len(channels) - 1
        for i in range(self.layers):
            layer = nn.Conv2d(channels[i], channels[i + 1], kernel_size, padding=kernel_size // 2, bias=bias)
            self.add_module(f"conv{i + 1}", layer)

    def forward(self, x: Tensor) -> Tensor:
        """Map [1, channels[0], height, width] to [1, channels[-1], height, width]."""
        for i in range(self.layers):
            x = self.get_submodule(f"conv{i + 1}")(x)
        return x
