"""Which tile a program of one warp takes next: three quarters of them are dealt beforehand, the others go to whoever asks, since
programs do not advance alike. Some share a scheduler with more of them than others do."""

import triton
import triton.language as tl

from . import triton_book as B

# $1 the counter of all programs, $2 whether a number is wanted: lane 0 gets it.
_DRAW = tl.constexpr(
    "{.reg .pred p; .reg .b32 lane; mov.u32 lane, %laneid; setp.eq.u32 p, lane, 0; setp.ne.and.b32 p, $2, 0, p; "
    "mov.u32 $0, 0; @p atom.relaxed.gpu.global.inc.u32 $0, [$1], 0x7FFFFFFF;}"
)


@triton.jit
def dealt(n_tiles, n_programs):
    """How many tiles are dealt beforehand: the same to each program, one at least."""
    return tl.maximum(n_tiles // 4 * 3 // n_programs, 1) * n_programs


@triton.jit
def draw(book_ptr, tile, n_dealt, n_programs):
    """Ask for the tile after next, if it is not dealt. Nobody waits for the answer before next_tile needs it."""
    wanted = (tile + 2 * n_programs >= n_dealt).to(tl.int32)
    return tl.inline_asm_elementwise(_DRAW, "=r,l,r", [book_ptr + B.DRAWN, wanted], tl.int32, False, 1)


@triton.jit
def next_tile(tile, drawn, n_dealt, n_programs):
    """The tile after `tile`; drawn: what `draw` returned for the tile before it."""
    number = tl.inline_asm_elementwise("shfl.sync.idx.b32 $0, $1, 0, 31, -1;", "=r,r", [drawn], tl.int32, False, 1)
    return tl.where(tile + n_programs >= n_dealt, n_dealt + number, tile + n_programs)
