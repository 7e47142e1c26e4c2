//! States as bytes: they come back as they were, and nothing else is accepted.

use std::path::Path;
use std::sync::Arc;

use jetblock_models::{
    LogitRows, Model, ModelError, Options, Piece, SequenceState, StateCodec, StatePiece,
};
use jetblock_ops::attention::KvDtype;
use jetblock_ops::linear::OperandKind;
use jetblock_simd::{Cpu, Level};
use jetblock_tensor::{Digest, digest};
use jetblock_testing::assert_bits_equal;

const MODELS: [&str; 4] = [
    "nemotron/tiny_mlp_moe",
    "nemotron/tiny_latent_moe",
    "llama/tiny_llama",
    "llama/tiny_qwen3",
];

const WEIGHTS: Digest = Digest([7; 32]);

fn load(name: &str, options: Options) -> Option<Arc<Model>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../tests/fixtures")
        .join(name);
    match Model::load(&folder, options, &mut |_| {}) {
        Ok(model) => Some(Arc::new(model)),
        Err(e) => {
            let why = "expected a multiple of 16 in a cache of dtype nvfp4";
            assert!(e.to_string().contains(why), "{name}: {e}");
            None
        }
    }
}

fn codec(name: &str) -> (Arc<Model>, StateCodec) {
    let model = load(name, Options::default()).expect("it has heads of any width");
    (model.clone(), StateCodec::new(model, WEIGHTS))
}

fn ids(len: u32) -> Vec<u32> {
    (0..len).map(|i| (i * 31 + 7) % 97).collect()
}

/// All logits of tokens that are fed in one piece.
fn feed(model: &Model, state: &mut SequenceState, ids: &[u32], cpu: &Cpu) -> Vec<f32> {
    let piece = Piece {
        state,
        ids,
        logits: LogitRows::All,
    };
    let mut logits = model
        .forward(&mut [piece], cpu, &mut model.workspace())
        .expect("valid tokens");
    logits.remove(0).expect("finite values")
}

/// What is read back of the state after each of `cuts` tokens, one piece for each.
fn pieces(
    codec: &StateCodec,
    model: &Model,
    ids: &[u32],
    cuts: &[usize],
) -> Result<Vec<StatePiece>, ModelError> {
    let prefixes = codec.prefixes(ids);
    let (mut state, mut from, mut pieces) = (model.new_state(), 0, Vec::new());
    for &cut in cuts {
        feed(model, &mut state, &ids[from..cut], &Cpu::single());
        let bytes = codec.write(&state, &prefixes, from)?;
        assert_eq!(bytes.len() as u64, codec.piece_bytes(from, cut));
        assert_eq!(codec.read_from(&prefixes, cut, &mut &bytes[..])?, from);
        pieces.push(codec.read(&prefixes, cut, &mut &bytes[..], true)?);
        from = cut;
    }
    Ok(pieces)
}

#[test]
fn a_saved_state_continues_with_the_same_bits() {
    let cpu = Cpu::single();
    for name in MODELS {
        for operands in [OperandKind::F32, OperandKind::Bf16] {
            for dtype in KvDtype::ALL {
                let options = Options {
                    operands: Some(operands),
                    kv_dtype: Some(dtype),
                    ..Options::default()
                };
                let Some(model) = load(name, options) else {
                    continue;
                };
                let codec = StateCodec::new(model.clone(), WEIGHTS);
                // More than a block of 64 keys.
                let ids = ids(70);
                let mut end = model.new_state();
                let want = feed(&model, &mut end, &ids, &cpu);
                let vocab_size = model.config().vocab_size;
                for cut in (1..ids.len()).step_by(if operands == OperandKind::F32 { 9 } else { 1 })
                {
                    // In one piece, and in three.
                    let mut all = vec![vec![cut]];
                    if cut > 2 {
                        all.push(vec![cut / 3, cut - 1, cut]);
                    }
                    for cuts in all {
                        let pieces = pieces(&codec, &model, &ids, &cuts).expect("its own bytes");
                        let mut state = codec.restore(&pieces).expect("its own pieces");
                        let what = format!("{name} {dtype}, restored at {cuts:?}");
                        let rest = feed(&model, &mut state, &ids[cut..], &cpu);
                        assert_bits_equal(what, &rest, &want[cut * vocab_size..]);
                        assert_eq!(state.digest(), end.digest());
                    }
                }
            }
        }
    }
}

#[test]
fn every_thread_count_and_level_writes_the_same_bytes() {
    for name in MODELS {
        let (model, codec) = codec(name);
        let ids = ids(40);
        let prefixes = codec.prefixes(&ids);
        let written = |cpu: &Cpu| {
            let mut state = model.new_state();
            feed(&model, &mut state, &ids, cpu);
            codec.write(&state, &prefixes, 13).expect("its own state")
        };
        let want = written(&Cpu::single());
        for level in Level::available() {
            for threads in 1..=4 {
                let cpu = Cpu::new(threads, level).expect("available");
                assert!(written(&cpu) == want, "{name}: {level}, {threads} threads");
            }
        }
    }
}

