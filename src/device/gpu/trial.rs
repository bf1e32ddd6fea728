//! Whether the matrix units of an adapter multiply as they should. The extension is young, and a driver that gets it wrong
//! says nothing: so they are tried when the GPU is opened, on numbers whose sums are exact.

use super::adapter::now;
use super::cooperative::Matrices;
use super::gemm::{Trial, trial};
use super::halves::Halves;
use super::kernel::assemble;
use super::tiles::{Sizes, With};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// More than a tile, and less than two.
const SIZES: Sizes = Sizes { batch: 1, m: 136, k: 80, n: 148 };

/// Small integers in a pattern that tells elements apart.
fn number(side: usize, i: usize, k: usize) -> i32 {
    if side == 0 { ((3 * i + 5 * k) % 11) as i32 - 5 } else { ((7 * i + 2 * k) % 13) as i32 - 6 }
}

/// The bits of a small integer as float16.
fn float16(number: i32) -> u16 {
    half::f16::from_f32(number as f32).to_bits()
}

/// True when sides that lie either way give the sums that they should.
pub fn passes(device: &wgpu::Device, queue: &wgpu::Queue, enabled: &str, halves: Halves, matrices: Matrices) -> bool {
    let with = With { halves, matrices: Some(matrices) };
    [false, true].into_iter().all(|turned| {
        let scopes = [wgpu::ErrorFilter::Internal, wgpu::ErrorFilter::Validation, wgpu::ErrorFilter::OutOfMemory];
        let scopes = scopes.map(|filter| device.push_error_scope(filter));
        let trial = trial(SIZES, turned, with);
        let sums = sums(device, queue, enabled, &trial, turned);
        let errors = scopes.into_iter().rev().filter_map(|scope| now(scope.pop()).flatten()).count();
        errors == 0 && sums.is_some_and(|sums| sums == expected(&trial))
    })
}

/// The sums of the two parts of k.
fn expected(trial: &Trial) -> Vec<f32> {
    let Sizes { m, k, n, .. } = trial.sizes;
    let half = trial.words[5] as usize;
    let sum = |part: usize, i: usize, j: usize| -> i32 {
        (part * half..k.min((part + 1) * half)).map(|k| number(0, i, k) * number(1, j, k)).sum()
    };
    (0..2 * m * n).map(|at| sum(at / (m * n), at / n % m, at % n) as f32).collect()
}

fn sums(device: &wgpu::Device, queue: &wgpu::Queue, enabled: &str, trial: &Trial, turned: bool) -> Option<Vec<f32>> {
    let Sizes { m, k, n, .. } = trial.sizes;
    let side = |side: usize, size: usize, by_k: bool| -> Vec<u8> {
        let place = |at: usize| if by_k { (at % size, at / size) } else { (at / k, at % k) };
        (0..size * k).flat_map(|at| float16(number(side, place(at).0, place(at).1)).to_le_bytes()).collect()
    };
    let buffer = |size: usize, usage| {
        device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("trial"),
            size: size as u64,
            usage: usage | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        })
    };
    let filled = |bytes: &[u8], usage| {
        let buffer = buffer(bytes.len(), usage);
        queue.write_buffer(&buffer, 0, bytes);
        buffer
    };
    let storage = wgpu::BufferUsages::STORAGE;
    let left = filled(&side(0, m, turned), storage);
    let right = filled(&side(1, n, !turned), storage);
    let words: Vec<u8> = trial.words.iter().flat_map(|word| word.to_le_bytes()).collect();
    let params = filled(&words, wgpu::BufferUsages::UNIFORM);
    let bytes = 2 * m * n * 4;
    let made = buffer(bytes, storage | wgpu::BufferUsages::COPY_SRC);
    let read = buffer(bytes, wgpu::BufferUsages::MAP_READ);
    let text = enabled.to_string() + &assemble(&[], "", &trial.text);
    let module = device.create_shader_module(wgpu::ShaderModuleDescriptor {
        label: Some("trial"),
        source: wgpu::ShaderSource::Wgsl(text.into()),
    });
    let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
        label: Some("trial"),
        layout: None,
        module: &module,
        entry_point: Some("main"),
        compilation_options: Default::default(),
        cache: None,
    });
    let group = |number: u32, buffers: &[(u32, &wgpu::Buffer)]| {
        let entries: Vec<_> = buffers
            .iter()
            .map(|(binding, buffer)| wgpu::BindGroupEntry { binding: *binding, resource: buffer.as_entire_binding() })
            .collect();
        device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: Some("trial"),
            layout: &pipeline.get_bind_group_layout(number),
            entries: &entries,
        })
    };
    // The second stands for a bias that there is not.
    let groups = [group(0, &[(0, &left), (1, &right), (2, &made), (3, &made)]), group(1, &[(0, &params)])];
    let mut encoder = device.create_command_encoder(&Default::default());
    let mut pass = encoder.begin_compute_pass(&Default::default());
    pass.set_pipeline(&pipeline);
    pass.set_bind_group(0, &groups[0], &[]);
    pass.set_bind_group(1, &groups[1], &[]);
    pass.dispatch_workgroups(trial.groups, 1, 1);
    drop(pass);
    encoder.copy_buffer_to_buffer(&made, 0, &read, 0, Some(bytes as u64));
    queue.submit([encoder.finish()]);
    let ready = Arc::new(AtomicBool::new(false));
    let told = ready.clone();
    read.slice(..).map_async(wgpu::MapMode::Read, move |result| told.store(result.is_ok(), Relaxed));
    let _ = device.poll(wgpu::PollType::wait_indefinitely());
    if !ready.load(Relaxed) {
        return None;
    }
    let view = read.slice(..).get_mapped_range().ok()?;
    Some(view.chunks_exact(4).map(|word| f32::from_le_bytes([word[0], word[1], word[2], word[3]])).collect())
}
