//! What the cache stores, exports and shares.

use jetblock_numerics::{e4m3, nvfp4, round};

use super::*;

fn filled(config: KvCacheConfig, tokens: usize) -> (KvCache, Vec<f32>, Vec<f32>) {
    let width = config.num_key_value_heads * config.head_dim;
    let [k, v] = [21, 22].map(|seed| {
        let mut x = painted_special(seed, tokens * width, 9);
        // Values around the least operand, 2^-50.
        x.iter_mut()
            .step_by(7)
            .for_each(|x| *x *= f32::from_bits(0x2680_0000));
        x
    });
    let mut cache = KvCache::new(config).expect("a valid config");
    cache
        .append(
            Columns::whole(&k, width),
            Columns::whole(&v, width),
            0..tokens,
        )
        .expect("fits");
    (cache, k, v)
}

#[test]
fn stored_values_are_those_of_the_contract() {
    for (kind, dtype) in CASES {
        for head_dim in [1, 3, 8, 17, 48] {
            let config = config(3, head_dim, (kind, dtype));
            let (cache, k, v) = filled(config, 150);
            let bf16 = |x: &[f32], f: fn(f32) -> u16| -> Vec<u8> {
                x.iter().flat_map(|&x| f(x).to_le_bytes()).collect()
            };
            let f32s = |x: &[f32]| -> Vec<u8> {
                x.iter()
                    .flat_map(|&x| round::canonical(x).to_le_bytes())
                    .collect()
            };
            let (keys, values) = match (kind, dtype) {
                (OperandKind::Bf16, KvDtype::Bf16) => {
                    (bf16(&k, round::bf16_operand), bf16(&v, round::f32_to_bf16))
                }
                (OperandKind::F32, KvDtype::Bf16) => {
                    (bf16(&k, round::f32_to_bf16), bf16(&v, round::f32_to_bf16))
                }
                (_, KvDtype::F32) => (f32s(&k), f32s(&v)),
                (_, KvDtype::Fp8) => {
                    let codes =
                        |x: &[f32], scale: f32| x.iter().map(|x| e4m3::encode(x / scale)).collect();
                    (codes(&k, config.k_scale), codes(&v, config.v_scale))
                }
                (_, KvDtype::Nvfp4) => {
                    let rows = |x: &[f32], scale: f32| -> Vec<u8> {
                        let row = |x: &[f32]| {
                            let x: Vec<f32> = x.iter().map(|x| x / scale).collect();
                            let blocks = x.as_chunks().0.iter().map(nvfp4::encode_kv);
                            let codes = blocks.clone().flat_map(|block| block.codes);
                            codes.chain(blocks.map(|block| block.scale)).collect()
                        };
                        x.chunks(config.head_dim)
                            .flat_map(|x| -> Vec<u8> { row(x) })
                            .collect()
                    };
                    (rows(&k, config.k_scale), rows(&v, config.v_scale))
                }
            };
            assert_bits_equal("keys", &cache.key_bytes(), &keys);
            assert_bits_equal("values", &cache.value_bytes(), &values);
            if (kind, dtype) == CASES[0] {
                assert_bits_differ(
                    "keys that are no operands",
                    &bf16(&k, round::f32_to_bf16),
                    &keys,
                );
            }
        }
    }
}

#[test]
fn import_gives_back_what_was_exported() {
    for case in CASES {
        let config = config(2, 5, case);
        for tokens in [0, 1, 64, 130] {
            let (cache, ..) = filled(config, tokens);
            let (keys, values) = (cache.key_bytes(), cache.value_bytes());
            let back = KvCache::from_bytes(config, tokens, &keys, &values).expect("exported bytes");
            assert_eq!(back.digests(), cache.digests());
            assert_eq!((back.len(), back.bytes()), (tokens, cache.bytes()));
            let got =
                KvCache::from_bytes(config, tokens + 1, &keys, &values).expect_err("too short");
            assert!(got.to_string().contains("keys as bytes"), "{got}");
        }
    }
}

#[test]
fn import_refuses_what_no_cache_holds() {
    let config = config(1, 2, CASES[0]);
    let (ok, tiny, payload) = ([0, 0x3F, 0, 0], [0, 0x3F, 1, 0], [0, 0x3F, 0xC1, 0x7F]);
    KvCache::from_bytes(config, 1, &ok, &tiny).expect("a subnormal value is a bf16");
    let got =
        KvCache::from_bytes(config, 1, &tiny, &ok).expect_err("a subnormal key is no operand");
    assert_eq!(
        got.to_string(),
        "kv_cache: keys is another bit pattern at byte 2, expected values a bf16 cache can hold"
    );
    KvCache::from_bytes(config, 1, &ok, &payload).expect_err("a NaN with payload");
}

