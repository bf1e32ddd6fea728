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
        // SAFETY: the promise of `run`.
        unsafe {
            let row = self.scores.add(i * self.area.stride);
            mask(self.attention, self.place, &self.area, i, row);
            let whole = seen.next_multiple_of(L::WIDTH);
            fill(row, seen..whole, T::of(f64::NEG_INFINITY));

            let mut largest = L::splat(*self.largest.add(i));
            for j in (0..whole).step_by(L::WIDTH) {
                largest = largest.max(L::load(row.add(j)));
            }
            let (before, now) = (*self.largest.add(i), largest.max_lanes());
            let nothing = now == T::of(f64::NEG_INFINITY);
            let shift = L::splat(if nothing { T::ZERO } else { now });
            let mut sum = L::splat(T::ZERO);
            for j in (0..whole).step_by(L::WIDTH) {
                let p = (L::load(row.add(j)) - shift).exp();
                sum = sum + p;
                p.store(row.add(j));
            }
            if whole < self.area.keys {
                fill(row, whole..self.area.keys, T::ZERO);
            }
            if before == now || nothing {
                *self.sums.add(i) = *self.sums.add(i) + sum.sum_lanes();
            } else {
                let change = T::of((before.into() - now.into()).exp());
                *self.sums.add(i) = *self.sums.add(i) * change + sum.sum_lanes();
                *self.largest.add(i) = now;
                let output = self.output.0.offset(i as isize * self.output.1);
                scale::<L>(output, self.attention.value_width, change);
            }
            if let Some(dropout) = self.attention.dropout {
                factors(dropout, self.attention, self.place, &self.area, i, whole, self.factors);
                for j in (0..whole).step_by(L::WIDTH) {
                    (L::load(row.add(j)) * L::load(self.factors.add(j))).store(row.add(j));
                }
            }
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
            fill(row, seen..whole, T::of(f64::NEG_INFINITY));
            fill(d_row, seen..whole, T::ZERO);

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
            for j in (0..whole).step_by(L::WIDTH) {
                let p = (L::load(row.add(j)) - shift).exp();
                let mut dp = L::load(d_row.add(j));
                let mut kept = p;
                if self.attention.dropout.is_some() {
                    let factor = L::load(self.factors.add(j));
                    (dp, kept) = (dp * factor, p * factor);
                }
                kept.store(row.add(j));
                (p * (dp - row_sum) * scale).store(d_row.add(j));
            }
            if whole < self.area.keys {
                fill(row, whole..self.area.keys, T::ZERO);
                fill(d_row, whole..self.area.keys, T::ZERO);
            }
        }
    }
}

#[inline(always)]
unsafe fn fill<T: Element>(row: *mut T, columns: std::ops::Range<usize>, value: T) {
    for j in columns {
        // SAFETY: the promise of the caller.
        unsafe { *row.add(j) = value };
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
