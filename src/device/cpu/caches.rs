//! How large the caches of this processor are.

use std::sync::LazyLock;

/// Of all caches of the processors we know, but for Apple's, whose lines are two of these.
pub const LINE_BYTES: usize = 64;

/// What is assumed where the processor does not say.
const USUAL_SECOND_BYTES: usize = 1 << 20;

/// Bytes of the second cache of one core.
pub fn second_bytes() -> usize {
    static BYTES: LazyLock<usize> = LazyLock::new(|| read_second_bytes().unwrap_or(USUAL_SECOND_BYTES));
    *BYTES
}

/// From the leaves that list caches: Intel SDM volume 2, CPUID leaf 4; AMD64 manual volume 3, leaf 8000_001D, the same layout.
#[cfg(target_arch = "x86_64")]
fn read_second_bytes() -> Option<usize> {
    use std::arch::x86_64::{__cpuid, __cpuid_count};
    const TOPOLOGY_EXTENSIONS: u32 = 1 << 22;
    let amd = __cpuid(0x8000_0000).eax >= 0x8000_001D && __cpuid(0x8000_0001).ecx & TOPOLOGY_EXTENSIONS != 0;
    let leaf = if amd { 0x8000_001D } else { 4 };
    if !amd && __cpuid(0).eax < leaf {
        return None;
    }
    (0..8).map(|index| __cpuid_count(leaf, index)).take_while(|cache| cache.eax & 31 != 0).find_map(|cache| {
        let (level, instructions) = (cache.eax >> 5 & 7, cache.eax & 31 == 2);
        let field = |from: u32, bits: u32| (cache.ebx >> from & ((1 << bits) - 1)) as usize + 1;
        let bytes = field(0, 12) * field(12, 10) * field(22, 10) * (cache.ecx as usize + 1);
        (level == 2 && !instructions).then_some(bytes)
    })
}

/// From Linux, which says it in KiB. Apple's second caches are 4 MiB and more, but several cores share one.
#[cfg(not(target_arch = "x86_64"))]
fn read_second_bytes() -> Option<usize> {
    let read = |index: usize, what: &str| {
        std::fs::read_to_string(format!("/sys/devices/system/cpu/cpu0/cache/index{index}/{what}")).ok()
    };
    let second = (0..8).find(|&index| read(index, "level").is_some_and(|level| level.trim() == "2"))?;
    Some(read(second, "size")?.trim().strip_suffix('K')?.parse::<usize>().ok()? << 10)
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_second_cache_has_a_likely_size() {
        assert!((128 << 10..=64 << 20).contains(&super::second_bytes()), "{}", super::second_bytes());
    }

    /// Cores of one machine may differ.
    #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
    #[test]
    fn the_system_knows_a_second_cache_of_the_same_size() {
        let read = |cache: &std::path::Path, what: &str| std::fs::read_to_string(cache.join(what)).unwrap_or_default();
        let cores = std::fs::read_dir("/sys/devices/system/cpu").into_iter().flatten().flatten();
        let caches =
            cores.flat_map(|core| std::fs::read_dir(core.path().join("cache")).into_iter().flatten().flatten());
        let sizes: Vec<usize> = caches
            .map(|cache| cache.path())
            .filter(|cache| read(cache, "level").trim() == "2")
            .map(|cache| read(&cache, "size").trim().trim_end_matches('K').parse::<usize>().unwrap() << 10)
            .collect();
        // A sandbox may show no caches.
        assert!(sizes.is_empty() || sizes.contains(&super::second_bytes()), "{sizes:?}, {}", super::second_bytes());
    }
}
