//! Optimizer steps in one pass over each tensor, and what clipping needs.

use super::parts::Parts;
use super::pool;
use super::rows::Float;
use super::simd::{Kernel, Lanes};

const CHUNK: usize = 16 * 1024;

/// One step of Adam.   Kingma & Ba 2014, arXiv:1412.6980; decoupled decay: Loshchilov & Hutter 2017, arXiv:1711.05101
#[derive(Clone, Copy, Debug)]
pub struct Adam {
    pub rate: f64,
    pub beta1: f64,
    pub beta2: f64,
    pub eps: f64,
    pub decay: f64,
    pub decoupled: bool,
    pub maximize: bool,
    pub step: i32,
}

/// Arithmetic that both float types share, kept in the type itself so that loops vectorise.
macro_rules! adam {
    ($name:ident, $t:ty) => {
        /// x, m and v in place from the gradient.
        pub fn $name(how: Adam, x: &mut [$t], dx: &[$t], m: &mut [$t], v: &mut [$t]) {
            assert!(x.len() == dx.len() && x.len() == m.len() && x.len() == v.len(), "bug: adam on other sizes");
            let n = x.len();
            let (x, m, v) = (Parts::new(x), Parts::new(m), Parts::new(v));
            let correction1 = 1.0 - how.beta1.powi(how.step);
            let correction2 = (1.0 - how.beta2.powi(how.step)).sqrt();
            let (step_size, root) = ((how.rate / correction1) as $t, (1.0 / correction2) as $t);
            let (b1, b2, eps) = (how.beta1 as $t, how.beta2 as $t, how.eps as $t);
            let (c1, c2) = ((1.0 - how.beta1) as $t, (1.0 - how.beta2) as $t);
            let shrink = if how.decoupled { (1.0 - how.rate * how.decay) as $t } else { 1.0 };
            let coupled = if how.decoupled { 0.0 } else { how.decay as $t };
            let sign: $t = if how.maximize { -1.0 } else { 1.0 };
            pool::run(n.div_ceil(CHUNK), &|c| {
                let (start, len) = (c * CHUNK, CHUNK.min(n - c * CHUNK));
                // SAFETY: each chunk takes a range of its own.
                let (x, m, v) = unsafe { (x.part(start, len), m.part(start, len), v.part(start, len)) };
                for (((x, m), v), g) in x.iter_mut().zip(m).zip(v).zip(&dx[start..start + len]) {
                    *x *= shrink;
                    let g = g * sign + *x * coupled;
                    *m = *m * b1 + g * c1;
                    *v = *v * b2 + g * g * c2;
                    *x -= step_size * *m / (v.sqrt() * root + eps);
                }
            });
        }
    };
}
adam!(adam_f32, f32);
adam!(adam_f64, f64);

/// One step of SGD.
#[derive(Clone, Copy, Debug)]
pub struct Sgd {
    pub rate: f64,
    pub momentum: f64,
    pub dampening: f64,
    pub decay: f64,
    pub nesterov: bool,
    pub maximize: bool,
    /// The momentum buffer holds nothing yet.
    pub first: bool,
}

macro_rules! sgd {
    ($name:ident, $t:ty) => {
        /// x, and the momentum buffer where there is one, in place from the gradient.
        pub fn $name(how: Sgd, x: &mut [$t], dx: &[$t], buffer: Option<&mut [$t]>) {
            assert!(
                x.len() == dx.len() && buffer.as_ref().is_none_or(|b| b.len() == x.len()),
                "bug: sgd on other sizes"
            );
            let n = x.len();
            let (x, buffer) = (Parts::new(x), buffer.map(Parts::new));
            let sign: $t = if how.maximize { -1.0 } else { 1.0 };
            let (rate, decay) = (how.rate as $t, how.decay as $t);
            let (keep, add) = if how.first { (0.0, 1.0) } else { (how.momentum as $t, (1.0 - how.dampening) as $t) };
            let momentum = how.momentum as $t;
            pool::run(n.div_ceil(CHUNK), &|c| {
                let (start, len) = (c * CHUNK, CHUNK.min(n - c * CHUNK));
                let dx = &dx[start..start + len];
                // SAFETY: each chunk takes a range of its own.
                let x = unsafe { x.part(start, len) };
                let Some(buffer) = &buffer else {
                    x.iter_mut().zip(dx).for_each(|(x, g)| *x -= rate * (g * sign + *x * decay));
                    return;
                };
                // SAFETY: as above.
                let buffer = unsafe { buffer.part(start, len) };
                for ((x, b), g) in x.iter_mut().zip(buffer).zip(dx) {
                    let g = g * sign + *x * decay;
                    *b = *b * keep + g * add;
                    *x -= rate * if how.nesterov { g + momentum * *b } else { *b };
                }
            });
        }
    };
}
sgd!(sgd_f32, f32);
sgd!(sgd_f64, f64);

/// Σ x², in f64, by chunks of a fixed size joined in order.
pub fn sum_of_squares<T: Float>(x: &[T]) -> f64 {
    let mut parts = vec![0.0f64; x.len().div_ceil(CHUNK)];
    let out = Parts::new(&mut parts);
    pool::run(x.len().div_ceil(CHUNK), &|c| {
        let x = &x[c * CHUNK..x.len().min((c + 1) * CHUNK)];
        // SAFETY: each chunk writes its own sum.
        unsafe { out.part(c, 1)[0] = T::dispatch(Squares(x)) };
    });
    parts.iter().sum()
}

/// A kernel, so that it is compiled for the level of the processor; lanes of f32 are of no use to it.
struct Squares<'a, T>(&'a [T]);

impl<T: Float> Kernel<T> for Squares<'_, T> {
    type Out = f64;

    #[inline(always)]
    fn run<L: Lanes<Elem = T>>(self) -> f64 {
        let mut lanes = [0.0f64; 16];
        let (whole, rest) = self.0.as_chunks::<16>();
        for x in whole {
            for i in 0..16 {
                let v: f64 = x[i].into();
                lanes[i] += v * v;
            }
        }
        for (i, &v) in rest.iter().enumerate() {
            let v: f64 = v.into();
            lanes[i] += v * v;
        }
        lanes.iter().sum()
    }
}
