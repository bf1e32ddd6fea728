//! What happens to the rows of a block of scores between its products: mask, softmax, dropout, and their way back.

use super::{Area, Attention, Dropout, Mask, MaskValues, Number, Place};
use crate::device::cpu::gemm::tile::Element;
use crate::device::cpu::simd::{Kernel, Lanes};

/// Scores become exponentials relative to the largest score of the row so far; sums and outputs of the row are brought
/// to a new largest score.
pub struct Forward<'a, T> {
    pub attention: &'a Attention<T>,
    pub place: Place,
    pub area: Area,
    /// [queries, keys] in scratch memory, with room for a whole register behind each row.
    pub scores: *mut T,
    /// Of each row, the largest score and the sum of exponentials so far.
    pub largest: *mut T,
    pub sums: *mut T,
    pub output: (*mut T, isize),
    pub factors: *mut T,
    /// These are the row's first keys: it has no output yet.
    pub first: bool,
}

impl<T: Number> Kernel<T> for Forward<'_, T> {
    type Out = ();

    #[inline(always)]
    fn run<L: Lanes<Elem = T>>(self) {
        for i in 0..self.area.queries {
            // SAFETY: the block lies in scratch memory and in the tensors, by the promise of `Attention::forward`.
            unsafe { self.row::<L>(i) };
        }
    }
}

impl<T: Number> Forward<'_, T> {
    #[inline(always)]
    unsafe fn row<L: Lanes<Elem = T>>(&self, i: usize) {
        let seen = self.area.keys_seen(i);
        let (full, lowest, zero) = (seen - seen % L::WIDTH, L::lit(f64::NEG_INFINITY), L::splat(T::ZERO));
        let in_part = L::bits_mask((1 << (seen - full)) - 1);
        // SAFETY: the promise of `run`.
        unsafe {
            let row = self.scores.add(i * self.area.stride);
            mask(self.attention, self.place, &self.area, i, row);

            let mut largest = lowest;
            for j in (0..full).step_by(L::WIDTH) {
                largest = largest.max(L::load(row.add(j)));
            }
            if full < seen {
                largest = largest.max(L::select(in_part, L::load(row.add(full)), lowest));
            }
            let mut now = largest.max_lanes();
            let before = *self.largest.add(i);
            if !self.first {
                now = L::splat(now).max(L::splat(before)).max_lanes();
            }
            let nothing = now == T::of(f64::NEG_INFINITY);
            let shift = L::splat(if nothing { T::ZERO } else { now });
            let mut sum = zero;
            for j in (0..full).step_by(L::WIDTH) {
                let p = (L::load(row.add(j)) - shift).exp();
                sum = sum + p;
                p.store(row.add(j));
            }
            if full < seen {
                let p = L::select(in_part, (L::load(row.add(full)) - shift).exp(), zero);
                sum = sum + p;
                p.store(row.add(full));
            }
            let whole = seen.next_multiple_of(L::WIDTH);
            clear_unseen::<L>(row, whole, &self.area, i);
            let mut sum = sum.sum_lanes();
            if self.first || before != now && !nothing {
                *self.largest.add(i) = now;
            }
            if !self.first {
                let mut previous = *self.sums.add(i);
                if before != now && !nothing {
                    let change = T::of((before.into() - now.into()).exp());
                    previous = previous * change;
                    let output = self.output.0.offset(i as isize * self.output.1);
                    scale::<L>(output, self.attention.value_width, change);
                }
                sum = previous + sum;
            }
            *self.sums.add(i) = sum;
            if let Some(dropout) = self.attention.dropout {
                factors(dropout, self.attention, self.place, &self.area, i, whole, self.factors);
                for j in (0..whole).step_by(L::WIDTH) {
                    (L::load(row.add(j)) * L::load(self.factors.add(j))).store(row.add(j));
                }
            }
        }
    }
}

/// Outputs become means by the sums of their rows, and sums logarithms.
pub struct Finish<T> {
    pub rows: usize,
    pub width: usize,
    pub largest: *const T,
    pub sums: *mut T,
    pub output: (*mut T, isize),
    pub log_sums: *mut T,
}

impl<T: Number> Kernel<T> for Finish<T> {
    type Out = ();