#[test]
fn a_wrong_state_is_seen() {
    let (model, codec) = codec(MODELS[0]);
    let (ids, mut other) = (ids(30), ids(30));
    other[3] ^= 1;
    let cpu = Cpu::single();
    let rest = |ids: &[u32]| {
        let pieces = pieces(&codec, &model, ids, &[20]).expect("its own bytes");
        let mut state = codec.restore(&pieces).expect("its own pieces");
        feed(&model, &mut state, &ids[20..], &cpu)
    };
    assert!(rest(&ids) != rest(&other));
}

#[test]
fn truncated_and_changed_bytes_are_refused() {
    let (model, codec) = codec(MODELS[0]);
    let ids = ids(5);
    let prefixes = codec.prefixes(&ids);
    let mut state = model.new_state();
    feed(&model, &mut state, &ids, &Cpu::single());
    let bytes = codec.write(&state, &prefixes, 2).expect("its own state");
    let read = |bytes: &[u8]| codec.read(&prefixes, 5, &mut &bytes[..], true);
    assert!(read(&bytes).is_ok());
    for len in (0..bytes.len()).step_by(7).chain([bytes.len() - 1]) {
        let error = read(&bytes[..len]).expect_err("truncated").to_string();
        assert!(error.contains("truncated"), "{error}");
    }
    let header = 8 + 4 + 3 * 32 + 16 + 64 + 4 * 3 + 32;
    // Every byte of the header, and some of the sections.
    for at in (0..header).chain((header..bytes.len()).step_by(13)) {
        let mut changed = bytes.clone();
        changed[at] ^= 0x10;
        assert!(read(&changed).is_err(), "byte {at} changed");
    }
    let error = read(&[&bytes[..], &[0]].concat()).expect_err("too long");
    assert!(error.to_string().contains("left over"), "{error}");
}

#[test]
fn foreign_bytes_are_refused_with_the_reason() {
    let (model, codec) = codec(MODELS[0]);
    let mine = ids(5);
    let mut state = model.new_state();
    feed(&model, &mut state, &mine, &Cpu::single());
    let prefixes = codec.prefixes(&mine);
    let bytes = codec.write(&state, &prefixes, 0).expect("its own state");
    let refusal = |codec: &StateCodec, ids: &[u32], tokens, bytes: &[u8]| {
        let read = codec.read(&codec.prefixes(ids), tokens, &mut &bytes[..], true);
        read.expect_err("foreign").to_string()
    };
    let other = StateCodec::new(model.clone(), Digest([8; 32]));
    assert!(refusal(&other, &mine, 5, &bytes).contains("other weights: 0707"));
    let fp8 = Options {
        kv_dtype: Some(KvDtype::Fp8),
        ..Options::default()
    };
    for options in [
        fp8,
        Options {
            split: 64,
            ..Options::default()
        },
        Options {
            hash_ties: true,
            ..Options::default()
        },
        Options {
            operands: Some(OperandKind::F32),
            kv_dtype: Some(KvDtype::Bf16),
            ..Options::default()
        },
    ] {
        let model = load(MODELS[0], options).expect("it loads");
        let other = StateCodec::new(model.clone(), WEIGHTS);
        let error = refusal(&other, &mine, 5, &bytes);
        assert!(error.contains("other configuration or options"), "{error}");
        // And a state of another model is not written.
        assert!(other.write(&state, &other.prefixes(&mine), 0).is_err());
    }
    let mut changed = mine.clone();
    changed[1] ^= 1;
    assert!(refusal(&codec, &changed, 5, &bytes).contains("another prompt"));
    assert!(refusal(&codec, &mine, 4, &bytes).contains("holds the tokens 0..5"));
    // Another version, with checksums that are right.
    let mut changed = bytes.clone();
    changed[8] += 1;
    let at = 8 + 4 + 3 * 32 + 16 + 64 + 4 * 5;
    let checksum = digest::sha256(&changed[..at]).0;
    changed[at..at + 32].copy_from_slice(&checksum);
    let error = refusal(&codec, &mine, 5, &changed);
    assert!(error.contains("numerics version 2, expected 1"), "{error}");
    changed[7] = b'1';
    assert!(refusal(&codec, &mine, 5, &changed).contains("does not begin with JBSTATE2"));
    // The same choice, said or not, is the same request.
    let said = Options {
        operands: Some(model.operand_kind()),
        kv_dtype: Some(model.kv_dtype()),
        ..Options::default()
    };
    let said = StateCodec::new(load(MODELS[0], said).expect("it loads"), WEIGHTS);
    let read = said.read(&said.prefixes(&mine), 5, &mut &bytes[..], true);
    assert!(read.is_ok());
}

