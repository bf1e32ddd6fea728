//! What kernels take by the GPU's own clock: while a capture runs, each has a pass of its own between two timestamps.
//!
//! Only on adapters that have timestamps. Copies are not timed. The buffers are the capture's, and not on the bill.

use crate::arena::space::Space;
use crate::arena::trace;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// Bytes of a timestamp.
const STAMP: usize = 8;

pub(super) struct Clock {
    queries: wgpu::QuerySet,
    resolved: wgpu::Buffer,
    bytes: u64,
    nanos_per_tick: f64,
    /// Of each kernel of the batch being recorded, the piece of work that it belongs to.
    spans: Vec<u32>,
    sent: VecDeque<Sent>,
    idle: Vec<wgpu::Buffer>,
}

/// The timestamps of a batch, on their way.
struct Sent {
    spans: Vec<u32>,
    buffer: wgpu::Buffer,
    told: Arc<AtomicBool>,
}

impl Clock {
    /// For batches of at most so many kernels.
    pub fn new(device: &wgpu::Device, queue: &wgpu::Queue, kernels: usize) -> Clock {
        let queries = device.create_query_set(&wgpu::QuerySetDescriptor {
            label: Some("clock"),
            ty: wgpu::QueryType::Timestamp,
            count: 2 * kernels as u32,
        });
        let bytes = (2 * kernels * STAMP) as u64;
        let resolved = device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("clock"),
            size: bytes,
            usage: wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC,
            mapped_at_creation: false,
        });
        let nanos_per_tick = f64::from(queue.get_timestamp_period());
        Clock { queries, resolved, bytes, nanos_per_tick, spans: vec![], sent: VecDeque::new(), idle: vec![] }
    }

    /// What the pass of the next kernel writes, for this piece of work.
    pub fn next(&mut self, span: u32) -> wgpu::ComputePassTimestampWrites<'_> {
        let at = 2 * self.spans.len() as u32;
        self.spans.push(span);
        wgpu::ComputePassTimestampWrites {
            query_set: &self.queries,
            beginning_of_pass_write_index: Some(at),
            end_of_pass_write_index: Some(at + 1),
        }
    }

    /// The batch is whole: its timestamps are copied to where they can be read. False when it has none.
    pub fn close(&mut self, device: &wgpu::Device, encoder: &mut wgpu::CommandEncoder) -> bool {
        if self.spans.is_empty() {
            return false;
        }
        let stamps = 2 * self.spans.len() as u32;
        let buffer = self.idle.pop().unwrap_or_else(|| {
            device.create_buffer(&wgpu::BufferDescriptor {
                label: Some("clock"),
                size: self.bytes,
                usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
                mapped_at_creation: false,
            })
        });
        encoder.resolve_query_set(&self.queries, 0..stamps, &self.resolved, 0);
        encoder.copy_buffer_to_buffer(&self.resolved, 0, &buffer, 0, Some(u64::from(stamps) * STAMP as u64));
        self.sent.push_back(Sent { spans: std::mem::take(&mut self.spans), buffer, told: Arc::default() });
        true
    }

    /// The batch has been sent: asks for its timestamps, and tells the capture those that have come.
    pub fn ask(&mut self, space: Space, closed: bool) {
        if let Some(sent) = self.sent.back().filter(|_| closed) {
            let told = sent.told.clone();
            sent.buffer.slice(..).map_async(wgpu::MapMode::Read, move |result| told.store(result.is_ok(), Relaxed));
        }
        self.collect(space);
    }

    pub fn collect(&mut self, space: Space) {
        while self.sent.front().is_some_and(|sent| sent.told.load(Relaxed)) {
            let sent = self.sent.pop_front().expect("bug: the front has gone");
            if let Ok(view) = sent.buffer.slice(..).get_mapped_range() {
                let word = |i: usize| {
                    let bytes = view[STAMP * i..STAMP * (i + 1)].try_into();
                    u64::from_le_bytes(bytes.expect("bug: eight bytes are eight"))
                };
                for (i, span) in sent.spans.iter().enumerate() {
                    let ticks = word(2 * i + 1).saturating_sub(word(2 * i));
                    trace::took(space, *span, (ticks as f64 * self.nanos_per_tick) as u64);
                }
            }
            sent.buffer.unmap();
            self.idle.push(sent.buffer);
        }
    }
}
