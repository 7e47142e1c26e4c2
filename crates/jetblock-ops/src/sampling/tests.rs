//! Exempt from assert_bits_equal: a draw is a token id, and ids are compared.

use std::collections::HashSet;

use jetblock_simd::Cpu;
use jetblock_testing::*;

use super::*;

/// A draw without history: seed 1, sample 0, position 0.
fn draw<'a>(logits: &'a [f32], params: &'a SamplingParams) -> Sampling<'a> {
    Sampling {
        logits,
        params,
        prompt_ids: &[],
        output_ids: &[],
        seed: 1,
        sample_index: 0,
        position: 0,
    }
}

/// The token, checked to be the same from the definition and at every level.
fn token(sampling: Sampling) -> u32 {
    let want = sampling.reference();
    for_every_cpu(|cpu| assert_eq!(sampling.cpu(cpu), want, "{:?}", sampling.params));
    want.expect("valid arguments")
}

fn error(sampling: Sampling) -> String {
    let want = sampling.reference().expect_err("invalid");
    assert_eq!(sampling.cpu(&Cpu::single()), Err(want.clone()));
    want.to_string()
}

fn logits(seed: u32, count: usize) -> Vec<f32> {
    painted(seed, count).iter().map(|l| l * 4.0).collect()
}

/// Parameters that switch on one filter after another.
fn variants() -> Vec<SamplingParams> {
    let base = SamplingParams::default();
    let mut all = vec![SamplingParams::greedy(), base.clone()];
    for top_k in [0, 1, 7, 50, 5000] {
        for top_p in [1.0, 0.9, 0.3, 1e-20] {
            for min_p in [0.0, 0.05, 1.0] {
                all.push(SamplingParams {
                    top_k,
                    top_p,
                    min_p,
                    temperature: 0.8,
                    ..base.clone()
                });
            }
        }
    }
    all
}

#[test]
fn cpu_equals_reference() {
    for len in AWKWARD_LENGTHS {
        let mut l = logits(1, len);
        for (i, l) in l.iter_mut().enumerate().skip(1).filter(|(i, _)| i % 5 == 0) {
            *l = if i % 2 == 0 { f32::NEG_INFINITY } else { 0.5 };
        }
        for (i, params) in variants().iter().enumerate() {
            let sampling = Sampling {
                seed: 99,
                position: 1 << 33 | i as u64,
                ..draw(&l, params)
            };
            assert_eq!(
                sampling.cpu(&Cpu::single()),
                sampling.reference(),
                "V = {len}, {params:?}"
            );
        }
    }
    let l = logits(2, 1025);
    for params in variants() {
        token(draw(&l, &params));
    }
}

#[test]
fn a_wide_top_p_sorts_further_and_agrees() {
    // Flat logits: 95% of 3000 equal candidates is far past the first partial sort.
    let params = SamplingParams {
        top_p: 0.95,
        ..SamplingParams::default()
    };
    let l: Vec<f32> = painted(3, 3000).iter().map(|l| l * 0.01).collect();
    for position in 0..20 {
        let sampling = Sampling {
            position,
            ..draw(&l, &params)
        };
        assert_eq!(sampling.cpu(&Cpu::single()), sampling.reference());
    }
}

#[test]
fn greedy_ties_go_to_the_lower_id() {
    let params = SamplingParams::greedy();
    assert_eq!(token(draw(&[1.0, 3.0, 3.0, 2.0], &params)), 1);
    assert_eq!(
        token(draw(&[-1.0, -0.0, 0.0], &params)),
        1,
        "zeros compare equal"
    );
    assert_eq!(token(draw(&[f32::NEG_INFINITY, -7.0], &params)), 1);
}

#[test]
fn ties_at_the_edge_of_top_k_go_to_the_lower_id() {
    let params = SamplingParams {
        top_k: 2,
        ..SamplingParams::default()
    };
    let l = [-0.0, 5.0, 0.0, 0.0];
    let seen: HashSet<u32> = (0..2000)
        .map(|position| {
            token_fast(Sampling {
                position,
                ..draw(&l, &params)
            })
        })
        .collect();
    assert_eq!(seen, HashSet::from([0, 1]));
}

fn token_fast(sampling: Sampling) -> u32 {
    let token = sampling.cpu(&Cpu::single());
    assert_eq!(token, sampling.reference());
    token.expect("valid arguments")
}

#[test]
fn frequencies_follow_the_weights() {
    // Weights 1 : 2 : 1.
    let l = [0.0, std::f32::consts::LN_2, f32::NEG_INFINITY, 0.0];
    let params = SamplingParams::default();
    let mut counts = [0_u32; 4];
    for position in 0..8000 {
        counts[token_fast(Sampling {
            position,
            ..draw(&l, &params)
        }) as usize] += 1;
    }
    let near = |count: u32, expected: u32| count.abs_diff(expected) < 200;
    assert!(
        near(counts[0], 2000) && near(counts[1], 4000) && near(counts[3], 2000),
        "{counts:?}"
    );
    assert_eq!(counts[2], 0, "a logit of -inf has weight 0");
}

