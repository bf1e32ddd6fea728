//! Kernels for the CPU, and the threads they run on.

pub mod bits;
pub mod gemm;
pub mod product;
pub mod convert;
pub mod fold;
pub mod math;
pub mod optim;
pub mod pointwise;
pub mod pool;
pub mod random;
pub mod rows;
pub mod simd;
pub mod view;
