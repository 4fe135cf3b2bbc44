"""Every element read once and written once."""

import torch
from torch import Tensor, nn


class TestModel(nn.Module):
    """Change the sign."""

    __test__ = False

    def forward(self, x: Tensor) -> Tensor:
        """Map any shape to the same shape."""
        return torch.neg(x)
