//! The thread pool of the CPU kernels: a few long-lived workers that share the chunks of one job at a time.
//!
//! The thread that brings a job works on it too, and a worker that arrives late is not waited for: a job ends when its
//! chunks are done. Each thread claims the chunks of a share of its own first, the same in jobs of the same size, so that
//! it finds in its cache what it wrote or packed there before; then it helps the others. A waiting worker spins for a
//! moment and then parks, so that kernels in a row are handed over in well under a microsecond and an idle process uses
//! no processor. A job brought while the pool is busy (from another thread, or from inside a chunk) runs serially on its
//! own thread. A kernel whose result is no longer wanted (Ctrl-C) ends between two chunks, by unwinding.
//!
//! Leaves out: priorities, nested parallelism, pinning. Knows nothing of Python, tensors or memory.

use crate::error::{Error, Result};
use std::any::Any;
use std::cell::{Cell, UnsafeCell};
use std::hint::spin_loop;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release, SeqCst};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// How long a worker looks for the next job before it parks. Waking a parked worker costs about 5 µs.
const SPIN: Duration = Duration::from_micros(40);
/// A job that takes less than this on one thread is not cut.
const SERIAL_NANOS: f64 = 20_000.0;
/// The least work worth claiming: far above the ~50 ns of a claim.
const CHUNK_NANOS: f64 = 8_000.0;
/// More chunks than this do not balance better.
const MOST_CHUNKS: f64 = 256.0;

type Work<'a> = &'a (dyn Fn(usize, usize) + Sync);

#[cfg(test)]
thread_local! {
    /// As many threads as a test counts on, whatever others set meanwhile; 0 outside of one that does.
    static COUNTED_ON: Cell<usize> = const { Cell::new(0) };
}

/// The number of threads that share a job, the calling one included.
pub fn threads() -> usize {
    #[cfg(test)]
    if let count @ 1.. = COUNTED_ON.get() {
        return count;
    }
    match THREADS.load(Relaxed) {
        0 => {
            let wanted = std::env::var("BACKSWEEP_THREADS").ok().and_then(|text| text.trim().parse().ok());
            let found = wanted.unwrap_or_else(|| thread::available_parallelism().map_or(1, |count| count.get()));
            // A set_threads that came first wins.
            match THREADS.compare_exchange(0, found.max(1), Relaxed, Relaxed) {
                Ok(_) => found.max(1),
                Err(set) => set,
            }
        }
        count => count,
    }
}

/// Runs `work` with so many threads to a job, for this thread alone.
#[cfg(test)]
pub fn with_threads<R>(count: usize, work: impl FnOnce() -> R) -> R {
    struct Before(usize);
    impl Drop for Before {
        fn drop(&mut self) {
            COUNTED_ON.set(self.0);
        }
    }
    let _before = Before(COUNTED_ON.replace(count.max(1)));
    work()
}

/// Sets the number of threads from the next job on. Results do not depend on it.
pub fn set_threads(count: usize) {
    THREADS.store(count.max(1), Relaxed);
}

/// Calls `work(chunk)` once for each chunk in `0..chunks`, on several threads if that is possible now.
/// A panic in `work` is carried to the caller after every thread has left the job.
pub fn run(chunks: usize, work: &(dyn Fn(usize) + Sync)) {
    run_with_slots(chunks, usize::MAX, &|chunk, _| work(chunk));
}

/// As [`run`], on at most `slots` threads, and calls `work(chunk, slot)` with `slot < slots`. No two threads have the
/// same slot at the same time, so a slot can stand for scratch memory.
pub fn run_with_slots(chunks: usize, slots: usize, work: Work) {
    if chunks > 1 && slots > 1 {
        let threads = threads();
        if threads > 1
            && let Some(mut held) = Held::try_take()
        {
            return held.workers(threads).run(chunks, slots, work);
        }
    }
    for chunk in 0..chunks {
        work(chunk, 0);
        look();
    }
}

/// Looks whether work is still wanted; the error says why it is not.
pub type Look = fn() -> Result<()>;

static LOOK: OnceLock<Look> = OnceLock::new();
/// How often is looked.
const LOOK_EVERY: Duration = Duration::from_millis(20);

thread_local! {
    /// Whether this thread looks while it waits for a kernel.
    static WATCHED: Cell<bool> = const { Cell::new(false) };
    static STOPPABLE: Cell<Stoppable> = const { Cell::new(Stoppable::No) };
}

