"""The error of per-token dynamic INT-8, in Triton."""

import triton
import triton.language as tl

from .triton_words import FP16, FP32, add_five, high_value, low_value, parts_of_sum

_ROUND = tl.constexpr(12582912.0)  # 1.5 * 2^23: adding it leaves a rounded integer, ties to even

# The same as _add_element for each element of a word, in PTX: compilers unpack all words of a tile first, and spill.
_ERROR = "fma.rn.f32 e, y, INVERSE, 0f4B400000; sub.rn.f32 e, 0f4B400000, e; fma.rn.f32 e, y, INVERSE, e; "
_BEGIN = _ERROR + "mul.rn.f32 a, y, y; mul.rn.f32 c, e, e; abs.f32 d, e; "
_ADD = _ERROR + "fma.rn.f32 a, y, y, a; fma.rn.f32 c, e, e, c; abs.f32 e, e; add.rn.f32 d, d, e; "
_UNPACK = {
    "bf16": ("shl.b32 w, WORD, 16; mov.b32 y, w; ", "and.b32 w, WORD, 0xFFFF0000; mov.b32 y, w; "),
    "fp16": ("mov.b32 {l, h}, WORD; cvt.f32.f16 y, l; ", "cvt.f32.f16 y, h; "),
    "fp32": ("mov.b32 y, WORD; ",),
}


def _asm(kind: str, lifted: bool, begins: bool) -> tl.constexpr:
    """$0 to $2: the sums of y^2, err^2 and |err|, after them, unless a chain begins, what they were, then the word, the
    inverse of the scale, and the factor that lifts."""
    first = 3 if begins else 6
    text = "{.reg .f32 a, c, d, y, e; .reg .b32 w; .reg .b16 l, h; "
    if not begins:
        text += "mov.f32 a, $3; mov.f32 c, $4; mov.f32 d, $5; "
    for i, unpack in enumerate(_UNPACK[kind]):
        text += unpack + "mul.rn.f32 y, y, LIFT; " * lifted + (_BEGIN if begins and i == 0 else _ADD)
    text += "mov.f32 $0, a; mov.f32 $1, c; mov.f32 $2, d;}"
    for i, name in enumerate(("WORD", "INVERSE", "LIFT")):
        text = text.replace(name, f"${first + i}")
    return tl.constexpr(text)


_ADD_BF16, _ADD_FP16, _ADD_FP32 = (_asm(kind, False, False) for kind in _UNPACK)
_LIFT_BF16, _LIFT_FP32 = _asm("bf16", True, False), _asm("fp32", True, False)
_BEGIN_BF16, _BEGIN_FP16, _BEGIN_FP32 = (_asm(kind, False, True) for kind in _UNPACK)
_BEGIN_LIFT_BF16, _BEGIN_LIFT_FP32 = _asm("bf16", True, True), _asm("fp32", True, True)


