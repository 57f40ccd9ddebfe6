"""Domains that share the ten digit classes but not the look: drawn from handwritten digits, photographs and fonts.

| name | role in the paper | how it is made |
|---|---|---|
| plain | MNIST | a handwritten digit, slightly turned and shifted |
| bold | USPS | the same, sheared, scaled, with thicker strokes |
| blend | MNIST-M | the absolute difference of a digit and a crop of a photograph (arXiv 1505.07818, section 5.2.1) |
| print | SYN-D | a digit set in one of matplotlib's fonts, coloured, turned, blurred |
| street | SVHN | the same between neighbouring digits, noisier |
| as_is | MNIST, USPS, SVHN themselves | resized, to three channels |

Every painter takes a random generator and gives one square image: uint8, (S, S, 3).
"""

from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

CANVAS = 32  # pixels: where handwritten digits are moved about before they are resized
PAGE = 64  # pixels: where digits are printed
FONTS = ("DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSansMono", "DejaVuSansMono-Bold", "DejaVuSerif", "DejaVuSerif-Bold", "DejaVuSerif-Italic",
         "DejaVuSansMono-Oblique", "STIXGeneral", "STIXGeneralBol", "STIXGeneralItalic", "STIXGeneralBolIta", "cmr10", "cmss10", "cmtt10", "cmb10")  # fmt: skip


def as_is(digit: np.ndarray, side: int, rng: np.random.Generator) -> np.ndarray:
    """A real image, (H, W) or (H, W, 3): bicubic resize, gray to three channels (section 4)."""
    return rgb(Image.fromarray(digit).resize((side, side), Image.Resampling.BICUBIC))


def plain(digit: np.ndarray, side: int, rng: np.random.Generator) -> np.ndarray:
    """A handwritten digit turned by up to 10 degrees and shifted by up to 2 of 32 pixels."""
    return rgb(moved(digit, rng).resize((side, side), Image.Resampling.BICUBIC))


def bold(digit: np.ndarray, side: int, rng: np.random.Generator) -> np.ndarray:
    """Sheared, scaled, shifted again; strokes always thicker, contrast lower."""
    image = moved(digit, rng)
    shear, scale = rng.uniform(-0.35, 0.35), rng.uniform(0.85, 1.15)
    dx, dy = rng.uniform(-2, 2, size=2)
    c = CANVAS / 2
    image = image.transform(image.size, Image.Transform.AFFINE, (1 / scale, shear, c - c / scale - shear * c + dx, 0, 1 / scale, c - c / scale + dy), Image.Resampling.BICUBIC)
    image = image.filter(ImageFilter.MaxFilter(int(rng.choice([3, 5]))))
    curve = 255 * 1.1 * (np.arange(256) / 255) ** rng.uniform(0.6, 1) + 10
    return np.clip(curve, 0, 255).astype(np.uint8)[rgb(image.resize((side, side), Image.Resampling.BICUBIC))]


def blend(digit: np.ndarray, side: int, rng: np.random.Generator) -> np.ndarray:
    """|crop - digit| in each channel. Crops too dark or too bright are rejected: on black the digit would stay as it was."""
    while True:
        photo = photographs()[rng.integers(2)]
        size = int(rng.choice([16, 32, 48]))
        top, left = rng.integers(photo.shape[0] - size), rng.integers(photo.shape[1] - size)
        crop = np.asarray(Image.fromarray(photo[top : top + size, left : left + size]).resize((side, side), Image.Resampling.BICUBIC))
        if 35 < crop.mean() < 110:
            return np.abs(crop.astype(np.int16) - plain(digit, side, rng)).astype(np.uint8)


def printed(label: int, side: int, rng: np.random.Generator) -> np.ndarray:
    """One digit on an even ground."""
    return page([(label, 0)], side, rng, swapped=0.25, blur=2.0, noise=6)


def street(label: int, side: int, rng: np.random.Generator) -> np.ndarray:
    """The digit in the middle counts; a neighbour stands on either side with probability 0.7."""
    neighbours = [(int(rng.integers(10)), sign * rng.uniform(42, 52)) for sign in (-1, 1) if rng.random() < 0.7]
    return page([(label, 0), *neighbours], side, rng, swapped=0.5, blur=2.5, noise=12)


def page(digits: list[tuple[int, float]], side: int, rng: np.random.Generator, swapped: float, blur: float, noise: float) -> np.ndarray:
    """Digits and their offsets from the middle, in one font and colour; with probability `swapped` dark on bright."""
    typeface = font(FONTS[rng.integers(len(FONTS))], int(rng.integers(66, 85)))
    ground, ink = rng.integers(0, 90, size=3), rng.integers(150, 256, size=3)
    if rng.random() < swapped:
        ground, ink = ink, ground
    image = Image.new("RGB", (PAGE, PAGE), tuple(ground.tolist()))
    for digit, offset in digits:
        ImageDraw.Draw(image).text((PAGE / 2 + offset, PAGE / 2), str(digit), tuple(ink.tolist()), typeface, anchor="mm")
    image = image.rotate(rng.uniform(-18, 18), Image.Resampling.BICUBIC, fillcolor=tuple(ground.tolist()))
    image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.5, blur))).resize((side, side), Image.Resampling.BICUBIC)
    return np.clip(np.rint(np.asarray(image) + rng.normal(0, noise, (side, side, 3))), 0, 255).astype(np.uint8)


def moved(digit: np.ndarray, rng: np.random.Generator) -> Image.Image:
    """A gray digit on the canvas, turned and shifted a little."""
    image = Image.fromarray(digit).resize((CANVAS, CANVAS), Image.Resampling.BICUBIC)
    dx, dy = rng.uniform(-2, 2, size=2)
    return image.rotate(rng.uniform(-10, 10), Image.Resampling.BICUBIC, translate=(round(dx), round(dy)))


def rgb(image: Image.Image) -> np.ndarray:
    """(S, S, 3) uint8."""
    return np.asarray(image.convert("RGB"))


@cache
def photographs() -> list[np.ndarray]:
    """The two photographs that scikit-learn ships."""
    from sklearn.datasets import load_sample_image

    return [load_sample_image(name) for name in ("china.jpg", "flower.jpg")]


@cache
def font(name: str, size: int) -> ImageFont.FreeTypeFont:
    """One of matplotlib's fonts."""
    import matplotlib  # here: most stages never paint

    return ImageFont.truetype(Path(matplotlib.get_data_path()) / f"fonts/ttf/{name}.ttf", size)


PAINTERS = {"plain": plain, "bold": bold, "blend": blend, "print": printed, "street": street, "mnist": as_is, "usps": as_is, "svhn": as_is, "mnistm": blend}
FROM_LABELS = ("print", "street")  # painted from a label alone


def paint(domain: str, digits: np.ndarray, labels: np.ndarray, side: int, rng: np.random.Generator) -> np.ndarray:
    """Images of a domain, (N, S, S, 3) uint8, one for each of `digits` (N, H, W[, 3]) and `labels` (N,)."""
    subjects = labels if domain in FROM_LABELS else digits
    return np.stack([PAINTERS[domain](subject, side, rng) for subject in subjects])
