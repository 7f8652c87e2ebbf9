"""QTIP folders: trellis codes, every linear layer by itself.

    W = diag(u) V_m W~ V_n^T diag(v)        W~: 16 x 16 tiles, each one tail-biting path in 256 k bits

| in the files                          | here                                                                     |
|---------------------------------------|--------------------------------------------------------------------------|
| trellis: (m n / 256, 16 k) int16      | ``codes``: (m / 16, n / 16, 32 k) uint8                                  |
| tlut: (512, 2), HYB only              | ``table``                                                                |
| SU: (n,), v; SV: (m,), u              | ``input_vector``, ``output_vector``                                      |
| rcp, tp_rank                          | not 0: a rotation split for several GPUs, refused; tp_rank is not used   |
| skip_list: ["3_down"]                 | layers that are not packed                                               |

With HYB (``quantlut_sym``) the bytes lie as tensor cores want them, four tiles together, and paths visit tiles in that
order; with 1MAD and 3INST everything is in plain order. A state is published as the window that *begins* at the bits
of its step, ours is the one that *ends* there: the same string, turned by L - k V bits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers import PreTrainedModel

from quip_engine.codebooks import Codebook
from quip_engine.codebooks.published_trellis import L as HYBRID_L
from quip_engine.codebooks.published_trellis import PublishedTrellis
from quip_engine.codebooks.trellis import TILE, Trellis
from quip_engine.codebooks.trellis_codes import HYBRID_BITS, code_rms
from quip_engine.layer import LayerFormat
from quip_engine.published.layers import (
    FLOATS,
    SCALAR,
    PackedLayer,
    PublishedFormat,
    Stored,
    check_finite,
    check_value,
    check_width,
    damaged,
    linear_rows,
)
from quip_engine.transforms.scaled_hadamard import ScaledHadamard

HYBRID = "quantlut_sym"
PLAIN = {"1mad": 147.800537109375, "3inst": 1.0}  # decode_mode: what the published values are divided by
LANES = 32
CHUNK = 2**16  # bytes laid out at a time


@dataclass(frozen=True)
class QtipFormat(PublishedFormat):
    """The settings of ``quip_params`` that change the layout."""

    method: ClassVar[str] = "qtip"

    mode: str
    L: int
    bits: int
    v_bits: int  # of v_proj
    skipped: frozenset[str]

    @classmethod
    def from_params(cls, params: dict[str, Any]) -> QtipFormat:
        """Checked settings. Raises ``BAD_CHECKPOINT`` for values whose meaning is not known."""
        mode = check_value("decode_mode", params.get("decode_mode"), HYBRID, *PLAIN)
        hybrid = mode == HYBRID
        check_value("V", params.get("V"), 2 if hybrid else 1)
        if hybrid:
            check_value("tlut_bits", params.get("tlut_bits"), HYBRID_BITS)
        for key in ("td_x", "td_y"):
            check_value(key, params.get(key), TILE)
        widths = (HYBRID_L,) if hybrid else tuple(range(8, 17))
        rates = (2, 3, 4) if hybrid else (1, 2, 3, 4)
        bits = check_value("K", params.get("K"), *rates)
        v_bits = bits if params.get("K_v_proj") is None else check_value("K_v_proj", params["K_v_proj"], *rates)
        return cls(mode, check_value("L", params.get("L"), *widths), bits, v_bits, _names(params.get("skip_list")))

    def layers(self, model: PreTrainedModel) -> list[PackedLayer]:
        found, names = [], set()
        for index, block, linear in linear_rows(model):
            for path, module in linear.items():
                names.add(short := f"{index}_{path.rpartition('.')[2].removesuffix('_proj')}")
                if short not in self.skipped:
                    name = f"{block}.{path}"
                    found.append(PackedLayer(name, {name: module.out_features}, module.in_features))
        if unknown := self.skipped - names:
            damaged(f"skip_list names {min(unknown)[:80]}, which the model does not have")
        return found

    def tensors(self, layer: PackedLayer) -> dict[str, Stored]:
        m, n = layer.m, layer.n
        for width in (m, n):
            check_width(layer.name, width, 2 * TILE if self.mode == HYBRID else TILE)
        table = {"tlut": Stored(FLOATS, ((2**HYBRID_BITS, 2),))} if self.mode == HYBRID else {}
        return table | {
            "trellis": Stored(("int16",), ((m * n // TILE**2, TILE * self._bits(layer)),)),
            "SU": Stored(FLOATS, ((n,),)),
            "SV": Stored(FLOATS, ((m,),)),
            "rcp": Stored(("int64",), SCALAR),
            "tp_rank": Stored(("int64",), SCALAR),
        }

    def relayout(self, layer: PackedLayer, stored: dict[str, Tensor]) -> tuple[LayerFormat, dict[str, Tensor]]:
        check_value(f"{layer.name}.rcp", int(stored["rcp"]), 0)
        for name in stored.keys() - {"trellis", "rcp", "tp_rank"}:
            check_finite(f"{layer.name}.{name}", stored[name])
        v, u = stored["SU"].clone(), stored["SV"].float().clone()
        codebook, tensors = self._codes(layer, stored)
        transform = ScaledHadamard(input_dtype=str(v.dtype).removeprefix("torch."))
        return LayerFormat(transform, codebook), {**tensors, "input_vector": v, "output_vector": u}

    def _codes(self, layer: PackedLayer, stored: dict[str, Tensor]) -> tuple[Codebook, dict[str, Tensor]]:
        bits, device = self._bits(layer), stored["trellis"].device
        if self.mode == HYBRID:
            codes = unwoven(stored["trellis"], layer.m, layer.n, HYBRID_L - 2 * bits)
            table = check_finite(f"{layer.name}.tlut in float16", stored["tlut"].half()).clone()
            tensors = {"codes": codes, "table": table, "scale": torch.ones(1, device=device)}
            return PublishedTrellis(bits=bits), tensors
        codes = unswapped(stored["trellis"], layer.m, layer.n, self.L - bits)
        scale = torch.full((1,), code_rms(self.mode, self.L) / PLAIN[self.mode], device=device)
        return Trellis(bits=bits, L=self.L, code=self.mode), {"codes": codes, "scale": scale}

    def _bits(self, layer: PackedLayer) -> int:
        return self.v_bits if layer.name.endswith(".v_proj") else self.bits


def unwoven(trellis: Tensor, m: int, n: int, later: int) -> Tensor:
    """Codes: (m / 16, n / 16, 32 k) uint8 from four tiles woven together, a word for each thread of a tensor core.

    Each string begins ``later`` bits later; a few rows of tiles at a time.
    """
    k = trellis.shape[1] // TILE
    bands = trellis.contiguous().view(torch.uint8).view(m // 32, n // 32, LANES, 2, 2, k)
    codes = torch.empty(m // TILE, n // TILE, LANES * k, dtype=torch.uint8, device=trellis.device)
    rows = max(1, CHUNK // bands[0].numel())
    for band, into in zip(bands.split(rows), codes.split(2 * rows), strict=True):
        into.copy_(turn(band.flip(-1).permute(0, 4, 1, 3, 2, 5).reshape(into.shape), later))
    return codes


def unswapped(trellis: Tensor, m: int, n: int, later: int) -> Tensor:
    """Codes: (m / 16, n / 16, 32 k) uint8 from words of 16 bits, the first bit the highest; as ``unwoven``."""
    bands = trellis.contiguous().view(torch.uint8).view(m // TILE, n // TILE, -1, 2)
    codes = torch.empty(*bands.shape[:2], 2 * trellis.shape[1], dtype=torch.uint8, device=trellis.device)
    rows = max(1, CHUNK // bands[0].numel())
    for band, into in zip(bands.split(rows), codes.split(rows), strict=True):
        into.copy_(turn(band.flip(-1).flatten(2), later))
    return codes


def turn(strings: Tensor, bits: int) -> Tensor:
    """Circular strings: (..., bytes) uint8 that begin ``bits`` later."""
    whole, rest = divmod(bits, 8)
    strings = strings.roll(-whole, -1)
    return strings if rest == 0 else strings << rest | strings.roll(-1, -1) >> 8 - rest


def _names(skipped: Any) -> frozenset[str]:
    """``skip_list`` as names; it may be absent, a list, or words between commas."""
    names = skipped.split(",") if isinstance(skipped, str) else skipped or []
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        damaged(f"skip_list is {str(skipped)[:80]}")
    return frozenset(name.strip() for name in names if name.strip())