/// Whether the kernel that runs on a thread can be given up.
#[derive(Clone, Copy)]
enum Stoppable {
    No,
    Yes,
    /// And when it was last looked, or its first chunk was done: a short kernel need not ask for the time.
    LookedAt(Instant),
}

/// The error behind an unwinding that ends a kernel.
struct GivenUp(Error);

/// Says how to look.
pub fn set_look(look: Look) {
    let _ = LOOK.set(look);
}

/// Lets kernels that `work` runs by `stoppable` be given up when they are no longer wanted. The caller holds no lock that
/// looking may wait for.
pub fn watched<T>(work: impl FnOnce() -> T) -> T {
    struct Restore(bool);
    impl Drop for Restore {
        fn drop(&mut self) {
            WATCHED.set(self.0);
        }
    }
    let _restore = Restore(WATCHED.replace(true));
    work()
}

/// Runs a kernel that may be given up half-way, because nobody will see what it has written.
pub fn stoppable<T>(kernel: impl FnOnce() -> Result<T>) -> Result<T> {
    if !WATCHED.get() || !matches!(STOPPABLE.get(), Stoppable::No) {
        return kernel();
    }
    STOPPABLE.set(Stoppable::Yes);
    let result = catch_unwind(AssertUnwindSafe(kernel));
    STOPPABLE.set(Stoppable::No);
    result.unwrap_or_else(|payload| match payload.downcast::<GivenUp>() {
        Ok(given_up) => Err(given_up.0),
        Err(panic) => resume_unwind(panic),
    })
}

/// Between two chunks: ends the kernel when it is no longer wanted.
fn look() {
    match STOPPABLE.get() {
        Stoppable::No => return,
        Stoppable::LookedAt(last) if last.elapsed() < LOOK_EVERY => return,
        Stoppable::Yes => return STOPPABLE.set(Stoppable::LookedAt(Instant::now())),
        Stoppable::LookedAt(_) => STOPPABLE.set(Stoppable::LookedAt(Instant::now())),
    }
    if let Some(Err(error)) = LOOK.get().map(|look| look()) {
        resume_unwind(Box::new(GivenUp(error)));
    }
}

/// Rows to put in a chunk, when a row takes about `nanos_per_row`. A function of its arguments alone, so a partition
/// made with it does not depend on the number of threads. At least 1; `rows` when cutting does not pay.
pub fn chunk_rows(rows: usize, nanos_per_row: f64) -> usize {
    let total = rows as f64 * nanos_per_row;
    if total < SERIAL_NANOS {
        return rows.max(1);
    }
    let nanos = CHUNK_NANOS.max(total / MOST_CHUNKS);
    ((nanos / nanos_per_row).ceil() as usize).clamp(1, rows)
}

static THREADS: AtomicUsize = AtomicUsize::new(0);

/// The process whose thread holds the pool, 0 when it is free. A process id rather than a flag: a child forked while
/// a thread of its parent held the pool must see that nobody will ever release it.
static HOLDER: AtomicU32 = AtomicU32::new(0);
static POOL: Pool = Pool(UnsafeCell::new(None));

struct Pool(UnsafeCell<Option<Workers>>);
// SAFETY: the cell is touched only through `Held`, of which there is at most one in a process.
unsafe impl Sync for Pool {}

/// Proof that this thread alone holds the pool.
struct Held {
    process: u32,
}

impl Held {
    fn try_take() -> Option<Held> {
        let process = std::process::id();
        match HOLDER.compare_exchange(0, process, Acquire, Relaxed) {
            Ok(_) => Some(Held { process }),
            Err(holder) if holder == process => None,
            Err(stale) => {
                HOLDER.compare_exchange(stale, process, Acquire, Relaxed).ok()?;
                // SAFETY: HOLDER now names this process and this thread set it. The old content is overwritten, not
                // dropped: it may be half written, and its threads exist in the parent only.
                unsafe { POOL.0.get().write(None) };
                Some(Held { process })
            }
        }
    }

    /// The workers of this process, rebuilt after a fork or when the number of threads has changed.
    fn workers(&mut self, threads: usize) -> &Workers {
        // SAFETY: `self` is the only `Held`, and the reference does not outlive its borrow.
        let pool = unsafe { &mut *POOL.0.get() };
        if pool.as_ref().is_some_and(|workers| workers.process != self.process) {
            // Threads are not inherited by a fork: there is nothing to stop or to join.
            std::mem::forget(pool.take());
        }
        if pool.as_ref().is_some_and(|workers| workers.threads != threads) {
            *pool = None;
        }
        pool.get_or_insert_with(|| Workers::start(self.process, threads))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        HOLDER.store(0, Release);
    }
}

