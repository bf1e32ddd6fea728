//! A capture: every block event and every piece of work, with its time, in a log that only grows.
//!
//! The log is what `backsweep.profiler.capture` reads: eight bytes of magic, then chunks. A chunk is a letter, a length
//! (u32) and that many bytes: `E` events of 40 bytes, `N` names (id u32, length u32, UTF-8), `M` facts as JSON. All
//! numbers are little-endian. Blocks of all memory spaces are in it: the top five bits of a block's number are its space's. A file is written at every step and at least every hundred events, so what was captured before
//! a crash can be read; a chunk cut short is the reader's end. Costs one relaxed load when off.

use super::ledger::{Category, Record, Snapshot, Tag};
use super::names::{self, Name};
use super::space::{SPACES, Space};
use super::{Arena, Context, arena};
use parking_lot::{Mutex, MutexGuard};
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
const SPACE_SHIFT: u32 = 27;

static ON: AtomicBool = AtomicBool::new(false);
/// Locked after the lock of an arena, where both are.
static TRACE: Mutex<Option<Box<Trace>>> = Mutex::new(None);
static THREADS: AtomicU16 = AtomicU16::new(0);

thread_local! {
    static THREAD: u16 = THREADS.fetch_add(1, Relaxed);
    /// Pieces of work in progress on this thread, and the number of the innermost.
    static DEPTH: Cell<u32> = const { Cell::new(0) };
    static INNERMOST: Cell<u32> = const { Cell::new(NONE) };
}
/// No piece of work, or one that is not in the log.
const NONE: u32 = u32::MAX;

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
    /// The peak of a GPU's memory in the step that ends next.
    Peak,
    /// What a kernel took on a GPU: id = the number of its piece of work among the `Begin` events, number = nanoseconds,
    /// extra = the space.
    Took,
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
    /// Of each space.
    live: [usize; SPACES],
    step_peak: [usize; SPACES],
    /// `Begin` events so far.
    spans: u32,
    automatic_steps: bool,
}

