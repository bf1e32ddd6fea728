// Standard normal numbers in whole numbers alone, the bits of device/cpu/normal.rs, which says how. What changes here changes
// there.

// m / 2^32 and n of -ln((w + 1) / 2^32) = m / 2^32 · 2^n.
struct Logarithm { m: u32, n: i32 }

fn logarithm(w: u32) -> Logarithm {
    let v = w + 1u;
    let zeros = countLeadingZeros(v | 1u);
    let whole = v << zeros;
    let far = whole < 0xc0000000u;
    let y = 0u - select(whole, whole + m_high_product(whole, 0x55555555u), far);
    var series = 0u;
    for (var k = 18u; k > 0u; k--) {
        series = 0x80000000u / k + m_high_product(series, y);
    }
    let near = zeros == 0u && !far;
    let up = select(0u, countLeadingZeros(y | 1u), near);
    let own = m_high_product(y << up, series);
    let twos = zeros * 1488522236u;
    let low = twos + own + select(0u, 617792546u, far);
    let over = m_high_product(zeros, 1488522236u) + select(0u, 1u, low < twos);
    let lead = countLeadingZeros(over) & 31u;
    let lead_low = countLeadingZeros(low | 1u);
    let m = select(low << lead_low, (over << lead) | ((low >> 1u) >> (31u - lead)), over > 0u);
    let n = select(1 - i32(lead_low), 33 - i32(lead), over > 0u);
    return Logarithm(m, n - i32(up));
}

fn root(a: u32) -> u32 {
    var inverse = (2867885245u - m_high_product(a, 3527896445u - m_high_product(a, 1759571007u))) << 1u;
    for (var i = 0; i < 3; i++) {
        let rest = 0xc0000000u - m_high_product(m_high_product(inverse, inverse), a);
        inverse = min(m_high_product(inverse, rest), 0x7fffffffu) << 1u;
    }
    return m_high_product(a, inverse);
}

// cos(2π w / 2^32) = ± m / 2^32 · 2^n.
struct Cosine { minus: u32, m: u32, n: i32 }

fn cosine(w: u32) -> Cosine {
    let quarter = (w + 0x20000000u) >> 30u;
    let turn = w - (quarter << 30u);
    let sine = (quarter & 1u) == 1u;
    let left = turn >> 31u;
    let x = ((turn ^ (0u - left)) + left) << 2u;
    let square = (m_high_product(x, x) << 1u) | ((x * x) >> 31u);
    var series = select(104u, 1327u, sine);
    series = select(15422u, 157077u, sine) - (m_high_product(series, square) << 1u);
    series = select(1400124u, 10696157u, sine) - (m_high_product(series, square) << 1u);
    series = select(68093890u, 346799333u, sine) - (m_high_product(series, square) << 1u);
    series = select(1324675879u, 3373259426u, sine) - (m_high_product(series, square) << 1u);
    let up = select(0u, countLeadingZeros(x | 1u), sine);
    let size = select(0x80000000u - m_high_product(series, square), m_high_product(x << up, series), sine);
    let lead = countLeadingZeros(size | 1u);
    let minus = select(quarter >> 1u, (quarter >> 1u) ^ left ^ 1u, sine);
    return Cosine(minus, select(size << lead, 0u, sine && x == 0u), 1 - i32(up + lead));
}

fn normal(words: vec2<u32>) -> f32 {
    let square = logarithm(words.x);
    let odd = (square.n + 1) & 1;
    let radius = root(square.m >> u32(odd));
    let lead = countLeadingZeros(radius);
    let along = cosine(words.y);
    let product = m_high_product(radius << lead, along.m);
    let up = countLeadingZeros(product | 1u);
    let m = product << up;
    let tie = (m >> 8u) & 1u;
    let rounded = (m >> 8u) + ((m >> 7u) & (select(0u, 1u, (m & 0x7fu) != 0u) | tie) & 1u);
    let exponent = ((square.n + 1 + odd) >> 1u) + 1 - i32(lead + up) + along.n;
    let bits = (u32(exponent + 125) << 23u) + rounded;
    let zero = words.x == 0xffffffffu || product == 0u;
    return bitcast<f32>(select(bits | (along.minus << 31u), 0u, zero));
}
