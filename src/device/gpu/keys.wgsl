// Unsigned numbers that rise with the elements, as in device/cpu/sort.rs: NaN is above everything, -0 is 0. TYPE: 0 float32,
// 1 int32, 2 bytes, 3 int64 (two words, the higher first), 4 unsigned already.

fn key(at: u32) -> vec2<u32> {
    if (TYPE == 0u) {
        let word = x[at];
        let size = word & 0x7fffffffu;
        if (size > 0x7f800000u) {
            return vec2<u32>(0xffffffffu, 0u);
        }
        if (size == 0u) {
            return vec2<u32>(0x80000000u, 0u);
        }
        return vec2<u32>(select(~word, word | 0x80000000u, (word >> 31u) == 0u), 0u);
    }
    if (TYPE == 1u) {
        return vec2<u32>(x[at] ^ 0x80000000u, 0u);
    }
    if (TYPE == 2u) {
        return vec2<u32>((x[at >> 2u] >> ((at & 3u) * 8u)) & 0xffu, 0u);
    }
    if (TYPE == 3u) {
        return vec2<u32>(x[2u * at + 1u] ^ 0x80000000u, x[2u * at]);
    }
    return vec2<u32>(x[at], 0u);
}
