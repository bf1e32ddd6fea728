//! A capture: every block event and every piece of work, with its time, in a log that only grows.
//!
//! The log is what `backsweep.profiler.capture` reads: eight bytes of magic, then chunks. A chunk is a letter, a length
//! (u32) and that many bytes: `E` events of 40 bytes, `N` names (id u32, length u32, UTF-8), `M` facts as JSON. All
//! numbers are little-endian. A file is written at every step and at least every hundred events, so what was captured before
//! a crash can be read; a chunk cut short is the reader's end. Costs one relaxed load when off.

use super::ledger::{Category, Record, Snapshot, Tag};
use super::names::{self, Name};
use super::{ARENA, Context};
use rustc_hash::FxHashMap;
use std::cell::Cell;
use std::fs::File;
use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering::Relaxed};
use std::time::Instant;

pub const MAGIC: &[u8; 8] = b"BSWEEP01";
pub const EVENT_BYTES: usize = 40;
/// Bytes of events that gather before they become a chunk, in memory and in a file.
const FLUSH: usize = 1 << 20;
const FILE_FLUSH: usize = 100 * EVENT_BYTES;

static ON: AtomicBool = AtomicBool::new(false);
static THREADS: AtomicU16 = AtomicU16::new(0);

thread_local! {
    static THREAD: u16 = THREADS.fetch_add(1, Relaxed);
    /// Pieces of work in progress on this thread.
    static DEPTH: Cell<u32> = const { Cell::new(0) };
}

/// True while a capture runs.
#[inline]
pub fn on() -> bool {
    ON.load(Relaxed)
}

/// What a piece of work is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Work {
    Forward,
    Backward,
    Replay,
    Optimizer,
    /// The whole way back; its visits are `Backward`.
    Sweep,
}

#[derive(Clone, Copy)]
#[repr(u8)]
enum Kind {
    Alloc = 1,
    Free,
    Retag,
    Begin,
    End,
    /// A later vjp needs a block: number = the node that reads it.
    Need,
    /// A node reads nothing any more.
    Done,
    Step,
    /// A block that was there when the capture began.
    Present,
    Limit,
    /// An allocation that was refused.
    Refused,
    /// The module of a block became known.
    Place,
}

/// One line of the log; which fields mean something depends on the kind.
#[derive(Clone, Copy, Default)]
struct Event {
    code: u8,
    id: u32,
    number: u64,
    op: u32,
    module: u32,
    line: u32,
    extra: u32,
}

pub struct Trace {
    start: Instant,
    events: Vec<u8>,
    /// Chunks, when there is no file.
    memory: Vec<u8>,
    file: Option<File>,
    failure: Option<io::Error>,
    /// A child that was forked meanwhile has the same file, and nothing to say in it.
    process: u32,
    names_written: usize,
    ops: FxHashMap<usize, u32>,
    count: u64,
    most: u64,
    step: u32,
    step_peak: usize,
    automatic_steps: bool,
}

/// How a capture is taken.
pub struct Options {
    /// Where the log goes; `None` keeps it in memory.
    pub path: Option<String>,
    /// Events after which only steps are noted.
    pub most_events: u64,
    /// Whether an optimizer's step is a step.
    pub automatic_steps: bool,
}

impl Trace {
    fn begin(options: Options, present: Snapshot, limit: Option<usize>) -> io::Result<Trace> {
        let mut file = options.path.map(File::create).transpose()?;
        let mut memory = Vec::new();
        match &mut file {
            Some(file) => file.write_all(MAGIC)?,
            None => memory.extend_from_slice(MAGIC),
        }
        let mut trace = Trace {
            start: Instant::now(),
            events: Vec::with_capacity(FLUSH + EVENT_BYTES),
            memory,
            file,
            failure: None,
            process: std::process::id(),
            names_written: 0,
            ops: FxHashMap::default(),
            count: 0,
            most: options.most_events,
            step: 0,
            step_peak: present.iter().map(|(_, r)| r.bytes).sum(),
            automatic_steps: options.automatic_steps,
        };
        for (id, record) in &present {
            let event = trace.block(*id, record);
            trace.push(Kind::Present, event);
        }
        trace.limit(limit);
        Ok(trace)
    }

    fn op(&mut self, op: &'static str) -> u32 {
        *self.ops.entry(op.as_ptr() as usize ^ op.len() << 48).or_insert_with(|| Name::intern(op).bits())
    }

    fn block(&mut self, id: u32, record: &Record) -> Event {
        let Tag { category, op, module, line } = record.tag;
        Event {
            code: category as u8,
            id,
            number: record.bytes as u64,
            op: self.op(op),
            module: module.bits(),
            line: line.bits(),
            extra: 0,
        }
    }

    fn push(&mut self, kind: Kind, event: Event) {
        if self.count < self.most || matches!(kind, Kind::Step | Kind::Present) {
            self.write(kind, event);
        }
    }

