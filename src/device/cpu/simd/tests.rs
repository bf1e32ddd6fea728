//! Each kind of lanes against plain `f32`, one test body for all levels.

use super::*;
use std::array::from_fn;

/// The widest lanes; narrower ones run over these inputs in steps.
const N: usize = 16;
const A: [f32; N] =
    [0.5, 1.5, -2.5, f32::NAN, 7.0, -7.0, 0.0, -0.0, 1e30, f32::INFINITY, -3.25, 2.0, 1e-40, -9.75, 4.0, 3.0];
const B: [f32; N] =
    [2.0, 1.5, 3.0, 1.0, f32::NAN, 2.0, -0.0, 1.0, -1e-30, 5.0, -3.25, f32::NEG_INFINITY, 0.5, 4.0, -3.0, 0.7];

struct Pairwise<F>(F);

/// A function of two lanes and the same of two `f32`.
trait Pair {
    fn lanes<L: F32Lanes>(a: L, b: L) -> L;
    fn plain(a: f32, b: f32) -> f32;
}

impl<F: Pair> KernelF32 for Pairwise<F> {
    type Out = [f32; N];
    #[inline(always)]
    fn run<L: F32Lanes>(self) -> [f32; N] {
        let mut out = [0.0; N];
        for i in (0..N).step_by(L::WIDTH) {
            // SAFETY: the widths divide N.
            unsafe { F::lanes(L::load(A[i..].as_ptr()), L::load(B[i..].as_ptr())).store(out[i..].as_mut_ptr()) };
        }
        out
    }
}

macro_rules! pairs {
    ($($test:ident: |$a:ident, $b:ident| $lanes:expr, $plain:expr;)*) => {
        $(#[test]
        fn $test() {
            struct Case;
            impl Pair for Case {
                #[inline(always)]
                fn lanes<L: F32Lanes>($a: L, $b: L) -> L {
                    let _ = ($a, $b);
                    $lanes
                }
                fn plain($a: f32, $b: f32) -> f32 {
                    let _ = ($a, $b);
                    $plain
                }
            }
            for at in levels() {
                for (i, y) in dispatch_f32_at(at, Pairwise(Case)).into_iter().enumerate() {
                    let wanted = Case::plain(A[i], B[i]);
                    let same = y == wanted || (y.is_nan() && wanted.is_nan());
                    assert!(same, "{at:?}: {} {} gave {y}, not {wanted}", A[i], B[i]);
                }
            }
        })*
    };
}

/// 1 and 0 for a mask.
#[inline(always)]
fn truth<L: Lanes>(mask: L::Mask) -> L {
    L::select(mask, L::lit(1.0), L::lit(0.0))
}

pairs! {
    sums_agree: |a, b| a + b, a + b;
    differences_agree: |a, b| a - b, a - b;
    products_agree: |a, b| a * b, a * b;
    quotients_agree: |a, b| a / b, a / b;
    literals_stand_on_the_right: |a, b| ((a + 2.0) * 3.0 - 1.0) / 4.0, ((a + 2.0) * 3.0 - 1.0) / 4.0;
    negation_and_size_agree: |a, b| -a.abs(), -a.abs();
    fused_products_agree: |a, b| a.mul_add(b, L::lit(0.1)), a.mul_add(b, 0.1);
    roots_agree: |a, b| a.sqrt(), a.sqrt();
    floors_agree: |a, b| a.floor(), a.floor();
    ceilings_agree: |a, b| a.ceil(), a.ceil();
    rounding_is_half_to_even: |a, b| a.round(), a.round_ties_even();
    truncations_agree: |a, b| a.trunc(), a.trunc();
    less_agrees: |a, b| truth(a.lt(b)), (a < b) as u8 as f32;
    at_most_agrees: |a, b| truth(a.le(b)), (a <= b) as u8 as f32;
    greater_agrees: |a, b| truth(a.gt(b)), (a > b) as u8 as f32;
    at_least_agrees: |a, b| truth(a.ge(b)), (a >= b) as u8 as f32;
    equal_agrees: |a, b| truth(a.eq(b)), (a == b) as u8 as f32;
    unequal_is_true_for_nan: |a, b| truth(a.ne(b)), (a != b) as u8 as f32;
    nan_is_found: |a, b| truth(a.is_nan()), a.is_nan() as u8 as f32;
    masks_combine: |a, b| truth(L::or(L::and(a.gt(b), L::not(b.is_nan())), a.is_nan())), (a > b || a.is_nan()) as u8 as f32;
    the_lesser_propagates_nan: |a, b| a.min(b), Real::min(a as f64, b as f64) as f32;
    the_greater_propagates_nan: |a, b| a.max(b), Real::max(a as f64, b as f64) as f32;
    relu_propagates_nan: |a, b| a.relu(), Real::relu(a as f64) as f32;
    clamps_keep_nan: |a, b| a.clamp(-3.0, 2.0), a.clamp(-3.0, 2.0);
    signs_agree: |a, b| a.sign(), Real::sign(a as f64) as f32;
    powers_agree: |a, b| a.pow(b), (a as f64).powf(b as f64) as f32;
    rests_agree: |a, b| a.rem(b), Real::rem(a as f64, b as f64) as f32;
    whole_quotients_agree: |a, b| a.floor_div(b), Real::floor_div(a as f64, b as f64) as f32;
    functions_without_a_formula_agree: |a, b| a.atan(), (a as f64).atan() as f32;
    bits_move: |a, b| L::from_bits(L::shift_right::<1>(L::int_sub(L::int_add(a.to_bits(), L::int(8)), L::int(5)))),
        f32::from_bits(((a.to_bits() as i32).wrapping_add(3) >> 1) as u32);
    bits_combine: |a, b| L::from_bits(L::int_xor(L::int_and(a.to_bits(), L::int(0x7fff_ff00)), L::shift_left::<3>(L::int(9)))),
        f32::from_bits((a.to_bits() & 0x7fff_ff00) ^ 72);
    integers_convert: |a, b| L::select(a.is_nan(), a, L::from_int(a.clamp(-9.0, 9.0).round().to_int())),
        a.clamp(-9.0, 9.0).round_ties_even();
    bits_are_tested: |a, b| truth(L::int_test(L::int_and(a.to_bits(), L::int(1 << 30)))), (a.to_bits() >> 30 & 1) as f32;
}

