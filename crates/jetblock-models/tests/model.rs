//! Whole models against an independent implementation, and against themselves under every schedule.

use std::path::{Path, PathBuf};

use jetblock_models::{LogitRows, Model, Options, Piece, SequenceState, Workspace};
use jetblock_ops::attention::KvDtype;
use jetblock_ops::linear::OperandKind;
use jetblock_simd::{Cpu, Level};
use jetblock_testing::{assert_bits_equal, read_npy_f32, read_npy_i64};

const MODELS: [&str; 5] = [
    "nemotron/tiny_mlp_moe",
    "nemotron/tiny_latent_moe",
    "llama/tiny_llama",
    "llama/tiny_qwen2",
    "llama/tiny_qwen3",
];

/// How far each kind may be from the reference's logits of magnitude 5 to 12: what was measured, and little more. The
/// second model's routers are random and close to ties, so rounding sends some tokens to another expert.
const BOUNDS: [(f32, f32); 5] = [
    (1e-4, 0.1),
    (1e-4, 1.5),
    (1e-4, 0.2),
    (2e-4, 0.6),
    (2e-4, 0.6),
];

fn folder(model: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../tests/fixtures")
        .join(model)
}

fn load(model: &str, operands: OperandKind) -> Model {
    let options = Options {
        operands: Some(operands),
        ..Options::default()
    };
    Model::load(&folder(model), options, &mut |_| {}).expect("the fixture loads")
}

fn ids(model: &str) -> Vec<u32> {
    read_npy_i64(folder(model).join("ids.npy"))
        .data
        .iter()
        .map(|&id| u32::try_from(id).expect("an id"))
        .collect()
}

/// All logits of `ids`, fed in pieces of the given lengths, and the state after them.
fn feed(model: &Model, ids: &[u32], pieces: &[usize], cpu: &Cpu) -> (Vec<f32>, SequenceState) {
    let mut state = model.new_state();
    let mut workspace = model.workspace();
    let mut logits = Vec::new();
    let mut at = 0;
    for &len in pieces {
        logits.extend(step(
            model,
            &mut state,
            &ids[at..at + len],
            cpu,
            &mut workspace,
        ));
        at += len;
    }
    assert_eq!(at, ids.len(), "the pieces cover the ids");
    (logits, state)
}

fn step(
    model: &Model,
    state: &mut SequenceState,
    ids: &[u32],
    cpu: &Cpu,
    workspace: &mut Workspace,
) -> Vec<f32> {
    let mut pieces = [Piece {
        state,
        ids,
        logits: LogitRows::All,
    }];
    let mut results = model
        .forward(&mut pieces, cpu, workspace)
        .expect("valid pieces");
    results.pop().expect("one piece").expect("no row fails")
}

fn max_difference(got: &[f32], want: &[f32]) -> f32 {
    assert_eq!(got.len(), want.len());
    let differences = got.iter().zip(want).map(|(g, w)| (g - w).abs());
    differences.fold(0.0, |max, d| if d > max || d.is_nan() { d } else { max })
}

#[test]
fn logits_agree_with_the_independent_reference() {
    let cpu = Cpu::single();
    for (model, (f32_bound, bf16_bound)) in MODELS.into_iter().zip(BOUNDS) {
        let ids = ids(model);
        let n_prefill = usize::try_from(read_npy_i64(folder(model).join("n_prefill.npy")).data[0])
            .expect("a count");
        let decode: Vec<usize> = std::iter::once(n_prefill)
            .chain(vec![1; ids.len() - n_prefill])
            .collect();
        for (file, pieces) in [
            ("prefill", vec![ids.len()]),
            ("decode", decode),
            ("chunked", vec![11, 2, 9, ids.len() - 22]),
        ] {
            // Of the Llamas there is one file: the library's own steps are no further from it than this test looks.
            let file = if model.starts_with("llama") {
                "prefill"
            } else {
                file
            };
            let want = read_npy_f32(folder(model).join(format!("{file}.npy"))).data;
            for (operands, bound) in [
                (OperandKind::F32, f32_bound),
                (OperandKind::Bf16, bf16_bound),
            ] {
                let (got, _) = feed(&load(model, operands), &ids, &pieces, &cpu);
                let difference = max_difference(&got, &want);
                println!("{model} {file} {operands:?}: max abs difference {difference:e}");
                assert!(
                    difference <= bound,
                    "{model} {file} {operands:?}: {difference} > {bound}"
                );
                // Random weights are not so smooth that rounding to bf16 could vanish: the kind really acted.
                assert!(
                    operands == OperandKind::F32 || difference > 1e-3,
                    "the bf16 kind rounded nothing"
                );
            }
        }
    }
}

