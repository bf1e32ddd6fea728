//! The slabs of a GPU: the large buffers that its arena cuts blocks from.
//!
//! Every buffer is bound `read_write`: a dispatch may not see one buffer both read-only and writable, and blocks of one slab
//! are inputs and outputs of the same kernel.

use super::adapter::now;
use super::queue::{Gpu, open};
use crate::arena::space::{Slab, Slabs, Space};
use crate::error::{Error, Kind, Result, size};

pub fn usage() -> wgpu::BufferUsages {
    wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST
}

/// What the arena may ask of a device with these limits.
pub fn of(limits: &wgpu::Limits) -> Slabs {
    // A multiple of the grain that one binding can show.
    let block = (limits.max_storage_buffer_binding_size as usize).min(limits.max_buffer_size as usize) & !255;
    Slabs { make, largest_slab: limits.max_buffer_size as usize & !255, largest_block: block }
}

fn make(space: Space, bytes: usize) -> Result<Slab> {
    let gpu = open((space.index() - 1) as u8)?;
    let buffer = gpu.buffer("slab", bytes, usage())?;
    // Written once, so that the driver's layer need not track which parts have been.
    let mut encoder = gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor { label: None });
    encoder.clear_buffer(&buffer, 0, None);
    gpu.queue.submit([encoder.finish()]);
    let mut list = gpu.slabs.write();
    list.push(buffer);
    Ok(Slab { number: (list.len() - 1) as u32, bytes })
}

impl Gpu {
    /// A buffer, or why there is none.
    pub(super) fn buffer(&self, label: &str, bytes: usize, usage: wgpu::BufferUsages) -> Result<wgpu::Buffer> {
        self.check("gpu")?;
        let memory = self.device.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
        let other = self.device.push_error_scope(wgpu::ErrorFilter::Validation);
        let descriptor =
            wgpu::BufferDescriptor { label: Some(label), size: bytes as u64, usage, mapped_at_creation: false };
        let buffer = self.device.create_buffer(&descriptor);
        let (other, memory) = (now(other.pop()).flatten(), now(memory.pop()).flatten());
        if memory.is_some() {
            return Err(Error::new(Kind::OutOfMemory, format!("the driver has no {}", size(bytes))));
        }
        match other {
            Some(error) => Err(Error::new(Kind::OutOfMemory, format!("a buffer of {}: {error}", size(bytes)))),
            None => Ok(buffer),
        }
    }
}
