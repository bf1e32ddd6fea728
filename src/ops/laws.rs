//! What the laws need of an op: samples to try it on, and exact arrays to compare with. The laws themselves are a test.

use super::OpRef;
use super::args::Attribute;
use crate::dtype::DType;
use crate::shape::Dims;

/// A dense f64 array in row-major order: the naive reading that references are written in.
#[derive(Clone, Debug, PartialEq)]
pub struct Exact {
    pub shape: Dims,
    pub data: Vec<f64>,
}

impl Exact {
    pub fn new(shape: &[usize], data: Vec<f64>) -> Exact {
        assert_eq!(shape.iter().product::<usize>(), data.len(), "bug: a reference of the wrong size");
        Exact { shape: shape.into(), data }
    }

    /// One value for each index, in order.
    pub fn build(shape: &[usize], mut value: impl FnMut(&[usize]) -> f64) -> Exact {
        let mut index: Dims = Dims::from_elem(0, shape.len());
        let total = shape.iter().product();
        let mut data = Vec::with_capacity(total);
        for _ in 0..total {
            data.push(value(&index));
            for axis in (0..shape.len()).rev() {
                index[axis] += 1;
                if index[axis] < shape[axis] {
                    break;
                }
                index[axis] = 0;
            }
        }
        Exact { shape: shape.into(), data }
    }

    pub fn zeros(shape: &[usize]) -> Exact {
        Exact { shape: shape.into(), data: vec![0.0; shape.iter().product()] }
    }

    fn offset(&self, index: &[usize]) -> usize {
        index.iter().zip(&self.shape).fold(0, |at, (&i, &size)| at * size + i)
    }

    pub fn at(&self, index: &[usize]) -> f64 {
        self.data[self.offset(index)]
    }

    pub fn at_mut(&mut self, index: &[usize]) -> &mut f64 {
        let at = self.offset(index);
        &mut self.data[at]
    }

    /// The value that a larger index reads when this array is broadcast.
    pub fn at_broadcast(&self, index: &[usize]) -> f64 {
        let own = &index[index.len() - self.shape.len()..];
        let at = own.iter().zip(&self.shape).fold(0, |at, (&i, &size)| at * size + if size == 1 { 0 } else { i });
        self.data[at]
    }
}

/// Which numbers a sample's input holds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Domain {
    /// Normal-like numbers.
    Any,
    /// In (0.3, 2).
    Positive,
    /// Away from zero, from integers and from each other: where kinks and ties are not.
    Apart,
    /// Away from zero, either sign.
    Divisor,
    /// In (-0.9, 0.9).
    Unit,
    /// In (1.2, 3).
    AboveOne,
    /// Bools.
    Mask,
    /// int64 in 0..n.
    Index(usize),
    /// int64: a permutation of 0..n along the last dim.
    Shuffled,
}

impl Domain {
    pub fn dtype(self) -> Option<DType> {
        match self {
            Domain::Mask => Some(DType::Bool),
            Domain::Index(_) | Domain::Shuffled => Some(DType::I64),
            _ => None,
        }
    }
}

/// An op with attributes, and the shapes and domains of inputs to try it on.
#[derive(Clone, Debug)]
pub struct Sample {
    pub op: OpRef,
    pub inputs: Vec<(Vec<usize>, Domain)>,
}

impl Sample {
    pub fn new(op: impl Into<OpRef>, inputs: impl IntoIterator<Item = (Vec<usize>, Domain)>) -> Sample {
        Sample { op: op.into(), inputs: inputs.into_iter().collect() }
    }

    /// A sample of a registered op from its attributes.
    pub fn of(
        build: fn(&mut super::args::Args) -> crate::error::Result<OpRef>,
        attributes: &[Attribute],
        inputs: &[(&[usize], Domain)],
    ) -> Sample {
        let op = build(&mut super::args::Args::new("sample", attributes)).expect("bug: a sample with bad attributes");
        Sample { op, inputs: inputs.iter().map(|(s, d)| (s.to_vec(), *d)).collect() }
    }
}