    #[inline(always)]
    fn run<L: Lanes<Elem = T>>(self) {
        let (zero, lowest) = (L::splat(T::ZERO), L::lit(f64::NEG_INFINITY));
        for i in (0..self.rows).step_by(L::WIDTH) {
            let n = L::WIDTH.min(self.rows - i);
            // SAFETY: there are so many rows, by the promise of `Attention::forward`.
            unsafe {
                let part = |p: *const T| if n < L::WIDTH { L::load_first(p, n) } else { L::load(p) };
                let (sum, largest) = (part(self.sums.add(i)), part(self.largest.add(i)));
                // A row without a key is 0, and its logarithm says so to the way back.
                let empty = sum.eq(zero);
                let log_sum = L::select(empty, lowest, largest + sum.ln());
                let inverse = L::select(empty, zero, L::lit(1.0) / sum);
                if n < L::WIDTH {
                    log_sum.store_first(self.log_sums.add(i), n);
                    inverse.store_first(self.sums.add(i), n);
                } else {
                    log_sum.store(self.log_sums.add(i));
                    inverse.store(self.sums.add(i));
                }
            }
        }
        for i in 0..self.rows {
            // SAFETY: as above.
            unsafe { scale::<L>(self.output.0.offset(i as isize * self.output.1), self.width, *self.sums.add(i)) };
        }
    }
}

/// Scores become probabilities (times dropout) and dp becomes ds, times the scale.
pub struct Backward<'a, T> {
    pub attention: &'a Attention<T>,
    pub place: Place,
    pub area: Area,
    pub scores: *mut T,
    pub d_scores: *mut T,
    pub log_sums: *const T,
    pub output: (*const T, isize),
    pub d_output: (*const T, isize),
    pub factors: *mut T,
}

impl<T: Number> Kernel<T> for Backward<'_, T> {
    type Out = ();

    #[inline(always)]
    fn run<L: Lanes<Elem = T>>(self) {
        for i in 0..self.area.queries {
            // SAFETY: the block lies in scratch memory and in the tensors, by the promise of `Attention::backward`.
            unsafe { self.row::<L>(i) };
        }
    }
}

impl<T: Number> Backward<'_, T> {
    #[inline(always)]
    unsafe fn row<L: Lanes<Elem = T>>(&self, i: usize) {
        let seen = self.area.keys_seen(i);
        // SAFETY: the promise of `run`.
        unsafe {
            let (row, d_row) = (self.scores.add(i * self.area.stride), self.d_scores.add(i * self.area.stride));
            mask(self.attention, self.place, &self.area, i, row);
            let whole = seen.next_multiple_of(L::WIDTH);
            // ds = p (dp - Σ p dp) and Σ p dp = Σ o do, which needs no other block of the row.
            let output = self.output.0.offset(i as isize * self.output.1);
            let d_output = self.d_output.0.offset(i as isize * self.d_output.1);
            let row_sum = L::splat(dot::<L>(output, d_output, self.attention.value_width));
            let log_sum = *self.log_sums.add(i);
            // exp(s - ∞) is 0 for every key of a row that sees none.
            let nothing = log_sum == T::of(f64::NEG_INFINITY);
            let shift = L::splat(if nothing { T::of(f64::INFINITY) } else { log_sum });
            let scale = L::lit(self.attention.scale);
            if let Some(dropout) = self.attention.dropout {
                factors(dropout, self.attention, self.place, &self.area, i, whole, self.factors);
            }
            let zero = L::splat(T::ZERO);
            for j in (0..whole).step_by(L::WIDTH) {
                let p = (L::load(row.add(j)) - shift).exp();
                let mut dp = L::load(d_row.add(j));
                let mut kept = p;
                if self.attention.dropout.is_some() {
                    let factor = L::load(self.factors.add(j));
                    (dp, kept) = (dp * factor, p * factor);
                }
                let mut ds = p * (dp - row_sum) * scale;
                if j + L::WIDTH > seen {
                    let in_part = L::bits_mask((1 << (seen - j)) - 1);
                    (kept, ds) = (L::select(in_part, kept, zero), L::select(in_part, ds, zero));
                }
                kept.store(row.add(j));
                ds.store(d_row.add(j));
            }
            clear_unseen::<L>(row, whole, &self.area, i);
            clear_unseen::<L>(d_row, whole, &self.area, i);
        }
    }
}

/// What row `i` does not see is 0 as far as any row of its tile sees, in whole registers from `whole` on.
#[inline(always)]
unsafe fn clear_unseen<L: Lanes<Elem: Number>>(row: *mut L::Elem, whole: usize, area: &Area, i: usize) {
    for j in (whole..area.keys_seen(i + L::Elem::tile_shape().rows - 1)).step_by(L::WIDTH) {
        // SAFETY: the promise of the caller; a register has room behind a row.
        unsafe { L::splat(L::Elem::ZERO).store(row.add(j)) };
    }
}

#[inline(always)]
unsafe fn scale<L: Lanes<Elem: Element>>(row: *mut L::Elem, width: usize, factor: L::Elem) {
    let whole = width - width % L::WIDTH;
    // SAFETY: the promise of the caller.
    unsafe {
        for j in (0..whole).step_by(L::WIDTH) {
            (L::load(row.add(j)) * L::splat(factor)).store(row.add(j));
        }
        for j in whole..width {
            *row.add(j) = *row.add(j) * factor;
        }
    }
}

