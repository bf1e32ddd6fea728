//! What this machine can do at most: multiply-adds a second on the lanes in force, and bytes a second from memory.
//!
//! Speeds of kernels are reported as fractions of these, measured in the same run.

use super::parts::Parts;
use super::pool;
use super::simd::{Kernel, Lanes, dispatch_f32};
use std::hint::black_box;
use std::time::Instant;

/// Chains of multiply-adds in flight: more than latency × issue width of any processor we know, 4 × 4 on aarch64.
const CHAINS: usize = if cfg!(target_arch = "aarch64") { 24 } else { 12 };
const ROUNDS: usize = 9;
const REPEATS: usize = 400_000;

struct Chains;

impl Kernel<f32> for Chains {
    type Out = ();

    #[inline(always)]
    fn run<L: Lanes<Elem = f32>>(self) {
        let (a, b) = (L::splat(black_box(0.999)), L::splat(black_box(1e-3)));
        let mut sums = [L::splat(black_box(1.0)); CHAINS];
        for _ in 0..REPEATS {
            for sum in &mut sums {
                *sum = a.mul_add(b, *sum);
            }
        }
        for sum in sums {
            black_box(sum.sum_lanes());
        }
    }
}

/// The best of some rounds, in units a second.
fn best(mut round: impl FnMut() -> usize) -> f64 {
    let one = |_| {
        let start = Instant::now();
        let units = round();
        units as f64 / start.elapsed().as_secs_f64()
    };
    (0..ROUNDS).map(one).fold(0.0, f64::max)
}

/// f32 operations a second on all threads of the pool, two for each multiply-add.
pub fn fma_flops() -> f64 {
    let threads = pool::threads();
    best(|| {
        pool::run(threads, &|_| dispatch_f32(Chains));
        2 * REPEATS * CHAINS * dispatch_f32(Width) * threads
    })
}

struct Width;

impl Kernel<f32> for Width {
    type Out = usize;

    #[inline(always)]
    fn run<L: Lanes<Elem = f32>>(self) -> usize {
        L::WIDTH
    }
}

/// Bytes a second of a = b + s · c (McCalpin's STREAM), counting two reads and one write. The slices should be far larger
/// than the caches, and equally long.
pub fn triad_bytes(a: &mut [f32], b: &mut [f32], c: &mut [f32]) -> f64 {
    assert!(a.len() == b.len() && b.len() == c.len(), "bug: a triad of slices of different lengths");
    let (n, part) = (a.len(), a.len().div_ceil(pool::threads()).max(1));
    b.fill(1.0);
    c.fill(2.0);
    let a = Parts::new(a);
    best(|| {
        pool::run(n.div_ceil(part), &|i| {
            let range = i * part..((i + 1) * part).min(n);
            // SAFETY: the ranges are disjoint.
            let a = unsafe { a.part(range.start, range.len()) };
            dispatch_f32(Triad { a, b: &b[range.clone()], c: &c[range] });
        });
        3 * size_of::<f32>() * n
    })
}

struct Triad<'a> {
    a: &'a mut [f32],
    b: &'a [f32],
    c: &'a [f32],
}

impl Kernel<f32> for Triad<'_> {
    type Out = ();

    #[inline(always)]
    fn run<L: Lanes<Elem = f32>>(self) {
        for ((a, b), c) in self.a.iter_mut().zip(self.b).zip(self.c) {
            *a = b + 3.0 * c;
        }
    }
}