/// Denormal results are rounded once, at both ends of the range of n.
#[test]
fn scaling_rounds_once() {
    struct Scale([f32; N], f32);
    impl KernelF32 for Scale {
        type Out = [f32; N];
        #[inline(always)]
        fn run<L: F32Lanes>(mut self) -> [f32; N] {
            for i in (0..N).step_by(L::WIDTH) {
                // SAFETY: the widths divide N.
                unsafe { L::load(self.0[i..].as_ptr()).scale(L::splat(self.1)).store(self.0[i..].as_mut_ptr()) };
            }
            self.0
        }
    }
    let x: [f32; N] = from_fn(|i| 0.7 + 0.123456 * i as f32);
    for at in levels() {
        for n in [-200, -149, -140, -127, -1, 0, 1, 126, 127, 128, 200] {
            let wanted = x.map(|x| (x as f64 * 2.0_f64.powi(n)) as f32);
            assert_eq!(dispatch_f32_at(at, Scale(x, n as f32)), wanted, "{at:?} {n}");
        }
    }
}

#[test]
fn partial_registers_touch_their_elements_only() {
    struct Copy<'a>(&'a [f32], &'a mut [f32]);
    impl KernelF32 for Copy<'_> {
        type Out = usize;
        #[inline(always)]
        fn run<L: F32Lanes>(self) -> usize {
            for n in 0..L::WIDTH {
                // SAFETY: both slices hold 16 elements.
                unsafe {
                    let lanes = L::load_first(self.0.as_ptr(), n);
                    assert_eq!(lanes.sum_lanes(), self.0[..n].iter().sum::<L::Elem>());
                    self.1.fill(-1.0);
                    lanes.store_first(self.1.as_mut_ptr(), n);
                }
                assert!((0..N).all(|i| self.1[i] == if i < n { self.0[i] } else { -1.0 }));
            }
            L::WIDTH
        }
    }
    let x: [f32; N] = from_fn(|i| 1.0 + i as f32);
    let widths: Vec<usize> = levels().map(|at| dispatch_f32_at(at, Copy(&x, &mut [0.0; N]))).collect();
    let wanted: &[usize] = if cfg!(target_arch = "aarch64") { &[1, 4] } else { &[1, 8, 16] };
    assert_eq!(widths, wanted[..widths.len()]);
}

#[test]
fn lanes_fold_to_one_number() {
    struct Fold<'a>(&'a [f32]);
    impl KernelF32 for Fold<'_> {
        type Out = ([f32; 3], usize);
        #[inline(always)]
        fn run<L: F32Lanes>(self) -> ([f32; 3], usize) {
            // SAFETY: the slice holds 16 elements.
            let lanes = unsafe { L::load(self.0.as_ptr()) };
            ([lanes.sum_lanes(), lanes.max_lanes(), lanes.min_lanes()], L::WIDTH)
        }
    }
    let x: [f32; N] = from_fn(|i| ((i * 7) % 16) as f32 - 3.0);
    for at in levels() {
        let (folded, width) = dispatch_f32_at(at, Fold(&x));
        let fold = |pair: fn(f32, f32) -> f32| x[..width].iter().copied().reduce(pair).unwrap();
        assert_eq!(folded, [fold(|a, b| a + b), fold(f32::max), fold(f32::min)], "{at:?}");
        for place in 0..width {
            let mut x = x;
            x[place] = f32::NAN;
            assert!(dispatch_f32_at(at, Fold(&x)).0.iter().all(|y| y.is_nan()), "{at:?} {place}");
        }
    }
}

#[test]
fn the_environment_can_only_lower_the_level() {
    for (found, wanted, level) in [
        (Level::Avx512, None, Level::Avx512),
        (Level::Avx512, Some("avx2"), Level::Avx2),
        (Level::Avx512, Some(" plain "), Level::Plain),
        (Level::Avx2, Some("avx512"), Level::Avx2),
        (Level::Plain, Some("avx2"), Level::Plain),
        (Level::Avx2, Some("sse"), Level::Avx2),
        (Level::Neon, Some("avx2"), Level::Neon),
        (Level::Neon, Some("plain"), Level::Plain),
    ] {
        assert_eq!(lowered(found, wanted), level);
    }
}

#[test]
fn doubles_run_under_the_same_dispatch() {
    struct Dot([f64; 3], [f64; 3]);
    impl Kernel<f64> for Dot {
        type Out = f64;
        #[inline(always)]
        fn run<L: Lanes<Elem = f64>>(self) -> f64 {
            let mut sum = L::splat(0.0);
            for i in (0..3).step_by(L::WIDTH) {
                // SAFETY: `f64` has lanes of one.
                unsafe { sum = L::load(&self.0[i]).mul_add(L::load(&self.1[i]), sum) };
            }
            sum.sum_lanes()
        }
    }
    assert_eq!(dispatch_f64(Dot([1.0, 2.0, 3.0], [4.0, 5.0, 6.0])), 32.0);
}
