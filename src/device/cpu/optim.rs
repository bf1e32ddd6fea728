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

/// x, m and v in place from the gradient.
pub fn adam<T: Float>(how: Adam, x: &mut [T], dx: &[T], m: &mut [T], v: &mut [T]) {
    assert!(x.len() == dx.len() && x.len() == m.len() && x.len() == v.len(), "bug: adam on other sizes");
    let n = x.len();
    let (x, m, v) = (Parts::new(x), Parts::new(m), Parts::new(v));
    pool::run(n.div_ceil(CHUNK), &|c| {
        let (start, len) = (c * CHUNK, CHUNK.min(n - c * CHUNK));
        // SAFETY: each chunk takes a range of its own.
        let (x, m, v) = unsafe { (x.part(start, len), m.part(start, len), v.part(start, len)) };
        T::dispatch(AdamStep { how, x, dx: &dx[start..start + len], m, v });
    });
}

/// A kernel, so that it is compiled for the level of the processor.
struct AdamStep<'a, T> {
    how: Adam,
    x: &'a mut [T],
    dx: &'a [T],
    m: &'a mut [T],
    v: &'a mut [T],
}

impl<T: Float> Kernel<T> for AdamStep<'_, T> {
    type Out = ();

    #[inline(always)]
    fn run<L: Lanes<Elem = T>>(self) {
        let AdamStep { how, x, dx, m, v } = self;
        let correction1 = 1.0 - how.beta1.powi(how.step);
        let correction2 = (1.0 - how.beta2.powi(how.step)).sqrt();
        let (step_size, root) = (L::lit(how.rate / correction1), L::lit(1.0 / correction2));
        let (b1, b2, eps) = (L::lit(how.beta1), L::lit(how.beta2), L::lit(how.eps));
        let (c1, c2) = (L::lit(1.0 - how.beta1), L::lit(1.0 - how.beta2));
        let shrink = L::lit(if how.decoupled { 1.0 - how.rate * how.decay } else { 1.0 });
        let coupled = L::lit(if how.decoupled { 0.0 } else { how.decay });
        let sign = L::lit(if how.maximize { -1.0 } else { 1.0 });
        for i in (0..dx.len()).step_by(L::WIDTH) {
            let part = i..dx.len().min(i + L::WIDTH);
            let x_shrunk = load::<L>(&x[part.clone()]) * shrink;
            let g = load::<L>(&dx[part.clone()]) * sign + x_shrunk * coupled;
            let m_now = load::<L>(&m[part.clone()]) * b1 + g * c1;
            let v_now = load::<L>(&v[part.clone()]) * b2 + g * g * c2;
            store(m_now, &mut m[part.clone()]);
            store(v_now, &mut v[part.clone()]);
            store(x_shrunk - step_size * m_now / (v_now.sqrt() * root + eps), &mut x[part]);
        }
    }
}

/// As many lanes as there are elements, and 0 in the rest.
#[inline(always)]
fn load<L: Lanes>(from: &[L::Elem]) -> L {
    // SAFETY: the slice has so many elements.
    unsafe { if from.len() >= L::WIDTH { L::load(from.as_ptr()) } else { L::load_first(from.as_ptr(), from.len()) } }
}

/// As many lanes as there is room for.
#[inline(always)]
fn store<L: Lanes>(lanes: L, to: &mut [L::Elem]) {
    // SAFETY: the slice has so many elements.
    unsafe {
        if to.len() >= L::WIDTH { lanes.store(to.as_mut_ptr()) } else { lanes.store_first(to.as_mut_ptr(), to.len()) }
    }
}

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

/// x, and the momentum buffer where there is one, in place from the gradient.
pub fn sgd<T: Float>(how: Sgd, x: &mut [T], dx: &[T], buffer: Option<&mut [T]>) {
    assert!(x.len() == dx.len() && buffer.as_ref().is_none_or(|b| b.len() == x.len()), "bug: sgd on other sizes");
    let n = x.len();
    let (x, buffer) = (Parts::new(x), buffer.map(Parts::new));
    pool::run(n.div_ceil(CHUNK), &|c| {
        let (start, len) = (c * CHUNK, CHUNK.min(n - c * CHUNK));
        let dx = &dx[start..start + len];
        // SAFETY: each chunk takes a range of its own.
        let (x, buffer) = unsafe { (x.part(start, len), buffer.as_ref().map(|b| b.part(start, len))) };
        match buffer {
            None => T::dispatch(SgdStep::<T, PLAIN> { how, x, dx, buffer: &mut [] }),
            Some(buffer) if how.nesterov => T::dispatch(SgdStep::<T, NESTEROV> { how, x, dx, buffer }),
            Some(buffer) => T::dispatch(SgdStep::<T, MOMENTUM> { how, x, dx, buffer }),
        }
    });
}

const PLAIN: u8 = 0;
const MOMENTUM: u8 = 1;
const NESTEROV: u8 = 2;

struct SgdStep<'a, T, const KIND: u8> {
    how: Sgd,
    x: &'a mut [T],
    dx: &'a [T],
    buffer: &'a mut [T],
}

impl<T: Float, const KIND: u8> Kernel<T> for SgdStep<'_, T, KIND> {
    type Out = ();

    #[inline(always)]
    fn run<L: Lanes<Elem = T>>(self) {
        let SgdStep { how, x, dx, buffer } = self;
        let sign = L::lit(if how.maximize { -1.0 } else { 1.0 });
        let (rate, decay, momentum) = (L::lit(how.rate), L::lit(how.decay), L::lit(how.momentum));
        let (keep, add) = if how.first { (0.0, 1.0) } else { (how.momentum, 1.0 - how.dampening) };
        let (keep, add) = (L::lit(keep), L::lit(add));
        for i in (0..dx.len()).step_by(L::WIDTH) {
            let part = i..dx.len().min(i + L::WIDTH);
            let x_now = load::<L>(&x[part.clone()]);
            let g = load::<L>(&dx[part.clone()]) * sign + x_now * decay;
            let mut change = g;
            if KIND != PLAIN {
                let b = load::<L>(&buffer[part.clone()]) * keep + g * add;
                store(b, &mut buffer[part.clone()]);
                change = if KIND == NESTEROV { g + momentum * b } else { b };
            }
            store(x_now - rate * change, &mut x[part]);
        }
    }
}

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
