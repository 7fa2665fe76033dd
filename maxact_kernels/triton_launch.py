"""From a run of rows to launches of the Triton kernels: which kernel, compiled for what, with which arguments."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import NamedTuple

import torch
import triton
from triton.compiler import ASTSource

from . import triton_book as B
from .fields import Options
from .layout import Run
from .triton_count import FINE_BINS, WIDE_BINS
from .triton_fold import BLOCK, fold_kernel
from .triton_list import AT_LEAST, N_CLOSING, list_kernel, order_kernel
from .triton_peaks import opening
from .triton_read import read_kernel
from .triton_shapes import shape_for
from .triton_slow import slow_kernel
from .triton_sums import opening as opening_of_sums

KINDS = {"bfloat16": 0, "float16": 1, "float32": 2}
MAX_ROWS = 1 << 22  # of one launch: 32 bytes a row are kept between the kernels
MAX_ELEMENTS = 1 << 31  # of one launch: programs count in 32 bits
INTERPRETED = triton.knobs.runtime.interpret
_ROW_BYTES, _ROW_BYTES_INT8 = 32, 64
_TYPES = {"capacity": "i64", "inner": "i32", "inner_stride": "i64", "outer_stride": "i64", "t_abs": "fp32", "t_ratio": "fp32"}
_POINTERS = {"x_ptr": "*i32", "mask_ptr": "*i8"}


class Kernel(NamedTuple):
    """A kernel with its constants; of the pointers `aligned` the addresses are multiples of 16."""

    function: object
    constants: tuple[tuple[str, object], ...]
    warps: int
    aligned: tuple[str, ...] = ("book_ptr", "rows_ptr")
    most_registers: int | None = None  # of a thread; None: as many as it wants

    def source(self) -> ASTSource:
        names, constants = self.function.arg_names, dict(self.constants)
        signature = {
            name: _POINTERS.get(name, "*i64") if name.endswith("_ptr") else _TYPES.get(name, "i32")
            for name in names
            if name not in constants
        }
        attributes = {(names.index(name),): [["tt.divisibility", 16]] for name in self.aligned if name in names}
        return ASTSource(self.function, signature, constants, attributes)

    def compile(self, target=None):
        # No product and sum become one operation unless the kernel says so: bits must not depend on the compiler.
        options = {"num_warps": self.warps, "num_stages": 1, "enable_fp_fusion": False}
        if dict(self.constants).get("FOLLOWS"):
            options["launch_pdl"] = True
        if self.most_registers:
            options["maxnreg"] = self.most_registers
        return triton.compile(self.source(), target=target, options=options)


def kernels(o: Options, arch: int, aligned: bool, masked: bool, named: bool) -> dict[str, Kernel]:
    """The kernels of an update, in the order in which they run. arch: of an NVIDIA GPU, 80 or more; 0: none. aligned: rows
    begin at multiples of 16 bytes and end there too."""
    shape = shape_for(o, arch, aligned)
    common = {"KIND": KINDS[o.dtype], "NAMED": named}
    reads = {**common, "MASKED": masked, "COUNTS": o.counts, "INT8": o.int8_per_token, "LEADS": arch >= 90}
    common["FOLLOWS"] = arch >= 90
    lists = {**common, "MASKED": masked, "MAX_TOPK": triton.next_power_of_2(o.topk), "N_PIECES": B.N_FOLDING}
    cols = min(4096, max(256, triton.next_power_of_2(o.d)))
    more = min(cols, max(256, triton.next_power_of_2(o.d - cols))) if o.d > cols else 0
    folds = {"COUNTS": o.counts, "MEDIANS": o.medians, "INT8": o.int8_per_token, "SAMPLES": o.n_samples > 0,
             "SUMS": opening_of_sums(1 + 2 * o.medians + 4 * o.int8_per_token) if arch else ""}  # fmt: skip
    tiles = {}
    if shape is not None:
        bins = 0 if not o.counts or not arch else FINE_BINS if o.dtype == "float16" else WIDE_BINS
        table = opening(shape.rows * shape.length * shape.chunks)
        tiles = {"R": shape.rows, "L": shape.length, "K": shape.chunks, "AHEAD": shape.ahead, "ALIGNED": aligned,
                 "MEDIANS": o.medians, "PACKED": (arch >= 90) * (2 if shape.rows == 1 and o.dtype != "float32" else 1), "N_BINS": bins,
                 "PEAKS": table if shape.shared and arch >= 90 else "", "STAGE": table if shape.staged and aligned and arch >= 80 else "",
                 "TWICE": shape.twice}  # fmt: skip
    parts = {
        "read": (read_kernel, {**tiles, **reads}, shape.warps) if shape else (slow_kernel, reads, 4),
        "fold": (fold_kernel, {**common, **folds, "MAX_TOPK": lists["MAX_TOPK"]}, 4),
        "list": (list_kernel, {**lists, "COLS": cols, "MORE": more}, cols // 512 if cols >= 1024 else 4),
        "order": (order_kernel, {**lists, "MINE": 8 if arch else 32, "OTHERS": 256 if arch else 1024}, 4),
    }
    pointers = ("book_ptr", "rows_ptr", "x_ptr") if aligned else ("book_ptr", "rows_ptr")
    # As many registers as leave room for the programs of a multiprocessor, on each of its four schedulers.
    room = {"read": min(255, 16384 // (32 * -(-shape.warps * shape.programs // 4)) // 8 * 8)} if shape and arch else {}
    return {
        name: Kernel(function, tuple(constants.items()), warps, pointers, room.get(name))
        for name, (function, constants, warps) in parts.items()
    }


@lru_cache
def launcher(kernel: Kernel, device: int | None):
    """A function (number of programs, stream, arguments but the constants) that launches a kernel on the current GPU,
    `device`, for which alone its machine code is loaded."""
    if INTERPRETED:
        constants = dict(kernel.constants)
        return lambda grid, stream, *arguments: kernel.function[(grid,)](*arguments, **constants)
    compiled = kernel.compile()
    # Triton's own way from arguments to a kernel takes several times as long. `run` first: it loads the machine code.
    run = compiled.run
    function, metadata = compiled.function, compiled.packed_metadata

    def launch(grid, stream, *arguments):
        run(grid, 1, 1, stream, function, metadata, None, None, None, *arguments)

    return launch


def _current_device() -> int:
    return triton.runtime.driver.active.get_current_device()


def _current_stream(device: int) -> int:
    return triton.runtime.driver.active.get_current_stream(device)


class Plan:
    """The launches of an update for one set of options, on one device."""

    def __init__(self, o: Options, device: int | None, aligned: bool, masked: bool, named: bool):
        arch, n_sms = _device(device)
        shape = shape_for(o, arch, aligned)
        launches = {name: launcher(kernel, device) for name, kernel in kernels(o, arch, aligned, masked, named).items()}
        self.read, self.fold, self.list, self.order = launches.values()
        self.n_programs = min((shape.programs if shape else 4) * n_sms, B.MAX_PROGRAMS - B.N_FOLDING)
        self.rows = shape.rows if shape else 1
        self.n_pieces = 4 if INTERPRETED else B.N_FOLDING
        self.n_lists, self.n_orders = (n_sms, n_sms) if INTERPRETED else (4 * n_sms, n_sms)
        # Of the strides that the reading kernel gets, in elements: it loads 16 bytes, or slow_kernel one element.
        self.unit = (4 if o.dtype == "float32" else 8) if aligned and shape else 1


@lru_cache
def _device(device: int | None) -> tuple[int, int]:
    """(compute capability of an NVIDIA GPU, 80 or more, else 0; multiprocessors)"""
    if INTERPRETED:
        return 0, 2
    target = triton.runtime.driver.active.get_current_target()
    n_sms = triton.runtime.driver.active.utils.get_device_properties(device)["multiprocessor_count"]
    return (target.arch if target.backend == "cuda" else 0), n_sms


class Handle:
    """A state's book, its scratch, and the plans for its options."""

    def __init__(self, state):
        o, self.options, self.device = state.options, state.options, state.device
        with torch.inference_mode(False):
            self.book = torch.zeros(B.N_WORDS, dtype=torch.int64, device=state.device)
            # At most topk - i elements of the i-th candidate row, or a few more, and those that the state has.
            n_entries = o.topk * (o.topk + 1) // 2 + o.topk * (1 + AT_LEAST.value)
            self.entries = torch.zeros(3 * n_entries, dtype=torch.int64, device=state.device)
        addresses = [state.fields[name].data_ptr() if name in state.fields else 0 for name in B.FIELDS]
        self.book[: len(addresses)] = torch.tensor(addresses)
        self.book[B.ENTRIES.value] = self.entries.data_ptr()
        self.book_address = self.book.data_ptr()
        self.plans: dict[tuple[bool, bool, bool], Plan] = {}
        self.capacity, self.rows_address = 0, 0
        self.rows: list[torch.Tensor] = []  # the last is in use; a captured graph goes on with the one it knows
        self.row_bytes = _ROW_BYTES_INT8 if o.int8_per_token else _ROW_BYTES
        self.element_bytes = getattr(torch, o.dtype).itemsize
        self.most_rows = max(1, min(MAX_ROWS, MAX_ELEMENTS // max(o.d, 1)))

    def update(self, runs: Iterable[Run]) -> None:
        if INTERPRETED or _current_device() == self.device.index:
            self._update(runs)
        else:
            with torch.get_device_module(self.device).device(self.device.index):
                self._update(runs)

    def _update(self, runs: Iterable[Run]) -> None:
        for run in runs:
            if run[1] <= self.most_rows:
                self._launch(*run)
            else:
                for part in _parts(run, self.most_rows, self.element_bytes):
                    self._launch(*part)

    def _launch(self, x, n_rows, inner, inner_stride, outer_stride, mask, ids) -> None:
        o, unit = self.options, 16 // self.element_bytes
        aligned = not (x % 16 or inner_stride % unit or outer_stride % unit or o.d % unit)
        key = (aligned, mask != 0, ids != 0)
        plan = self.plans.get(key)
        if plan is None:
            plan = self.plans[key] = Plan(o, self.device.index, *key)
        if n_rows > self.capacity:
            self._grow(n_rows)
        book, rows, capacity, d, topk = self.book_address, self.rows_address, self.capacity, o.d, o.topk
        stream = 0 if INTERPRETED else _current_stream(self.device.index)
        n_programs = min(plan.n_programs, -(-n_rows // plan.rows))
        n_pieces = min(plan.n_pieces, -(-n_rows // BLOCK.value))
        plan.read(
            n_programs, stream, x, mask, ids, book, rows, n_rows, inner, inner_stride // plan.unit,
            outer_stride // plan.unit, capacity, d, topk, o.t_abs, o.t_ratio)  # fmt: skip
        plan.fold(
            n_pieces, stream, x, ids, book, rows, n_rows, inner, inner_stride, outer_stride, capacity, d, topk, o.t_abs,
            o.t_ratio, o.n_samples, n_programs)  # fmt: skip
        plan.list(
            plan.n_lists, stream, x, ids, book, rows, n_rows, inner, inner_stride, outer_stride, capacity, d, topk,
            n_pieces)  # fmt: skip
        plan.order(
            plan.n_orders + N_CLOSING.value, stream, ids, book, rows, n_rows, capacity, topk, n_pieces, n_programs + n_pieces)  # fmt: skip

    def _grow(self, n_rows: int) -> None:
        self.capacity = max(-(-n_rows // 256) * 256, min(2 * self.capacity, MAX_ROWS))
        with torch.inference_mode(False):
            self.rows.append(torch.empty(self.capacity * self.row_bytes, dtype=torch.uint8, device=self.device))
        self.rows_address = self.rows[-1].data_ptr()


def _parts(run: Run, most: int, element_bytes: int) -> Iterator[Run]:
    """The run in parts of at most `most` rows."""
    x, n_rows, inner, inner_stride, outer_stride, mask, ids = run
    step = most // inner * inner  # whole outer rows, or parts of one
    first = 0
    while first < n_rows:
        left = n_rows - first if step else inner - first % inner
        n = min(step or most, left)
        at = x + element_bytes * (first // inner * outer_stride + first % inner * inner_stride)
        part = (n, inner, inner_stride, outer_stride) if step else (n, n, inner_stride, 0)
        yield at, *part, mask and mask + first, ids and ids + 8 * first
        first += n
