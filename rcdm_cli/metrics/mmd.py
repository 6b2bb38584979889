"""How far two sets of representations lie apart, without a Gaussian fitted to them."""

import torch
from torch import Tensor


def mmd(first: Tensor, second: Tensor, *, chunk: int = 4096) -> float:
    """Unbiased squared maximum mean discrepancy under ``(x·y / D + 1)³``.

    Bińkowski et al. 2018 (arXiv:1801.01401), section 4: in an Inception space this is the KID, there a mean over
    subsets, here over all vectors at once. Unlike the Fréchet distance its expectation does not depend on the sizes of
    the sets; near 0 it can be negative.

    Args:
        first: (N, D), N at least 2.
        second: (M, D), M at least 2.
        chunk: vectors compared at a time; bounds memory at chunk × max(N, M).
    """
    x, y = first.double(), second.double()
    n, m = len(x), len(y)
    within_x = (_sum(x, x, chunk) - float(_kernel(x.square().sum(dim=1), x.shape[1]).sum())) / (n * (n - 1))
    within_y = (_sum(y, y, chunk) - float(_kernel(y.square().sum(dim=1), y.shape[1]).sum())) / (m * (m - 1))
    return within_x + within_y - 2 * _sum(x, y, chunk) / (n * m)


def _kernel(product: Tensor, width: int) -> Tensor:
    return (product / width + 1) ** 3


def _sum(x: Tensor, y: Tensor, chunk: int) -> float:
    return sum(float(_kernel(torch.mm(part, y.T), x.shape[1]).sum()) for part in x.split(chunk))
