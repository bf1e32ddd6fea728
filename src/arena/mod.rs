//! Who owns bytes: one arena for each memory space, and every block handed out of it with a tag.
//!
//! Regions are reserved from the system in large, huge-page-aligned pieces and kept; blocks are cut from them in O(1).
//! Small blocks come from size classes, large ones from a two-level segregated fit. Every data-sized allocation can fail.
//! A GPU's regions are slabs that its driver makes (`Slabs`); a block in one is a place, not an address.
//! Imports `error` only; knows no shape and no type.

pub mod deltas;
mod free_list;
pub mod ledger;
pub mod names;
mod region;
pub mod space;
pub mod trace;

use crate::error::{Error, Kind, Result, size};
pub use deltas::by_engine;
use deltas::{Delta, Deltas};
use free_list::{FreeList, GRAIN};
use ledger::{Category, Ledger, Record, Recording, Snapshot, Stats, Tag};
use names::Name;
use parking_lot::Mutex;
use region::Region;
use space::{PAPER_SLAB, Place, SPACES, Slabs, Space};
use std::cell::Cell;
use std::ptr::NonNull;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// Who is asking for memory on this thread: set by whoever calls an op, copied into each tag.
#[derive(Clone, Copy, Debug)]
pub struct Context {
    pub op: &'static str,
    pub module: Name,
    pub line: Name,
}

thread_local! {
    static CONTEXT: Cell<Context> = const { Cell::new(Context { op: "", module: Name::NONE, line: Name::NONE }) };
}

thread_local! {
    static PAPER: Cell<bool> = const { Cell::new(false) };
}

/// While on, this thread works with shapes alone: blocks are counted and have no memory, and no kernel runs. Returns what it
/// was.
pub fn set_paper(on: bool) -> bool {
    PAPER.replace(on)
}

pub fn on_paper() -> bool {
    PAPER.get()
}

impl Context {
    pub fn get() -> Context {
        CONTEXT.get()
    }
    /// Sets the context; returns the one before, for restoring.
    pub fn set(self) -> Context {
        CONTEXT.replace(self)
    }
    pub fn tag(self, category: Category) -> Tag {
        Tag { category, op: self.op, module: self.module, line: self.line }
    }
}

/// A run of bytes owned by whoever holds this; freed on drop. Uninitialised; aligned to 64 bytes, in a GPU's space to 256.
pub struct Block {
    /// Of a block of the host; dangling otherwise.
    ptr: NonNull<u8>,
    bytes: usize,
    origin: Origin,
    space: Space,
    record: AtomicU32,
}

#[derive(Clone, Copy)]
enum Origin {
    Small {
        class: u8,
    },
    Large {
        chunk: u32,
    },
    /// In a GPU's memory.
    Slab {
        slab: u32,
        offset: usize,
        chunk: u32,
    },
    /// On the bill, with memory that somebody else made.
    Charge,
    /// Addresses without memory, of a forecast.
    Paper,
    /// Straight from the system allocator (`BACKSWEEP_ARENA=system`), so that outside witnesses see each block.
    System,
}

// SAFETY: a block is plain memory; the arena it goes back to is behind a lock.
unsafe impl Send for Block {}
// SAFETY: as above; shared access hands out raw pointers only.
unsafe impl Sync for Block {}

