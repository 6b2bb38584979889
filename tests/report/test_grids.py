import numpy as np

from rcdm_cli.data.image_file import read_image
from rcdm_cli.data.image_grid import GridGroup, GridRow, PixelGrid, draw_grid
from rcdm_cli.report.grids import grid_files, image_grid, write_grid


def test_grid_is_written_as_one_png_and_as_single_images(tmp_path):
    images = list(np.random.default_rng(0).integers(0, 256, (5, 16, 16, 3), dtype=np.uint8))
    rows = [GridRow([None, images[0], images[1]], "dino\nbackbone"), GridRow(images[2:], "b")]
    content = PixelGrid(rows, [GridGroup("image", 1), GridGroup("samples", 2)])
    grid = write_grid(tmp_path, "grid", content)
    files = list(grid_files(grid))
    assert sorted(files) == sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.png"))
    np.testing.assert_array_equal(read_image(tmp_path / files[0]), draw_grid(content))

    element = image_grid(grid, "caption", "title")
    assert (element.title, element.caption) == ("title", "caption")
    assert [row.label for row in element.rows] == ["dino\nbackbone", "b"]
    assert [[group.label for group in row.groups] for row in element.rows] == [["image", "samples"]] * 2
    cells = [image for row in element.rows for group in row.groups for image in group.images]
    assert cells[0] is None
    shown = cells[1:]
    for expected, image in zip(images, shown, strict=True):
        np.testing.assert_array_equal(read_image(tmp_path / image.file), expected)
    assert [image.alt for image in shown[:3]] == [
        "dino backbone, samples, image 1",
        "dino backbone, samples, image 2",
        "b, image",
    ]
