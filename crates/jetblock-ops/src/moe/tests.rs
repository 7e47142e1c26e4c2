use jetblock_simd::Cpu;
use jetblock_testing::*;
use proptest::prelude::*;

use super::*;

mod experts;

const NEMOTRON: RouterConfig = RouterConfig {
    n_routed_experts: 128,
    num_experts_per_tok: 6,
    n_group: 1,
    topk_group: 1,
    norm_topk_prob: true,
    routed_scaling_factor: 2.5,
};

fn segment(rows: usize, start: usize) -> Segment {
    Segment {
        rows: 0..rows,
        start,
    }
}

fn reference(router: &Router) -> Routes {
    let mut routes = Routes::default();
    router.reference(&mut routes).expect("valid arguments");
    routes
}

fn on_cpu(router: &Router, cpu: &Cpu) -> Routes {
    // Left over from another call: must not show.
    let mut routes = Routes {
        per_row: 9,
        experts: vec![7; 5],
        weights: vec![f32::NAN; 3],
    };
    router.cpu(&mut routes, cpu).expect("valid arguments");
    routes
}

fn assert_routes_equal(what: &str, got: &Routes, want: &Routes) {
    assert_eq!(got.per_row, want.per_row, "{what}");
    assert_bits_equal(format!("{what}: experts"), &got.experts, &want.experts);
    assert_bits_equal(format!("{what}: weights"), &got.weights, &want.weights);
}

#[test]
fn cpu_equals_reference() {
    let configs = [
        NEMOTRON,
        RouterConfig {
            norm_topk_prob: false,
            ..NEMOTRON
        },
        RouterConfig {
            n_group: 8,
            topk_group: 3,
            ..NEMOTRON
        },
        RouterConfig {
            n_routed_experts: 21,
            n_group: 7,
            topk_group: 7,
            num_experts_per_tok: 21,
            ..NEMOTRON
        },
        RouterConfig {
            n_routed_experts: 5,
            n_group: 5,
            topk_group: 2,
            num_experts_per_tok: 2,
            ..NEMOTRON
        },
        RouterConfig {
            n_routed_experts: 1,
            num_experts_per_tok: 1,
            ..NEMOTRON
        },
    ];
    for config in &configs {
        let experts = config.n_routed_experts;
        let rows = 150;
        let bias = painted(6, experts);
        for tie in [TieRule::LowestId, TieRule::Hash { layer: 3 }] {
            let logits: Vec<f32> = painted_wide(5, rows * experts);
            let segments = [
                segment(100, 17),
                Segment {
                    rows: 100..150,
                    start: 0,
                },
            ];
            let router = Router {
                logits: &logits,
                e_score_correction_bias: &bias,
                segments: &segments,
                config,
                tie,
            };
            let want = reference(&router);
            for_every_cpu(|cpu| assert_routes_equal("router", &on_cpu(&router, cpu), &want));
        }
    }
}

#[test]
fn the_bias_chooses_but_does_not_weigh() {
    let config = RouterConfig {
        n_routed_experts: 3,
        num_experts_per_tok: 1,
        norm_topk_prob: false,
        routed_scaling_factor: 1.0,
        ..NEMOTRON
    };
    let segments = [segment(1, 0)];
    let router = |bias| Router {
        logits: &[0.0, 1.0, -1.0],
        e_score_correction_bias: bias,
        segments: &segments,
        config: &config,
        tie: TieRule::LowestId,
    };
    assert_eq!(reference(&router(&[0.0; 3])).experts, [1]);
    let biased = reference(&router(&[0.5, 0.0, f32::NEG_INFINITY]));
    assert_eq!((biased.experts, biased.weights), (vec![0], vec![0.5]));
}