impl Block {
    pub fn ptr(&self) -> *mut u8 {
        assert!(
            self.space == Space::HOST,
            "bug: an address was asked of a block in the memory of {}",
            self.space.name()
        );
        self.ptr.as_ptr()
    }
    /// Where a block of a GPU's space lies; `None` for one of the host.
    pub fn place(&self) -> Option<Place> {
        match self.origin {
            Origin::Slab { slab, offset, .. } => Some(Place { slab, offset, bytes: self.bytes }),
            Origin::Paper if self.space != Space::HOST => {
                Some(Place { slab: PAPER_SLAB, offset: 0, bytes: self.bytes })
            }
            _ => None,
        }
    }
    pub fn space(&self) -> Space {
        self.space
    }
    fn arena(&self) -> parking_lot::MutexGuard<'static, Arena> {
        arena(self.space).lock()
    }
    /// What the arena handed out: at least what was asked for.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
    pub fn retag(&self, category: Category) -> Category {
        self.arena().ledger.retag(self.id(), category)
    }
    /// Re-tags the block if it has the role `from`, and leaves it alone otherwise.
    pub fn swap_category(&self, from: Category, to: Category) {
        let ledger = &mut self.arena().ledger;
        if ledger.category(self.id()) == from {
            ledger.retag(self.id(), to);
        }
    }
    /// Says which module the block belongs to.
    pub fn belongs_to(&self, module: Name) {
        self.arena().ledger.place(self.id(), module);
    }
    pub fn module(&self) -> Name {
        self.arena().ledger.module(self.id())
    }
    pub fn category(&self) -> Category {
        self.arena().ledger.category(self.id())
    }
    pub fn id(&self) -> u32 {
        self.record.load(Relaxed)
    }
    /// A block without memory that takes this one's place on the bill, until `settle`: for a forecast, which may free it.
    pub fn stand_in(&self) -> Result<(Block, Tag)> {
        let mut arena = self.arena();
        let ptr = arena.paper(self.bytes).ok_or_else(|| arena.system_refused(self.bytes, "forecast", ""))?;
        let tag = arena.ledger.tag(self.id());
        arena.ledger.free(self.id());
        let record = AtomicU32::new(arena.ledger.alloc(self.bytes, tag));
        Ok((Block { ptr, bytes: self.bytes, origin: Origin::Paper, space: self.space, record }, tag))
    }
    /// Puts this block on the bill again, after its stand-in has gone.
    pub fn settle(&self, tag: Tag) {
        self.record.store(self.arena().ledger.alloc(self.bytes, tag), Relaxed);
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        self.arena().free(self.ptr, self.bytes, self.origin, self.id());
    }
}

/// Small blocks up to this many bytes come from size classes: 16 and 32 bytes, then each multiple of the grain.
const SMALL: usize = 4096;
const SMALLEST: usize = 16;
const CLASSES: usize = 2 + SMALL / GRAIN;
const SLAB: usize = 64 * 1024;
const REGION: usize = 64 << 20;

struct Arena {
    space: Space,
    regions: Vec<Region>,
    /// Who makes the slabs of a GPU's space, and how many bytes they have.
    slabs: Option<Slabs>,
    slab_bytes: usize,
    large: FreeList,
    small: [Vec<NonNull<u8>>; CLASSES],
    ledger: Ledger,
    limit: Option<usize>,
    /// As the limit, but kept by dropping what can be made again, as far as that goes.
    budget: Option<usize>,
    keeper: Option<Keeper>,
    /// A budget that is lifted where it cannot be kept: nobody asked for it but the profiler, which tries it out.
    trial: Option<usize>,
    deltas: Deltas,
    system: bool,
}

/// Who keeps a budget. Both are called with no lock of an arena held.
#[derive(Clone, Copy)]
pub struct Keeper {
    /// Frees at least so many bytes of a space if it can; returns how many it freed.
    pub relieve: fn(Space, usize) -> usize,
    /// What to add to the error when it can not.
    pub advice: fn() -> String,
}

// SAFETY: the pointers in `small` are into regions that the arena owns.
unsafe impl Send for Arena {}

static ARENA: LazyLock<Mutex<Arena>> = LazyLock::new(|| Mutex::new(Arena::new(Space::HOST)));

static GPUS: LazyLock<Vec<Mutex<Arena>>> =
    LazyLock::new(|| (1..SPACES).map(|i| Mutex::new(Arena::new(Space::from_index(i)))).collect());

fn arena(space: Space) -> &'static Mutex<Arena> {
    match space.index() {
        0 => &ARENA,
        i => &GPUS[i - 1],
    }
}

/// The first memory of a GPU: its driver says how slabs are made.
pub fn register(space: Space, slabs: Slabs) {
    arena(space).lock().slabs = Some(slabs);
}

fn small_class(bytes: usize) -> usize {
    if bytes <= 2 * SMALLEST { usize::from(bytes > SMALLEST) } else { 1 + bytes.div_ceil(GRAIN) }
}

fn class_bytes(class: usize) -> usize {
    if class < 2 { SMALLEST << class } else { (class - 1) * GRAIN }
}

/// What a request of `bytes` of the host is charged: the arena's rounding, a pure function.
pub fn charge(bytes: usize) -> usize {
    if bytes <= SMALL { class_bytes(small_class(bytes)) } else { bytes.next_multiple_of(GRAIN) }
}

/// As `charge`, in any space.
pub fn charge_in(space: Space, bytes: usize) -> usize {
    if space == Space::HOST { charge(bytes) } else { bytes.max(1).next_multiple_of(space::GRAIN) }
}

