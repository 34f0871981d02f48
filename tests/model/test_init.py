"""Initial values of the time-aware SSM."""

import numpy as np
import torch

from ss4rec.config import ModelConfig
from ss4rec.model.init import LECUN_SHRINK, hippo_normal_eigen, lecun_normal
from ss4rec.model.time_ssm import TimeSSM


def test_eigenvectors_diagonalise_the_normal_part_of_hippo():
    values, vectors = (x.numpy() for x in hippo_normal_eigen(8))
    normal = np.empty((8, 8))
    for n in range(8):
        for k in range(8):
            corner = np.sqrt((n + 0.5) * (k + 0.5))
            hippo = -2 * corner if n > k else -(n + 1.0) if n == k else 0.0
            normal[n, k] = hippo + corner
    np.testing.assert_allclose(vectors @ np.diag(values) @ vectors.conj().T, normal, atol=1e-10)
    np.testing.assert_allclose(values.real, -0.5)
    np.testing.assert_allclose(values.imag, -values.imag[::-1], atol=1e-10)


def test_lecun_normal_has_the_deviation_that_the_published_model_starts_from():
    torch.manual_seed(0)
    values = lecun_normal(200, 200, fan_in=4)
    assert abs(float(values.std()) * 2 - 0.7737) < 0.01
    assert float(values.abs().max()) <= LECUN_SHRINK


def test_input_matrix_is_real_in_the_original_basis():
    _, vectors = hippo_normal_eigen(6)
    halves = TimeSSM(ModelConfig(dim=5, time_states=6)).input_2PD.detach().double()
    original = vectors @ torch.complex(halves[:6], halves[6:])
    torch.testing.assert_close(original.imag, torch.zeros(6, 5, dtype=torch.float64), rtol=0, atol=1e-6)
    assert float(original.real.std()) > 0.1
