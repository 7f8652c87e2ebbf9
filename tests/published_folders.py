"""Writes model folders in the published layouts of QuIP# and QTIP, element by element from their formulas.

Nothing of the reader is used: bits are placed one by one, Hadamard matrices and codes are made from their definitions.
(The table of E8P points is ours, which its own test compares with the published one.) Each function returns the folder
and the dense weights W it stands for, by the names of the plain model.
"""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path
from typing import Any

import torch
from helpers import VOCABULARY, write_tokenizer
from safetensors.torch import save_file
from torch import Tensor

from quip_engine.codebooks.e8p_points import points
from quip_engine.codebooks.e8p_rvq import e81b

CPU = torch.device("cpu")
HIDDEN, INNER, BLOCKS = 64, 192, 2
Q, KV = 64, 32
CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": HIDDEN,
    "intermediate_size": INNER,
    "num_hidden_layers": BLOCKS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 64,
    "bos_token_id": 256,
    "eos_token_id": 256,
    "tie_word_embeddings": False,
    "torch_dtype": "float16",
    # As the libraries of their time wrote them.
    **{"_name_or_path": "meta-llama/Llama-2-7b-hf", "transformers_version": "4.38.1", "pretraining_tp": 1},
    **{"attention_bias": False, "rope_scaling": None, "rope_theta": 10000.0, "rms_norm_eps": 1e-05, "use_cache": True},
}
QUIP_SHARP = {
    **{"codebook": "E8P12", "codesz": 8, "packsz": 4, "idx_dtype": "torch.int64", "codebook_version": 1},
    **{"lora_rank": 0, "rescale_WH": False, "resid_scale_override": -1, "model_version": 1},
}
QTIP = {
    **{"codebook": "bitshift", "L": 16, "K": 2, "V": 2, "tlut_bits": 9, "decode_mode": "quantlut_sym"},
    **{"td_x": 16, "td_y": 16, "split_for_tp": False, "skip_list": None},
}
RESIDUAL = {3: 2.04, 4: 3.45}
CODEBOOK_IDS = {2: 7, 3: 18, 4: 17}


def hadamard(n: int) -> Tensor:
    """(H_K (x) Sylvester) / sqrt(n) for n = 2^r or 12 2^r: (n, n) float64."""
    H = torch.ones(1, 1, dtype=torch.float64)
    if n % 12 == 0:
        residues = {i * i % 11 for i in range(1, 11)}
        H = torch.ones(12, 12, dtype=torch.float64)
        H[0, 1:] = -1
        for i in range(11):
            for j in range(11):
                H[i + 1, j + 1] = 1 if i == j or (j - i) % 11 not in residues else -1
    while len(H) < n:
        H = torch.kron(H, torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64))
    return H / math.sqrt(n)


def dense(W_t: Tensor, v: Tensor, u: Tensor) -> Tensor:
    """diag(u) H_m W~ H_n^T diag(v): (m, n) float64."""
    m, n = W_t.shape
    return u.double()[:, None] * (hadamard(m) @ W_t.double() @ hadamard(n).T) * v.double()