#[test]
fn small_weights_behind_a_large_one_are_reached() {
    // Each is below half a unit of f32 in the large one: a sum in f32 would never get past it.
    let mut l = vec![-17.5; 1 << 13];
    l[0] = 0.0;
    let params = SamplingParams::default();
    let with = |seed| Sampling {
        seed,
        ..draw(&l, &params)
    };
    // Together they have 2^-12.2 of the total, at its end.
    let seed = (0..).find(|&seed| with(seed).random() > u64::MAX - (u64::MAX >> 13));
    assert!(token(with(seed.expect("one of 8192"))) > 0);
}

#[test]
fn samples_positions_and_seeds_draw_apart() {
    let (l, params) = (logits(4, 1000), SamplingParams::default());
    let base = draw(&l, &params);
    let distinct = |draws: Vec<u32>| draws.into_iter().collect::<HashSet<_>>().len();
    assert!(
        distinct(
            (0..50)
                .map(|sample_index| token_fast(Sampling {
                    sample_index,
                    ..base
                }))
                .collect()
        ) > 20
    );
    assert!(
        distinct(
            (0..50)
                .map(|position| token_fast(Sampling { position, ..base }))
                .collect()
        ) > 20
    );
    assert!(
        distinct(
            (0..50)
                .map(|seed| token_fast(Sampling {
                    seed: seed << 32,
                    ..base
                }))
                .collect()
        ) > 20
    );
    assert_eq!(token(base), token(base), "a draw has no memory");
}

#[test]
fn top_p_reached_exactly_keeps_no_further_candidate() {
    // Four equal weights: half of the sum is reached exactly by two candidates.
    let l = [1.0; 4];
    let seen = |top_p: f32| -> HashSet<u32> {
        let params = SamplingParams {
            top_p,
            ..SamplingParams::default()
        };
        (0..300)
            .map(|position| {
                token_fast(Sampling {
                    position,
                    ..draw(&l, &params)
                })
            })
            .collect()
    };
    assert_eq!(seen(0.5), HashSet::from([0, 1]));
    assert_eq!(
        seen(0.5 + f32::EPSILON),
        HashSet::from([0, 1, 2]),
        "a little more needs one more"
    );
    assert_eq!(seen(0.25), HashSet::from([0]));
    assert_eq!(
        seen(f32::MIN_POSITIVE),
        HashSet::from([0]),
        "one candidate always remains"
    );
}

#[test]
fn min_p_is_relative_to_the_most_probable() {
    let l = [0.0, -0.6, -1.0, -5.0];
    let params = SamplingParams {
        min_p: 0.5,
        ..SamplingParams::default()
    };
    let seen: HashSet<u32> = (0..300)
        .map(|position| {
            token_fast(Sampling {
                position,
                ..draw(&l, &params)
            })
        })
        .collect();
    assert_eq!(
        seen,
        HashSet::from([0, 1]),
        "exp(-0.6) is above and exp(-1) below one half"
    );
}

#[test]
fn penalties_equal_the_definition() {
    let l = logits(5, 300);
    let prompt_ids: Vec<u32> = (0..200).map(|i| i * 7 % 300).collect();
    let output_ids: Vec<u32> = (0..400).map(|i| i * i % 60).collect();
    let base = SamplingParams::default();
    let penalised = [
        SamplingParams {
            repetition_penalty: 1.3,
            ..base.clone()
        },
        SamplingParams {
            repetition_penalty: 0.5,
            presence_penalty: -1.5,
            ..base.clone()
        },
        SamplingParams {
            frequency_penalty: 0.7,
            ..base.clone()
        },
        SamplingParams {
            presence_penalty: 0.9,
            frequency_penalty: -0.3,
            ..base.clone()
        },
        SamplingParams {
            logit_bias: vec![(3, 9.0), (299, -4.5)],
            repetition_penalty: 1.1,
            ..base.clone()
        },
        base,
    ];
    let mut tokens = Vec::new();
    for params in &penalised {
        for temperature in [0.0, 1.0] {
            let params = SamplingParams {
                temperature,
                ..params.clone()
            };
            for position in 0..40 {
                let sampling = Sampling {
                    prompt_ids: &prompt_ids,
                    output_ids: &output_ids,
                    position,
                    ..draw(&l, &params)
                };
                tokens.push(token_fast(sampling));
            }
        }
    }
    let rows: HashSet<&[u32]> = tokens.chunks(80).collect();
    assert_eq!(
        rows.len(),
        penalised.len(),
        "every penalty changes some token"
    );
}

