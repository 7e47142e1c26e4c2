//! The control computes the same model (to rounding), and its bits move with the schedule.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use jetblock_control::Control;
use jetblock_models::model::{Contract, Kernels};
use jetblock_models::{LogitRows, Model, Options, Piece};
use jetblock_ops::linear::OperandKind;
use jetblock_simd::{Cpu, Level};

fn folder(model: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../tests/fixtures/nemotron")
        .join(model)
}

fn logits<K: Kernels>(kernels: &K, model: &Model, pieces: &[usize], cpu: &Cpu) -> Vec<f32> {
    let ids: Vec<u32> = (0..80).map(|i| (i * 31 + 7) % 97).collect();
    let mut state = model.new_state();
    let mut workspace = model.workspace();
    let mut out = Vec::new();
    for &len in pieces {
        let at = state.tokens();
        let piece = Piece {
            state: &mut state,
            ids: &ids[at..at + len],
            logits: LogitRows::All,
        };
        for rows in model
            .forward_with(kernels, &mut [piece], cpu, &mut workspace, None)
            .expect("valid pieces")
        {
            out.extend(rows.expect("no row fails"));
        }
    }
    out
}

#[test]
fn the_control_computes_the_same_function_with_other_bits() {
    for name in ["tiny_mlp_moe", "tiny_latent_moe"] {
        let options = Options {
            operands: Some(OperandKind::F32),
            ..Options::default()
        };
        let model = Model::load(&folder(name), options, &mut |_| {}).expect("the fixture loads");
        let want = logits(&Contract, &model, &[80], &Cpu::single());
        let mut seen = BTreeSet::new();
        for level in Level::available() {
            for threads in [1, 2, 3] {
                for pieces in [vec![80], vec![79, 1], vec![33, 47], vec![1; 80]] {
                    let cpu = Cpu::new(threads, level).expect("an available level");
                    let got = logits(&Control, &model, &pieces, &cpu);
                    for (i, (g, w)) in got.iter().zip(&want).enumerate() {
                        // Differences are of rounding; a wrong formula would be off by far more.
                        assert!(
                            (g - w).abs() < 1e-3,
                            "{name} {level} {threads} {pieces:?} element {i}: {g} and {w}"
                        );
                    }
                    seen.insert(got.iter().map(|x| x.to_bits()).collect::<Vec<_>>());
                }
            }
        }
        println!("{name}: {} distinct answers", seen.len());
        assert!(
            seen.len() > 4,
            "the control must show what common practice does"
        );
    }
}
