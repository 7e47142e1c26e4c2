//! GGUF files: their blocks against the reference package, their models against the folders they were made from.

use std::path::{Path, PathBuf};

use jetblock_models::checkpoint::BlockType;
use jetblock_models::gguf::{Gguf, Header};
use jetblock_models::{LogitRows, Model, Options, Piece};
use jetblock_ops::linear::OperandKind;
use jetblock_ops::linear::quantized::QuantizedRow;
use jetblock_simd::Cpu;
use jetblock_testing::{assert_bits_differ, assert_bits_equal};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../tests/fixtures/gguf")
        .join(name)
}

/// Codes, scales and offsets of one row of blocks.
fn spread(block: BlockType, bytes: &[u8]) -> (Vec<u8>, Vec<f32>, Vec<f32>) {
    let elements = bytes.len() / block.bytes() * block.elements();
    let blocks = block.format().blocks.expect("every type has scales");
    let count = elements / blocks.len;
    let mut codes = vec![0; elements];
    let mut scales = vec![0; count * blocks.scale.size()];
    let mut offsets = vec![0; count * blocks.offset.map_or(0, |offset| offset.size())];
    block.spread(
        bytes,
        QuantizedRow {
            codes: &mut codes,
            scales: &mut scales,
            offsets: &mut offsets,
        },
    );
    let scale = |bytes: &[u8]| blocks.scale.value(bytes);
    let scales = scales.chunks(blocks.scale.size()).map(scale).collect();
    let offsets = match blocks.offset {
        Some(offset) => offsets
            .chunks(offset.size())
            .map(|b| offset.value(b))
            .collect(),
        None => vec![0.0; count],
    };
    (codes, scales, offsets)
}

#[test]
fn blocks_have_the_values_of_the_reference_package() {
    let text = std::fs::read_to_string(fixture("blocks.json")).expect("the fixture");
    let json: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    for block in BlockType::ALL {
        let told = &json[block.name()];
        let hex = told["blocks"].as_str().expect("hex");
        let bytes: Vec<u8> = (0..hex.len() / 2)
            .map(|i| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).expect("hex"))
            .collect();
        let want: Vec<f32> = told["values"]
            .as_array()
            .expect("a list")
            .iter()
            .map(|v| u32::from_str_radix(v.as_str().expect("hex"), 16).expect("hex"))
            .map(f32::from_bits)
            .collect();
        let (codes, scales, offsets) = spread(block, &bytes);
        let format = block.format();
        let len = format.blocks.expect("scales").len;
        let value = |scales: &[f32], i: usize| {
            // The package rounds the product; sums of raw codes have no such rounding.
            let product = scales[i / len] * format.codes.value(codes[i]);
            match format.blocks.and_then(|blocks| blocks.offset) {
                Some(_) => product + offsets[i / len],
                None => product,
            }
        };
        let got: Vec<f32> = (0..512).map(|i| value(&scales, i)).collect();
        assert_bits_equal(block.name(), &got, &want);
        let mut exchanged = scales.clone();
        exchanged.swap(0, 1);
        let wrong: Vec<f32> = (0..512).map(|i| value(&exchanged, i)).collect();
        assert_bits_differ("exchanged scales", &wrong, &want);
    }
}

fn logits(path: &Path, operands: Option<OperandKind>) -> Vec<f32> {
    let options = Options {
        operands,
        ..Options::default()
    };
    let model = Model::load(path, options, &mut |_| {}).expect("the fixture loads");
    let ids: Vec<u32> = (0..40).map(|i| (i * i + 7 * i + 3) % 61).collect();
    let mut state = model.new_state();
    let mut pieces = [Piece {
        state: &mut state,
        ids: &ids,
        logits: LogitRows::All,
    }];
    let mut results = model
        .forward(&mut pieces, &Cpu::single(), &mut model.workspace())
        .expect("valid pieces");
    results.pop().expect("one piece").expect("no row fails")
}

