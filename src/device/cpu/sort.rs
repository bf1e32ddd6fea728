//! Sorting along an axis: whole, and the first k; and the places of values in sorted rows.
//!
//! A line is turned into keys, unsigned numbers whose order is that of the elements, each with the element's place below
//! it. Keys never tie, so the fast unstable sort is stable. NaN is above everything, -0 and 0 are equal, as in PyTorch.

use super::copy::Elements;
use super::pool;
use super::view::View;
use crate::dtype::{DType, Element};
use half::{bf16, f16};

/// An element type with an order.
trait Ordered: Element {
    /// Rises with the value. Types of up to 32 bits use the low 32 bits only.
    fn key(self) -> u64;
}

macro_rules! ordered {
    ($($int:ty: $unsigned:ty),*; $($float:ty: $bits:ty),*) => {
        $(impl Ordered for $int {
            #[inline(always)]
            fn key(self) -> u64 {
                // Moves the smallest number to 0.
                u64::from(self.wrapping_sub(<$int>::MIN) as $unsigned)
            }
        })*
        $(impl Ordered for $float {
            #[inline(always)]
            fn key(self) -> u64 {
                const SIGN: $bits = 1 << (<$bits>::BITS - 1);
                if self.is_nan() {
                    return u64::from(<$bits>::MAX);
                }
                let bits = self.to_bits();
                // -0 as 0; then negative numbers upside down, below the others.
                let bits = if bits == SIGN { 0 } else { bits };
                u64::from(if bits & SIGN == 0 { bits | SIGN } else { !bits })
            }
        })*
    };
}
ordered!(u8: u8, i32: u32, i64: u64; f16: u16, bf16: u16, f32: u32, f64: u64);

/// A key with the place of its element.
trait Slot: Copy + Ord + Send {
    fn new(key: u64, place: usize) -> Self;
    fn place(self) -> usize;
}

impl Slot for i64 {
    #[inline(always)]
    fn new(key: u64, place: usize) -> i64 {
        ((key << 32 | place as u64) ^ 1 << 63) as i64
    }
    #[inline(always)]
    fn place(self) -> usize {
        self as u32 as usize
    }
}

impl Slot for [i64; 2] {
    #[inline(always)]
    fn new(key: u64, place: usize) -> [i64; 2] {
        [(key ^ 1 << 63) as i64, place as i64]
    }
    #[inline(always)]
    fn place(self) -> usize {
        self[1] as usize
    }
}

/// An order of the elements of a line, and how many of them are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Order {
    pub descending: bool,
    pub first: usize,
}

/// Numbers of scratch (int64) that `order` needs for each thread, for lines of `n` elements.
pub fn scratch(dtype: DType, n: usize) -> usize {
    if dtype.bytes() == 8 || n > u32::MAX as usize { 2 * n } else { n }
}

/// The first elements of each line of x, sorted, and their places.
/// x [outer, n, inner], values and places [outer, first, inner]; scratch has room for one line a thread.
pub fn order(x: &View, sizes: [usize; 3], order: Order, values: &View, places: &View, scratch: &mut [i64]) {
    macro_rules! typed {
        ($t:ty) => {{
            let lines = Lines { x: x.slice::<$t>(), sizes, order, values: values.out(), places: places.out() };
            if self::scratch(x.dtype, sizes[1]) > sizes[1] {
                lines.run(scratch.as_chunks_mut::<2>().0)
            } else {
                lines.run(scratch)
            }
        }};
    }
    match x.dtype {
        DType::Bool | DType::U8 => typed!(u8),
        DType::I32 => typed!(i32),
        DType::I64 => typed!(i64),
        DType::F16 => typed!(f16),
        DType::BF16 => typed!(bf16),
        DType::F32 => typed!(f32),
        DType::F64 => typed!(f64),
    }
}

struct Lines<'a, T> {
    x: &'a [T],
    sizes: [usize; 3],
    order: Order,
    values: &'a mut [T],
    places: &'a mut [i64],
}

impl<T: Ordered> Lines<'_, T> {
    fn run<S: Slot + 'static>(self, scratch: &mut [S]) {
        let Lines { x, sizes: [outer, n, inner], order, values, places } = self;
        let (lines, first) = (outer * inner, order.first);
        assert!(first <= n && x.len() == lines * n, "bug: lines of another size");
        assert!(values.len() == lines * first && places.len() == lines * first, "bug: results of another size");
        if lines * first == 0 {
            return;
        }
        let slots = scratch.len() / n;
        let (values, places, scratch) =
            (Elements::of_slice(values), Elements::of_slice(places), Elements::of_slice(scratch));
        let step = pool::chunk_rows(lines, n as f64 * 3.0 * (n as f64 + 1.0).log2());
        pool::run_with_slots(lines.div_ceil(step), slots, &|chunk, slot| {
            // SAFETY: one line of scratch for each slot.
            let keys = unsafe { scratch.slice(slot * n, n) };
            for line in chunk * step..((chunk + 1) * step).min(lines) {
                let (from, to) = (line / inner * n * inner + line % inner, line / inner * first * inner + line % inner);
                // All bits of the key turned over sort the other way; places stay in order.
                let turn = if order.descending { u64::MAX >> (64 - 8 * size_of::<T>()) } else { 0 };
                for (place, key) in keys.iter_mut().enumerate() {
                    *key = S::new(x[from + place * inner].key() ^ turn, place);
                }
                if first < n {
                    keys.select_nth_unstable(first);
                }
                keys[..first].sort_unstable();
                for (i, key) in keys[..first].iter().enumerate() {
                    let at = (to + i * inner) as isize;
                    // SAFETY: at < lines · first, and the results of a line are written by one chunk.
                    unsafe {
                        *values.at(at) = x[from + key.place() * inner];
                        *places.at(at) = key.place() as i64;
                    }
                }
            }
        });
    }
}

/// For each value, how many elements of its sorted row are below it; with `right`, or equal to it.
/// sorted [rows, n], or one row for all; values and places [rows, m]
pub fn search(sorted: &View, n: usize, values: &View, m: usize, right: bool, places: &View) {
    macro_rules! typed {
        ($t:ty) => {
            search_typed::<$t>(sorted.slice(), n, values.slice(), m, right, places.out())
        };
    }
    assert_eq!(sorted.dtype, values.dtype, "bug: a search for another type");
    match sorted.dtype {
        DType::Bool | DType::U8 => typed!(u8),
        DType::I32 => typed!(i32),
        DType::I64 => typed!(i64),
        DType::F16 => typed!(f16),
        DType::BF16 => typed!(bf16),
        DType::F32 => typed!(f32),
        DType::F64 => typed!(f64),
    }
}

fn search_typed<T: Ordered>(sorted: &[T], n: usize, values: &[T], m: usize, right: bool, places: &mut [i64]) {
    assert_eq!(values.len(), places.len(), "bug: places for other values");
    let one = sorted.len() == n;
    let step = pool::chunk_rows(values.len(), 5.0 + 5.0 * (n as f64 + 1.0).log2());
    let places = Elements::of_slice(places);
    pool::run(values.len().div_ceil(step), &|chunk| {
        let first = chunk * step;
        // SAFETY: each place is written by one chunk.
        let places = unsafe { places.slice(first, step.min(values.len() - first)) };
        for (i, place) in places.iter_mut().enumerate() {
            let row = if one { sorted } else { &sorted[(first + i) / m * n..][..n] };
            let key = values[first + i].key();
            *place = row.partition_point(|x| x.key() < key || right && x.key() == key) as i64;
        }
    });
}
