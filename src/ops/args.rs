//! The attributes of an op on their way from a caller to its builder: numbers, flags, lists and words, in order.

use crate::dtype::DType;
use crate::error::{Error, Result};
use smallvec::SmallVec;

#[derive(Clone, Debug, PartialEq)]
pub enum Attribute {
    None,
    Flag(bool),
    Int(i64),
    Float(f64),
    Ints(SmallVec<[i64; 6]>),
    Text(String),
}

pub fn ints(values: &[usize]) -> Attribute {
    Attribute::Ints(values.iter().map(|&v| v as i64).collect())
}
pub fn signed(values: &[i64]) -> Attribute {
    Attribute::Ints(values.into())
}
pub fn int(value: impl TryInto<i64>) -> Attribute {
    Attribute::Int(value.try_into().unwrap_or(i64::MAX))
}
pub fn float(value: f64) -> Attribute {
    Attribute::Float(value)
}
pub fn flag(value: bool) -> Attribute {
    Attribute::Flag(value)
}
pub fn text(value: &str) -> Attribute {
    Attribute::Text(value.to_string())
}

/// Reads attributes one after the other; a missing one reads as `None`.
pub struct Args<'a> {
    op: &'static str,
    rest: std::slice::Iter<'a, Attribute>,
}

impl<'a> Args<'a> {
    pub fn new(op: &'static str, list: &'a [Attribute]) -> Args<'a> {
        Args { op, rest: list.iter() }
    }

    fn wrong(&self, name: &str, wanted: &str, got: Option<&Attribute>) -> Error {
        let got = got.map_or("nothing".to_string(), |g| match g {
            Attribute::None => "None".into(),
            Attribute::Flag(v) => if *v { "True" } else { "False" }.to_string(),
            Attribute::Int(v) => v.to_string(),
            Attribute::Float(v) => v.to_string(),
            Attribute::Ints(v) => format!("{:?}", v.as_slice()),
            Attribute::Text(v) => format!("'{v}'"),
        });
        Error::dtype(format!("{}: {name} is {got}; {wanted} is needed", self.op))
    }

    pub fn int(&mut self, name: &str) -> Result<i64> {
        match self.rest.next() {
            Some(Attribute::Int(v)) => Ok(*v),
            other => Err(self.wrong(name, "an integer", other)),
        }
    }
    pub fn int_or_none(&mut self, name: &str) -> Result<Option<i64>> {
        match self.rest.next() {
            None | Some(Attribute::None) => Ok(None),
            Some(Attribute::Int(v)) => Ok(Some(*v)),
            other => Err(self.wrong(name, "an integer or None", other)),
        }
    }
    /// An integer that must not be negative.
    pub fn size(&mut self, name: &str) -> Result<usize> {
        let v = self.int(name)?;
        usize::try_from(v).map_err(|_| Error::value(format!("{}: {name} is {v}; zero or more is needed", self.op)))
    }
    pub fn float(&mut self, name: &str) -> Result<f64> {
        match self.rest.next() {
            Some(Attribute::Float(v)) => Ok(*v),
            Some(Attribute::Int(v)) => Ok(*v as f64),
            other => Err(self.wrong(name, "a number", other)),
        }
    }
    pub fn float_or_none(&mut self, name: &str) -> Result<Option<f64>> {
        match self.rest.next() {
            None | Some(Attribute::None) => Ok(None),
            Some(Attribute::Float(v)) => Ok(Some(*v)),
            Some(Attribute::Int(v)) => Ok(Some(*v as f64)),
            other => Err(self.wrong(name, "a number or None", other)),
        }
    }
    pub fn flag(&mut self, name: &str) -> Result<bool> {
        match self.rest.next() {
            None | Some(Attribute::None) => Ok(false),
            Some(Attribute::Flag(v)) => Ok(*v),
            other => Err(self.wrong(name, "True or False", other)),
        }
    }
    /// A list of integers; one integer counts as a list of one, `None` as the empty list.
    pub fn ints(&mut self, name: &str) -> Result<SmallVec<[i64; 6]>> {
        match self.rest.next() {
            None | Some(Attribute::None) => Ok(SmallVec::new()),
            Some(Attribute::Ints(v)) => Ok(v.clone()),
            Some(Attribute::Int(v)) => Ok(SmallVec::from_elem(*v, 1)),
            other => Err(self.wrong(name, "a list of integers", other)),
        }
    }
    /// A list of sizes, none negative.
    pub fn sizes(&mut self, name: &str) -> Result<crate::shape::Dims> {
        let op = self.op;
        self.ints(name)?
            .iter()
            .map(|&v| {
                usize::try_from(v)
                    .map_err(|_| Error::value(format!("{op}: {name} holds {v}; sizes must be zero or more")))
            })
            .collect()
    }
    pub fn text(&mut self, name: &str) -> Result<&'a str> {
        match self.rest.next() {
            Some(Attribute::Text(v)) => Ok(v),
            other => Err(self.wrong(name, "a word", other)),
        }
    }
    pub fn dtype(&mut self, name: &str) -> Result<DType> {
        DType::from_name(self.text(name)?)
    }
    pub fn dtype_or_none(&mut self, name: &str) -> Result<Option<DType>> {
        match self.rest.next() {
            None | Some(Attribute::None) => Ok(None),
            Some(Attribute::Text(v)) => DType::from_name(v).map(Some),
            other => Err(self.wrong(name, "a dtype or None", other)),
        }
    }
}
