"""Sign vectors made real, so that they can be trained (QuIP# section 5, QTIP section 4.2).

    W^ = diag(u) V_m W~^ V_n^T diag(v)        u, v: the signs, with what other scales the transform has

The layer computes the same before and after; it stores numbers in the place of bits.
"""

from __future__ import annotations

from quip_engine.errors import QuipError
from quip_engine.layer import LayerFormat
from quip_engine.linear import QuantizedLinear
from quip_engine.transforms.hadamard import RandomizedHadamard, unpack_signs
from quip_engine.transforms.scaled_hadamard import ScaledHadamard

CHEAP = 0.01  # more bits of a layer that ``auto`` takes


def relaxed(layer: QuantizedLinear, relax: str) -> QuantizedLinear | None:
    """The same layer with real numbers for signs; None where it has no signs on both sides, or is not to be relaxed.

    ``relax``: one of ``config.RELAXING``. A codebook that pays for signs out of its own rate has no room for more.
    """
    transform, (m, n) = layer.format.transform, (layer.out_features, layer.in_features)
    if relax == "never" or not isinstance(transform, RandomizedHadamard) or transform.sides != "both":
        return None
    form = LayerFormat(ScaledHadamard(), layer.format.codebook)
    before = layer.format.layout(m, n)
    try:
        after = form.layout(m, n)
    except QuipError:  # not even for the vectors
        return None
    coded = [name for name in before if name not in transform.layout(m, n)]
    if any(after[name] != before[name] for name in coded):
        return None
    bits = [sum(spec.bits for spec in layout.values()) for layout in (before, after)]
    if relax == "auto" and bits[1] > (1 + CHEAP) * bits[0]:
        return None
    stored, maps = layer.tensors(), layer.maps()
    v, u = unpack_signs(stored["input_signs"], n), unpack_signs(stored["output_signs"], m)
    vectors = {
        "input_vector": v if maps.input_scale is None else v / maps.input_scale,
        "output_vector": u if maps.output_scale is None else u * maps.output_scale,
    }
    made = QuantizedLinear(n, m, layer.bias is not None, form, device="meta")
    state = {name: stored[name] for name in coded}
    state |= {name: vector.to(after[name].dtype) for name, vector in vectors.items()}
    made.load_state_dict(state | ({} if layer.bias is None else {"bias": layer.bias}), assign=True)
    return made