/// Asks for `bytes` bytes under the thread's context. Errors when the limit or the system says no; nothing has changed then.
pub fn alloc(bytes: usize, category: Category) -> Result<Block> {
    alloc_in(Space::HOST, bytes, category)
}

/// Puts memory that somebody else is about to make on the bill of a space, until the block is dropped. Errors as `alloc`.
pub fn bill(space: Space, bytes: usize, category: Category) -> Result<Block> {
    let tag = Context::get().tag(category);
    admitted(space, bytes, tag, |arena| Ok(arena.block(NonNull::dangling(), bytes, Origin::Charge, tag)))
}

/// As `alloc`, in the memory of a device.
pub fn alloc_in(space: Space, bytes: usize, category: Category) -> Result<Block> {
    let tag = Context::get().tag(category);
    if bytes > isize::MAX as usize - GRAIN {
        return Err(Error::value(format!("{}: {bytes} bytes cannot be addressed; ask for less", tag.op)));
    }
    admitted(space, charge_in(space, bytes), tag, |arena| arena.alloc(bytes, tag))
}

/// Takes `charged` bytes of a space, once the caps on it allow.
fn admitted(
    space: Space,
    charged: usize,
    tag: Tag,
    mut take: impl FnMut(&mut Arena) -> Result<Block>,
) -> Result<Block> {
    loop {
        let mut home = arena(space).lock();
        let over = home.over_budget(charged);
        let Some(keeper) = home.keeper.filter(|_| over > 0) else {
            home.within_limit(charged, tag)?;
            return take(&mut home);
        };
        drop(home);
        if (keeper.relieve)(space, over) == 0 {
            if arena(space).lock().give_way() {
                continue;
            }
            let advice = (keeper.advice)();
            let mut home = arena(space).lock();
            home.note_refusal(charged, tag);
            return Err(home.over_cap(charged, Cap::Budget, tag.op, &advice));
        }
    }
}

/// Of these blocks of a space, those that are alive in a role that outlives steps.
pub fn lasting(space: Space, blocks: impl Iterator<Item = u32>) -> Vec<u32> {
    let arena = arena(space).lock();
    blocks.filter(|id| arena.ledger.lasts(*id)).collect()
}

pub fn stats() -> Stats {
    stats_of(Space::HOST)
}

pub fn stats_of(space: Space) -> Stats {
    arena(space).lock().ledger.stats().clone()
}

/// Bytes reserved from the system or the driver, free or not.
pub fn reserved_bytes(space: Space) -> usize {
    let arena = arena(space).lock();
    arena.slab_bytes + arena.regions.iter().map(Region::bytes).sum::<usize>()
}

pub fn snapshot(space: Space) -> Snapshot {
    arena(space).lock().ledger.snapshot()
}

pub fn reset_peak(space: Space) {
    arena(space).lock().ledger.reset_peak();
}

/// Puts the peak back to what it was at `before`, or to what is alive now if that is more.
pub fn restore_peak(space: Space, before: &Stats) {
    arena(space).lock().ledger.restore_peak(before);
}

pub fn recording(space: Space) -> bool {
    arena(space).lock().ledger.recording()
}

pub fn record_start() {
    record_start_in(Space::HOST);
}

pub fn record_start_in(space: Space) {
    arena(space).lock().ledger.record_start();
}

pub fn record_stop() -> Option<Recording> {
    record_stop_in(Space::HOST)
}

pub fn record_stop_in(space: Space) -> Option<Recording> {
    arena(space).lock().ledger.record_stop()
}

/// Starts (with an empty list) or stops taking down what comes and goes.
pub fn take_down(space: Space, on: bool) {
    arena(space).lock().deltas.list = on.then(Vec::new);
}

/// What came and went since the last call, moved to the end of `into`.
pub fn drain_deltas(space: Space, into: &mut Vec<Delta>) {
    if let Some(list) = &mut arena(space).lock().deltas.list {
        into.append(list);
    }
}

/// Notes that a block holds a value of the tape.
pub fn note_value(space: Space, id: u32, value: u32) {
    arena(space).lock().deltas.push(|_| Delta::Holds { id, value });
}

pub fn limit(space: Space) -> Option<usize> {
    arena(space).lock().limit
}

/// Sets the hard cap on live bytes; returns the one before. Refused when more than that is alive already.
pub fn set_limit(space: Space, limit: Option<usize>) -> Result<Option<usize>> {
    let mut arena = arena(space).lock();
    let live = arena.ledger.stats().live;
    if let Some(cap) = limit
        && cap < live
    {
        return Err(arena.over_cap(0, Cap::Limit(cap), "memory.limit", ""));
    }
    let before = std::mem::replace(&mut arena.limit, limit);
    arena.note_cap();
    Ok(before)
}

