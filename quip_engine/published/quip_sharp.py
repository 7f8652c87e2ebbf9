"""QuIP# folders: E8P codes at 2 bits, residual E8P at 3 and 4; q, k, v fused into one matrix, up and gate into one.

    W = diag(f) diag(u c) V_m W~ V_n^T diag(v / s)        f: constant on the rows of each fused part

| in the files                | here                                                                               |
|-----------------------------|------------------------------------------------------------------------------------|
| Qidxs: (m, n / 32), or more | ``codes``, ``residual_codes``: one entry for eight weights of a row                |
| SU: (n,), v                 | ``input_vector``; over s, in float32, where ``rescale_WH`` is set                  |
| SV: (m,), u                 | ``output_vector``, with f                                                          |
| Wscale, c                   | ``scale``                                                                          |
| fuse_scales, f              | in ``output_vector``                                                               |
| scaleWH: (n,), s            | in ``input_vector``                                                                |
| codebook_id                 | which codebook; checked                                                            |

An int64 of Qidxs holds the 16-bit codes of two rows and two columns (``e8p_points.unpack_published``). At 4 bits the
words of the second codes follow those of the first in each row of the array; at 3 bits bytes follow, eight to a word.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers import PreTrainedModel

from quip_engine.codebooks import Codebook
from quip_engine.codebooks.e8p import E8P
from quip_engine.codebooks.e8p_points import unpack_published
from quip_engine.codebooks.e8p_rvq import PUBLISHED, ResidualE8P
from quip_engine.layer import LayerFormat
from quip_engine.probe.packing import QUIP_SHARP as CODEBOOKS
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

CODEBOOK_IDS = {2: 7, 3: 18, 4: 17}  # by bits
FUSED = {
    "self_attn.qkv_proj": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "self_attn.o_proj": ("self_attn.o_proj",),
    "mlp.upgate_proj": ("mlp.up_proj", "mlp.gate_proj"),
    "mlp.down_proj": ("mlp.down_proj",),
}
ROWS, COLUMNS = 16, 64  # of a tile of words
CHUNK = 2**13  # words unpacked at a time: what this takes is small and not kept by the allocator


@dataclass(frozen=True)
class QuipSharpFormat(PublishedFormat):
    """The settings of ``quip_params`` that change the layout."""

    method: ClassVar[str] = "quip#"

    bits: int
    rescale: bool

    @classmethod
    def from_params(cls, params: dict[str, Any]) -> QuipSharpFormat:
        """Checked settings. Raises ``BAD_CHECKPOINT`` for values whose meaning is not known."""
        bits = CODEBOOKS[check_value("codebook", params.get("codebook"), *CODEBOOKS)]
        if bits == 2:  # older files number the points differently
            check_value("codebook_version", params.get("codebook_version"), 1)
        if params.get("packsz") == 1:
            damaged("packsz is 1: these older files store other codes")
        check_value("idx_dtype", params.get("idx_dtype", "torch.int64"), "torch.int64")
        check_value("lora_rank", params.get("lora_rank", 0), 0)
        residual = params.get("resid_scale_override", -1)
        if bits > 2 and residual != PUBLISHED[bits].residual:
            check_value("resid_scale_override", float(residual), -1.0)
        return cls(bits, check_value("rescale_WH", params.get("rescale_WH", False), False, True))

    def layers(self, model: PreTrainedModel) -> list[PackedLayer]:
        found = []
        for _, block, linear in linear_rows(model):
            for name, parts in FUSED.items():
                rows = {f"{block}.{part}": linear[part].out_features for part in parts}
                found.append(PackedLayer(f"{block}.{name}", rows, linear[parts[0]].in_features))
        return found

    def tensors(self, layer: PackedLayer) -> dict[str, Stored]:
        m, n = layer.m, layer.n
        check_width(layer.name, m, ROWS)
        check_width(layer.name, n, COLUMNS)
        expected = {
            "Qidxs": Stored(("int64",), ((m, n * self.bits // 64),)),
            "SU": Stored(FLOATS, ((n,),)),
            "SV": Stored(FLOATS, ((m,),)),
            "Wscale": Stored(FLOATS, SCALAR),
            "codebook_id": Stored(("int64",), SCALAR),
        }
        if len(layer.rows) > 1:
            expected["fuse_scales"] = Stored(FLOATS, ((len(layer.rows),),))
        if self.rescale:
            expected["scaleWH"] = Stored(FLOATS, ((n,),))
        return expected

    def relayout(self, layer: PackedLayer, stored: dict[str, Tensor]) -> tuple[LayerFormat, dict[str, Tensor]]:
        check_value(f"{layer.name}.codebook_id", int(stored["codebook_id"]), CODEBOOK_IDS[self.bits])
        for name in stored.keys() - {"Qidxs", "codebook_id"}:
            check_finite(f"{layer.name}.{name}", stored[name])
        v, u = stored["SU"], stored["SV"].float()
        if self.rescale:
            v = check_finite(f"SU / scaleWH of {layer.name}", v.float() / stored["scaleWH"])
        if "fuse_scales" in stored:
            rows = torch.tensor(list(layer.rows.values()), device=u.device)
            u = u * stored["fuse_scales"].float().repeat_interleave(rows)
        vectors = {"input_vector": v.clone(), "output_vector": u.clone()}
        codes = {**unpack(stored["Qidxs"], layer.n, self.bits), "scale": stored["Wscale"].float().reshape(1).clone()}
        transform = ScaledHadamard(input_dtype=str(v.dtype).removeprefix("torch."))
        return LayerFormat(transform, self._codebook()), {**codes, **vectors}

    def _codebook(self) -> Codebook:
        return E8P() if self.bits == 2 else ResidualE8P(bits=self.bits, published=True)


def unpack(words: Tensor, n: int, bits: int) -> dict[str, Tensor]:
    """Codes of ``E8P`` or ``ResidualE8P`` from Qidxs: (m, n bits / 64) int64."""
    m, first = len(words), n // 32
    if bits == 3:
        octets = words[:, first:].contiguous().view(torch.uint8).view(m, n // 8)
        return {"codes": unpack_e8p(words[:, :first]), "residual_codes": octets}
    parts = zip(("codes", "residual_codes"), words.split(first, 1), strict=False)
    return {name: unpack_e8p(part) for name, part in parts}


def unpack_e8p(words: Tensor) -> Tensor:
    """Codes: (m, n / 8) int16 of words: (m, n / 32) int64, a few rows of tiles at a time."""
    m, width = words.shape
    tiles = words.reshape(m // ROWS, width // 2, 8, 4)
    codes = torch.empty(m, 4 * width, dtype=torch.int16, device=words.device)
    rows = max(1, CHUNK // (ROWS * width))
    for part, into in zip(tiles.split(rows), codes.split(rows * ROWS), strict=True):
        into.copy_(unpack_published(part))  # keeps the low 16 bits
    return codes
