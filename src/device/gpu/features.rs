//! What kernels use of an adapter, where it is there.

use super::cooperative::{MATRIX_UNITS, Matrices};
use super::halves::Halves;

const WANTED: wgpu::Features =
    wgpu::Features::SHADER_F16.union(wgpu::Features::SHADER_I16).union(wgpu::Features::TIMESTAMP_QUERY);
/// What kernels that use matrix units need.
const MATRICES: wgpu::Features =
    wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX.union(wgpu::Features::SHADER_F16).union(wgpu::Features::SUBGROUP);

/// True unless a variable of the environment says that kernels do without something.
pub fn wished(variable: &str) -> bool {
    std::env::var(variable).map_or(true, |wish| wish != "0")
}

/// What of an adapter a device is opened with.
pub fn wanted(adapter: &wgpu::Adapter, matrices: Option<Matrices>) -> wgpu::Features {
    adapter.features() & if matrices.is_some() { WANTED | MATRICES } else { WANTED }
}

/// The matrices that an adapter says it multiplies, in float16 and summed in float32. A software driver has no units for them, and
/// takes half a minute to compile their kernel: it is asked only where `BACKSWEEP_GPU_MATRICES=1` says so.
pub fn matrices(adapter: &wgpu::Adapter) -> Option<Matrices> {
    let software = adapter.get_info().device_type == wgpu::DeviceType::Cpu;
    let wish = std::env::var("BACKSWEEP_GPU_MATRICES").map_or(!software, |wish| wish != "0");
    if !wish || !adapter.features().contains(MATRICES) {
        return None;
    }
    let sizes = adapter.cooperative_matrix_properties().into_iter().filter(|of| {
        let kinds = (of.ab_type, of.cr_type) == (wgpu::CooperativeScalarType::F16, wgpu::CooperativeScalarType::F32);
        kinds && of.m_size == of.k_size && of.n_size == of.k_size && !of.saturating_accumulation
    });
    let sizes: Vec<usize> = sizes.map(|of| of.k_size as usize).collect();
    let (info, limits) = (adapter.get_info(), adapter.limits());
    let subgroup = [info.subgroup_min_size, info.subgroup_max_size].map(|threads| threads as usize);
    Matrices::among(&sizes, subgroup, limits.max_compute_workgroup_storage_size as usize)
}

/// What of 16 bits an adapter has.
pub fn halves(features: wgpu::Features) -> Halves {
    let has = |feature| features.contains(feature);
    Halves { f16: has(wgpu::Features::SHADER_F16), i16: has(wgpu::Features::SHADER_I16) }
}

/// The lines in front of every text.
pub fn enabled(features: wgpu::Features) -> String {
    halves(features).enabled() + if features.contains(MATRICES) { MATRIX_UNITS } else { "" }
}