/// A block's number in the log, where all spaces are.
fn number(space: Space, id: u32) -> u32 {
    id | (space.index() as u32) << SPACE_SHIFT
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
    fn begin(options: Options) -> io::Result<Trace> {
        let mut file = options.path.map(File::create).transpose()?;
        let mut memory = Vec::new();
        match &mut file {
            Some(file) => file.write_all(MAGIC)?,
            None => memory.extend_from_slice(MAGIC),
        }
        Ok(Trace {
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
            live: [0; SPACES],
            step_peak: [0; SPACES],
            spans: 0,
            automatic_steps: options.automatic_steps,
        })
    }

    /// What is there in a space, and the cap on it.
    fn enter(&mut self, space: Space, present: &Snapshot, limit: Option<usize>) {
        for (id, record) in present {
            let event = self.block(number(space, *id), record);
            self.push(Kind::Present, event);
            self.live[space.index()] += record.bytes;
        }
        self.step_peak[space.index()] = self.live[space.index()];
        if space == Space::HOST || limit.is_some() {
            self.limit(space, limit);
        }
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

    /// False when the event is left out.
    fn push(&mut self, kind: Kind, event: Event) -> bool {
        let wanted = self.count < self.most || matches!(kind, Kind::Step | Kind::Peak | Kind::Present);
        if wanted {
            self.write(kind, event);
        }
        wanted
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

    fn alloc(&mut self, space: Space, id: u32, record: &Record) {
        let (live, peak) = (&mut self.live[space.index()], &mut self.step_peak[space.index()]);
        *live += record.bytes;
        *peak = (*peak).max(*live);
        let event = self.block(number(space, id), record);
        self.push(Kind::Alloc, event);
    }

    fn free(&mut self, space: Space, id: u32, record: &Record) {
        self.live[space.index()] -= record.bytes;
        let event = self.block(number(space, id), record);
        self.push(Kind::Free, event);
    }

    fn limit(&mut self, space: Space, limit: Option<usize>) {
        let bytes = limit.map_or(0, |bytes| bytes as u64);
        self.push(Kind::Limit, Event { id: number(space, 0), number: bytes, ..Event::default() });
    }

    fn refused(&mut self, space: Space, asked: usize, tag: Tag) {
        let event = self.block(number(space, 0), &Record { bytes: asked, tag });
        self.write(Kind::Refused, event);
        self.flush();
    }

    fn step(&mut self) {
        self.step += 1;
        for space in Space::all().skip(1).filter(|space| self.step_peak[space.index()] > 0).collect::<Vec<_>>() {
            let peak = self.step_peak[space.index()] as u64;
            self.push(Kind::Peak, Event { id: number(space, 0), number: peak, ..Event::default() });
        }
        let event = Event { id: self.step, number: self.step_peak[0] as u64, ..Event::default() };
        self.push(Kind::Step, event);
        self.step_peak = self.live;
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
    let mut arenas = all_arenas();
    let mut place = TRACE.lock();
    if place.is_some() {
        return Ok(false);
    }
    let mut trace = Trace::begin(options)?;
    for arena in &mut arenas {
        trace.enter(arena.space, &arena.ledger.snapshot(), arena.cap());
        arena.ledger.tracer = Some(Tracer { space: arena.space });
    }
    *place = Some(Box::new(trace));
    ON.store(true, Relaxed);
    Ok(true)
}

/// All of them locked, so that no event falls between what is there and what comes.
fn all_arenas() -> Vec<MutexGuard<'static, Arena>> {
    Space::all().map(|space| arena(space).lock()).collect()
}

/// Ends the capture; returns the log, empty when it went to a file.
pub fn stop() -> io::Result<Option<Vec<u8>>> {
    all_arenas().iter_mut().for_each(|arena| arena.ledger.tracer = None);
    let Some(mut trace) = TRACE.lock().take() else { return Ok(None) };
    ON.store(false, Relaxed);
    trace.flush();
    match trace.failure {
        Some(error) => Err(error),
        None => Ok(Some(trace.memory)),
    }
}

fn with(change: impl FnOnce(&mut Trace)) {
    if let Some(trace) = &mut *TRACE.lock() {
        change(trace);
    }
}

/// What the ledger of a space tells the capture.
pub struct Tracer {
    space: Space,
}

impl Tracer {
    pub(super) fn alloc(&self, id: u32, record: &Record) {
        with(|trace| trace.alloc(self.space, id, record));
    }

    pub(super) fn free(&self, id: u32, record: &Record) {
        with(|trace| trace.free(self.space, id, record));
    }

    pub(super) fn retag(&self, id: u32, record: &Record, before: Category) {
        with(|trace| {
            let event = Event { extra: before as u32, ..trace.block(number(self.space, id), record) };
            trace.push(Kind::Retag, event);
        });
    }

    pub(super) fn place(&self, id: u32, record: &Record) {
        with(|trace| {
            let event = trace.block(number(self.space, id), record);
            trace.push(Kind::Place, event);
        });
    }

    pub(super) fn limit(&self, limit: Option<usize>) {
        with(|trace| trace.limit(self.space, limit));
    }

    pub(super) fn refused(&self, asked: usize, tag: Tag) {
        with(|trace| trace.refused(self.space, asked, tag));
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
    with(|trace| {
        if !automatic || trace.automatic_steps {
            trace.step();
        }
    });
}

/// The vjp of `node`, an application of `op` in `context`, needs a block of a space.
pub fn need((space, block): (Space, u32), node: u64, context: Context) {
    with(|trace| {
        let op = trace.op(context.op);
        let (module, line) = (context.module.bits(), context.line.bits());
        trace.push(
            Kind::Need,
            Event { id: self::number(space, block), number: node, op, module, line, ..Event::default() },
        );
    });
}

/// The vjp of `node` has run, or never will.
pub fn done(node: u64) {
    if on() {
        with(|trace| {
            trace.push(Kind::Done, Event { number: node, ..Event::default() });
        });
    }
}

/// The number of the innermost piece of work in progress on this thread, while a capture runs.
pub fn innermost() -> Option<u32> {
    Some(INNERMOST.get()).filter(|number| on() && *number != NONE)
}

/// A kernel of a piece of work has run on a GPU.
pub fn took(space: Space, span: u32, nanos: u64) {
    with(|trace| {
        let extra = space.index() as u32;
        trace.push(Kind::Took, Event { id: span, number: nanos, extra, ..Event::default() });
    });
}

/// A piece of work in progress on this thread; ends when dropped.
pub struct Span {
    open: bool,
    /// The innermost one before.
    before: u32,
    flops: f64,
    bytes: f64,
}

impl Span {
    /// The application of an op, unless it is a part of other work.
    pub fn forward(op: &'static str) -> Span {
        if !on() || DEPTH.get() > 0 {
            return Span::closed();
        }
        Span::opened(Work::Forward, None, Context { op, ..Context::get() }, None)
    }

    pub fn of_node(work: Work, node: u64, context: Context) -> Span {
        if on() { Span::opened(work, Some(node), context, None) } else { Span::closed() }
    }

    pub fn sweep() -> Span {
        if !on() {
            return Span::closed();
        }
        Span::opened(Work::Sweep, None, Context { op: "backward", ..Context::get() }, None)
    }

    /// Work that has a name of its own, such as the class of an optimizer.
    pub fn named(work: Work, name: &str) -> Span {
        if on() { Span::opened(work, None, Context::get(), Some(Name::intern(name))) } else { Span::closed() }
    }

    fn closed() -> Span {
        Span { open: false, before: NONE, flops: 0.0, bytes: 0.0 }
    }

    fn opened(work: Work, node: Option<u64>, context: Context, name: Option<Name>) -> Span {
        DEPTH.set(DEPTH.get() + 1);
        let before = INNERMOST.replace(NONE);
        with(|trace| {
            let op = name.map_or_else(|| trace.op(context.op), Name::bits);
            let (module, line) = (context.module.bits(), context.line.bits());
            // Node 0 is a node: a span without one has the number 0, one with node n has n + 1.
            let number = node.map_or(0, |n| n + 1);
            if trace.push(Kind::Begin, Event { code: work as u8, number, op, module, line, ..Event::default() }) {
                trace.spans += 1;
                INNERMOST.set(trace.spans - 1);
            }
        });
        Span { open: true, before, flops: 0.0, bytes: 0.0 }
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
            INNERMOST.set(self.before);
            let event =
                Event { number: self.flops.max(0.0) as u64, extra: (self.bytes as f32).to_bits(), ..Event::default() };
            with(|trace| {
                trace.push(Kind::End, event);
            });
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
        let mut trace = Trace::begin(options).unwrap();
        trace.enter(Space::HOST, &vec![], None);
        let tag = Tag { category: Category::Temporary, op: "test", module: Name::NONE, line: Name::NONE };
        let record = Record { bytes: 64, tag };
        for id in 0..5 {
            trace.alloc(Space::HOST, id, &record);
        }
        trace.step();
        trace.free(Space::HOST, 0, &record);
        trace.flush();
        let wanted = [Kind::Limit, Kind::Alloc, Kind::Alloc, Kind::Step].map(|k| k as u8);
        assert_eq!(kinds(&trace.memory), wanted);
    }
}
