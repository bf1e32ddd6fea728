//! The micro-kernel: one tile of C, held in registers while k runs.
//!
//! `f32` has a tile for each SIMD level (12 rows of 2 registers with AVX-512, 6 rows of 2 with AVX2, 8 rows of 3 with
//! NEON); `f64`, and `f32` without SIMD, have one of 6×8 that the compiler vectorises. A convolution can use it as it stands: the rows of A are
//! output pixels at any stride, the columns of B a packed panel of output channels, and each run of `depth` steps
//! (one tap of the filter, or one row of taps) begins at an offset of its own in A.

use super::super::caches::LINE_BYTES;
use super::super::simd::{self, Kernel, Lanes, Level};
use std::ops::{Add, Mul};

/// `c[i, j] = alpha · Σ a[i, p] · b[p, j]`, plus what `accumulate` and `bias` say, for i < rows and j < columns.
/// The sum over p is one chain of fused multiply-adds in rising p, whatever the shape of the tile.
pub struct Tile<'a, T> {
    /// 1 to `T::tile_shape().rows`.
    pub rows: usize,
    /// 1 to `T::tile_shape().columns`; with few rows to `T::widest(rows)`.
    pub columns: usize,
    /// Steps of p in a run.
    pub depth: usize,
    /// Run r of A begins at `a + runs[r]`, and its p-th step is `p * a_depth_stride` further.
    pub runs: &'a [isize],
    pub a: *const T,
    pub a_row_stride: isize,
    pub a_depth_stride: isize,
    /// Row p of B, over all runs, is at `b + p * b_stride`. Whole registers are read: `columns` rounded up to them.
    pub b: *const T,
    pub b_stride: isize,
    pub c: *mut T,
    pub c_stride: isize,
    pub alpha: T,
    /// Adds to C rather than overwriting it (C is then read).
    pub accumulate: bool,
    pub bias: Bias<T>,
    /// What to ask memory for meanwhile.
    pub ahead: Ahead<T>,
}

/// Step `p * every` of a tile asks for so many cache lines from `from + p * stride` on: they are wanted when the tiles that
/// are left are done. No element need be there.
#[derive(Clone, Copy)]
pub struct Ahead<T> {
    pub from: *const T,
    pub stride: isize,
    pub lines: usize,
    /// At least 1.
    pub every: usize,
}

impl<T> Ahead<T> {
    /// Asks for what is there.
    pub fn nothing(near: *const T) -> Ahead<T> {
        Ahead { from: near, stride: 0, lines: 0, every: usize::MAX }
    }
}

/// What is added to a tile once, pointing at its first element.
#[derive(Clone, Copy)]
pub enum Bias<T> {
    None,
    /// One number a column: `bias[j]`.
    Columns(*const T),
    /// One number a row: `bias[i]`.
    Rows(*const T),
}

pub struct TileShape {
    pub rows: usize,
    pub columns: usize,
    /// Columns of a register.
    pub lanes: usize,
}

/// No tile has more elements.
pub const MOST_ELEMENTS: usize = 12 * 32;

/// `f32` or `f64`.
pub trait Element: Copy + Send + Sync + PartialEq + Add<Output = Self> + Mul<Output = Self> + 'static {
    const ZERO: Self;
    const ONE: Self;

    /// The largest tile; B is packed in panels of its columns.
    fn tile_shape() -> TileShape;
    /// The most columns that a tile of so many rows may have when B is not packed.
    fn widest(rows: usize) -> usize;
    /// # Safety
    /// The strides and sizes of the tile stay inside what its pointers are valid for.
    unsafe fn tile(tile: &Tile<Self>);
    /// Runs a kernel on the lanes of this process.
    fn dispatch<K: Kernel<Self>>(kernel: K) -> K::Out;
    /// self · a + b, rounded once.
    fn mul_add(self, a: Self, b: Self) -> Self;
}

impl Element for f32 {
    const ZERO: f32 = 0.0;
    const ONE: f32 = 1.0;

    #[inline]
    fn tile_shape() -> TileShape {
        match simd::level() {
            Level::Avx512 => TileShape { rows: 12, columns: 32, lanes: 16 },
            Level::Avx2 => TileShape { rows: 6, columns: 16, lanes: 8 },
            Level::Neon => TileShape { rows: 8, columns: 12, lanes: 4 },
            Level::Plain => PLAIN_SHAPE,
        }
    }