def _store() -> str:
    """Lanes sum five numbers in float64, of which $4 to $23 have four parts a lane. The first exchange leaves two sums of four
    to each half of a warp, the second one to each quarter, and each quarter stores its own. Of y^2, err^2 and |err| float32
    adds a lane's four parts, two additions after 13; of |x| and x, which matrix units cut, float64."""
    text = (
        "{.reg .f32 p, q; .reg .f64 v0, v1, v2, v3, v4, t, s0, s1; .reg .b32 lane, x, y; .reg .b64 at; "
        ".reg .pred upper, odd, own, first; "
    )
    for i, j in ((0, 4), (2, 12), (3, 16)):
        text += f"add.f32 p, ${j}, ${j + 1}; add.f32 q, ${j + 2}, ${j + 3}; add.f32 p, p, q; cvt.f64.f32 v{i}, p; "
    for i, j in ((1, 8), (4, 20)):
        text += f"cvt.f64.f32 v{i}, ${j}; " + "".join(f"cvt.f64.f32 t, ${j + n}; add.f64 v{i}, v{i}, t; " for n in (1, 2, 3))
    text += (
        "mov.u32 lane, %laneid; setp.ge.u32 upper, lane, 16; and.b32 x, lane, 8; setp.ne.u32 odd, x, 0; and.b32 x, lane, 7; "
        "setp.eq.u32 own, x, 0; setp.eq.u32 first, lane, 0; selp.f64 s0, v0, v2, upper; selp.f64 s1, v1, v3, upper; "
        "selp.f64 v0, v2, v0, upper; selp.f64 v1, v3, v1, upper; "
    )
    for distance in (16, 8, 4, 2, 1):
        if distance == 8:
            text += "selp.f64 s0, v0, v1, odd; selp.f64 v0, v1, v0, odd; "
        exchanges = [("v0", "s0" if distance > 4 else "v0"), ("v4", "v4")] + [("v1", "s1")] * (distance == 16)
        for total, sent in exchanges:
            text += f"mov.b64 {{x, y}}, {sent}; "
            text += "".join(f"shfl.sync.bfly.b32 {half}, {half}, {distance}, 31, -1; " for half in "xy")
            text += f"mov.b64 t, {{x, y}}; add.f64 {total}, {total}, t; "
    return text + (
        "shr.u32 x, lane, 3; cvt.u64.u32 at, x; mad.lo.u64 at, at, $32, $28; @own st.global.f64 [at], v0; "
        "@first st.global.f64 [$24], v4; mov.u32 $0, 0; mov.u32 $1, 0; mov.u32 $2, 0; mov.u32 $3, 0;}"
    )


_STORE, _STORE_OPERANDS = tl.constexpr(_store()), tl.constexpr(",".join(["=r"] * 4 + ["f"] * 20 + ["l"] * 12))


@triton.jit
def lift_of(m):
    """The power of two that brings m to where sums of squares and 127 / m are float32. Numbers of fp16 are there."""
    small, large = m < 8.881784197001252e-16, m > 1.125899906842624e15  # 2^-50, 2^50
    return tl.where(small, 1.2089258196146292e24, tl.where(large, 8.271806125530277e-25, 1.0))  # 2^80, 2^-80


@triton.jit
def inverse_of(m, lift):
    """127 / m of what is lifted, of a row of zeros 0."""
    return tl.where(m > 0, tl.div_rn(127.0, tl.where(m > 0, m * lift, 1.0)), 0.0)


@triton.jit
def is_lifted(m, lift, KIND: tl.constexpr):
    """Whether any row is. A scalar"""
    if KIND == FP16:
        return False
    else:
        return tl.max(((m > 0) & (lift != 1.0)).to(tl.int32), axis=0) > 0


@triton.jit
def int8_sums(words, parts, m, KIND: tl.constexpr, PACKED: tl.constexpr, R: tl.constexpr, L: tl.constexpr,
              K: tl.constexpr):  # fmt: skip
    """Of magnitudes the sum that `parts` [R, L] are parts of, then those of y^2, |x|, err^2 and |err| of each row, for
    y = x * lift_of(m) and errors in steps of the scale; all exchanged at once. 5 of [R] float64"""
    lift = lift_of(m)
    inverse = inverse_of(m, lift)
    if is_lifted(m, lift, KIND):
        sums = _sums(words, inverse, lift, KIND != FP16, KIND, PACKED, R, L, K)
    else:
        sums = _sums(words, inverse, lift, False, KIND, PACKED, R, L, K)
    magnitudes = parts_of_sum(words, KIND, PACKED, R, L, K)
    # Lanes add in float64, or the last bit would tell which of them had which words.
    total, absolute, square, error_square, error_total = tl.reduce(
        (parts.to(tl.float64), magnitudes.to(tl.float64), sums[0].to(tl.float64), sums[1].to(tl.float64), sums[2].to(tl.float64)),
        1, add_five)  # fmt: skip
    return total, square, absolute, error_square, error_total


