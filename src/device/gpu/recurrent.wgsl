// One step of a cell for a hidden unit of a sample; gates are [batch, gates · hidden], all else [batch, hidden].
// GRU = 0: i, f, g, o; keeps c. GRU = 1: r, z, n; keeps the state's share of n.
// BACK = 0: from the input's share in `gates` and the state's in `share`: the gates, what is kept, and y = h.
// BACK = 1: from the gradients in `dh` and `y` (that of the step's own output) and `carried`: those of the sums in the gates
// into `slopes`, of the state's share of them into `apart` (GRU), and what is carried on.

@group(0) @binding(0) var<storage, read_write> gates: array<f32>;
@group(0) @binding(1) var<storage, read_write> share: array<f32>;
@group(0) @binding(2) var<storage, read_write> h: array<f32>;
@group(0) @binding(3) var<storage, read_write> c: array<f32>;
@group(0) @binding(4) var<storage, read_write> kept: array<f32>;
@group(0) @binding(5) var<storage, read_write> y: array<f32>;
@group(0) @binding(6) var<storage, read_write> dh: array<f32>;
@group(0) @binding(7) var<storage, read_write> carried: array<f32>;
@group(0) @binding(8) var<storage, read_write> slopes: array<f32>;
@group(0) @binding(9) var<storage, read_write> apart: array<f32>;

const GATES: u32 = select(4u, 3u, GRU == 1u);

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let e = thread(id, groups);
    if (e >= p.n) {
        return;
    }
    let wide = e / p.hidden * (GATES * p.hidden) + e % p.hidden;
    let g0 = p.gates_at + wide;
    let g1 = g0 + p.hidden;
    let g2 = g1 + p.hidden;
    let g3 = g2 + p.hidden;
    if (BACK == 0u) {
        let s0 = p.share_at + wide;
        let s1 = s0 + p.hidden;
        let s2 = s1 + p.hidden;
        if (GRU == 1u) {
            let r = m_sigmoid(gates[g0] + share[s0]);
            let z = m_sigmoid(gates[g1] + share[s1]);
            let own = share[s2];
            let n = m_tanh(gates[g2] + r * own);
            gates[g0] = r;
            gates[g1] = z;
            gates[g2] = n;
            kept[p.kept_at + e] = own;
            y[p.y_at + e] = n + z * (h[p.h_at + e] - n);
            return;
        }
        let i = m_sigmoid(gates[g0] + share[s0]);
        let f = m_sigmoid(gates[g1] + share[s1]);
        let g = m_tanh(gates[g2] + share[s2]);
        let o = m_sigmoid(gates[g3] + share[s2 + p.hidden]);
        let now = f * c[p.c_at + e] + i * g;
        gates[g0] = i;
        gates[g1] = f;
        gates[g2] = g;
        gates[g3] = o;
        kept[p.kept_at + e] = now;
        y[p.y_at + e] = o * m_tanh(now);
        return;
    }
    let own = kept[p.kept_at + e];
    let d0 = p.slopes_at + wide;
    let d1 = d0 + p.hidden;
    let d2 = d1 + p.hidden;
    let slope = dh[p.dh_at + e] + y[p.y_at + e];
    if (GRU == 1u) {
        let all = slope + carried[p.carried_at + e];
        let r = gates[g0];
        let z = gates[g1];
        let n = gates[g2];
        let dn = all * (1.0f - z) * (1.0f - n * n);
        let dr = dn * own * r * (1.0f - r);
        let dz = all * (h[p.h_at + e] - n) * z * (1.0f - z);
        slopes[d0] = dr;
        slopes[d1] = dz;
        slopes[d2] = dn;
        apart[p.apart_at + wide] = dr;
        apart[p.apart_at + wide + p.hidden] = dz;
        apart[p.apart_at + wide + 2u * p.hidden] = dn * r;
        carried[p.carried_at + e] = all * z;
        return;
    }
    let i = gates[g0];
    let f = gates[g1];
    let g = gates[g2];
    let o = gates[g3];
    let t = m_tanh(own);
    let dc = carried[p.carried_at + e] + slope * o * (1.0f - t * t);
    slopes[d0] = dc * g * i * (1.0f - i);
    slopes[d1] = dc * c[p.c_at + e] * f * (1.0f - f);
    slopes[d2] = dc * i * (1.0f - g * g);
    slopes[d2 + p.hidden] = slope * t * o * (1.0f - o);
    carried[p.carried_at + e] = dc * f;
}
