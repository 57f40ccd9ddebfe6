"""Matrix products through OpenBLAS: the same mathematics as torch's own, for every shape, stride, type and transform."""

import numpy as np
import pytest
import torch

from reprise import products

DOUBLE = dict(dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def replaced():
    products.through_openblas()


def naive(a, b):
    return (a[..., :, :, None] * b[..., None, :, :]).sum(-2)


@pytest.mark.parametrize("left", ["plain", "transposed", "strided", "broadcast"])
@pytest.mark.parametrize("right", ["plain", "transposed", "strided", "broadcast"])
def test_every_way_a_matrix_can_lie_in_memory(left, right):
    def lay(rows, columns, how):
        if how == "transposed":
            return torch.randn(5, columns, rows, **DOUBLE).transpose(1, 2)
        if how == "strided":
            return torch.randn(5, 2 * rows, 3 * columns, **DOUBLE)[:, ::2, ::3]
        if how == "broadcast":
            return torch.randn(5, rows, 1, **DOUBLE).expand(5, rows, columns)
        return torch.randn(5, rows, columns, **DOUBLE)

    a, b = lay(4, 6, left), lay(6, 3, right)
    torch.testing.assert_close(torch.bmm(a, b), naive(a, b))
    torch.testing.assert_close(a[0] @ b[0], naive(a[0], b[0]))


def test_strides_do_not_change_the_bits():
    a, b = torch.randn(9, 70, **DOUBLE).float(), torch.randn(70, 50, **DOUBLE).float()
    spread = torch.zeros(18, 210)
    spread[::2, ::3] = a
    assert torch.equal(spread[::2, ::3] @ b, a @ b)


@pytest.mark.parametrize("alpha, beta", [(1, 1), (2, 1), (1, 0), (0.5, -3)])
def test_addition_with_weights(alpha, beta):
    c, a, b = torch.randn(3, **DOUBLE), torch.randn(2, 4, **DOUBLE), torch.randn(4, 3, **DOUBLE)
    if beta == 0:
        c = torch.full_like(c, torch.nan)
    expected = alpha * naive(a, b) + (beta * c if beta else 0)
    torch.testing.assert_close(torch.addmm(c, a, b, alpha=alpha, beta=beta), expected)
    torch.testing.assert_close(torch.baddbmm(c, a[None], b[None], alpha=alpha, beta=beta)[0], expected)


@pytest.mark.parametrize("shape", [(0, 3, 2), (3, 0, 2), (1, 1, 1), (1, 5, 1)])
def test_empty_and_thin(shape):
    i, j, k = shape
    a, b = torch.ones(i, j), torch.ones(j, k)
    assert torch.equal(a @ b, torch.full((i, k), float(j)))


@pytest.mark.parametrize("dtype", [torch.int64, torch.float16, torch.bfloat16, torch.complex64])
def test_other_types(dtype):
    a, b = torch.arange(6).reshape(2, 3).to(dtype), torch.arange(6).reshape(3, 2).to(dtype)
    assert torch.equal((a @ b).to(torch.complex64), naive(a, b).to(torch.complex64)) and (a @ b).dtype == dtype
    if dtype.is_complex:
        torch.testing.assert_close((1j * a).conj() @ b, naive((1j * a).conj().resolve_conj(), b))


def test_gradients_first_and_second():
    leaves = [torch.randn(*shape, **DOUBLE).requires_grad_() for shape in ((3, 4), (4, 2), (2,))]
    function = lambda a, b, c: torch.addmm(c, a, b, alpha=2).tanh() @ b.T  # noqa: E731
    assert torch.autograd.gradcheck(function, leaves) and torch.autograd.gradgradcheck(function, leaves)


def test_vmap_is_the_loop():
    w, x = torch.randn(5, 4, 3, **DOUBLE), torch.randn(7, 4, **DOUBLE)
    gradient = torch.func.grad(lambda w: (x @ w).square().sum())
    torch.testing.assert_close(torch.func.vmap(gradient)(w), torch.stack([gradient(each) for each in w]))


def test_it_is_openblas():
    a, b = (torch.randn(70, 70, generator=torch.Generator().manual_seed(i)) for i in (1, 2))
    assert np.array_equal((a @ b).numpy(), np.matmul(a.numpy(), b.numpy()))
