import math

import numpy as np
import pytest
import torch
import torchmetrics.functional.image as oracle

from pluriform.errors import ShapeError
from pluriform.metrics.images import psnr_terms, ssim_terms


def pair(shape=(4, 3, 24, 19), seed=0):
    generator = torch.Generator().manual_seed(seed)
    truth = torch.rand(shape, generator=generator)
    return (truth + 0.1 * torch.randn(shape, generator=generator)).clamp(0, 1), truth


def test_psnr_of_a_known_error():
    truth = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    assert psnr_terms(truth + 0.1, truth).tolist() == pytest.approx([20.0] * 3, abs=1e-4)
    assert psnr_terms(255 * (truth + 0.1), 255 * truth, 255).tolist() == pytest.approx([20.0] * 3, abs=1e-4)
    assert psnr_terms(truth, truth).tolist() == [math.inf] * 3


def test_psnr_and_ssim_agree_with_torchmetrics():
    images, truth = pair()
    wanted = oracle.peak_signal_noise_ratio(images, truth, data_range=1.0, reduction="none", dim=(1, 2, 3))
    torch.testing.assert_close(psnr_terms(images, truth).float(), wanted)
    _, local = oracle.structural_similarity_index_measure(
        images.double(), truth.double(), data_range=1.0, reduction="none", return_full_image=True
    )
    # torchmetrics pads by reflection; ours are the places where the window fits.
    torch.testing.assert_close(ssim_terms(images, truth), local[..., 5:-5, 5:-5].mean((1, 2, 3)), rtol=1e-6, atol=1e-9)


def test_ssim_by_hand():
    images, truth = (side[:1, :1, :11, :11].double().numpy()[0, 0] for side in pair())
    line = np.exp(-((np.arange(11) - 5) ** 2) / (2 * 1.5**2))
    weights = np.outer(line, line) / line.sum() ** 2
    mean1, mean2 = (weights * images).sum(), (weights * truth).sum()
    variance1, variance2 = ((weights * (side - m) ** 2).sum() for side, m in ((images, mean1), (truth, mean2)))
    covariance = (weights * (images - mean1) * (truth - mean2)).sum()
    wanted = (2 * mean1 * mean2 + 1e-4) * (2 * covariance + 9e-4)
    wanted /= (mean1**2 + mean2**2 + 1e-4) * (variance1 + variance2 + 9e-4)
    found = ssim_terms(*(torch.from_numpy(side)[None, None] for side in (images, truth)))
    assert float(found[0]) == pytest.approx(wanted, rel=1e-9)


def test_ssim_of_equal_and_of_small_images():
    images, truth = pair((2, 3, 4, 6))
    assert ssim_terms(truth, truth).tolist() == pytest.approx([1.0, 1.0])
    assert (ssim_terms(images, truth) < 1).all()


def test_shapes_must_agree():
    with pytest.raises(ShapeError, match="images of shape .2, 3, 4, 4., as the truth"):
        psnr_terms(torch.zeros(2, 3, 4, 5), torch.zeros(2, 3, 4, 4))