    fn write(&mut self, kind: Kind, event: Event) {
        self.count += 1;
        let mut bytes = [0; EVENT_BYTES];
        bytes[0..8].copy_from_slice(&(self.start.elapsed().as_nanos() as u64).to_le_bytes());
        bytes[8] = kind as u8;
        bytes[9] = event.code;
        bytes[10..12].copy_from_slice(&THREAD.with(|t| *t).to_le_bytes());
        bytes[12..16].copy_from_slice(&event.id.to_le_bytes());
        bytes[16..24].copy_from_slice(&event.number.to_le_bytes());
        bytes[24..28].copy_from_slice(&event.op.to_le_bytes());
        bytes[28..32].copy_from_slice(&event.module.to_le_bytes());
        bytes[32..36].copy_from_slice(&event.line.to_le_bytes());
        bytes[36..40].copy_from_slice(&event.extra.to_le_bytes());
        self.events.extend_from_slice(&bytes);
        if self.events.len() >= if self.file.is_some() { FILE_FLUSH } else { FLUSH } {
            self.flush();
        }
    }

    pub(super) fn alloc(&mut self, id: u32, record: &Record, live: usize) {
        self.step_peak = self.step_peak.max(live);
        let event = self.block(id, record);
        self.push(Kind::Alloc, event);
    }

    pub(super) fn free(&mut self, id: u32, record: &Record) {
        let event = self.block(id, record);
        self.push(Kind::Free, event);
    }

    pub(super) fn retag(&mut self, id: u32, record: &Record, before: Category) {
        let event = Event { extra: before as u32, ..self.block(id, record) };
        self.push(Kind::Retag, event);
    }

    pub(super) fn place(&mut self, id: u32, record: &Record) {
        let event = self.block(id, record);
        self.push(Kind::Place, event);
    }

    pub(super) fn limit(&mut self, limit: Option<usize>) {
        self.push(Kind::Limit, Event { number: limit.map_or(0, |bytes| bytes as u64), ..Event::default() });
    }

    pub(super) fn refused(&mut self, asked: usize, tag: Tag) {
        let event = self.block(0, &Record { bytes: asked, tag });
        self.write(Kind::Refused, event);
        self.flush();
    }

    fn step(&mut self, live: usize) {
        self.step += 1;
        let event = Event { id: self.step, number: self.step_peak as u64, ..Event::default() };
        self.push(Kind::Step, event);
        self.step_peak = live;
        if self.file.is_some() {
            self.flush();
        }
    }

    /// Writes what has gathered: the names first, so that every id is known when an event has it.
    fn flush(&mut self) {
        let texts = names::texts_from(self.names_written);
        if !texts.is_empty() {
            let mut chunk = Vec::new();
            for (i, text) in texts.iter().enumerate() {
                chunk.extend_from_slice(&((self.names_written + i) as u32).to_le_bytes());
                chunk.extend_from_slice(&(text.len() as u32).to_le_bytes());
                chunk.extend_from_slice(text.as_bytes());
            }
            self.names_written += texts.len();
            self.chunk(b'N', &chunk);
        }
        let events = std::mem::take(&mut self.events);
        if !events.is_empty() {
            self.chunk(b'E', &events);
        }
        self.events = events;
        self.events.clear();
    }

    fn chunk(&mut self, letter: u8, bytes: &[u8]) {
        let mut head = [letter; 5];
        head[1..].copy_from_slice(&(bytes.len() as u32).to_le_bytes());
        match &mut self.file {
            Some(_) if self.process != std::process::id() => {}
            Some(file) => {
                let written = file.write_all(&head).and_then(|()| file.write_all(bytes));
                if let (Err(error), None) = (written, &self.failure) {
                    self.failure = Some(error);
                }
            }
            None => {
                self.memory.extend_from_slice(&head);
                self.memory.extend_from_slice(bytes);
            }
        }
    }
}

/// Begins a capture. False when one runs already.
pub fn start(options: Options) -> io::Result<bool> {
    let mut arena = ARENA.lock();
    if arena.ledger.trace.is_some() {
        return Ok(false);
    }
    let trace = Trace::begin(options, arena.ledger.snapshot(), arena.cap())?;
    arena.ledger.trace = Some(Box::new(trace));
    ON.store(true, Relaxed);
    Ok(true)
}

/// Ends the capture; returns the log, empty when it went to a file.
pub fn stop() -> io::Result<Option<Vec<u8>>> {
    let Some(mut trace) = ARENA.lock().ledger.trace.take() else { return Ok(None) };
    ON.store(false, Relaxed);
    trace.flush();
    match trace.failure {
        Some(error) => Err(error),
        None => Ok(Some(trace.memory)),
    }
}

