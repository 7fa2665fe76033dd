"""Rows as words of 32 bits, two elements of 16 bits each or one of float32, and what is asked of them, in Triton.

A tile is a tuple of K tensors [R, L] of words: R rows, of each the words k * L .. k * L + L - 1 in the k-th. So a thread
always holds the same features, what is taken over k costs no exchange, and only the last of K may hold padding, zeros.
Where PACKED, both halves of a word take one instruction (sm_90 and later), and where it is 2, for tiles of one row, matrix
units add; elsewhere the same is done half by half. Words lose their signs early, so most of this is of magnitudes.
"""

import triton
import triton.language as tl

BF16, FP16, FP32 = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2)
_HALVES = tl.constexpr(0x7FFF7FFF)  # magnitudes of two elements; of no element, where a smallest is looked for
_UPPER = tl.constexpr(-65536)  # the upper half of a word
_COUNT = "{{.reg .b32 one; set.le.{0}.{0} one, $2, $3; add.rn.{0} $0, $1, one;}}"
_COUNT_BF16, _COUNT_FP16 = tl.constexpr(_COUNT.format("bf16x2")), tl.constexpr(_COUNT.format("f16x2"))
# The larger magnitude of each half. As numbers of float16 the magnitudes of both types order up to 0x7C00; what is larger
# is nan, which wins as 0x7FFF.
_LARGER = tl.constexpr("{.reg .b32 x; abs.f16x2 x, $2; max.NaN.f16x2 $0, $1, x;}")

# Matrix units add eight elements a lane in one instruction. A has the words of a warp, four a lane; column n of B picks
# elements 2n and 2n + 1 of a row of A, so that each of the 128 cells adds two numbers a step. All cells of a tile of one row
# are of that row, whatever lane has them.
_PICK = tl.constexpr(
    "{.reg .b32 lane, quad, member, four; .reg .pred p; mov.u32 lane, %laneid; shr.u32 quad, lane, 2; and.b32 member, lane, 3; "
    "setp.eq.u32 p, quad, member; selp.b32 $0, $2, 0, p; add.u32 four, member, 4; setp.eq.u32 p, quad, four; "
    "selp.b32 $1, $2, 0, p;}"
)
_MMA = "mma.sync.aligned.m16n8k16.row.col.f32.TYPE.TYPE.f32 {$0, $1, $2, $3}, {A}, {$12, $16}, {$4, $5, $6, $7};"
_ADD_UP = _MMA.replace("A}", "$8, $9, $10, $11}")
_SET = "".join(f"set.le.TYPEx2.TYPEx2 {x}, ${8 + i}, $20; " for i, x in enumerate("abcd"))
_COUNT_UP = "{.reg .b32 a, b, c, d; " + _SET + _MMA.replace("A}", "a, b, c, d}") + "}"
_ADD_UP_BF16, _ADD_UP_FP16 = (tl.constexpr(_ADD_UP.replace("TYPE", name)) for name in ("bf16", "f16"))
_COUNT_UP_BF16, _COUNT_UP_FP16 = (tl.constexpr(_COUNT_UP.replace("TYPE", name)) for name in ("bf16", "f16"))
_CELLS = "=f,=f,=f,=f,f,f,f,f,r,r,r,r,r,r,r,r,r,r,r,r"
_ADD_UP_OPERANDS, _COUNT_UP_OPERANDS = tl.constexpr(_CELLS), tl.constexpr(_CELLS + ",r,r,r,r")


@triton.jit
def floor_key(value, KIND: tl.constexpr):
    """The key of the largest magnitude that is at most `value`, a float32 of at least 0."""
    if KIND == FP16:
        nearest = value.to(tl.float16)
        key = nearest.to(tl.int16, bitcast=True).to(tl.int32)
        return tl.where(nearest.to(tl.float32) > value, key - 1, key)
    elif KIND == BF16:
        return value.to(tl.int32, bitcast=True) >> 16
    else:
        return value.to(tl.int32, bitcast=True)


@triton.jit
def low_value(word, KIND: tl.constexpr):
    """The first element of a word, or the magnitude that has a key's bits, float32."""
    if KIND == FP16:
        return word.to(tl.int16).to(tl.float16, bitcast=True).to(tl.float32)
    elif KIND == BF16:
        return (word << 16).to(tl.float32, bitcast=True)
    else:
        return word.to(tl.float32, bitcast=True)


@triton.jit
def high_value(word, KIND: tl.constexpr):
    """The second element of a word, float32."""
    if KIND == FP16:
        return (word >> 16).to(tl.int16).to(tl.float16, bitcast=True).to(tl.float32)
    else:
        return (word & _UPPER).to(tl.float32, bitcast=True)


