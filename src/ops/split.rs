//! Pieces of a tensor along a dim, as windows; the way back joins their gradients in one pass.

use super::args::{Args, int, ints};
use super::laws::{Domain, Exact, Sample};
use super::registry::Entry;
use super::run::Outputs;
use super::{Back, Cost, Layouts, Metas, Op, OpRef, expect_inputs};
use crate::error::{Error, Result};
use crate::shape::{self, Dims, Layout};
use crate::tensor::{Meta, Tensor};

pub fn register(list: &mut Vec<Entry>) {
    list.push(Entry { name: "split", build: Split::build, samples: Split::samples });
}

/// x along `dim` in pieces of the given sizes, which sum to its size.
#[derive(Debug)]
pub struct Split {
    dim: i64,
    sizes: Dims,
}

impl Split {
    fn build(args: &mut Args) -> Result<OpRef> {
        Ok(Split { dim: args.int("dim")?, sizes: args.sizes("sizes")? }.into())
    }

    fn samples() -> Vec<Sample> {
        let of = |dim: i64, sizes: &[usize], x: &[usize]| {
            Sample::of(Self::build, &[int(dim), ints(sizes)], &[(x, Domain::Any)])
        };
        vec![
            of(-1, &[2, 3, 1], &[4, 6]),
            of(0, &[1, 1, 1], &[3, 2, 5]),
            of(1, &[0, 3, 0], &[2, 3, 2]),
            of(0, &[4], &[4]),
        ]
    }

    fn axis(&self, x: &[usize]) -> Result<usize> {
        let axis = shape::dim("split", self.dim, x)?;
        let size = x.get(axis).copied();
        if size == Some(self.sizes.iter().sum()) && !self.sizes.is_empty() {
            return Ok(axis);
        }
        Err(Error::shape(format!(
            "split: sizes {:?} for dim {} of {x:?}; one or more that sum to the dim's size are needed",
            self.sizes.as_slice(),
            self.dim
        )))
    }

    fn layouts_of(&self, x: &Meta) -> Result<Vec<Meta>> {
        let axis = self.axis(x.shape())?;
        let piece = |&size: &usize| {
            let mut shape = Dims::from(x.shape());
            shape[axis] = size;
            Meta { layout: Layout::strided(&shape, x.layout.strides()), ..x.clone() }
        };
        Ok(self.sizes.iter().map(piece).collect())
    }
}

impl Op for Split {
    fn name(&self) -> &'static str {
        "split"
    }
    fn visible(&self) -> usize {
        self.sizes.len()
    }
    fn infer(&self, x: &[&Meta], _recording: bool) -> Result<Metas> {
        expect_inputs("split", x, 1)?;
        Ok(self.layouts_of(x[0])?.into_iter().collect())
    }
    fn cost(&self, _x: &[&Meta], _y: &[Meta]) -> Cost {
        Cost::default()
    }
    fn layouts(&self, _input: usize) -> Layouts {
        Layouts::Any
    }
    fn takes_half(&self) -> bool {
        true
    }
    fn is_view(&self) -> bool {
        true
    }
    fn views(&self, x: &Tensor) -> Option<Result<Outputs>> {
        let pieces = || {
            let (axis, pieces) = (self.axis(x.shape())?, self.layouts_of(&x.meta)?);
            let step = x.layout().strides()[axis];
            let mut start = 0isize;
            let window = |piece: Meta| {
                // An empty piece may stand behind the last element.
                let offset = if piece.numel() == 0 { 0 } else { start * step };
                start += piece.shape()[axis] as isize;
                x.with_layout(piece.layout, x.offset().wrapping_add_signed(offset))
            };
            Ok(pieces.into_iter().map(window).collect())
        };
        Some(pieces())
    }
    fn cpu(&self, _x: &[&Tensor], _y: &[Tensor]) -> Result<()> {
        Err(Error::internal("bug: split moves no data, yet its kernel was called"))
    }
    fn vjp(&self, back: &mut Back) -> Result<()> {
        let axis = self.axis(back.input_meta(0).shape())?;
        let pieces = (0..self.sizes.len()).map(|i| back.dy_or_zeros(i)).collect::<Result<Vec<_>>>()?;
        let dx = back.call("cat", &pieces, &[int(axis as i64)])?;
        back.give(0, dx);
        Ok(())
    }
    fn reference(&self, x: &[Exact]) -> Option<Vec<Exact>> {
        let axis = self.axis(&x[0].shape).ok()?;
        let mut start = 0;
        let piece = |&size: &usize| {
            let mut shape = x[0].shape.clone();
            shape[axis] = size;
            let piece = Exact::build(&shape, |index| {
                let mut at = Dims::from(index);
                at[axis] += start;
                x[0].at(&at)
            });
            start += size;
            piece
        };
        Some(self.sizes.iter().map(piece).collect())
    }
}
