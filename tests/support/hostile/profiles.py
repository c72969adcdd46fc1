"""ICC profiles, what they mean in sRGB, and cases of them."""

import struct

import numpy as np
from PIL import Image, ImageCms

from tests.support.hostile.files import exif, with_chunk
from tests.support.hostile.picture import (
    FLAT,
    GREY,
    GREY_CONVERTED,
    GREY_PICTURE,
    HIDDEN,
    ICC,
    LAID,
    PALETTE,
    PICTURE,
    PIXELS,
    ROTATED,
    SHOWN,
    UNUSABLE,
    Case,
    encoded,
    grey,
)

SRGB_MATRIX = np.array([[0.43607, 0.38515, 0.14307], [0.22249, 0.71687, 0.06061], [0.01392, 0.09708, 0.71410]])
P3_MATRIX = np.array([[0.51512, 0.29198, 0.15710], [0.24120, 0.69225, 0.06657], [-0.00105, 0.04189, 0.78407]])
ADOBE_MATRIX = np.array([[0.60974, 0.20528, 0.14919], [0.31111, 0.62567, 0.06322], [0.01947, 0.06087, 0.74457]])
GAMMA = 563 / 256


def profile(space, tags, kind=b"mntr", connection=b"XYZ "):
    table, data = struct.pack(">I", len(tags)), b""
    start = 128 + 4 + 12 * len(tags)
    for name, content in tags.items():
        table += name + struct.pack(">II", start + len(data), len(content))
        data += content + b"\0" * (-len(content) % 4)
    header = struct.pack(">I4sI4s4s4s", start + len(data), b"none", 0x02400000, kind, space, connection)
    header += struct.pack(">6H4s", 2020, 1, 1, 0, 0, 0, b"acsp") + bytes(28) + fixed(0.9642, 1.0, 0.8249)
    return header.ljust(128, b"\0") + table + data


def fixed(*numbers):
    return b"".join(struct.pack(">i", round(number * 65536)) for number in numbers)


def xyz(*numbers):
    return b"XYZ \0\0\0\0" + fixed(*numbers)


def gamma(number):
    return b"curv\0\0\0\0" + struct.pack(">IH", 1, round(number * 256))


def matrix_profile(matrix):
    columns = {name: xyz(*matrix[:, i]) for i, name in enumerate((b"rXYZ", b"gXYZ", b"bXYZ"))}
    return profile(
        b"RGB ",
        columns | {name: gamma(GAMMA) for name in (b"rTRC", b"gTRC", b"bTRC")} | {b"wtpt": xyz(0.9642, 1, 0.8249)},
    )


def linear_to_srgb(linear):
    linear = np.clip(linear, 0, 1)
    return np.rint(255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055))


def by_matrix(pixels, matrix):
    """What a matrix profile means in sRGB, in double precision."""
    linear = (pixels / 255) ** GAMMA @ matrix.T @ np.linalg.inv(SRGB_MATRIX).T
    return linear_to_srgb(linear).astype(np.uint8)


GREY_PROFILE = profile(b"GRAY", {b"kTRC": gamma(1.0), b"wtpt": xyz(0.9642, 1, 0.8249)})
SRGB_PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
INKS = np.array([[[255 * (i >> j & 1) for j in (3, 2, 1, 0)] for i in range(16)]], np.uint8)  # (1, 16, 4)
LIGHTNESS = (1 - INKS[..., 3] / 255) * (1 - INKS[..., :3].mean(-1) / 255 * 0.75) * 255  # (1, 16)


def ink_profile():
    """CMYK to neutral L*, by a table of two levels for each ink."""
    table = b"".join(bytes([round(level), 128, 128]) for level in LIGHTNESS[0])
    identity = bytes(range(256))
    lut = b"mft1\0\0\0\0" + bytes([4, 3, 2, 0]) + fixed(1, 0, 0, 0, 1, 0, 0, 0, 1) + identity * 4 + table + identity * 3
    return profile(b"CMYK", {b"A2B0": lut, b"wtpt": xyz(0.9642, 1, 0.8249)}, b"prtr", b"Lab ")


