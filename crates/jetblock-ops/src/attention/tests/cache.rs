//! What the cache stores, exports and shares.

use jetblock_numerics::round;

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
        for head_dim in [1, 3, 8, 17] {
            let (cache, k, v) = filled(config(3, head_dim, (kind, dtype)), 150);
            let bf16 = |x: &[f32], f: fn(f32) -> u16| -> Vec<u8> {
                x.iter().flat_map(|&x| f(x).to_le_bytes()).collect()
            };
            let f32s = |x: &[f32]| -> Vec<u8> {
                x.iter()
                    .flat_map(|&x| round::canonical(x).to_le_bytes())
                    .collect()
            };
            let (keys, values) = match (kind, dtype) {
                (OperandKind::Bf16, DType::BF16) => {
                    (bf16(&k, round::bf16_operand), bf16(&v, round::f32_to_bf16))
                }
                (OperandKind::F32, DType::BF16) => {
                    (bf16(&k, round::f32_to_bf16), bf16(&v, round::f32_to_bf16))
                }
                _ => (f32s(&k), f32s(&v)),
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
fn a_clone_is_independent() {
    for case in CASES {
        let config = config(2, 6, case);
        let (cache, k, v) = filled(config, 100);
        let before = cache.digests();
        let (mut one, mut two) = (cache.clone(), cache.clone());
        let part = |x| Columns::whole(x, 12);
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
    let f16 = (OperandKind::F32, DType::F16);
    assert_eq!(
        error(config(1, 4, f16)),
        "kv_cache: dtype is f16, expected f32 or bf16"
    );
    let (mut cache, k, _) = filled(config(1, 4, CASES[0]), 2);
    let part = || Columns::whole(&k, 4);
    let got = cache
        .append(part(), part(), 1..3)
        .expect_err("too many rows")
        .to_string();
    assert_eq!(got, "kv_cache: rows is 1..3, expected a range inside 0..2");
}
