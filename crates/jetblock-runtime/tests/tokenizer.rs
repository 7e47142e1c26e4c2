//! The tokenizer reads Hugging Face files, streams whole characters and survives hostile files.

use jetblock_runtime::{
    AddSpecialTokens, SkipSpecialTokens, TextError, Tokenizer, TokenizerConfig,
};
use proptest::prelude::*;
use serde_json::{Value, json};

const DEMO: &[u8] = include_bytes!("../../../assets/demo-model/tokenizer.json");
const DEMO_CONFIG: &[u8] = include_bytes!("../../../assets/demo-model/tokenizer_config.json");
const DEMO_VOCAB: usize = 4096;

fn demo() -> Tokenizer {
    use std::sync::LazyLock;
    static TOKENIZER: LazyLock<Tokenizer> = LazyLock::new(|| {
        let config = TokenizerConfig::from_bytes(DEMO_CONFIG).unwrap();
        Tokenizer::from_bytes(DEMO, &config, DEMO_VOCAB).unwrap()
    });
    TOKENIZER.clone()
}

/// A byte-level tokenizer whose only merge joins two bytes of different characters.
fn tiny() -> Value {
    json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null,
        "added_tokens": [
            {"id": 0, "content": "<s>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true},
            {"id": 1, "content": "é!", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": false},
        ],
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false},
        "post_processor": {"type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [0], "tokens": ["<s>"]}}},
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
            // é is C3 A9, written Ã ©.
            "vocab": {"<s>": 0, "é!": 1, "a": 2, "Ã": 3, "©": 4, "©Ã": 5, "Ġ": 6}, "merges": [["©", "Ã"]]},
    })
}

fn load(file: &Value, vocab_size: usize) -> Result<Tokenizer, TextError> {
    Tokenizer::from_bytes(
        file.to_string().as_bytes(),
        &TokenizerConfig::default(),
        vocab_size,
    )
}

fn stream(tokenizer: &Tokenizer, ids: &[u32], skip: SkipSpecialTokens) -> Vec<String> {
    let mut decoder = tokenizer.decode_stream(skip);
    let mut pieces: Vec<String> = ids.iter().map(|&id| decoder.push(id).unwrap()).collect();
    pieces.push(decoder.finish().unwrap());
    pieces
}

#[test]
fn chat_markup_is_one_token_each() {
    let tokenizer = demo();
    let ids = tokenizer
        .encode(
            "<|im_start|>user\n<think></think><|im_end|>",
            AddSpecialTokens::No,
        )
        .unwrap();
    assert_eq!((ids[0], &ids[ids.len() - 3..]), (10, &[12, 13, 11][..]));
    assert!(tokenizer.is_special(11));
    assert_eq!(tokenizer.token_to_id("</think>"), Some(13));
    assert_eq!(
        tokenizer.decode(&[10, 12], SkipSpecialTokens::No).unwrap(),
        "<|im_start|><think>"
    );
}

#[test]
fn special_tokens_are_hidden_by_choice() {
    let tokenizer = demo();
    let ids = tokenizer
        .encode("a<|im_end|>b", AddSpecialTokens::No)
        .unwrap();
    assert_eq!(
        tokenizer.decode(&ids, SkipSpecialTokens::No).unwrap(),
        "a<|im_end|>b"
    );
    assert_eq!(
        tokenizer.decode(&ids, SkipSpecialTokens::Yes).unwrap(),
        "ab"
    );
    let mut decoder = tokenizer.decode_stream(SkipSpecialTokens::Yes).show(11);
    assert_eq!(
        ids.iter()
            .map(|&id| decoder.push(id).unwrap())
            .collect::<String>(),
        "a<|im_end|>b"
    );
}

#[test]
fn the_post_processor_adds_tokens_to_raw_text_only() {
    let tokenizer = load(&tiny(), 7).unwrap();
    assert_eq!(
        tokenizer.encode("a", AddSpecialTokens::Yes).unwrap(),
        [0, 2]
    );
    assert_eq!(tokenizer.encode("a", AddSpecialTokens::No).unwrap(), [2]);
    assert_eq!(
        tokenizer.encode("<s>a", AddSpecialTokens::No).unwrap(),
        [0, 2]
    );
}