fn with(change: impl FnOnce(&mut Trace)) {
    if let Some(trace) = &mut ARENA.lock().ledger.trace {
        change(trace);
    }
}

/// Facts about the run, as JSON; later ones add to earlier ones.
pub fn facts(json: &str) {
    if on() {
        with(|trace| trace.chunk(b'M', json.as_bytes()));
    }
}

/// Ends a step. An automatic one (an optimizer's) does not count when the capture was told that the caller marks steps.
pub fn step(automatic: bool) {
    if !on() {
        return;
    }
    let mut arena = ARENA.lock();
    let live = arena.ledger.stats().live;
    if let Some(trace) = &mut arena.ledger.trace
        && (!automatic || trace.automatic_steps)
    {
        trace.step(live);
    }
}

/// The vjp of `node`, an application of `op` in `context`, needs `block`.
pub fn need(block: u32, node: u64, context: Context) {
    with(|trace| {
        let op = trace.op(context.op);
        let (module, line) = (context.module.bits(), context.line.bits());
        trace.push(Kind::Need, Event { id: block, number: node, op, module, line, ..Event::default() });
    });
}

/// The vjp of `node` has run, or never will.
pub fn done(node: u64) {
    if on() {
        with(|trace| trace.push(Kind::Done, Event { number: node, ..Event::default() }));
    }
}

/// A piece of work in progress on this thread; ends when dropped.
pub struct Span {
    open: bool,
    flops: f64,
    bytes: f64,
}

impl Span {
    /// The application of an op, unless it is a part of other work.
    pub fn forward(context: Context) -> Span {
        if on() && DEPTH.get() == 0 { Span::opened(Work::Forward, None, context, None) } else { Span::closed() }
    }

    pub fn of_node(work: Work, node: u64, context: Context) -> Span {
        if on() { Span::opened(work, Some(node), context, None) } else { Span::closed() }
    }

    pub fn sweep() -> Span {
        let context = Context { op: "backward", ..Context::get() };
        if on() { Span::opened(Work::Sweep, None, context, None) } else { Span::closed() }
    }

    /// Work that has a name of its own, such as the class of an optimizer.
    pub fn named(work: Work, name: &str) -> Span {
        if on() { Span::opened(work, None, Context::get(), Some(Name::intern(name))) } else { Span::closed() }
    }

    fn closed() -> Span {
        Span { open: false, flops: 0.0, bytes: 0.0 }
    }

    fn opened(work: Work, node: Option<u64>, context: Context, name: Option<Name>) -> Span {
        DEPTH.set(DEPTH.get() + 1);
        with(|trace| {
            let op = name.map_or_else(|| trace.op(context.op), Name::bits);
            let (module, line) = (context.module.bits(), context.line.bits());
            // Node 0 is a node: a span without one has the number 0, one with node n has n + 1.
            let number = node.map_or(0, |n| n + 1);
            trace.push(Kind::Begin, Event { code: work as u8, number, op, module, line, ..Event::default() });
        });
        Span { open: true, flops: 0.0, bytes: 0.0 }
    }

    /// Notes what the work costs, asked for only while a capture runs.
    pub fn cost(&mut self, cost: impl FnOnce() -> (f64, f64)) {
        if self.open {
            (self.flops, self.bytes) = cost();
        }
    }
}

impl Drop for Span {
    fn drop(&mut self) {
        if self.open {
            DEPTH.set(DEPTH.get() - 1);
            let event =
                Event { number: self.flops.max(0.0) as u64, extra: (self.bytes as f32).to_bits(), ..Event::default() };
            with(|trace| trace.push(Kind::End, event));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kinds(log: &[u8]) -> Vec<u8> {
        assert_eq!(&log[..8], MAGIC);
        let (mut at, mut kinds) = (8, vec![]);
        while at < log.len() {
            let length = u32::from_le_bytes(log[at + 1..at + 5].try_into().unwrap()) as usize;
            let body = &log[at + 5..at + 5 + length];
            if log[at] == b'E' {
                kinds.extend(body.chunks(EVENT_BYTES).map(|e| e[8]));
            }
            at += 5 + length;
        }
        kinds
    }

    #[test]
    fn after_the_last_event_allowed_only_steps_are_noted() {
        let options = Options { path: None, most_events: 3, automatic_steps: true };
        let mut trace = Trace::begin(options, vec![], None).unwrap();
        let tag = Tag { category: Category::Temporary, op: "test", module: Name::NONE, line: Name::NONE };
        let record = Record { bytes: 64, tag };
        for id in 0..5 {
            trace.alloc(id, &record, 64 * (id as usize + 1));
        }
        trace.step(320);
        trace.free(0, &record);
        trace.flush();
        let wanted = [Kind::Limit, Kind::Alloc, Kind::Alloc, Kind::Step].map(|k| k as u8);
        assert_eq!(kinds(&trace.memory), wanted);
    }
}
