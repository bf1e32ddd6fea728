//! Tensors one after the other along a dim.

use super::args::{Args, int, ints, signed};
use super::laws::{Domain, Exact, Sample};
use super::registry::Entry;
use super::{Back, Layouts, Metas, Op, OpRef, output};
use crate::device::gpu::Gpu;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::shape::{self, Dims, Layout};
use crate::tensor::{Meta, Tensor};

pub fn register(list: &mut Vec<Entry>) {
    list.push(Entry { name: "cat", build: Cat::build, samples: Cat::samples });
}

#[derive(Debug)]
pub struct Cat {
    dim: i64,
}

impl Cat {
    fn build(args: &mut Args) -> Result<OpRef> {
        Ok(Cat { dim: args.int("dim")? }.into())
    }

    fn samples() -> Vec<Sample> {
        let of = |dim: i64, x: &[&[usize]]| {
            Sample::of(Self::build, &[int(dim)], &x.iter().map(|s| (*s, Domain::Any)).collect::<Vec<_>>())
        };
        vec![
            of(0, &[&[2, 3], &[4, 3]]),
            of(-1, &[&[2, 3], &[2, 1], &[2, 5]]),
            of(1, &[&[2, 3, 2], &[2, 0, 2]]),
            of(0, &[&[3]]),
        ]
    }

    fn axis(&self, x: &[&Meta]) -> Result<usize> {
        let Some(first) = x.first() else {
            return Err(Error::value("cat: no tensors; one or more are needed"));
        };
        if first.rank() == 0 {
            return Err(Error::shape("cat: a 0-d tensor has no dim to join along; use stack"));
        }
        let axis = shape::dim("cat", self.dim, first.shape())?;
        for m in x {
            let same = m.rank() == first.rank() && (0..m.rank()).all(|i| i == axis || m.shape()[i] == first.shape()[i]);
            if !same {
                return Err(Error::shape(format!(
                    "cat: shapes {:?} and {:?} along dim {axis}; all other sizes must be equal",
                    first.shape(),
                    m.shape()
                )));
            }
        }
        Ok(axis)
    }

    /// Start and window of each input along the axis.
    fn starts<'a>(axis: usize, shapes: impl Iterator<Item = &'a [usize]>) -> Vec<usize> {
        let mut at = 0;
        shapes
            .map(|s| {
                let start = at;
                at += s[axis];
                start
            })
            .collect()
    }
}

impl Op for Cat {
    fn name(&self) -> &'static str {
        "cat"
    }
    fn infer(&self, x: &[&Meta], _recording: bool) -> Result<Metas> {
        let axis = self.axis(x)?;
        let mut shape = Dims::from(x[0].shape());
        shape[axis] = x.iter().map(|m| m.shape()[axis]).sum();
        let dtype = x.iter().map(|m| m.dtype).reduce(DType::promote).unwrap_or(DType::F32);
        output("cat", x, &shape, dtype)
    }
    fn layouts(&self, _input: usize) -> Layouts {
        Layouts::Any
    }
    fn takes_half(&self) -> bool {
        true
    }
    fn cpu(&self, x: &[&Tensor], y: &[Tensor]) -> Result<()> {
        let metas: Vec<&Meta> = x.iter().map(|t| &t.meta).collect();
        let axis = self.axis(&metas)?;
        let strides = y[0].layout().strides();
        for (t, start) in x.iter().zip(Cat::starts(axis, x.iter().map(|t| t.shape()))) {
            let window = y[0].with_layout(Layout::strided(t.shape(), strides), start * strides[axis] as usize);
            super::pointwise::copy_into(t, &window)?;
        }
        Ok(())
    }
    fn gpu(&self, x: &[&Tensor], y: &[Tensor], _gpu: &Gpu) -> Result<()> {
        self.cpu(x, y)
    }
    fn gpu_takes_half(&self) -> bool {
        true
    }
    fn vjp(&self, back: &mut Back) -> Result<()> {
        let dy = back.dy();
        let shapes: Vec<Dims> = (0..back.inputs()).map(|i| back.input_meta(i).shape().into()).collect();
        let axis = shape::dim("cat", self.dim, &shapes[0])?;
        let starts = Cat::starts(axis, shapes.iter().map(|s| s.as_slice()));
        for (i, shape) in shapes.iter().enumerate() {
            if back.needs(i) {
                let mut from = vec![0i64; shape.len()];
                from[axis] = starts[i] as i64;
                let dx = back.call("slice", &[dy], &[signed(&from), signed(&vec![1; shape.len()]), ints(shape)])?;
                back.give(i, dx);
            }
        }
        Ok(())
    }
    fn reference(&self, x: &[Exact]) -> Option<Vec<Exact>> {
        let axis = shape::dim("cat", self.dim, &x[0].shape).ok()?;
        let mut shape = x[0].shape.clone();
        shape[axis] = x.iter().map(|e| e.shape[axis]).sum();
        Some(vec![Exact::build(&shape, |index| {
            let mut at = Dims::from(index);
            for e in x {
                if at[axis] < e.shape[axis] {
                    return e.at(&at);
                }
                at[axis] -= e.shape[axis];
            }
            f64::NAN
        })])
    }
}
