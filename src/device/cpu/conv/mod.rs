//! 2-D convolution and its two gradients, directly on channels-last data: no im2col of whole tensors.
//!
//! x and y are dense NHWC, the weight is dense `[c_out, c_in / groups, kh, kw]`; a 1-D convolution has h = kh = 1. The
//! value and the gradient of x are both correlations with a packed weight (`correlate`), the gradient of the weight is
//! a sum of products over pixels (`weight`), and one channel a group has kernels of its own (`depthwise`). Scratch
//! memory comes from the caller. Leaves out: the gradient of the bias (a sum over pixels), transposed convolution
//! (which is `backward_data`), and every other layout.

mod correlate;
mod depthwise;
mod geometry;
mod lanes;
mod pack;
mod slide;
mod weight;

use super::channels::Affine;
use super::simd::{Kernel, dispatch_f32, dispatch_f64};
use geometry::Correlation;

/// The sizes of a convolution. Pairs are vertical, horizontal.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Conv {
    pub n: usize,
    pub c_in: usize,
    pub h: usize,
    pub w: usize,
    pub c_out: usize,
    pub kh: usize,
    pub kw: usize,
    pub stride: [usize; 2],
    pub padding: [usize; 2],
    pub dilation: [usize; 2],
    pub groups: usize,
}

impl Conv {
    /// The height of y. The padded x must hold at least one window.
    pub fn out_h(&self) -> usize {
        (self.h + 2 * self.padding[0] - self.dilation[0] * (self.kh - 1) - 1) / self.stride[0] + 1
    }

    /// The width of y, as `out_h`.
    pub fn out_w(&self) -> usize {
        (self.w + 2 * self.padding[1] - self.dilation[1] * (self.kw - 1) - 1) / self.stride[1] + 1
    }

    /// The kernels trust these sizes.
    fn check(&self, x: usize, weight: usize, y: usize) {
        let fits = |i: usize, size: usize, taps: usize| {
            taps > 0 && self.stride[i] > 0 && size + 2 * self.padding[i] > self.dilation[i] * (taps - 1)
        };
        assert!(fits(0, self.h, self.kh) && fits(1, self.w, self.kw), "bug: a window larger than the padded input");
        let divides = |channels: usize| channels > 0 && channels.is_multiple_of(self.groups);
        assert!(divides(self.c_in) && divides(self.c_out), "bug: groups that do not divide the channels");
        let of_weight = self.c_out * (self.c_in / self.groups) * self.kh * self.kw;
        let of_y = self.n * self.out_h() * self.out_w() * self.c_out;
        let of_x = self.n * self.h * self.w * self.c_in;
        assert!(x == of_x && weight == of_weight && y == of_y, "bug: convolution of tensors of other sizes");
    }

    /// One channel a group, there and back.
    pub fn is_depthwise(&self) -> bool {
        self.groups == self.c_in && self.groups == self.c_out
    }

    /// The forward pass is one correlation.
    fn whole(&self) -> impl Iterator<Item = Correlation> + Clone {
        std::iter::once(Correlation::forward(self))
    }

    /// The gradient of x falls into one correlation for each position within a stride.
    fn phases(self) -> impl Iterator<Item = Correlation> + Clone {
        // Positions beyond x have no elements.
        let (rows, cols) = (self.stride[0].min(self.h), self.stride[1].min(self.w));
        let mut first_row = 0;
        (0..rows * cols).filter_map(move |i| {
            let phase = Correlation::data_gradient(&self, [i / cols, i % cols], first_row)?;
            first_row += phase.terms();
            Some(phase)
        })
    }
}

/// An element type with kernels: `f32` on the widest lanes there are, `f64` on lanes of one.
pub trait Float: Copy + Default + Send + Sync + std::ops::Add<Output = Self> + 'static {
    fn dispatch<K: Kernel<Self>>(kernel: K) -> K::Out;
    fn from_int(x: i32) -> Self;
    /// # Safety
    /// It is the value of an `i32`.
    unsafe fn to_int(self) -> i32;
}

impl Float for f32 {
    #[inline]
    fn dispatch<K: Kernel<f32>>(kernel: K) -> K::Out {
        dispatch_f32(kernel)
    }

    #[inline(always)]
    fn from_int(x: i32) -> f32 {
        x as f32
    }

    #[inline(always)]
    unsafe fn to_int(self) -> i32 {
        // SAFETY: the caller's promise; `as` would check for it, lane by lane.
        unsafe { self.to_int_unchecked() }
    }
}

impl Float for f64 {
    #[inline]
    fn dispatch<K: Kernel<f64>>(kernel: K) -> K::Out {
        dispatch_f64(kernel)
    }

    #[inline(always)]
    fn from_int(x: i32) -> f64 {
        x as f64
    }

    #[inline(always)]
    unsafe fn to_int(self) -> i32 {
        // SAFETY: the caller's promise; `as` would check for it, lane by lane.
        unsafe { self.to_int_unchecked() }
    }
}

