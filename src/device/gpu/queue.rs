//! Running kernels: one stream of commands for each GPU, recorded here and sent in batches; nothing waits but a read-back.
//!
//! - Commands run in the order of the calls, from whatever thread. A block that is freed may be handed out again at once:
//!   who uses it next does so later in the same stream.
//! - Params of a batch lie in one uniform buffer that is written before the batch is sent; a kernel sees its own part by a
//!   dynamic offset. Small uploads travel in the same way and are copied into place by a command.
//! - Pipelines are kept by source and constants, bind groups by the blocks they show.
//! - Two bindings of a kernel may show the same bytes only where neither is written, or where each element is read by the
//!   thread that writes it, before it does (an elementwise op in place). All bindings are `read_write`, for blocks share
//!   slabs; wgpu checks usages by buffer and not by range, so that this is allowed.
//! - Elementwise ops wait to be joined (`group`), until a kernel or a copy needs what they write, or would write what they
//!   read. `BACKSWEEP_GPU_FUSE=0` sends each at once.
//! - On paper nothing is recorded: launchers take the memory that they would, and no kernel runs.
//! - An error of the driver is kept and raised by the next call: `check`. An index out of range is raised by the next
//!   read-back: `faults`.

use super::adapter::{adapter, now};
use super::clock::Clock;
use super::cooperative::Matrices;
use super::features::{self, wished};
use super::group::{Ready, Room, Span, Step, Waiting};
use super::halves::Halves;
use super::kernel::{Bindings, Grid, Kernel, PARAM_BYTES, Params, Words, assemble};
use super::woven::Woven;
use super::{Counts, faults, slabs, trial};
use crate::arena::ledger::Category;
use crate::arena::space::{Place, SPACES, Space};
use crate::arena::{self, Block, Context, trace};
use crate::error::{Error, Kind, Result};
use parking_lot::{Mutex, RwLock};
use rustc_hash::FxHashMap;
use smallvec::SmallVec;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};

/// Dispatches after which a batch is sent, so that the GPU starts early.
const BATCH: usize = 48;
/// Bytes of params in a batch.
const PAGE: usize = 32 * 1024;
/// Uploads up to this size travel with their batch.
const INLINE: usize = 64 * 1024;
const STAGING: usize = 4 * INLINE;
/// Bind groups kept before the cache starts anew.
const GROUPS: usize = 8192;
/// Read-back buffers of the smallest size that are kept; one is there from the beginning. Larger ones go at once: they are on
/// the bill, and a step that reads much must not leave less for the next.
const READERS: usize = 4;
const SMALLEST: usize = 4096;
/// Bindings of a kernel of joined ops, where the adapter allows as many.
const BINDINGS: usize = 24;

static OPEN: [OnceLock<std::result::Result<Gpu, Error>>; SPACES - 1] = [const { OnceLock::new() }; SPACES - 1];

/// The GPU of a number, opened when first asked for.
pub fn open(number: u8) -> Result<&'static Gpu> {
    OPEN[usize::from(number)].get_or_init(|| Gpu::open(number)).as_ref().map_err(Clone::clone)
}

/// Waits for all GPUs that run timed kernels, so that a capture knows their times.
pub fn settle_clocks() {
    OPEN.iter().filter_map(|place| place.get()?.as_ref().ok()).for_each(Gpu::settle_clock);
}

/// What went wrong behind our back.
#[derive(Default)]
struct Fault {
    there: AtomicBool,
    error: Mutex<Option<Error>>,
    lost: Mutex<Option<String>>,
}

impl Fault {
    fn set(&self, error: Error) {
        let mut first = self.error.lock();
        if first.is_none() {
            *first = Some(error);
        }
        self.there.store(true, Relaxed);
    }
}

pub struct Gpu {
    space: Space,
    pub(super) device: wgpu::Device,
    pub(super) queue: wgpu::Queue,
    pub(super) slabs: RwLock<Vec<wgpu::Buffer>>,
    features: wgpu::Features,
    checked: bool,
    software: bool,
    joins: AtomicBool,
    has_halves: AtomicBool,
    matrices: Option<Matrices>,
    has_matrices: AtomicBool,
    most_bindings: usize,
    largest_binding: usize,
    param_layout: wgpu::BindGroupLayout,
    param_align: usize,
    stream: Mutex<Stream>,
    /// Of kernels made since somebody asked for them.
    texts: Mutex<Option<Vec<String>>>,
    fault: Arc<Fault>,
}