pub fn budget(space: Space) -> Option<usize> {
    arena(space).lock().budget
}

/// Says which budget is lifted, and no error, where it cannot be kept.
pub fn set_trial(space: Space, bytes: Option<usize>) {
    arena(space).lock().trial = bytes;
}

/// True while the budget in force is one on trial.
pub fn on_trial(space: Space) -> bool {
    let arena = arena(space).lock();
    arena.trial.is_some() && arena.trial == arena.budget
}

/// Sets the budget on live bytes and who keeps it; returns the one before. Refused when more is alive and cannot go.
pub fn set_budget(space: Space, budget: Option<usize>, keeper: Keeper) -> Result<Option<usize>> {
    loop {
        let mut home = arena(space).lock();
        let live = home.ledger.stats().live;
        let over = budget.map_or(0, |cap| live.saturating_sub(cap));
        if over == 0 {
            home.keeper = Some(keeper);
            let before = std::mem::replace(&mut home.budget, budget);
            home.note_cap();
            return Ok(before);
        }
        drop(home);
        if (keeper.relieve)(space, over) == 0 {
            let advice = (keeper.advice)();
            let mut home = arena(space).lock();
            let before = std::mem::replace(&mut home.budget, budget);
            let error = home.over_cap(0, Cap::Budget, "memory.budget", &advice);
            home.budget = before;
            return Err(error);
        }
    }
}

/// What an allocation met.
enum Cap {
    Limit(usize),
    Budget,
}

impl Arena {
    fn new(space: Space) -> Arena {
        Arena {
            space,
            regions: vec![],
            slabs: None,
            slab_bytes: 0,
            large: FreeList::default(),
            small: [const { Vec::new() }; CLASSES],
            ledger: Ledger::default(),
            limit: None,
            budget: None,
            keeper: None,
            trial: None,
            deltas: Deltas::default(),
            system: space == Space::HOST && std::env::var("BACKSWEEP_ARENA").is_ok_and(|v| v == "system"),
        }
    }

    fn alloc(&mut self, bytes: usize, tag: Tag) -> Result<Block> {
        let charged = charge_in(self.space, bytes);
        self.fits_a_kernel(charged, tag)?;
        let found = if on_paper() && (charged > SMALL || self.space != Space::HOST) {
            self.paper(charged).map(|ptr| (ptr, Origin::Paper))
        } else if self.space != Space::HOST {
            Some((NonNull::dangling(), self.in_slab(charged, tag)?))
        } else if self.system {
            region::system_alloc(charged).map(|ptr| (ptr, Origin::System))
        } else if charged <= SMALL {
            let class = small_class(charged);
            self.small_block(class).map(|ptr| (ptr, Origin::Small { class: class as u8 }))
        } else {
            self.large_block(charged).map(|(ptr, chunk)| (ptr, Origin::Large { chunk }))
        };
        let Some((ptr, origin)) = found else {
            self.note_refusal(charged, tag);
            return Err(self.system_refused(charged, tag.op, ""));
        };
        Ok(self.block(ptr, charged, origin, tag))
    }

    /// Addresses of a block on paper; a block of a GPU has none in any case.
    fn paper(&self, bytes: usize) -> Option<NonNull<u8>> {
        if self.space == Space::HOST { region::paper_alloc(bytes) } else { Some(NonNull::dangling()) }
    }

    fn within_limit(&mut self, charged: usize, tag: Tag) -> Result<()> {
        let live = self.ledger.stats().live;
        // A forecast says what is needed, whatever is allowed.
        let Some(limit) = self.limit.filter(|limit| live + charged > *limit && !on_paper()) else { return Ok(()) };
        self.note_refusal(charged, tag);
        Err(self.over_cap(charged, Cap::Limit(limit), tag.op, ""))
    }

    fn block(&mut self, ptr: NonNull<u8>, bytes: usize, origin: Origin, tag: Tag) -> Block {
        let record = self.ledger.alloc(bytes, tag);
        self.deltas.push(|engine| Delta::Alloc { id: record, bytes: bytes as u64, engine });
        Block { ptr, bytes, origin, space: self.space, record: AtomicU32::new(record) }
    }

