//! Maps of each channel: batch norm by known numbers, its gradient, and an affine map, in float32.

use super::Gpu;
use super::kernel::{Grid, Kernel, index, params};
use super::pointwise::Buffer;
use crate::error::Result;

params!(Params {
    n: u32,
    inner: u32,
    channels: u32,
    eps: f32,
    share: f32,
    x_at: u32,
    dy_at: u32,
    mean_at: u32,
    variance_at: u32,
    weight_at: u32,
    shift_at: u32,
    product_at: u32,
    y_at: u32,
});

static CHANNELS: Kernel = Kernel::new("channels", include_str!("channels.wgsl"), Params::WGSL);

/// y from x and numbers of its channels; x, dy and y lie alike, without gaps. The formulas stand in `channels.wgsl`.
#[derive(Clone, Copy)]
pub struct Channels<'a> {
    pub x: Buffer<'a>,
    /// With it y is dx, and `shift` and `product` are sums over dy.
    pub dy: Option<Buffer<'a>>,
    /// Mean and variance; without them the map is affine.
    pub known: Option<[Buffer<'a>; 2]>,
    pub weight: Option<Buffer<'a>>,
    pub shift: Option<Buffer<'a>>,
    pub product: Option<Buffer<'a>>,
    pub y: Buffer<'a>,
    pub channels: usize,
    /// Elements from a channel to the next in memory.
    pub inner: usize,
    pub eps: f64,
}

impl Channels<'_> {
    pub fn run(&self, gpu: &Gpu, op: &'static str) -> Result<()> {
        let n = self.x.layout.numel();
        let number = |v: usize| index(op, v);
        let at = |b: Option<Buffer>| number(b.map_or(0, |b| b.offset));
        let [mean, variance] = [0, 1].map(|i| self.known.map(|k| k[i]));
        let params = Params {
            n: number(n)?,
            inner: number(self.inner.max(1))?,
            channels: number(self.channels.max(1))?,
            eps: self.eps as f32,
            share: (self.channels as f64 / n as f64) as f32,
            x_at: at(Some(self.x))?,
            dy_at: at(self.dy)?,
            mean_at: at(mean)?,
            variance_at: at(variance)?,
            weight_at: at(self.weight)?,
            shift_at: at(self.shift)?,
            product_at: at(self.product)?,
            y_at: at(Some(self.y))?,
        };
        let constants = [
            ("HOW", u32::from(self.known.is_some()) + u32::from(self.dy.is_some())),
            ("WEIGHT", u32::from(self.weight.is_some())),
            ("SHIFT", u32::from(self.shift.is_some())),
        ];
        let place = |b: Option<Buffer>| b.map_or(self.y.place, |b| b.place);
        let bindings = [
            self.x.place,
            place(self.dy),
            place(mean),
            place(variance),
            place(self.weight),
            place(self.shift),
            place(self.product),
            self.y.place,
        ];
        gpu.run(&CHANNELS, &constants, &bindings, &params, Grid::threads(n))
    }
}
