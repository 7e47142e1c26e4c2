//! The weighted sum of experts, alone and with their MLPs.

use jetblock_numerics::{canonical, fma, math, reduce};
use jetblock_tensor::DType;

use super::*;
use crate::linear::{OperandKind, PackedMatrix, Prepared, WeightRows, grouped_linear};

/// Routes of `rows` rows to `k` of `experts` experts, painted.
fn painted_routes(rows: usize, k: usize, experts: u32) -> Routes {
    let mut chosen = Vec::new();
    for row in 0..rows as u32 {
        let mut all: Vec<u32> = (0..experts).collect();
        all.sort_by_key(|&e| jetblock_numerics::paint::hash(row, e));
        all.truncate(k);
        all.sort_unstable();
        chosen.extend(all);
    }
    Routes {
        per_row: k,
        weights: painted(8, chosen.len()),
        experts: chosen,
    }
}

#[test]
fn combine_equals_reference() {
    for width in AWKWARD_LENGTHS {
        let routes = painted_routes(37, 3, 11);
        let mut dispatch = Dispatch::default();
        dispatch.fill(&routes, 11).expect("valid routes");
        let slots = dispatch.rows().len();
        for y in [
            painted_wide(9, slots * width),
            painted_special(9, slots * width, 40),
        ] {
            let mut want = vec![0.0; 37 * width];
            dispatch.combine_reference(0..slots, &y, width, &mut want);
            for_every_cpu(|cpu| {
                let mut out = Guarded::new(37 * width);
                out.fill(0.0);
                dispatch
                    .combine(0..slots, &y, width, &mut out, cpu)
                    .expect("valid arguments");
                assert_bits_equal(format!("D = {width}"), &out, &want);
            });
        }
    }
}

struct Model {
    kind: OperandKind,
    up: Vec<Vec<f32>>,
    down: Vec<Vec<f32>>,
}

const IN: usize = 9;
const HIDDEN: usize = 21;
const OUT: usize = 17;

impl Model {
    fn new(kind: OperandKind, experts: u32) -> Model {
        let up = (0..experts)
            .map(|e| painted(100 + e, HIDDEN * IN))
            .collect();
        let down = (0..experts)
            .map(|e| painted(200 + e, OUT * HIDDEN))
            .collect();
        Model { kind, up, down }
    }

    fn packed(&self, weights: &[Vec<f32>], k: usize) -> Vec<PackedMatrix> {
        let pack = |w: &Vec<f32>| {
            let bytes: Vec<u8> = w.iter().flat_map(|x| x.to_le_bytes()).collect();
            let rows = WeightRows {
                dtype: DType::F32,
                rows: w.len() / k,
                bytes: &bytes,
            };
            PackedMatrix::pack(self.kind, &[rows], k, &mut |_, _| {}).expect("valid weights")
        };
        weights.iter().map(pack).collect()
    }

    fn dot(&self, x: &[f32], w: &[f32]) -> f32 {
        let operands = |x: &[f32]| {
            x.iter()
                .map(|&x| jetblock_numerics::round::bf16_operand(x))
                .collect::<Vec<_>>()
        };
        match self.kind {
            OperandKind::F32 => reduce::dot_f32(x, w),
            OperandKind::Bf16 => reduce::dot_bf16(&operands(x), &operands(w)),
        }
    }

    /// Row by row, expert by expert; `descending` breaks the rule of order.
    fn reference(&self, x: &[f32], routes: &Routes, descending: bool) -> Vec<f32> {
        let mut out = Vec::new();
        for (row, x) in x.chunks_exact(IN).enumerate() {
            let mut acc = [0.0_f32; OUT];
            let mut slots: Vec<usize> =
                (row * routes.per_row..(row + 1) * routes.per_row).collect();
            if descending {
                slots.reverse();
            }
            for slot in slots {
                let e = routes.experts[slot] as usize;
                let hidden: Vec<f32> = self.up[e]
                    .chunks_exact(IN)
                    .map(|w| math::relu2(self.dot(x, w)))
                    .collect();
                for (acc, w) in acc.iter_mut().zip(self.down[e].chunks_exact(HIDDEN)) {
                    *acc = canonical(fma(routes.weights[slot], self.dot(&hidden, w), *acc));
                }
            }
            out.extend(acc);
        }
        out
    }
}