#[test]
fn every_cut_gives_the_same_logits_and_state() {
    let cpu = Cpu::single();
    for model in MODELS {
        for operands in [OperandKind::F32, OperandKind::Bf16] {
            let ids = ids(model);
            let model = load(model, operands);
            let (want, state) = feed(&model, &ids, &[ids.len()], &cpu);
            for cut in 1..ids.len() {
                let (got, cut_state) = feed(&model, &ids, &[cut, ids.len() - cut], &cpu);
                assert_bits_equal(format!("cut at {cut}"), &got, &want);
                assert_eq!(
                    cut_state.digest(),
                    state.digest(),
                    "state after a cut at {cut}"
                );
            }
            let (got, _) = feed(&model, &ids, &vec![1; ids.len()], &cpu);
            assert_bits_equal("token by token", &got, &want);
        }
    }
}

#[test]
fn the_last_row_is_that_of_all_rows() {
    let cpu = Cpu::single();
    for name in MODELS {
        // More rows than one step computes.
        let ids: Vec<u32> = ids(name).into_iter().cycle().take(520).collect();
        let model = load(name, OperandKind::Bf16);
        let (all, end) = feed(&model, &ids, &[ids.len()], &cpu);
        let last = &all[all.len() - model.config().vocab_size..];
        for (logits, want) in [(LogitRows::Last, last), (LogitRows::None, &[][..])] {
            let mut state = model.new_state();
            let mut pieces = [Piece {
                state: &mut state,
                ids: &ids,
                logits,
            }];
            let got = model
                .forward(&mut pieces, &cpu, &mut model.workspace())
                .expect("valid pieces");
            assert_bits_equal(
                format!("{logits:?}"),
                got[0].as_ref().expect("no row fails"),
                want,
            );
            assert_eq!(state.digest(), end.digest());
        }
    }
}

#[test]
fn every_level_and_thread_count_gives_the_same_bits() {
    for model in MODELS {
        for operands in [OperandKind::F32, OperandKind::Bf16] {
            let ids = ids(model);
            let model = load(model, operands);
            let (want, state) = feed(&model, &ids, &[ids.len()], &Cpu::single());
            for level in Level::available() {
                for threads in [1, 2, 3, 4, 7] {
                    let cpu = Cpu::new(threads, level).expect("an available level");
                    let (got, other) = feed(&model, &ids, &[20, ids.len() - 20], &cpu);
                    assert_bits_equal(format!("{level}, {threads} threads"), &got, &want);
                    assert_eq!(other.digest(), state.digest());
                }
            }
        }
    }
}

#[test]
fn every_kv_dtype_gives_its_own_bits_and_keeps_them() {
    let cpu = Cpu::single();
    for name in MODELS {
        let ids = ids(name);
        for operands in [OperandKind::F32, OperandKind::Bf16] {
            let mut seen: Vec<Vec<f32>> = Vec::new();
            for dtype in KvDtype::ALL {
                let options = Options {
                    operands: Some(operands),
                    kv_dtype: Some(dtype),
                    ..Options::default()
                };
                let model = match Model::load(&folder(name), options, &mut |_| {}) {
                    Err(e) if dtype == KvDtype::Nvfp4 => {
                        let why = "expected a multiple of 16 in a cache of dtype nvfp4";
                        assert!(e.to_string().contains(why), "{name}: {e}");
                        assert!(name.starts_with("llama/"), "{name} has heads of 16");
                        continue;
                    }
                    loaded => loaded.expect("the fixture loads"),
                };
                let (want, whole) = feed(&model, &ids, &[ids.len()], &cpu);
                let decoded = vec![1; ids.len()];
                let (got, state) = feed(&model, &ids, &decoded, &cpu);
                assert_bits_equal(format!("{name} {dtype}, one by one"), &got, &want);
                assert_eq!(state.digest(), whole.digest(), "{name} {dtype}");
                // Blocks of 64 tokens: the fixtures have fewer. Other heads are padded.
                let grown = state.bytes() - model.new_state().bytes();
                if model.config().head_dim.is_multiple_of(16) {
                    let bytes = 64 * model.kv_bytes_per_token(dtype);
                    assert_eq!(grown, bytes, "{name} {dtype}");
                }
                assert!(
                    seen.iter().all(|other| *other != want),
                    "{dtype} is another request"
                );
                seen.push(want);
            }
        }
    }
}

