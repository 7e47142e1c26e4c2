use jetblock_simd::{Cpu, fp_env};
use jetblock_testing::*;

use super::*;
use crate::Segment;

fn plain(theta: f64, rotary_dim: usize) -> RopeConfig {
    RopeConfig {
        theta,
        rotary_dim,
        scaling: RopeScaling::None,
    }
}

/// Rows of three sequences at different positions.
fn segments() -> [Segment; 3] {
    [
        Segment {
            rows: 0..5,
            start: 0,
        },
        Segment {
            rows: 5..6,
            start: 1_000_003,
        },
        Segment {
            rows: 6..9,
            start: 254,
        },
    ]
}

fn table(config: &RopeConfig, segments: &[Segment]) -> RopeTable {
    let mut table = RopeTable::default();
    table.fill(&config.inverse_frequencies().expect("valid"), segments);
    table
}

fn reference(op: &Rope, x: &[f32]) -> Vec<f32> {
    let mut y = Guarded::new(x.len());
    y.copy_from_slice(x);
    op.reference(&mut y).expect("valid arguments");
    y.assert_intact();
    y.to_vec()
}

#[test]
fn cpu_equals_reference() {
    for (rotary_dim, head_dim, heads) in [
        (2, 2, 1),
        (2, 5, 3),
        (30, 34, 2),
        (64, 64, 9),
        (66, 67, 1),
        (128, 256, 3),
        (130, 130, 40),
    ] {
        let table = table(&plain(10_000.0, rotary_dim), &segments());
        let op = Rope {
            table: &table,
            head_dim,
        };
        let len = 9 * heads * head_dim;
        for x in [
            painted(1, len),
            painted_wide(2, len),
            painted_special(3, len, 30),
        ] {
            let want = reference(&op, &x);
            assert_bits_differ("the turn", &want, &x);
            for_every_cpu(|cpu| {
                let mut y = Guarded::new(len);
                y.copy_from_slice(&x);
                op.cpu(&mut y, cpu).expect("valid arguments");
                assert_bits_equal(
                    format!("{heads} heads of {head_dim}, {rotary_dim} turn"),
                    &y,
                    &want,
                );
                y.assert_intact();
            });
        }
    }
}

#[test]
#[allow(
    clippy::disallowed_methods,
    reason = "the platform's f64 is the independent witness"
)]
fn the_definition_is_close_to_f64_and_keeps_the_rest() {
    let (rotary_dim, head_dim) = (30, 34);
    let config = plain(500_000.0, rotary_dim);
    let table = table(&config, &segments());
    let x = painted(4, 9 * head_dim);
    let y = reference(
        &Rope {
            table: &table,
            head_dim,
        },
        &x,
    );
    let positions = [0, 1, 2, 3, 4, 1_000_003, 254, 255, 256];
    for (row, position) in positions.into_iter().enumerate() {
        let (x, y) = (&x[row * head_dim..], &y[row * head_dim..]);
        assert_bits_equal(
            "the rest",
            &y[rotary_dim..head_dim],
            &x[rotary_dim..head_dim],
        );
        if position == 0 {
            assert_bits_equal("position 0", &y[..head_dim], &x[..head_dim]);
        }
        for i in 0..rotary_dim / 2 {
            let frequency = 500_000_f64.powf(-2.0 * i as f64 / rotary_dim as f64);
            let (sin, cos) = (f64::from(position) * frequency).sin_cos();
            let (a, b) = (f64::from(x[i]), f64::from(x[i + rotary_dim / 2]));
            let errors = [
                a * cos - b * sin - f64::from(y[i]),
                b * cos + a * sin - f64::from(y[i + rotary_dim / 2]),
            ];
            assert!(
                errors.iter().all(|e| e.abs() < 4e-7),
                "{position}, {i}: {errors:?}"
            );
        }
    }
}

#[test]
fn a_row_depends_on_its_own_position_only() {
    let config = plain(10_000.0, 64);
    let all = table(&config, &segments());
    let x = painted(5, 9 * 64);
    let turn = |table: &RopeTable, x: &[f32]| {
        let op = Rope {
            table,
            head_dim: 64,
        };
        reference(&op, x)
    };
    let want = turn(&all, &x);
    for (row, start) in [(3, 3), (5, 1_000_003), (8, 256)] {
        let alone = [Segment { rows: 0..1, start }];
        let range = row * 64..(row + 1) * 64;
        let y = turn(&table(&config, &alone), &x[range.clone()]);
        assert_bits_equal(format!("row {row}"), &y, &want[range]);
    }
}

#[test]
fn rounding_points_are_felt() {
    let table = table(&plain(10_000.0, 64), &segments());
    let x = painted(6, 9 * 64);
    let want = reference(
        &Rope {
            table: &table,
            head_dim: 64,
        },
        &x,
    );
    let mut unfused = x.clone();
    let mut neighbours = x.clone();
    for (row, _) in x.chunks(64).enumerate() {
        let (cos, sin) = table.row(row);
        for i in 0..32 {
            let (a, b) = (x[row * 64 + i], x[row * 64 + i + 32]);
            unfused[row * 64 + i] = a * cos[i] - b * sin[i];
            unfused[row * 64 + i + 32] = b * cos[i] + a * sin[i];
            let (a, b) = (x[row * 64 + 2 * i], x[row * 64 + 2 * i + 1]);
            neighbours[row * 64 + 2 * i] = a * cos[i] - b * sin[i];
            neighbours[row * 64 + 2 * i + 1] = b * cos[i] + a * sin[i];
        }
    }
    assert_bits_differ("three roundings", &unfused, &want);
    assert_bits_differ("pairs of neighbours", &neighbours, &want);
}

