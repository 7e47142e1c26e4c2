//! Tokenizer, chat template and special tokens from the metadata of a GGUF file.
//!
//! The metadata has what `tokenizer.json` has in other words: tokens, merges and the name of a pre-tokenizer. They are put into that
//! form and read like any other, so the checks of [`Tokenizer::from_bytes`] hold here too.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use jetblock_models::checkpoint::CheckpointError;
use jetblock_models::gguf::{Array, Gguf, Metadata, Value};
use jetblock_models::{LoadProgress, Model, ModelError, Options};
use serde_json::json;

use crate::{
    ChatTemplate, GenerationConfig, Session, SessionError, TextError, Tokenizer, TokenizerConfig,
};

const MODEL: &str = "tokenizer.ggml.model";
const PRE: &str = "tokenizer.ggml.pre";
const TOKENS: &str = "tokenizer.ggml.tokens";
const TYPES: &str = "tokenizer.ggml.token_type";
const MERGES: &str = "tokenizer.ggml.merges";

/// `tokenizer.ggml.token_type` of control tokens, tokens that a user added, and rows without a token.
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;
const UNUSED: i32 = 5;

/// Splits words as Llama 3 does.
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// As Qwen 2 does: digits one by one.
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// As Mistral's Tekken does, which Nemotron 3 has too.
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// A pre-tokenizer by the name that llama.cpp gives it.
struct PreTokenizer {
    pre_tokenizer: serde_json::Value,
    normalizer: Option<serde_json::Value>,
    /// A word that is a token is taken whole, without its merges.
    ignore_merges: bool,
    /// Whether a text starts with the BOS token where the metadata does not say.
    add_bos: bool,
}

impl PreTokenizer {
    fn named(name: &str) -> Option<PreTokenizer> {
        let byte_level = |use_regex| json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": use_regex});
        let split = |regex| {
            json!({"type": "Sequence", "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": false},
                byte_level(false),
            ]})
        };
        let plain = |pre_tokenizer| PreTokenizer {
            pre_tokenizer,
            normalizer: None,
            ignore_merges: false,
            add_bos: false,
        };
        let whole_words = |pre_tokenizer| PreTokenizer {
            ignore_merges: true,
            add_bos: true,
            ..plain(pre_tokenizer)
        };
        Some(match name {
            "gpt-2" => plain(byte_level(true)),
            "smollm" | "starcoder" | "refact" => {
                plain(json!({"type": "Sequence", "pretokenizers": [
                    {"type": "Digits", "individual_digits": true},
                    byte_level(true),
                ]}))
            }
            "llama-bpe" | "llama3" | "llama-v3" | "pixtral" => whole_words(split(LLAMA3)),
            "tekken" => whole_words(split(TEKKEN)),
            "qwen2" => PreTokenizer {
                normalizer: Some(json!({"type": "NFC"})),
                ..plain(split(QWEN2))
            },
            _ => return None,
        })
    }
}

impl Session {
    pub(crate) fn open_gguf(
        file: &Path,
        options: Options,
        progress: &mut dyn FnMut(LoadProgress),
    ) -> Result<Session, SessionError> {
        let gguf = Gguf::open(file).map_err(ModelError::from)?;
        let config = gguf.config().map_err(ModelError::from)?;
        let metadata = gguf.metadata();
        let tokenizer = tokenizer(metadata, config.vocab_size)?;
        let chat_template = chat_template(metadata)?;
        let generation_config = generation_config(metadata)?;
        let checkpoint = gguf.checkpoint(&config).map_err(ModelError::from)?;
        let model = Model::from_checkpoint(config, &checkpoint, options, progress)?;
        Ok(Session {
            model: Arc::new(model),
            tokenizer,
            chat_template,
            generation_config,
        })
    }
}

/// The tokenizer of a file whose embedding table has `vocab_size` rows.
fn tokenizer(metadata: Metadata<'_>, vocab_size: usize) -> Result<Tokenizer, TextError> {
    let text = |key| metadata.text(key).map_err(gguf_error);
    match text(MODEL)? {
        Some("gpt2") => {}
        other => {
            return Err(TextError::value(
                MODEL,
                "\"gpt2\" (byte-level BPE)",
                format!("{:?}", other.unwrap_or("missing")),
            ));
        }
    }
    let name = text(PRE)?.unwrap_or("missing");
    let pre = PreTokenizer::named(name).ok_or_else(|| {
        let expected = "gpt-2, smollm, starcoder, refact, llama-bpe, pixtral, tekken or qwen2";
        TextError::value(PRE, expected, format!("{name:?}"))
    })?;
    let json = tokenizer_json(metadata, pre)?.to_string();
    Tokenizer::from_bytes(json.as_bytes(), &TokenizerConfig::default(), vocab_size)
}