#[test]
fn a_rejected_draft_leaves_no_trace() {
    let cpu = Cpu::single();
    for name in MODELS {
        let ids = ids(name);
        let model = load(name, OperandKind::Bf16);
        let (want, _) = feed(&model, &ids, &[ids.len()], &cpu);
        let vocab_size = model.config().vocab_size;
        let mut workspace = model.workspace();
        let mut state = model.new_state();
        let mut at = 0;
        // Draft lengths 1..=8; of each draft the first tokens are right and the rest is rejected.
        for round in 0.. {
            let draft_len = 1 + round % 8;
            let accepted = (round % (draft_len + 1)).max(1).min(ids.len() - at);
            let mut draft = ids[at..at + accepted].to_vec();
            draft.extend(
                (accepted..draft_len).map(|i| (ids[at] + 17 + i as u32) % vocab_size as u32),
            );
            let snapshot = state.clone();
            let rows = step(&model, &mut state, &draft, &cpu, &mut workspace);
            assert_bits_equal(
                "accepted rows",
                &rows[..accepted * vocab_size],
                &want[at * vocab_size..(at + accepted) * vocab_size],
            );
            if draft.len() > accepted {
                state = snapshot;
                step(&model, &mut state, &draft[..accepted], &cpu, &mut workspace);
            }
            at += accepted;
            if at == ids.len() {
                break;
            }
        }
        assert_eq!(
            state.digest(),
            feed(&model, &ids, &[ids.len()], &cpu).1.digest()
        );
    }
}

#[test]
fn neighbours_do_not_matter_even_when_they_are_nan() {
    for name in &MODELS[..2] {
        let ids = ids(name);
        let model = load(name, OperandKind::Bf16);
        let cpu = Cpu::new(2, Level::best()).expect("the best level");
        let (want, end) = feed(&model, &ids, &[ids.len()], &cpu);
        let mut states: Vec<SequenceState> = (0..5).map(|_| model.new_state()).collect();
        states[1].poison_for_tests();
        let others: Vec<Vec<u32>> = (0..5)
            .map(|i| (0..9 + i).map(|j| (3 + 7 * i + 5 * j) % 97).collect())
            .collect();
        let mut pieces: Vec<Piece<'_>> = states
            .iter_mut()
            .enumerate()
            .map(|(i, state)| Piece {
                state,
                ids: if i == 3 { &ids } else { &others[i] },
                logits: LogitRows::All,
            })
            .collect();
        let results = model
            .forward(&mut pieces, &cpu, &mut model.workspace())
            .expect("valid pieces");
        assert_bits_equal(
            "among neighbours",
            results[3].as_ref().expect("the request is fine"),
            &want,
        );
        assert_eq!(states[3].digest(), end.digest());
        // Both fixtures end in an MoE layer, whose router refuses NaN and names the layer.
        let refused = results[1]
            .as_ref()
            .expect_err("the poisoned neighbour is refused")
            .to_string();
        assert!(
            refused.contains("scores") && refused.contains("NaN"),
            "{refused}"
        );
        assert_eq!(states[1].failed().map(ToString::to_string), Some(refused));
        let piece = Piece {
            state: &mut states[1],
            ids: &[1],
            logits: LogitRows::None,
        };
        assert!(
            model
                .forward(&mut [piece], &cpu, &mut model.workspace())
                .is_err(),
            "a failed sequence cannot go on"
        );
    }
}

#[test]
fn wrong_pieces_are_refused_before_anything_changes() {
    let model = load(MODELS[0], OperandKind::F32);
    let other = load(MODELS[1], OperandKind::F32);
    let cpu = Cpu::single();
    let mut state = model.new_state();
    let before = state.digest();
    for (ids, message) in [
        (&[][..], "no tokens"),
        (
            &[1, 97][..],
            "token 1 is 97, expected less than the vocabulary size 97",
        ),
    ] {
        let piece = Piece {
            state: &mut state,
            ids,
            logits: LogitRows::All,
        };
        let error = model
            .forward(&mut [piece], &cpu, &mut model.workspace())
            .unwrap_err()
            .to_string();
        assert!(error.contains(message), "{error}");
    }
    let piece = Piece {
        state: &mut state,
        ids: &[1],
        logits: LogitRows::All,
    };
    assert!(
        other
            .forward(&mut [piece], &cpu, &mut other.workspace())
            .is_err(),
        "a state of another model"
    );
    assert_eq!(state.digest(), before);
}