#[test]
fn ties_follow_the_rule() {
    let config = &NEMOTRON;
    let rows = 200;
    let (logits, bias) = (vec![0.25; rows * 128], vec![0.0; 128]);
    let segments = [segment(rows, 40)];
    let router = Router {
        logits: &logits,
        e_score_correction_bias: &bias,
        segments: &segments,
        config,
        tie: TieRule::LowestId,
    };
    let lowest = reference(&router);
    assert!(
        lowest
            .experts
            .chunks(6)
            .all(|row| row == [0, 1, 2, 3, 4, 5])
    );
    let hashed = |layer| Router {
        tie: TieRule::Hash { layer },
        ..router
    };
    let routes = reference(&hashed(2));
    assert_bits_differ(
        "another layer",
        &reference(&hashed(3)).experts,
        &routes.experts,
    );
    // By the definition: the six lowest hashes of the row's position.
    for (row, experts) in routes.experts.chunks(6).enumerate() {
        let hash = |e: u32| philox4x32([e, 40 + row as u32, 2, 0], [0x4A42_4D45, 0])[0];
        let mut order: Vec<u32> = (0..128).collect();
        order.sort_by_key(|&e| hash(e));
        let mut want = order[..6].to_vec();
        want.sort_unstable();
        assert_eq!(experts, want);
    }
    let used: std::collections::BTreeSet<u32> = routes.experts.iter().copied().collect();
    assert_eq!(used.len(), 128, "hashed ties reach every expert");
}

#[test]
fn invalid_arguments_are_named() {
    let error = |config: RouterConfig| config.check().expect_err("must be refused").to_string();
    assert_eq!(
        error(RouterConfig {
            n_group: 3,
            ..NEMOTRON
        }),
        "router: n_group is 3, expected a divisor of 128 experts"
    );
    assert!(
        error(RouterConfig {
            topk_group: 2,
            ..NEMOTRON
        })
        .contains("1 to n_group = 1")
    );
    assert!(
        error(RouterConfig {
            n_group: 64,
            topk_group: 2,
            ..NEMOTRON
        })
        .contains("1 to 4 candidates")
    );
    assert!(
        error(RouterConfig {
            num_experts_per_tok: 0,
            ..NEMOTRON
        })
        .contains("num_experts_per_tok is 0")
    );
    assert!(
        error(RouterConfig {
            routed_scaling_factor: f32::NAN,
            ..NEMOTRON
        })
        .contains("finite")
    );

    let (mut logits, mut bias) = (vec![0.0; 256], vec![0.0; 128]);
    let config = RouterConfig {
        n_group: 64,
        topk_group: 60,
        ..NEMOTRON
    };
    let segments = [segment(2, 0)];
    let check = |logits: &[f32], bias: &[f32]| {
        let router = Router {
            logits,
            e_score_correction_bias: bias,
            segments: &segments,
            config: &config,
            tie: TieRule::LowestId,
        };
        router.check().map_err(|e| e.to_string())
    };
    assert_eq!(check(&logits, &bias), Ok(()));
    bias[0] = f32::INFINITY;
    assert_eq!(check(&logits, &bias), Ok(()));
    bias[1] = f32::NEG_INFINITY;
    assert_eq!(
        check(&logits, &bias),
        Err("router: the score of a group is NaN at index 0".into())
    );
    bias[1] = f32::NAN;
    assert_eq!(
        check(&logits, &bias),
        Err("router: e_score_correction_bias [E] is NaN at index 1".into())
    );
    logits[129] = f32::NAN;
    assert_eq!(
        check(&logits, &bias),
        Err("router: logits [R, E] is NaN at index 129".into())
    );
}

