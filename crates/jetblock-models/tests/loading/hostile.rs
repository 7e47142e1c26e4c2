//! Whatever the bytes are, reading them ends in a value or an error. The corpus holds what fuzzing starts from.

use std::path::{Path, PathBuf};

use jetblock_models::checkpoint::{Checkpoint, Header, INDEX_FILE, SINGLE_FILE, ShardIndex};
use jetblock_models::config::{ModelConfig, TransformerConfig};
use jetblock_models::detector::Profile;
use jetblock_models::gguf;
use proptest::prelude::*;

use crate::folder::{folder, raw_file, zeros};

fn read_config(bytes: &[u8]) {
    if let Ok(config) = ModelConfig::from_json(bytes) {
        assert!(
            config
                .tensors()
                .iter()
                .all(|tensor| tensor.shape.iter().all(|extent| *extent > 0))
        );
    }
    let _ = TransformerConfig::from_json(bytes);
    if let Ok(profile) = Profile::from_json(bytes, None) {
        assert!(!profile.to_string().is_empty());
    }
}

/// An accepted header must satisfy the reference reader too, and describe the same tensors.
fn read_header(bytes: &[u8]) {
    let Ok(header) = Header::parse("x", bytes) else {
        return;
    };
    let (_, metadata) =
        safetensors::SafeTensors::read_metadata(bytes).expect("stricter than the reference reader");
    assert_eq!(metadata.tensors().len(), header.tensors.len());
    for tensor in &header.tensors {
        let info = metadata.info(&tensor.name).expect("the same names");
        assert_eq!(
            (&info.shape, format!("{:?}", info.dtype)),
            (&tensor.shape, tensor.dtype.to_string())
        );
    }
}

fn read_index(bytes: &[u8]) {
    if let Ok(index) = ShardIndex::parse(bytes) {
        assert!(
            index
                .files()
                .iter()
                .all(|file| !file.contains(['/', '\\']) && *file != "..")
        );
    }
}

fn read_gguf(bytes: &[u8]) {
    let Ok(header) = gguf::Header::parse("x", bytes) else {
        return;
    };
    let used: usize = header.tensors.iter().map(|t| t.bytes.len()).sum();
    assert!(used <= bytes.len(), "tensors lie in the file, apart");
    if let Ok(config) = header.config("x") {
        let mut shapes = config.tensors().into_iter().map(|tensor| tensor.shape);
        assert!(shapes.all(|shape| shape.iter().all(|extent| *extent > 0)));
    }
}

/// The files of a folder of the corpus.
fn corpus(name: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../fuzz/seeds")
        .join(name);
    let files = std::fs::read_dir(&dir)
        .expect("a corpus")
        .map(|entry| entry.expect("readable").path());
    let mut files: Vec<_> = files
        .map(|path| (path.clone(), std::fs::read(path).expect("readable")))
        .collect();
    files.sort();
    assert!(files.len() >= 3, "the corpus of {name} is almost empty");
    files
}

/// Every file of the corpus, every prefix of it, and every prefix with each of a few bytes replaced.
fn replay(name: &str, read: fn(&[u8])) {
    for (_, bytes) in corpus(name) {
        read(&bytes);
        for end in 0..bytes.len().min(2000) {
            read(&bytes[..end]);
            let mut changed = bytes.clone();
            for byte in [0x22, 0x39, 0xFF] {
                changed[end] = byte;
                read(&changed);
            }
        }
    }
}

#[test]
fn corpus_of_configurations() {
    replay("config", read_config);
}

#[test]
fn corpus_of_headers() {
    replay("header", read_header);
}

#[test]
fn corpus_of_indices() {
    replay("index", read_index);
}

#[test]
fn corpus_of_gguf_files() {
    replay("gguf", read_gguf);
}

/// A fixed sequence of changed bytes, several at once: the deep parts of a format are behind more than one of them.
#[test]
fn gguf_files_with_several_changes() {
    let mut seed = 1_u64;
    let mut draw = |below: usize| {
        seed = seed
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (seed >> 33) as usize % below
    };
    for (_, bytes) in corpus("gguf") {
        for _ in 0..20_000 {
            let mut changed = bytes.clone();
            for _ in 0..=draw(4) {
                let at = draw(changed.len());
                changed[at] = match draw(4) {
                    0 => 0,
                    1 => 0xFF,
                    2 => changed[at] ^ (1 << draw(8)),
                    _ => draw(256) as u8,
                };
            }
            read_gguf(&changed);
        }
    }
}

#[test]
fn a_file_truncated_anywhere_is_refused() {
    let file = zeros(&[("a", &[2, 3]), ("b", &[]), ("c", &[1])]);
    assert!(Header::parse("x", &file).is_ok());
    for end in 0..file.len() {
        assert!(Header::parse("x", &file[..end]).is_err(), "{end} bytes");
        let dir = folder(&[(SINGLE_FILE, &file[..end])]);
        assert!(Checkpoint::open(dir.path()).is_err(), "{end} bytes");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_bytes(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        read_config(&bytes);
        read_header(&bytes);
        read_index(&bytes);
        read_gguf(&bytes);
        read_gguf(&[&b"GGUF\x03\0\0\0"[..], &bytes].concat());
    }

    /// A length that fits, so that the JSON behind it is reached.
    #[test]
    fn random_header_text(text in "[{}\\[\\]\":,a-c0-9F\\\\ ]{0,200}", data in 0_usize..20) {
        read_header(&raw_file(&text, &vec![0; data]));
    }

    #[test]
    fn headers_with_changed_numbers(
        shape in prop::collection::vec(prop_oneof![0_u64..5, any::<u64>()], 0..4),
        begin in prop_oneof![0_u64..20, any::<u64>()],
        end in prop_oneof![0_u64..20, any::<u64>()],
        dtype in prop::sample::select(vec!["F32", "BF16", "F4", "F6_E2M3", "C64", "BOOL", "f32"]),
        data in 0_usize..20,
    ) {
        let header = format!(r#"{{"a":{{"dtype":"{dtype}","shape":{shape:?},"data_offsets":[{begin},{end}]}}}}"#);
        read_header(&raw_file(&header, &vec![0; data]));
    }

    #[test]
    fn configurations_with_changed_numbers(field in any::<prop::sample::Index>(), value in prop_oneof![
        Just(serde_json::json!(null)), Just(serde_json::json!([])), Just(serde_json::json!({"__float__": "NaN"})),
        any::<u64>().prop_map(|n| n.into()), (0_u32..64).prop_map(|bits| (1_u64 << bits).into()),
        any::<f64>().prop_map(|x| x.into()), ".{0,8}".prop_map(|text| text.into()),
    ]) {
        let mut config = crate::folder::tiny_config();
        let names: Vec<String> = config.keys().cloned().collect();
        config.insert(names[field.index(names.len())].clone(), value);
        read_config(serde_json::Value::Object(config).to_string().as_bytes());
    }
}

proptest! {
    // Few: each makes a folder.
    #![proptest_config(ProptestConfig { cases: 50, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn folders_of_random_files(index in prop::collection::vec(any::<u8>(), 0..100), has_index in any::<bool>()) {
        let name = if has_index { INDEX_FILE } else { SINGLE_FILE };
        let dir = folder(&[(name, &index)]);
        prop_assert!(Checkpoint::open(dir.path()).is_err());
    }
}
