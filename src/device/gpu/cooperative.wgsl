// Products of float16 in tiles of 16 · PER by the matrix units of the adapter, which multiply SIZE × SIZE at a time and add up in
// float32. What stands in front is what gemm.wgsl asks for; cooperative.rs says how many lines with $i, $j (matrices of a
// subgroup's part of the tile) and $f (fours that a thread fetches) stand for.
// Eight subgroups make a tile, two down and four across; where the driver has made smaller ones there are more, which do again
// what the first eight do. DEEP of k at a time pass through the group's memory, fetched into registers while those before are
// multiplied. They lie there in lines along the axis that threads fetch along: along m (or n) lines are of one k, else of
// one m (or n), and matrices are loaded from lines of either kind.

const TILE: u32 = 16u * PER;
const DOWN: u32 = TILE / 2u;
const ACROSS: u32 = TILE / 4u;
const AREA: u32 = SIZE * SIZE;

const LEFT_LINE: u32 = LEFT_M * TILE + (1u - LEFT_M) * DEEP;
const RIGHT_LINE: u32 = RIGHT_N * TILE + (1u - RIGHT_N) * DEEP;
// More, so that lines begin in different banks.
const LEFT_PITCH: u32 = LEFT_LINE + 8u;
const RIGHT_PITCH: u32 = RIGHT_LINE + 8u;
// Threads a line, and lines at a time.
const LEFT_LANES: u32 = LEFT_LINE / 4u;
const RIGHT_LANES: u32 = RIGHT_LINE / 4u;
const LEFT_STEP: u32 = THREADS / LEFT_LANES;
const RIGHT_STEP: u32 = THREADS / RIGHT_LANES;
// From one of m to the next, and of k.
const LEFT_BY_M: u32 = LEFT_M + (1u - LEFT_M) * LEFT_PITCH;
const LEFT_BY_K: u32 = LEFT_M * LEFT_PITCH + (1u - LEFT_M);
const RIGHT_BY_N: u32 = RIGHT_N + (1u - RIGHT_N) * RIGHT_PITCH;
const RIGHT_BY_K: u32 = RIGHT_N * RIGHT_PITCH + (1u - RIGHT_N);
// Rows whose sums a thread adds up.
const ROWS: u32 = (TILE + THREADS - 1u) / THREADS;

var<workgroup> left: array<f16, TILE * DEEP / LEFT_LINE * LEFT_PITCH>;
var<workgroup> right: array<f16, TILE * DEEP / RIGHT_LINE * RIGHT_PITCH>;
// A matrix of each subgroup.
var<workgroup> made: array<f32, SUBGROUPS * AREA>;

// Along m four rows of one k; else four of k of one row, `own`.
fn fetch_left(l0: Seat, l1: Seat, l2: Seat, l3: Seat, own: Seat, k: u32, k_end: u32) -> vec4<f16> {
    var four = vec4<f16>();
    if (k >= k_end) {
        return four;
    }
    let key = left_key(k);
    if (LEFT_M == 1u) {
        if (LEFT_FOUR == 1u) {
            return left_four(l0, key);
        }
        return vec4<f16>(left_at(l0, key), left_at(l1, key), left_at(l2, key), left_at(l3, key));
    }
    if (LEFT_FOUR == 1u) {
        return left_four(own, key);
    }
    four.x = left_at(own, key);
    if (k + 1u < k_end) { four.y = left_at(own, left_key(k + 1u)); }
    if (k + 2u < k_end) { four.z = left_at(own, left_key(k + 2u)); }
    if (k + 3u < k_end) { four.w = left_at(own, left_key(k + 3u)); }
    return four;
}

fn fetch_right(r0: Seat, r1: Seat, r2: Seat, r3: Seat, own: Seat, k: u32, k_end: u32) -> vec4<f16> {
    var four = vec4<f16>();
    if (k >= k_end) {
        return four;
    }
    let key = right_key(k);
    if (RIGHT_N == 1u) {
        if (RIGHT_FOUR == 1u) {
            return right_four(r0, key);
        }
        return vec4<f16>(right_at(r0, key), right_at(r1, key), right_at(r2, key), right_at(r3, key));
    }
    if (RIGHT_FOUR == 1u) {
        return right_four(own, key);
    }
    four.x = right_at(own, key);
    if (k + 1u < k_end) { four.y = right_at(own, right_key(k + 1u)); }
    if (k + 2u < k_end) { four.z = right_at(own, right_key(k + 2u)); }
    if (k + 3u < k_end) { four.w = right_at(own, right_key(k + 3u)); }
    return four;
}

fn put_left(at: u32, four: vec4<f16>) {
    left[at] = four.x;
    left[at + 1u] = four.y;
    left[at + 2u] = four.z;
    left[at + 3u] = four.w;
}

fn put_right(at: u32, four: vec4<f16>) {
    right[at] = four.x;
    right[at + 1u] = four.y;
    right[at + 2u] = four.z;
    right[at + 3u] = four.w;
}