@triton.jit
def store_sums(parts, square, absolute, error_square, error_total, to_total, to_sums, capacity):
    """What int8_sums returns, of a row on one warp, to where it belongs: `to_total` [1], and `to_sums` [1] and every
    2 * capacity float32 after it."""
    stride = (8 * capacity).to(tl.int64)
    tl.inline_asm_elementwise(
        _STORE, _STORE_OPERANDS,
        [square, absolute, error_square, error_total, parts, to_total.to(tl.int64)[:, None], to_sums.to(tl.int64)[:, None], stride],
        tl.int32, False, 4)  # fmt: skip


@triton.jit
def in_units(sums, m):
    """What the sums of a row whose largest magnitude is m add to the state: x^2, |x|, err^2 and |err|. 4 of float64"""
    unit, scale = 1.0 / lift_of(m).to(tl.float64), m.to(tl.float64) * (1.0 / 127)
    square, absolute, error_square, error_total = sums
    return square * (unit * unit), absolute, error_square * (scale * scale), error_total * scale


@triton.jit
def _sums(words, inverse, lift, LIFTED: tl.constexpr, KIND: tl.constexpr, PACKED: tl.constexpr, R: tl.constexpr,
          L: tl.constexpr, K: tl.constexpr):  # fmt: skip
    """u = y * (127 / m) for y = x * lift, err = u - round(u), which a fused product rounds once: of y^2, err^2 and |err|
    chains of 8 float32 (float32 elements: 4), then of K / 4: 13 additions at most for K <= 20."""
    zero = tl.zeros([R, L], tl.float32)
    square, error_square, error_total = zero, zero, zero
    part = (zero, zero, zero)
    for k in tl.static_range(K):
        if PACKED:
            part = add_word(part, words[k], inverse, lift, k % 4 == 0, LIFTED, KIND)
        else:
            if k % 4 == 0:
                part = (zero, zero, zero)
            part = _add_element(low_value(words[k], KIND), inverse, lift, part, LIFTED)
            if KIND != FP32:
                part = _add_element(high_value(words[k], KIND), inverse, lift, part, LIFTED)
        if k % 4 == 3 or k == K - 1:
            if k < 4:
                square, error_square, error_total = part
            else:
                square += part[0]
                error_square += part[1]
                error_total += part[2]
    return square, error_square, error_total


@triton.jit
def add_word(part, word, inverse, lift, BEGINS: tl.constexpr, LIFTED: tl.constexpr, KIND: tl.constexpr):
    """A chain's sums of y^2, err^2 and |err| and those of a word; BEGINS: of the word alone."""
    if BEGINS:
        return tl.inline_asm_elementwise(
            _BEGIN_FP16 if KIND == FP16 else (_BEGIN_LIFT_FP32 if LIFTED else _BEGIN_FP32) if KIND == FP32 else
            _BEGIN_LIFT_BF16 if LIFTED else _BEGIN_BF16,
            "=f,=f,=f,r,f,f", [word, inverse[:, None], lift[:, None]],
            (tl.float32, tl.float32, tl.float32), False, 1)  # fmt: skip
    else:
        return tl.inline_asm_elementwise(
            _ADD_FP16 if KIND == FP16 else (_LIFT_FP32 if LIFTED else _ADD_FP32) if KIND == FP32 else
            _LIFT_BF16 if LIFTED else _ADD_BF16,
            "=f,=f,=f,f,f,f,r,f,f", [part[0], part[1], part[2], word, inverse[:, None], lift[:, None]],
            (tl.float32, tl.float32, tl.float32), False, 1)  # fmt: skip


@triton.jit
def _add_element(y, inverse, lift, part, LIFTED: tl.constexpr):
    if LIFTED:
        y = y * lift[:, None]
    rounded = tl.fma(y, inverse[:, None] + tl.zeros_like(y), tl.full(y.shape, _ROUND, tl.float32)) - _ROUND
    error = tl.fma(y, inverse[:, None] + tl.zeros_like(y), -rounded)
    return tl.fma(y, y, part[0]), tl.fma(error, error, part[1]), part[2] + tl.abs(error)
