"""Reading of all modes, formats and damaged files; writing of PNG files."""

import io
import pickle
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageCms, features
from PIL.PngImagePlugin import PngInfo

from rcdm_cli.core.errors import ImageWarning, InputError
from rcdm_cli.data.find import SUFFIXES
from rcdm_cli.data.image_file import UnreadableImage, read_image, write_png

data = pytest.importorskip("skimage.data")
imread = pytest.importorskip("skimage.io").imread

Pixels = NDArray[np.uint8]


@pytest.fixture(scope="module")
def cat() -> Pixels:
    """uint8 (75, 113, 3): a small image that is not square, so that a wrong orientation is detected."""
    image: Pixels = data.chelsea()[::4, ::4]
    return np.ascontiguousarray(image)


def save(path: Path, image: Image.Image, **options: object) -> Path:
    image.save(path, **options)
    return path


def grey_to_rgb(grey: Pixels) -> Pixels:
    return np.stack([grey] * 3, axis=-1)


@pytest.mark.parametrize("suffix", ["png", "bmp", "tiff", "ppm"])
def test_lossless_rgb_is_exact(tmp_path: Path, cat: Pixels, suffix: str) -> None:
    np.testing.assert_array_equal(read_image(save(tmp_path / f"a.{suffix}", Image.fromarray(cat))), cat)


def test_lossless_webp_from_an_open_file(tmp_path: Path, cat: Pixels) -> None:
    path = save(tmp_path / "a.webp", Image.fromarray(cat), lossless=True)
    with path.open("rb") as file:
        np.testing.assert_array_equal(read_image(file), cat)


@pytest.mark.parametrize("suffix", ["jpg", "avif"])
def test_lossy_formats_are_close(tmp_path: Path, cat: Pixels, suffix: str) -> None:
    image = read_image(save(tmp_path / f"a.{suffix}", Image.fromarray(cat), quality=95))
    assert image.dtype == np.uint8
    assert np.abs(image.astype(float) - cat).mean() < 3


@pytest.mark.parametrize("name", ["chelsea", "coffee", "rocket", "astronaut"])
def test_jpeg_equals_scikit_image(tmp_path: Path, name: str) -> None:
    path = save(tmp_path / "a.jpg", Image.fromarray(getattr(data, name)()))
    np.testing.assert_array_equal(read_image(path), imread(path))


def test_format_is_detected_from_the_content(tmp_path: Path, cat: Pixels) -> None:
    np.testing.assert_array_equal(read_image(save(tmp_path / "a.jpg", Image.fromarray(cat), format="PNG")), cat)


def test_grey_is_repeated_in_three_channels(tmp_path: Path, cat: Pixels) -> None:
    grey = cat[:, :, 0]
    np.testing.assert_array_equal(read_image(save(tmp_path / "a.png", Image.fromarray(grey))), grey_to_rgb(grey))


def test_one_bit_image_is_read_as_black_and_white(tmp_path: Path, cat: Pixels) -> None:
    bits = cat[:, :, 0] > 128
    path = save(tmp_path / "a.png", Image.fromarray(bits))
    np.testing.assert_array_equal(read_image(path), grey_to_rgb(np.where(bits, 255, 0).astype(np.uint8)))


@pytest.mark.parametrize("suffix", ["png", "tiff", "pgm"])
def test_16_bit_grey_is_scaled(tmp_path: Path, suffix: str) -> None:
    values = np.linspace(0, 65535, 64 * 32).astype(np.uint16).reshape(32, 64)
    path = save(tmp_path / f"a.{suffix}", Image.fromarray(values))
    image = read_image(path)
    np.testing.assert_array_equal(image, grey_to_rgb(np.rint(values / 257).astype(np.uint8)))
    assert image.min() == 0
    assert image.max() == 255


def test_big_endian_16_bit_tiff_is_scaled(tmp_path: Path) -> None:
    values = np.array([[0, 1, 257, 65535]], ">u2")
    path = save(tmp_path / "a.tiff", Image.frombytes("I;16B", (4, 1), values.tobytes()))
    assert read_image(path)[0, :, 0].tolist() == [0, 0, 1, 255]


