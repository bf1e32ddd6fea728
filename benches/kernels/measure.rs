//! Wall time whose throughput is told as a fraction of the machine's best.

use backsweep::device::cpu::{pool, roofline};
use criterion::measurement::{Measurement, ValueFormatter, WallTime};
use criterion::{BenchmarkId, Criterion, Throughput};
use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;

pub type Bench = Criterion<Roofline>;

/// What a row does at the least: arithmetic, or bytes that must be read and written.
#[derive(Clone, Copy)]
pub enum Work {
    Flops(usize),
    Bytes(usize),
}

pub struct Roofline {
    time: WallTime,
    rates: Rates,
}

#[derive(Default)]
struct Rates {
    /// Operations a second by threads.
    flops: Mutex<HashMap<usize, f64>>,
    /// Bytes a second by threads and the bytes gone through.
    triads: Mutex<HashMap<(usize, usize), f64>>,
}

impl Roofline {
    pub fn criterion() -> Bench {
        let measurement = Roofline { time: WallTime, rates: Rates::default() };
        Criterion::default()
            .with_measurement(measurement)
            .sample_size(20)
            .nresamples(2_000)
            .warm_up_time(Duration::from_millis(100))
            .measurement_time(Duration::from_millis(400))
            .without_plots()
            .configure_from_args()
    }
}

/// One row on one thread, and one on all of the pool's.
pub fn row(criterion: &mut Bench, family: &str, name: &str, work: Work, mut run: impl FnMut()) {
    let all = pool::threads();
    let mut group = criterion.benchmark_group(family);
    group.throughput(match work {
        Work::Flops(flops) => Throughput::Elements(flops as u64),
        Work::Bytes(bytes) => Throughput::Bytes(bytes as u64),
    });
    for threads in if all == 1 { vec![1] } else { vec![1, all] } {
        pool::set_threads(threads);
        group.bench_function(BenchmarkId::new(name, format!("{threads} threads")), |bencher| bencher.iter(&mut run));
    }
    pool::set_threads(all);
    group.finish();
}

/// Numbers between -1 and 1 that follow no pattern.
pub fn noise(len: usize) -> Vec<f32> {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..len).map(|_| next()).collect()
}

impl Rates {
    /// Operations a second at best.
    fn flops(&self) -> f64 {
        let mut known = self.flops.lock().expect("no row panics while it holds the rates");
        *known.entry(pool::threads()).or_insert_with(roofline::fma_flops)
    }

    /// Bytes a second at best, when so many are gone through again and again.
    fn triad(&self, bytes: usize) -> f64 {
        let mut known = self.triads.lock().expect("no row panics while it holds the rates");
        *known.entry((pool::threads(), bytes)).or_insert_with(|| {
            let len = bytes / 12;
            let [mut a, mut b, mut c] = [0; 3].map(|_| vec![0.0; len]);
            roofline::triad_bytes(&mut a, &mut b, &mut c)
        })
    }
}

impl ValueFormatter for Rates {
    fn format_throughput(&self, throughput: &Throughput, nanos: f64) -> String {
        let (amount, best, unit) = match *throughput {
            Throughput::Elements(flops) => (flops as f64, self.flops(), "GFLOP/s"),
            Throughput::Bytes(bytes) => (bytes as f64, self.triad(bytes as usize), "GB/s"),
            _ => unreachable!("bug: a row that counts neither operations nor bytes"),
        };
        let rate = amount / nanos;
        format!("{:.2} of {:.0} {unit}", rate * 1e9 / best, best / 1e9)
    }

    fn scale_values(&self, typical: f64, values: &mut [f64]) -> &'static str {
        WallTime.formatter().scale_values(typical, values)
    }

    fn scale_throughputs(&self, typical: f64, throughput: &Throughput, values: &mut [f64]) -> &'static str {
        WallTime.formatter().scale_throughputs(typical, throughput, values)
    }

    fn scale_for_machines(&self, values: &mut [f64]) -> &'static str {
        WallTime.formatter().scale_for_machines(values)
    }
}

impl Measurement for Roofline {
    type Intermediate = <WallTime as Measurement>::Intermediate;
    type Value = Duration;

    fn start(&self) -> Self::Intermediate {
        self.time.start()
    }

    fn end(&self, start: Self::Intermediate) -> Duration {
        self.time.end(start)
    }

    fn add(&self, a: &Duration, b: &Duration) -> Duration {
        self.time.add(a, b)
    }

    fn zero(&self) -> Duration {
        self.time.zero()
    }

    fn to_f64(&self, value: &Duration) -> f64 {
        self.time.to_f64(value)
    }

    fn formatter(&self) -> &dyn ValueFormatter {
        &self.rates
    }
}
