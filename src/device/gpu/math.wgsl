// What WGSL leaves loose, exact to a few units in the last place: its own exp, log, sin … are allowed large errors, and a
// driver may assume that there is no NaN and no infinity. The polynomials are those of device/cpu/math.rs; the reductions
// of the argument do without a fused multiply-add, which not every driver has. Only what a kernel calls is compiled: a
// function begins with "fn" in the first column and names what it calls.

var<private> m_bits: u32 = 0x7f800000u;

fn m_inf() -> f32 {
    return bitcast<f32>(m_bits);
}

fn m_nan() -> f32 {
    return bitcast<f32>(m_bits | 0x400000u);
}

// By its bits: x != x may be taken for false.
fn m_is_nan(x: f32) -> bool {
    return (bitcast<u32>(x) & 0x7fffffffu) > 0x7f800000u;
}

fn m_is_finite(x: f32) -> bool {
    return (bitcast<u32>(x) & 0x7f800000u) != 0x7f800000u;
}

// x * 0, which a driver may take for 0 whatever x is.
fn m_times_zero(x: f32) -> f32 {
    return select(m_nan(), bitcast<f32>(bitcast<u32>(x) & 0x80000000u), m_is_finite(x));
}

fn m_min(a: f32, b: f32) -> f32 {
    return select(b, a, a < b || m_is_nan(a));
}

fn m_max(a: f32, b: f32) -> f32 {
    return select(b, a, a > b || m_is_nan(a));
}

fn m_sign_of(size: f32, x: f32) -> f32 {
    return bitcast<f32>((bitcast<u32>(size) & 0x7fffffffu) | (bitcast<u32>(x) & 0x80000000u));
}

// m * 2^n for n from -252 to 254, in two steps so that neither power leaves the range.
fn m_scale(m: f32, n: i32) -> f32 {
    let half = n >> 1u;
    let rest = n - half;
    return (m * bitcast<f32>((half + 127) << 23u)) * bitcast<f32>((rest + 127) << 23u);
}

// e^r - 1 for |r| <= ln 2 / 2
fn m_expm1_rest(r: f32) -> f32 {
    var q = 0.00019740319f;
    q = q * r + 0.0013935087f;
    q = q * r + 0.00833357f;
    q = q * r + 0.041666463f;
    q = q * r + 0.16666666f;
    q = q * r + 0.5f;
    return r * r * q + r;
}

// The first part of ln 2 has nine bits, so that n times it is exact.
fn m_octaves(x: f32) -> vec2<f32> {
    let n = round(x * 1.4426950f);
    return vec2<f32>(n, (x - n * 0.693359375f) + n * 2.1219444e-4f);
}

fn m_exp(x: f32) -> f32 {
    let o = m_octaves(clamp(x, -104.0f, 89.0f));
    let y = m_scale(m_expm1_rest(o.y) + 1.0f, i32(o.x));
    return select(y, x, m_is_nan(x));
}

fn m_exp2(x: f32) -> f32 {
    let c = clamp(x, -151.0f, 129.0f);
    let n = round(c);
    let r = c - n;
    var q = 0.00015328907f;
    q = q * r + 0.0013390976f;
    q = q * r + 0.0096185f;
    q = q * r + 0.055503596f;
    q = q * r + 0.24022648f;
    q = q * r + 0.6931472f;
    return select(m_scale(r * q + 1.0f, i32(n)), x, m_is_nan(x));
}

fn m_expm1(x: f32) -> f32 {
    let o = m_octaves(clamp(x, -104.0f, 89.0f));
    let r = o.y;
    var q = 0.00019762572f;
    q = q * r + 0.0013932331f;
    q = q * r + 0.008333545f;
    q = q * r + 0.041666493f;
    q = q * r + 0.16666666f;
    q = q * r + 0.5f;
    let power = m_scale(0.5f, i32(o.x));
    let whole = power - 0.5f;
    let part = power * r;
    let sum = whole + part;
    let error = (whole - sum) + part;
    let y = (sum + (power * (r * r) * q + error)) * 2.0f;
    return select(y, x, abs(x) < 1e-10f || m_is_nan(x));
}

