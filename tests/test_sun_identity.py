"""r_t > 1000 iff 1000 * med_t < m_t in float32: why the massive-activation test needs one compare and no median."""

import pytest
import torch
from probes import from_bits, infinity_bits


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])
def test_quotient_and_product_decide_alike_for_every_pair_of_magnitudes(dtype):
    """All 32,639 (fp16: 31,743) positive finite medians with all as many maxima."""
    maxima = from_bits(range(1, infinity_bits(dtype)), dtype).float()
    quotient, above, below = torch.empty(3, 64, len(maxima)).unbind(0)
    n_above = 0
    for medians in maxima[:, None].split(64):  # 64 rows of 128 KB stay in the cache
        n = len(medians)
        torch.div(maxima, medians, out=quotient[:n])
        torch.gt(quotient[:n], 1000.0, out=above[:n])
        torch.lt(1000.0 * medians, maxima, out=below[:n])
        assert torch.equal(above[:n], below[:n])
        n_above += int(above[:n].sum(dtype=torch.float64))
    assert 0.2 * len(maxima) ** 2 < n_above < 0.5 * len(maxima) ** 2  # both outcomes were tried


def test_for_float32_they_do_not():
    """So every backend counts massive tokens by the quotient and massive elements by the product, as defined."""
    median = torch.tensor(range(0x3F800000, 0x40000000, 5003), dtype=torch.int32).view(torch.float32)
    product = 1000.0 * median
    for peak in (product, product.nextafter(torch.tensor(torch.inf)), product.nextafter(torch.tensor(0.0))):
        if not torch.equal(peak / median > 1000.0, 1000.0 * median < peak):
            return
    raise AssertionError("the identity would hold for float32 too; then it may be used there")
