"""What all pictures have in common: colours, a font, and bytes that depend on the data alone."""

from __future__ import annotations

import io
from contextlib import AbstractContextManager

import matplotlib
from matplotlib.figure import Figure
from PIL import Image

DPI = 160
INK, FAINT, LINE = "#1b1f24", "#59636e", "#c3cad2"
FONT = "DejaVu Sans"  # comes with matplotlib, so each machine draws the same


def style() -> AbstractContextManager[None]:
    """Draw as here, whatever the settings of this machine are."""
    return matplotlib.rc_context({"font.family": FONT, "text.usetex": False})


def png(figure: Figure) -> bytes:
    """`figure` as PNG: equal bytes for equal data (and version of matplotlib)."""
    drawn, file = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, format="png", pil_kwargs={"compress_level": 1})
    # A palette makes a third of the size; no metadata, which would name a version.
    picture = Image.open(drawn).convert("RGB")
    small = picture.quantize(128, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    small.save(file, "png", optimize=True)
    return file.getvalue()