// x = 2^e (1 + f), as (e, f)
fn m_log_parts(x: f32) -> vec2<f32> {
    let small = x < 1.1754944e-38f;
    let bits = bitcast<i32>(select(x, x * 8388608.0f, small));
    let exponent = (bits - 0x3f3504f3) >> 23u;
    let mantissa = bitcast<f32>(bits - (exponent << 23u));
    return vec2<f32>(f32(exponent) - select(0.0f, 23.0f, small), mantissa - 1.0f);
}

// ln(1 + f) - f
fn m_log_rest(f: f32) -> f32 {
    var p = 0.0675028f;
    p = p * f - 0.116735f;
    p = p * f + 0.11884847f;
    p = p * f - 0.12405844f;
    p = p * f + 0.14220175f;
    p = p * f - 0.16668f;
    p = p * f + 0.20002078f;
    p = p * f - 0.2500001f;
    p = p * f + 0.33333313f;
    return (f * f) * (f * p - 0.5f);
}

// The sum of a logarithm's parts, and the cases that are none.
fn m_log_sum(x: f32, whole: f32, f: f32, rest: f32) -> f32 {
    let sum = whole + f;
    let error = (whole - sum) + f;
    var y = sum + (error + rest);
    y = select(y, x, !m_is_finite(x));
    let out = select(m_nan(), -m_inf(), x == 0.0f);
    return select(y, out, x <= 0.0f);
}

fn m_log(x: f32) -> f32 {
    let p = m_log_parts(x);
    return m_log_sum(x, p.x * 0.69314575f, p.y, p.x * 1.4286068e-6f + m_log_rest(p.y));
}

// hi + lo of f * unit: the product of the upper halves is exact.
fn m_log2(x: f32) -> f32 {
    let p = m_log_parts(x);
    let top = bitcast<f32>(bitcast<u32>(p.y) & 0xfffff000u);
    let rest = top * -0.00142645888f + (p.y - top) * 1.44269504f + m_log_rest(p.y) * 1.44269504f;
    return m_log_sum(x, p.x, top * 1.44412150f, rest);
}

fn m_log10(x: f32) -> f32 {
    let p = m_log_parts(x);
    let top = bitcast<f32>(bitcast<u32>(p.y) & 0xfffff000u);
    let unit = 0.43408203f;
    let rest = top * 2.1245100e-4f + (p.y - top) * 0.43429448f + m_log_rest(p.y) * 0.43429448f;
    return m_log_sum(x, p.x * 0.30103302f, top * unit, p.x * -3.0243555e-6f + rest);
}

fn m_log1p(x: f32) -> f32 {
    let bits = bitcast<i32>(x + 1.0f);
    let exponent = (bits - 0x3f3504f3) >> 23u;
    let e = f32(exponent);
    let scaled = bitcast<f32>(bitcast<i32>(x) - (exponent << 23u));
    let f = select(scaled + (m_scale(1.0f, -exponent) - 1.0f), x, exponent == 0);
    let whole = e * 0.69314575f;
    let sum = whole + f;
    let error = (whole - sum) + f;
    let y = sum + (error + (e * 1.4286068e-6f + m_log_rest(f)));
    let usual = abs(x) > 1e-10f && m_is_finite(x);
    let out = select(m_nan(), -m_inf(), x == -1.0f);
    return select(select(x, y, usual), out, x <= -1.0f);
}

fn m_sigmoid(x: f32) -> f32 {
    let e = m_exp(-abs(x));
    return select(1.0f, e, x < 0.0f) / (1.0f + e);
}