struct Workers {
    process: u32,
    threads: usize,
    shared: Arc<Shared>,
    handles: Vec<JoinHandle<()>>,
}

impl Workers {
    fn start(process: u32, threads: usize) -> Workers {
        let shared = Arc::new(Shared {
            state: Padded(AtomicU64::new(0)),
            claimed: (0..threads).map(|_| Padded(AtomicU64::new(0))).collect(),
            stop: AtomicBool::new(false),
            job: UnsafeCell::new(None),
            panic: Mutex::new(None),
            parked: (1..threads).map(|_| Padded(AtomicBool::new(false))).collect(),
        });
        // A thread that cannot be started is done without: the others claim its chunks.
        let handles = (1..threads)
            .map_while(|slot| {
                let shared = shared.clone();
                let name = format!("backsweep-{slot}");
                thread::Builder::new().name(name).spawn(move || shared.serve(slot)).ok()
            })
            .collect();
        Workers { process, threads, shared, handles }
    }

    fn run(&self, chunks: usize, slots: usize, work: Work) {
        let shared = &*self.shared;
        // SAFETY: only the lifetime is widened. The job is closed and every thread has left it before `run` returns.
        let work = unsafe { std::mem::transmute::<Work<'_>, Work<'static>>(work) };
        let generation = (shared.state.0.load(Relaxed) >> GENERATION_SHIFT) + 1;
        let job = Job { chunks, slots, generation, work };
        // SAFETY: the last job was closed with nobody in it, and a worker reads the cell only from inside an open job.
        unsafe { *shared.job.get() = Some(job) };
        // SeqCst, here and where a worker parks: either it sees the job or this thread sees that it is parked.
        shared.state.0.store(generation << GENERATION_SHIFT | OPEN, SeqCst);

        let useful = (chunks - 1).min(slots - 1);
        for (parked, handle) in shared.parked.iter().zip(&self.handles).take(useful) {
            if parked.0.swap(false, SeqCst) {
                handle.thread().unpark();
            }
        }
        shared.work_on(job, 0);

        let mut state = shared.state.0.fetch_and(!OPEN, AcqRel) & !OPEN;
        let mut waited = 0;
        while state & INSIDE != 0 {
            // The last chunks of the others are nearly done, unless their thread lost its processor.
            if waited < 20_000 {
                spin_loop()
            } else {
                thread::yield_now()
            }
            waited += 1;
            state = shared.state.0.load(Acquire);
        }
        let panic = shared.panic.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).take();
        if let Some(payload) = panic {
            resume_unwind(payload);
        }
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.shared.stop.store(true, SeqCst);
        for handle in self.handles.drain(..) {
            handle.thread().unpark();
            // A worker catches the panics of its job, so there is nothing to carry on from here.
            let _ = handle.join();
        }
    }
}

#[derive(Clone, Copy)]
struct Job {
    chunks: usize,
    slots: usize,
    generation: u64,
    work: Work<'static>,
}

impl Job {
    /// The chunks that a thread claims first.
    fn share(&self, slot: usize, shares: usize) -> std::ops::Range<usize> {
        slot * self.chunks / shares..(slot + 1) * self.chunks / shares
    }
}

/// `state` is the generation of the job (from bit 32), whether it is open, and how many workers are inside.
const GENERATION_SHIFT: u32 = 32;
const OPEN: u64 = 1 << 31;
const INSIDE: u64 = OPEN - 1;
/// The part of a count of claimed chunks that counts.
const CLAIMED: u64 = (1 << GENERATION_SHIFT) - 1;

/// On two cache lines of its own: neighbours are fetched in pairs.
#[repr(align(128))]
struct Padded<T>(T);

struct Shared {
    state: Padded<AtomicU64>,
    /// How many chunks of each share are claimed, below the generation of the job that this is about: a new job need not
    /// touch the cache lines of all threads.
    claimed: Vec<Padded<AtomicU64>>,
    stop: AtomicBool,
    job: UnsafeCell<Option<Job>>,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    parked: Vec<Padded<AtomicBool>>,
}
// SAFETY: `job` is written by the holder of the pool while no job is open and nobody is inside, and read by workers
// that have entered the open job; entering and leaving `state` order the two. The rest is Sync by itself.
unsafe impl Sync for Shared {}
// SAFETY: a job is a reference to a Sync closure and two numbers.
unsafe impl Send for Shared {}