    fn free(&mut self, ptr: NonNull<u8>, bytes: usize, origin: Origin, record: u32) {
        let lasting = self.ledger.lasts(record);
        self.ledger.free(record);
        self.deltas.push(|engine| Delta::Free { id: record, bytes: bytes as u64, engine, lasting });
        match origin {
            Origin::Small { class } => self.small[class as usize].push(ptr),
            Origin::Large { chunk } | Origin::Slab { chunk, .. } => self.large.give(chunk),
            Origin::Paper if self.space == Space::HOST => region::paper_free(ptr, bytes),
            Origin::System => region::system_free(ptr, bytes),
            Origin::Paper | Origin::Charge => {}
        }
    }

    /// Refuses what no binding of a GPU can show.
    fn fits_a_kernel(&self, bytes: usize, tag: Tag) -> Result<()> {
        let Some(slabs) = self.slabs.filter(|slabs| bytes > slabs.largest_block) else { return Ok(()) };
        Err(Error::new(
            Kind::OutOfMemory,
            format!(
                "{}: {} in one tensor; kernels of {} see at most {} at once; split the tensor",
                tag.op,
                size(bytes),
                self.space.name(),
                size(slabs.largest_block)
            ),
        ))
    }

    /// A chunk of a slab; a new slab when none has room.
    fn in_slab(&mut self, bytes: usize, tag: Tag) -> Result<Origin> {
        let slabs = self.slabs.ok_or_else(|| {
            Error::device(format!("{}: there is no {}; bs.devices() lists what there is", tag.op, self.space.name()))
        })?;
        if let Some(taken) = self.large.take(bytes) {
            return Ok(Origin::Slab { slab: taken.region, offset: taken.offset, chunk: taken.id });
        }
        // A sixteenth more, because the fit looks for a size class that is large enough as a whole.
        let need = (bytes + bytes / 16 + GRAIN).next_multiple_of(space::GRAIN);
        let more = self.slab_bytes.clamp(space::FIRST_SLAB, space::LARGEST_STEP).min(slabs.largest_slab);
        let made = (slabs.make)(self.space, need.max(more)).or_else(|_| (slabs.make)(self.space, need));
        let slab = match made {
            Ok(slab) => slab,
            Err(error) => {
                self.note_refusal(bytes, tag);
                // A lost device is no want of memory.
                let refused = error.kind() == Kind::OutOfMemory;
                return Err(if refused { self.system_refused(bytes, tag.op, error.text()) } else { error });
            }
        };
        self.slab_bytes += slab.bytes;
        self.large.grow(slab.number, slab.bytes);
        let taken = self.large.take(bytes).expect("bug: a fresh slab has no room");
        Ok(Origin::Slab { slab: taken.region, offset: taken.offset, chunk: taken.id })
    }

    fn small_block(&mut self, class: usize) -> Option<NonNull<u8>> {
        if let Some(ptr) = self.small[class].pop() {
            return Some(ptr);
        }
        let (slab, _) = self.large_block(SLAB)?;
        let bytes = class_bytes(class);
        for i in (0..SLAB / bytes).rev() {
            // SAFETY: i * bytes < SLAB, the size of the slab just taken.
            self.small[class].push(unsafe { slab.add(i * bytes) });
        }
        self.small[class].pop()
    }

    fn large_block(&mut self, bytes: usize) -> Option<(NonNull<u8>, u32)> {
        let taken = match self.large.take(bytes) {
            Some(taken) => taken,
            None => {
                // A sixteenth more, because the fit looks for a size class that is large enough as a whole.
                let region = Region::reserve(REGION.max(bytes + bytes / 16 + GRAIN))?;
                self.large.grow(self.regions.len() as u32, region.bytes());
                self.regions.push(region);
                self.large.take(bytes)?
            }
        };
        Some((self.regions[taken.region as usize].at(taken.offset), taken.id))
    }

    /// What live bytes may come to, the limit and the budget taken together.
    fn cap(&self) -> Option<usize> {
        self.limit.into_iter().chain(self.budget).min()
    }

    /// Lifts the budget if it is only tried out.
    fn give_way(&mut self) -> bool {
        let on_trial = self.trial.is_some() && self.trial == self.budget;
        if on_trial {
            self.budget = None;
            self.note_cap();
        }
        on_trial
    }

    fn note_cap(&mut self) {
        let cap = self.cap();
        if let Some(tracer) = &self.ledger.tracer {
            tracer.limit(cap);
        }
    }

    fn note_refusal(&mut self, asked: usize, tag: Tag) {
        if let Some(tracer) = &self.ledger.tracer {
            tracer.refused(asked, tag);
        }
    }