@triton.jit
def magnitudes(word, KIND: tl.constexpr):
    return word & (0x7FFFFFFF if KIND == FP32 else _HALVES)


@triton.jit
def largest(a, b, KIND: tl.constexpr, PACKED: tl.constexpr):
    """Element by element the larger of signed integers."""
    if KIND == FP32:
        return tl.maximum(a, b)
    elif PACKED:
        return tl.inline_asm_elementwise("max.s16x2 $0, $1, $2;", "=r,r,r", [a, b], tl.int32, True, 1)
    else:
        return (tl.maximum(a, b) & _UPPER) | ((tl.maximum(a << 16, b << 16) >> 16) & 0xFFFF)


@triton.jit
def largest_unsigned(a, b, KIND: tl.constexpr, PACKED: tl.constexpr):
    """Element by element the larger of unsigned integers: a negative number is more than any other."""
    if KIND != FP32 and PACKED:
        return tl.inline_asm_elementwise("max.u16x2 $0, $1, $2;", "=r,r,r", [a, b], tl.int32, True, 1)
    else:
        u, v = a.to(tl.uint32, bitcast=True), b.to(tl.uint32, bitcast=True)
        if KIND == FP32:
            return tl.maximum(u, v).to(tl.int32, bitcast=True)
        else:
            high = tl.maximum(u, v).to(tl.int32, bitcast=True) & _UPPER
            return high | (tl.maximum(u << 16, v << 16) >> 16).to(tl.int32, bitcast=True)


@triton.jit
def smallest_magnitudes(a, b, KIND: tl.constexpr, PACKED: tl.constexpr):
    if KIND == FP32:
        return tl.minimum(a, b)
    elif PACKED:
        return tl.inline_asm_elementwise("min.u16x2 $0, $1, $2;", "=r,r,r", [a, b], tl.int32, True, 1)
    else:
        return (tl.minimum(a, b) & _UPPER) | tl.minimum(a & 0xFFFF, b & 0xFFFF)


@triton.jit
def smallest_of_three(a, b, c):
    """Of magnitudes of 16 bits, in the one instruction of sm_90 that ptxas makes of these two."""
    return tl.inline_asm_elementwise(
        "{.reg .b32 x; min.u16x2 x, $2, $3; min.u16x2 $0, $1, x;}", "=r,r,r,r", [a, b, c], tl.int32, True, 1)  # fmt: skip


@triton.jit
def row_largest(words, KIND: tl.constexpr):
    """The largest signed integer in words [R, L]. [R]"""
    return tl.max(words if KIND == FP32 else tl.maximum(words >> 16, (words << 16) >> 16), axis=1)


@triton.jit
def row_most_negative(words, KIND: tl.constexpr):
    """The magnitude of the largest unsigned integer in words [R, L], 0 if it has no sign. [R]"""
    if KIND == FP32:
        return tl.max(tl.where(words < 0, words & 0x7FFFFFFF, 0), axis=1)
    else:
        high = tl.where(words < 0, (words >> 16) & 0x7FFF, 0)
        low = tl.where((words & 0x8000) != 0, words & 0x7FFF, 0)
        return tl.max(tl.maximum(high, low), axis=1)