    #[inline]
    fn widest(rows: usize) -> usize {
        match (simd::level(), rows) {
            (Level::Avx512, 1 | 2) => 128,
            (Level::Avx512, 3 | 4) => 64,
            (Level::Avx2, 1) => 64,
            (Level::Avx2, 2) => 32,
            (Level::Neon, 1 | 2) => 32,
            (Level::Neon, 3 | 4) => 24,
            _ => Self::tile_shape().columns,
        }
    }

    #[inline]
    fn dispatch<K: Kernel<f32>>(kernel: K) -> K::Out {
        simd::dispatch_f32(kernel)
    }

    #[inline(always)]
    fn mul_add(self, a: f32, b: f32) -> f32 {
        f32::mul_add(self, a, b)
    }

    #[inline]
    unsafe fn tile(tile: &Tile<f32>) {
        simd::dispatch_f32(F32Tile(tile));
    }
}

impl Element for f64 {
    const ZERO: f64 = 0.0;
    const ONE: f64 = 1.0;

    #[inline]
    fn tile_shape() -> TileShape {
        PLAIN_SHAPE
    }

    #[inline]
    fn widest(_rows: usize) -> usize {
        PLAIN_SHAPE.columns
    }

    #[inline]
    fn dispatch<K: Kernel<f64>>(kernel: K) -> K::Out {
        simd::dispatch_f64(kernel)
    }

    #[inline(always)]
    fn mul_add(self, a: f64, b: f64) -> f64 {
        f64::mul_add(self, a, b)
    }

    #[inline]
    unsafe fn tile(tile: &Tile<f64>) {
        match simd::level() {
            Level::Plain => simd::dispatch_f64(F64Tile::<PLAIN_FUSED>(tile)),
            _ => simd::dispatch_f64(F64Tile::<true>(tile)),
        }
    }
}

const PLAIN_SHAPE: TileShape = TileShape { rows: 6, columns: 8, lanes: 8 };

/// Whether a fused multiply-add is one instruction on every processor of the target.
pub const PLAIN_FUSED: bool = cfg!(any(target_arch = "aarch64", target_feature = "fma"));

struct F32Tile<'a>(&'a Tile<'a, f32>);

impl Kernel<f32> for F32Tile<'_> {
    type Out = ();

    #[inline(always)]
    fn run<L: Lanes<Elem = f32>>(self) {
        let tile = self.0;
        // SAFETY: the promise of the caller of `Element::tile`.
        unsafe {
            match L::WIDTH {
                16 => match tile.columns.div_ceil(16) {
                    1 => up_to_12_rows::<L, 1>(tile),
                    2 => up_to_12_rows::<L, 2>(tile),
                    3 | 4 => up_to_4_rows::<L, 4>(tile),
                    _ => up_to_2_rows::<L, 8>(tile),
                },
                8 => match tile.columns.div_ceil(8) {
                    1 => up_to_6_rows::<L, 1>(tile),
                    2 => up_to_6_rows::<L, 2>(tile),
                    3 | 4 => up_to_2_rows::<L, 4>(tile),
                    _ => lanes::<L, 1, 8>(tile),
                },
                4 => match tile.columns.div_ceil(4) {
                    1 => up_to_8_rows::<L, 1>(tile),
                    2 => up_to_8_rows::<L, 2>(tile),
                    3 => up_to_8_rows::<L, 3>(tile),
                    4..=6 => up_to_4_rows::<L, 6>(tile),
                    _ => up_to_2_rows::<L, 8>(tile),
                },
                _ => plain_rows::<f32, PLAIN_FUSED>(tile),
            }
        }
    }
}

struct F64Tile<'a, const FUSED: bool>(&'a Tile<'a, f64>);

impl<const FUSED: bool> Kernel<f64> for F64Tile<'_, FUSED> {
    type Out = ();

    #[inline(always)]
    fn run<L: Lanes<Elem = f64>>(self) {
        // SAFETY: the promise of the caller of `Element::tile`.
        unsafe { plain_rows::<f64, FUSED>(self.0) }
    }
}