#[test]
fn a_file_gives_the_bits_of_the_folder_it_was_made_from() {
    for name in ["nemotron_h", "nemotron_h_moe"] {
        for operands in [None, Some(OperandKind::F32)] {
            let want = logits(&fixture(name), operands);
            let got = logits(&fixture(&format!("{name}.gguf")), operands);
            assert_bits_equal(format!("{name} {operands:?}"), &got, &want);
        }
    }
    // The file was made of the fixture with plain frequencies.
    let source = fixture("../llama/tiny_llama");
    let folder = tempfile::tempdir().expect("a folder");
    let config = std::fs::read_to_string(source.join("config.json")).expect("the fixture");
    let mut config: serde_json::Value = serde_json::from_str(&config).expect("JSON");
    config["rope_parameters"] = serde_json::json!({"rope_type": "default", "rope_theta": 10000.0});
    std::fs::write(folder.path().join("config.json"), config.to_string()).expect("written");
    std::fs::copy(
        source.join("model.safetensors"),
        folder.path().join("model.safetensors"),
    )
    .expect("copied");
    for operands in [OperandKind::F32, OperandKind::Bf16] {
        let want = logits(folder.path(), Some(operands));
        let got = logits(&fixture("tiny_llama.gguf"), Some(operands));
        assert_bits_equal(format!("tiny_llama {operands:?}"), &got, &want);
        assert_bits_differ("other frequencies", &logits(&source, Some(operands)), &want);
    }
}

#[test]
fn the_rows_of_q_and_k_stand_in_another_order_in_the_file() {
    let path = fixture("tiny_llama.gguf");
    let gguf = Gguf::open(&path).expect("the fixture");
    let config = gguf.config().expect("a model");
    assert_eq!((config.head_dim, config.model_type.as_str()), (8, "llama"));
    let checkpoint = gguf.checkpoint(&config).expect("a model");
    checkpoint.check(&config.tensors()).expect("all tensors");
    let name = "model.layers.0.self_attn.q_proj.weight";
    let q = checkpoint.stored(name).expect("there");
    let row = |i: usize| &q.bytes[i * 48 * 4..][..48 * 4];
    let order = [0, 2, 4, 6, 1, 3, 5, 7, 8, 10];
    for (index, stored) in order.into_iter().enumerate() {
        assert_eq!(q.row(index), row(stored), "row {index}");
    }
    assert!(
        checkpoint.tensor(name).is_err(),
        "not handed out in the wrong order"
    );
    let v = checkpoint.stored("model.layers.0.self_attn.v_proj.weight");
    assert_eq!(v.expect("there").pairs, None);
}

#[test]
fn a_file_describes_itself() {
    for (name, pattern, tied) in [
        ("nemotron_h", "M-*-", false),
        ("nemotron_h_moe", "ME*E", false),
        ("tiny_llama", "*-*-*-", false),
    ] {
        let gguf = Gguf::open(&fixture(&format!("{name}.gguf"))).expect("the fixture");
        let config = gguf.config().expect("a model");
        assert_eq!(
            (config.pattern().as_str(), config.tie_word_embeddings),
            (pattern, tied)
        );
        let profile = jetblock_models::detector::Profile::open(fixture(&format!("{name}.gguf")))
            .expect("a profile");
        let stored = profile.stored.expect("a file");
        assert_eq!((stored.files, profile.not_run), (1, None));
    }
}

/// Writes GGUF, for what no real writer writes.
#[derive(Clone)]
struct Writer {
    version: u32,
    pairs: Vec<u8>,
    pair_count: u64,
    tensors: Vec<(String, Vec<u64>, u32, u64)>,
    data: usize,
}

fn string(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat()
}

impl Writer {
    fn new() -> Writer {
        Writer {
            version: 3,
            pairs: Vec::new(),
            pair_count: 0,
            tensors: Vec::new(),
            data: 0,
        }
    }

    fn pair(mut self, key: &str, kind: u32, value: &[u8]) -> Writer {
        self.pairs.extend(string(key));
        self.pairs.extend(kind.to_le_bytes());
        self.pairs.extend(value);
        self.pair_count += 1;
        self
    }

    fn tensor(mut self, name: &str, extents: &[u64], kind: u32, offset: u64) -> Writer {
        self.tensors
            .push((name.into(), extents.into(), kind, offset));
        self
    }

    fn bytes(&self) -> Vec<u8> {
        let mut out = b"GGUF".to_vec();
        out.extend(self.version.to_le_bytes());
        out.extend((self.tensors.len() as u64).to_le_bytes());
        out.extend(self.pair_count.to_le_bytes());
        out.extend(&self.pairs);
        for (name, extents, kind, offset) in &self.tensors {
            out.extend(string(name));
            out.extend((extents.len() as u32).to_le_bytes());
            extents.iter().for_each(|n| out.extend(n.to_le_bytes()));
            out.extend(kind.to_le_bytes());
            out.extend(offset.to_le_bytes());
        }
        out.resize(out.len().next_multiple_of(32) + self.data, 0);
        out
    }
}