fn m_tanh(x: f32) -> f32 {
    let size = abs(x);
    let s = x * x;
    var p = 0.0019009875f;
    p = p * s - 0.007891555f;
    p = p * s + 0.02157591f;
    p = p * s - 0.053922288f;
    p = p * s + 0.13333f;
    p = p * s - 0.33333325f;
    let near = (size * s) * p + size;
    let far = 1.0f - 2.0f / (m_exp(size + size) + 1.0f);
    return select(m_sign_of(select(far, near, size < 0.7f), x), x, m_is_nan(x));
}

fn m_erf_near(x: f32) -> f32 {
    let s = x * x;
    var p = 8.002775e-5f;
    p = p * s - 0.0008050804f;
    p = p * s + 0.0051924605f;
    p = p * s - 0.02685574f;
    p = p * s + 0.11283626f;
    p = p * s - 0.3761263f;
    p = p * s + 0.12837917f;
    return x * p + x;
}

fn m_erf(x: f32) -> f32 {
    let size = abs(x);
    let c = min(size, 4.0f);
    var g = 0.00019821955f;
    g = g * c - 0.0030654834f;
    g = g * c + 0.022315178f;
    g = g * c - 0.104113616f;
    g = g * c - 0.6369761f;
    g = g * c - 1.1277972f;
    g = g * c - 0.00016643909f;
    let far = 1.0f - m_exp(g);
    return select(m_sign_of(select(far, m_erf_near(size), size < 0.92f), x), x, m_is_nan(x));
}

// exp(-a²) with a² in two parts, each exact.
fn m_gauss(a: f32) -> f32 {
    let top = bitcast<f32>(bitcast<u32>(a) & 0xfffff000u);
    return m_exp(-(top * top)) * m_exp((top - a) * (top + a));
}

fn m_erfc(x: f32) -> f32 {
    let size = min(abs(x), 10.1f);
    let inverse = 1.0f / (size + 2.875f);
    let q = (size - 2.875f) * inverse;
    var p = 0.0023768805f;
    p = p * q - 0.004188319f;
    p = p * q - 0.014613234f;
    p = p * q + 0.09445482f;
    p = p * q - 0.27661493f;
    p = p * q + 0.55949163f;
    p = p * q - 0.8664329f;
    p = p * q + 1.0698159f;
    let tail = m_gauss(size) * (p * inverse);
    let far = select(tail, 2.0f - tail, x < 0.0f);
    let y = select(far, 1.0f - m_erf_near(x), size < 0.92f);
    return select(y, x, m_is_nan(x));
}

// x - n·π/2 and n, for x >= 0 below 40 000; the first two parts times n are exact. Beyond, π/2 is taken from a table.
fn m_turned(x: f32) -> vec2<f32> {
    let n = round(x * 0.63661977f);
    let r = ((x - n * 1.5703125f) - n * 4.837512969970703125e-4f) - n * 7.549790126404332e-8f;
    return vec2<f32>(r, n);
}

// 32 zeros, then the bits of 2/π from the first below one.
var<private> m_two_over_pi: array<u32, 9> = array<u32, 9>(
    0u, 0xa2f9836eu, 0x4e441529u, 0xfc2757d1u, 0xf534ddc0u, 0xdb629599u, 0x3c439041u, 0xfe5163abu, 0xdebbc561u);

fn m_high_product(a: u32, b: u32) -> u32 {
    let ah = a >> 16u;
    let al = a & 0xffffu;
    let bh = b >> 16u;
    let bl = b & 0xffffu;
    let low = al * bl;
    let mid = ah * bl + (low >> 16u);
    let cross = al * bh + (mid & 0xffffu);
    return ah * bh + (mid >> 16u) + (cross >> 16u);
}

