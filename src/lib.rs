//! backsweep: tensors, a graph arena and one exact reverse sweep, with a ledger that accounts for every byte.
//!
//! The layers, each importing only from those above: `error`, `real`; `shape`, `dtype`, `arena`; `device`; `tensor`; `ops`;
//! `graph`; `bindings`.

pub mod error;
pub mod real;

pub mod arena;
pub mod dtype;
pub mod plan;
pub mod shape;

pub mod device;
pub mod tensor;

pub mod ops;

pub mod graph;

#[cfg(feature = "python")]
mod bindings;
