// y [m, n] = a [m, k] · b [k, n] (+ bias [n]) for each matrix of a batch, any strides. The elements of y go to `finish`.

@group(0) @binding(0) var<storage, read_write> a: array<LeftWord>;
@group(0) @binding(1) var<storage, read_write> b: array<RightWord>;
@group(0) @binding(3) var<storage, read_write> part: array<f32>;

alias Seat = i32;

var<private> a_start: i32;
var<private> b_start: i32;
var<private> y_start: u32;

fn begin(batch: u32) {
    let b2 = i32(batch % p.size2);
    let b1 = i32(batch / p.size2 % p.size1);
    let b0 = i32(batch / (p.size2 * p.size1));
    a_start = i32(p.a_at) + b0 * p.a_step0 + b1 * p.a_step1 + b2 * p.a_step2;
    b_start = i32(p.b_at) + b0 * p.b_step0 + b1 * p.b_step1 + b2 * p.b_step2;
    y_start = batch * p.m * p.n;
}

fn k_size() -> u32 {
    return p.k;
}

fn left_seat(m: u32) -> i32 {
    return a_start + i32(m) * p.a_m;
}

fn left_key(k: u32) -> i32 {
    return i32(k) * p.a_k;
}

fn left_at(seat: i32, key: i32) -> LeftCell {
    return left_element(u32(seat + key));
}

fn left_four(seat: i32, key: i32) -> LeftFour {
    return left_word(u32(seat + key));
}

fn right_seat(n: u32) -> i32 {
    return b_start + i32(n) * p.b_n;
}

fn right_key(k: u32) -> i32 {
    return i32(k) * p.b_k;
}

fn right_at(seat: i32, key: i32) -> RightCell {
    return right_element(u32(seat + key));
}

fn right_four(seat: i32, key: i32) -> RightFour {
    return right_word(u32(seat + key));
}

fn put(m: u32, n: u32, value: f32) {
    let e = y_start + m * p.n + n;
    if (HAS_BIAS == 1u) {
        finish(e, value + bias_at(p.bias_at + n));
    } else {
        finish(e, value);
    }
}

fn put_quad(m: u32, n: u32, quad: vec4<f32>) {
    put(m, n, quad.x);
    if (n + 1u < p.n) { put(m, n + 1u, quad.y); }
    if (n + 2u < p.n) { put(m, n + 2u, quad.z); }
    if (n + 3u < p.n) { put(m, n + 3u, quad.w); }
}