fn good() -> Writer {
    Writer {
        data: 64 + 36,
        ..Writer::new()
    }
    .pair("general.architecture", 8, &string("llama"))
    .pair(
        "a.list",
        9,
        &[&5_u32.to_le_bytes()[..], &2_u64.to_le_bytes(), &[1; 8]].concat(),
    )
    .tensor("a", &[4, 4], 0, 0)
    .tensor("b", &[32, 2], 2, 64)
}

#[test]
fn a_header_is_read_whole_or_not_at_all() {
    for version in [2, 3] {
        let bytes = Writer { version, ..good() }.bytes();
        let header = Header::parse("x", &bytes).expect("valid");
        assert_eq!((header.version, header.metadata.len()), (version, 2));
        assert_eq!(header.tensors[1].shape, [2, 32]);
        assert_eq!(header.tensors[1].bytes.len(), 36);
        for end in 0..bytes.len() {
            assert!(Header::parse("x", &bytes[..end]).is_err(), "{end} bytes");
        }
    }
}

#[test]
fn refusals_say_what_was_expected() {
    let refusal = |writer: Writer| {
        Header::parse("x", &writer.bytes())
            .expect_err("invalid")
            .to_string()
    };
    insta::assert_snapshot!(refusal(Writer { version: 3 << 24, ..good() }), @"x: GGUF version 50331648, expected 2 or 3: it is big-endian");
    insta::assert_snapshot!(refusal(good().tensor("a", &[1], 0, 96)), @"x: tensor a: listed twice");
    insta::assert_snapshot!(refusal(good().tensor("c", &[1], 0, 32)), @"x: tensor c: starts inside tensor a");
    insta::assert_snapshot!(refusal(good().tensor("c", &[256], 13, 0)), @"x: tensor c: stored in type Q5_K, expected F32, F16, BF16, Q4_0, Q4_1, Q8_0, Q4_K, Q6_K");
    insta::assert_snapshot!(refusal(good().tensor("c", &[33], 8, 0)), @"x: tensor c: rows of 33 elements of Q8_0, expected a multiple of 32");
    insta::assert_snapshot!(refusal(good().tensor("c", &[1 << 40, 1 << 40], 0, 0)), @"x: tensor c: shape [1099511627776, 1099511627776] of F32 is too large");
    insta::assert_snapshot!(refusal(good().tensor("c", &[4], 0, u64::MAX)), @"x: tensor c: 16 bytes from offset 18446744073709551615 of the data, but the file has 100: it is truncated");
    insta::assert_snapshot!(refusal(good().tensor("c", &[0], 0, 0)), @"x: tensor c: shape [0], expected at least one extent, each at least 1");
    insta::assert_snapshot!(refusal(good().tensor("c", &[1; 5], 0, 0)), @"x: tensor c has 5 dimensions, expected at most 4");
    insta::assert_snapshot!(refusal(good().pair("a.list", 7, &[1])), @"x: metadata a.list is there twice");
    insta::assert_snapshot!(refusal(good().pair("k", 7, &[2])), @"x: k: a truth value of 2, expected 0 or 1");
    insta::assert_snapshot!(refusal(good().pair("k", 13, &[])), @"x: k: type 13, expected 0 to 12");
    insta::assert_snapshot!(refusal(good().pair("k", 9, &[9, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0])), @"x: k: an array of arrays, which no known key has");
    insta::assert_snapshot!(refusal(good().pair("general.alignment", 4, &7_u32.to_le_bytes())), @"x: general.alignment is U32(7), expected a multiple of 8 up to 1048576");
    // A count that no file of this size can hold is refused before anything is reserved for it.
    let huge = [&6_u32.to_le_bytes()[..], &(1_u64 << 60).to_le_bytes()].concat();
    insta::assert_snapshot!(refusal(good().pair("k", 9, &huge)), @"x: k: 1152921504606846976 elements, but only 192 bytes follow");
    assert!(
        Header::parse("x", b"GGML")
            .expect_err("old")
            .to_string()
            .contains("GGUF")
    );
}
