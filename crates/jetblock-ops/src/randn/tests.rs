use jetblock_testing::*;

use super::*;
use crate::golden;

fn compute(op: Randn) -> Vec<f32> {
    let elements = op.seeds.len() * op.size.iter().product::<usize>();
    let mut want = Guarded::new(elements);
    op.reference(&mut want).expect("valid arguments");
    want.assert_intact();
    for_every_cpu(|cpu| {
        let mut out = Guarded::new(elements);
        op.cpu(&mut out, cpu).expect("valid arguments");
        out.assert_intact();
        assert_bits_equal(format!("{op:?}"), &out, &want);
    });
    want.to_vec()
}

const OP: Randn = Randn {
    seeds: &[7],
    images: &[0],
    step: 0,
    size: [4, 1, 9, 9],
};

#[test]
fn cpu_equals_reference() {
    for width in AWKWARD_LENGTHS {
        let size = [2, 2, 3, width];
        compute(Randn {
            seeds: &[1, 1 << 63],
            images: &[3, u32::MAX],
            step: (1 << 24) - 1,
            size,
        });
    }
    assert!(
        compute(Randn {
            size: [3, 1, 0, 5],
            ..OP
        })
        .is_empty()
    );
}

#[test]
fn every_part_of_the_key_counts() {
    let one = compute(OP);
    for (what, other) in [
        ("seed", Randn { seeds: &[8], ..OP }),
        (
            "high half of the seed",
            Randn {
                seeds: &[7 | 1 << 32],
                ..OP
            },
        ),
        ("image", Randn { images: &[1], ..OP }),
        ("step", Randn { step: 1, ..OP }),
    ] {
        assert_bits_differ(what, &compute(other), &one);
    }
    // All 324 places differ, as do channels, frames and rows of a larger image.
    let larger = compute(Randn {
        size: [3, 3, 5, 70],
        ..OP
    });
    for values in [one, larger] {
        let mut bits: Vec<u32> = values.iter().map(|y| y.to_bits()).collect();
        bits.sort_unstable();
        bits.dedup();
        assert!(
            bits.len() + 2 >= values.len(),
            "{} of {}",
            bits.len(),
            values.len()
        );
    }
}

#[test]
fn neither_batch_nor_size_changes_an_element() {
    let one = compute(OP);
    let batch = compute(Randn {
        seeds: &[9, 7, 7],
        images: &[0, 0, 4],
        ..OP
    });
    assert_bits_equal("second of a batch", &batch[324..648], &one);
    assert_bits_differ("another image", &batch[648..], &one);
    let larger = compute(Randn {
        size: [5, 2, 11, 13],
        ..OP
    });
    for (index, expected) in one.iter().enumerate() {
        let (channel, y, x) = (index / 81, index / 9 % 9, index % 9);
        let at = ((channel * 2) * 11 + y) * 13 + x;
        assert_eq!(larger[at].to_bits(), expected.to_bits(), "{index}");
    }
}

#[test]
fn the_distribution_is_normal() {
    let n = 1 << 18;
    let y = compute(Randn {
        size: [1, 1, 4, n / 4],
        ..OP
    });
    let moment = |power: i32| {
        let sum: f64 = y.iter().map(|&y| f64::from(y).powi(power)).sum();
        sum / n as f64
    };
    // Six standard errors of each moment.
    let error = 6.0 / (n as f64).sqrt();
    for (power, expected, deviation) in [
        (1, 0.0, 1.0),
        (2, 1.0, 2f64.sqrt()),
        (3, 0.0, 15f64.sqrt()),
        (4, 3.0, 96f64.sqrt()),
    ] {
        let got = moment(power);
        assert!(
            (got - expected).abs() < error * deviation,
            "moment {power} is {got}"
        );
    }
    let share = |limit: f32| y.iter().filter(|y| y.abs() > limit).count() as f64 / n as f64;
    for (limit, expected) in [(1.0, 0.317_310_5), (2.0, 0.045_500_3), (3.0, 0.002_699_8)] {
        let got = share(limit);
        let deviation = (expected * (1.0 - expected) / n as f64).sqrt();
        assert!(
            (got - expected).abs() < 6.0 * deviation,
            "{got} beyond {limit}"
        );
    }
    // Neighbours, the two of a pair and the pairs of a block are uncorrelated.
    for lag in [1, 2, 3, 4, n / 4] {
        let pairs = y.iter().zip(&y[lag..]);
        let products: f64 = pairs.map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
        let correlation = products / (n - lag) as f64;
        assert!(correlation.abs() < error, "lag {lag}: {correlation}");
    }
}

#[test]
fn golden_v1() {
    let entries = golden::entries("randn");
    assert!(entries.len() >= 3, "{} entries", entries.len());
    for entry in &entries {
        let (seed, high) = (entry.int("seed") as u64, entry.int("seed_high") as u64);
        let y = compute(Randn {
            seeds: &[high << 32 | seed],
            images: &[entry.int("image") as u32],
            step: entry.int("step") as u32,
            size: entry.ints("size"),
        });
        entry.check(&y);
    }
}

#[test]
fn errors_name_argument_expected_and_got() {
    let message = |op: Randn| {
        op.reference(&mut [0.0; 324])
            .expect_err("invalid")
            .to_string()
    };
    assert_eq!(
        message(Randn {
            images: &[1, 2],
            ..OP
        }),
        "randn: images [B] has 2 elements, expected 1"
    );
    assert_eq!(
        message(Randn {
            step: 1 << 24,
            ..OP
        }),
        "randn: step is 16777216, expected below 2^24"
    );
    assert_eq!(
        message(Randn {
            size: [4, 1, 1 << 17, 9],
            ..OP
        }),
        "randn: size [C, T, H, W] is [4, 1, 131072, 9], expected at most [65536, 65536, 65536, 262144]"
    );
    assert_eq!(
        message(Randn {
            size: [4, 1, 9, 8],
            ..OP
        }),
        "randn: out [B, C, T, H, W] has 324 elements, expected 288"
    );
}