// As m_turned for large x: x·2/π modulo 4 in fixed point, from the bits of 2/π that matter (Payne and Hanek 1983).
fn m_turned_far(x: f32) -> vec2<f32> {
    let bits = bitcast<u32>(x);
    let mantissa = (bits & 0x7fffffu) | 0x800000u;
    // x = mantissa · 2^shift. The bits of 2/π above 2^-(shift - 2) give multiples of 4.
    let shift = i32(min(bits, 0x7f000000u) >> 23u) - 150;
    let start = u32(shift + 30);
    let word = start / 32u;
    let left = start % 32u;
    var w: array<u32, 4>;
    for (var i = 0u; i < 4u; i++) {
        let a = m_two_over_pi[word + i];
        let b = m_two_over_pi[word + i + 1u];
        w[i] = select((a << left) | (b >> ((32u - left) & 31u)), a, left == 0u);
    }
    // mantissa · w, of which the upper word wraps as it should.
    let c3 = m_high_product(mantissa, w[3]);
    let s2 = mantissa * w[2] + c3;
    let c2 = m_high_product(mantissa, w[2]) + select(0u, 1u, s2 < c3);
    let s1 = mantissa * w[1] + c2;
    let c1 = m_high_product(mantissa, w[1]) + select(0u, 1u, s1 < c2);
    let s0 = mantissa * w[0] + c1;
    // Two bits of quarter turns, then a fraction of one, which is taken from -1/2 to 1/2.
    let high = (s0 << 2u) | (s1 >> 30u);
    let low = (s1 << 2u) | (s2 >> 30u);
    let up = high >> 31u;
    // As few leading zeros as there can be, so that a small fraction keeps its digits.
    let negative = up == 1u;
    let h = select(high, ~high, negative);
    let l = select(low, ~low, negative);
    let lead = countLeadingZeros(h);
    let top = select((h << lead) | (l >> ((32u - lead) & 31u)), h, lead == 0u);
    let top_far = select(top, l, lead == 32u);
    let size = m_scale(f32(top_far >> 8u), -24 - i32(min(lead, 32u)));
    let fraction = select(size, -size, negative);
    return vec2<f32>(fraction * 1.5707964f, f32(((s0 >> 30u) + up) & 3u));
}

// sin(x + quarter·π/2) for x >= 0
fn m_circular(x: f32, quarter: u32) -> f32 {
    var t: vec2<f32>;
    if (x < 40000.0f) {
        t = m_turned(x);
    } else {
        t = m_turned_far(x);
    }
    let r = t.x;
    let s = r * r;
    var a = -0.00019517909f;
    a = a * s + 0.008332187f;
    a = a * s - 0.16666655f;
    let sine = (r * s) * a + r;
    var b = 2.4432336e-5f;
    b = b * s - 0.001388731f;
    b = b * s + 0.041666646f;
    let half = s * 0.5f;
    let most = 1.0f - half;
    let cosine = most + ((s * s) * b + ((1.0f - most) - half));
    let q = u32(t.y) + quarter;
    let y = select(sine, cosine, (q & 1u) == 1u);
    return select(bitcast<f32>(bitcast<u32>(y) ^ ((q & 2u) << 30u)), m_nan(), !m_is_finite(x));
}

fn m_sin(x: f32) -> f32 {
    let y = m_circular(abs(x), 0u);
    return bitcast<f32>(bitcast<u32>(y) ^ (bitcast<u32>(x) & 0x80000000u));
}

fn m_cos(x: f32) -> f32 {
    return m_circular(abs(x), 1u);
}

fn m_tan(x: f32) -> f32 {
    return m_sin(x) / m_cos(x);
}

fn m_atan(x: f32) -> f32 {
    let size = abs(x);
    let far = size > 2.4142135f;
    let middle = size > 0.41421356f;
    let z = select(select(size, (size - 1.0f) / (size + 1.0f), middle), -1.0f / size, far);
    let base = select(select(0.0f, 0.78539816f, middle), 1.5707964f, far);
    let rest = select(select(0.0f, -2.1855695e-8f, middle), -4.371139e-8f, far);
    let s = z * z;
    var p = 0.080537445f;
    p = p * s - 0.13877685f;
    p = p * s + 0.19977711f;
    p = p * s - 0.33332949f;
    let y = base + (((p * s) * z + rest) + z);
    return select(m_sign_of(y, x), x, m_is_nan(x));
}

