"""The book of a state: what the Triton kernels look up on the device, so that a launch passes few arguments.

64-bit words: the addresses of the state's fields, the options as numbers, what programs tell each other within an update,
and what they leave for the next kernel. Each name below is the index of its word, as a constant of Triton.
"""

import triton
import triton.language as tl

FIELDS = (
    "n_elements n_tokens n_zero n_nan n_inf n_nonfinite_tokens n_massive_tokens n_massive_elements n_zero_median "
    "n_outside_samples n_ratios absmax n_absmax max neg_min first_nonfinite_token first_nonfinite_feature ratio_max "
    "ratio_max_token ratio_max_absmax ratio_max_median peak_absmax peak_token peak_median topk_values topk_token_ids "
    "topk_features channel_absmax sample_absmax sample_massive sample_tokens sum counts ratio_sum ratio_square_sum ratio_table "
    "int8_square_sum int8_abs_sum int8_error_square_sum int8_error_abs_sum"
).split()
SHARED = "positive negative from_least n_candidates n_kept drawn".split()  # zero between updates
# How many elements are listed, and where (triton_list.py); the number of tokens before this update.
NUMBERS = "n_entries entries first_token".split()

_names = FIELDS + SHARED + NUMBERS
vars().update({name.upper(): tl.constexpr(i) for i, name in enumerate(_names)})
MAX_TOPK, MAX_PROGRAMS, N_FOLDING = 1024, 4096, 256
SLOTS = tl.constexpr(len(_names))  # topk words, zero between updates: row_key
TIED = tl.constexpr(SLOTS.value + MAX_TOPK)  # of each program of read_kernel: a magnitude and how often it has it
FOLDED = tl.constexpr(TIED.value + MAX_PROGRAMS)  # of each program of fold_kernel RECORD words
RECORD = tl.constexpr(16)
KEPT = tl.constexpr(FOLDED.value + RECORD.value * N_FOLDING)  # of each program of fold_kernel, how many of its rows count
N_WORDS = KEPT.value + N_FOLDING

# What is left of a row, in arrays of `capacity` rows one after the other: index of each in units of 4 * capacity bytes.
ROW_SUM, PLACE, TOP, MEDIAN, CANDIDATE, INT8 = (tl.constexpr(i) for i in (0, 2, 4, 5, 6, 8))
# In place of m_t: no token, a token without a finite element, a row that read_kernel leaves to triton_slow.py.
HIDDEN, EMPTY, SLOW = tl.constexpr(-1), tl.constexpr(-2), tl.constexpr(-3)
UNNEEDED = tl.constexpr(-1)  # in place of a median: it can change nothing. -2 - j: element j is the first that is not finite


@triton.jit
def let_the_next_begin(LEADS: tl.constexpr):
    """Programs of the next kernel may take the places of those of this one as these end: they wait, and cost nothing."""
    if LEADS:
        tl.inline_asm_elementwise("griddepcontrol.launch_dependents; mov.u32 $0, 0;", "=r,r", [tl.program_id(0)], tl.int32, False, 1)  # fmt: skip


@triton.jit
def await_the_one_before(FOLLOWS: tl.constexpr):
    if FOLLOWS:
        tl.inline_asm_elementwise("griddepcontrol.wait; mov.u32 $0, 0;", "=r,r", [tl.program_id(0)], tl.int32, False, 1)
    let_the_next_begin(FOLLOWS)


@triton.jit
def field(book_ptr, NAME: tl.constexpr, TYPE: tl.constexpr):
    """A pointer to a field of the state."""
    return tl.load(book_ptr + NAME).to(tl.pointer_type(TYPE))


@triton.jit
def add(book_ptr, NAME: tl.constexpr, n):
    """Add to a counter of the state."""
    if n > 0:
        tl.atomic_add(field(book_ptr, NAME, tl.int64), n.to(tl.int64), sem="relaxed")


@triton.jit
def leave_tied(book_ptr, program, bits, n):
    """The largest of magnitudes, one a lane, with how many elements have it, for order_kernel."""
    most = tl.max(bits, axis=0)
    n_most = tl.sum(tl.where(bits == most, n.to(tl.int64) & 4294967295, 0), axis=0)
    tl.store(book_ptr + TIED + program, (most.to(tl.int64) << 32) | n_most)


@triton.jit
def column(rows_ptr, capacity, NAME: tl.constexpr, TYPE: tl.constexpr):
    """A pointer to what is left of row 0."""
    return (rows_ptr.to(tl.pointer_type(tl.int32)) + capacity.to(tl.int64) * NAME).to(tl.pointer_type(TYPE))


@triton.jit
def row_key(bits, row, id, NAMED: tl.constexpr):
    """A number that is larger for a row that comes before another by (m_t descending, id ascending), or the same."""
    if NAMED:  # 16 bits of the sample, 16 of the position, clamped: ids that differ may look the same, none changes places
        sample = id >> 32
        position = tl.where(sample < 0, 0, tl.where(sample > 65535, 65535, tl.minimum(id & 4294967295, 65535)))
        order = (tl.minimum(tl.maximum(sample, 0), 65535) << 16) | position
    else:
        order = row.to(tl.int64)
    return (bits.to(tl.int64) << 32) | (4294967295 - order)


@triton.jit
def row_offset(row, n_rows, inner, inner_stride, outer_stride):
    """Where a row begins, in the unit of the strides: layout.runs. int64"""
    offset = row.to(tl.int64) * inner_stride
    if inner != n_rows:
        offset = (row // inner).to(tl.int64) * outer_stride + (row % inner).to(tl.int64) * inner_stride
    return offset


@triton.jit
def is_on(row, n_rows, mask_ptr, MASKED: tl.constexpr):
    on = row < n_rows
    if MASKED:
        on = on & (tl.load(mask_ptr.to(tl.pointer_type(tl.int8)) + row, mask=on, other=0) != 0)
    return on


@triton.jit
def element_bits(x_ptr, at, inside, KIND: tl.constexpr):
    """Elements as the bits of float32; `at`: in elements."""
    if KIND == 2:
        return tl.load(x_ptr.to(tl.pointer_type(tl.int32)) + at, mask=inside, other=0)
    else:
        bits = tl.load(x_ptr.to(tl.pointer_type(tl.int16)) + at, mask=inside, other=0)
        if KIND == 1:
            return bits.to(tl.float16, bitcast=True).to(tl.float32).to(tl.int32, bitcast=True)
        else:
            return bits.to(tl.int32) << 16


@triton.jit
def default_id(book_ptr, tops, row, n_rows, piece, first_token, MASKED: tl.constexpr, N_PIECES: tl.constexpr):
    """The id of a row that nobody named: how many tokens came before it. `piece`: rows of a program of fold_kernel."""
    if MASKED:
        pieces = tl.arange(0, N_PIECES)
        kept = tl.load(book_ptr + KEPT + pieces, mask=pieces < row // piece, other=0)
        return first_token + tl.sum(kept, axis=0) + count_kept(tops, row // piece * piece, row)
    else:
        return first_token + row


@triton.jit
def count_kept(tops, first, end):
    """How many of the rows first .. end - 1 are tokens. int64"""
    n = tl.zeros([1024], tl.int64)
    for start in range(first, end, 1024):
        row = start + tl.arange(0, 1024)
        n += (tl.load(tops + row, mask=row < end, other=HIDDEN) != HIDDEN).to(tl.int64)
    return tl.sum(n, axis=0)
