//! Kernels for the CPU, and the threads they run on.

pub mod attention;
pub mod bits;
pub mod channels;
pub mod conv;
pub mod convert;
pub mod extreme;
pub mod fold;
pub mod gemm;
pub mod math;
pub mod optim;
pub mod parts;
pub mod pointwise;
pub mod pool;
pub mod pooling;
pub mod product;
pub mod random;
pub mod rows;
pub mod scan;
pub mod simd;
pub mod view;
