"""Two sentences on what one sees: one about the weights, one about what was lost.

They are made from the numbers alone, so a layer without outliers is not said to have any.
"""

from __future__ import annotations

from statistics import NormalDist

from quip_engine.inspection.look import Inspection

FLAT = 1.25  # times what a Gaussian of that many weights has at most: no outliers to speak of
GAUSSIAN_BEYOND = 5.7e-7  # share of a Gaussian beyond 5 rms


def in_words(seen: Inspection) -> tuple[str, str]:
    """About the weights, and about what was lost of them."""
    return _weights(seen), _loss(seen)


def _weights(seen: Inspection) -> str:
    before, after = seen.incoherence.w_before, seen.incoherence.w_after
    m, n = seen.shape
    row, beyond, usual = seen.outliers.worst[0], seen.outliers.beyond[0], GAUSSIAN_BEYOND * m * n
    first = f"The largest weight is {before:.1f} times the root mean square (row {row})"
    chance = gaussian_largest(m * n)
    if before <= FLAT * chance:
        first = f"{first}, about what chance makes of so many, so there are no outliers"
    elif beyond > max(10 * usual, 20):
        first = f"{first}, and {beyond:,} of {m * n:,} lie beyond 5 where a Gaussian has {usual:.0f}"
    else:
        first = f"{first}, where a Gaussian of as many ends near {chance:.1f}"
    if seen.transform == "none":
        return f"{first}; nothing is rotated, so the codebook meets the weights as they are."
    if after < before * 0.95:
        return f"{first}; the transform spreads them, and no weight is beyond {after:.1f} any more."
    return f"{first}; after the transform it is {after:.1f}."


def gaussian_largest(count: int) -> float:
    """The largest of so many standard normal magnitudes, about: where the expected number beyond it is one."""
    return -NormalDist().inv_cdf(1 / (2 * max(count, 2)))


def _loss(seen: Inspection) -> str:
    gain = seen.rel_mse / max(seen.rel_proxy, 1e-300)
    share = f"{seen.rel_mse:.1%} of the weights' energy is lost but {seen.rel_proxy:.2%} of the outputs'"
    if seen.spectrum is None:
        return f"{share}; H is too wide here to look at its directions."
    held = f"{seen.spectrum.holding} of {seen.spectrum.width} directions hold 90 % of what the inputs carry"
    if gain > 1.2:
        what = f"{held}, and rounding hid its error in the others: {share}"
    else:
        what = f"{held}, and rounding did not hide its error from them: {share.replace(' but ', ' and ')}"
    ratio = seen.rel_proxy / seen.least if seen.least else None
    return f"{what}, {ratio:.2f} times the least possible at these bits." if ratio else f"{what}."
