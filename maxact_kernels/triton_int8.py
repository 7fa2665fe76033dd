"""The error of per-token dynamic INT-8, in Triton."""

import triton
import triton.language as tl

from .triton_words import FP16, FP32, add_five, high_value, low_value, parts_of_sum

_ROUND = tl.constexpr(12582912.0)  # 1.5 * 2^23: adding it leaves a rounded integer, ties to even

# The same as _add_element for each element of a word, in PTX: compilers unpack all words of a tile first, and spill.
_ADD = (
    "fma.rn.f32 e, y, $7, 0f4B400000; sub.rn.f32 e, 0f4B400000, e; fma.rn.f32 e, y, $7, e; fma.rn.f32 a, y, y, a; "
    "fma.rn.f32 c, e, e, c; abs.f32 e, e; add.rn.f32 d, d, e; "
)
_UNPACK = (
    ("shl.b32 w, $6, 16; mov.b32 y, w; ", "and.b32 w, $6, 0xFFFF0000; mov.b32 y, w; "),
    ("mov.b32 {l, h}, $6; cvt.f32.f16 y, l; ", "cvt.f32.f16 y, h; "),
    ("mov.b32 y, $6; ",),
)


def _asm(unpack: tuple[str, ...], lift: str = "") -> tl.constexpr:
    return tl.constexpr(
        "{.reg .f32 a, c, d, y, e; .reg .b32 w; .reg .b16 l, h; mov.f32 a, $3; mov.f32 c, $4; mov.f32 d, $5; "
        + "".join(one + lift + _ADD for one in unpack)
        + "mov.f32 $0, a; mov.f32 $1, c; mov.f32 $2, d;}"
    )


_LIFT = "mul.rn.f32 y, y, $8; "
_ADD_BF16, _ADD_FP16, _ADD_FP32 = (_asm(unpack) for unpack in _UNPACK)
_LIFT_BF16, _LIFT_FP32 = _asm(_UNPACK[0], _LIFT), _asm(_UNPACK[2], _LIFT)


@triton.jit
def int8_sums(words, parts, m, whole, KIND: tl.constexpr, PACKED: tl.constexpr, R: tl.constexpr, L: tl.constexpr,
              K: tl.constexpr):  # fmt: skip
    """Of magnitudes the sum that `parts` [R, L] are parts of, then those of x^2, |x|, err^2 and |err| of each row, float64, all
    exchanged at once. Of rows that are not whole and rows of zeros the last four are 0. 5 of [R]"""
    counted = whole & (m > 0)
    # Powers of two that bring m to where squares and 127 / m are float32. Numbers of fp16 are there.
    small, large = m < 8.673617379884035e-19, m > 1.152921504606847e18  # 2^-60, 2^60
    lift = tl.where(small, 1.2089258196146292e24, tl.where(large, 8.271806125530277e-25, 1.0))  # 2^80, 2^-80
    inverse = tl.where(counted, tl.div_rn(127.0, tl.where(counted, m * lift, 1.0)), 0.0)
    if KIND == FP16:
        sums = _sums(words, inverse, lift, False, KIND, PACKED, R, L, K)
    else:
        if tl.max((counted & (lift != 1.0)).to(tl.int32), axis=0) > 0:
            sums = _sums(words, inverse, lift, True, KIND, PACKED, R, L, K)
        else:
            sums = _sums(words, inverse, lift, False, KIND, PACKED, R, L, K)
    unit = 1.0 / lift.to(tl.float64)
    scale = m.to(tl.float64) * (1.0 / 127)
    keep = tl.where(counted, 1.0, 0.0).to(tl.float64)
    magnitudes = parts_of_sum(words, KIND, PACKED, R, L, K)
    total, square, absolute, error_square, error_total = tl.reduce(
        (parts.to(tl.float64), sums[0].to(tl.float64), magnitudes.to(tl.float64), sums[1].to(tl.float64), sums[2].to(tl.float64)),
        1, add_five)  # fmt: skip
    return (
        total, square * (unit * unit) * keep, absolute * keep, error_square * (scale * scale) * keep,
        error_total * scale * keep)  # fmt: skip


@triton.jit
def _sums(words, inverse, lift, LIFTED: tl.constexpr, KIND: tl.constexpr, PACKED: tl.constexpr, R: tl.constexpr,
          L: tl.constexpr, K: tl.constexpr):  # fmt: skip
    """u = y * (127 / m) for y = x * lift, err = u - round(u), which a fused product rounds once: of y^2, err^2 and |err|
    chains of 8 float32 (float32 elements: 4), then of K / 4, then float64: 15 additions at most for K <= 36."""
    zero = tl.zeros([R, L], tl.float32)
    square, error_square, error_total = zero, zero, zero
    part = (zero, zero, zero)
    for k in tl.static_range(K):
        if k % 4 == 0:
            part = (zero, zero, zero)
        if PACKED:
            part = tl.inline_asm_elementwise(
                _ADD_FP16 if KIND == FP16 else (_LIFT_FP32 if LIFTED else _ADD_FP32) if KIND == FP32 else
                _LIFT_BF16 if LIFTED else _ADD_BF16,
                "=f,=f,=f,f,f,f,r,f,f", [part[0], part[1], part[2], words[k], inverse[:, None], lift[:, None]],
                (tl.float32, tl.float32, tl.float32), False, 1)  # fmt: skip
        else:
            part = _add_element(low_value(words[k], KIND), inverse, lift, part, LIFTED)
            if KIND != FP32:
                part = _add_element(high_value(words[k], KIND), inverse, lift, part, LIFTED)
        if k % 4 == 3 or k == K - 1:
            square += part[0]
            error_square += part[1]
            error_total += part[2]
    return square, error_square, error_total


@triton.jit
def _add_element(y, inverse, lift, part, LIFTED: tl.constexpr):
    if LIFTED:
        y = y * lift[:, None]
    rounded = tl.fma(y, inverse[:, None] + tl.zeros_like(y), tl.full(y.shape, _ROUND, tl.float32)) - _ROUND
    error = tl.fma(y, inverse[:, None] + tl.zeros_like(y), -rounded)
    return tl.fma(y, y, part[0]), tl.fma(error, error, part[1]), part[2] + tl.abs(error)
