import io
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from pluriform.data.sources.pictures import read_pictures
from pluriform.errors import CorruptFileError, ShapeError


def content(picture, form="PNG", **options):
    file = io.BytesIO()
    picture.save(file, form, **options)
    return file.getvalue()


def array(values):
    file = io.BytesIO()
    np.save(file, values)
    return file.getvalue()


def read(files, size=None, deep=True):
    return read_pictures(list(files), files.__getitem__, size, deep=deep)


def test_exif_rotation_is_obeyed():
    picture = Image.new("RGB", (4, 2))
    picture.putpixel((0, 0), (255, 0, 0))
    exif = Image.Exif()
    exif[0x0112] = 6  # Turn a quarter clockwise.
    found = read({"a.png": content(picture, exif=exif)})
    assert found.shape == (1, 3, 4, 2)
    assert found[0, 0].argmax() == 1  # From the upper left to the upper right corner.


def test_transparency_is_put_on_white(caplog):
    clear = Image.new("RGBA", (2, 1), (255, 0, 0, 0))
    clear.putpixel((1, 0), (10, 20, 30, 255))
    found = read({"a.png": content(clear)})
    assert found[0, :, 0].T.tolist() == [[255, 255, 255], [10, 20, 30]]
    assert "1 pictures with transparent parts were put on white, the first is a.png" in caplog.text
    caplog.clear()
    assert read({"b.png": content(Image.new("RGBA", (1, 1), (1, 2, 3, 255)))}).flatten().tolist() == [1, 2, 3]
    assert not caplog.text


def test_palette_pictures_have_their_colours():
    picture = Image.new("P", (1, 1), 1)
    picture.putpalette([0, 0, 0, 7, 8, 9])
    assert read({"a.png": content(picture)}).flatten().tolist() == [7, 8, 9]


def test_depth_and_channels():
    deep = Image.fromarray(np.array([[0, 65535, 257]], dtype=np.uint16))
    files = {"a.png": content(deep), "b.png": content(Image.new("L", (3, 1), 255))}
    found = read(files)
    assert found.dtype == torch.float32
    assert torch.equal(found[:, 0, 0], torch.tensor([[0, 1, 257 / 65535], [1, 1, 1]]))
    assert read(files, deep=False)[0].flatten().tolist() == [0, 255, 1]
    many = np.random.default_rng(0).random((3, 4, 7))
    assert torch.equal(read({"m.npy": array(many)})[0], torch.from_numpy(many.astype(np.float32)).permute(2, 0, 1))
    assert read({"m.npy": array(many)}, size=(2, 3)).shape == (1, 7, 2, 3)


def test_floating_point_pictures_are_not_black():
    values = np.array([[0, 0.25, 0.5, 1]], dtype=np.float32)
    files = {"a.tif": content(Image.fromarray(values), "TIFF")}
    assert torch.equal(read(files)[0, 0], torch.from_numpy(values))
    assert read(files, deep=False).flatten().tolist() == [0, 64, 128, 255]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (np.full((2, 2), 300.0, np.float32), "floating-point pixels in .0, 1.; got values from 300 to 300 .a.tif"),
        (np.array([[-1024, 3000]], np.int32), "integers in 0..65535; got values from -1024 to 3000 .a.tif"),
        (np.array([[0, 70000]], np.int32), "got values from 0 to 70000"),
    ],
)
def test_values_that_would_be_cut_are_refused(values, words):
    for deep in (True, False):
        with pytest.raises(CorruptFileError, match=words):
            read({"a.tif": content(Image.fromarray(values), "TIFF")}, deep=deep)


def test_colours_of_sixteen_bits_are_read_with_eight_and_said_so(caplog):
    header = struct.pack(">IIBBBBB", 1, 1, 16, 2, 0, 0, 0)
    pixels = zlib.compress(b"\0" + struct.pack(">HHH", 257 * 7, 257 * 8, 257 * 9))
    chunks = ((b"IHDR", header), (b"IDAT", pixels), (b"IEND", b""))
    found = read({"a.png": b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(*chunk) for chunk in chunks)})
    assert found.flatten().tolist() == [7, 8, 9]
    assert "1 pictures of 16 bits a channel were read with 8" in caplog.text
    caplog.clear()
    read({"a.png": content(Image.new("RGB", (1, 1)))})
    assert not caplog.text


def _chunk(kind, inside):
    return struct.pack(">I", len(inside)) + kind + inside + struct.pack(">I", zlib.crc32(kind + inside))


@pytest.mark.parametrize(
    ("values", "error", "words"),
    [
        (np.zeros(3), ShapeError, "expected an array .height, width."),
        (np.zeros((2, 2), dtype=np.int64), ShapeError, "got int64 of shape"),
        (np.full((2, 2), 1.5), CorruptFileError, "got values from 1.5 to 1.5 .a.npy"),
        (np.full((2, 2), np.nan), CorruptFileError, "floating-point pixels in"),
    ],
)
def test_arrays_that_are_no_pictures(values, error, words):
    with pytest.raises(error, match=words):
        read({"a.npy": array(values)})


def test_pictures_of_other_sizes_and_channels():
    files = {"a.png": content(Image.new("L", (2, 3))), "b.png": content(Image.new("L", (3, 2)))}
    with pytest.raises(ShapeError, match="pictures of 3x2 pixels; got 2x3 .b.png beside a.png"):
        read(files)
    files = {"a.npy": array(np.zeros((2, 2, 5))), "b.png": content(Image.new("RGB", (2, 2)))}
    with pytest.raises(ShapeError, match="pictures of 5 channels; got 3 .b.png beside a.npy"):
        read(files)
