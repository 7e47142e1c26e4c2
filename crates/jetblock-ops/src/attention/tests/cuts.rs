//! Where a prompt is cut, and whether it is prefilled or decoded, does not change a bit.

use super::*;

/// Feeds `[q | k | v]` rows in pieces that end at `cuts`, and gives all outputs.
fn in_pieces(
    config: KvCacheConfig,
    heads: usize,
    qkv: &[f32],
    cuts: &[usize],
    split: usize,
    cpu: &Cpu,
) -> Vec<f32> {
    let (q, kv) = widths(&config, heads);
    let row_len = q + 2 * kv;
    let mut cache = KvCache::new(config).expect("a valid config");
    let mut out = vec![f32::NAN; qkv.len() / row_len * q];
    let mut start = 0;
    for &end in cuts {
        let piece = &qkv[start * row_len..end * row_len];
        let part = |columns| Columns {
            data: piece,
            row_len,
            columns,
        };
        cache
            .append(part(q..q + kv), part(q + kv..row_len), 0..end - start)
            .expect("fits");
        Attention {
            q: part(0..q),
            segments: &[Segment {
                rows: 0..end - start,
                start,
            }],
            caches: &[&cache],
            num_attention_heads: heads,
            split,
        }
        .cpu(&mut out[start * q..end * q], cpu)
        .expect("valid arguments");
        start = end;
    }
    out
}

fn assert_cuts_do_not_matter(tokens: usize, split: usize, cuts: impl Iterator<Item = usize>) {
    let cuts: Vec<usize> = cuts.collect();
    let cpu = Cpu::new(2, jetblock_simd::Level::best()).expect("two threads");
    for case in CASES {
        let config = config(2, 12, case);
        let (q, kv) = widths(&config, 6);
        let qkv = painted(11, tokens * (q + 2 * kv));
        let want = in_pieces(config, 6, &qkv, &[tokens], split, &cpu);
        let decoded: Vec<usize> = (1..=tokens).collect();
        let got = in_pieces(config, 6, &qkv, &decoded, split, &cpu);
        assert_bits_equal("decode all", &got, &want);
        for &cut in &cuts {
            let got = in_pieces(config, 6, &qkv, &[cut, tokens], split, &cpu);
            assert_bits_equal(format!("cut at {cut} of {tokens}"), &got, &want);
        }
        let other = in_pieces(
            config,
            6,
            &qkv,
            &[tokens],
            if split == 64 { 128 } else { 64 },
            &cpu,
        );
        assert_bits_differ("another split", &other, &want);
    }
}

#[test]
fn a_cut_at_any_position_gives_the_same_bits() {
    assert_cuts_do_not_matter(70, 64, 1..70);
}

#[test]
fn a_cut_of_a_long_prompt_gives_the_same_bits() {
    let cuts = [1, 63, 64, 65, 100, 255, 256, 257, 300, 511, 512, 513, 599];
    assert_cuts_do_not_matter(600, 256, cuts.into_iter());
}

#[test]
fn the_cache_does_not_depend_on_cuts() {
    for case in CASES {
        let config = config(3, 5, case);
        let width = 3 * config.head_dim;
        let data = painted_special(5, 200 * 2 * width, 50);
        let part = |columns| Columns {
            data: &data,
            row_len: 2 * width,
            columns,
        };
        let fill = |cuts: &[usize]| {
            let (mut cache, mut at) = (KvCache::new(config).expect("valid"), 0);
            for &cut in cuts {
                cache
                    .append(part(0..width), part(width..2 * width), at..cut)
                    .expect("fits");
                at = cut;
            }
            cache
        };
        let whole = fill(&[200]);
        for cuts in [
            vec![1, 200],
            vec![63, 64, 65, 200],
            vec![64, 128, 200],
            (1..=200).collect(),
        ] {
            let pieces = fill(&cuts);
            assert_eq!(pieces.digests(), whole.digests());
            assert_eq!(pieces.bytes(), whole.bytes());
        }
    }
}
