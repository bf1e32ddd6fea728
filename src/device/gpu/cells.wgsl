// The cells of LSTM and GRU, there and back, each for one unit of one sample.

struct Cell {
    // i, f, g, o; or r, z, n.
    gates: vec4<f32>,
    // What is kept: c, or the state's share of n.
    kept: f32,
    h: f32,
}

// `input` and `state` are the two shares of the sums in the gates, c and h those of the step before.
fn lstm(input: vec4<f32>, state: vec4<f32>, c: f32) -> Cell {
    let i = m_sigmoid(input.x + state.x);
    let f = m_sigmoid(input.y + state.y);
    let g = m_tanh(input.z + state.z);
    let o = m_sigmoid(input.w + state.w);
    let now = f * c + i * g;
    return Cell(vec4<f32>(i, f, g, o), now, o * m_tanh(now));
}

fn gru(input: vec4<f32>, state: vec4<f32>, h: f32) -> Cell {
    let r = m_sigmoid(input.x + state.x);
    let z = m_sigmoid(input.y + state.y);
    let n = m_tanh(input.z + r * state.z);
    return Cell(vec4<f32>(r, z, n, 0.0f), state.z, n + z * (h - n));
}

struct Slope {
    // Of the sums in the gates; and of the state's share of them.
    gates: vec4<f32>,
    apart: vec4<f32>,
    // What is carried to the step before: the gradient of c, or h's own.
    carried: f32,
}

// `slope` is the gradient of h.
fn lstm_back(gates: vec4<f32>, now: f32, before: f32, slope: f32, carried: f32) -> Slope {
    let i = gates.x;
    let f = gates.y;
    let g = gates.z;
    let o = gates.w;
    let t = m_tanh(now);
    let dc = carried + slope * o * (1.0f - t * t);
    let own = vec4<f32>(
        dc * g * i * (1.0f - i),
        dc * before * f * (1.0f - f),
        dc * i * (1.0f - g * g),
        slope * t * o * (1.0f - o),
    );
    return Slope(own, own, dc * f);
}

fn gru_back(gates: vec4<f32>, share: f32, before: f32, slope: f32) -> Slope {
    let r = gates.x;
    let z = gates.y;
    let n = gates.z;
    let dn = slope * (1.0f - z) * (1.0f - n * n);
    let dr = dn * share * r * (1.0f - r);
    let dz = slope * (before - n) * z * (1.0f - z);
    return Slope(vec4<f32>(dr, dz, dn, 0.0f), vec4<f32>(dr, dz, dn * r, 0.0f), slope * z);
}