#[inline(always)]
unsafe fn dot<L: Lanes<Elem: Element>>(a: *const L::Elem, b: *const L::Elem, width: usize) -> L::Elem {
    let whole = width - width % L::WIDTH;
    let mut sum = L::splat(L::Elem::ZERO);
    // SAFETY: the promise of the caller.
    unsafe {
        for j in (0..whole).step_by(L::WIDTH) {
            sum = sum + L::load(a.add(j)) * L::load(b.add(j));
        }
        if whole < width {
            sum = sum + L::load_first(a.add(whole), width - whole) * L::load_first(b.add(whole), width - whole);
        }
    }
    sum.sum_lanes()
}

/// Applies the mask to the scores that row `i` sees.
#[inline(always)]
unsafe fn mask<T: Number>(attention: &Attention<T>, place: Place, area: &Area, i: usize, row: *mut T) {
    let Some(Mask { values, strides: [batch, head, query, key] }) = attention.mask else { return };
    let (b, h, first) = (place.b as isize, place.h as isize, (area.query + i) as isize);
    let start = b * batch + h * head + first * query + area.key as isize * key;
    // SAFETY: the mask has the strides that it says, by the promise of the caller of `Attention`.
    unsafe {
        let row = std::slice::from_raw_parts_mut(row, area.keys_seen(i));
        match values {
            MaskValues::Add(values) if key == 1 => {
                let values = std::slice::from_raw_parts(values.offset(start), row.len());
                row.iter_mut().zip(values).for_each(|(s, &m)| *s = *s + m);
            }
            MaskValues::Add(values) => {
                for (j, s) in row.iter_mut().enumerate() {
                    *s = *s + *values.offset(start + j as isize * key);
                }
            }
            MaskValues::Keep(values) => {
                for (j, s) in row.iter_mut().enumerate() {
                    if *values.offset(start + j as isize * key) == 0 {
                        *s = T::of(f64::NEG_INFINITY);
                    }
                }
            }
        }
    }
}

/// The factor of dropout, 0 or 1 / keep, for row `i` and the first `keys` keys of its block.
#[inline(always)]
unsafe fn factors<T: Number>(
    Dropout { stream, keep }: Dropout,
    attention: &Attention<T>,
    place: Place,
    area: &Area,
    i: usize,
    keys: usize,
    to: *mut T,
) {
    let row = (place.pair * attention.queries + area.query + i) as u64;
    let first = stream.offset + row * attention.keys as u64 + area.key as u64;
    // A draw is bits / 2²⁴, so that comparing integers is the same as comparing draws.
    let limit = (keep * 16_777_216.0).ceil() as u32;
    let factor = T::of(1.0 / keep);
    let mut at = 0;
    while at < keys {
        let (counter, skip) = ((first + at as u64) / 4, ((first + at as u64) % 4) as usize);
        let words = words(counter, stream.key);
        let count = (keys - at).min(words.len() - skip);
        for j in 0..count {
            // SAFETY: the buffer is as long as a block of keys and a register.
            unsafe { *to.add(at + j) = if words[skip + j] >> 8 < limit { factor } else { T::ZERO } };
        }
        at += count;
    }
}

/// Counters drawn at once: as many as fill the widest register.
const COUNTERS: usize = 16;

/// The words of `philox4x32` for `COUNTERS` counters in a row, in a form that the compiler vectorises.
#[inline(always)]
fn words(counter: u64, key: u64) -> [u32; 4 * COUNTERS] {
    let counters: [u64; COUNTERS] = std::array::from_fn(|i| counter + i as u64);
    let mut c = [counters.map(|c| c as u32), counters.map(|c| (c >> 32) as u32), [0; COUNTERS], [0; COUNTERS]];
    let mut k = [key as u32, (key >> 32) as u32];
    for _ in 0..10 {
        let [a, b] = [c[0].map(|x| x as u64 * 0xD251_1F53), c[2].map(|x| x as u64 * 0xCD9E_8D57)];
        c = [
            std::array::from_fn(|i| (b[i] >> 32) as u32 ^ c[1][i] ^ k[0]),
            b.map(|x| x as u32),
            std::array::from_fn(|i| (a[i] >> 32) as u32 ^ c[3][i] ^ k[1]),
            a.map(|x| x as u32),
        ];
        k = [k[0].wrapping_add(0x9E37_79B9), k[1].wrapping_add(0xBB67_AE85)];
    }
    std::array::from_fn(|i| c[i % 4][i / 4])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::cpu::random::philox4x32;

    #[test]
    fn counters_drawn_together_are_those_drawn_one_by_one() {
        for counter in [0, 5, u32::MAX as u64 - 3] {
            let found = words(counter, 0x1234_5678_9abc_def0);
            for (i, words) in found.chunks(4).enumerate() {
                assert_eq!(words, philox4x32(counter + i as u64, 0x1234_5678_9abc_def0));
            }
        }
    }
}
