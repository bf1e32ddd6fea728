//! GEMM
pub mod tile;
