"""Every figure of the app as a pure function: numbers in, a JSON-ready dict out (see live_plot.py for the format).

Two rules: colours are token names (``--accent``), and what a second function could derive is not sent.
``lanes`` is the house layout for anything measured per layer: small panels side by side, one per projection, block
number from left to right in each. The eye compares along a lane (depth) and across lanes (kind of layer).
"""

from app.figures.allocation import allocation
from app.figures.base import Figure, Lanes
from app.figures.codebook import codebook
from app.figures.expectation import expectation
from app.figures.guarantee import Guaranteed, guarantee
from app.figures.layer import histogram, outlier_rows, spectrum, weight_maps
from app.figures.patches import patches
from app.figures.run import Point, block_map, incoherence, proxy_loss
from app.figures.several import losses
from app.figures.tuning import Course, tuning
from app.figures.versus import race

__all__ = [
    "Course",
    "Figure",
    "Guaranteed",
    "Lanes",
    "Point",
    "allocation",
    "block_map",
    "codebook",
    "expectation",
    "guarantee",
    "histogram",
    "incoherence",
    "losses",
    "outlier_rows",
    "patches",
    "proxy_loss",
    "race",
    "spectrum",
    "tuning",
    "weight_maps",
]