#[test]
fn unfinished_characters_are_held_back() {
    let tokenizer = load(&tiny(), 7).unwrap();
    let ids = tokenizer.encode("ééa", AddSpecialTokens::No).unwrap();
    assert_eq!(ids, [3, 5, 4, 2]);
    assert_eq!(
        stream(&tokenizer, &ids, SkipSpecialTokens::Yes),
        ["", "é", "é", "a", ""]
    );
    assert_eq!(
        stream(&tokenizer, &[2, 3], SkipSpecialTokens::Yes),
        ["a", "", "\u{FFFD}"]
    );
    assert_eq!(
        stream(&tokenizer, &[3, 2, 4], SkipSpecialTokens::Yes),
        ["", "\u{FFFD}a", "\u{FFFD}", ""]
    );
}

#[test]
fn added_tokens_are_text_and_not_bytes() {
    let tokenizer = load(&tiny(), 7).unwrap();
    let ids = tokenizer.encode("aé!", AddSpecialTokens::No).unwrap();
    assert_eq!(ids, [2, 1]);
    assert_eq!(
        tokenizer.decode(&ids, SkipSpecialTokens::Yes).unwrap(),
        "aé!"
    );
}

#[test]
fn ids_without_a_token_have_no_text() {
    assert_eq!(
        demo()
            .decode(&[4_000_000, u32::MAX], SkipSpecialTokens::No)
            .unwrap(),
        ""
    );
}