// asin of size <= 0.5
fn m_asin_near(z: f32) -> f32 {
    let s = z * z;
    var p = 0.042163199f;
    p = p * s + 0.024181311f;
    p = p * s + 0.045470026f;
    p = p * s + 0.074953002f;
    p = p * s + 0.16666752f;
    return (p * s) * z + z;
}

fn m_asin(x: f32) -> f32 {
    let size = abs(x);
    let far = size > 0.5f;
    let half = m_asin_near(sqrt(max(0.5f * (1.0f - size), 0.0f)));
    let y = select(m_asin_near(size), 1.5707964f - (2.0f * half + 4.371139e-8f), far);
    let inside = size <= 1.0f;
    return select(m_nan(), m_sign_of(y, x), inside);
}

fn m_acos(x: f32) -> f32 {
    let size = abs(x);
    let half = 2.0f * m_asin_near(sqrt(max(0.5f * (1.0f - size), 0.0f)));
    let near = 1.5707964f - (m_asin_near(x) + 4.371139e-8f);
    let far = select(half, 3.1415927f - (half + 8.742278e-8f), x < 0.0f);
    return select(m_nan(), select(near, far, size > 0.5f), size <= 1.0f);
}

fn m_sinh(x: f32) -> f32 {
    let size = abs(x);
    let e = m_expm1(size);
    let near = 0.5f * (e + e / (e + 1.0f));
    let root = m_exp(0.5f * size);
    let y = select(near, (0.5f * root) * root, size > 20.0f);
    return select(m_sign_of(y, x), x, m_is_nan(x));
}

fn m_cosh(x: f32) -> f32 {
    let size = abs(x);
    let e = m_exp(size);
    let root = m_exp(0.5f * size);
    return select(0.5f * (e + 1.0f / e), (0.5f * root) * root, size > 20.0f);
}

fn m_asinh(x: f32) -> f32 {
    let a = abs(x);
    let near = m_log1p(a + a * a / (1.0f + sqrt(a * a + 1.0f)));
    let y = select(near, m_log(a) + 0.6931472f, a > 1e9f);
    return select(m_sign_of(y, x), x, m_is_nan(x));
}

fn m_acosh(x: f32) -> f32 {
    let t = x - 1.0f;
    let near = m_log1p(t + sqrt(t * (t + 2.0f)));
    let y = select(near, m_log(x) + 0.6931472f, x > 1e9f);
    return select(m_nan(), y, x >= 1.0f);
}

fn m_atanh(x: f32) -> f32 {
    let a = abs(x);
    let y = 0.5f * m_log1p(2.0f * a / (1.0f - a));
    return select(m_sign_of(y, x), select(m_nan(), m_sign_of(m_inf(), x), a == 1.0f), !(a < 1.0f));
}

// a·b - p for p = a·b rounded, exactly (Dekker 1971)
fn m_product_error(a: f32, b: f32, p: f32) -> f32 {
    let a1 = bitcast<f32>(bitcast<u32>(a) & 0xfffff000u);
    let a2 = a - a1;
    let b1 = bitcast<f32>(bitcast<u32>(b) & 0xfffff000u);
    let b2 = b - b1;
    return (((a1 * b1 - p) + a1 * b2) + a2 * b1) + a2 * b2;
}

// |x|^y for x neither 0 nor infinite nor NaN: the logarithm in two parts, so that the exponential keeps its digits.
fn m_pow_size(size: f32, y: f32) -> f32 {
    let p = m_log_parts(size);
    let whole = p.x * 0.69314575f;
    let hi = whole + p.y;
    // The larger of the two is not always the first.
    let back = hi - whole;
    let error = (whole - (hi - back)) + (p.y - back);
    let lo = error + (p.x * 1.4286068e-6f + m_log_rest(p.y));
    let top = hi + lo;
    let low = (hi - top) + lo;
    let z = y * top;
    let more = m_product_error(y, top, z) + y * low;
    let c = clamp(z, -200.0f, 200.0f);
    let n = round(c * 1.4426950f);
    let r = ((c - n * 0.693359375f) + n * 2.1219444e-4f) + clamp(more, -1.0f, 1.0f);
    let m = clamp(n, -250.0f, 250.0f);
    return m_scale(m_expm1_rest(r) + 1.0f, i32(m));
}