/// What is being recorded, and what is kept for it.
struct Stream {
    encoder: Option<wgpu::CommandEncoder>,
    pass: Option<wgpu::ComputePass<'static>>,
    waiting: Waiting,
    dispatches: usize,
    params: Vec<u8>,
    uploads: Vec<u8>,
    page: wgpu::Buffer,
    page_group: wgpu::BindGroup,
    staging: wgpu::Buffer,
    pipelines: FxHashMap<Key, Arc<wgpu::ComputePipeline>>,
    layouts: Vec<Option<(wgpu::BindGroupLayout, wgpu::PipelineLayout)>>,
    groups: FxHashMap<SmallVec<[Place; 6]>, wgpu::BindGroup>,
    readers: Vec<Reader>,
    /// From the first capture on, where the adapter has timestamps.
    clock: Option<Clock>,
    counts: Counts,
    /// A kernel that may note a fault has been recorded since the last look.
    watched: bool,
    /// The page, the staging buffer and the words of faults, on the bill.
    _bill: Block,
}

struct Reader {
    buffer: wgpu::Buffer,
    bytes: usize,
    _bill: Block,
}

/// What a pipeline is made from: a text by its address or a made-up key, and numbers.
type Key = (usize, SmallVec<[u32; 16]>);

impl Gpu {
    fn open(number: u8) -> Result<Gpu> {
        let (adapter, space) = (adapter(number), Space::gpu(number));
        let matrices = features::matrices(adapter);
        let (limits, features) = (adapter.limits(), features::wanted(adapter, matrices));
        let experimental = match matrices {
            // SAFETY: the one kernel that uses them keeps to its memory, and `trial` says whether they work.
            Some(_) => unsafe { wgpu::ExperimentalFeatures::enabled() },
            None => wgpu::ExperimentalFeatures::disabled(),
        };
        let descriptor = wgpu::DeviceDescriptor {
            label: Some("backsweep"),
            required_features: features,
            experimental_features: experimental,
            required_limits: limits.clone(),
            memory_hints: wgpu::MemoryHints::MemoryUsage,
            ..Default::default()
        };
        let refused = |why: String| Error::device(format!("gpu: {} cannot be opened: {why}", adapter.get_info().name));
        let (device, queue) = match now(adapter.request_device(&descriptor)) {
            Some(made) => made.map_err(|e| refused(e.to_string()))?,
            None => return Err(refused("the driver gives no answer".into())),
        };
        let fault = Arc::new(Fault::default());
        let seen = fault.clone();
        device.on_uncaptured_error(Arc::new(move |error: wgpu::Error| {
            let kind = if matches!(error, wgpu::Error::OutOfMemory { .. }) { Kind::OutOfMemory } else { Kind::Device };
            seen.set(Error::new(kind, format!("gpu: the driver reports: {error}")));
        }));
        let seen = fault.clone();
        device.set_device_lost_callback(move |_, why| {
            *seen.lost.lock() = Some(why);
            seen.there.store(true, Relaxed);
        });
        let param_layout = device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor {
            label: Some("params"),
            entries: &[entry(0, wgpu::BufferBindingType::Uniform, true)],
        });
        let plain = |label, size: usize, usage| {
            device.create_buffer(&wgpu::BufferDescriptor {
                label: Some(label),
                size: size as u64,
                usage: usage | wgpu::BufferUsages::COPY_DST,
                mapped_at_creation: false,
            })
        };
        let page = plain("params", PAGE + PARAM_BYTES, wgpu::BufferUsages::UNIFORM);
        let staging = plain("staging", STAGING, wgpu::BufferUsages::COPY_SRC);
        let page_group = device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: Some("params"),
            layout: &param_layout,
            entries: &[binding(0, &page, 0, PARAM_BYTES)],
        });
        let bytes = PAGE + PARAM_BYTES + STAGING + faults::BYTES;
        let before = Context { op: "gpu", ..Context::get() }.set();
        let bill = arena::bill(space, bytes, Category::Workspace)?;
        // So that a number that is read in a step takes no more memory than the step before.
        let reader = Reader {
            buffer: plain("read back", SMALLEST, wgpu::BufferUsages::MAP_READ),
            bytes: SMALLEST,
            _bill: arena::bill(space, SMALLEST, Category::Workspace)?,
        };
        before.set();
        let stream = Stream {
            encoder: None,
            pass: None,
            waiting: Waiting::default(),
            dispatches: 0,
            params: Vec::with_capacity(PAGE),
            uploads: vec![],
            page,
            page_group,
            staging,
            pipelines: FxHashMap::default(),
            layouts: vec![],
            groups: FxHashMap::default(),
            readers: vec![reader],
            clock: None,
            counts: Counts::default(),
            watched: false,
            _bill: bill,
        };
        let (enabled, halves) = (features::enabled(features), features::halves(features));
        let matrices = matrices.filter(|matrices| trial::passes(&device, &queue, &enabled, halves, *matrices));
        let slabs = slabs::of(&limits);
        arena::register(space, slabs);
        let faults = plain("faults", faults::BYTES, wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC);
        Ok(Gpu {
            space,
            device,
            queue,
            slabs: RwLock::new(vec![faults]),
            largest_binding: slabs.largest_block,
            features,
            checked: std::env::var("BACKSWEEP_GPU_CHECKED").map_or(cfg!(debug_assertions), |wish| wish != "0"),
            joins: AtomicBool::new(wished("BACKSWEEP_GPU_FUSE")),
            has_halves: AtomicBool::new(wished("BACKSWEEP_GPU_F16")),
            matrices,
            has_matrices: AtomicBool::new(true),
            most_bindings: BINDINGS.min(limits.max_storage_buffers_per_shader_stage as usize),
            software: adapter.get_info().device_type == wgpu::DeviceType::Cpu,
            param_layout,
            param_align: (limits.min_uniform_buffer_offset_alignment as usize).max(16),
            stream: Mutex::new(stream),
            texts: Mutex::new(None),
            fault,
        })
    }

    /// Raises what the driver has reported since the last call; an error that is no loss of the device is forgotten then.
    pub(super) fn check(&self, op: &str) -> Result<()> {
        if !self.fault.there.load(Relaxed) {
            return Ok(());
        }
        if self.fault.lost.lock().is_none() {
            // A loss is told when all work has ended, after errors that come of it.
            let _ = self.device.poll(wgpu::PollType::wait_indefinitely());
        }
        if let Some(why) = &*self.fault.lost.lock() {
            return Err(Error::device(format!(
                "{op}: {} was lost ({why}); its tensors are gone: start again from a checkpoint, in a new process",
                self.space.name()
            )));
        }
        self.fault.there.store(false, Relaxed);
        self.fault.error.lock().take().map_or(Ok(()), Err)
    }

    /// Gives the device up, as a driver does that crashes. For tests of what follows.
    pub fn lose(&self) {
        self.device.destroy();
        // A loss is told when all work has ended.
        let _ = self.device.poll(wgpu::PollType::wait_indefinitely());
    }

    /// What of 16 bits kernels use.
    pub fn halves(&self) -> Halves {
        if self.has_halves.load(Relaxed) { features::halves(self.features) } else { Halves::default() }
    }

    /// Says whether kernels use what the adapter has of 16 bits; returns what was said before. For tests.
    pub fn use_halves(&self, on: bool) -> bool {
        self.has_halves.swap(on, Relaxed)
    }

    /// The matrices of float16 that kernels have multiplied by units of the adapter.
    pub fn matrices(&self) -> Option<Matrices> {
        self.matrices.filter(|_| self.has_halves.load(Relaxed) && self.has_matrices.load(Relaxed))
    }

    /// Says whether kernels use matrix units; returns what was said before. For tests.
    pub fn use_matrices(&self, on: bool) -> bool {
        self.has_matrices.swap(on, Relaxed)
    }

    /// The texts of the kernels made since the last call, the first of which says that they be kept. For tests.
    pub fn texts(&self) -> Vec<String> {
        self.texts.lock().replace(vec![]).unwrap_or_default()
    }

    /// True when it can say how long a kernel took.
    pub fn has_clock(&self) -> bool {
        self.features.contains(wgpu::Features::TIMESTAMP_QUERY)
    }

    /// Refuses kernels whose threads go round loops so often that a software driver would end them: llvmpipe stops a
    /// thread's loops, without a word, after 65,535 rounds in all.
    pub fn expect_rounds(&self, op: &str, rounds: usize) -> Result<()> {
        if rounds < self.most_rounds() {
            return Ok(());
        }
        Err(Error::device(format!(
            "{op}: {rounds} steps in a row; software drivers stop before 65535 (help: x.cpu(), or a GPU that is none)"
        )))
    }

    /// How often a thread may go round loops.
    pub fn most_rounds(&self) -> usize {
        if self.software { 65_000 } else { usize::MAX }
    }

    /// Whose memory it has.
    pub fn space(&self) -> Space {
        self.space
    }

    /// The most bytes of a slab that a kernel sees at once.
    pub fn largest_binding(&self) -> usize {
        self.largest_binding
    }

    /// What waits to be joined is recorded first, so that it counts.
    pub fn counts(&self) -> Result<Counts> {
        let mut stream = self.stream.lock();
        self.settle(&mut stream)?;
        Ok(stream.counts)
    }

    /// Takes elementwise ops, to be joined with others or sent.
    pub fn hold(&self, name: &str, steps: SmallVec<[Step; 2]>) -> Result<()> {
        self.check(name)?;
        if arena::on_paper() {
            return Ok(());
        }
        let mut stream = self.stream.lock();
        let room = Room { bindings: self.most_bindings, halves: self.halves() };
        for step in steps {
            for ready in stream.waiting.put(step, room) {
                self.weave(&mut stream, ready)?;
            }
        }
        // Of a kernel for several ops a capture could not say which of them took the time.
        let joins = self.joins.load(Relaxed) && trace::innermost().is_none();
        if joins { Ok(()) } else { self.settle(&mut stream) }
    }

    /// Says whether elementwise ops are joined; returns what was said before. For tests.
    pub fn join_ops(&self, on: bool) -> bool {
        self.joins.swap(on, Relaxed)
    }

    /// Records all that waits.
    fn settle(&self, stream: &mut Stream) -> Result<()> {
        while let Some(ready) = stream.waiting.first() {
            self.weave(stream, ready)?;
        }
        Ok(())
    }

    /// Records what waits and must come before work that reads and writes these bytes.
    fn settle_for(&self, stream: &mut Stream, reads: &[Span], writes: &[Span]) -> Result<()> {
        while let Some(ready) = stream.waiting.needed_by(reads, writes) {
            self.weave(stream, ready)?;
        }
        Ok(())
    }

    /// Records the kernel of a group.
    fn weave(&self, stream: &mut Stream, ready: Ready) -> Result<()> {
        let Some(woven) = Woven::new(ready, self.halves()) else { return Ok(()) };
        let text = || assemble(&[], "", &woven.text());
        let key = (0, woven.key.clone());
        let done = self.record(stream, woven.name(), key, &text, &woven.bindings, &woven.words, woven.grid);
        // Whoever asked for it has gone on.
        done.map_err(|error| {
            Error::device(format!(
                "{} (found after the call: the results of {} are lost, and what was computed of them; \
                 BACKSWEEP_GPU_FUSE=0 sends each op at once)",
                error.text(),
                woven.names().join(", ")
            ))
        })
    }

    /// Runs a kernel of the source tree.
    pub fn run<'a>(
        &self,
        kernel: &Kernel,
        constants: &[(&str, u32)],
        bindings: impl Into<Bindings<'a>>,
        params: &dyn Params,
        grid: Grid,
    ) -> Result<()> {
        let key = (kernel.source.as_ptr() as usize, constants.iter().map(|(_, v)| *v).collect());
        let text = || assemble(constants, kernel.params, kernel.source);
        self.dispatch(kernel.name, key, &text, bindings.into(), params.words(), grid)
    }

    /// Runs a kernel whose text is made when its key is first met; the text holds the declaration of its params.
    pub fn run_text<'a>(
        &self,
        name: &str,
        key: &[u32],
        text: &dyn Fn() -> String,
        bindings: impl Into<Bindings<'a>>,
        params: &dyn Params,
        grid: Grid,
    ) -> Result<()> {
        let text = || assemble(&[], "", &text());
        self.dispatch(name, (0, SmallVec::from_slice(key)), &text, bindings.into(), params.words(), grid)
    }

    fn dispatch(
        &self,
        name: &str,
        key: Key,
        text: &dyn Fn() -> String,
        bindings: Bindings,
        params: Words,
        grid: Grid,
    ) -> Result<()> {
        self.check(name)?;
        if grid.is_empty() || arena::on_paper() {
            return Ok(());
        }
        let mut stream = self.stream.lock();
        let spans: SmallVec<[Span; 12]> = bindings.all.iter().map(|place| Span::of(*place)).collect();
        let (reads, writes) = spans.split_at(bindings.reads);
        self.settle_for(&mut stream, reads, writes)?;
        self.record(&mut stream, name, key, text, bindings.all, &params, grid)
    }

    /// Records a kernel.
    #[allow(clippy::too_many_arguments)]
    fn record(
        &self,
        stream: &mut Stream,
        name: &str,
        key: Key,
        text: &dyn Fn() -> String,
        bindings: &[Place],
        params: &Words,
        grid: Grid,
    ) -> Result<()> {
        assert!(params.len() * 4 <= PARAM_BYTES, "bug: {name} has {} words of params", params.len());
        let pipeline = match stream.pipelines.get(&key) {
            Some(pipeline) => pipeline.clone(),
            None => {
                let made = Arc::new(self.pipeline(stream, name, &text(), bindings.len())?);
                stream.pipelines.insert(key, made.clone());
                made
            }
        };
        if stream.dispatches >= BATCH || stream.params.len() + PARAM_BYTES > PAGE {
            self.send(stream);
        }
        stream.watched |= bindings.iter().any(|p| p.slab == faults::SLAB);
        let group = self.group(stream, bindings).clone();
        let offset = stream.params.len();
        params.iter().for_each(|w| stream.params.extend_from_slice(&w.to_le_bytes()));
        let end = stream.params.len().max(offset + 4).next_multiple_of(self.param_align);
        stream.params.resize(end, 0);
        let page_group = stream.page_group.clone();
        let span = if self.has_clock() { trace::innermost() } else { None };
        let pass = match span {
            Some(span) => stream.timed_pass(&self.device, &self.queue, span),
            None => stream.pass(&self.device),
        };
        pass.set_pipeline(&pipeline);
        pass.set_bind_group(0, &group, &[]);
        pass.set_bind_group(1, &page_group, &[offset as u32]);
        pass.dispatch_workgroups(grid.x, grid.y, 1);
        if span.is_some() {
            stream.pass = None;
        }
        stream.dispatches += 1;
        stream.counts.dispatches += 1;
        Ok(())
    }

    fn layouts<'a>(
        &self,
        stream: &'a mut Stream,
        bindings: usize,
    ) -> &'a (wgpu::BindGroupLayout, wgpu::PipelineLayout) {
        if stream.layouts.len() <= bindings {
            stream.layouts.resize(bindings + 1, None);
        }
        stream.layouts[bindings].get_or_insert_with(|| {
            let storage = wgpu::BufferBindingType::Storage { read_only: false };
            let entries: Vec<_> = (0..bindings as u32).map(|i| entry(i, storage, false)).collect();
            let group = self
                .device
                .create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor { label: None, entries: &entries });
            let whole = self.device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
                label: None,
                bind_group_layouts: &[Some(&group), Some(&self.param_layout)],
                immediate_size: 0,
            });
            (group, whole)
        })
    }

    fn pipeline(&self, stream: &mut Stream, name: &str, text: &str, bindings: usize) -> Result<wgpu::ComputePipeline> {
        let layout = self.layouts(stream, bindings).1.clone();
        stream.counts.pipelines += 1;
        let text = features::enabled(self.features) + text;
        self.texts.lock().iter_mut().for_each(|texts| texts.push(text.clone()));
        let scopes = [wgpu::ErrorFilter::Internal, wgpu::ErrorFilter::Validation];
        let [internal, validation] = scopes.map(|filter| self.device.push_error_scope(filter));
        let descriptor =
            wgpu::ShaderModuleDescriptor { label: Some(name), source: wgpu::ShaderSource::Wgsl(text.into()) };
        let module = if self.checked {
            self.device.create_shader_module(descriptor)
        } else {
            // SAFETY: our own kernels, which guard each index and each divisor, and whose loops end; the tests run them
            // checked.
            unsafe { self.device.create_shader_module_trusted(descriptor, wgpu::ShaderRuntimeChecks::unchecked()) }
        };
        let pipeline = self.device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some(name),
            layout: Some(&layout),
            module: &module,
            entry_point: Some("main"),
            compilation_options: wgpu::PipelineCompilationOptions {
                zero_initialize_workgroup_memory: false,
                ..Default::default()
            },
            cache: None,
        });
        let errors = [now(validation.pop()).flatten(), now(internal.pop()).flatten()];
        match errors.into_iter().flatten().next() {
            None => Ok(pipeline),
            Some(error) => Err(Error::device(format!(
                "{name}: its kernel was refused by the driver of {}: {error}\nhelp: report this; or use the CPU for \
                 this op (x.cpu())",
                self.space.name()
            ))),
        }
    }

    fn group<'a>(&self, stream: &'a mut Stream, bindings: &[Place]) -> &'a wgpu::BindGroup {
        if stream.groups.len() >= GROUPS {
            stream.groups.clear();
        }
        let key: SmallVec<[Place; 6]> = SmallVec::from_slice(bindings);
        if !stream.groups.contains_key(&key) {
            let layout = self.layouts(stream, bindings.len()).0.clone();
            let slabs = self.slabs.read();
            let entries: SmallVec<[wgpu::BindGroupEntry; 6]> = bindings
                .iter()
                .enumerate()
                .map(|(i, p)| binding(i as u32, &slabs[p.slab as usize], p.offset, p.bytes))
                .collect();
            let group = self.device.create_bind_group(&wgpu::BindGroupDescriptor {
                label: None,
                layout: &layout,
                entries: &entries,
            });
            stream.counts.bind_groups += 1;
            stream.groups.insert(key.clone(), group);
        }
        &stream.groups[&key]
    }

    /// Sends what has been recorded.
    fn send(&self, stream: &mut Stream) -> Option<wgpu::SubmissionIndex> {
        stream.pass = None;
        let mut encoder = stream.encoder.take()?;
        let timed = stream.clock.as_mut().is_some_and(|clock| clock.close(&self.device, &mut encoder));
        if !stream.params.is_empty() {
            self.queue.write_buffer(&stream.page, 0, &stream.params);
        }
        if !stream.uploads.is_empty() {
            self.queue.write_buffer(&stream.staging, 0, &stream.uploads);
        }
        (stream.dispatches, stream.counts.submissions) = (0, stream.counts.submissions + 1);
        stream.counts.param_bytes += stream.params.len() as u64;
        stream.params.clear();
        stream.uploads.clear();
        let sent = self.queue.submit([encoder.finish()]);
        if let Some(clock) = &mut stream.clock {
            clock.ask(self.space, timed);
        }
        Some(sent)
    }

    /// Tells the capture what all kernels sent so far have taken, once they have run.
    fn settle_clock(&self) {
        let mut stream = self.stream.lock();
        if stream.clock.is_some() {
            self.send(&mut stream);
            let _ = self.device.poll(wgpu::PollType::wait_indefinitely());
            stream.clock.iter_mut().for_each(|clock| clock.collect(self.space));
        }
    }

    /// Sends what has been recorded, and waits until all is done.
    pub fn wait(&self) -> Result<()> {
        let watched = {
            let mut stream = self.stream.lock();
            self.settle(&mut stream)?;
            stream.watched
        };
        if watched {
            return self.read(None, &mut []);
        }
        self.send(&mut self.stream.lock());
        let _ = self.device.poll(wgpu::PollType::wait_indefinitely());
        self.check("gpu")
    }

    /// Copies bytes of the host to byte `at` of a block. `at` is a multiple of 4; the last word is filled up with zeros.
    pub fn upload(&self, to: Place, at: usize, bytes: &[u8]) -> Result<()> {
        self.check("upload")?;
        if bytes.is_empty() || arena::on_paper() {
            return Ok(());
        }
        let mut stream = self.stream.lock();
        let stream = &mut *stream;
        stream.counts.uploaded_bytes += bytes.len() as u64;
        let slab = self.slabs.read()[to.slab as usize].clone();
        let (size, offset) = (bytes.len().next_multiple_of(4), (to.offset + at) as u64);
        self.settle_for(stream, &[], &[Span::of(Place { offset: to.offset + at, bytes: size, ..to })])?;
        if size <= INLINE {
            if stream.uploads.len() + size > STAGING {
                self.send(stream);
            }
            let from = stream.uploads.len();
            stream.uploads.extend_from_slice(bytes);
            stream.uploads.resize(from + size, 0);
            let staging = stream.staging.clone();
            stream.commands(&self.device).copy_buffer_to_buffer(
                &staging,
                from as u64,
                &slab,
                offset,
                Some(size as u64),
            );
            return Ok(());
        }
        // Written before the next batch begins, so what has been recorded goes first.
        self.send(stream);
        let whole = bytes.len() & !3;
        self.queue.write_buffer(&slab, offset, &bytes[..whole]);
        if whole < bytes.len() {
            let mut last = [0; 4];
            last[..bytes.len() - whole].copy_from_slice(&bytes[whole..]);
            self.queue.write_buffer(&slab, offset + whole as u64, &last);
        }
        Ok(())
    }

    /// Copies bytes from one block to another; all numbers are multiples of 4, and the blocks are two.
    pub fn copy(&self, from: Place, at: usize, to: Place, there: usize, bytes: usize) -> Result<()> {
        self.check("copy")?;
        if bytes == 0 || arena::on_paper() {
            return Ok(());
        }
        let mut stream = self.stream.lock();
        let part = |place: Place, at: usize| Span::of(Place { offset: place.offset + at, bytes, ..place });
        self.settle_for(&mut stream, &[part(from, at)], &[part(to, there)])?;
        let slabs = self.slabs.read();
        let (source, target) = (&slabs[from.slab as usize], &slabs[to.slab as usize]);
        let (a, b) = ((from.offset + at) as u64, (to.offset + there) as u64);
        stream.commands(&self.device).copy_buffer_to_buffer(source, a, target, b, Some(bytes as u64));
        Ok(())
    }

    /// Reads bytes of a block, from byte `at` on, once all that was asked for before has been done. `at` is a multiple of 4.
    pub fn download(&self, from: Place, at: usize, into: &mut [u8]) -> Result<()> {
        if into.is_empty() { self.check("download") } else { self.read(Some((from, at)), into) }
    }

    /// As `download`; the words of faults come along, and are errors.
    fn read(&self, from: Option<(Place, usize)>, into: &mut [u8]) -> Result<()> {
        self.check("download")?;
        let size = into.len().next_multiple_of(4);
        let mut stream = self.stream.lock();
        self.settle(&mut stream)?;
        let all = size + faults::BYTES;
        let reader = match stream.readers.iter().position(|r| r.bytes >= all) {
            Some(i) => stream.readers.swap_remove(i),
            None => self.reader(all)?,
        };
        let watched = std::mem::take(&mut stream.watched);
        {
            let slabs = self.slabs.read();
            let commands = stream.commands(&self.device);
            if let Some((place, at)) = from {
                let (slab, offset) = (&slabs[place.slab as usize], (place.offset + at) as u64);
                commands.copy_buffer_to_buffer(slab, offset, &reader.buffer, 0, Some(size as u64));
            }
            if watched {
                // Cleared in the same breath, so that no fault is lost between.
                let words = &slabs[faults::SLAB as usize];
                commands.copy_buffer_to_buffer(words, 0, &reader.buffer, size as u64, Some(faults::BYTES as u64));
                commands.clear_buffer(words, 0, None);
            }
        }
        stream.counts.downloaded_bytes += into.len() as u64;
        let sent = self.send(&mut stream);
        // Others may record meanwhile.
        drop(stream);
        let (done, told) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let (ok, end) = (done.clone(), told.clone());
        let slice = reader.buffer.slice(..all as u64);
        slice.map_async(wgpu::MapMode::Read, move |result| {
            ok.store(result.is_ok(), Relaxed);
            end.store(true, Relaxed);
        });
        let waited = self.device.poll(wgpu::PollType::Wait { submission_index: sent, timeout: None });
        if !told.load(Relaxed) {
            let _ = self.device.poll(wgpu::PollType::wait_indefinitely());
        }
        self.check("download")?;
        if !done.load(Relaxed) {
            let why = waited.err().map_or_else(String::new, |e| format!(" ({e})"));
            return Err(Error::device(format!("download: {} gave no answer{why}", self.space.name())));
        }
        let view = slice.get_mapped_range().map_err(|e| Error::device(format!("download: {e}")))?;
        into.copy_from_slice(&view[..into.len()]);
        let fault = if watched { faults::error(&view[size..all]) } else { None };
        drop(view);
        reader.buffer.unmap();
        let mut stream = self.stream.lock();
        if reader.bytes == SMALLEST && stream.readers.len() < READERS {
            stream.readers.push(reader);
        }
        fault.map_or(Ok(()), Err)
    }

    fn reader(&self, size: usize) -> Result<Reader> {
        let bytes = size.max(SMALLEST);
        let bill = arena::bill(self.space, bytes, Category::Workspace)?;
        let buffer = self.buffer("read back", bytes, wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST)?;
        Ok(Reader { buffer, bytes, _bill: bill })
    }
}

