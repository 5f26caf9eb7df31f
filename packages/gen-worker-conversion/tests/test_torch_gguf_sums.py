"""Sums of groups: in order, value after value, whichever way torch would rather add."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from gen_worker.conversion.gguf.k_fits import add_up, sum_in_order  # noqa: E402


@pytest.mark.parametrize("values", [1, 8, 16, 17, 32, 33, 256])
@pytest.mark.parametrize("groups", [1, 7, 64, 100, 640, 4096])
def test_values_are_added_one_after_the_other(values: int, groups: int) -> None:
    generator = torch.Generator().manual_seed(values * groups)
    term_GN = torch.randn(values, groups, generator=generator).exp()
    before_GN = term_GN.clone()
    wanted_N = term_GN[0].clone()
    for term_N in term_GN[1:]:
        wanted_N += term_N

    assert torch.equal(sum_in_order(term_GN), wanted_N)
    assert torch.equal(term_GN, before_GN)
    assert torch.equal(sum_in_order(term_GN.T.contiguous().T), wanted_N)  # not in one piece
    assert torch.equal(add_up(term_GN), wanted_N)


def test_another_order_gives_another_sum() -> None:
    """Else the test above shows nothing."""
    term_GN = torch.randn(32, 4096, generator=torch.Generator().manual_seed(0)).exp()
    assert not torch.equal(sum_in_order(term_GN), sum_in_order(term_GN.flip(0)))