fn m_pow(x: f32, y: f32) -> f32 {
    let size = abs(x);
    let whole = floor(y) == y;
    // Beyond 2^24 every number is even.
    let odd = whole && abs(y) < 16777216.0f && (i32(y) & 1) != 0;
    var z = m_pow_size(size, clamp(y, -1e30f, 1e30f));
    z = select(z, 1.0f, size == 1.0f);
    // Zero and infinity, where a power of them exists.
    let grows = (size > 1.0f) == (y > 0.0f);
    z = select(z, select(0.0f, m_inf(), grows), size == 0.0f || !m_is_finite(size) || (!m_is_finite(y) && size != 1.0f));
    z = select(z, select(select(m_nan(), z, whole || !m_is_finite(y) || !m_is_finite(size) || size == 0.0f), -z, odd), bitcast<i32>(x) < 0);
    z = select(z, m_nan(), m_is_nan(x) || m_is_nan(y));
    return select(z, 1.0f, y == 0.0f || x == 1.0f);
}

fn m_atan2(y: f32, x: f32) -> f32 {
    let a = abs(y);
    let b = abs(x);
    let both = !m_is_finite(a) && !m_is_finite(b);
    let steep = a > b;
    let ratio = select(select(a / b, b / a, steep), 1.0f, both);
    var t = m_atan(select(ratio, 0.0f, a == 0.0f && b == 0.0f));
    t = select(t, 1.5707964f - (t + 4.371139e-8f), steep);
    t = select(t, 3.1415927f - (t + 8.742278e-8f), bitcast<i32>(x) < 0);
    return select(m_sign_of(t, y), m_nan(), m_is_nan(x) || m_is_nan(y));
}

// What a division of sizes leaves, exactly: one step where the quotient is small, bit by bit where it is not.
fn m_left(x: f32, y: f32) -> f32 {
    let a = abs(x);
    let b = abs(y);
    if (!(a >= b) || !m_is_finite(a) || b == 0.0f) {
        return select(a, m_nan(), !m_is_finite(a) || b == 0.0f || m_is_nan(b));
    }
    let q = trunc(a / b);
    if (q < 4194304.0f && a < 1e30f && a > 1e-25f) {
        let p = q * b;
        var r = (a - p) - m_product_error(q, b, p);
        r = select(r, r + b, r < 0.0f);
        return select(r, r - b, r >= b);
    }
    let ea = max(i32(bitcast<u32>(a) >> 23u), 1);
    let eb = max(i32(bitcast<u32>(b) >> 23u), 1);
    var ma = (bitcast<u32>(a) & 0x7fffffu) | select(0u, 0x800000u, bitcast<u32>(a) >= 0x800000u);
    let mb = (bitcast<u32>(b) & 0x7fffffu) | select(0u, 0x800000u, bitcast<u32>(b) >= 0x800000u);
    for (var i = 0; i < ea - eb; i++) {
        ma = select(ma, ma - mb, ma >= mb);
        ma = ma << 1u;
    }
    ma = select(ma, ma - mb, ma >= mb);
    return m_scale(m_scale(f32(ma), eb - 127), -23);
}

fn m_rem(x: f32, y: f32) -> f32 {
    let left = m_sign_of(m_left(x, y), x);
    let r = select(left, left + y, left != 0.0f && (left < 0.0f) != (y < 0.0f));
    return select(r, m_nan(), m_is_nan(x) || m_is_nan(y));
}

