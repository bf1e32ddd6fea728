//! Dropout. No mask is kept: the draw is a function of key and offset, and the way back draws it again.
//!
//! Srivastava et al. 2014, JMLR 15.

use super::args::{Args, float, int};
use super::laws::{Domain, Exact, Sample};
use super::registry::Entry;
use super::{Back, Cost, Metas, Op, OpRef, expect_float, expect_inputs, output};
use crate::device::cpu::random::{self, Stream};
use crate::device::gpu::{Gpu, random as on_gpu};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::tensor::{Meta, Tensor};

pub fn register(list: &mut Vec<Entry>) {
    list.push(Entry { name: "dropout", build: Dropout::build, samples: Dropout::samples });
}

/// y = x · m / (1 - p), where m is 1 with probability 1 - p and element i's draw is the stream's element i.
#[derive(Clone, Copy, Debug)]
pub struct Dropout {
    p: f64,
    stream: Stream,
}

impl Dropout {
    fn build(args: &mut Args) -> Result<OpRef> {
        let p = args.float("p")?;
        if !(0.0..=1.0).contains(&p) {
            return Err(Error::value(format!("dropout: p is {p}; a probability from 0 to 1 is needed")));
        }
        let stream = Stream { key: args.int("key")? as u64, offset: args.int("offset")? as u64 };
        Ok(Dropout { p, stream }.into())
    }

    fn samples() -> Vec<Sample> {
        let of = |p: f64, x: &[usize]| Sample::of(Self::build, &[float(p), int(7), int(2)], &[(x, Domain::Any)]);
        vec![of(0.3, &[3, 5]), of(0.0, &[4]), of(1.0, &[2, 3]), of(0.5, &[0]), of(0.5, &[])]
    }

    fn scale(&self) -> f64 {
        if self.p < 1.0 { 1.0 / (1.0 - self.p) } else { 0.0 }
    }
}

impl Op for Dropout {
    fn name(&self) -> &'static str {
        "dropout"
    }
    fn infer(&self, x: &[&Meta], _recording: bool) -> Result<Metas> {
        expect_inputs("dropout", x, 1)?;
        expect_float("dropout", x[0])?;
        output("dropout", x, x[0].shape(), x[0].dtype)
    }
    fn cost(&self, x: &[&Meta], y: &[Meta]) -> Cost {
        Cost::streaming(x, y, 10.0)
    }
    fn cpu(&self, x: &[&Tensor], y: &[Tensor]) -> Result<()> {
        let kept = |i: usize| f64::from(self.stream.uniform(i as u64)) < 1.0 - self.p;
        if y[0].dtype() == DType::F64 {
            let pairs = x[0].view().slice::<f64>().iter().zip(y[0].view().out::<f64>()).enumerate();
            pairs.for_each(|(i, (x, y))| *y = if kept(i) { x * self.scale() } else { 0.0 });
            return Ok(());
        }
        let out = y[0].view().out::<f32>();
        random::keep(out, self.stream, 1.0 - self.p, self.scale() as f32);
        // A dropped infinity or NaN is 0, not NaN.
        let pairs = x[0].view().slice::<f32>().iter().zip(out);
        pairs.for_each(|(x, y)| *y = if *y == 0.0 { 0.0 } else { x * *y });
        Ok(())
    }
    fn gpu(&self, x: &[&Tensor], y: &[Tensor], gpu: &Gpu) -> Result<()> {
        on_gpu::keep(gpu, &x[0].buffer(), &y[0].buffer(), self.stream, 1.0 - self.p, self.scale() as f32)
    }
    fn gpu_takes_half(&self) -> bool {
        true
    }
    fn vjp(&self, back: &mut Back) -> Result<()> {
        let dy = back.dy();
        let dx = back.apply(*self, &[dy])?;
        back.give(0, dx);
        Ok(())
    }
    fn reference(&self, x: &[Exact]) -> Option<Vec<Exact>> {
        let keep = |i: usize| f64::from(self.stream.uniform(i as u64)) < 1.0 - self.p;
        let value = |(i, v): (usize, &f64)| if keep(i) { v * self.scale() } else { 0.0 };
        Some(vec![Exact::new(&x[0].shape, x[0].data.iter().enumerate().map(value).collect())])
    }
}
