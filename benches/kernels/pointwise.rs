//! Elementwise formulas. Goal: 0.80 of the bandwidth of the memory they go through.

use crate::measure::{Bench, Work, noise, row};
use backsweep::device::cpu::pointwise::{Kernels, launch};
use backsweep::device::cpu::split::Split;
use backsweep::device::cpu::view::View;
use backsweep::device::cpu::{bits, pointwise};
use backsweep::device::formula::{Formula, MOST};
use backsweep::dtype::DType;
use backsweep::real::Real;
use backsweep::shape::Layout;

macro_rules! formulas {
    ($($name:ident: $arity:literal, |$x:ident| $body:expr;)*) => {
        $(struct $name;

        impl Formula for $name {
            const ARITY: usize = $arity;
            const INTEGERS: bool = false;

            #[inline(always)]
            fn eval<R: Real>($x: [R; MOST]) -> R {
                $body
            }
        })*
    };
}

formulas! {
    Add: 2, |x| x[0] + x[1];
    Exp: 1, |x| x[0].exp();
    Tanh: 1, |x| x[0].tanh();
    Sigmoid: 1, |x| x[0].sigmoid();
    Gelu: 1, |x| x[0] * x[0].normal_cdf();
    GeluBack: 2, |x| x[1] * (x[0].normal_cdf() + x[0] * x[0].normal_pdf());
    GeluSlope: 3, |x| x[2] * (x[0].normal_cdf() + x[0] * x[0].normal_pdf());
    SiluBack: 2, |x| {
        let s = x[0].sigmoid();
        x[1] * (s + x[0] * s * (-s + 1.0))
    };
}

fn formula<F: Formula>(criterion: &mut Bench, name: &str) {
    let kernels: pointwise::Kernels = Kernels::of::<F>();
    for len in [1 << 16, 1 << 20] {
        let layout = Layout::contiguous("bench", &[len]).expect("a size that fits");
        let mut inputs: Vec<Vec<f32>> = (0..F::ARITY).map(|_| noise(len)).collect();
        let mut out = noise(len);
        let views: Vec<Option<View>> =
            inputs.iter_mut().map(|x| Some(View::new(x.as_mut_ptr().cast(), &layout, DType::F32))).collect();
        let out = View::new(out.as_mut_ptr().cast(), &layout, DType::F32);
        let bytes = Work::Bytes(4 * (F::ARITY + 1) * len);
        row(criterion, "pointwise", &format!("{name} {len}"), bytes, || launch(&kernels, DType::F32, &views, &out));
    }
}

/// Value and derivative in one pass, the latter where the operand was; that is then an operand again, of numbers not far from it.
fn split<F: Formula, D: Formula>(criterion: &mut Bench, name: &str) {
    let split = Split::of::<F, D>();
    for len in [1 << 16, 1 << 20] {
        let layout = Layout::contiguous("bench", &[len]).expect("a size that fits");
        let (mut x, mut y) = (noise(len), noise(len));
        let x = View::new(x.as_mut_ptr().cast(), &layout, DType::F32);
        let y = View::new(y.as_mut_ptr().cast(), &layout, DType::F32);
        row(criterion, "pointwise", &format!("{name} {len}"), Work::Bytes(16 * len), || split.launch(&x, &y));
    }
}

pub fn bench(criterion: &mut Bench) {
    formula::<Add>(criterion, "add");
    formula::<Exp>(criterion, "exp");
    formula::<Tanh>(criterion, "tanh");
    formula::<Sigmoid>(criterion, "sigmoid");
    formula::<Gelu>(criterion, "gelu");
    formula::<GeluBack>(criterion, "gelu backward");
    formula::<SiluBack>(criterion, "silu backward");
    split::<Gelu, GeluSlope>(criterion, "gelu and its slope");
    let len = 1 << 20;
    let (x, mut y, mut mask) = (noise(len), noise(len), vec![0; len / 8]);
    row(criterion, "relu", "forward", Work::Bytes(8 * len), || bits::relu(&x, &mut y, &mut mask));
    row(criterion, "relu", "backward", Work::Bytes(8 * len), || bits::keep(&x, &mask, &mut y));
}
