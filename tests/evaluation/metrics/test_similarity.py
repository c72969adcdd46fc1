import math
from io import BytesIO

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import Tensor

from pikavae.evaluation.metrics.similarity import ms_ssim, mse, psnr, ssim, ssim_window
from tests.support import places

EMOJI = places.EMOJI / "validation.parquet"


def random_pair(*shape: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(shape, generator=generator) * 2 - 1
    return (images + 0.3 * torch.randn(shape, generator=generator)).clamp(-1, 1), images


def drawn_pair() -> tuple[Tensor, Tensor]:
    """Flat areas, an edge and a ramp, as drawings have them; the other is a shifted copy."""
    x = torch.linspace(-1, 1, 40).expand(3, 32, 40).clone()
    x[:, 10:20, 5:30] = torch.tensor([1.0, -0.5, 0.2])[:, None, None]
    x[:, :8] = 1.0
    return x.roll(1, dims=2)[None], x[None]


def real_pairs() -> tuple[Tensor, Tensor]:
    """Real pictures, and copies that went through JPEG."""
    if not EMOJI.is_file():
        pytest.skip("the emoji pictures are not beside this checkout")
    import pyarrow.parquet
    from PIL import Image

    cells = pyarrow.parquet.read_table(EMOJI, columns=["image"])["image"].slice(0, 3).to_pylist()
    images, copies = [], []
    for cell in cells:
        picture = Image.open(BytesIO(cell["bytes"])).convert("RGB").resize((96, 96))
        packed = BytesIO()
        picture.save(packed, format="JPEG", quality=20)
        images.append(np.array(picture))
        copies.append(np.array(Image.open(packed)))
    both = [torch.from_numpy(np.stack(x)).permute(0, 3, 1, 2).float() / 127.5 - 1 for x in (copies, images)]
    return both[0], both[1]


def reference_ssim(x: Tensor, y: Tensor) -> float:
    """scikit-image on [0, 1] in float64: (3, H, W) pictures in [-1, 1]."""
    return float(
        structural_similarity(
            *(0.5 * (image.double().numpy() + 1) for image in (x, y)),
            data_range=1.0,
            channel_axis=0,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
        )
    )


@pytest.mark.parametrize(
    "pair", [lambda: random_pair(3, 3, 16, 24), lambda: random_pair(2, 3, 11, 11), drawn_pair, real_pairs]
)
def test_ssim_and_psnr_agree_with_scikit_image(pair):
    reconstructions, images = pair()
    expected = [reference_ssim(x, y) for x, y in zip(reconstructions, images, strict=True)]
    torch.testing.assert_close(ssim(reconstructions, images), torch.tensor(expected).double(), rtol=1e-6, atol=0)
    expected = [
        peak_signal_noise_ratio(y.double().numpy(), x.double().numpy(), data_range=2.0)
        for x, y in zip(reconstructions, images, strict=True)
    ]
    torch.testing.assert_close(psnr(reconstructions, images), torch.tensor(expected).double(), rtol=1e-9, atol=0)


def test_ssim_of_two_flat_pictures_is_their_luminance_term():
    black, grey = torch.full((1, 3, 16, 16), -1.0), torch.zeros(1, 3, 16, 16)
    assert ssim(black, grey).item() == pytest.approx(1e-4 / (0.5**2 + 1e-4), rel=1e-6)
    assert ssim(black, grey).item() == pytest.approx(reference_ssim(black[0], grey[0]), rel=1e-6)
    assert ssim(grey, grey).item() == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize(("side", "window"), [(8, 7), (9, 9), (10, 9), (11, 11), (64, 11)])
def test_ssim_of_a_picture_under_11_pixels_uses_the_largest_window_that_fits(side, window):
    assert ssim_window(side, side) == window
    reconstructions, images = random_pair(1, 3, side, side)
    x, y = (0.5 * (image[0].double().numpy() + 1) for image in (reconstructions, images))

    def blur(plane: np.ndarray) -> np.ndarray:
        crop, radius = slice(window // 2, side - window // 2), window // 2
        return np.stack([gaussian_filter(channel, 1.5, radius=radius)[crop, crop] for channel in plane])

    mean_x, mean_y = blur(x), blur(y)
    covariance = blur(x * y) - mean_x * mean_y
    variances = blur(x * x) - mean_x**2 + blur(y * y) - mean_y**2
    value = (2 * mean_x * mean_y + 1e-4) * (2 * covariance + 9e-4)
    value /= (mean_x**2 + mean_y**2 + 1e-4) * (variances + 9e-4)
    assert ssim(reconstructions, images).item() == pytest.approx(value.mean(), rel=1e-6)


def reference_ms_ssim(x: np.ndarray, y: np.ndarray) -> float:
    """By SciPy in float64, (3, H, W) on [0, 1]: five scales, the luminance at the last one only."""
    product = 1.0
    for scale, beta in enumerate((0.0448, 0.2856, 0.3001, 0.2363, 0.1333)):
        if scale:
            height, width = (side // 2 for side in x.shape[1:])
            x, y = (z[:, : 2 * height, : 2 * width].reshape(3, height, 2, width, 2).mean(axis=(2, 4)) for z in (x, y))
        mean_x, mean_y, xx, yy, xy = (
            gaussian_filter(z, (0, 1.5, 1.5), radius=5, mode="mirror") for z in (x, y, x * x, y * y, x * y)
        )
        contrast = (2 * (xy - mean_x * mean_y) + 9e-4) / (xx - mean_x**2 + yy - mean_y**2 + 9e-4)
        luminance = (2 * mean_x * mean_y + 1e-4) / (mean_x**2 + mean_y**2 + 1e-4)
        # torchmetrics leaves out the windows that reach over the border, but for the last scale.
        factor = (luminance * contrast).mean() if scale == 4 else contrast[:, 5:-5, 5:-5].mean()
        product *= factor**beta
    return float(product)


def smooth_pair(height: int, width: int) -> tuple[Tensor, Tensor]:
    """Soft shapes and noise, so that no scale is without contrast."""
    generator = np.random.default_rng(0)
    shapes = sum(gaussian_filter(generator.normal(size=(2, 3, height, width)), (0, 0, s, s)) * s for s in (2, 8, 24))
    images = torch.from_numpy(np.clip(shapes, -1, 1)).float()
    return (0.8 * images + 0.2 * torch.from_numpy(generator.normal(size=images.shape)).float()).clamp(-1, 1), images


@pytest.mark.parametrize(("height", "width"), [(176, 176), (181, 203)])
def test_ms_ssim_agrees_with_scipy(height, width):
    reconstructions, images = smooth_pair(height, width)
    pairs = zip(*(0.5 * (z.double().numpy() + 1) for z in (reconstructions, images)), strict=True)
    expected = [reference_ms_ssim(x, y) for x, y in pairs]
    assert all(0.5 < value < 0.99 for value in expected)
    found = ms_ssim(reconstructions, images)
    assert found.dtype == torch.float64
    assert found.tolist() == pytest.approx(expected, rel=1e-5)


def test_ms_ssim_of_flat_pictures_is_their_luminance_term_at_the_last_scale():
    black, grey = torch.full((1, 3, 176, 176), -1.0), torch.zeros(1, 3, 176, 176)
    assert ms_ssim(black, grey).item() == pytest.approx((1e-4 / (0.5**2 + 1e-4)) ** 0.1333, rel=1e-4)
    assert ms_ssim(grey, grey).item() == pytest.approx(1.0, abs=1e-6)


def test_ms_ssim_of_equal_pictures_is_one_and_of_a_negative_zero():
    _, images = smooth_pair(176, 176)
    assert ms_ssim(images, images).tolist() == pytest.approx([1.0, 1.0], abs=1e-5)
    assert ms_ssim(-images, images).tolist() == [0.0, 0.0]


@pytest.mark.parametrize(("height", "width"), [(175, 300), (300, 175), (16, 16)])
def test_ms_ssim_is_not_defined_under_176_pixels(height, width):
    reconstructions, images = random_pair(2, 3, height, width)
    assert ms_ssim(reconstructions, images).isnan().tolist() == [True, True]


@pytest.mark.parametrize("offset", [0.5, 0.1, 0.003])
def test_psnr_of_a_known_offset(offset):
    images = torch.zeros(2, 3, 8, 8, dtype=torch.float64)
    torch.testing.assert_close(mse(images + offset, images), torch.full((2,), offset**2).double())
    expected = torch.full((2,), 20 * math.log10(2 / offset)).double()
    torch.testing.assert_close(psnr(images + offset, images), expected)


def test_equal_pictures_get_100_db():
    images = torch.rand(2, 3, 8, 8)
    assert psnr(images, images).tolist() == [100.0, 100.0]


def test_reconstructions_are_clamped_and_not_rounded():
    white = torch.ones(1, 3, 12, 12)
    assert psnr(white * 1.7, white).item() == 100.0
    assert ssim(white * 1.7, white).item() == pytest.approx(1.0)
    assert psnr(white - 1e-3, white).item() == pytest.approx(20 * math.log10(2 / 1e-3), rel=1e-4)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_not_finite_makes_its_own_picture_nan_only(value):
    reconstructions, images = random_pair(3, 3, 176, 176)
    reconstructions[1, 0, 0, 0] = value
    for metric in (mse, psnr, ssim, ms_ssim):
        assert metric(reconstructions, images).isnan().tolist() == [False, True, False]


def test_metrics_are_float64_under_autocast():
    metrics = (mse, psnr, ssim, ms_ssim)
    reconstructions, images = smooth_pair(176, 176)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        under = [metric(reconstructions, images) for metric in metrics]
    for metric, value in zip(metrics, under, strict=True):
        assert value.dtype == torch.float64
        assert torch.equal(value, metric(reconstructions, images))


def test_shapes_that_differ_are_refused():
    with pytest.raises(ValueError, match=r"one shape \(B, 3, H, W\)"):
        psnr(torch.zeros(1, 3, 8, 8), torch.zeros(2, 3, 8, 8))
