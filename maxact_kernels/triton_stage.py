"""The next tile of a program on its way to shared memory while this one is looked at, where PTX is: registers that hold a tile
leave no room for another. A thread reads what it asked for itself and nothing else, so none waits for others."""

import triton
import triton.language as tl

from .triton_peaks import open_table

# Four words of a lane, 16 bytes: where to, from where, how many bytes of them there are; the rest are zeros.
_ASK = tl.constexpr(
    "cp.async.cg.shared.global [$4], [$8], 16, $12; mov.u32 $0, 0; mov.u32 $1, 0; mov.u32 $2, 0; mov.u32 $3, 0;"
)
_ASK_OPERANDS = tl.constexpr("=r,=r,=r,=r,r,r,r,r,l,l,l,l,r,r,r,r")
_TAKE = tl.constexpr("ld.shared.v4.u32 {$0, $1, $2, $3}, [$4];")
_TAKE_OPERANDS = tl.constexpr("=r,=r,=r,=r,r,r,r,r")
# If a compiler ever gave a lane words that do not follow each other, the kernel ends here.
_SETTLE = tl.constexpr(
    "{.reg .pred p; .reg .b32 a; add.u32 a, $4, 12; setp.ne.u32 p, a, $7; @p trap; mov.u32 $0, $4; mov.u32 $1, $5; "
    "mov.u32 $2, $6; mov.u32 $3, $7;}"
)
_SETTLE_OPERANDS = tl.constexpr("=r,=r,=r,=r,r,r,r,r,r,r,r,r")


@triton.jit
def open_stage(OPENING: tl.constexpr, x_ptr, here, on, n_words, R: tl.constexpr, L: tl.constexpr):
    """The address of each lane's word of the first K-th of a tile. OPENING: triton_peaks.opening. [R, L] int32"""
    place = tl.arange(0, L)[None, :]
    lane_words = open_table(OPENING) + 4 * (tl.arange(0, R)[:, None] * L + place)
    # A load settles which words are whose: what follows it has four in a row a lane.
    at, inside = (here * 4)[:, None] + place, on[:, None] & (place // 4 < n_words // 4)
    anchor = tl.load(x_ptr.to(tl.pointer_type(tl.int32)) + at, mask=inside, other=0)
    return tl.inline_asm_elementwise(_SETTLE, _SETTLE_OPERANDS, [lane_words, anchor], tl.int32, True, 4)


@triton.jit
def ask_for_words(lane_words, source, n_bytes):
    """Four words of a lane, from an address in global memory."""
    tl.inline_asm_elementwise(_ASK, _ASK_OPERANDS, [lane_words, source, n_bytes], tl.int32, False, 4)


@triton.jit
def ask_for_tile(lane_words, x_ptr, offset, on, n_words, R: tl.constexpr, L: tl.constexpr, K: tl.constexpr):
    """What triton_words.load_words does for aligned rows, but for the waiting."""
    place = tl.arange(0, L)[None, :]
    source = x_ptr.to(tl.int64) + (offset * 16)[:, None] + 4 * place
    for k in tl.static_range(K):
        inside = on[:, None] & (place >= 0)
        if k == K - 1:
            inside = inside & ((k * L + place) // 4 < n_words // 4)
        ask_for_words(lane_words + k * (4 * R * L), source + k * (4 * L), tl.where(inside, 16, 0))


@triton.jit
def await_tile():
    """Until all that was asked for is there."""
    tl.inline_asm_elementwise("cp.async.wait_all; mov.u32 $0, 0;", "=r,r", [tl.program_id(0)], tl.int32, False, 1)


@triton.jit
def take_words(lane_words):
    return tl.inline_asm_elementwise(_TAKE, _TAKE_OPERANDS, [lane_words], tl.int32, False, 4)


@triton.jit
def take_tile(lane_words, R: tl.constexpr, L: tl.constexpr, K: tl.constexpr):
    """The tile that ask_for_tile asked for."""
    await_tile()
    words = ()
    for k in tl.static_range(K):
        words = words + (take_words(lane_words + k * (4 * R * L)),)
    return words


@triton.jit
def clear_tile(lane_words, R: tl.constexpr, L: tl.constexpr, K: tl.constexpr):
    for k in range(K):
        tl.inline_asm_elementwise(
            "st.shared.u32 [$1], 0; mov.u32 $0, 0;", "=r,r", [lane_words + k * (4 * R * L)], tl.int32, False, 1)  # fmt: skip