/// `tokenizer.json` of the metadata.
fn tokenizer_json(
    metadata: Metadata<'_>,
    pre: PreTokenizer,
) -> Result<serde_json::Value, TextError> {
    let tokens = metadata.texts(TOKENS).map_err(gguf_error)?;
    let merges = metadata.texts(MERGES).map_err(gguf_error)?;
    let types = match metadata.get(TYPES) {
        Some(Value::Array(Array::I32(types))) if types.len() == tokens.len() => types.as_slice(),
        _ => {
            let expected = format!("{} numbers, one for each token", tokens.len());
            return Err(gguf_error(metadata.wrong(TYPES, &expected)));
        }
    };
    let mut vocab = serde_json::Map::new();
    let mut added = Vec::new();
    let mut seen = HashSet::new();
    for (id, (token, kind)) in tokens.iter().zip(types).enumerate() {
        if *kind == UNUSED {
            continue;
        }
        if !seen.insert(token) {
            let expected = "every token once";
            return Err(TextError::value(
                TOKENS,
                expected,
                format!("{token:?} twice"),
            ));
        }
        vocab.insert(token.clone(), id.into());
        if [CONTROL, USER_DEFINED].contains(kind) {
            added.push(json!({
                "id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": *kind == CONTROL,
            }));
        }
    }
    let add_bos = metadata
        .flag("tokenizer.ggml.add_bos_token")
        .map_err(gguf_error)?
        .unwrap_or(pre.add_bos);
    let bos = token(metadata, "bos")?.filter(|_| add_bos);
    let post_processor = bos.map(|(id, text)| {
        json!({
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": text, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {(text.as_str()): {"id": text, "ids": [id], "tokens": [text]}},
        })
    });
    Ok(json!({
        "version": "1.0",
        "added_tokens": added,
        "normalizer": pre.normalizer,
        "pre_tokenizer": pre.pre_tokenizer,
        "post_processor": post_processor,
        "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
            "ignore_merges": pre.ignore_merges, "vocab": vocab, "merges": merges,
        },
    }))
}

/// The chat template, if the file has one.
fn chat_template(metadata: Metadata<'_>) -> Result<Option<ChatTemplate>, TextError> {
    let source = metadata
        .text("tokenizer.chat_template")
        .map_err(gguf_error)?;
    let Some(source) = source else {
        return Ok(None);
    };
    let mut config = TokenizerConfig::default();
    for (role, name) in [
        ("bos_token", "bos"),
        ("eos_token", "eos"),
        ("pad_token", "padding"),
    ] {
        if let Some((_, text)) = token(metadata, name)? {
            config.special_tokens.insert(role, text);
        }
    }
    ChatTemplate::from_source(source, &config).map(Some)
}

/// The tokens that end a generation: end of text, of a turn, of a message.
fn generation_config(metadata: Metadata<'_>) -> Result<GenerationConfig, TextError> {
    let mut ends = Vec::new();
    for role in ["eos", "eot", "eom"] {
        ends.extend(token(metadata, role)?.map(|(id, _)| id));
    }
    Ok(GenerationConfig {
        eos_token_id: ends.into_iter().collect(),
        bos_token_id: token(metadata, "bos")?.map(|(id, _)| id),
        pad_token_id: token(metadata, "padding")?.map(|(id, _)| id),
        ..GenerationConfig::default()
    })
}

/// Id and text of a special token, where the metadata names one.
fn token(metadata: Metadata<'_>, role: &str) -> Result<Option<(u32, String)>, TextError> {
    let key = format!("tokenizer.ggml.{role}_token_id");
    let Some(id) = metadata.token(&key).map_err(gguf_error)? else {
        return Ok(None);
    };
    let tokens = metadata.texts(TOKENS).map_err(gguf_error)?;
    match tokens.get(id as usize) {
        Some(text) => Ok(Some((id, text.clone()))),
        None => Err(TextError::value(
            &key,
            format!("below {}", tokens.len()),
            id,
        )),
    }
}

fn gguf_error(e: CheckpointError) -> TextError {
    TextError::Gguf(e.to_string())
}
