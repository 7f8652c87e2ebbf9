"""What products on CUDA must do, in Triton's interpreter or by its compiler: run in processes of their own."""

from __future__ import annotations

from typing import Any

import torch
from product_cases import EXACT, inputs, relative_error

from quip_engine.codebooks import Codebook
from quip_engine.codebooks.column_trellis import ColumnTrellis
from quip_engine.codebooks.e8p import E8P
from quip_engine.codebooks.e8p_rvq import ResidualE8P
from quip_engine.codebooks.published_trellis import PublishedTrellis
from quip_engine.codebooks.trellis import Trellis
from quip_engine.commands.bench.layers import random_layer
from quip_engine.products import Product, reference
from quip_engine.products.column_trellis_cuda import ColumnTrellisOnCuda
from quip_engine.products.lattice_cuda import LatticeOnCuda
from quip_engine.products.trellis_cuda import TrellisOnCuda

INEXACT = 3e-4  # of float16 weights


def check(product: Product, codebook: Codebook, m: int, n: int, *rows: int) -> None:
    """Both ways of a product against plain torch, on the CPU. Measured: 3e-7 and 1e-7."""
    layer = random_layer(codebook, m, n, torch.Generator().manual_seed(0))
    W = codebook.decode(layer.tensors, m, n)
    for b in rows:
        x = inputs(n, b)
        y = product.multiply(layer, x)
        assert y.shape == (b, m), (codebook, b)
        assert relative_error(y, reference(layer, x)) <= EXACT, (codebook, b)
    assert relative_error(product.unpack(layer, torch.float32), W) <= 1e-6, codebook
    assert relative_error(product.unpack(layer, torch.float16).float(), W) <= INEXACT, codebook


def interpreted_lattice() -> None:
    check(LatticeOnCuda(), E8P(), 70, 1100, 1, 3, 17)  # several shares of the width
    check(LatticeOnCuda(), E8P(), 5, 20, 1, 2)
    for residual in (ResidualE8P(bits=3), ResidualE8P(bits=4), ResidualE8P(bits=4, published=True)):
        check(LatticeOnCuda(), residual, 33, 60, 1, 2)


def interpreted_trellis() -> None:
    check(TrellisOnCuda(), Trellis(L=16, code="3inst"), 140, 150, 1, 17)
    codes = [("1mad", 16, 1), ("mul1", 16, 3), ("3inst", 12, 4), ("hyb", 16, 2), ("hyb", 12, 3)]
    for code, L, bits in [*codes, ("quantile", 16, 4), ("levels", 12, 2), ("trained", 10, 1)]:
        check(TrellisOnCuda(), Trellis(bits=bits, L=L, code=code), 17, 20, 1, 2)
    for bits in (2, 3):
        check(TrellisOnCuda(), PublishedTrellis(bits=bits), 17, 20, 1, 2)


def interpreted_columns() -> None:
    check(ColumnTrellisOnCuda(), ColumnTrellis(bits=2.0), 500, 70, 1, 17)  # sequences of 250 rows
    check(ColumnTrellisOnCuda(), ColumnTrellis(bits=1.5, L=16, row_scales=True), 150, 40, 1, 2)
    check(ColumnTrellisOnCuda(), ColumnTrellis(bits=2.5, group=1), 130, 20, 1, 2)
    check(ColumnTrellisOnCuda(), ColumnTrellis(bits=4.0, L=8, group=5), 130, 21, 1, 2)


POINTERS = {
    "tables words rates steps": "*i32",
    "table planes x scale y factors base inverse_gains": "*fp32",
    "begins": "*i64",
    "codes residual": "*i16",
    "row_scales scales": "*u8",
    "W": "*bf16",
}
TYPES = {name: kind for names, kind in POINTERS.items() for name in names.split()} | {
    "inverse_r": "fp32",
    "unit": "fp32",
}


def compiled(capability: int) -> None:
    """Every kernel compiles for a GPU, without one, and fits the shared memory and registers of its kind."""
    from quip_engine.native import column_strings_triton, column_triton, e8p_triton, trellis_triton

    e8p: dict[str, Any] = {"RESIDUAL": 16, "ROWS": e8p_triton.ROWS}
    for many, codes in ((False, e8p_triton.CODES), (True, e8p_triton.CODES_MANY)):
        build(e8p_triton._multiply, capability, e8p | {"MANY": many, "CODES": codes}, num_stages=e8p_triton.STAGES)
    build(e8p_triton._unpack, capability, e8p | {"CODES": e8p_triton.CODES_UNPACKED})
    build(e8p_triton._spread, capability, {"CODES": e8p_triton.SPREAD})
    trellis: dict[str, Any] = {"K": 2, "L": 16, "V": 1, "CODE": "3inst", "PUBLISHED": False}
    down = {"DOWN": trellis_triton.DOWN, "ACROSS": trellis_triton.ACROSS}
    for code in ("1mad", "mul1", "3inst", "table"):
        build(
            trellis_triton._multiply,
            capability,
            trellis | down | {"MANY": False, "CODE": code},
            num_stages=trellis_triton.STAGES,
        )
    down["ACROSS"] = trellis_triton.ACROSS_MANY
    build(
        trellis_triton._multiply,
        capability,
        trellis | down | {"MANY": True, "CODE": "table"},
        num_stages=trellis_triton.STAGES,
    )
    published = trellis | {"V": 2, "CODE": "hyb", "PUBLISHED": True, "ACROSS": trellis_triton.ACROSS}
    build(trellis_triton._unpack, capability, published, types={"table": "*fp16"})
    columns: dict[str, Any] = {"L": 12, "GROUP": 16, "STEP_BITS": 3, "ROW_OCTAVE": 8}
    columns |= {"UNITS": column_triton.UNITS, "COLUMNS": 16}
    for many in (False, True):
        build(column_triton._multiply, capability, columns | {"MANY": many, "GROUPS": 1}, types={"codes": "*u8"})
    build(column_triton._unpack, capability, columns, types={"codes": "*u8"})
    sides = {"L": 12, "GROUP": 16, "RATE_BITS": 6, "STEP_BITS": 3, "SCALE_BITS": 8, "OCTAVE": 16, "BLOCK": 1024}
    build(column_strings_triton.find_groups, capability, sides, types={"rates": "*u8"})


SHARED = 99 * 1024  # bytes of a program on consumer cards, the least there are


def build(
    kernel: Any, capability: int, constants: dict[str, Any], types: dict[str, str] | None = None, **how: int
) -> None:
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    kinds = {name: (TYPES | (types or {})).get(name, "i32") for name in kernel.arg_names}
    signature = {name: "constexpr" if name in constants else kind for name, kind in kinds.items()}
    values = {(kernel.arg_names.index(name),): value for name, value in constants.items()}
    source = ASTSource(kernel, signature, values)
    found = triton.compile(source, target=GPUTarget("cuda", capability, 32), options={"enable_fp_fusion": True, **how})
    assert len(found.asm["cubin"]) > 0
    assert found.metadata.shared <= SHARED, (kernel, found.metadata.shared)
