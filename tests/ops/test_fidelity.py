"""PSNR and SSIM against their definitions."""

import jax.numpy as jnp
import numpy as np
import pytest

from unitoken_jax.ops import fidelity


@pytest.fixture
def pair():
    rng = np.random.default_rng(0)
    a = rng.uniform(-1, 1, (3, 16, 14, 3)).astype(np.float32)
    b = np.clip(a + rng.normal(0, 0.2, a.shape), -1, 1).astype(np.float32)
    return a, b


def test_psnr_of_a_constant_error_is_known():
    a = jnp.zeros((2, 4, 4, 3))
    # An error of 0.2 in a span of 2 is a tenth: 20 dB.
    np.testing.assert_allclose(fidelity.psnr(a, a + 0.2), [20, 20], rtol=1e-5)
    np.testing.assert_allclose(fidelity.psnr(a, a), [100, 100])
    unit = fidelity.psnr(a, a + 0.1, span=1.0)
    np.testing.assert_allclose(unit, [20, 20], rtol=1e-5)


def test_ssim_equals_the_sum_over_windows(pair):
    a, b = pair
    offset = np.arange(11) - 5
    line = np.exp(-(offset**2) / (2 * 1.5**2))
    window = np.outer(line, line)
    window /= window.sum()
    c1, c2 = (0.01 * 2) ** 2, (0.03 * 2) ** 2
    expected = np.zeros(3)
    for n in range(3):
        values = []
        for c in range(3):
            for y in range(16 - 10):
                for x in range(14 - 10):
                    p = a[n, y : y + 11, x : x + 11, c].astype(np.float64)
                    q = b[n, y : y + 11, x : x + 11, c].astype(np.float64)
                    mp, mq = (window * p).sum(), (window * q).sum()
                    vp = (window * (p - mp) ** 2).sum()
                    vq = (window * (q - mq) ** 2).sum()
                    cov = (window * (p - mp) * (q - mq)).sum()
                    values.append(
                        (2 * mp * mq + c1)
                        * (2 * cov + c2)
                        / ((mp**2 + mq**2 + c1) * (vp + vq + c2))
                    )
        expected[n] = np.mean(values)
    np.testing.assert_allclose(fidelity.ssim(a, b), expected, atol=2e-5)


def test_ssim_of_itself_is_one_and_it_is_symmetric(pair):
    a, b = pair
    np.testing.assert_allclose(fidelity.ssim(a, a), np.ones(3), atol=1e-5)
    np.testing.assert_allclose(fidelity.ssim(a, b), fidelity.ssim(b, a), atol=1e-6)
    assert (np.asarray(fidelity.ssim(a, b)) < 1).all()


def test_pictures_smaller_than_the_window_are_refused():
    with pytest.raises(ValueError, match="11 pixels a side"):
        fidelity.ssim(jnp.zeros((1, 10, 16, 3)), jnp.zeros((1, 10, 16, 3)))
