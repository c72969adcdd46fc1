"""Defines every metric of a report once, as a row of a table.

Reports, their tables and pages, comparisons, gates, the model card and MLflow's `val/...` follow from these rows. The
functions are imported when they are called, so that gates and commands read the rows without torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from pikavae.evaluation.metrics.metric import Metric, Reconstructed

if TYPE_CHECKING:
    from torch import Tensor


def _likeness(batch: Reconstructed) -> Mapping[str, Tensor]:
    from pikavae.evaluation.metrics.similarity import psnr_of_mse, ssim_and_ms_ssim

    ssim, ms_ssim = ssim_and_ms_ssim(batch.reconstructions, batch.images)
    return {"psnr": psnr_of_mse(batch.mse), "ssim": ssim, "mse": batch.mse, "ms_ssim": ms_ssim}


def _appearance(batch: Reconstructed) -> Mapping[str, Tensor]:
    from pikavae.evaluation.metrics.appearance import appearance

    factor = batch.images.shape[2] // batch.latents.shape[2]
    return appearance(batch.reconstructions, batch.images, factor=factor, channels=batch.channels)


def _spectrum(batch: Reconstructed) -> Mapping[str, Tensor]:
    from pikavae.evaluation.metrics.spectrum import spectrum_divergence

    return {"spectrum_divergence": spectrum_divergence(batch.latents, batch.images)}


FLAT = "within two steps of 8 bits"

METRICS: Mapping[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric(
            name="psnr",
            title="PSNR",
            head="PSNR dB",
            about="how near the reconstructions are to the pictures, pixel by pixel",
            protocol="10 log10(2^2 / MSE) over all pixels and colours, at most 100 dB",
            unit="dB",
            digits=2,
            better="higher",
            compute=_likeness,
            floor="psnr_floor",
        ),
        Metric(
            name="ssim",
            title="SSIM",
            about="how alike the structures are: 1 if equal",
            protocol="Wang et al. 2004 on [0, 1], mean over RGB, K1 0.01, K2 0.03, population covariance",
            better="higher",
            compute=_likeness,
            floor="ssim_floor",
            tolerance="ssim_tolerance",
        ),
        Metric(
            name="mse",
            title="MSE",
            about="the mean squared error",
            protocol="over all pixels and colours, on the data range",
            digits=6,
            better="lower",
            compute=_likeness,
        ),
        Metric(
            name="kl_nats",
            title="KL",
            about="the price of a picture's latent: how much its posterior differs from the standard normal",
            unit="nats",
            digits=1,
            better="lower",
        ),
        Metric(name="bicubic_psnr", title="PSNR of bicubic", about="scaling to the latent's size and back", unit="dB"),
        Metric(
            name="ms_ssim",
            title="MS-SSIM",
            about="how alike the structures are, at five scales",
            protocol="Wang et al. 2003, bordering windows as in torchmetrics, on [0, 1]; negative contrasts count as 0",
            better="higher",
            compute=_likeness,
            needs="has both sides of at least 176 px, which its five scales need",
            tolerance="ms_ssim_tolerance",
        ),
        Metric(
            name="psnr_foreground",
            title="PSNR of the foreground",
            about="PSNR without an even background, which is easy",
            protocol=f"PSNR without the pixels {FLAT} of the median colour, where those are over half",
            unit="dB",
            digits=2,
            better="higher",
            compute=_appearance,
            needs="shows more than a background of one colour",
        ),
        *(
            Metric(
                name=f"colour_shift_{colour}",
                title=f"shift of {colour}",
                about=f"how much too bright {colour} is, on [-1, 1]",
                protocol="mean of the reconstruction minus mean of the original for each colour, on [-1, 1], with its "
                "sign; tables and comparisons have the mean over pictures of its absolute value",
                protocol_name="colour_shift",
                better=0.0,
                compute=_appearance,
                needs=f"has a channel named {colour}",
                tolerance="colour_shift_tolerance",
            )
            for colour in ("red", "green", "blue")
        ),
        Metric(
            name="flat_noise",
            title="noise",
            about="noise where the picture is of one colour, on [-1, 1]",
            protocol=f"root of the error's mean sample variance in windows of 7 px with colours {FLAT}",
            better="lower",
            compute=_appearance,
            needs="has a flat region",
            tolerance="flat_noise_tolerance",
        ),
        Metric(
            name="high_frequency_ratio",
            title="sharpness",
            about="the share of fine detail that is kept: under 1 is blurred, over 1 is noisy",
            protocol="energy over 0.25 cycles/px, FFT of BT.601 luma under a Hann window",
            better=1.0,
            compute=_appearance,
            needs="has high frequencies",
            tolerance="sharpness_tolerance",
        ),
        Metric(
            name="edge_error",
            title="error at edges",
            about="the mean absolute error at edges, on [-1, 1]",
            protocol="mean absolute error where the original's Sobel gradient of a colour is over 0.1/px",
            better="lower",
            compute=_appearance,
            needs="has an edge",
        ),
        Metric(
            name="border_mse",
            title="MSE at the border",
            about="the mean squared error along the picture's border",
            protocol="MSE on the frame of the pixels of the latent's outermost positions",
            digits=6,
            better="lower",
            compute=_appearance,
            needs="is larger than its border",
        ),
        Metric(
            name="inside_mse",
            title="MSE inside",
            about="the mean squared error inside the border",
            protocol="MSE inside that frame",
            digits=6,
            better="lower",
            compute=_appearance,
            needs="is larger than its border",
        ),
        Metric(
            name="lpips",
            title="LPIPS",
            about="how different the pictures look to VGG16",
            better="lower",
            needs="has both sides of at least 16 px, which VGG16 needs",
        ),
        Metric(
            name="spectrum_divergence",
            title="spectrum divergence",
            about="how far the latents' frequencies are from the pictures': large if latents are noisy or smooth",
            protocol="KL(picture || latent) of spectra (arXiv:2603.14645): orthonormal DCT-II without DC, of a picture "
            "the lowest frequencies, as many as its latent has; power, mean over channels and over each of 16 radial "
            "bins, normalised over the bins",
            unit="nats",
            better="lower",
            compute=_spectrum,
            needs="has other than one colour and a latent of more than one position",
        ),
        Metric(
            name="psnr_pooled",
            title="PSNR, pooled",
            about="PSNR of the mean error",
            protocol="of the mean MSE over pictures",
            unit="dB",
            digits=2,
            of_picture=False,
        ),
        Metric(
            name="psnr_min",
            title="worst PSNR",
            about="PSNR of the worst picture",
            protocol="of the picture that has the lowest PSNR",
            unit="dB",
            digits=2,
            of_picture=False,
        ),
        Metric(
            name="psnr_worst_tenth",
            title="worst tenth",
            about="PSNR of the worst pictures, which a mean hides",
            protocol="mean over the tenth of the pictures that has the lowest PSNR, rounded up",
            unit="dB",
            digits=2,
            of_picture=False,
            floor="worst_tenth_floor",
        ),
        Metric(
            name="non_finite_fraction",
            title="not finite",
            about="if above 0, the model is broken",
            protocol="the share of the reconstructions' numbers that are not finite",
            of_picture=False,
        ),
        Metric(
            name="rfid",
            title="rFID",
            about="how different the sets look to Inception",
            digits=2,
            of_picture=False,
        ),
        Metric(name="kid", title="KID", about="the same for small sets", digits=5, of_picture=False),
        Metric(
            name="kid_deviation",
            title="deviation of KID",
            about="how uncertain KID is",
            digits=5,
            of_picture=False,
        ),
        Metric(
            name="kl_nats_per_image",
            title="KL",
            about="how much more a posterior says than the standard normal: the price of its latent",
            protocol="of the posterior from the standard normal, sum over the latent, mean over pictures",
            unit="nats a picture",
            digits=1,
            of_picture=False,
        ),
        Metric(
            name="kl_nats_per_dimension",
            title="KL",
            about="the same, divided by how many numbers a latent has; near 0 if the KL weight has silenced the latent",
            protocol="kl_nats_per_image over how many numbers a latent has",
            unit="nats a number of the latent",
            digits=3,
            of_picture=False,
        ),
        Metric(
            name="latent_mean",
            title="mean of the latents",
            about="their mean",
            protocol="of the mode, over pictures, channels and positions",
            of_picture=False,
        ),
        Metric(
            name="latent_std",
            title="deviation of the latents",
            about="their deviation",
            protocol="deviation of the population about latent_mean",
            of_picture=False,
        ),
        Metric(
            name="scaling_factor",
            title="scaling factor",
            head="scaling",
            about="what a diffusion model multiplies the latents by, so that their deviation is 1",
            protocol="1 / latent_std, of these pictures; an export and encode have that of the training pictures",
            of_picture=False,
        ),
        Metric(
            name="shift_factor",
            title="shift factor",
            about="what a diffusion model subtracts from the latents, if it subtracts anything: their mean",
            protocol="latent_mean; a diffusion model gets (latent - shift_factor) * scaling_factor",
            of_picture=False,
        ),
        Metric(
            name="active_units",
            title="active channels",
            about="channels that distinguish pictures",
            protocol="channels whose variance over pictures, mean over positions, is over 0.01",
            digits=0,
            of_picture=False,
        ),
    )
}
"""Every metric by its name, in the order of the columns of `per_image.csv`, then the numbers of a set."""

OF_PICTURE = tuple(metric for metric in METRICS.values() if metric.of_picture)
"""The numbers of a picture."""
COMPARED = tuple(metric for metric in OF_PICTURE if metric.better is not None)
"""The numbers of a picture that are compared if a report has them.

Fewer nats of KL are better because KL is a cost in the evidence lower bound (Kingma & Welling 2014): weigh them against
the reconstruction."""
COMPUTED = tuple(metric for metric in OF_PICTURE if metric.compute is not None)
"""The numbers of a picture that are computed from pictures, latents and reconstructions alone."""
