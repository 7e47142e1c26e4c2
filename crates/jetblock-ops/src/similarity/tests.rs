use jetblock_testing::painted;

use super::*;
use crate::golden;

/// Pixels that look like nothing in particular.
fn image(height: usize, width: usize, channels: usize, seed: usize) -> Vec<f32> {
    (0..height * width * channels)
        .map(|i| ((i * 7919 + seed * 104_729) % 1009) as f32 / 1009.0)
        .collect()
}

fn found(left: &[f32], right: &[f32], height: usize, width: usize, channels: usize) -> Found {
    let op = Similarity {
        left,
        right,
        height,
        width,
        channels,
    };
    op.reference().expect("valid arguments")
}

/// The formula of the paper, window by window, from centred values.
fn ssim_by_definition(
    left: &[f32],
    right: &[f32],
    height: usize,
    width: usize,
    channels: usize,
) -> f64 {
    let mut all = Vec::new();
    for c in 0..channels {
        for y in 0..=height - WINDOW {
            for x in 0..=width - WINDOW {
                let window = |image: &[f32]| -> Vec<f64> {
                    (0..WINDOW * WINDOW)
                        .map(|i| {
                            let (row, column) = (y + i / WINDOW, x + i % WINDOW);
                            f64::from(image[(row * width + column) * channels + c])
                        })
                        .collect()
                };
                let (l, r) = (window(left), window(right));
                let mean = |v: &[f64]| v.iter().sum::<f64>() / v.len() as f64;
                let (mean_l, mean_r) = (mean(&l), mean(&r));
                let covariance = |a: &[f64], b: &[f64]| {
                    let (mean_a, mean_b) = (mean(a), mean(b));
                    let sum: f64 = a
                        .iter()
                        .zip(b)
                        .map(|(a, b)| (a - mean_a) * (b - mean_b))
                        .sum();
                    sum / (a.len() - 1) as f64
                };
                let (c1, c2) = (1e-4, 9e-4);
                all.push(
                    (2.0 * mean_l * mean_r + c1) * (2.0 * covariance(&l, &r) + c2)
                        / ((mean_l * mean_l + mean_r * mean_r + c1)
                            * (covariance(&l, &l) + covariance(&r, &r) + c2)),
                );
            }
        }
    }
    all.iter().sum::<f64>() / all.len() as f64
}

#[test]
fn equal_images_are_equal() {
    let x = image(9, 11, 3, 1);
    let same = found(&x, &x, 9, 11, 3);
    assert_eq!(
        same,
        Found {
            mse: 0.0,
            ssim: 1.0
        }
    );
    assert!(found(&x, &image(9, 11, 3, 2), 9, 11, 3).ssim < 0.5);
}

#[test]
fn mse_of_a_shift_is_its_square() {
    let x = vec![0.25; 8 * 8];
    let y = vec![0.75; 8 * 8];
    assert_eq!(found(&x, &y, 8, 8, 1).mse, 0.25);
}

#[test]
fn ssim_is_the_formula() {
    for (height, width, channels) in [(7, 7, 1), (9, 13, 3), (16, 8, 2)] {
        let left = image(height, width, channels, 3);
        let mut right = left.clone();
        for (i, value) in right.iter_mut().enumerate() {
            *value = 0.9 * *value + 0.1 * (i % 5) as f32 / 5.0;
        }
        let want = ssim_by_definition(&left, &right, height, width, channels);
        let got = found(&left, &right, height, width, channels).ssim;
        assert!((got - want).abs() < 1e-12, "{got} {want}");
        assert!((0.1..0.999).contains(&got), "{got} says nothing");
    }
}

/// Numbers of binary64 enter the digest as pairs of words, the low one first.
#[test]
fn golden_v1() {
    let entries = golden::entries("similarity");
    assert!(entries.len() >= 2, "{} entries", entries.len());
    for entry in &entries {
        let [height, width, channels] = entry.ints("size");
        let [left, right] = [0, 1].map(|i| painted(entry.seed() + i, height * width * channels));
        let found = found(&left, &right, height, width, channels);
        let bits = [found.mse, found.ssim].map(f64::to_bits);
        let words = bits.map(|bits| [bits as u32, (bits >> 32) as u32].map(f32::from_bits));
        entry.check(words.as_flattened());
    }
}

#[test]
fn bad_arguments() {
    let x = image(9, 9, 1, 1);
    let message = |left: &[f32], right: &[f32], height, width, channels| {
        let op = Similarity {
            left,
            right,
            height,
            width,
            channels,
        };
        op.reference().expect_err("bad arguments").to_string()
    };
    assert_eq!(
        message(&x, &x, 6, 9, 1),
        "similarity: height is 6, expected at least 7 pixels"
    );
    assert_eq!(
        message(&x, &x[1..], 9, 9, 1),
        "similarity: right [H, W, C] has 80 elements, expected 81"
    );
    assert_eq!(
        message(&x, &x, 9, 9, 0),
        "similarity: channels is 0, expected at least 1"
    );
    let mut with_nan = x.clone();
    with_nan[5] = f32::NAN;
    assert_eq!(
        message(&x, &with_nan, 9, 9, 1),
        "similarity: right [H, W, C] is NaN at index 5"
    );
}