impl Stream {
    fn encoder(&mut self, device: &wgpu::Device) -> &mut wgpu::CommandEncoder {
        self.encoder.get_or_insert_with(|| device.create_command_encoder(&Default::default()))
    }

    /// For copies, which stand outside of a pass.
    fn commands(&mut self, device: &wgpu::Device) -> &mut wgpu::CommandEncoder {
        self.pass = None;
        self.encoder(device)
    }

    /// A pass for one kernel.
    fn timed_pass(&mut self, device: &wgpu::Device, queue: &wgpu::Queue, span: u32) -> &mut wgpu::ComputePass<'static> {
        self.pass = None;
        let encoder = self.encoder.get_or_insert_with(|| device.create_command_encoder(&Default::default()));
        let clock = self.clock.get_or_insert_with(|| Clock::new(device, queue, BATCH));
        let timestamp_writes = Some(clock.next(span));
        let pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor { label: None, timestamp_writes });
        self.pass.insert(pass.forget_lifetime())
    }

    fn pass(&mut self, device: &wgpu::Device) -> &mut wgpu::ComputePass<'static> {
        if self.pass.is_none() {
            let pass = self.encoder(device).begin_compute_pass(&Default::default()).forget_lifetime();
            self.pass = Some(pass);
        }
        self.pass.as_mut().expect("bug: a pass just begun")
    }
}

fn entry(binding: u32, kind: wgpu::BufferBindingType, dynamic: bool) -> wgpu::BindGroupLayoutEntry {
    wgpu::BindGroupLayoutEntry {
        binding,
        visibility: wgpu::ShaderStages::COMPUTE,
        ty: wgpu::BindingType::Buffer { ty: kind, has_dynamic_offset: dynamic, min_binding_size: None },
        count: None,
    }
}

fn binding(number: u32, buffer: &wgpu::Buffer, offset: usize, bytes: usize) -> wgpu::BindGroupEntry<'_> {
    wgpu::BindGroupEntry {
        binding: number,
        resource: wgpu::BindingResource::Buffer(wgpu::BufferBinding {
            buffer,
            offset: offset as u64,
            size: std::num::NonZeroU64::new(bytes as u64),
        }),
    }
}
