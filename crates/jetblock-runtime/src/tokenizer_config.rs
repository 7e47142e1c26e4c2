//! `tokenizer_config.json`: the special tokens by role, the chat template, tokens added to `tokenizer.json`.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use crate::TextError;
use crate::error::read_optional_file;

/// The file's name in a model folder.
pub const TOKENIZER_CONFIG_FILE: &str = "tokenizer_config.json";

/// A tokenizer_config.json lists each added token at some length; real ones stay below 1 MiB.
const MAX_CONFIG_BYTES: u64 = 32 << 20;

/// Roles of special tokens that chat templates see as variables, such as `bos_token`.
const ROLES: [&str; 7] = [
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
];

/// What `tokenizer_config.json` says; all of it optional.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TokenizerConfig {
    /// Texts of the special tokens by role, such as `bos_token`.
    pub special_tokens: BTreeMap<&'static str, String>,
    /// Chat templates by name; a single one is called `default`.
    pub chat_templates: BTreeMap<String, String>,
    /// Added tokens by id, with the flags that override those in `tokenizer.json`.
    pub added_tokens: BTreeMap<u32, AddedToken>,
}

/// A token that is matched in text before the pre-tokenizer runs.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct AddedToken {
    /// Its text.
    pub content: String,
    /// Matches whole words only.
    #[serde(default)]
    pub single_word: bool,
    /// Swallows whitespace on its left.
    #[serde(default)]
    pub lstrip: bool,
    /// Swallows whitespace on its right.
    #[serde(default)]
    pub rstrip: bool,
    /// Matches the normalized text instead of the raw one.
    #[serde(default)]
    pub normalized: bool,
    /// A control token, hidden from people by default.
    #[serde(default)]
    pub special: bool,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum TokenText {
    Text(String),
    Token { content: String },
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Templates {
    One(String),
    Named(Vec<NamedTemplate>),
}

#[derive(Deserialize)]
struct NamedTemplate {
    name: String,
    template: String,
}

impl TokenizerConfig {
    /// Reads the file in a model folder; a folder without it has the empty configuration.
    pub fn open(folder: &Path) -> Result<TokenizerConfig, TextError> {
        let bytes = read_optional_file(&folder.join(TOKENIZER_CONFIG_FILE), MAX_CONFIG_BYTES)?;
        bytes.map_or_else(
            || Ok(TokenizerConfig::default()),
            |bytes| TokenizerConfig::from_bytes(&bytes),
        )
    }

    /// Parses the file's content.
    pub fn from_bytes(bytes: &[u8]) -> Result<TokenizerConfig, TextError> {
        let mut fields: serde_json::Map<String, Value> =
            serde_json::from_slice(bytes).map_err(TextError::json(TOKENIZER_CONFIG_FILE))?;
        let mut config = TokenizerConfig::default();
        for role in ROLES {
            match take(&mut fields, role)? {
                Some(TokenText::Text(content) | TokenText::Token { content }) => {
                    config.special_tokens.insert(role, content);
                }
                None => {}
            }
        }
        match take(&mut fields, "chat_template")? {
            Some(Templates::One(template)) => {
                config.chat_templates.insert("default".into(), template);
            }
            Some(Templates::Named(list)) => {
                config
                    .chat_templates
                    .extend(list.into_iter().map(|named| (named.name, named.template)));
            }
            None => {}
        }
        config.added_tokens = take(&mut fields, "added_tokens_decoder")?.unwrap_or_default();
        Ok(config)
    }
}

/// The field's value in its type; `None` where it is absent or null.
fn take<T: serde::de::DeserializeOwned>(
    fields: &mut serde_json::Map<String, Value>,
    name: &str,
) -> Result<Option<T>, TextError> {
    match fields.remove(name) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => {
            let file = format!("{name} in {TOKENIZER_CONFIG_FILE}");
            serde_json::from_value(value)
                .map(Some)
                .map_err(TextError::json(&file))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn token_texts_may_be_strings_or_objects() {
        let config = TokenizerConfig::from_bytes(
            br#"{"bos_token": "<s>", "eos_token": {"content": "</s>", "lstrip": false}, "pad_token": null,
                 "chat_template": "x", "added_tokens_decoder": {"2": {"content": "</s>", "special": true}}}"#,
        )
        .unwrap();
        assert_eq!(config.special_tokens["bos_token"], "<s>");
        assert_eq!(config.special_tokens["eos_token"], "</s>");
        assert!(!config.special_tokens.contains_key("pad_token"));
        assert_eq!(config.chat_templates["default"], "x");
        assert!(config.added_tokens[&2].special);
    }

    #[test]
    fn templates_may_be_named() {
        let config = TokenizerConfig::from_bytes(
            br#"{"chat_template": [{"name": "default", "template": "a"}, {"name": "tool_use", "template": "b"}]}"#,
        )
        .unwrap();
        assert_eq!(config.chat_templates.len(), 2);
        assert_eq!(config.chat_templates["tool_use"], "b");
    }

    #[test]
    fn wrong_types_are_errors() {
        for bad in [
            &br#"[]"#[..],
            br#"{"bos_token": 3}"#,
            br#"{"chat_template": {"a": 1}}"#,
            br#"{"added_tokens_decoder": {"x": {"content": "a"}}}"#,
            br#"{"added_tokens_decoder": {"1": {}}}"#,
            b"\xff",
            b"",
        ] {
            assert!(matches!(
                TokenizerConfig::from_bytes(bad),
                Err(TextError::Json { .. })
            ));
        }
    }
}
