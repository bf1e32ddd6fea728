//! The cells of LSTM and GRU, a step at a time, in float32.

use super::Gpu;
use super::kernel::{Grid, Kernel, index, params};
use super::pointwise::Buffer;
use crate::error::Result;

params!(Params {
    n: u32,
    hidden: u32,
    gates_at: u32,
    share_at: u32,
    h_at: u32,
    c_at: u32,
    kept_at: u32,
    y_at: u32,
    dh_at: u32,
    carried_at: u32,
    slopes_at: u32,
    apart_at: u32,
});

static CELL: Kernel = Kernel::new("recurrent", include_str!("recurrent.wgsl"), Params::WGSL);

/// What a step reads and writes, all contiguous; what each is stands in `recurrent.wgsl`.
pub struct Step<'a> {
    pub gru: bool,
    pub gates: Buffer<'a>,
    pub h: Buffer<'a>,
    /// Of an LSTM.
    pub c: Option<Buffer<'a>>,
    pub kept: Buffer<'a>,
    /// h, or its gradient on the way back.
    pub y: Buffer<'a>,
    pub way: Way<'a>,
}

pub enum Way<'a> {
    There { share: Buffer<'a> },
    Back { dh: Buffer<'a>, carried: Buffer<'a>, slopes: Buffer<'a>, apart: Option<Buffer<'a>> },
}

impl Step<'_> {
    pub fn run(&self, gpu: &Gpu, op: &'static str) -> Result<()> {
        let shape = self.y.layout.shape();
        let n = self.y.layout.numel();
        let (share, dh, carried, slopes, apart) = match self.way {
            Way::There { share } => (Some(share), None, None, None, None),
            Way::Back { dh, carried, slopes, apart } => (None, Some(dh), Some(carried), Some(slopes), apart),
        };
        let at = |b: Option<Buffer>| index(op, b.map_or(0, |b| b.offset));
        index(op, self.gates.layout.numel())?;
        let params = Params {
            n: index(op, n)?,
            hidden: index(op, shape[shape.len() - 1].max(1))?,
            gates_at: at(Some(self.gates))?,
            share_at: at(share)?,
            h_at: at(Some(self.h))?,
            c_at: at(self.c)?,
            kept_at: at(Some(self.kept))?,
            y_at: at(Some(self.y))?,
            dh_at: at(dh)?,
            carried_at: at(carried)?,
            slopes_at: at(slopes)?,
            apart_at: at(apart)?,
        };
        let constants = [("GRU", u32::from(self.gru)), ("BACK", u32::from(dh.is_some()))];
        let place = |b: Option<Buffer>| b.map_or(self.y.place, |b| b.place);
        let bindings = [
            self.gates.place,
            place(share),
            self.h.place,
            place(self.c),
            self.kept.place,
            self.y.place,
            place(dh),
            place(carried),
            place(slopes),
            place(apart),
        ];
        gpu.run(&CELL, &constants, &bindings, &params, Grid::threads(n))
    }
}
