//! Errors in units in the last place, at every level, against the `f64` reading; and the values at the corners.

use crate::device::cpu::simd::{F32Lanes, KernelF32, Level, dispatch_f32_at, levels};
use crate::real::Real;

/// A function in `math`, to be run over a slice.
trait Function: Copy {
    const NAME: &'static str;
    fn lanes<L: F32Lanes>(x: L) -> L;
    fn exact(x: f64) -> f64;
}

macro_rules! functions {
    ($($function:ident $name:ident),*) => {
        $(#[derive(Clone, Copy)]
        struct $function;

        impl Function for $function {
            const NAME: &'static str = stringify!($name);
            #[inline(always)]
            fn lanes<L: F32Lanes>(x: L) -> L {
                crate::device::cpu::math::$name(x)
            }
            fn exact(x: f64) -> f64 {
                Real::$name(x)
            }
        })*
    };
}

functions!(
    Exp exp, Exp2 exp2, Expm1 expm1, Ln ln, Log1p log1p, Log2 log2, Log10 log10, Sigmoid sigmoid, Tanh tanh, Erf erf,
    Erfc erfc, NormalCdf normal_cdf, NormalPdf normal_pdf, Sin sin, Cos cos, Rsqrt rsqrt
);

struct Apply<'a, F>(&'a [f32], &'a mut [f32], F);

impl<F: Function> KernelF32 for Apply<'_, F> {
    type Out = ();
    #[inline(always)]
    fn run<L: F32Lanes>(self) {
        assert!(self.0.len() == self.1.len() && self.0.len().is_multiple_of(L::WIDTH));
        for i in (0..self.0.len()).step_by(L::WIDTH) {
            // SAFETY: both slices hold a whole number of registers.
            unsafe { F::lanes(L::load(self.0.as_ptr().add(i))).store(self.1.as_mut_ptr().add(i)) };
        }
    }
}

fn evaluate<F: Function>(at: Level, function: F, x: &[f32]) -> Vec<f32> {
    let mut padded = x.to_vec();
    padded.resize(x.len().next_multiple_of(16), 0.0);
    let mut y = vec![0.0; padded.len()];
    dispatch_f32_at(at, Apply(&padded, &mut y, function));
    y.truncate(x.len());
    y
}

/// The distance of y from the exact value, in spacings of `f32` there.
fn ulps(y: f32, exact: f64) -> f64 {
    let rounded = exact as f32;
    if y == rounded || (y.is_nan() && rounded.is_nan()) {
        return 0.0;
    }
    let exponent = (exact.abs().to_bits() >> 52) as i32 - 1023;
    (y as f64 - exact).abs() / 2.0_f64.powi(exponent.max(-126) - 23)
}

/// The greatest error over one bit pattern in `step`, at each level.
fn assert_within<F: Function>(function: F, bound: f64) {
    let step = std::env::var("BACKSWEEP_ULP_STEP").map_or(2053, |step| step.parse().unwrap());
    for at in levels() {
        let (mut worst, mut place) = (0.0, 0.0);
        let mut block = Vec::new();
        for chunk in 0..(1_u64 << 32).div_ceil(step << 12) {
            block.clear();
            let patterns = (chunk << 12)..((chunk + 1) << 12);
            block.extend(patterns.map(|i| i * step).filter(|&i| i >> 32 == 0).map(|i| f32::from_bits(i as u32)));
            for (&x, y) in block.iter().zip(evaluate(at, function, &block)) {
                let error = ulps(y, F::exact(x as f64));
                // NaN is the worst of all.
                if error > worst || error.is_nan() {
                    (worst, place) = (error, x);
                }
            }
        }
        println!("{} {at:?}: {worst:.3} ULP at {place:e}", F::NAME);
        assert!(worst <= bound, "{} {at:?}: {worst} ULP at {place:e}", F::NAME);
    }
}

macro_rules! accuracy {
    ($($test:ident: $function:ident within $bound:literal;)*) => {
        $(#[test]
        fn $test() {
            assert_within($function, $bound);
        })*
    };
}

accuracy! {
    exp_is_accurate: Exp within 1.0;
    exp2_is_accurate: Exp2 within 1.0;
    expm1_is_accurate: Expm1 within 1.5;
    ln_is_accurate: Ln within 1.0;
    log1p_is_accurate: Log1p within 1.5;
    log2_is_accurate: Log2 within 1.5;
    log10_is_accurate: Log10 within 1.5;
    sigmoid_is_accurate: Sigmoid within 2.5;
    tanh_is_accurate: Tanh within 1.5;
    erf_is_accurate: Erf within 1.5;
    erfc_is_accurate: Erfc within 4.0;
    normal_cdf_is_accurate: NormalCdf within 4.0;
    normal_pdf_is_accurate: NormalPdf within 2.5;
    sin_is_accurate: Sin within 1.5;
    cos_is_accurate: Cos within 1.5;
    rsqrt_is_accurate: Rsqrt within 1.5;
}

