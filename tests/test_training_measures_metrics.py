import math

import pytest
import torch

from training.measures.metrics import FidelityMeter, energy, entropy, grey, psnr, ssim


def checks(size: int = 32) -> torch.Tensor:
    """A chessboard of single pixels, black and white: [1, 3, size, size]."""
    places = torch.arange(size)
    return ((places[:, None] + places) % 2).float().expand(1, 3, size, size)


def test_psnr_of_a_known_error():
    black = torch.zeros(2, 3, 16, 16)
    other = black.clone()
    other[1] += 0.1
    assert psnr(other, black).tolist() == pytest.approx([99.0, 20.0], abs=1e-4)


def test_ssim_is_one_for_equal_and_small_for_inverted():
    board = checks()
    assert ssim(board, board).item() == pytest.approx(1, abs=1e-5)
    assert ssim(board, 1 - board).item() < -0.9


def test_ssim_agrees_with_scikit_image():
    metrics = pytest.importorskip("skimage.metrics", reason="scikit-image is not installed")
    torch.manual_seed(0)
    a = torch.rand(1, 3, 40, 48)
    b = (a + 0.1 * torch.randn_like(a)).clamp(0, 1)
    theirs = metrics.structural_similarity(
        *(x[0].permute(1, 2, 0).numpy() for x in (a, b)),
        channel_axis=2, data_range=1.0, gaussian_weights=True, sigma=1.5, use_sample_covariance=False,
    )  # fmt: skip
    # Theirs averages the same map without its border of 5 pixels, as ours does by taking no padding.
    assert ssim(a, b).item() == pytest.approx(theirs, abs=1e-4)


def test_energy_of_known_pictures():
    assert energy(torch.full((1, 3, 8, 8), 0.3)).item() == 0
    step = torch.zeros(1, 3, 8, 8)
    step[..., 4:] = 1  # one step of 255 in each of 8 rows
    assert energy(step).item() == pytest.approx(8 * 255**2 / 1e6)
    assert energy(checks(8)).item() == pytest.approx(2 * 8 * 7 * 255**2 / 1e6)


def test_entropy_of_known_pictures():
    assert entropy(torch.full((1, 3, 8, 8), 0.3)).item() == 0
    assert entropy(checks(8)).item() == pytest.approx(math.log(2))
    ramp = (torch.arange(256) / 255).view(1, 1, 16, 16).expand(1, 3, 16, 16)
    assert entropy(ramp).item() == pytest.approx(math.log(256))


def test_grey_is_luma():
    red = torch.zeros(1, 3, 1, 1)
    red[:, 0] = 1
    assert grey(red).item() == pytest.approx(0.299 * 255)


def test_meter_finds_the_worst_frame_and_the_loss_of_sharpness():
    board = checks().repeat(3, 1, 1, 1)
    soft = board.clone()
    soft[2] = 0.25 + 0.5 * board[2]  # half the contrast: a quarter of the energy
    meter = FidelityMeter()
    meter.add(soft[:2], board[:2])
    meter.add(soft[2:], board[2:])
    found = meter.result()
    assert (found.worst_frame, found.frames) == (2, 3)
    assert found.worst_psnr_db == pytest.approx(-10 * math.log10(0.0625), abs=1e-3)
    assert found.energy_ratio == pytest.approx(2.25 / 3)