@triton.jit
def load_words(x_ptr, offset, on, n_words, d, KIND: tl.constexpr, ALIGNED: tl.constexpr, R: tl.constexpr,
               L: tl.constexpr, K: tl.constexpr):  # fmt: skip
    """A tile: the rows that begin `offset` [R] after x_ptr, in units of 16 bytes where ALIGNED, else of elements; zeros
    where `on` [R] is False and behind the end of a row."""
    UNIT: tl.constexpr = 4 if ALIGNED else 1
    place = tl.arange(0, L)[None, :]
    words = ()
    for k in tl.static_range(K):
        if ALIGNED or KIND == FP32:
            at = (offset * UNIT)[:, None] + (k * L + place)
            inside = on[:, None]
            if k == K - 1:
                inside = inside & ((k * L + place) // UNIT < n_words // UNIT)  # 16 bytes are inside or outside together
            word = tl.load(x_ptr.to(tl.pointer_type(tl.int32)) + at, mask=inside, other=0)
        else:
            feature = 2 * (k * L + place)
            low_inside, high_inside = on[:, None] & (place >= 0), on[:, None] & (place >= 0)
            if k == K - 1:
                low_inside, high_inside = low_inside & (feature < d), high_inside & (feature + 1 < d)
            halves = x_ptr.to(tl.pointer_type(tl.int16)) + (offset[:, None] + feature)
            low = tl.load(halves, mask=low_inside, other=0).to(tl.int32) & 0xFFFF
            word = low | (tl.load(halves + 1, mask=high_inside, other=0).to(tl.int32) << 16)
        words = words + (word,)
    return words


@triton.jit
def picks(KIND: tl.constexpr):
    """Each lane's two registers of B."""
    ones = tl.program_id(0) * 0 + (0x3F803F80 if KIND == BF16 else 0x3C003C00)
    return tl.inline_asm_elementwise(_PICK, "=r,=r,r", [ones], (tl.int32, tl.int32), True, 1)


@triton.jit
def add_up(cells, word, b0, b1, KIND: tl.constexpr):
    """Each of a warp's cells and two elements of a row in `word`; b0, b1: picks. [1, L] float32"""
    return tl.inline_asm_elementwise(
        _ADD_UP_BF16 if KIND == BF16 else _ADD_UP_FP16, _ADD_UP_OPERANDS, [cells, word, b0, b1], tl.float32, True, 4)  # fmt: skip


@triton.jit
def count_up(cells, word, both, b0, b1, KIND: tl.constexpr):
    """The same of ones for elements that are at most those of `both`."""
    return tl.inline_asm_elementwise(
        _COUNT_UP_BF16 if KIND == BF16 else _COUNT_UP_FP16, _COUNT_UP_OPERANDS, [cells, word, b0, b1, both],
        tl.float32, True, 4)  # fmt: skip


@triton.jit
def _by_matrix_units(words, both, COUNTED: tl.constexpr, KIND: tl.constexpr, R: tl.constexpr, L: tl.constexpr, K: tl.constexpr):
    """Parts of a row's sum or, COUNTED, of how many magnitudes are at most those of `both`. [R, L] float32"""
    b0, b1 = picks(KIND)
    zero = tl.zeros([R, L], tl.float32)
    cells = (zero, zero, zero, zero)  # four chains side by side: an instruction takes 30 cycles
    for k in tl.static_range(0, K, 4):
        longer = ()
        for i in tl.static_range(4):
            if k + i >= K:
                longer = longer + (cells[i],)
            elif COUNTED:
                longer = longer + (count_up(cells[i], words[k + i], both, b0, b1, KIND),)
            else:
                longer = longer + (add_up(cells[i], words[k + i], b0, b1, KIND),)
        cells = longer
    return (cells[0] + cells[1]) + (cells[2] + cells[3])


@triton.jit
def at_most(words, key, KIND: tl.constexpr, PACKED: tl.constexpr, R: tl.constexpr, L: tl.constexpr, K: tl.constexpr):
    """How many magnitudes of each row, padding too, are at most `key` [R]; none of them nan. [R] int32"""
    both = (key if KIND == FP32 else key * 0x10001)[:, None]
    if PACKED == 2:
        return tl.sum(_by_matrix_units(words, both, True, KIND, R, L, K), axis=1).to(tl.int32)
    n = tl.zeros([R, L], tl.int32)
    for k in tl.static_range(K):
        if KIND == FP32:
            n += (words[k] <= both).to(tl.int32)
        elif PACKED:
            # Ones of the element type, added in that type: bfloat16 counts to 256, K is less.
            n = tl.inline_asm_elementwise(
                _COUNT_BF16 if KIND == BF16 else _COUNT_FP16, "=r,r,r,r", [n, words[k], both], tl.int32, True, 1)  # fmt: skip
        else:
            # The upper bit of a half of `0x8000 + key - magnitude` is set where the magnitude is at most the key.
            n += (((both | -2147450880) - words[k]) >> 15) & 0x10001
    if KIND == FP32:
        return tl.sum(n, axis=1)
    elif PACKED:
        return tl.sum((low_value(n, KIND) + high_value(n, KIND)).to(tl.int32), axis=1)
    else:
        return tl.sum((n >> 16) + (n & 0xFFFF), axis=1)


@triton.jit
def larger_magnitudes(most, word, KIND: tl.constexpr, PACKED: tl.constexpr):
    """Of magnitudes and words with signs; a magnitude of 0x7C00 or more counts as 0x7FFF where PACKED."""
    if KIND != FP32 and PACKED:
        return tl.inline_asm_elementwise(_LARGER, "=r,r,r", [most, word], tl.int32, True, 1)
    else:
        return largest_unsigned(most, magnitudes(word, KIND), KIND, PACKED)


@triton.jit
def row_largest_magnitude(most, KIND: tl.constexpr):
    return tl.max(most if KIND == FP32 else tl.maximum(most >> 16, most & 0xFFFF), axis=1)


@triton.jit
def row_smallest_magnitude(least, KIND: tl.constexpr):
    return tl.min(least if KIND == FP32 else tl.minimum(least >> 16, least & 0xFFFF), axis=1)


@triton.jit
def largest_magnitude(words, KIND: tl.constexpr, PACKED: tl.constexpr, R: tl.constexpr, L: tl.constexpr, K: tl.constexpr):
    """Of each row of words with signs: larger_magnitudes. [R]"""
    most = tl.zeros([R, L], tl.int32)
    for k in tl.static_range(K):
        most = larger_magnitudes(most, words[k], KIND, PACKED)
    return row_largest_magnitude(most, KIND)


@triton.jit
def parts_of_sum(words, KIND: tl.constexpr, PACKED: tl.constexpr, R: tl.constexpr, L: tl.constexpr, K: tl.constexpr):
    """Numbers whose sum is that of the row. [R, L] float32

    By matrix units chains of K / 4 steps, each of which cuts where others round, at most 2^-23, then of two additions: with
    K <= 20 at most 12 * 2^-24 of the sum of |x| is lost. Else float32 adds chains of 4 words, K / 4 of those and the halves
    of a word, 15 additions at most for K <= 44. Float64 adds the rest.
    """
    zero = tl.zeros([R, L], tl.float32)
    whole, chain = zero, zero
    if PACKED == 2:
        whole = _by_matrix_units(words, zero, False, KIND, R, L, K)
    else:
        for k in tl.static_range(K):
            value = low_value(words[k], KIND)
            if KIND != FP32:
                value += high_value(words[k], KIND)
            chain = value if k % 4 == 0 else chain + value
            if k % 4 == 3 or k == K - 1:
                whole += chain
    return whole


@triton.jit
def add_five(a, b, c, d, e, f, g, h, i, j):
    return a + f, b + g, c + h, d + i, e + j


@triton.jit
def ends(words, KIND: tl.constexpr, PACKED: tl.constexpr, R: tl.constexpr, L: tl.constexpr, K: tl.constexpr):
    """Of each row the largest positive and the largest negative magnitude (0: none). [R] each"""
    positive, negative = tl.zeros([R, L], tl.int32), tl.zeros([R, L], tl.int32)
    for k in tl.static_range(K):
        positive = largest(positive, words[k], KIND, PACKED)
        negative = largest_unsigned(negative, words[k], KIND, PACKED)
    return tl.maximum(row_largest(positive, KIND), 0), row_most_negative(negative, KIND)


@triton.jit
def no_magnitudes(KIND: tl.constexpr, R: tl.constexpr, L: tl.constexpr):
    """Where a smallest is looked for."""
    return tl.full([R, L], 0x7FFFFFFF if KIND == FP32 else _HALVES, tl.int32)


@triton.jit
def smallest(words, n_words, d, KIND: tl.constexpr, PACKED: tl.constexpr, R: tl.constexpr, L: tl.constexpr, K: tl.constexpr):
    """The smallest of each row's magnitudes. [R]"""
    least = no_magnitudes(KIND, R, L)
    for k in tl.static_range(K):
        word = _but_padding(words[k], k, n_words, d, KIND, L) if k == K - 1 else words[k]
        least = smallest_magnitudes(least, word, KIND, PACKED)
    return row_smallest_magnitude(least, KIND)


@triton.jit
def without_signs(words, KIND: tl.constexpr, K: tl.constexpr):
    """The magnitudes in words."""
    bare = ()
    for k in tl.static_range(K):
        bare = bare + (magnitudes(words[k], KIND),)
    return bare


@triton.jit
def mean_key(words, d, KIND: tl.constexpr, PACKED: tl.constexpr, R: tl.constexpr, L: tl.constexpr, K: tl.constexpr):
    """The mean of the keys' upper 16 bits: about the logarithm of |x|, so it follows a row's scale. [R] float32"""
    keys = tl.zeros([R, L], tl.int32)
    for k in tl.static_range(K):
        if KIND != FP32 and PACKED:
            keys = tl.inline_asm_elementwise("dp2a.lo.u32.u32 $0, $2, 257, $1;", "=r,r,r", [keys, words[k]],
                                             tl.int32, True, 1)  # fmt: skip
        else:
            keys += (words[k] >> 16) if KIND == FP32 else (words[k] >> 16) + (words[k] & 0xFFFF)
    return tl.sum(keys.to(tl.float32), axis=1) / d


@triton.jit
def _but_padding(magnitude, k: tl.constexpr, n_words, d, KIND: tl.constexpr, L: tl.constexpr):
    """The magnitudes [R, L] of the k-th words, the largest number in place of padding."""
    place = k * L + tl.arange(0, L)[None, :]
    inside = tl.where(place < n_words, magnitude, 0x7FFFFFFF if KIND == FP32 else _HALVES)
    if KIND == FP32:
        return inside
    else:
        return tl.where(2 * place + 1 == d, inside | 0x7FFF0000, inside)  # a row of an odd width ends within a word
