//! Where tensors live and ops run.

pub mod cpu;
pub mod formula;
pub mod gpu;

use crate::arena::space::{SPACES, Space};
use crate::error::{Error, Result};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Device {
    Cpu,
    /// By its place in the list that `gpu::list` gives.
    Gpu(u8),
}

impl Device {
    pub fn name(self) -> &'static str {
        self.space().name()
    }

    /// Whose memory its tensors lie in.
    pub fn space(self) -> Space {
        match self {
            Device::Cpu => Space::HOST,
            Device::Gpu(n) => Space::gpu(n),
        }
    }

    /// The device of a name: `cpu`, `gpu` or `gpu:0`, `gpu:1` …; `auto` is the first GPU that is no program, else the CPU.
    pub fn from_name(op: &str, name: &str) -> Result<Device> {
        let device = match name {
            "cpu" => Device::Cpu,
            "auto" => gpu::best().map_or(Device::Cpu, Device::Gpu),
            "gpu" => Device::Gpu(0),
            _ => match name.strip_prefix("gpu:").and_then(|n| n.parse::<u8>().ok()) {
                Some(n) if usize::from(n) < SPACES - 1 => Device::Gpu(n),
                _ => {
                    return Err(Error::device(format!(
                        "{op}: there is no device '{name}'; 'cpu', 'gpu', 'gpu:1' … or 'auto' is needed"
                    )));
                }
            },
        };
        if let Device::Gpu(n) = device {
            gpu::expect(op, n)?;
        }
        Ok(device)
    }
}
