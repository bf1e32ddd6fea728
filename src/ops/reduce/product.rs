//! The product of some dims. Its gradient is made of products of the other factors, never of a quotient, so that zeros
//! are exact. Saves the input.

use super::on_gpu::{self, More};
use super::{Over, run_fold};
use crate::device::cpu::fold::Fold;
use crate::device::gpu::Gpu;
use crate::device::gpu::fold::How;
use crate::dtype::DType;
use crate::error::Result;
use crate::ops::args::Args;
use crate::ops::laws::{Domain, Exact, Sample};
use crate::ops::registry::Entry;
use crate::ops::{Back, Layouts, Mask, Metas, Op, OpRef, Saves, expect_inputs, output, scan};
use crate::real::Real;
use crate::shape::Dims;
use crate::tensor::{Meta, Tensor};

pub fn register(list: &mut Vec<Entry>) {
    list.push(Entry { name: "prod", build: Product::build, samples: Product::samples });
}

#[derive(Clone, Copy)]
struct Factors;

impl Fold for Factors {
    const START: f64 = 1.0;
    #[inline(always)]
    fn map<R: Real>(self, x: R, _center: R) -> R {
        x
    }
    #[inline(always)]
    fn join<R: Real>(a: R, b: R) -> R {
        a * b
    }
    #[inline(always)]
    fn finish<R: Real>(self, total: R, _center: R) -> R {
        total
    }
}

/// Integers and bools multiply to int64; an empty product is 1.
#[derive(Debug)]
pub struct Product {
    over: Over,
}

impl Product {
    fn build(args: &mut Args) -> Result<OpRef> {
        Ok(Product { over: Over::read(args)? }.into())
    }

    fn samples() -> Vec<Sample> {
        super::samples(Self::build, Domain::Divisor, true)
    }
}

impl Op for Product {
    fn name(&self) -> &'static str {
        "prod"
    }
    fn infer(&self, x: &[&Meta], _recording: bool) -> Result<Metas> {
        expect_inputs("prod", x, 1)?;
        let dtype = if x[0].dtype.is_float() { x[0].dtype } else { DType::I64 };
        output("prod", x, &self.over.target("prod", x[0].shape())?, dtype)
    }
    fn saves(&self, _needs: Mask) -> Saves {
        Saves::inputs(1)
    }
    fn layouts(&self, _input: usize) -> Layouts {
        Layouts::Any
    }
    fn takes_half(&self) -> bool {
        true
    }
    fn allocates(&self) -> bool {
        true
    }
    fn cpu(&self, x: &[&Tensor], y: &[Tensor]) -> Result<()> {
        run_fold(Factors, x[0], &self.over.flags("prod", x[0].shape())?, None, &y[0])
    }
    fn gpu(&self, x: &[&Tensor], y: &[Tensor], gpu: &Gpu) -> Result<()> {
        let flags = self.over.flags("prod", x[0].shape())?;
        on_gpu::run(gpu, "prod", How::Product, x[0], &flags, More::default(), &y[0])
    }
    fn gpu_takes_half(&self) -> bool {
        true
    }
    fn vjp(&self, back: &mut Back) -> Result<()> {
        let (x, dy) = (back.input(0)?, back.dy());
        let shape = Dims::from(back.input_meta(0).shape());
        if shape.contains(&0) {
            let dx = back.full(0.0, &shape, back.input_meta(0).dtype)?;
            back.give(0, dx);
            return Ok(());
        }
        // One line of factors for each product: [kept…, factors].
        let flags = self.over.flags("prod", &shape)?;
        let order: Dims =
            (0..shape.len()).filter(|&i| !flags[i]).chain((0..shape.len()).filter(|&i| flags[i])).collect();
        let kept: Dims = (0..shape.len()).filter(|&i| !flags[i]).map(|i| shape[i]).collect();
        let turned = back.permute(x, &order)?;
        let turned_shape = back.shape(turned);
        let mut lines = kept.clone();
        lines.push(self.over.count("prod", &shape)?);
        let factors = back.reshape(turned, &lines)?;
        let mut last = kept;
        last.push(1);
        let dy = back.reshape(dy, &last)?;
        let products = back.call("cumprod", &[factors], &scan::along(lines.len() - 1))?;
        let dy = scan::at_the_end(back, dy, &lines)?;
        let dx = scan::product_slope(back, factors, products, dy, lines.len() - 1)?;
        let dx = back.reshape(dx, &turned_shape)?;
        let mut inverse = order.clone();
        order.iter().enumerate().for_each(|(i, &from)| inverse[from] = i);
        let dx = back.permute(dx, &inverse)?;
        back.give(0, dx);
        Ok(())
    }
    fn reference(&self, x: &[Exact]) -> Option<Vec<Exact>> {
        Some(vec![self.over.exact(&x[0], |group| group.iter().product())?])
    }
}
