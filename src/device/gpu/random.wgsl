// Random numbers, element i of a draw from number offset + i of the stream. KIND: 0 uniform in [0, 1); 1 normal; 2 x · scale where the draw is below `least`, else 0; 3 int64 from `low` on.

// `x_at` and `y_put` are in front; integers are written in words, over the same bytes.
@group(0) @binding(2) var<storage, read_write> words: array<u32>;

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let i = thread(id, groups);
    if (i >= p.threads) {
        return;
    }
    if (KIND == 1u) {
        y_put(i, normal(philox(drawn_at(vec2<u32>(i, 0u))).xy));
        return;
    }
    if (KIND == 3u) {
        let drawn = vec2<u32>(random_bits(vec2<u32>(2u * i + 1u, 0u)), random_bits(vec2<u32>(2u * i, 0u)));
        let step = high_product(drawn, vec2<u32>(p.span_low, p.span_high));
        let low = p.low_low + step.x;
        words[2u * i] = low;
        words[2u * i + 1u] = p.low_high + step.y + select(0u, 1u, low < step.x);
        return;
    }
    // Four elements of a block of the stream, or of two.
    let first = 4u * i;
    var drawn: vec4<u32>;
    let at = drawn_at(vec2<u32>(first, 0u));
    if ((at.x & 3u) == 0u) {
        drawn = philox(vec2<u32>((at.x >> 2u) | (at.y << 30u), at.y >> 2u));
    } else {
        for (var j = 0u; j < 4u; j++) {
            drawn[j] = random_bits(vec2<u32>(first + j, 0u));
        }
    }
    for (var j = 0u; j < min(4u, p.n - first); j++) {
        let whole = drawn[j] >> 8u;
        if (KIND == 0u) {
            y_put(first + j, f32(whole) * 5.9604644775390625e-8f);
        } else {
            // A dropped infinity or NaN is 0, not NaN.
            let kept = whole < p.least && p.scale != 0.0f;
            y_put(first + j, select(0.0f, x_at(p.x_at + first + j) * p.scale, kept));
        }
    }
}
