//! Counter-based random numbers: Philox 4×32-10 (Salmon et al. 2011, Random123). A draw is a function of key and counter,
//! so replay, threads and devices cannot change it, and the first n draws do not depend on how many are asked for.

use super::normal::{self, high};
use super::pool;
use super::simd::{Kernel, Lanes, dispatch_f64};

/// Four words from a 64-bit counter and a 64-bit key.
#[inline(always)]
pub fn philox4x32(counter: u64, key: u64) -> [u32; 4] {
    philox([counter as u32, (counter >> 32) as u32, 0, 0], [key as u32, (key >> 32) as u32])
}

#[inline(always)]
fn philox(mut c: [u32; 4], mut k: [u32; 2]) -> [u32; 4] {
    let (a, b) = (0xD251_1F53, 0xCD9E_8D57);
    for _ in 0..10 {
        c = [high(c[2], b) ^ c[1] ^ k[0], c[2].wrapping_mul(b), high(c[0], a) ^ c[3] ^ k[1], c[0].wrapping_mul(a)];
        k = [k[0].wrapping_add(0x9E37_79B9), k[1].wrapping_add(0xBB67_AE85)];
    }
    c
}

/// A stream of draws: element i of draw `offset` is a function of (key, offset + i).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stream {
    pub key: u64,
    pub offset: u64,
}

impl Stream {
    /// The 32 random bits of element `i`.
    pub fn bits(self, i: u64) -> u32 {
        let at = self.offset + i;
        philox4x32(at / 4, self.key)[(at % 4) as usize]
    }

    /// Of the whole numbers below `span`, the one of elements `i` and i + 1: the high half of a 128-bit product, even to 2⁻⁶⁴
    /// (Lemire 2019).
    pub fn below(self, span: u64, i: u64) -> u64 {
        let bits = (u64::from(self.bits(i)) << 32) | u64::from(self.bits(i + 1));
        ((u128::from(bits) * u128::from(span)) >> 64) as u64
    }

    /// In [0, 1), 24 bits.
    pub fn uniform(self, i: u64) -> f32 {
        unit(self.bits(i))
    }
}

fn unit(bits: u32) -> f32 {
    (bits >> 8) as f32 * (1.0 / 16_777_216.0)
}

/// y [rows, samples] = places drawn in proportion to whole weights, by their running totals `ends` [rows, n].
pub fn choose(ends: &[i64], n: usize, samples: usize, y: &mut [i64], stream: Stream) {
    for (i, y) in y.iter_mut().enumerate() {
        let ends = &ends[i / samples * n..][..n];
        let drawn = stream.below(ends[n - 1] as u64, 2 * i as u64) as i64;
        *y = ends.partition_point(|end| *end <= drawn) as i64;
    }
}

const CHUNK: usize = 16 * 1024;

/// out[i] = f(bits of element i), in parallel.
fn fill<T: Send + Sync + Copy>(out: &mut [T], stream: Stream, f: impl Fn(u32) -> T + Sync) {
    let chunks: Vec<&mut [T]> = out.chunks_mut(CHUNK).collect();
    let chunks: Vec<parking_lot::Mutex<&mut [T]>> = chunks.into_iter().map(parking_lot::Mutex::new).collect();
    pool::run(chunks.len(), &|c| {
        let mut chunk = chunks[c].lock();
        let start = stream.offset + (c * CHUNK) as u64;
        let mut words = philox4x32(start / 4, stream.key);
        for (i, value) in chunk.iter_mut().enumerate() {
            let at = start + i as u64;
            if i > 0 && at.is_multiple_of(4) {
                words = philox4x32(at / 4, stream.key);
            }
            *value = f(words[(at % 4) as usize]);
        }
    });
}

/// Uniform numbers in [0, 1).
pub fn uniform(out: &mut [f32], stream: Stream) {
    fill(out, stream, unit);
}

/// 1 with probability `p`, else 0.
pub fn keep(out: &mut [f32], stream: Stream, p: f64, scale: f32) {
    fill(out, stream, |bits| if f64::from(unit(bits)) < p { scale } else { 0.0 });
}

/// Standard normal numbers, two words each.
pub fn normal(out: &mut [f32], stream: Stream) {
    let chunks: Vec<parking_lot::Mutex<&mut [f32]>> = out.chunks_mut(CHUNK).map(parking_lot::Mutex::new).collect();
    pool::run(chunks.len(), &|c| {
        let start = stream.offset.wrapping_add((c * CHUNK) as u64);
        dispatch_f64(Normal { out: &mut chunks[c].lock(), stream: Stream { offset: start, ..stream } });
    });
}

struct Normal<'a> {
    out: &'a mut [f32],
    stream: Stream,
}

impl Kernel<f64> for Normal<'_> {
    type Out = ();

    #[inline(always)]
    fn run<L: Lanes<Elem = f64>>(self) {
        let Stream { key, offset } = self.stream;
        for (i, out) in self.out.chunks_mut(LANES).enumerate() {
            let mut words = [[0; LANES]; 2];
            for lane in 0..LANES {
                let drawn = philox4x32(offset.wrapping_add((i * LANES + lane) as u64), key);
                (words[0][lane], words[1][lane]) = (drawn[0], drawn[1]);
            }
            let mut numbers = [0.0; LANES];
            for lane in 0..LANES {
                numbers[lane] = normal::normal([words[0][lane], words[1][lane]]);
            }
            out.copy_from_slice(&numbers[..out.len()]);
        }
    }
}

/// Numbers that are made side by side.
const LANES: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_published_answers_come_out() {
        let (ones, pi) = (u32::MAX, [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344]);
        assert_eq!(philox([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(philox([ones; 4], [ones; 2]), [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
        assert_eq!(philox(pi, [0xa409_3822, 0x299f_31d0]), [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]);
    }

    #[test]
    fn the_first_draws_do_not_depend_on_how_many_are_asked_for() {
        let stream = Stream { key: 7, offset: 3 };
        let (mut few, mut many) = ([0.0; 15], vec![0.0; 40_000]);
        uniform(&mut few, stream);
        uniform(&mut many, stream);
        assert_eq!(few, many[..15]);
        assert_eq!(many[20_000], stream.uniform(20_000));
    }
}