#[test]
fn experts_equal_reference_in_pieces_of_any_size() {
    let crowd = |experts: Vec<u32>| Routes {
        per_row: 1,
        weights: painted(8, experts.len()),
        experts,
    };
    let cases = [
        painted_routes(40, 3, 7),
        painted_routes(5, 7, 7),
        painted_routes(1, 2, 7),
        crowd(vec![4; 40]),
        crowd([vec![6; 20], vec![0; 20]].concat()),
        painted_routes(0, 2, 7),
    ];
    for kind in [OperandKind::F32, OperandKind::Bf16] {
        let model = Model::new(kind, 7);
        let (up, down) = (
            model.packed(&model.up, IN),
            model.packed(&model.down, HIDDEN),
        );
        for routes in &cases {
            let rows = routes.experts.len() / routes.per_row;
            let x = painted(7, rows * IN);
            let want = model.reference(&x, routes, false);
            for_every_cpu(|cpu| {
                let x = Prepared::prepare(cpu, kind, &x, IN).expect("valid rows");
                let experts = Experts {
                    x: &x,
                    routes,
                    up: &up,
                    down: &down,
                    up_bias: &[],
                    down_bias: &[],
                };
                let mut workspace = ExpertWorkspace::default();
                for most in [1, 2, 7, 19, 1000] {
                    let mut out = Guarded::new(rows * OUT);
                    let run =
                        experts.in_pieces(&mut out, &mut workspace, most, cpu, &grouped_linear);
                    run.expect("valid arguments");
                    assert_bits_equal(format!("{kind:?}, pieces of {most}"), &out, &want);
                }
                let mut out = Guarded::new(rows * OUT);
                experts
                    .cpu(&mut out, &mut workspace, cpu)
                    .expect("valid arguments");
                assert_bits_equal(format!("{kind:?}"), &out, &want);
            });
        }
        let x = painted(7, 40 * IN);
        let want = model.reference(&x, &cases[0], false);
        assert_bits_differ(
            "descending experts",
            &model.reference(&x, &cases[0], true),
            &want,
        );
    }
}

#[test]
fn mismatched_arguments_are_named() {
    let model = Model::new(OperandKind::F32, 2);
    let (up, down) = (
        model.packed(&model.up, IN),
        model.packed(&model.down, HIDDEN),
    );
    let cpu = Cpu::single();
    let x = Prepared::prepare(&cpu, OperandKind::F32, &painted(1, 3 * IN), IN).expect("valid rows");
    let routes = Routes {
        per_row: 1,
        experts: vec![0, 1, 0],
        weights: vec![1.0; 3],
    };
    let experts = Experts {
        x: &x,
        routes: &routes,
        up: &up,
        down: &down,
        up_bias: &[],
        down_bias: &[],
    };
    let message = experts
        .check(&[0.0; 50])
        .expect_err("too short")
        .to_string();
    assert_eq!(message, "experts: out [R, O] has 50 elements, expected 51");
    let message = Experts {
        down: &down[..1],
        ..experts
    }
    .check(&[0.0; 51])
    .expect_err("too few")
    .to_string();
    assert_eq!(message, "experts: down has 1 elements, expected 2");
    let swapped = Experts {
        up: &down,
        ..experts
    };
    assert!(
        swapped
            .check(&[0.0; 51])
            .expect_err("wrong shape")
            .to_string()
            .contains("up, inputs")
    );
    let mut dispatch = Dispatch::default();
    let message = dispatch
        .fill(&routes, 1)
        .expect_err("no such expert")
        .to_string();
    assert_eq!(message, "dispatch: expert is 1, expected below 1");
}