/// A pointer that a job's threads share; each writes a part of its own.
pub(super) struct Shared<T>(pub *mut T);

impl<T> Clone for Shared<T> {
    fn clone(&self) -> Shared<T> {
        *self
    }
}

impl<T> Copy for Shared<T> {}

impl<T> Shared<T> {
    pub fn get(self) -> *mut T {
        self.0
    }
}

// SAFETY: the kernels cut what is behind the pointer into disjoint parts, one a chunk.
unsafe impl<T> Send for Shared<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for Shared<T> {}

/// Elements of scratch that [`forward`] asks for.
pub fn forward_workspace(s: &Conv) -> usize {
    if s.is_depthwise() { depthwise::workspace(s) } else { correlate::workspace(s.whole()) }
}

/// y = x ⋆ weight + bias, with at least [`forward_workspace`] elements of scratch.
pub fn forward<E: Float>(s: &Conv, x: &[E], weight: &[E], bias: Option<&[E]>, y: &mut [E], workspace: &mut [E]) {
    s.check(x.len(), weight.len(), y.len());
    assert!(bias.is_none_or(|b| b.len() == s.c_out), "bug: a bias of another size");
    assert!(workspace.len() >= forward_workspace(s), "bug: too little scratch");
    let (x, weight, bias, y) = (x.as_ptr(), weight.as_ptr(), bias.map(<[E]>::as_ptr), y.as_mut_ptr());
    // SAFETY: the sizes were checked, and y is borrowed alone.
    unsafe {
        if s.is_depthwise() {
            depthwise::correlate(s.whole(), x, weight, bias, y, workspace);
        } else {
            correlate::run(s.whole(), x, weight, bias, y, workspace);
        }
    }
}

/// Elements of scratch that [`backward_data`] asks for.
pub fn backward_data_workspace(s: &Conv) -> usize {
    if s.is_depthwise() { depthwise::workspace(s) } else { correlate::workspace(s.phases()) }
}

/// dx from dy, with at least [`backward_data_workspace`] elements of scratch; all of dx is written.
pub fn backward_data<E: Float>(s: &Conv, dy: &[E], weight: &[E], dx: &mut [E], workspace: &mut [E]) {
    s.check(dx.len(), weight.len(), dy.len());
    assert!(workspace.len() >= backward_data_workspace(s), "bug: too little scratch");
    let (dy, weight, dx) = (dy.as_ptr(), weight.as_ptr(), dx.as_mut_ptr());
    // SAFETY: the sizes were checked; the phases together write every element of dx once.
    unsafe {
        if s.is_depthwise() {
            depthwise::correlate(s.phases(), dy, weight, None, dx, workspace);
        } else {
            correlate::run(s.phases(), dy, weight, None, dx, workspace);
        }
    }
}

/// Elements of scratch that [`backward_weight`] asks for, and of `mapped` images.
pub fn backward_weight_workspace(s: &Conv, mapped: bool) -> usize {
    if s.is_depthwise() { depthwise::weight_workspace(s) } else { weight::workspace(s, mapped) }
}

/// dweight from x and dy, with at least [`backward_weight_workspace`] elements of scratch; all of dweight is written.
/// The sum over pixels is cut by the sizes alone.
pub fn backward_weight<E: Float>(s: &Conv, x: &[E], dy: &[E], dweight: &mut [E], workspace: &mut [E]) {
    weight_gradient(s, x, None, dy, dweight, workspace);
}

/// As [`backward_weight`], from what `channels::affine_relu` makes of x: the same bits, without a place for it.
pub fn backward_weight_of_map<E: Float>(
    s: &Conv,
    x: &[E],
    map: Affine<E>,
    dy: &[E],
    dweight: &mut [E],
    workspace: &mut [E],
) {
    let lists = [map.center, map.scale, map.shift];
    assert!(lists.iter().all(|list| list.len() == s.c_in) && !s.is_depthwise(), "bug: a map of other channels");
    weight_gradient(s, x, Some(map), dy, dweight, workspace);
}

fn weight_gradient<E: Float>(
    s: &Conv,
    x: &[E],
    map: Option<Affine<E>>,
    dy: &[E],
    dweight: &mut [E],
    workspace: &mut [E],
) {
    s.check(x.len(), dweight.len(), dy.len());
    assert!(workspace.len() >= backward_weight_workspace(s, map.is_some()), "bug: too little scratch");
    if s.n == 0 {
        return dweight.fill(E::default());
    }
    let (x, dy, dweight) = (x.as_ptr(), dy.as_ptr(), dweight.as_mut_ptr());
    // SAFETY: the sizes were checked, and dweight is borrowed alone.
    unsafe {
        if s.is_depthwise() {
            depthwise::backward_weight(s, x, dy, dweight, workspace);
        } else {
            weight::run(s, x, map, dy, dweight, workspace);
        }
    }
}

#[cfg(test)]
mod tests;