impl Shared {
    /// The life of a worker.
    fn serve(&self, slot: usize) {
        let mut seen = 0;
        while let Some(generation) = self.wait_and_enter(seen, slot) {
            seen = generation;
            // SAFETY: this thread is inside the open job, so the cell is not written until it leaves.
            if let Some(job) = unsafe { *self.job.get() }
                && slot < job.slots
            {
                self.work_on(job, slot);
            }
            self.state.0.fetch_sub(1, Release);
        }
    }

    /// Enters the next open job and returns its generation; none when the pool stops.
    fn wait_and_enter(&self, seen: u64, slot: usize) -> Option<u64> {
        let parked = &self.parked[slot - 1].0;
        let mut since = Instant::now();
        loop {
            for _ in 0..64 {
                if let Some(generation) = self.enter(seen) {
                    return Some(generation);
                }
                spin_loop();
            }
            if self.stop.load(SeqCst) {
                return None;
            }
            if since.elapsed() < SPIN {
                continue;
            }
            parked.store(true, SeqCst);
            if !self.has_news(seen) && !self.stop.load(SeqCst) {
                thread::park();
            }
            parked.store(false, SeqCst);
            since = Instant::now();
        }
    }

    fn has_news(&self, seen: u64) -> bool {
        let state = self.state.0.load(SeqCst);
        state & OPEN != 0 && state >> GENERATION_SHIFT != seen
    }

    fn enter(&self, seen: u64) -> Option<u64> {
        let mut state = self.state.0.load(Relaxed);
        while state & OPEN != 0 && state >> GENERATION_SHIFT != seen {
            match self.state.0.compare_exchange_weak(state, state + 1, AcqRel, Relaxed) {
                Ok(_) => return Some(state >> GENERATION_SHIFT),
                Err(now) => state = now,
            }
        }
        None
    }