/// A function that calls `$body` with the number of rows of its tile as a constant.
macro_rules! by_rows {
    ($(#[$doc:meta])* $name:ident: $($rows:literal)*) => {
        $(#[$doc])*
        #[inline(always)]
        unsafe fn $name<L: Lanes, const V: usize>(tile: &Tile<L::Elem>)
        where
            L::Elem: Element,
        {
            // SAFETY: the promise of the caller of `Element::tile`.
            unsafe {
                match tile.rows {
                    $($rows => lanes::<L, $rows, V>(tile),)*
                    rows => unreachable!("bug: a tile of {rows} rows"),
                }
            }
        }
    };
}

by_rows!(up_to_2_rows: 1 2);
by_rows!(up_to_4_rows: 1 2 3 4);
by_rows!(up_to_6_rows: 1 2 3 4 5 6);
by_rows!(up_to_8_rows: 1 2 3 4 5 6 7 8);
by_rows!(up_to_12_rows: 1 2 3 4 5 6 7 8 9 10 11 12);

/// `M` rows of `V` registers.
#[inline(always)]
unsafe fn lanes<L: Lanes, const M: usize, const V: usize>(tile: &Tile<L::Elem>)
where
    L::Elem: Element,
{
    // SAFETY: the promise of the caller of `Element::tile`.
    unsafe {
        // Rows beside each other, as packing leaves them, are addressed by constants.
        let sums = match tile.a_row_stride {
            1 => sums::<L, M, V>(tile, 1),
            stride => sums::<L, M, V>(tile, stride),
        };
        let full = tile.columns == V * L::WIDTH;
        match (tile.bias, tile.accumulate) {
            (Bias::None, false) if full => {
                let alpha = L::splat(tile.alpha);
                for i in 0..M {
                    for v in 0..V {
                        (sums[i][v] * alpha).store(tile.c.offset(i as isize * tile.c_stride).add(v * L::WIDTH));
                    }
                }
            }
            (Bias::None, true) if full => {
                let alpha = L::splat(tile.alpha);
                for i in 0..M {
                    for v in 0..V {
                        let c = tile.c.offset(i as isize * tile.c_stride).add(v * L::WIDTH);
                        sums[i][v].mul_add(alpha, L::load(c)).store(c);
                    }
                }
            }
            _ => finish(tile, sums),
        }
    }
}

#[inline(always)]
unsafe fn sums<L: Lanes, const M: usize, const V: usize>(tile: &Tile<L::Elem>, a_row_stride: isize) -> [[L; V]; M]
where
    L::Elem: Element,
{
    let mut sums = [[L::splat(L::Elem::ZERO); V]; M];
    // C is wanted at the end: its rows are far apart, and each would be waited for.
    for i in 0..M {
        for v in (0..V).step_by(64 / size_of::<L>().min(64)) {
            prefetch(tile.c.wrapping_offset(i as isize * tile.c_stride + (v * L::WIDTH) as isize));
        }
    }
    // SAFETY: the promise of the caller of `Element::tile`.
    unsafe {
        let (mut b, mut ahead) = (tile.b, tile.ahead.from);
        for &run in tile.runs {
            let mut a = tile.a.offset(run);
            let mut left = tile.depth;
            while left > 0 {
                for line in 0..tile.ahead.lines {
                    prefetch(ahead.wrapping_byte_add(line * LINE_BYTES));
                }
                ahead = ahead.wrapping_offset(tile.ahead.stride);
                let steps = left.min(tile.ahead.every);
                for _ in 0..steps {
                    step(&mut sums, a, a_row_stride, b, tile.b_stride);
                    a = a.offset(tile.a_depth_stride);
                    b = b.offset(tile.b_stride);
                }
                left -= steps;
            }
        }
    }
    sums
}

/// The rarer ways to write a tile. A loop over v that is not unrolled takes the sums through memory, here only.
#[inline(always)]
unsafe fn finish<L: Lanes, const M: usize, const V: usize>(tile: &Tile<L::Elem>, sums: [[L; V]; M])
where
    L::Elem: Element,
{
    let alpha = L::splat(tile.alpha);
    for v in 0..V {
        let from = v * L::WIDTH;
        if from >= tile.columns {
            break;
        }
        let n = tile.columns - from;
        // SAFETY: the promise of the caller of `Element::tile`; n columns are left.
        unsafe {
            let part = |p: *const L::Elem| if n < L::WIDTH { L::load_first(p, n) } else { L::load(p) };
            let shared = match tile.bias {
                Bias::Columns(bias) => part(bias.add(from)),
                _ => L::splat(L::Elem::ZERO),
            };
            for i in 0..M {
                let c = tile.c.offset(i as isize * tile.c_stride).add(from);
                let mut y = sums[i][v].mul_add(alpha, shared);
                if let Bias::Rows(bias) = tile.bias {
                    y = y + L::splat(*bias.add(i));
                }
                if tile.accumulate {
                    y = y + part(c);
                }
                if n < L::WIDTH { y.store_first(c, n) } else { y.store(c) }
            }
        }
    }
}

/// One step of k: an outer product of M numbers of A and V registers of B.
#[inline(always)]
unsafe fn step<L: Lanes, const M: usize, const V: usize>(
    sums: &mut [[L; V]; M],
    a: *const L::Elem,
    a_row_stride: isize,
    b: *const L::Elem,
    b_stride: isize,
) {
    // SAFETY: the promise of the caller of `Element::tile`.
    unsafe {
        for v in (0..V).step_by(64 / size_of::<L>().min(64)) {
            prefetch(b.wrapping_offset(AHEAD * b_stride + (v * L::WIDTH) as isize));
        }
        let mut row = [L::load(b); V];
        for v in 1..V {
            row[v] = L::load(b.add(v * L::WIDTH));
        }
        if L::WIDTH == 4 && a_row_stride == 1 {
            let numbers = L::splats::<M>(a);
            for i in 0..M {
                for v in 0..V {
                    sums[i][v] = numbers[i].mul_add(row[v], sums[i][v]);
                }
            }
            return;
        }
        for i in 0..M {
            let x = L::splat(*a.offset(i as isize * a_row_stride));
            for v in 0..V {
                sums[i][v] = x.mul_add(row[v], sums[i][v]);
            }
        }
    }
}

/// Steps of k by which B is fetched ahead: rows of an unpacked B are too far apart for the processor to guess.
const AHEAD: isize = 8;

#[inline(always)]
pub fn prefetch<T>(p: *const T) {
    // SAFETY: a hint, which never faults.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(p.cast());
    }
    // SAFETY: as above.
    #[cfg(target_arch = "aarch64")]
    unsafe {
        std::arch::asm!("prfm pldl1keep, [{}]", in(reg) p.addr(), options(nomem, nostack, preserves_flags));
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let _ = p;
}

#[inline(always)]
unsafe fn plain_rows<T: Element, const FUSED: bool>(tile: &Tile<T>) {
    // SAFETY: the promise of the caller of `Element::tile`.
    unsafe {
        match tile.rows {
            1 => plain::<T, 1, FUSED>(tile),
            2 => plain::<T, 2, FUSED>(tile),
            3 => plain::<T, 3, FUSED>(tile),
            4 => plain::<T, 4, FUSED>(tile),
            5 => plain::<T, 5, FUSED>(tile),
            6 => plain::<T, 6, FUSED>(tile),
            rows => unreachable!("bug: a tile of {rows} rows"),
        }
    }
}

/// `M` rows of eight numbers, left to the compiler to vectorise.
#[inline(always)]
unsafe fn plain<T: Element, const M: usize, const FUSED: bool>(tile: &Tile<T>) {
    let mut sums = [[T::ZERO; PLAIN_SHAPE.columns]; M];
    // SAFETY: the promise of the caller of `Element::tile`.
    unsafe {
        let mut b = tile.b;
        for &run in tile.runs {
            let mut a = tile.a.offset(run);
            for _ in 0..tile.depth {
                let row = *b.cast::<[T; PLAIN_SHAPE.columns]>();
                for i in 0..M {
                    let x = *a.offset(i as isize * tile.a_row_stride);
                    sums[i] = std::array::from_fn(|j| {
                        if FUSED { x.mul_add(row[j], sums[i][j]) } else { sums[i][j] + x * row[j] }
                    });
                }
                a = a.offset(tile.a_depth_stride);
                b = b.offset(tile.b_stride);
            }
        }
        // The black box makes the sums one block of memory; without it none of this is vectorised.
        for (i, sums) in std::hint::black_box(sums).iter().enumerate() {
            let row = tile.c.offset(i as isize * tile.c_stride);
            for (j, &sum) in sums[..tile.columns].iter().enumerate() {
                let mut y = sum * tile.alpha;
                match tile.bias {
                    Bias::None => {}
                    Bias::Columns(bias) => y = y + *bias.add(j),
                    Bias::Rows(bias) => y = y + *bias.add(i),
                }
                if tile.accumulate {
                    y = y + *row.add(j);
                }
                *row.add(j) = y;
            }
        }
    }
}