    /// By how much an allocation would exceed the budget.
    fn over_budget(&self, charged: usize) -> usize {
        self.budget.filter(|_| !on_paper()).map_or(0, |cap| (self.ledger.stats().live + charged).saturating_sub(cap))
    }

    fn over_cap(&self, asked: usize, cap: Cap, op: &str, advice: &str) -> Error {
        let live = self.ledger.stats().live;
        let (word, most, left) = match cap {
            Cap::Limit(most) => ("limit", most, ""),
            Cap::Budget => ("budget", self.budget.unwrap_or(0), ", with nothing left that could be dropped"),
        };
        let over = (live + asked).saturating_sub(most);
        let there = if self.space == Space::HOST { String::new() } else { format!(" on {}", self.space.name()) };
        let what = match asked {
            0 => {
                format!("{} are live{there} already, {} more than the {word} of {}", size(live), size(over), size(most))
            }
            _ => {
                let (asked, live, most, over) = (size(asked), size(live), size(most), size(over));
                format!("{asked} asked with {live} live{there} would exceed the {word} of {most} by {over}")
            }
        };
        let text = format!(
            "{op}: {what}{left}{}\nhelp: raise the {word} to at least {}; or free {} of the holders above; or use a smaller \
             batch (activations shrink in proportion){advice}",
            self.holders(),
            size(live + asked),
            size(over),
        );
        Error::new(Kind::OutOfMemory, text)
    }

    fn system_refused(&self, asked: usize, op: &str, why: &str) -> Error {
        let who = if self.space == Space::HOST { "the system" } else { self.space.name() };
        let why = if why.is_empty() { String::new() } else { format!(" ({why})") };
        let text = format!(
            "{op}: {who} refused {} with {} live{why}{}\nhelp: close other programs; or set memory.limit to learn the \
             need earlier; or use a smaller batch (activations shrink in proportion)",
            size(asked),
            size(self.ledger.stats().live),
            self.holders(),
        );
        Error::new(Kind::OutOfMemory, text)
    }

    /// The largest holders by category, op, module and line, one a line.
    fn holders(&self) -> String {
        let mut text = String::new();
        for (tag, bytes, blocks) in largest_holders(&self.ledger.snapshot(), 5) {
            text += &format!("\n  {:>10}  {}", size(bytes), describe(&tag, blocks));
        }
        if text.is_empty() { text } else { format!("; the largest holders:{text}") }
    }
}

fn describe(tag: &Tag, blocks: usize) -> String {
    let mut text = tag.category.name().to_string();
    if !tag.op.is_empty() {
        text += &format!(" of {}", tag.op);
    }
    if !tag.module.is_none() {
        text += &format!(" in {}", tag.module.text());
    }
    if !tag.line.is_none() {
        text += &format!(" at {}", tag.line.text());
    }
    if blocks > 1 {
        text += &format!(" ({blocks} blocks)");
    }
    text
}

/// Groups a snapshot by tag, largest first.
pub fn largest_holders(snapshot: &Snapshot, most: usize) -> Vec<(Tag, usize, usize)> {
    let mut groups: std::collections::HashMap<Tag, (usize, usize)> = Default::default();
    for (_, Record { bytes, tag }) in snapshot {
        let group = groups.entry(*tag).or_default();
        *group = (group.0 + bytes, group.1 + 1);
    }
    let mut list: Vec<_> = groups.into_iter().map(|(tag, (bytes, blocks))| (tag, bytes, blocks)).collect();
    list.sort_by_key(|(tag, bytes, _)| (std::cmp::Reverse(*bytes), tag.category, tag.op, tag.module, tag.line));
    list.truncate(most);
    list
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_do_not_overlap_and_are_writable_to_their_end() {
        let sizes = [0, 1, 16, 17, 4096, 4097, 100_000, 70 << 20];
        let blocks: Vec<Block> = sizes.iter().map(|&n| alloc(n, Category::Temporary).unwrap()).collect();
        for (i, block) in blocks.iter().enumerate() {
            assert!(block.bytes() >= sizes[i] && block.bytes() == charge(sizes[i]));
            // SAFETY: the block owns `bytes()` bytes.
            unsafe { block.ptr().write_bytes(i as u8, block.bytes()) };
        }
        for (i, block) in blocks.iter().enumerate() {
            // SAFETY: written just above.
            let bytes = unsafe { std::slice::from_raw_parts(block.ptr(), block.bytes()) };
            assert!(bytes.iter().all(|&b| b == i as u8));
        }
    }
}
