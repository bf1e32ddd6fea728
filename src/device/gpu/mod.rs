//! GPUs through wgpu: Vulkan, Metal and DX12. The only place that knows wgpu.
//!
//! `kernel` says what a kernel is and how one is written; `queue` how it is run. An op's kernels are WGSL files beside the
//! op, or text made from its formula (`text`, `pointwise`). Drivers are looked for when a GPU is first asked for, so that a
//! program without one pays nothing. Without the cargo feature `gpu` there are no GPUs, and `Gpu` has no value.

pub mod attention;
pub mod channels;
pub mod clip;
pub mod conv;
pub mod cooperative;
pub mod element;
pub mod faults;
pub mod fold;
pub mod gemm;
pub mod group;
pub mod halves;
pub mod kernel;
pub mod many;
pub mod optim;
pub mod places;
pub mod pointwise;
pub mod pooling;
pub mod random;
pub mod recurrent;
pub mod relu;
pub mod rows;
pub mod scan;
pub mod sort;
pub mod text;
pub mod tiles;
pub mod unroll;
#[cfg(feature = "gpu")]
mod woven;

#[cfg(feature = "gpu")]
mod adapter;
#[cfg(feature = "gpu")]
mod clock;
#[cfg(feature = "gpu")]
mod features;
#[cfg(feature = "gpu")]
mod queue;
#[cfg(feature = "gpu")]
mod slabs;
#[cfg(feature = "gpu")]
mod trial;
#[cfg(feature = "gpu")]
pub use adapter::{list, why_none};
#[cfg(feature = "gpu")]
pub use queue::{Gpu, open, settle_clocks};

#[cfg(not(feature = "gpu"))]
mod absent;
#[cfg(not(feature = "gpu"))]
pub use absent::{Gpu, list, open, settle_clocks, why_none};

use crate::error::{Error, Result};

/// A GPU as its driver describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Info {
    pub name: String,
    /// `vulkan`, `metal` or `dx12`.
    pub backend: String,
    /// `discrete`, `integrated`, `virtual`, `software` or `other`.
    pub kind: &'static str,
    pub driver: String,
}

/// How much has been sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub dispatches: u64,
    pub submissions: u64,
    pub pipelines: u64,
    pub bind_groups: u64,
    /// The numbers that kernels are given.
    pub param_bytes: u64,
    pub uploaded_bytes: u64,
    pub downloaded_bytes: u64,
}

/// The first GPU that is no program, by number.
pub fn best() -> Option<u8> {
    list().iter().position(|info| info.kind != "software").map(|n| n as u8)
}

/// Errors when there is no such GPU, or it cannot be opened; else it is ready.
pub fn expect(op: &str, number: u8) -> Result<()> {
    let found = list();
    if usize::from(number) >= found.len() {
        let name = crate::arena::space::Space::gpu(number).name();
        return Err(Error::device(if found.is_empty() {
            format!("{op}: there is no {name}: {}", why_none())
        } else {
            let names: Vec<&str> = found.iter().map(|info| info.name.as_str()).collect();
            format!("{op}: there is no {name}; found were: {}", names.join(", "))
        }));
    }
    open(number).map(|_| ())
}

/// What an op without a kernel says.
pub fn no_kernel(op: &str) -> Error {
    Error::device(format!("{op}: has no GPU kernel; move its inputs to the CPU and the result back (help: x.cpu())"))
}

/// What a GPU says to float64.
pub fn no_float64(op: &str) -> Error {
    Error::device(format!("{op}: GPUs have no float64 here; float32 or less is needed (help: x.float(), or x.cpu())"))
}
