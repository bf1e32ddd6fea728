// Counter-based random numbers: Philox 4×32-10, the streams of device/cpu/random.rs. The params name key and offset.

fn philox(counter: vec2<u32>) -> vec4<u32> {
    var c = vec4<u32>(counter, 0u, 0u);
    var k = vec2<u32>(p.key_low, p.key_high);
    for (var i = 0; i < 10; i++) {
        let a = m_high_product(c.x, 0xd2511f53u);
        let b = m_high_product(c.z, 0xcd9e8d57u);
        c = vec4<u32>(b ^ c.y ^ k.x, c.z * 0xcd9e8d57u, a ^ c.w ^ k.y, c.x * 0xd2511f53u);
        k = k + vec2<u32>(0x9e3779b9u, 0xbb67ae85u);
    }
    return c;
}

// The place in the stream of element `i` (low word first) of a draw.
fn drawn_at(i: vec2<u32>) -> vec2<u32> {
    let low = p.offset_low + i.x;
    return vec2<u32>(low, p.offset_high + i.y + select(0u, 1u, low < i.x));
}

fn random_bits(i: vec2<u32>) -> u32 {
    let at = drawn_at(i);
    let words = philox(vec2<u32>((at.x >> 2u) | (at.y << 30u), at.y >> 2u));
    let odd = (at.x & 1u) == 1u;
    return select(select(words.x, words.y, odd), select(words.z, words.w, odd), (at.x & 2u) == 2u);
}

// The upper 64 bits of a product of 64-bit numbers (low word first).
fn high_product(a: vec2<u32>, b: vec2<u32>) -> vec2<u32> {
    let cross = a.y * b.x;
    let first = cross + m_high_product(a.x, b.x);
    let carry = select(0u, 1u, first < cross);
    let other = a.x * b.y;
    let second = first + other;
    let more = select(0u, 1u, second < other);
    // Words 2 and 3 of the product.
    let up = m_high_product(a.y, b.x) + carry;
    let side = m_high_product(a.x, b.y) + more;
    let sum = up + side;
    let over = select(0u, 1u, sum < up);
    let low = sum + a.y * b.y;
    let last = select(0u, 1u, low < sum);
    return vec2<u32>(low, m_high_product(a.y, b.y) + over + last);
}