prop_compose! {
    /// A router whose logits take few values, so that most picks are tied.
    fn tied_router()(
        size in 1..5_usize,
        n_group in 1..5_usize,
        rows in 0..6_usize,
        values in 1..5_u32,
        seed in any::<u32>(),
        hash in any::<bool>(),
        start in 0..1000_usize,
        scale in prop::sample::select(vec![1.0_f32, 2.5, -1.0]),
        norm_topk_prob in any::<bool>(),
    )(
        topk_group in 1..=n_group,
        k in 1..=size,
        size in Just(size),
        n_group in Just(n_group),
        rows in Just(rows),
        values in Just(values),
        seed in Just(seed),
        hash in Just(hash),
        start in Just(start),
        scale in Just(scale),
        norm_topk_prob in Just(norm_topk_prob),
    ) -> Case {
        let experts = size * n_group;
        let pick = |seed: u32, i: usize| (jetblock_numerics::paint::hash(seed, i as u32) % values) as f32 - 1.0;
        Case {
            config: RouterConfig {
                n_routed_experts: experts,
                num_experts_per_tok: (k * topk_group).min(experts),
                n_group,
                topk_group,
                norm_topk_prob,
                routed_scaling_factor: scale,
            },
            logits: (0..rows * experts).map(|i| pick(seed, i)).collect(),
            bias: (0..experts).map(|i| pick(!seed, i)).collect(),
            start,
            tie: if hash { TieRule::Hash { layer: seed % 7 } } else { TieRule::LowestId },
        }
    }
}

#[derive(Debug)]
struct Case {
    config: RouterConfig,
    logits: Vec<f32>,
    bias: Vec<f32>,
    start: usize,
    tie: TieRule,
}

impl Case {
    fn rows(&self) -> usize {
        self.logits.len() / self.config.n_routed_experts
    }

    fn with<T>(&self, logits: &[f32], segments: &[Segment], f: impl Fn(&Router) -> T) -> T {
        f(&Router {
            logits,
            e_score_correction_bias: &self.bias,
            segments,
            config: &self.config,
            tie: self.tie,
        })
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12_000, ..ProptestConfig::default() })]

    #[test]
    fn tied_rows_are_routed_alike(case in tied_router()) {
        let (rows, experts, k) = (case.rows(), case.config.n_routed_experts, case.config.num_experts_per_tok);
        let segments = [segment(rows, case.start)];
        let want = case.with(&case.logits, &segments, reference);
        let got = case.with(&case.logits, &segments, |router| on_cpu(router, &cpus()[case.start % 2]));
        assert_routes_equal("cpu", &got, &want);
        prop_assert!(got.experts.chunks_exact(k).all(|row| row.is_sorted_by(|a, b| a < b)));

        // Rows in reverse order, each its own sequence at its old position: every row keeps its route.
        let reversed: Vec<f32> = case.logits.chunks_exact(experts).rev().flatten().copied().collect();
        let alone: Vec<Segment> =
            (0..rows).map(|i| Segment { rows: i..i + 1, start: case.start + rows - 1 - i }).collect();
        let back = case.with(&reversed, &alone, |router| on_cpu(router, &cpus()[0]));
        let back: Vec<u32> = back.experts.chunks_exact(k).rev().flatten().copied().collect();
        assert_bits_equal("reversed", &back, &want.experts);
    }

    #[test]
    fn dispatch_lists_every_route_once(case in tied_router()) {
        let (experts, k) = (case.config.n_routed_experts, case.config.num_experts_per_tok);
        let routes = case.with(&case.logits, &[segment(case.rows(), case.start)], reference);
        let mut dispatch = Dispatch::default();
        // Buffers left over from another layer must not show.
        dispatch.fill(&Routes { per_row: 1, experts: vec![1; 9], weights: vec![0.5; 9] }, 2).expect("valid");
        dispatch.fill(&routes, experts).expect("valid routes");
        let mut want = Vec::new();
        for e in 0..experts as u32 {
            for (i, chosen) in routes.experts.iter().enumerate() {
                if *chosen == e {
                    want.push((e, (i / k) as u32, routes.weights[i].to_bits()));
                }
            }
        }
        let mut got = Vec::new();
        for e in 0..experts {
            let bits = |slot: usize| dispatch.weights()[slot].to_bits();
            got.extend(dispatch.slots(e).map(|slot| (e as u32, dispatch.rows()[slot], bits(slot))));
        }
        prop_assert_eq!(got, want);
    }
}