#[test]
fn other_decoders_stream_too() {
    // The decoder of Llama 2: word marks and byte tokens.
    let mut file = tiny();
    file["pre_tokenizer"] = Value::Null;
    file["post_processor"] = Value::Null;
    file["normalizer"] = json!({"type": "Sequence", "normalizers": [
        {"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]});
    file["decoder"] = json!({"type": "Sequence", "decoders": [
        {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"},
        {"type": "Strip", "content": " ", "start": 1, "stop": 0}]});
    file["model"]["vocab"] =
        json!({"<s>": 0, "é!": 1, "▁": 2, "a": 3, "<0xC3>": 4, "<0xA9>": 5, "b": 6, "▁a": 7});
    file["model"]["merges"] = json!([["▁", "a"]]);
    file["model"]["byte_fallback"] = true.into();
    let tokenizer = load(&file, 8).unwrap();
    let ids = tokenizer.encode("a éb a", AddSpecialTokens::No).unwrap();
    assert_eq!(ids, [7, 2, 4, 5, 6, 7]);
    assert_eq!(
        tokenizer.decode(&ids, SkipSpecialTokens::Yes).unwrap(),
        "a éb a"
    );
    assert_eq!(
        stream(&tokenizer, &ids, SkipSpecialTokens::Yes),
        ["a", " ", "", "é", "b", " a", ""]
    );
    assert_eq!(
        stream(&tokenizer, &[3, 4], SkipSpecialTokens::Yes),
        ["a", "", "\u{FFFD}"]
    );
}

#[test]
fn vocabulary_must_fit_the_model() {
    assert!(load(&tiny(), 7).is_ok());
    let error = load(&tiny(), 6).unwrap_err().to_string();
    assert_eq!(
        error,
        "tokenizer.json has token id 6, expected ids below the model's vocab_size 6"
    );
}

#[test]
fn the_configuration_adds_and_flags_tokens() {
    let config = TokenizerConfig::from_bytes(
        br#"{"added_tokens_decoder": {"1": {"content": "\u00e9!", "special": true}, "7": {"content": "<new>", "special": true}}}"#,
    )
    .unwrap();
    let bytes = tiny().to_string();
    let tokenizer = Tokenizer::from_bytes(bytes.as_bytes(), &config, 8).unwrap();
    assert_eq!(
        tokenizer.encode("<new>a", AddSpecialTokens::No).unwrap(),
        [7, 2]
    );
    assert_eq!(
        tokenizer
            .decode(&[2, 1, 7], SkipSpecialTokens::Yes)
            .unwrap(),
        "a"
    );
    let conflict =
        TokenizerConfig::from_bytes(br#"{"added_tokens_decoder": {"3": {"content": "<s>"}}}"#)
            .unwrap();
    assert!(Tokenizer::from_bytes(bytes.as_bytes(), &conflict, 8).is_err());
}

#[test]
fn training_features_do_not_reach_prompts() {
    let mut file = tiny();
    file["truncation"] =
        json!({"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0});
    file["padding"] = json!({"strategy": {"Fixed": 9}, "direction": "Right", "pad_to_multiple_of": null,
        "pad_id": 0, "pad_type_id": 0, "pad_token": "<s>"});
    let tokenizer = load(&file, 7).unwrap();
    assert_eq!(
        tokenizer.encode("aaaa", AddSpecialTokens::No).unwrap(),
        [2, 2, 2, 2]
    );
    file["model"]["dropout"] = json!(0.1);
    assert!(matches!(load(&file, 7), Err(TextError::Value { .. })));
}

#[test]
fn misnumbered_added_tokens_are_errors() {
    let mut file = tiny();
    file["added_tokens"][1]["id"] = 40.into();
    let error = load(&file, 100).unwrap_err();
    assert!(matches!(error, TextError::Value { .. }), "{error:?}");
}

#[test]
fn hostile_files_are_errors() {
    let whole = tiny().to_string();
    let nested = format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000));
    for bad in [
        "",
        "null",
        "[]",
        "{}",
        "{\"model\": 3}",
        &whole[..whole.len() / 2],
        &nested,
    ] {
        let error =
            Tokenizer::from_bytes(bad.as_bytes(), &TokenizerConfig::default(), 100).unwrap_err();
        assert!(
            matches!(error, TextError::Tokenizer { .. }),
            "{bad:.40}: {error:?}"
        );
    }
    let mut file = tiny();
    file["model"]["vocab"] = json!({});
    file["model"]["merges"] = json!([]);
    file["added_tokens"] = json!([]);
    assert!(load(&file, 100).is_err());
    let mut file = tiny();
    file["model"]["merges"] = json!([["x", "y"]]);
    assert!(load(&file, 100).is_err());
    let mut file = tiny();
    file["pre_tokenizer"] = json!({"type": "Split", "pattern": {"Regex": "(("}, "behavior": "Isolated", "invert": false});
    assert!(load(&file, 100).is_err());
}

#[test]
fn missing_and_huge_files_are_errors() {
    let folder = tempfile::tempdir().unwrap();
    let open = || Tokenizer::open(folder.path(), &TokenizerConfig::default(), 100);
    assert!(matches!(open(), Err(TextError::Read { .. })));
    let file = std::fs::File::create(folder.path().join("tokenizer.json")).unwrap();
    file.set_len(1 << 40).unwrap();
    assert!(matches!(open(), Err(TextError::FileTooLarge { .. })));
}

#[test]
fn very_long_runs_are_encoded_whole() {
    let tokenizer = demo();
    for text in [
        " ".repeat(200_000),
        "a".repeat(200_000),
        "\n".repeat(50_000) + "x",
    ] {
        let ids = tokenizer.encode(&text, AddSpecialTokens::No).unwrap();
        assert!(tokenizer.decode(&ids, SkipSpecialTokens::No).unwrap() == text);
    }
}

proptest! {
    #[test]
    fn text_survives_the_round_trip(text in "\\PC{0,40}|[ \\n\\ta-zé😀日本]{0,40}") {
        let tokenizer = demo();
        let ids = tokenizer.encode(&text, AddSpecialTokens::No).unwrap();
        prop_assert_eq!(tokenizer.decode(&ids, SkipSpecialTokens::No).unwrap(), text.clone());
        prop_assert_eq!(stream(&tokenizer, &ids, SkipSpecialTokens::No).concat(), text);
    }

    #[test]
    fn streaming_equals_decoding(ids in prop::collection::vec(0..DEMO_VOCAB as u32, 0..30)) {
        let tokenizer = demo();
        for skip in [SkipSpecialTokens::Yes, SkipSpecialTokens::No] {
            let whole = tokenizer.decode(&ids, skip).unwrap();
            prop_assert_eq!(stream(&tokenizer, &ids, skip).concat(), whole);
        }
    }

    #[test]
    fn damaged_files_do_not_panic(at in 0..1_000_000_usize, byte in 0x20..0x7F_u8) {
        let mut bytes = tiny().to_string().into_bytes();
        let at = at % bytes.len();
        bytes[at] = byte;
        if let Ok(tokenizer) = Tokenizer::from_bytes(&bytes, &TokenizerConfig::default(), 1 << 20) {
            let _ = tokenizer.encode("aé <s>", AddSpecialTokens::Yes);
        }
    }
}