def test_16_bit_tiff_with_white_0_is_inverted(tmp_path: Path) -> None:
    values = np.array([[0, 257, 65278, 65535]], np.uint16)
    path = save(tmp_path / "a.tiff", Image.fromarray(values), tiffinfo={262: 0})
    assert read_image(path)[0, :, 0].tolist() == [255, 254, 1, 0]
    # Pillow inverts 8-bit values.
    eight = save(tmp_path / "b.tiff", Image.fromarray(np.array([[0, 1, 255]], np.uint8)), tiffinfo={262: 0})
    with Image.open(eight) as pil:
        assert pil.tag_v2[262] == 0
        expected = np.asarray(pil.convert("L"))[0].tolist()
    assert read_image(eight)[0, :, 0].tolist() == expected


def grey_png(path: Path, values: NDArray[np.uint16], significant: int | None) -> Path:
    """Write a 16-bit grey PNG with an ``sBIT`` chunk, which Pillow cannot write."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    height, width = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    content = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, 0, 0, 0, 0))
    content += chunk(b"sBIT", bytes([significant])) if significant else b""
    path.write_bytes(content + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))
    return path


def test_unscaled_12_bit_values_are_scaled_if_the_png_declares_12_bits(tmp_path: Path) -> None:
    values = np.array([[0, 16, 2048, 4095]], np.uint16)
    assert read_image(grey_png(tmp_path / "a.png", values, 12))[0, :, 0].tolist() == [0, 1, 128, 255]
    # As the PNG specification demands, values of 12 significant bits are scaled to 16 bits.
    scaled = (values.astype(np.uint32) * 65535 // 4095).astype(np.uint16)
    assert read_image(grey_png(tmp_path / "b.png", scaled, 12))[0, :, 0].tolist() == [0, 1, 128, 255]


def test_12_bit_values_without_declaration_are_reported(tmp_path: Path) -> None:
    path = grey_png(tmp_path / "a.png", np.array([[0, 2048, 4095]], np.uint16), None)
    with pytest.warns(ImageWarning, match=r"a\.png: 65535 is read as white .* 4095.* 12 bits, multiply them by 16"):
        assert read_image(path)[0, :, 0].tolist() == [0, 8, 16]


def test_12_bit_colours_are_reported(tmp_path: Path) -> None:
    """Pillow reads the upper 8 bits of 16-bit colours."""
    body = b"".join(b"\0" + np.full((4, 3), 4095, ">u2").tobytes() for _ in range(4))

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 4, 4, 16, 2, 0, 0, 0))
    content = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(body)) + chunk(b"IEND", b"")
    (tmp_path / "a.png").write_bytes(content)
    with pytest.warns(ImageWarning, match=r"a\.png: .*12 bits"):
        assert read_image(tmp_path / "a.png").max() == 15


@pytest.mark.parametrize("high", [0, 1 << 14, 65535])
def test_dark_and_bright_16_bit_images_are_not_stretched(tmp_path: Path, high: int) -> None:
    values = np.array([[0, high]], np.uint16)
    assert read_image(save(tmp_path / "a.png", Image.fromarray(values)))[0, 1, 0] == round(high / 257)


def test_jpeg_2000_is_read(tmp_path: Path, cat: Pixels) -> None:
    if not features.check("jpg_2000"):
        pytest.skip("Pillow without OpenJPEG")
    np.testing.assert_array_equal(read_image(save(tmp_path / "a.jp2", Image.fromarray(cat))), cat)
    assert ".jp2" in SUFFIXES


def test_heic_is_read_with_pillow_heif(tmp_path: Path, cat: Pixels) -> None:
    pytest.importorskip("pillow_heif")
    image = read_image(save(tmp_path / "a.heic", Image.fromarray(cat), quality=95))
    assert np.abs(image.astype(float) - cat).mean() < 4
    assert ".heic" in SUFFIXES


def test_32_bit_grey_is_limited_to_16_bits(tmp_path: Path) -> None:
    within = save(tmp_path / "a.tiff", Image.fromarray(np.array([[0, 514, 65535]], np.int32)))
    assert read_image(within)[0, :, 1].tolist() == [0, 2, 255]
    beyond = save(tmp_path / "b.tiff", Image.fromarray(np.array([[0, 70000]], np.int32)))
    with pytest.raises(UnreadableImage, match=r"b\.tiff .* range from 0 to 70000"):
        read_image(beyond)


def test_float_grey_has_range_0_to_1(tmp_path: Path) -> None:
    values = np.array([[0, 0.25, 0.5, 1]], np.float32)
    assert read_image(save(tmp_path / "a.tiff", Image.fromarray(values)))[0, :, 2].tolist() == [0, 64, 128, 255]


@pytest.mark.parametrize("wrong", [-0.1, 200, np.nan])
def test_float_grey_outside_the_range_is_refused(tmp_path: Path, wrong: float) -> None:
    path = save(tmp_path / "a.tiff", Image.fromarray(np.array([[0.5, wrong]], np.float32)))
    with pytest.raises(UnreadableImage, match="its float values"):
        read_image(path)


def over_white(colour: Pixels, alpha: Pixels) -> NDArray[np.float64]:
    share = alpha[:, :, None] / 255
    return colour * share + 255 * (1 - share)


@pytest.mark.parametrize("suffix", ["png", "webp", "tiff"])
def test_alpha_is_composited_over_white(tmp_path: Path, cat: Pixels, suffix: str) -> None:
    alpha = np.tile(np.linspace(0, 255, cat.shape[1]).astype(np.uint8), (cat.shape[0], 1))
    image = Image.fromarray(np.dstack([cat, alpha]))
    options = {"lossless": True, "exact": True} if suffix == "webp" else {}
    image = read_image(save(tmp_path / f"a.{suffix}", image, **options))
    assert np.abs(image - over_white(cat, alpha)).max() <= 1
    assert (image[:, 0] == 255).all()


def test_grey_with_alpha_is_composited_over_white(tmp_path: Path, cat: Pixels) -> None:
    grey, alpha = cat[:, :, 0], cat[:, :, 1]
    image = Image.merge("LA", (Image.fromarray(grey), Image.fromarray(alpha)))
    image = read_image(save(tmp_path / "a.png", image))
    assert np.abs(image - over_white(grey_to_rgb(grey), alpha)).max() <= 1


def test_transparent_colour_becomes_white(tmp_path: Path) -> None:
    colours = np.array([[[10, 20, 30], [40, 50, 60]]], np.uint8)
    path = save(tmp_path / "a.png", Image.fromarray(colours), transparency=(10, 20, 30))
    assert read_image(path)[0].tolist() == [[255, 255, 255], [40, 50, 60]]


def test_palette_image_is_read_with_and_without_transparency(tmp_path: Path) -> None:
    image = Image.fromarray(np.array([[0, 1, 2]], np.uint8))
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    opaque = [[255, 0, 0], [0, 255, 0], [0, 0, 255]]
    assert read_image(save(tmp_path / "a.png", image))[0].tolist() == opaque
    half = read_image(save(tmp_path / "b.png", image, transparency=bytes([0, 128, 255])))[0]
    assert np.abs(half - np.array([[255, 255, 255], [127, 255, 127], [0, 0, 255]])).max() <= 1
    assert read_image(save(tmp_path / "c.gif", image, transparency=1))[0].tolist() == [
        [255, 0, 0],
        [255, 255, 255],
        [0, 0, 255],
    ]


def test_cmyk_tiff(tmp_path: Path) -> None:
    inks = np.array([[[0, 0, 0, 0], [255, 0, 0, 0], [0, 255, 0, 0], [0, 0, 0, 255]]], np.uint8)
    path = save(tmp_path / "a.tiff", Image.frombytes("CMYK", (4, 1), inks.tobytes()))
    assert read_image(path)[0].tolist() == [[255, 255, 255], [0, 255, 255], [255, 0, 255], [0, 0, 0]]


def test_adobe_cmyk_jpeg_is_not_inverted(tmp_path: Path) -> None:
    inks = np.full((16, 16, 4), (0, 200, 200, 0), np.uint8)
    path = save(tmp_path / "a.jpg", Image.frombytes("CMYK", (16, 16), inks.tobytes()), quality=100)
    assert b"Adobe" in path.read_bytes()
    assert np.abs(read_image(path).astype(int) - (255, 55, 55)).max() <= 3


def test_lab_tiff(tmp_path: Path) -> None:
    colours = np.full((4, 4, 3), (200, 60, 40), np.uint8)
    to_lab = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB")
    lab = ImageCms.applyTransform(Image.fromarray(colours), to_lab)
    assert lab is not None
    assert np.abs(read_image(save(tmp_path / "a.tiff", lab)).astype(int) - colours).max() <= 3


@pytest.mark.parametrize(
    ("orientation", "stored"),
    [
        (1, lambda a: a),
        (2, lambda a: a[:, ::-1]),
        (3, lambda a: a[::-1, ::-1]),
        (4, lambda a: a[::-1]),
        (5, lambda a: a.transpose(1, 0, 2)),
        (6, lambda a: np.rot90(a, 1)),
        (7, lambda a: a[::-1, ::-1].transpose(1, 0, 2)),
        (8, lambda a: np.rot90(a, -1)),
    ],
)
def test_exif_orientation_is_applied(tmp_path: Path, cat: Pixels, orientation: int, stored: object) -> None:
    assert callable(stored)
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(tmp_path / "a.png", Image.fromarray(np.ascontiguousarray(stored(cat))), exif=exif)
    np.testing.assert_array_equal(read_image(path), cat)


@pytest.mark.parametrize("suffix", ["gif", "png", "webp", "tiff"])
def test_first_frame_is_read(tmp_path: Path, suffix: str) -> None:
    first, second = (Image.new("RGB", (8, 6), colour) for colour in ("red", "blue"))
    options = {"lossless": True} if suffix == "webp" else {}
    path = save(tmp_path / f"a.{suffix}", first, save_all=True, append_images=[second], **options)
    with Image.open(path) as image:
        assert getattr(image, "n_frames", 1) == 2
    np.testing.assert_array_equal(read_image(path), np.full((6, 8, 3), (255, 0, 0), np.uint8))


def test_text_file_is_refused_with_the_supported_formats(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_text("no image")
    with pytest.raises(UnreadableImage, match=r"a\.jpg cannot be read as an image: .*JPEG, PNG, WEBP, GIF"):
        read_image(path)


def test_unsupported_formats_are_refused(tmp_path: Path) -> None:
    jxl = tmp_path / "a.jxl"
    jxl.write_bytes(struct.pack(">I", 12) + b"JXL \r\n\x87\n")
    eps = save(tmp_path / "a.eps", Image.new("RGB", (4, 4)))
    for path in (jxl, eps):
        with pytest.raises(UnreadableImage, match="none of the formats"):
            read_image(path)


def test_empty_file_folder_and_missing_file_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.jpg").touch()
    for path, reason in (("empty.jpg", "none of the formats"), (".", "directory"), ("no.jpg", "no such file")):
        with pytest.raises(UnreadableImage, match=reason):
            read_image(tmp_path / path)


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "gif", "bmp", "tiff", "ppm", "avif"])
def test_truncated_image_is_refused(tmp_path: Path, cat: Pixels, suffix: str) -> None:
    path = save(tmp_path / f"a.{suffix}", Image.fromarray(cat))
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(UnreadableImage, match=rf"a\.{suffix} cannot be read"):
        read_image(path)


def test_too_many_pixels_are_refused_before_decoding() -> None:
    header = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    with pytest.raises(UnreadableImage, match=r"^bomb cannot .*too many pixels .*3600000000"):
        read_image(io.BytesIO(bomb), name="bomb")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "gif", "bmp", "tiff"])
def test_damaged_bytes_give_an_image_or_unreadable_image(tmp_path: Path, cat: Pixels, suffix: str) -> None:
    complete = save(tmp_path / f"a.{suffix}", Image.fromarray(cat[:24, :32])).read_bytes()
    random = np.random.default_rng(0)
    refused = 0
    for _ in range(100):
        content = bytearray(complete)
        for place in random.integers(0, len(complete), 8):
            content[place] = random.integers(256)
        try:
            assert read_image(io.BytesIO(bytes(content))).dtype == np.uint8
        except UnreadableImage:
            refused += 1
    assert refused > 0


@pytest.mark.filterwarnings("ignore")
def test_image_with_damaged_exif_is_read(tmp_path: Path, cat: Pixels) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010E] = "x" * 64
    exif[0x011A] = 72.0
    complete = save(tmp_path / "a.jpg", Image.fromarray(cat[:8, :16]), exif=exif).read_bytes()
    start = complete.index(b"Exif\0\0") + 6
    random = np.random.default_rng(0)
    for _ in range(300):
        content = bytearray(complete)
        for place in random.integers(start, start + 60, 3):
            content[place] = random.integers(256)
        assert read_image(io.BytesIO(bytes(content))).size == 8 * 16 * 3


@pytest.mark.parametrize("suffix", ["png", "webp"])
def test_png_and_webp_with_damaged_metadata_are_read(tmp_path: Path, cat: Pixels, suffix: str) -> None:
    options = {"lossless": True} if suffix == "webp" else {}
    path = save(tmp_path / f"a.{suffix}", Image.fromarray(cat), exif=b"Exif\0\0garbagegarbage", **options)
    np.testing.assert_array_equal(read_image(path), cat)


def test_png_with_a_long_text_chunk_is_read(tmp_path: Path, cat: Pixels) -> None:
    text = PngInfo()
    text.add_text("workflow", "x" * 3_000_000, zip=True)
    np.testing.assert_array_equal(read_image(save(tmp_path / "a.png", Image.fromarray(cat), pnginfo=text)), cat)


def test_too_narrow_image_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", Image.new("RGB", (2000, 10)))
    with pytest.raises(UnreadableImage, match=r"a\.png cannot be read as an image: 2000 x 10 pixels are too narrow"):
        read_image(path)


def test_error_can_be_pickled() -> None:
    error = pickle.loads(pickle.dumps(UnreadableImage("a.jpg", "it is damaged")))
    assert (error.name, error.reason, str(error)) == (
        "a.jpg",
        "it is damaged",
        "a.jpg cannot be read as an image: it is damaged.",
    )


def test_png_is_lossless(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (5, 9, 3)).astype(np.uint8)
    write_png(tmp_path / "new" / "a.png", image)
    np.testing.assert_array_equal(imread(tmp_path / "new" / "a.png"), image)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.png"]


def test_png_values_are_not_rescaled(tmp_path: Path) -> None:
    image = np.full((4, 4, 3), 3, np.uint8)
    image[0, 0] = 9
    write_png(tmp_path / "a.png", image)
    assert imread(tmp_path / "a.png").max() == 9


@pytest.mark.parametrize("wrong", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((4, 4, 4), np.uint8)])
def test_png_of_a_wrong_array_is_refused_and_the_old_file_is_unchanged(tmp_path: Path, wrong: np.ndarray) -> None:
    (tmp_path / "a.png").write_text("old")
    with pytest.raises(InputError, match=r"uint8 \(H, W, 3\), not"):
        write_png(tmp_path / "a.png", wrong)
    assert (tmp_path / "a.png").read_text() == "old"


def multispectral_tiff(bands):
    """Uncompressed TIFF of 20 × 20 pixels with ``bands`` 8-bit bands."""
    size = 400 * bands
    extra = 8 + size + 2 + 9 * 12 + 4
    entries = [(256, 4, 1, 20), (257, 4, 1, 20), (258, 3, bands, extra), (259, 3, 1, 1), (262, 3, 1, 1)]
    entries += [(273, 4, 1, 8), (277, 3, 1, bands), (278, 4, 1, 20), (279, 4, 1, size)]
    directory = struct.pack("<H", 9) + b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return b"II*\0" + struct.pack("<I", 8 + size) + bytes(size) + directory + bytes(4) + struct.pack("<H", 8) * bands


@pytest.mark.parametrize("bands", [2, 5, 13])
def test_multispectral_tiff_is_refused_with_the_number_of_bands(bands, tmp_path):
    path = tmp_path / "image.tif"
    path.write_bytes(multispectral_tiff(bands))
    for source in (path, io.BytesIO(path.read_bytes())):
        with pytest.raises(UnreadableImage, match=rf"{bands} bands .*multispectral"):
            read_image(source, "image.tif")
