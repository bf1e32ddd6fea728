//! ReLU and its memory: one bit an element, in memory order.

use super::parts::Parts;
use super::pool;
use super::rows::Float;
use super::simd::{Kernel, Lanes};

/// A multiple of 64, so that chunks share no bits.
const CHUNK: usize = 16 * 1024;
/// Elements whose bits are read and written at once.
const WORD: usize = 64;

/// y = max(x, 0), NaN staying NaN; bit i of `bits` says whether x[i] > 0 or is NaN.
pub fn relu<E: Float>(x: &[E], y: &mut [E], bits: &mut [u8]) {
    assert!(y.len() == x.len() && bits.len() == x.len().div_ceil(8), "bug: relu on buffers of other sizes");
    let (y, bits) = (Parts::new(y), Parts::new(bits));
    pool::run(x.len().div_ceil(CHUNK), &|c| {
        let start = c * CHUNK;
        let x = &x[start..x.len().min(start + CHUNK)];
        // SAFETY: chunks are disjoint, and CHUNK is a multiple of 8.
        let (y, bits) = unsafe { (y.part(start, x.len()), bits.part(start / 8, x.len().div_ceil(8))) };
        E::dispatch(Relu { x, y, bits });
    });
}

/// dx[i] = dy[i] where bit i is set, else 0.
pub fn keep<E: Float>(dy: &[E], bits: &[u8], dx: &mut [E]) {
    assert!(dx.len() == dy.len() && bits.len() == dy.len().div_ceil(8), "bug: keep on buffers of other sizes");
    let dx = Parts::new(dx);
    pool::run(dy.len().div_ceil(CHUNK), &|c| {
        let start = c * CHUNK;
        let dy = &dy[start..dy.len().min(start + CHUNK)];
        let bits = &bits[start / 8..][..dy.len().div_ceil(8)];
        // SAFETY: chunks are disjoint.
        let dx = unsafe { dx.part(start, dy.len()) };
        E::dispatch(Keep { dy, dx, bits });
    });
}

/// dx[i] = dy[i] where y[i], a result of `relu`, is above 0 or NaN, else 0.
pub fn keep_positive<E: Float>(dy: &[E], y: &[E], dx: &mut [E]) {
    assert!(dx.len() == dy.len() && y.len() == dy.len(), "bug: keep on buffers of other sizes");
    let dx = Parts::new(dx);
    pool::run(dy.len().div_ceil(CHUNK), &|c| {
        let range = c * CHUNK..dy.len().min((c + 1) * CHUNK);
        // SAFETY: chunks are disjoint.
        let dx = unsafe { dx.part(range.start, range.len()) };
        E::dispatch(KeepPositive { dy: &dy[range.clone()], y: &y[range], dx });
    });
}

struct Relu<'a, E> {
    x: &'a [E],
    y: &'a mut [E],
    bits: &'a mut [u8],
}

impl<E: Float> Kernel<E> for Relu<'_, E> {
    type Out = ();

    #[inline(always)]
    fn run<L: Lanes<Elem = E>>(self) {
        let zero = L::lit(0.0);
        let on = |v: L| L::or(v.gt(zero), v.is_nan());
        let (whole, rest) = (self.x.len() / WORD * WORD, self.x.len() % WORD);
        let (x, y) = (self.x.as_ptr(), self.y.as_mut_ptr());
        for (start, bits) in (0..whole).step_by(WORD).zip(self.bits.as_chunks_mut().0) {
            let mut word = 0u64;
            for at in (0..WORD).step_by(L::WIDTH) {
                // SAFETY: WORD elements from `start` on, in both, and WIDTH divides WORD.
                unsafe {
                    let v = L::load(x.add(start + at));
                    word |= u64::from(L::mask_bits(on(v))) << at;
                    L::select(on(v), v, zero).store(y.add(start + at));
                }
            }
            *bits = word.to_le_bytes();
        }
        let mut word = 0u64;
        for at in (0..rest).step_by(L::WIDTH) {
            let n = L::WIDTH.min(rest - at);
            // SAFETY: n elements from there on, in both.
            unsafe {
                let (from, to) = (x.add(whole + at), y.add(whole + at));
                let v = if n == L::WIDTH { L::load(from) } else { L::load_first(from, n) };
                word |= u64::from(L::mask_bits(on(v))) << at;
                let v = L::select(on(v), v, zero);
                if n == L::WIDTH { v.store(to) } else { v.store_first(to, n) }
            }
        }
        let last = &mut self.bits[whole / 8..];
        last.copy_from_slice(&word.to_le_bytes()[..last.len()]);
    }
}

struct Keep<'a, E> {
    dy: &'a [E],
    dx: &'a mut [E],
    bits: &'a [u8],
}

impl<E: Float> Kernel<E> for Keep<'_, E> {
    type Out = ();

    #[inline(always)]
    fn run<L: Lanes<Elem = E>>(self) {
        let zero = L::lit(0.0);
        for ((dy, dx), bits) in self.dy.chunks(WORD).zip(self.dx.chunks_mut(WORD)).zip(self.bits.chunks(WORD / 8)) {
            let mut bytes = [0; WORD / 8];
            bytes[..bits.len()].copy_from_slice(bits);
            let word = u64::from_le_bytes(bytes);
            let mut at = 0;
            while at < dy.len() {
                let n = L::WIDTH.min(dy.len() - at);
                let on = L::bits_mask((word >> at) as u32);
                // SAFETY: n elements from `at` on, in both.
                unsafe {
                    let (from, to) = (dy.as_ptr().add(at), dx.as_mut_ptr().add(at));
                    let v = if n == L::WIDTH { L::load(from) } else { L::load_first(from, n) };
                    let v = L::select(on, v, zero);
                    if n == L::WIDTH { v.store(to) } else { v.store_first(to, n) }
                }
                at += L::WIDTH;
            }
        }
    }
}

struct KeepPositive<'a, E> {
    dy: &'a [E],
    y: &'a [E],
    dx: &'a mut [E],
}

impl<E: Float> Kernel<E> for KeepPositive<'_, E> {
    type Out = ();

    #[inline(always)]
    fn run<L: Lanes<Elem = E>>(self) {
        let zero = L::lit(0.0);
        let keep = |dy: L, y: L| L::select(L::or(y.gt(zero), y.is_nan()), dy, zero);
        let whole = self.dy.len() / L::WIDTH * L::WIDTH;
        let rest = self.dy.len() - whole;
        // SAFETY: WIDTH elements from each multiple of it below `whole` on, and `rest` from there, in all three.
        unsafe {
            let (dy, y, dx) = (self.dy.as_ptr(), self.y.as_ptr(), self.dx.as_mut_ptr());
            for at in (0..whole).step_by(L::WIDTH) {
                keep(L::load(dy.add(at)), L::load(y.add(at))).store(dx.add(at));
            }
            if rest > 0 {
                let (dy, y) = (L::load_first(dy.add(whole), rest), L::load_first(y.add(whole), rest));
                keep(dy, y).store_first(dx.add(whole), rest);
            }
        }
    }
}