#[test]
fn each_penalty_does_what_its_name_says() {
    let greedy = |params: SamplingParams, prompt_ids: &[u32], output_ids: &[u32]| {
        let params = SamplingParams {
            temperature: 0.0,
            ..params
        };
        token(Sampling {
            prompt_ids,
            output_ids,
            ..draw(&[2.0, 3.0, -1.0], &params)
        })
    };
    let base = SamplingParams::default;
    assert_eq!(greedy(base(), &[1], &[1]), 1);
    assert_eq!(
        greedy(
            SamplingParams {
                repetition_penalty: 2.0,
                ..base()
            },
            &[1],
            &[]
        ),
        0,
        "the prompt counts"
    );
    assert_eq!(
        greedy(
            SamplingParams {
                presence_penalty: 1.5,
                ..base()
            },
            &[1],
            &[]
        ),
        1,
        "the prompt does not count"
    );
    assert_eq!(
        greedy(
            SamplingParams {
                presence_penalty: 1.5,
                ..base()
            },
            &[],
            &[1]
        ),
        0
    );
    assert_eq!(
        greedy(
            SamplingParams {
                frequency_penalty: 0.6,
                ..base()
            },
            &[],
            &[1]
        ),
        1
    );
    assert_eq!(
        greedy(
            SamplingParams {
                frequency_penalty: 0.6,
                ..base()
            },
            &[],
            &[1, 1]
        ),
        0,
        "each occurrence counts"
    );
    assert_eq!(
        greedy(
            SamplingParams {
                logit_bias: vec![(2, 4.5)],
                ..base()
            },
            &[],
            &[]
        ),
        2
    );
}

#[test]
fn logits_without_a_finite_greatest_are_errors() {
    let (sampled, greedy) = (SamplingParams::default(), SamplingParams::greedy());
    let (inf, none) = (f32::INFINITY, f32::NEG_INFINITY);
    for params in [&sampled, &greedy] {
        assert_eq!(
            error(draw(&[0.0, 1.0, f32::NAN], params)),
            "sampling: logits [V] is NaN at index 2"
        );
    }
    let over = |got| {
        format!("sampling: greatest logit over temperature is {got}, expected a finite number")
    };
    assert_eq!(error(draw(&[none; 3], &sampled)), over("-inf"));
    assert_eq!(error(draw(&[], &sampled)), over("-inf"));
    assert_eq!(error(draw(&[inf, 0.0], &sampled)), over("inf"));
    assert_eq!(
        error(draw(&[none; 3], &greedy)),
        "sampling: greatest logit is -inf, expected a finite number"
    );
    let cold = SamplingParams {
        temperature: 1e-40,
        ..sampled
    };
    assert_eq!(error(draw(&[10.0, 0.0], &cold)), over("inf"));
}

#[test]
fn parameters_outside_their_domain_are_errors() {
    let base = SamplingParams::default();
    let message = |params: SamplingParams| error(draw(&[0.0; 4], &params));
    let with = |change: fn(&mut SamplingParams)| {
        let mut params = base.clone();
        change(&mut params);
        message(params)
    };
    assert_eq!(
        with(|p| p.temperature = -1.0),
        "sampling: temperature is -1, expected finite and >= 0"
    );
    assert_eq!(
        with(|p| p.temperature = f32::NAN),
        "sampling: temperature is NaN, expected finite and >= 0"
    );
    assert_eq!(
        with(|p| p.top_p = 0.0),
        "sampling: top_p is 0, expected in (0, 1]"
    );
    assert_eq!(
        with(|p| p.top_p = 1.5),
        "sampling: top_p is 1.5, expected in (0, 1]"
    );
    assert_eq!(
        with(|p| p.min_p = f32::NAN),
        "sampling: min_p is NaN, expected in [0, 1]"
    );
    assert_eq!(
        with(|p| p.repetition_penalty = 0.0),
        "sampling: repetition_penalty is 0, expected finite and > 0"
    );
    assert_eq!(
        with(|p| p.presence_penalty = f32::INFINITY),
        "sampling: presence_penalty is inf, expected finite"
    );
    assert_eq!(
        with(|p| p.logit_bias = vec![(1, 0.5), (1, 2.0)]),
        "sampling: logit_bias is id 1 twice, expected at most one bias for an id"
    );
    assert_eq!(
        with(|p| p.logit_bias = vec![(4, 0.5)]),
        "sampling: logit_bias is id 4, expected ids below V = 4"
    );
    let prompt = Sampling {
        prompt_ids: &[1, 9],
        ..draw(&[0.0; 4], &base)
    };
    assert_eq!(
        error(prompt),
        "sampling: prompt_ids is id 9, expected ids below V = 4"
    );
}