// Writes what each of the eight has left in `made`, the matrix (i, j) of its part of the tile at `row`, `column`.
fn leave(start: u32, row: u32, column: u32, i: u32, j: u32, t: u32) {
    for (var four = t; four < 8u * AREA / 4u; four += THREADS) {
        let part = four / (AREA / 4u);
        let inside = four % (AREA / 4u) * 4u;
        let m = row + part / 4u * DOWN + i * SIZE + inside / SIZE;
        let n = column + part % 4u * ACROSS + j * SIZE + inside % SIZE;
        let at = four * 4u;
        write_quad(start, m, n, vec4<f32>(made[at], made[at + 1u], made[at + 2u], made[at + 3u]));
    }
}

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
        @builtin(local_invocation_index) t: u32, @builtin(subgroup_id) subgroup: u32) {
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
    let left_line = t / LEFT_LANES;
    let left_four = t % LEFT_LANES * 4u;
    let right_line = t / RIGHT_LANES;
    let right_four = t % RIGHT_LANES * 4u;
    // Where this thread's fours go, and of k, where they come from.
    let left_to = left_line * LEFT_PITCH + left_four;
    let right_to = right_line * RIGHT_PITCH + right_four;
    let left_k = left_line * LEFT_M + left_four * (1u - LEFT_M);
    let right_k = right_line * RIGHT_N + right_four * (1u - RIGHT_N);
    // Beyond the last row or column the last one again, whose sums are not written.
    let last_m = p.m - 1u - 3u * LEFT_FOUR * LEFT_M;
    let last_n = p.n - 1u - 3u * RIGHT_FOUR * RIGHT_N;
    let l0 = left_seat(min(row + left_four, last_m));
    let l1 = left_seat(min(row + left_four + 1u, p.m - 1u));
    let l2 = left_seat(min(row + left_four + 2u, p.m - 1u));
    let l3 = left_seat(min(row + left_four + 3u, p.m - 1u));
    let r0 = right_seat(min(column + right_four, last_n));
    let r1 = right_seat(min(column + right_four + 1u, p.n - 1u));
    let r2 = right_seat(min(column + right_four + 2u, p.n - 1u));
    let r3 = right_seat(min(column + right_four + 3u, p.n - 1u));
    let lf$f = left_seat(min(row + left_line + $fu * LEFT_STEP, p.m - 1u));
    let rf$f = right_seat(min(column + right_line + $fu * RIGHT_STEP, p.n - 1u));
    var next_left$f = fetch_left(l0, l1, l2, l3, lf$f, k0 + left_k + $fu * LEFT_STEP * LEFT_M, k_end);
    var next_right$f = fetch_right(r0, r1, r2, r3, rf$f, k0 + right_k + $fu * RIGHT_STEP * RIGHT_N, k_end);
    for (var at = t; at < SUBGROUPS * AREA; at += THREADS) {
        made[at] = 0.0f;
    }
    workgroupBarrier();
    let own = subgroup * AREA;
    var s$i_$j = coopLoadT<Sums>(&made[own], SIZE);
    let part = subgroup % 8u;
    let left_from = part / 4u * DOWN * LEFT_BY_M;
    let right_from = part % 4u * ACROSS * RIGHT_BY_N;
    var shares = array<f32, ROWS>();
    while (k0 < k_end) {
        workgroupBarrier();
        put_left(left_to + $fu * LEFT_STEP * LEFT_PITCH, next_left$f);
        put_right(right_to + $fu * RIGHT_STEP * RIGHT_PITCH, next_right$f);
        workgroupBarrier();
        k0 += DEEP;
        next_left$f = fetch_left(l0, l1, l2, l3, lf$f, k0 + left_k + $fu * LEFT_STEP * LEFT_M, k_end);
        next_right$f = fetch_right(r0, r1, r2, r3, rf$f, k0 + right_k + $fu * RIGHT_STEP * RIGHT_N, k_end);
        for (var k = 0u; k < DEEP; k += SIZE) {
            let a$i = load_left(&left[left_from + $iu * SIZE * LEFT_BY_M + k * LEFT_BY_K], LEFT_PITCH);
            let b$j = load_right(&right[right_from + $ju * SIZE * RIGHT_BY_N + k * RIGHT_BY_K], RIGHT_PITCH);
            s$i_$j = coopMultiplyAdd(a$i, b$j, s$i_$j);
        }
        if (SUMS == 1u && column == 0u) {
            for (var m = t; m < TILE; m += THREADS) {
                var share = vec4<f32>();
                for (var k = 0u; k < DEEP; k += 4u) {
                    let at = m * LEFT_BY_M + k * LEFT_BY_K;
                    share += vec4<f32>(f32(left[at]), f32(left[at + LEFT_BY_K]), f32(left[at + 2u * LEFT_BY_K]),
                        f32(left[at + 3u * LEFT_BY_K]));
                }
                shares[m / THREADS] += (share.x + share.y) + (share.z + share.w);
            }
        }
    }
    let start = whole * p.m * p.n;
    workgroupBarrier(); coopStoreT(s$i_$j, &made[own], SIZE); workgroupBarrier(); leave(start, row, column, $iu, $ju, t);
    if (SUMS == 1u && column == 0u) {
        for (var m = t; m < TILE; m += THREADS) {
            if (row + m < p.m) {
                leave_sum(whole, row + m, shares[m / THREADS]);
            }
        }
    }
}
