//! Kernels as the drivers of other machines are given them.

use naga::back::{hlsl, msl, spv};
use naga::valid::{Capabilities, ShaderStages, SubgroupOperationSet, ValidationFlags, Validator};

/// What a kernel is translated to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Language {
    Vulkan,
    Metal,
    Direct3D,
}

pub const ALL: [Language; 3] = [Language::Vulkan, Language::Metal, Language::Direct3D];

/// An error when WGSL is invalid or has no translation.
pub fn translate(text: &str, to: Language) -> Result<(), String> {
    let module = naga::front::wgsl::parse_str(text).map_err(|error| error.emit_to_string(text))?;
    let mut validator = Validator::new(ValidationFlags::all(), Capabilities::all());
    validator.subgroup_stages(ShaderStages::COMPUTE).subgroup_operations(SubgroupOperationSet::all());
    let info = validator.validate(&module).map_err(|error| error.emit_to_string(text))?;
    let mut out = String::new();
    match to {
        Language::Vulkan => {
            let options = spv::Options { lang_version: (1, 4), ..Default::default() };
            spv::write_vec(&module, &info, &options, None).map(|_| ()).map_err(|error| error.to_string())
        }
        Language::Metal => {
            let options = msl::Options { lang_version: (2, 4), fake_missing_bindings: true, ..Default::default() };
            let written = msl::write_string(&module, &info, &options, &Default::default());
            written.map(|_| ()).map_err(|error| error.to_string())
        }
        Language::Direct3D => {
            let shader_model = hlsl::ShaderModel::V6_2;
            let options = hlsl::Options { shader_model, fake_missing_bindings: true, ..Default::default() };
            let pipeline = Default::default();
            let written = hlsl::Writer::new(&mut out, &options, &pipeline).write(&module, &info, None);
            written.map(|_| ()).map_err(|error| error.to_string())
        }
    }
}
