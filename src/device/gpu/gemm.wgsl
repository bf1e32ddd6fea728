// Products in tiles of 16 · PER: a thread makes PER × PER sums, and 64 / PER of k at a time pass through the group's memory,
// fetched into registers while the ones before are multiplied. LEFT_M and RIGHT_N say along which axis neighbouring threads
// fetch; LEFT_FOUR and RIGHT_FOUR that four elements along it lie in one word of four: along k 64 threads then fetch four rows
// each, and turn them. In front stand `begin` (the matrices of a batch), `k_size` (how long their sums are), `put_quad` (m, n,
// the sums from n on), and the ways to the operands, each in what does not change along k, a Seat, what does, a Key, and what
// the two name: `left_seat` (m), `left_key` (k), `left_at` (an element), `left_four` (a word), `right_seat` (n), `right_key` (k),
// `right_at`, `right_four`. What they bring is a Cell or Four: float32, or float16 as it lies in memory, which is widened when it
// is multiplied.
// Where k is cut into `splits`, each leaves its sums in `part`, [splits, batch, m, n]. SUMS = 1: the rows of the left side are
// added up as they are fetched, by the groups of all columns, and those of the first leave the sums (`leave_sum`).
// Lines with $i (a row of the thread's tile), $h or $j (four rows, four columns) stand for all of them; see unroll.rs.

const TILE: u32 = 16u * PER;
const DEEP: u32 = 64u / PER;
const QUADS: u32 = TILE / 4u;
// A quad more, so that threads of one k meet different banks.
const PITCH: u32 = QUADS + 1u;

// Four at once along the rows or columns, or along k.
const LEFT_SIDE: u32 = LEFT_FOUR * LEFT_M;
const LEFT_DEEP: u32 = LEFT_FOUR - LEFT_SIDE;
const RIGHT_SIDE: u32 = RIGHT_FOUR * RIGHT_N;
const RIGHT_DEEP: u32 = RIGHT_FOUR - RIGHT_SIDE;

var<workgroup> left: array<LeftFour, DEEP * PITCH>;
var<workgroup> right: array<RightFour, DEEP * PITCH>;
// Of each thread, for four rows.
var<workgroup> shares: array<vec4<f32>, 1u + 255u * SUMS>;

// Four rows at k, or at four of k from there on.
fn fetch_left(l0: Seat, l1: Seat, l2: Seat, l3: Seat, k: u32, k_end: u32) -> LeftBlock {
    let none = LeftFour();
    if (k >= k_end) {
        return LeftBlock(none, none, none, none);
    }
    let key = left_key(k);
    if (LEFT_DEEP == 1u) {
        let rows = LeftBlock(left_four(l0, key), left_four(l1, key), left_four(l2, key), left_four(l3, key));
        return transpose(rows);
    }
    if (LEFT_SIDE == 1u) {
        return LeftBlock(left_four(l0, key), none, none, none);
    }
    let four = LeftFour(left_at(l0, key), left_at(l1, key), left_at(l2, key), left_at(l3, key));
    return LeftBlock(four, none, none, none);
}

