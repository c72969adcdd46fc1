"""Files byte by byte: PNG, TIFF, EXIF, and what Pillow does not write by itself."""

import struct
import zlib

import numpy as np
from PIL import Image

from tests.support.hostile.picture import PIXELS, TALL, WIDE, encoded

# PNG, chunk by chunk


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width, height, depth, colour_type, rows, *extra):
    """A PNG whose rows are given as stored bytes, with chunks between header and pixels."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0))
    data = chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows)))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(extra) + data + chunk(b"IEND", b"")


def with_chunk(content, kind, data, before=b"IDAT"):
    position = content.index(before) - 4
    return content[:position] + chunk(kind, data) + content[position:]


# TIFF, tag by tag


def tiff(pixels, tags, order="<"):
    """One strip; tags as {number: (type, values)}: 1 byte, 2 text, 3 short, 4 long, 7 undefined."""
    codes = {1: "B", 2: "c", 3: "H", 4: "I", 7: "B"}
    head = 8
    tags = {**tags, 273: (4, [head]), 279: (4, [len(pixels)])}
    entries, beyond = b"", b""
    start = head + len(pixels) + len(pixels) % 2
    after = start + 2 + 12 * len(tags) + 4
    for number, (kind, values) in sorted(tags.items()):
        data = struct.pack(f"{order}{len(values)}{codes[kind]}", *values)
        if len(data) > 4:
            place, beyond = struct.pack(order + "I", after + len(beyond)), beyond + data + b"\0" * (len(data) % 2)
        else:
            place = data.ljust(4, b"\0")
        entries += struct.pack(order + "HHI", number, kind, len(values)) + place
    magic = b"II*\0" if order == "<" else b"MM\0*"
    content = magic + struct.pack(order + "I", start) + pixels + b"\0" * (len(pixels) % 2)
    return content + struct.pack(order + "H", len(tags)) + entries + b"\0\0\0\0" + beyond


def grey_tiff(values, bits, sample_format=1, photometric=1, order="<", **more):
    height, width = values.shape if isinstance(values, np.ndarray) else (TALL, WIDE)
    tags = {256: (3, [width]), 257: (3, [height]), 258: (3, [bits]), 259: (3, [1]), 262: (3, [photometric])}
    tags |= {277: (3, [1]), 278: (3, [height]), 339: (3, [sample_format])}
    data = values.astype(values.dtype.newbyteorder(order)).tobytes() if isinstance(values, np.ndarray) else values
    return tiff(data, tags | more.get("tags", {}), order)


def twelve_bits(values):
    """Rows of 12-bit samples, two in three bytes."""
    rows = b""
    for row in values.tolist():
        bits = "".join(f"{value:012b}" for value in row)
        bits += "0" * (-len(bits) % 8)
        rows += int(bits, 2).to_bytes(len(bits) // 8, "big")
    return rows


# EXIF


def exif(orientation=None, raw_type=None):
    """EXIF data with an orientation; of another type than a short where `raw_type` is given."""
    if raw_type is None:
        made = Image.Exif()
        made[0x0112] = orientation
        return made.tobytes()
    value = struct.pack("<I", orientation) if isinstance(orientation, int) else orientation.ljust(4, b"\0")
    count = 1 if isinstance(orientation, int) else len(orientation)
    return b"Exif\0\0II*\0\x08\0\0\0\x01\0" + struct.pack("<HHI", 0x0112, raw_type, count) + value + b"\0\0\0\0"


TURNED = {
    1: PIXELS,
    2: PIXELS[:, ::-1],
    3: PIXELS[::-1, ::-1],
    4: PIXELS[::-1],
    5: PIXELS.swapaxes(0, 1),
    6: np.rot90(PIXELS, -1),
    7: np.rot90(PIXELS, 2).swapaxes(0, 1),
    8: np.rot90(PIXELS, 1),
}
"""What is seen of the stored `PIXELS` by each orientation: after the tables of the EXIF standard."""
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'


# What Pillow does not write in one call


def palette_picture(transparency=None, colours=((255, 0, 0), (0, 255, 0), (0, 0, 255))):
    image = Image.new("P", (3, 1))
    image.putpalette([part for colour in colours for part in colour])
    image.putdata([0, 1, 2])
    return encoded(image, **({} if transparency is None else {"transparency": transparency}))


def ycck(ink):
    """A flat CMYK JPEG whose first three inks are stored as YCbCr, as Photoshop does."""
    luma = np.asarray(Image.new("YCbCr", (1, 1), Image.new("RGB", (1, 1), ink[:3]).convert("YCbCr").getpixel((0, 0))))[
        0, 0
    ]
    content = encoded(Image.new("CMYK", (16, 16), (*(255 - int(part) for part in luma), ink[3])), "JPEG", quality=100)
    transform = content.index(b"Adobe") + 11
    return content[:transform] + b"\2" + content[transform + 1 :]


def small_gif():
    """A 4x4 canvas whose only frame is 2x2, red, at (1, 1)."""
    frame = encoded(Image.new("P", (2, 2), 0), "GIF")
    frame = frame[:6] + struct.pack("<HH", 4, 4) + frame[10:]
    image = frame.index(b",", 13)
    colours = b"\xff\0\0" + frame[16:image] if frame[10] & 0x80 else frame[13:image]
    return frame[:13] + colours + b"," + struct.pack("<HHHH", 1, 1, 2, 2) + frame[image + 9 :]
