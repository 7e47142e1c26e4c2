//! NVFP4 blocks: ModelOpt's rule, its edges, and the nearest code of every element.

use jetblock_numerics::nvfp4::{BLOCK, Block, amax, encode_kv, encode_weights, weight_scale};
use jetblock_numerics::{e4m3, paint};

fn block(f: impl Fn(u32) -> f32) -> [f32; BLOCK] {
    std::array::from_fn(|i| f(i as u32))
}

fn codes(block: &Block) -> Vec<u8> {
    block.codes.iter().flat_map(|c| [c & 15, c >> 4]).collect()
}

#[test]
fn the_largest_element_of_the_tensor_keeps_its_value() {
    let w = block(|i| 0.01 * (i as f32 - 8.0));
    let scale = weight_scale(amax(&w));
    assert_eq!(scale, 0.08 / 2688.0);
    let got = encode_weights(&w, scale);
    assert_eq!(
        got.scale, 0x7E,
        "the block of the largest element has the scale 448"
    );
    assert_eq!(codes(&got)[0], 15, "and that element is -6");
    assert_eq!(got.decode()[0], -2688.0);
}

/// Codes at and around the middles, where the block scale and the tensor scale divide exactly.
#[test]
fn elements_round_to_the_nearest_code() {
    let middles = [0.25_f32, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0];
    let even = [0_u8, 2, 2, 4, 4, 6, 6];
    for scale in [1.0_f32, 0.5, 2.0] {
        for (i, (middle, want)) in middles.into_iter().zip(even).enumerate() {
            let i = i as u8;
            let x = [middle, middle.next_down(), middle.next_up(), -middle];
            let want = [want, i, i + 1, want | 8];
            let w = block(|i| if i == 15 { 6.0 } else { x[i as usize % 4] } * scale);
            let kv = encode_kv(&w);
            assert_eq!(e4m3::decode(kv.scale), scale);
            assert_eq!(codes(&kv)[..4], want, "{middle}");
            // The same block as weights under a tensor scale that leaves its block scale as it is.
            assert_eq!(encode_weights(&w, 1.0), kv);
            assert_eq!(encode_weights(&w, 0.25).scale, e4m3::encode(4.0 * scale));
        }
    }
}

#[test]
fn zeros_have_the_scale_one() {
    for zero in [0.0, -0.0] {
        let zeros = Block {
            scale: e4m3::encode(1.0),
            codes: [0; 8],
        };
        assert_eq!(encode_kv(&[zero; BLOCK]), zeros);
        assert_eq!(encode_weights(&[zero; BLOCK], 0.125), zeros);
    }
    assert_eq!(weight_scale(0.0), 1.0);
    assert_eq!(
        weight_scale(f32::from_bits(1)),
        1.0,
        "the quotient underflows"
    );
    // Values far below the least scale: a zero scale would divide by zero.
    let tiny = encode_kv(&[1e-20; BLOCK]);
    assert_eq!((tiny.scale, tiny.codes), (1, [0; 8]));
}

#[test]
fn a_nan_makes_its_block_nan_and_no_other() {
    for nan in [0x7FC0_0000, 0xFFFF_FFFF] {
        for at in 0..BLOCK {
            let mut x = block(|i| paint::uniform(1, i));
            x[at] = f32::from_bits(nan);
            for got in [encode_kv(&x), encode_weights(&x, 0.01)] {
                assert_eq!((got.scale, got.codes), (0x7F, [0; 8]));
                assert!(got.decode().iter().all(|x| x.to_bits() == 0x7FC0_0000));
            }
        }
    }
}

#[test]
fn an_infinity_becomes_the_largest_value() {
    let mut x = block(|i| paint::uniform(1, i));
    (x[3], x[5]) = (f32::INFINITY, f32::NEG_INFINITY);
    let got = encode_kv(&x);
    let values = got.decode();
    assert_eq!((got.scale, values[3], values[5]), (0x7E, 2688.0, -2688.0));
    assert_eq!(encode_weights(&x, 0.5), got);
    assert_eq!(encode_kv(&[1e30; BLOCK]).decode(), [2688.0; BLOCK]);
}

/// The error of every element, and the relative error that the format is known for (about 9 % on such data).
#[test]
fn decoded_blocks_are_near() {
    let (mut error, mut square) = (0.0_f64, 0.0_f64);
    for n in 0..10_000 {
        let x = block(|i| (0..4).map(|k| paint::uniform(2 + k, n * 16 + i)).sum());
        let scale = amax(&x) / 6.0;
        for (x, y) in x.iter().zip(encode_kv(&x).decode()) {
            // Half a step of the element is at most a sixth of the largest value; the scale rounds by at most a 16th.
            assert!((x - y).abs() <= scale * 1.07, "{x} became {y} of {scale}");
            error += f64::from((x - y) * (x - y));
            square += f64::from(x * x);
        }
    }
    let relative = (error / square).sqrt();
    assert!((0.08..0.1).contains(&relative), "{relative}");
    assert_eq!(amax(&[]), 0.0);
}