fn fetch_right(r0: Seat, r1: Seat, r2: Seat, r3: Seat, k: u32, k_end: u32) -> RightBlock {
    let none = RightFour();
    if (k >= k_end) {
        return RightBlock(none, none, none, none);
    }
    let key = right_key(k);
    if (RIGHT_DEEP == 1u) {
        let rows = RightBlock(right_four(r0, key), right_four(r1, key), right_four(r2, key), right_four(r3, key));
        return transpose(rows);
    }
    if (RIGHT_SIDE == 1u) {
        return RightBlock(right_four(r0, key), none, none, none);
    }
    let four = RightFour(right_at(r0, key), right_at(r1, key), right_at(r2, key), right_at(r3, key));
    return RightBlock(four, none, none, none);
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
    let k_end = min(k0 + p.run, k_size());
    var a_q = select(t / DEEP, t % QUADS, LEFT_M == 1u);
    var a_k = select(t % DEEP, t / QUADS, LEFT_M == 1u);
    var b_q = select(t / DEEP, t % QUADS, RIGHT_N == 1u);
    var b_k = select(t % DEEP, t / QUADS, RIGHT_N == 1u);
    if (LEFT_DEEP == 1u) {
        a_q = t % 64u / (DEEP / 4u);
        a_k = t % (DEEP / 4u) * 4u;
    }
    if (RIGHT_DEEP == 1u) {
        b_q = t % 64u / (DEEP / 4u);
        b_k = t % (DEEP / 4u) * 4u;
    }
    let left_fetches = LEFT_DEEP == 0u || t < 64u;
    let right_fetches = RIGHT_DEEP == 0u || t / 64u == 1u;
    let tx = t % 16u;
    let ty = t / 16u;
    var s$i_$j = vec4<f32>(0.0f, 0.0f, 0.0f, 0.0f);
    var share = vec4<f32>(0.0f, 0.0f, 0.0f, 0.0f);
    // Beyond the last row or column the last one again, whose sums are not written.
    let last_m = p.m - select(1u, 4u, LEFT_SIDE == 1u);
    let last_n = p.n - select(1u, 4u, RIGHT_SIDE == 1u);
    let l0 = left_seat(min(row + a_q * 4u, last_m));
    let l1 = left_seat(min(row + a_q * 4u + 1u, p.m - 1u));
    let l2 = left_seat(min(row + a_q * 4u + 2u, p.m - 1u));
    let l3 = left_seat(min(row + a_q * 4u + 3u, p.m - 1u));
    let r0 = right_seat(min(column + b_q * 4u, last_n));
    let r1 = right_seat(min(column + b_q * 4u + 1u, p.n - 1u));
    let r2 = right_seat(min(column + b_q * 4u + 2u, p.n - 1u));
    let r3 = right_seat(min(column + b_q * 4u + 3u, p.n - 1u));
    var next_left: LeftBlock;
    var next_right: RightBlock;
    if (left_fetches) {
        next_left = fetch_left(l0, l1, l2, l3, k0 + a_k, k_end);
    }
    if (right_fetches) {
        next_right = fetch_right(r0, r1, r2, r3, k0 + b_k, k_end);
    }
    while (k0 < k_end) {
        workgroupBarrier();
        if (left_fetches) {
            left[a_k * PITCH + a_q] = next_left[0];
            if (LEFT_DEEP == 1u) {
                left[(a_k + 1u) * PITCH + a_q] = next_left[1];
                left[(a_k + 2u) * PITCH + a_q] = next_left[2];
                left[(a_k + 3u) * PITCH + a_q] = next_left[3];
            }
            if (SUMS == 1u) {
                share += vec4<f32>(next_left[0]);
            }
            if (SUMS * LEFT_DEEP == 1u) {
                share += vec4<f32>(next_left[1]) + vec4<f32>(next_left[2]) + vec4<f32>(next_left[3]);
            }
        }
        if (right_fetches) {
            right[b_k * PITCH + b_q] = next_right[0];
            if (RIGHT_DEEP == 1u) {
                right[(b_k + 1u) * PITCH + b_q] = next_right[1];
                right[(b_k + 2u) * PITCH + b_q] = next_right[2];
                right[(b_k + 3u) * PITCH + b_q] = next_right[3];
            }
        }
        workgroupBarrier();
        k0 += DEEP;
        if (left_fetches) {
            next_left = fetch_left(l0, l1, l2, l3, k0 + a_k, k_end);
        }
        if (right_fetches) {
            next_right = fetch_right(r0, r1, r2, r3, k0 + b_k, k_end);
        }
        for (var k = 0u; k < DEEP; k++) {
            let a$h = vec4<f32>(left[k * PITCH + ty + $h * 16u]);
            let b$j = vec4<f32>(right[k * PITCH + tx + $j * 16u]);
            s$i_$j += a$iq.$ic * b$j;
        }
    }
    let start = whole * p.m * p.n;
    write_quad(start, row + ty * 4u + $iq * 64u + $iru, column + tx * 4u + $j * 64u, s$i_$j);
    if (SUMS == 1u && column == 0u) {
        // Threads that fetched the same rows are DEEP, or a quarter of that where each fetched four of k.
        let lanes = select(DEEP, DEEP / 4u, LEFT_DEEP == 1u);
        if (left_fetches) {
            shares[a_k * lanes / DEEP * QUADS + a_q] = share;
        }
        workgroupBarrier();
        if (t < TILE) {
            var sum = 0.0f;
            for (var lane = 0u; lane < lanes; lane++) {
                sum += shares[lane * QUADS + t / 4u][t % 4u];
            }
            if (row + t < p.m) {
                leave_sum(whole, row + t, sum);
            }
        }
    }
}
