// Products in tiles of 16 · PER: a thread makes PER × PER sums, and 64 / PER of k at a time pass through the group's memory,
// fetched into registers while the ones before are multiplied. LEFT_M and RIGHT_N say along which axis neighbouring threads
// fetch. In front stand `begin` (the matrices of a batch), `put_quad` (m, n, the sums from n on), and the ways to the operands, each in what
// does not change along k, what does, and the element of the two: `left_seat` (m), `left_key` (k), `left_at`, `right_seat`
// (n), `right_key` (k), `right_at`.
// Where k is cut into `splits`, each leaves its sums in `part`, [splits, batch, m, n].
// Lines with $i (a row of the thread's tile), $h or $j (four rows, four columns) stand for all of them; see gemm.rs.

const TILE: u32 = 16u * PER;
const DEEP: u32 = 64u / PER;
const QUADS: u32 = TILE / 4u;
// A quad more, so that threads of one k meet different banks.
const PITCH: u32 = QUADS + 1u;

var<workgroup> left: array<vec4<f32>, DEEP * PITCH>;
var<workgroup> right: array<vec4<f32>, DEEP * PITCH>;

fn write_quad(start: u32, m: u32, n: u32, quad: vec4<f32>) {
    if (m >= p.m || n >= p.n) {
        return;
    }
    if (p.splits == 1u) {
        put_quad(m, n, quad);
        return;
    }
    let at = start + m * p.n + n;
    part[at] = quad.x;
    if (n + 1u < p.n) { part[at + 1u] = quad.y; }
    if (n + 2u < p.n) { part[at + 2u] = quad.z; }
    if (n + 3u < p.n) { part[at + 3u] = quad.w; }
}

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
        @builtin(local_invocation_index) t: u32) {
    let tiles_n = (p.n + TILE - 1u) / TILE;
    let tiles = (p.m + TILE - 1u) / TILE * tiles_n;
    let unit = group(wid, groups);
    if (unit >= tiles * p.batch * p.splits) {
        return;
    }
    let row = unit % tiles / tiles_n * TILE;
    let column = unit % tiles_n * TILE;
    let whole = unit / tiles;
    let split = whole / p.batch;
    begin(whole % p.batch);
    var k0 = split * p.run;
    let k_end = min(k0 + p.run, p.k);
    let a_q = select(t / DEEP, t % QUADS, LEFT_M == 1u);
    let a_k = select(t % DEEP, t / QUADS, LEFT_M == 1u);
    let b_q = select(t / DEEP, t % QUADS, RIGHT_N == 1u);
    let b_k = select(t % DEEP, t / QUADS, RIGHT_N == 1u);
    let tx = t % 16u;
    let ty = t / 16u;
    var s$i_$j = vec4<f32>(0.0f, 0.0f, 0.0f, 0.0f);
    // Beyond the last row or column the last one again, whose sums are not written.
    let l0 = left_seat(min(row + a_q * 4u, p.m - 1u));
    let l1 = left_seat(min(row + a_q * 4u + 1u, p.m - 1u));
    let l2 = left_seat(min(row + a_q * 4u + 2u, p.m - 1u));
    let l3 = left_seat(min(row + a_q * 4u + 3u, p.m - 1u));
    let r0 = right_seat(min(column + b_q * 4u, p.n - 1u));
    let r1 = right_seat(min(column + b_q * 4u + 1u, p.n - 1u));
    let r2 = right_seat(min(column + b_q * 4u + 2u, p.n - 1u));
    let r3 = right_seat(min(column + b_q * 4u + 3u, p.n - 1u));
    var next_left = vec4<f32>(0.0f, 0.0f, 0.0f, 0.0f);
    var next_right = next_left;
    if (k0 + a_k < k_end) {
        let key = left_key(k0 + a_k);
        next_left = vec4<f32>(left_at(l0, key), left_at(l1, key), left_at(l2, key), left_at(l3, key));
    }
    if (k0 + b_k < k_end) {
        let key = right_key(k0 + b_k);
        next_right = vec4<f32>(right_at(r0, key), right_at(r1, key), right_at(r2, key), right_at(r3, key));
    }
    while (k0 < k_end) {
        workgroupBarrier();
        left[a_k * PITCH + a_q] = next_left;
        right[b_k * PITCH + b_q] = next_right;
        workgroupBarrier();
        k0 += DEEP;
        next_left = vec4<f32>(0.0f, 0.0f, 0.0f, 0.0f);
        next_right = next_left;
        if (k0 + a_k < k_end) {
            let key = left_key(k0 + a_k);
            next_left = vec4<f32>(left_at(l0, key), left_at(l1, key), left_at(l2, key), left_at(l3, key));
        }
        if (k0 + b_k < k_end) {
            let key = right_key(k0 + b_k);
            next_right = vec4<f32>(right_at(r0, key), right_at(r1, key), right_at(r2, key), right_at(r3, key));
        }
        for (var k = 0u; k < DEEP; k++) {
            let a$h = left[k * PITCH + ty + $h * 16u];
            let b$j = right[k * PITCH + tx + $j * 16u];
            s$i_$j += a$q.$c * b$j;
        }
    }
    let start = whole * p.m * p.n;
    write_quad(start, row + ty * 4u + $mu, column + tx * 4u + $j * 64u, s$i_$j);
}