#[test]
fn values_that_no_model_computes_are_refused() {
    let (model, codec) = codec(MODELS[0]);
    let ids = ids(5);
    let prefixes = codec.prefixes(&ids);
    let mut state = model.new_state();
    feed(&model, &mut state, &ids, &Cpu::single());
    let bytes = codec.write(&state, &prefixes, 0).expect("its own state");
    let header = 8 + 4 + 3 * 32 + 16 + 64 + 4 * 5 + 32;
    let kv = 5 * model.kv_bytes_per_token(model.kv_dtype());
    // A NaN of another processor, with checksums that are right: in a key, in the convolution's state.
    for at in [header, header + kv] {
        let mut changed = bytes.clone();
        changed[at..at + 4].fill(0xFF);
        let sections = [&changed[header..header + kv], &changed[header + kv..]];
        let sections = sections.map(|bytes| digest::sha256(bytes).0).concat();
        changed[8 + 4 + 3 * 32 + 16..][..64].copy_from_slice(&sections);
        let checksum = digest::sha256(&changed[..header - 32]).0;
        changed[header - 32..header].copy_from_slice(&checksum);
        let piece = codec.read(&prefixes, 5, &mut &changed[..], true);
        let error = codec.restore(&[piece.expect("checksums are right")]);
        let error = error.expect_err("foreign values").to_string();
        assert!(
            error.contains("bit pattern") || error.contains("NaN ffffffff"),
            "{error}"
        );
    }
}

#[test]
fn pieces_must_follow_each_other() {
    let (model, codec) = codec(MODELS[0]);
    let first = ids(30);
    let mut second = first.clone();
    second[2] ^= 1;
    let all = pieces(&codec, &model, &first, &[10, 20, 30]).expect("its own bytes");
    let other = pieces(&codec, &model, &second, &[10, 20, 30]).expect("its own bytes");
    assert!(codec.restore(&all).is_ok());
    for wrong in [
        vec![],
        vec![all[1].clone(), all[2].clone()],
        vec![all[0].clone(), all[2].clone()],
        vec![all[0].clone(), all[1].clone(), other[2].clone()],
        vec![all[1].clone(), all[0].clone()],
    ] {
        let error = codec.restore(&wrong).expect_err("not a chain").to_string();
        assert!(
            error.contains("follow") || error.contains("snapshot"),
            "{error}"
        );
    }
}

#[test]
fn forks_share_their_keys_and_values() {
    let (model, _) = codec("llama/tiny_llama");
    let cpu = Cpu::single();
    let prompt = ids(130);
    let mut state = model.new_state();
    feed(&model, &mut state, &prompt, &cpu);
    let mut forks = vec![state.clone(); 50];
    let held = |forks: &[SequenceState]| {
        let mut blocks = std::collections::BTreeMap::new();
        for fork in forks {
            fork.visit_shared(&mut |address, bytes| {
                blocks.insert(address, bytes);
            });
        }
        blocks.values().sum::<usize>()
    };
    assert_eq!(held(&forks), state.bytes(), "bytes counted once");
    // Each goes its own way: the full blocks stay shared, the last one is copied.
    for (i, fork) in forks.iter_mut().enumerate() {
        feed(&model, fork, &[i as u32], &cpu);
    }
    let last = state.bytes() / 3;
    assert_eq!(held(&forks), 2 * last + 50 * last);
    // And has the bits of a sequence that was fed from the start.
    for i in [0, 49] {
        let mut alone = model.new_state();
        feed(
            &model,
            &mut alone,
            &[&prompt[..], &[i as u32]].concat(),
            &cpu,
        );
        assert_eq!(alone.digest(), forks[i].digest());
    }
    assert_ne!(forks[0].digest(), forks[1].digest());
}

/// The seeds of the fuzz target `state`. They pin the format: bytes that change are a new `JBSTATE` number, or a change of
/// the model's configuration.
#[test]
fn the_format_is_that_of_the_kept_files() {
    let (model, codec) = codec(MODELS[0]);
    let ids = [5, 6, 7];
    let prefixes = codec.prefixes(&ids);
    let mut state = model.new_state();
    feed(&model, &mut state, &ids, &Cpu::single());
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/seeds/state");
    // The first byte tells the target whether to put checksums right.
    for (name, first, from) in [
        ("whole.jbstate", 0, 0),
        ("whole_to_be_checked.jbstate", 1, 0),
        ("from_two.jbstate", 1, 2),
    ] {
        let mut want = vec![first];
        want.extend(codec.write(&state, &prefixes, from).expect("its own state"));
        let path = folder.join(name);
        if std::env::var_os("JETBLOCK_WRITE_SEEDS").is_some() {
            std::fs::write(&path, &want).expect("writable");
        }
        let got = std::fs::read(&path).expect("the seed is there");
        assert!(
            got == want,
            "{name} is no longer what is written; JETBLOCK_WRITE_SEEDS=1 writes it anew"
        );
    }
}
