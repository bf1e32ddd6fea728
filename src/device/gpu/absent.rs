//! What stands in for GPUs in a build without them: an empty list, and a type without a value.

use super::cooperative::Matrices;
use super::group::Step;
use super::halves::Halves;
use super::kernel::{Bindings, Grid, Kernel, Params};
use super::{Counts, Info};
use crate::arena::space::{Place, Space};
use crate::error::{Error, Result};
use smallvec::SmallVec;

/// No value of this type exists.
pub enum Gpu {}

pub fn list() -> &'static [Info] {
    &[]
}

pub fn why_none() -> String {
    "this build has no GPU support; install a wheel, or build with the cargo feature `gpu`".into()
}

pub fn open(_number: u8) -> Result<&'static Gpu> {
    Err(Error::device(format!("gpu: {}", why_none())))
}

pub fn settle_clocks() {}

impl Gpu {
    pub fn lose(&self) {
        match *self {}
    }
    pub fn largest_binding(&self) -> usize {
        match *self {}
    }
    pub fn space(&self) -> Space {
        match *self {}
    }
    pub fn hold(&self, _: &str, _: SmallVec<[Step; 2]>) -> Result<()> {
        match *self {}
    }
    pub fn run<'a>(
        &self,
        _: &Kernel,
        _: &[(&str, u32)],
        _: impl Into<Bindings<'a>>,
        _: &dyn Params,
        _: Grid,
    ) -> Result<()> {
        match *self {}
    }
    pub fn run_text<'a>(
        &self,
        _: &str,
        _: &[u32],
        _: &dyn Fn() -> String,
        _: impl Into<Bindings<'a>>,
        _: &dyn Params,
        _: Grid,
    ) -> Result<()> {
        match *self {}
    }
    pub fn upload(&self, _: Place, _: usize, _: &[u8]) -> Result<()> {
        match *self {}
    }
    pub fn download(&self, _: Place, _: usize, _: &mut [u8]) -> Result<()> {
        match *self {}
    }
    pub fn copy(&self, _: Place, _: usize, _: Place, _: usize, _: usize) -> Result<()> {
        match *self {}
    }
    pub fn most_rounds(&self) -> usize {
        match *self {}
    }
    pub fn expect_rounds(&self, _: &str, _: usize) -> Result<()> {
        match *self {}
    }
    pub fn join_ops(&self, _: bool) -> bool {
        match *self {}
    }
    pub fn halves(&self) -> Halves {
        match *self {}
    }
    pub fn use_halves(&self, _: bool) -> bool {
        match *self {}
    }
    pub fn matrices(&self) -> Option<Matrices> {
        match *self {}
    }
    pub fn use_matrices(&self, _: bool) -> bool {
        match *self {}
    }
    pub fn counts(&self) -> Result<Counts> {
        match *self {}
    }
    pub fn wait(&self) -> Result<()> {
        match *self {}
    }
}