def lab_to_srgb(lab):
    """CIE L*a*b* at D50 as sRGB, in double precision."""
    y = (lab[..., 0] + 16) / 116
    f = np.stack([y + lab[..., 1] / 500, y, y - lab[..., 2] / 200], axis=-1)
    relative = np.where(f > 6 / 29, f**3, 3 * (6 / 29) ** 2 * (f - 4 / 29)) * np.array([0.9642, 1.0, 0.8249])
    return linear_to_srgb(relative @ np.linalg.inv(SRGB_MATRIX).T).astype(np.uint8)


def profile_cases():
    adobe, p3 = matrix_profile(ADOBE_MATRIX), matrix_profile(P3_MATRIX)
    for kind, options in {"PNG": {}, "TIFF": {}, "WEBP": {"lossless": True}}.items():
        yield Case(
            f"Adobe RGB {kind}",
            lambda k=kind, o=options: encoded(PICTURE, k, icc_profile=adobe, **o),
            by_matrix(PIXELS, ADOBE_MATRIX),
            changes=ICC,
            tolerance=2,
        )
    yield Case(
        "Display P3 PNG",
        lambda: encoded(PICTURE, icc_profile=p3),
        by_matrix(PIXELS, P3_MATRIX),
        changes=ICC,
        tolerance=2,
    )
    flat = by_matrix(np.asarray(FLAT), P3_MATRIX)
    yield Case("Display P3 JPEG", lambda: encoded(FLAT, "JPEG", icc_profile=p3), flat, changes=ICC, tolerance=4)
    yield Case(
        "Display P3 and turned",
        lambda: encoded(PICTURE, icc_profile=p3, exif=exif(6)),
        np.rot90(by_matrix(PIXELS, P3_MATRIX), -1),
        changes=ROTATED + ICC,
        tolerance=2,
    )
    yield Case(
        "Display P3 with alpha",
        lambda: encoded(HIDDEN, icc_profile=p3),
        np.where((GREY > 99)[..., None], by_matrix(PIXELS, P3_MATRIX), SHOWN),
        changes=ICC + LAID,
        tolerance=2,
    )
    yield Case(
        "Display P3 palette",
        lambda: encoded(GREY_PICTURE.convert("P"), icc_profile=p3),
        by_matrix(grey(GREY), P3_MATRIX),
        changes=PALETTE + ICC,
        tolerance=2,
    )
    yield Case("sRGB profile", lambda: encoded(PICTURE, icc_profile=SRGB_PROFILE), PIXELS)
    yield Case(
        "grey with an sRGB profile",
        lambda: encoded(GREY_PICTURE, icc_profile=SRGB_PROFILE),
        grey(GREY),
        changes=GREY_CONVERTED,
    )
    linear = grey(linear_to_srgb(GREY / 255))
    yield Case(
        "grey with a linear profile",
        lambda: encoded(GREY_PICTURE, icc_profile=GREY_PROFILE),
        linear,
        changes=GREY_CONVERTED + ICC,
        tolerance=2,
    )
    inks = Image.frombytes("CMYK", (16, 1), INKS.tobytes())
    neutral = lab_to_srgb(np.stack([LIGHTNESS / 2.55, 0 * LIGHTNESS, 0 * LIGHTNESS], -1))
    yield Case(
        "CMYK with a profile",
        lambda: encoded(inks, "TIFF", icc_profile=ink_profile()),
        neutral,
        changes=("CMYK converted", *ICC),
        tolerance=2,
    )
    broken = {
        "noise": bytes(range(256)),
        "cut short": p3[:200],
        "of another colour space": GREY_PROFILE,
        "of ink": ink_profile(),
        "of one byte": b"x",
    }
    for name, content in broken.items():
        yield Case(f"profile {name}", lambda c=content: encoded(PICTURE, icc_profile=c), PIXELS, changes=UNUSABLE)
    yield Case(
        "profile that does not unpack",
        lambda: with_chunk(encoded(PICTURE), b"iCCP", b"x\0\0noise"),
        PIXELS,
        changes=UNUSABLE,
    )
    lost = encoded(FLAT, "JPEG", icc_profile=p3).replace(b"ICC_PROFILE\0\1\1", b"ICC_PROFILE\0\1\2")
    yield Case("JPEG with half of a profile", lambda: lost, np.asarray(FLAT), changes=UNUSABLE, tolerance=3)
