"""Every figure of the app as a pure function: numbers in, a JSON-ready dict out (see live_plot.py for the format).

Two rules: colours are token names (``--accent``), and what a second function could derive is not sent.
``lanes`` is the house layout for anything measured per layer: small panels side by side, one per projection, block
number from left to right in each. The eye compares along a lane (depth) and across lanes (kind of layer).
"""

from app.figures.base import Figure, Lanes
from app.figures.codebook import codebook
from app.figures.guarantee import Guaranteed, guarantee
from app.figures.layer import histogram, outlier_rows, spectrum, weight_maps
from app.figures.patches import patches
from app.figures.run import Point, block_map, incoherence, proxy_loss
from app.figures.several import losses
from app.figures.versus import race

__all__ = [
    "Figure",
    "Guaranteed",
    "Lanes",
    "Point",
    "block_map",
    "codebook",
    "guarantee",
    "histogram",
    "incoherence",
    "losses",
    "outlier_rows",
    "patches",
    "proxy_loss",
    "race",
    "spectrum",
    "weight_maps",
]
