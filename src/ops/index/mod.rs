//! Elements by number: whole slices along a dim, single elements along a dim, and advanced indexing.
//!
//! Where several indices name one place, sums are made in the order of the indices, and of several writes the last one
//! stays, in the gradient as well.

mod advanced;
mod lines;
mod on_gpu;
mod select;

use super::args::int;
use super::registry::Entry;
use super::transfer::moved;
use super::{Back, V, run};
use crate::arena::Context;
use crate::arena::ledger::Category;
use crate::device::Device;
use crate::device::cpu::{self, copy};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::shape::Layout;
use crate::tensor::{Meta, Tensor};

pub fn register(list: &mut Vec<Entry>) {
    select::register(list);
    lines::register(list);
    advanced::register(list);
}

/// Bools cannot be added.
fn expect_number(op: &str, x: &Meta) -> Result<()> {
    match x.dtype {
        DType::Bool => {
            Err(Error::dtype(format!("{op}: bools cannot be added; use a number type (help: x.to(bs.int64))")))
        }
        _ => Ok(()),
    }
}

/// What is written into a tensor must have its type.
fn expect_same_type(op: &str, x: &Meta, src: &Meta) -> Result<()> {
    if x.dtype == src.dtype {
        return Ok(());
    }
    let (x, src) = (x.dtype.name(), src.dtype.name());
    Err(Error::dtype(format!(
        "{op}: values of dtype {src} for a tensor of {x}; one dtype is needed (help: values.to(bs.{x}))"
    )))
}

/// The output of an op that changes some elements begins as its input.
fn begin_as(x: &Tensor, y: &Tensor) {
    copy::copy(&x.view(), &y.view());
}

/// 0, 1, 2, … in row-major order, of the shape and on the device of an index.
fn ordinals(back: &mut Back, index: V) -> Result<V> {
    let like = back.meta(index);
    let numbers: Vec<i64> = (0..like.numel() as i64).collect();
    let numbers = Tensor::from_slice("ordinals", like.shape(), &numbers, Category::Temporary)?;
    Ok(back.constant(if like.device == Device::Cpu {
        numbers
    } else {
        moved(&numbers, like.device, Category::Temporary)?
    }))
}

/// Zero where a gradient belongs to a write that a later one replaced: `winners` holds, at each written place, the ordinal
/// of the write that stayed, read back at each index.
fn keep_winners(back: &mut Back, winners: V, ordinals: V, dy: V) -> Result<V> {
    let mut won = back.call("eq", &[winners, ordinals], &[])?;
    let (mut shape, rank) = (back.shape(won), back.shape(dy).len());
    if shape.len() < rank {
        shape.resize(rank, 1);
        won = back.reshape(won, &shape)?;
    }
    let zero = back.number(0.0, back.meta(dy).dtype)?;
    back.call("where", &[won, dy, zero], &[])
}

/// The indices of the elements that are not zero, in row-major order: int64 [n, rank]. Its shape depends on the values,
/// so it is no op of the graph; it has no derivative.
pub fn nonzero(x: &Tensor) -> Result<Tensor> {
    let before = Context { op: "nonzero", ..Context::get() }.set();
    let result = found(x);
    before.set();
    result
}

fn found(x: &Tensor) -> Result<Tensor> {
    if x.device() != Device::Cpu {
        // The shape of the result is not known before the values are, so there is nothing to gain there.
        return moved(&found(&x.to_host()?)?, x.device(), Category::Temporary);
    }
    let laid;
    let x = match x.layout().is_contiguous() {
        true => x,
        false => {
            laid = run::relaid(x, Layout::contiguous("nonzero", x.shape())?, Category::Workspace)?;
            &laid
        }
    };
    let counts = cpu::nonzero::count(&x.view());
    let shape = [counts.iter().sum(), x.shape().len()];
    let places = Tensor::empty(Meta::contiguous("nonzero", &shape, DType::I64, x.meta.device)?, Category::Temporary)?;
    cpu::nonzero::write(&x.view(), &counts, &places.view());
    Ok(places)
}

/// Attributes of the ops along one dim.
fn along(dim: usize) -> [super::args::Attribute; 1] {
    [int(dim as i64)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nonzero_lists_indices_in_row_major_order_whatever_the_layout() {
        let x = Tensor::from_slice("test", &[2, 3], &[0.0f32, f32::NAN, -0.0, 1.0, 0.0, 2.0], Category::Input).unwrap();
        assert_eq!(nonzero(&x).unwrap().view().slice::<i64>(), [0, 1, 1, 0, 1, 2]);
        let turned = x.with_layout(Layout::strided(&[3, 2], &[1, 3]), 0);
        assert_eq!(nonzero(&turned).unwrap().view().slice::<i64>(), [0, 1, 1, 0, 2, 1]);
        let scalar = Tensor::scalar(3.0, DType::Bool).unwrap();
        assert_eq!(nonzero(&scalar).unwrap().shape(), [1, 0]);
        assert_eq!(nonzero(&Tensor::scalar(0.0, DType::BF16).unwrap()).unwrap().shape(), [0, 0]);
        let long: Vec<u8> = (0..100_000).map(|i| (i % 7 == 0) as u8).collect();
        let long = Tensor::from_slice("test", &[100_000], &long, Category::Input).unwrap();
        let places = nonzero(&long).unwrap();
        assert!(places.view().slice::<i64>().iter().enumerate().all(|(i, &p)| p == 7 * i as i64));
        assert_eq!(places.shape(), [14_286, 1]);
    }
}