#[test]
fn frequencies_are_stretched_as_their_authors_say() {
    let frequencies = |scaling| {
        RopeConfig {
            theta: 500_000.0,
            rotary_dim: 128,
            scaling,
        }
        .inverse_frequencies()
        .expect("valid")
    };
    let plain = frequencies(RopeScaling::None);
    assert_eq!(plain[0], 1.0);
    let linear = frequencies(RopeScaling::Linear { factor: 4.0 });
    assert!(plain.iter().zip(&linear).all(|(p, l)| p / 4.0 == *l));
    let factors: Vec<f32> = (1..=64).map(|i| i as f32).collect();
    let own = frequencies(RopeScaling::Factors(factors));
    assert!((0..64).all(|i| own[i] == plain[i] / (i + 1) as f64));
    // Llama 3.1, with figures from transformers 5 (_compute_llama3_parameters, f32).
    let llama3 = frequencies(RopeScaling::Llama3 {
        factor: 8.0,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_max_position_embeddings: 8192,
    });
    assert_eq!(llama3[28], plain[28], "short waves are kept");
    assert_eq!(llama3[40], plain[40] / 8.0, "long waves are stretched");
    for (i, want) in LLAMA3 {
        assert!(
            (llama3[i] - want).abs() < 1e-6 * want,
            "{i}: {} and {want}",
            llama3[i]
        );
    }
}

/// (pair, radians per position) of the ramp.
const LLAMA3: [(usize, f64); 4] = [
    (29, 0.002_166_570_629_924_536),
    (31, 0.000_856_751_459_450_695_3),
    (33, 0.000_312_693_649_902_939_8),
    (34, 0.000_178_507_791_133_597_5),
];

#[test]
fn golden_bits_v1() {
    let table = table(
        &plain(10_000.0, 4),
        &[Segment {
            rows: 0..2,
            start: 7,
        }],
    );
    let y = reference(
        &Rope {
            table: &table,
            head_dim: 5,
        },
        &painted(1, 10),
    );
    assert_bits_equal("golden", &y, &GOLDEN.map(f32::from_bits));
}

/// From the second implementation.
const GOLDEN: [u32; 10] = [
    0x403084DC, 0xBED311E7, 0xBE7E1EB5, 0xBE7E7C41, 0xBF2ACD88, 0x3F802B25, 0xBF80F848, 0x3E0D274E,
    0x3F171206, 0x3EF3060A,
];

#[test]
fn the_callers_rounding_mode_does_not_matter() {
    let config = plain(10_000.0, 64);
    let x = painted(7, 9 * 64);
    let good = table(&config, &segments());
    let want = reference(
        &Rope {
            table: &good,
            head_dim: 64,
        },
        &x,
    );
    std::thread::scope(|scope| {
        scope.spawn(|| {
            fp_env::disturb_for_tests();
            let table = table(&config, &segments());
            let op = Rope {
                table: &table,
                head_dim: 64,
            };
            assert_bits_differ("the definition without a guard", &reference(&op, &x), &want);
            let mut y = x.clone();
            op.cpu(&mut y, &Cpu::single()).expect("valid arguments");
            assert_bits_equal("disturbed thread", &y, &want);
        });
    });
}

#[test]
fn errors_name_argument_expected_and_got() {
    let table = table(&plain(10_000.0, 4), &segments());
    let message = |head_dim, len| {
        Rope {
            table: &table,
            head_dim,
        }
        .reference(&mut vec![0.0; len])
        .expect_err("invalid")
        .to_string()
    };
    assert_eq!(
        message(2, 18),
        "rope: rotary_dim is 4, expected at most head_dim = 2"
    );
    assert_eq!(
        message(4, 37),
        "rope: x [M, H, head_dim] has 37 elements, expected 36"
    );
    assert_eq!(
        message(4, 45),
        "rope: row of x [H, head_dim] is 5, expected a multiple of head_dim = 4"
    );
    let refusal = |config: RopeConfig| config.check().expect_err("invalid").to_string();
    assert_eq!(
        refusal(plain(0.0, 4)),
        "rope: theta is 0, expected above 0 and finite"
    );
    assert_eq!(
        refusal(plain(1.0, 5)),
        "rope: rotary_dim is 5, expected even, at least 2"
    );
    assert_eq!(
        refusal(RopeConfig {
            scaling: RopeScaling::Factors(vec![1.0]),
            ..plain(1.0, 4)
        }),
        "rope: factors has 1 elements, expected 2"
    );
    assert!(
        RopeConfig {
            scaling: RopeScaling::Linear { factor: f64::NAN },
            ..plain(1.0, 4)
        }
        .check()
        .is_err()
    );
}