#[test]
fn import_refuses_codes_that_nothing_encodes_to() {
    let error = |dtype, tokens, bytes: &[u8]| {
        let config = config(1, 2, (OperandKind::Bf16, dtype));
        let ok = vec![1; bytes.len()];
        KvCache::from_bytes(config, tokens, &ok, &ok).expect("codes and scales");
        KvCache::from_bytes(config, tokens, &ok, bytes)
            .map_or_else(|e| e.to_string(), |_| "taken".into())
    };
    let fp8 = |at: usize| {
        format!(
            "kv_cache: values is another bit pattern at byte {at}, expected values a fp8 cache can hold"
        )
    };
    assert_eq!(error(KvDtype::Fp8, 2, &[0x7F, 0x80, 0x7E, 0xFE]), "taken");
    assert_eq!(error(KvDtype::Fp8, 2, &[0x7F, 0x80, 0x7E, 0xFF]), fp8(3));
    // Two rows of eight bytes of codes and a scale.
    let row = |code: u8, scale: u8| [vec![1; 9], vec![code; 8], vec![scale]].concat();
    let nvfp4 = |code, scale| error(KvDtype::Nvfp4, 2, &row(code, scale));
    assert_eq!(nvfp4(0xFF, 0x7E), "taken");
    assert_eq!(nvfp4(0, 0x7F), "taken");
    for (code, scale, at) in [(0x11, 0, 17), (0x11, 0x81, 17), (0x10, 0x7F, 9)] {
        let want = fp8(at).replace("fp8", "nvfp4");
        assert_eq!(nvfp4(code, scale), want, "{code:02X} under {scale:02X}");
    }
}

#[test]
fn a_clone_is_independent() {
    for case in CASES {
        let config = config(2, 6, case);
        let width = 2 * config.head_dim;
        let (cache, k, v) = filled(config, 100);
        let before = cache.digests();
        let (mut one, mut two) = (cache.clone(), cache.clone());
        let part = |x| Columns::whole(x, width);
        one.append(part(&k), part(&v), 0..40).expect("fits");
        two.append(part(&v), part(&k), 50..90).expect("fits");
        assert_eq!(
            cache.digests(),
            before,
            "appending to a clone leaves the original"
        );
        assert_ne!(one.digests(), two.digests());
        let mut again = cache.clone();
        again.append(part(&k), part(&v), 0..40).expect("fits");
        assert_eq!(one.digests(), again.digests());
    }
}

#[test]
fn space_grows_by_blocks() {
    let (cache, ..) = filled(config(2, 32, CASES[0]), 64);
    // 64 tokens of 2 heads of 32, keys and values, two bytes each.
    assert_eq!(cache.bytes(), 64 * 2 * 32 * 2 * 2);
    assert_eq!(
        filled(config(2, 32, CASES[0]), 65).0.bytes(),
        2 * cache.bytes()
    );
    assert_eq!(
        filled(config(2, 32, CASES[3]), 64).0.bytes(),
        2 * cache.bytes()
    );
    assert_eq!(filled(config(2, 32, CASES[3]), 0).0.bytes(), 0);
    // 32 bytes a row, and 16 bytes of codes with two of scales: 50 % and 28.125 % of bf16.
    assert_eq!(
        filled(config(2, 32, CASES[4]), 64).0.bytes(),
        64 * 2 * 2 * 32
    );
    assert_eq!(
        filled(config(2, 32, CASES[6]), 64).0.bytes(),
        64 * 2 * 2 * 18
    );
}

#[test]
fn invalid_configs_are_named() {
    let error = |config| {
        KvCache::new(config)
            .expect_err("must be refused")
            .to_string()
    };
    assert_eq!(
        error(config(0, 4, CASES[0])),
        "kv_cache: num_key_value_heads is 0, expected at least 1"
    );
    assert_eq!(
        error(config(1, 0, CASES[0])),
        "kv_cache: head_dim is 0, expected at least 1"
    );
    let unfit = KvCacheConfig {
        head_dim: 24,
        ..config(1, 16, CASES[6])
    };
    assert_eq!(
        error(unfit),
        "kv_cache: head_dim is 24, expected a multiple of 16 in a cache of dtype nvfp4"
    );
    for scale in [0.0, -1.0, f32::NAN, f32::INFINITY, 1e-40] {
        let message = error(KvCacheConfig {
            k_scale: scale,
            ..config(1, 16, CASES[4])
        });
        assert!(message.contains("k_scale") && message.contains("a positive normal number"));
    }
    let scaled = KvCacheConfig {
        v_scale: 2.0,
        ..config(1, 4, CASES[0])
    };
    assert_eq!(
        error(scaled),
        "kv_cache: v_scale is 2, expected 1 in a cache of dtype bf16"
    );
    let (mut cache, k, _) = filled(config(1, 4, CASES[0]), 2);
    let part = || Columns::whole(&k, 4);
    let got = cache
        .append(part(), part(), 1..3)
        .expect_err("too many rows")
        .to_string();
    assert_eq!(got, "kv_cache: rows is 1..3, expected a range inside 0..2");
}
