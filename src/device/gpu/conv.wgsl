// Convolutions of channels-last images as products, one for each group of channels; the weight is [out, depth, kh, kw].
// The elements of the result go to `finish`.
// HOW = 0: y [pixel of y, out] = x [.., (tap, channel)] · weight (+ bias). HOW = 1: dx [pixel of x, channel] = dy [.., (tap,
// out)] · weight. HOW = 2: dweight [out, (tap, channel)] = dy [out, pixel of y] · x [.., (tap, channel)].

@group(0) @binding(0) var<storage, read_write> a: array<LeftWord>;
@group(0) @binding(1) var<storage, read_write> b: array<RightWord>;
@group(0) @binding(3) var<storage, read_write> part: array<f32>;

alias Seat = vec3<i32>;

var<private> own: u32;

fn begin(batch: u32) {
    own = batch;
}

// A place in images, or a way between two: rows, columns, and an index of the rest.
fn spot(row: u32, col: u32, rest: u32) -> vec3<i32> {
    return vec3<i32>(i32(row), i32(col), i32(rest));
}

// The step to a tap, before a channel.
fn step(tap: u32, channel: u32) -> vec3<i32> {
    return spot(tap / p.kw * p.dilation_y, tap % p.kw * p.dilation_x, channel);
}

// Where in x the window of a pixel of y begins, without the padding.
fn corner(pixel: u32) -> vec3<i32> {
    let image = pixel / (p.out_w * p.out_h);
    let rest = image * p.h * p.w * p.c_in + own * p.depth;
    return spot(pixel / p.out_w % p.out_h * p.stride_y, pixel % p.out_w * p.stride_x, rest);
}

// The place in x of a corner and a step, or -1 in the padding.
fn met(corner: vec3<i32>, step: vec3<i32>) -> i32 {
    let row = corner.x + step.x - i32(p.padding_y);
    let col = corner.y + step.y - i32(p.padding_x);
    let inside = row >= 0 && col >= 0 && row < i32(p.h) && col < i32(p.w);
    return select(-1, corner.z + step.z + (row * i32(p.w) + col) * i32(p.c_in), inside);
}

fn left_seat(m: u32) -> vec3<i32> {
    if (HOW == 0u) {
        return corner(m);
    }
    if (HOW == 1u) {
        let rest = m / (p.w * p.h) * p.out_h * p.out_w * p.c_out + own * p.width;
        return spot(m / p.w % p.h + p.padding_y, m % p.w + p.padding_x, rest);
    }
    return spot(0u, 0u, own * p.width + m);
}

fn left_key(k: u32) -> vec3<i32> {
    if (HOW == 0u) {
        return step(k / p.depth, k % p.depth);
    }
    if (HOW == 1u) {
        return step(k / p.width, k % p.width);
    }
    return spot(0u, 0u, k * p.c_out);
}

// The place of an element of the left side, or -1 where there is none.
fn left_place(seat: vec3<i32>, key: vec3<i32>) -> i32 {
    if (HOW == 2u) {
        return seat.z + key.z;
    }
    if (HOW == 0u) {
        return met(seat, key);
    }
    // The pixel of y, if there is one, that meets this one of x at a tap.
    let down = seat.x - key.x;
    let across = seat.y - key.y;
    var row = down;
    var col = across;
    if (STRIDED == 1u) {
        row = down / i32(p.stride_y);
        col = across / i32(p.stride_x);
    }
    let whole = STRIDED == 0u || row * i32(p.stride_y) == down && col * i32(p.stride_x) == across;
    let inside = down >= 0 && across >= 0 && row < i32(p.out_h) && col < i32(p.out_w);
    return select(-1, seat.z + key.z + (row * i32(p.out_w) + col) * i32(p.c_out), whole && inside);
}

fn left_at(seat: vec3<i32>, key: vec3<i32>) -> LeftCell {
    let at = left_place(seat, key);
    if (at < 0) {
        return LeftCell();
    }
    return left_element(p.a_at + u32(at));
}

fn left_four(seat: vec3<i32>, key: vec3<i32>) -> LeftFour {
    let at = left_place(seat, key);
    if (at < 0) {
        return LeftFour();
    }
    return left_word(p.a_at + u32(at));
}

fn right_seat(n: u32) -> vec3<i32> {
    if (HOW == 0u) {
        return spot(0u, 0u, (own * p.width + n) * p.depth * p.taps);
    }
    if (HOW == 1u) {
        return spot(0u, 0u, (own * p.width * p.depth + n) * p.taps);
    }
    return step(n / p.depth, n % p.depth);
}

fn right_key(k: u32) -> vec3<i32> {
    if (HOW == 0u) {
        return spot(0u, 0u, k % p.depth * p.taps + k / p.depth);
    }
    if (HOW == 1u) {
        return spot(0u, 0u, k % p.width * p.depth * p.taps + k / p.width);
    }
    return corner(k);
}

fn right_place(seat: vec3<i32>, key: vec3<i32>) -> i32 {
    if (HOW < 2u) {
        return seat.z + key.z;
    }
    return met(key, seat);
}

fn right_at(seat: vec3<i32>, key: vec3<i32>) -> RightCell {
    let at = right_place(seat, key);
    if (at < 0) {
        return RightCell();
    }
    return right_element(p.b_at + u32(at));
}

fn right_four(seat: vec3<i32>, key: vec3<i32>) -> RightFour {
    let at = right_place(seat, key);
    if (at < 0) {
        return RightFour();
    }
    return right_word(p.b_at + u32(at));
}

fn put(m: u32, n: u32, value: f32) {
    if (HOW == 2u) {
        finish(((own * p.width + m) * p.depth + n % p.depth) * p.taps + n / p.depth, value);
        return;
    }
    let at = (m * p.batch + own) * p.n + n;
    if (HAS_BIAS == 1u) {
        finish(at, value + bias_at(p.bias_at + own * p.n + n));
    } else {
        finish(at, value);
    }
}

fn put_quad(m: u32, n: u32, quad: vec4<f32>) {
    put(m, n, quad.x);
    if (n + 1u < p.n) { put(m, n + 1u, quad.y); }
    if (n + 2u < p.n) { put(m, n + 2u, quad.z); }
    if (n + 3u < p.n) { put(m, n + 3u, quad.w); }
}