    /// Works on the own share, then on what is left of the others. A panic ends the job for everyone, and the first one
    /// is kept.
    fn work_on(&self, job: Job, slot: usize) {
        let shares = self.claimed.len().min(job.slots);
        let all = || {
            for share in (slot..shares).chain(0..slot) {
                let chunks = job.share(share, shares);
                while let Some(claimed) = self.claim(share, job.generation, chunks.len()) {
                    (job.work)(chunks.start + claimed, slot);
                    look();
                }
            }
        };
        if let Err(payload) = catch_unwind(AssertUnwindSafe(all)) {
            for claimed in &self.claimed {
                claimed.0.store((job.generation << GENERATION_SHIFT) + CLAIMED, Relaxed);
            }
            self.panic.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).get_or_insert(payload);
        }
    }

    /// The next of `count` chunks of a share.
    fn claim(&self, share: usize, generation: u64, count: usize) -> Option<usize> {
        let claimed = &self.claimed[share].0;
        let mut found = claimed.load(Relaxed);
        loop {
            // A generation is compared by its low bits, as they are stored.
            let current = (found ^ generation << GENERATION_SHIFT) >> GENERATION_SHIFT == 0;
            let next = if current { found & CLAIMED } else { 0 };
            if next >= count as u64 {
                return None;
            }
            let after = generation << GENERATION_SHIFT | (next + 1);
            match claimed.compare_exchange_weak(found, after, Relaxed, Relaxed) {
                Ok(_) => return Some(next as usize),
                Err(now) => found = now,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The pool is of the whole process: tests of it take turns.
    static TURN: Mutex<()> = Mutex::new(());

    fn with_threads(count: usize, test: impl FnOnce()) {
        let _turn = TURN.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        super::with_threads(count, test);
    }

    #[test]
    fn a_kernel_that_is_not_wanted_ends_early_and_the_next_one_runs() {
        // Of this test alone: others run beside it.
        thread_local!(static UNWANTED: Cell<bool> = const { Cell::new(false) });
        set_look(|| if UNWANTED.get() { Err(Error::internal("unwanted")) } else { Ok(()) });
        UNWANTED.set(true);
        for threads in [1, 4] {
            with_threads(threads, || {
                let done = AtomicUsize::new(0);
                let kernel = || {
                    run(1000, &|_| {
                        thread::sleep(Duration::from_millis(1));
                        done.fetch_add(1, Relaxed);
                    });
                    Ok(())
                };
                assert!(watched(|| stoppable(kernel)).is_err());
                assert!(done.load(Relaxed) < 900);
                // Unwatched, or not to be stopped, it comes to its end.
                let count = AtomicUsize::new(0);
                let short = || {
                    run(50, &|_| {
                        thread::sleep(Duration::from_millis(1));
                        count.fetch_add(1, Relaxed);
                    });
                    Ok(())
                };
                short().and_then(|()| watched(short)).and_then(|()| stoppable(short)).unwrap();
                assert_eq!(count.load(Relaxed), 150);
            });
        }
    }

    fn each_chunk_runs_once(chunks: usize) {
        let counts: Vec<AtomicUsize> = (0..chunks).map(|_| AtomicUsize::new(0)).collect();
        run(chunks, &|chunk| {
            counts[chunk].fetch_add(1, Relaxed);
        });
        assert!(counts.iter().all(|count| count.load(Relaxed) == 1));
    }

    #[test]
    fn every_chunk_runs_once_for_any_number_of_threads() {
        for count in [1, 2, 3, 7] {
            with_threads(count, || [0, 1, 2, 3, 10, 1000].into_iter().for_each(each_chunk_runs_once));
        }
    }

    #[test]
    fn many_tiny_jobs_in_a_row_lose_nothing() {
        with_threads(3, || {
            let sum = AtomicUsize::new(0);
            for _ in 0..20_000 {
                run(4, &|chunk| {
                    sum.fetch_add(chunk, Relaxed);
                });
            }
            assert_eq!(sum.load(Relaxed), 20_000 * 6);
        });
    }

    #[test]
    fn workers_that_have_parked_take_part_again() {
        with_threads(2, || {
            for _ in 0..20 {
                thread::sleep(Duration::from_millis(1));
                let both = std::sync::Barrier::new(2);
                run(2, &|_| {
                    both.wait();
                });
            }
        });
    }

    #[test]
    fn a_nested_job_runs_serially_and_completes() {
        with_threads(3, || {
            let sum = AtomicUsize::new(0);
            run(8, &|_| {
                let here = thread::current().id();
                run(5, &|chunk| {
                    assert_eq!(thread::current().id(), here);
                    sum.fetch_add(chunk, Relaxed);
                });
            });
            assert_eq!(sum.load(Relaxed), 8 * 10);
        });
    }

    #[test]
    fn several_threads_bring_jobs_at_once() {
        with_threads(3, || {
            thread::scope(|scope| {
                for _ in 0..4 {
                    scope.spawn(|| (0..500).for_each(|_| each_chunk_runs_once(17)));
                }
            });
        });
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_lives_on() {
        with_threads(3, || {
            for guilty in [0, 5, 63] {
                let caught = catch_unwind(|| run(64, &|chunk| assert!(chunk != guilty, "chunk {chunk}")));
                let payload = caught.expect_err("the panic was lost");
                assert_eq!(payload.downcast_ref::<String>(), Some(&format!("chunk {guilty}")));
                each_chunk_runs_once(100);
            }
        });
    }

    #[test]
    fn a_slot_is_held_by_one_thread_at_a_time() {
        with_threads(4, || {
            let busy: Vec<AtomicBool> = (0..2).map(|_| AtomicBool::new(false)).collect();
            run_with_slots(2000, 2, &|_, slot| {
                assert!(!busy[slot].swap(true, SeqCst));
                (0..100).for_each(|_| spin_loop());
                assert!(busy[slot].swap(false, SeqCst));
            });
        });
    }

    #[test]
    #[cfg(unix)]
    fn a_forked_child_builds_its_own_workers() {
        unsafe extern "C" {
            fn fork() -> i32;
            fn waitpid(child: i32, status: *mut i32, options: i32) -> i32;
            fn _exit(status: i32) -> !;
        }
        with_threads(3, || {
            each_chunk_runs_once(100);
            // SAFETY: the child runs one job and leaves by _exit, without returning into the test harness.
            unsafe {
                let child = fork();
                if child == 0 {
                    let both = std::sync::Barrier::new(2);
                    run(2, &|_| {
                        both.wait();
                    });
                    _exit(7);
                }
                let mut status = 0;
                assert_eq!(waitpid(child, &mut status, 0), child);
                assert_eq!(status >> 8 & 0xff, 7, "the child did not finish");
            }
            each_chunk_runs_once(100);
        });
    }

    #[test]
    fn chunks_cover_the_rows_and_small_jobs_are_not_cut() {
        assert_eq!(chunk_rows(100, 10.0), 100);
        assert_eq!(chunk_rows(0, 10.0), 1);
        for (rows, nanos) in [(1_000_000, 1.0), (1000, 1e6), (7, 1e9), (50_000, 33.0)] {
            let rows_of_chunk = chunk_rows(rows, nanos);
            assert!((1..=rows).contains(&rows_of_chunk));
            assert!(rows.div_ceil(rows_of_chunk) <= 256);
        }
    }
}
