"""How images become rows, and which files are images: plain data, which reading other files need not import PIL for."""

from dataclasses import dataclass

from pyro_vae.data.image_shapes import ImageShape

IMAGE_SUFFIXES = (
    ".png", ".jpg", ".jpeg", ".jfif", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".pgm", ".ppm", ".pbm"
)  # fmt: skip


@dataclass(frozen=True)
class ImageSettings:
    """How images become rows.

    Attributes:
        gray: whether colours are read as grey levels.
        resize: the height and width to which images are brought; None leaves them.
        fitted: the shape of the images that a program was fitted to, which new ones must have; None for a new data set.
        label_levels: the classes of the rows that it was fitted to.
    """

    gray: bool = False
    resize: tuple[int, int] | None = None
    fitted: ImageShape | None = None
    label_levels: tuple[str, ...] = ()


AS_THEY_ARE = ImageSettings()