fn m_floor_div(x: f32, y: f32) -> f32 {
    if (y == 0.0f || m_is_nan(x) || m_is_nan(y)) {
        return select(x / y, m_nan(), m_is_nan(x) || m_is_nan(y) || x == 0.0f);
    }
    let left = m_sign_of(m_left(x, y), x);
    var q = (x - left) / y;
    q = select(q, q - 1.0f, left != 0.0f && (left < 0.0f) != (y < 0.0f));
    if (q == 0.0f) {
        return bitcast<f32>((bitcast<u32>(x) ^ bitcast<u32>(y)) & 0x80000000u);
    }
    let down = floor(q);
    return select(down, down + 1.0f, q - down > 0.5f);
}

fn i_div(a: i32, b: i32) -> i32 {
    let d = select(b, 1, b == 0);
    return select(a / d, 0, b == 0);
}

fn i_floor_div(a: i32, b: i32) -> i32 {
    let q = i_div(a, b);
    let left = a - q * b;
    return q - select(0, 1, b != 0 && left != 0 && (left < 0) != (b < 0));
}

fn i_rem(a: i32, b: i32) -> i32 {
    return select(a - i_floor_div(a, b) * b, a, b == 0);
}

fn i_pow(a: i32, b: i32) -> i32 {
    var base = a;
    var left = b;
    if (left < 0) {
        if (base != 1 && base != -1) {
            return 0;
        }
        left = left & 1;
    }
    var power = 1;
    while (left > 0) {
        power = select(power, power * base, (left & 1) == 1);
        base = base * base;
        left = left >> 1u;
    }
    return power;
}

// 64 bits, the lower half first.

fn i_wide_add(a: vec2<u32>, b: vec2<u32>) -> vec2<u32> {
    let low = a.x + b.x;
    return vec2<u32>(low, a.y + b.y + select(0u, 1u, low < a.x));
}

fn i_wide_mul(a: vec2<u32>, b: vec2<u32>) -> vec2<u32> {
    return vec2<u32>(a.x * b.x, m_high_product(a.x, b.x) + a.x * b.y + a.y * b.x);
}

fn i_wide_less(a: vec2<u32>, b: vec2<u32>) -> bool {
    return bitcast<i32>(a.y) < bitcast<i32>(b.y) || a.y == b.y && a.x < b.x;
}

// Storage: halves and bytes lie several to a word.

fn s_from_f16(h: u32) -> f32 {
    let sign = (h & 0x8000u) << 16u;
    let size = h & 0x7fffu;
    let small = f32(size) * 5.9604644775390625e-8f;
    let usual = bitcast<f32>((size << 13u) + 0x38000000u);
    let big = bitcast<f32>((size << 13u) | 0x7f800000u);
    let y = select(select(usual, small, size < 0x400u), big, size >= 0x7c00u);
    return bitcast<f32>(bitcast<u32>(y) | sign);
}

fn s_to_f16(x: f32) -> u32 {
    let bits = bitcast<u32>(x);
    let sign = (bits >> 16u) & 0x8000u;
    let size = bits & 0x7fffffffu;
    // To nearest, ties to even, in each range.
    let usual = (size - 0x38000000u + 0xfffu + ((size >> 13u) & 1u)) >> 13u;
    let small = u32(round(bitcast<f32>(size) * 16777216.0f));
    var h = select(usual, small, size < 0x38800000u);
    h = select(h, 0x7c00u, size >= 0x47800000u);
    h = select(h, 0x7e00u, size > 0x7f800000u);
    return sign | min(h, 0x7e00u);
}

fn s_from_bf16(h: u32) -> f32 {
    return bitcast<f32>(h << 16u);
}

fn s_to_bf16(x: f32) -> u32 {
    let bits = bitcast<u32>(x);
    let up = (bits + 0x7fffu + ((bits >> 16u) & 1u)) >> 16u;
    return select(up, (bits >> 16u) | 0x40u, (bits & 0x7fffffffu) > 0x7f800000u);
}

// Truncated, saturating, NaN to 0.
fn s_to_i32(x: f32) -> i32 {
    let y = i32(clamp(trunc(x), -2147483648.0f, 2147483520.0f));
    return select(select(y, 2147483647, x >= 2147483648.0f), 0, m_is_nan(x));
}