const INF: f32 = f32::INFINITY;
const NAN: f32 = f32::NAN;
const LEAST: f32 = 1e-45;

fn assert_values<F: Function>(function: F, cases: &[(f32, f32)]) {
    let inputs: Vec<f32> = cases.iter().map(|case| case.0).collect();
    for at in levels() {
        for (&(x, wanted), y) in cases.iter().zip(evaluate(at, function, &inputs)) {
            let same = y.to_bits() == wanted.to_bits() || (y.is_nan() && wanted.is_nan());
            assert!(same, "{} {at:?}: {x:e} gave {y:e}, not {wanted:e}", F::NAME);
        }
    }
}

#[test]
fn corners_have_their_exact_values() {
    let odd = [(0.0, 0.0), (-0.0, -0.0), (LEAST, LEAST), (-LEAST, -LEAST), (NAN, NAN)];
    assert_values(Exp, &[(0.0, 1.0), (-0.0, 1.0), (INF, INF), (-INF, 0.0), (NAN, NAN), (89.0, INF), (-104.0, 0.0)]);
    assert_values(Exp, &[(88.72283, 3.402_798_5e38), (-103.9, LEAST), (LEAST, 1.0), (3e38, INF), (-3e38, 0.0)]);
    assert_values(
        Exp2,
        &[(3.0, 8.0), (-149.0, LEAST), (-150.0, 0.0), (128.0, INF), (NAN, NAN), (INF, INF), (-INF, 0.0)],
    );
    assert_values(Expm1, &odd);
    assert_values(Expm1, &[(INF, INF), (-INF, -1.0), (-200.0, -1.0), (89.0, INF)]);
    assert_values(Ln, &[(0.0, -INF), (-0.0, -INF), (1.0, 0.0), (INF, INF), (-1.0, NAN), (-INF, NAN), (NAN, NAN)]);
    assert_values(Ln, &[(LEAST, -103.278_93), (-LEAST, NAN), (f32::MAX, 88.722_84)]);
    assert_values(Log1p, &odd);
    assert_values(Log1p, &[(-1.0, -INF), (INF, INF), (-1.1, NAN), (-INF, NAN), (f32::MAX, 88.722_84)]);
    assert_values(Log2, &[(0.125, -3.0), (LEAST, -149.0), (1024.0, 10.0), (0.0, -INF), (INF, INF), (-1.0, NAN)]);
    assert_values(Log10, &[(1000.0, 3.0), (1.0, 0.0), (0.0, -INF), (INF, INF), (-1.0, NAN), (NAN, NAN)]);
    assert_values(Sigmoid, &[(0.0, 0.5), (INF, 1.0), (-INF, 0.0), (NAN, NAN), (-104.0, 0.0), (90.0, 1.0)]);
    assert_values(Tanh, &odd);
    assert_values(Tanh, &[(INF, 1.0), (-INF, -1.0), (20.0, 1.0), (-300.0, -1.0)]);
    assert_values(Erf, &odd[..2]);
    assert_values(Erf, &[(NAN, NAN), (INF, 1.0), (-INF, -1.0), (5.0, 1.0)]);
    assert_values(Erfc, &[(0.0, 1.0), (-0.0, 1.0), (INF, 0.0), (-INF, 2.0), (NAN, NAN), (-9.0, 2.0), (11.0, 0.0)]);
    assert_values(Sin, &odd);
    assert_values(Sin, &[(INF, NAN), (-INF, NAN)]);
    assert_values(Cos, &[(0.0, 1.0), (-0.0, 1.0), (INF, NAN), (-INF, NAN), (NAN, NAN)]);
    assert_values(Rsqrt, &[(0.0, INF), (-0.0, -INF), (INF, 0.0), (4.0, 0.5), (-1.0, NAN), (NAN, NAN)]);
}

#[test]
fn a_lane_does_not_depend_on_its_neighbours() {
    // Large arguments of sin go another way; the lanes beside one must not.
    let alone: Vec<f32> = (0..64).map(|i| i as f32 * 0.37).collect();
    let mixed: Vec<f32> = alone.iter().enumerate().map(|(i, &x)| if i % 3 == 0 { 1e20 } else { x }).collect();
    for at in levels() {
        let (one, other) = (evaluate(at, Sin, &alone), evaluate(at, Sin, &mixed));
        assert!((0..64).all(|i| i % 3 == 0 || one[i].to_bits() == other[i].to_bits()));
    }
}