def e8p_words(codes: Tensor) -> Tensor:
    """Qidxs: (m, n / 32) of codes: (m, n / 8), bit by bit."""
    m, blocks = codes.shape
    words = []
    for row_tile in range(m // 16):
        for column_tile in range(blocks // 8):
            for pair in range(8):
                for group in range(4):
                    word = 0
                    for i in range(4):
                        code = int(codes[16 * row_tile + 2 * pair + i % 2, 8 * column_tile + 2 * group + i // 2])
                        word |= (code >> 8) << 8 * i
                        for j in range(8):
                            word |= (code >> j & 1) << 32 + 4 * j + i
                    words.append(word - 2**64 if word >= 2**63 else word)
    return torch.tensor(words).view(m, blocks // 4)


def quip_sharp_matrix(m: int, n: int, bits: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Qidxs and W~ of random codes."""
    first = torch.randint(0, 65536, (m, n // 8), generator=generator)
    W_t = points(CPU)[first].view(m, n)
    words = e8p_words(first)
    if bits == 4:
        second = torch.randint(0, 65536, (m, n // 8), generator=generator)
        W_t = W_t + points(CPU)[second].view(m, n) / RESIDUAL[bits]
        words = torch.cat([words, e8p_words(second)], 1)
    if bits == 3:
        second = torch.randint(0, 256, (m, n // 8), generator=generator)
        W_t = W_t + e81b(CPU)[second].view(m, n) / RESIDUAL[bits]
        octets = (second.view(m, -1, 8) << 8 * torch.arange(8)).sum(-1)  # the last shift may turn the sign
        words = torch.cat([words, octets], 1)
    return words, W_t


def vectors(m: int, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """SU and SV as fine-tuning leaves them: near signs, and near signs times a scale."""
    SU, SV = ((torch.rand(w, generator=generator) * 0.4 + 0.8) * (torch.randint(0, 2, (w,)) * 2 - 1) for w in (n, m))
    return SU.half(), SV * 0.02


def quip_sharp_folder(
    path: Path, bits: int = 2, *, rescale: bool = False, **params: Any
) -> tuple[Path, dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(bits)
    tensors, weights = outside(generator)
    for block in (f"model.layers.{i}" for i in range(BLOCKS)):
        for name, parts, n in (
            ("self_attn.qkv_proj", {"self_attn.q_proj": Q, "self_attn.k_proj": KV, "self_attn.v_proj": KV}, HIDDEN),
            ("self_attn.o_proj", {"self_attn.o_proj": HIDDEN}, Q),
            ("mlp.upgate_proj", {"mlp.up_proj": INNER, "mlp.gate_proj": INNER}, HIDDEN),
            ("mlp.down_proj", {"mlp.down_proj": HIDDEN}, INNER),
        ):
            m = sum(parts.values())
            words, W_t = quip_sharp_matrix(m, n, bits, generator)
            SU, SV = vectors(m, n, generator)
            SV, Wscale = SV.half(), torch.tensor(1.25)
            stored = {"Qidxs": words, "SU": SU, "SV": SV, "Wscale": Wscale}
            stored["codebook_id"] = torch.tensor(CODEBOOK_IDS[bits])
            W = dense(W_t, SU, SV.double() * Wscale)
            if rescale:
                stored["scaleWH"] = torch.rand(n, generator=generator) + 0.5
                W = W / stored["scaleWH"].double()
            if len(parts) > 1:
                stored["fuse_scales"] = torch.rand(len(parts), generator=generator) + 0.5
            for i, (part, rows) in enumerate(zip(parts, W.split(list(parts.values())), strict=True)):
                scale = float(stored["fuse_scales"][i]) if len(parts) > 1 else 1.0
                weights[f"{block}.{part}.weight"] = scale * rows
            tensors |= {f"{block}.{name}.{key}": tensor for key, tensor in stored.items()}
    names = {2: "E8P12", 3: "E8P12RVQ3B", 4: "E8P12RVQ4B"}
    return write(path, tensors, {**QUIP_SHARP, "codebook": names[bits], "rescale_WH": rescale, **params}), weights


def published_pair(state: int, tlut: list[list[float]]) -> tuple[float, float]:
    h = state * (state + 1) % 2**32
    a, b = tlut[h >> 6 & 511]
    return (-a if h >> 15 & 1 else a), b


def computed(state: int, mode: str) -> float:
    if mode == "1mad":
        x = (state * 34038481 + 76625530) % 2**32
        return (sum(x.to_bytes(4, "little")) - 510) / 147.800537109375
    x = ((state * 89226354 + 64248484) % 2**32 & 0x8FFF8FFF) ^ 0x3B603B60
    low, high = struct.unpack("<ee", x.to_bytes(4, "little"))
    return struct.unpack("<e", struct.pack("<e", low + high))[0]  # a sum of halves is a half


def window(string: list[int], start: int) -> int:
    return int("".join(map(str, (string + string)[start : start + 16])), 2)


def trellis_matrix(
    m: int, n: int, K: int, *, mode: str, tlut: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """The tensor ``trellis`` and W~ of random bits."""
    hybrid = mode == "quantlut_sym"
    order, pairs = torch.arange(256), tlut.tolist()
    if hybrid:
        order = order.reshape(2, 8, 2, 4, 2).permute(1, 3, 2, 0, 4).flatten()
    W_t = torch.zeros(m, n)
    strings: dict[tuple[int, int], list[int]] = {}
    for r in range(m // 16):
        for c in range(n // 16):
            string = torch.randint(0, 2, (256 * K,), generator=generator).tolist()
            strings[r, c] = string
            if hybrid:
                values = [value for t in range(128) for value in published_pair(window(string, 2 * K * t), pairs)]
            else:
                values = [computed(window(string, K * t), mode) for t in range(256)]
            tile = torch.zeros(256)
            tile[order] = torch.tensor(values)
            W_t[16 * r : 16 * r + 16, 16 * c : 16 * c + 16] = tile.view(16, 16)
    octets = {
        place: [int("".join(map(str, string[i : i + 8])), 2) for i in range(0, len(string), 8)]
        for place, string in strings.items()
    }
    return (woven(octets, m, n, K) if hybrid else plain(octets)).view(-1, 16 * K), W_t


def woven(octets: dict[tuple[int, int], list[int]], m: int, n: int, K: int) -> Tensor:
    """Bytes as [m/32, n/32, 32, column half, row half, K], the last axis reversed; as int16."""
    found = torch.zeros(m // 32, n // 32, 32, 2, 2, K, dtype=torch.uint8)
    for (r, c), stream in octets.items():
        for i, octet in enumerate(stream):
            found[r // 2, c // 2, i // K, c % 2, r % 2, K - 1 - i % K] = octet
    return found.flatten().view(torch.int16)


def plain(octets: dict[tuple[int, int], list[int]]) -> Tensor:
    """Words of 16 bits, the first bit the highest, tile after tile; as int16."""
    words = [stream[i] << 8 | stream[i + 1] for stream in octets.values() for i in range(0, len(stream), 2)]
    return torch.tensor(words).to(torch.int16)


def qtip_folder(
    path: Path,
    K: int = 2,
    mode: str = "quantlut_sym",
    *,
    skip: tuple[str, ...] = (),
    K_v: int | None = None,
    **params: Any,
) -> tuple[Path, dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(K)
    tensors, weights = outside(generator)
    for i in range(BLOCKS):
        for name, m, n in (
            *(("self_attn.q_proj", Q, HIDDEN), ("self_attn.k_proj", KV, HIDDEN), ("self_attn.v_proj", KV, HIDDEN)),
            *(("self_attn.o_proj", HIDDEN, Q), ("mlp.gate_proj", INNER, HIDDEN), ("mlp.up_proj", INNER, HIDDEN)),
            ("mlp.down_proj", HIDDEN, INNER),
        ):
            full = f"model.layers.{i}.{name}"
            if f"{i}_{name.split('.')[1].split('_')[0]}" in skip:
                W = torch.randn(m, n, generator=generator) * 0.05
                tensors[f"{full}.weight"] = weights[f"{full}.weight"] = W.half()
                continue
            tlut = (torch.randn(512, 2, generator=generator) * 0.9).half()
            k = K_v if K_v and "v_proj" in name else K
            trellis, W_t = trellis_matrix(m, n, k, mode=mode, tlut=tlut, generator=generator)
            SU, SV = vectors(m, n, generator)
            stored = {"trellis": trellis, "SU": SU, "SV": SV, "rcp": torch.tensor(0), "tp_rank": torch.tensor(8)}
            if mode == "quantlut_sym":
                stored["tlut"] = tlut
            tensors |= {f"{full}.{key}": tensor for key, tensor in stored.items()}
            weights[f"{full}.weight"] = dense(W_t, SU, SV)
    settings = {**QTIP, "K": K, "decode_mode": mode, "V": 2 if mode == "quantlut_sym" else 1}
    settings |= {"skip_list": list(skip) or None} | ({"K_v_proj": K_v} if K_v else {})
    return write(path, tensors, {**settings, **params}), weights


def outside(generator: torch.Generator) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Tensors of embedding, norms and head, twice: for the folder and for the plain model."""
    ones = [f"model.layers.{i}.{name}.weight" for i in range(BLOCKS) for name in NORMS] + ["model.norm.weight"]
    tensors = {name: 1 + 0.1 * torch.randn(HIDDEN, generator=generator) for name in ones}
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        tensors[name] = torch.randn(VOCABULARY, HIDDEN, generator=generator) * 0.5
    tensors = {name: tensor.half() for name, tensor in tensors.items()}
    return tensors, dict(tensors)


NORMS = ("input_layernorm", "post_attention_layernorm")


def write(path: Path, tensors: dict[str, Tensor], params: dict[str, Any]) -> Path:
    path.mkdir(parents=True)
    (path / "config.json").write_text(json.dumps({**CONFIG, "quip_params": params}), encoding="utf-8")
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path / "model.safetensors")
    write_tokenizer(path)
    return path
