//! Text to token ids and back: `tokenizer.json` as Hugging Face tokenizers read it.
//!
//! Byte-level BPE tokenizers (every Nemotron, Llama 3, Qwen, ...) are decoded here, byte by byte, so that streamed and
//! whole decoding agree exactly; other decoders go through the `tokenizers` library.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use serde::Deserialize;
use tokenizers::{DecoderWrapper, ModelWrapper};

use crate::error::{catch_panic, read_file};
use crate::{TextError, TokenizerConfig};

/// The file's name in a model folder.
pub const TOKENIZER_FILE: &str = "tokenizer.json";

/// The largest known tokenizer.json (262144 tokens) has 33 MiB.
const MAX_TOKENIZER_BYTES: u64 = 128 << 20;

/// Longest text for one call of [`Tokenizer::encode`]: more than any context window holds.
pub const MAX_TEXT_BYTES: usize = 64 << 20;

/// Whether encoding adds the tokens that the tokenizer's post-processor puts around a text, such as `<s>`.
///
/// Special tokens *written in* the text are recognized either way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddSpecialTokens {
    /// Raw text completion.
    Yes,
    /// Rendered chat templates, which spell out every token they want.
    No,
}

/// Whether decoding leaves special tokens out of the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SkipSpecialTokens {
    /// What a person wants to read.
    Yes,
    /// What the model produced.
    No,
}

/// A loaded tokenizer; cheap to clone.
#[derive(Clone)]
pub struct Tokenizer(Arc<Inner>);

struct Inner {
    library: tokenizers::Tokenizer,
    decoding: Decoding,
    added: BTreeMap<u32, Added>,
    len: usize,
    newline: OnceLock<Arc<[u32]>>,
}

struct Added {
    text: String,
    special: bool,
}

#[derive(Clone, Copy, PartialEq)]
enum Decoding {
    /// Each character of a token stands for one byte.
    ByteLevel,
    /// Whatever the library does.
    Library,
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer")
            .field("len", &self.0.len)
            .finish_non_exhaustive()
    }
}

impl Tokenizer {
    /// Loads `tokenizer.json` from a model folder. Every id must be below `vocab_size`, the rows of the model's
    /// embedding table (which may have unused rows beyond the tokenizer's last id).
    pub fn open(
        folder: &Path,
        config: &TokenizerConfig,
        vocab_size: usize,
    ) -> Result<Tokenizer, TextError> {
        let bytes = read_file(&folder.join(TOKENIZER_FILE), MAX_TOKENIZER_BYTES)?;
        Tokenizer::from_bytes(&bytes, config, vocab_size)
    }

    /// Loads from the content of `tokenizer.json`.
    pub fn from_bytes(
        bytes: &[u8],
        config: &TokenizerConfig,
        vocab_size: usize,
    ) -> Result<Tokenizer, TextError> {
        let invalid = |reason: String| TextError::Tokenizer { reason };
        let mut library = catch_panic(|| tokenizers::Tokenizer::from_bytes(bytes))
            .map_err(invalid)?
            .map_err(|e| invalid(e.to_string()))?;
        if let ModelWrapper::BPE(bpe) = library.get_model()
            && bpe.dropout.is_some_and(|p| p != 0.0)
        {
            return Err(TextError::value(
                "dropout in tokenizer.json",
                "none, the same text has the same ids",
                "set",
            ));
        }
        // Both belong to training batches: a prompt is never cut or filled.
        library.with_padding(None);
        library
            .with_truncation(None)
            .map_err(|e| invalid(e.to_string()))?;
        catch_panic(|| add_configured_tokens(&mut library, config)).map_err(invalid)?;
        check_added_ids(&library, bytes, config)?;

        let vocab = library.get_vocab(true);
        let added: BTreeMap<u32, Added> = library
            .get_added_tokens_decoder()
            .into_iter()
            .map(|(id, token)| {
                // The library keeps the flags it saw first; the configuration's word on `special` is the later one.
                let special = config
                    .added_tokens
                    .get(&id)
                    .map_or(token.special, |configured| configured.special);
                (
                    id,
                    Added {
                        text: token.content,
                        special,
                    },
                )
            })
            .collect();
        match vocab.values().copied().chain(added.keys().copied()).max() {
            None => return Err(invalid("the vocabulary is empty".into())),
            Some(id) if id as usize >= vocab_size => {
                return Err(TextError::VocabTooLarge { id, vocab_size });
            }
            Some(_) => {}
        }
        let decoding = match library.get_decoder() {
            Some(DecoderWrapper::ByteLevel(_)) => Decoding::ByteLevel,
            Some(DecoderWrapper::Sequence(list)) => match list.get_decoders() {
                [DecoderWrapper::ByteLevel(_)] => Decoding::ByteLevel,
                _ => Decoding::Library,
            },
            _ => Decoding::Library,
        };
        Ok(Tokenizer(Arc::new(Inner {
            library,
            decoding,
            added,
            len: vocab.len(),
            newline: OnceLock::new(),
        })))
    }

    /// The ids of a text.
    pub fn encode(&self, text: &str, add: AddSpecialTokens) -> Result<Vec<u32>, TextError> {
        if text.len() > MAX_TEXT_BYTES {
            let expected = format!("at most {MAX_TEXT_BYTES} bytes");
            return Err(TextError::value(
                "the text to encode",
                expected,
                format!("{} bytes", text.len()),
            ));
        }
        let failed = |reason| TextError::Tokenize {
            op: "encode",
            reason,
        };
        let encoding = catch_panic(|| {
            self.0
                .library
                .encode_fast(text, add == AddSpecialTokens::Yes)
        })
        .map_err(failed)?
        .map_err(|e| failed(e.to_string()))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The text of ids. Ids without a token have no text; bytes that are not UTF-8 become U+FFFD.
    pub fn decode(&self, ids: &[u32], skip: SkipSpecialTokens) -> Result<String, TextError> {
        let mut stream = self.decode_stream(skip);
        if self.0.decoding == Decoding::Library {
            let ids: Vec<u32> = ids
                .iter()
                .copied()
                .filter(|&id| stream.is_visible(id))
                .collect();
            return self.library_decode(&ids);
        }
        let mut text = String::new();
        for &id in ids {
            text.push_str(&stream.push(id)?);
        }
        text.push_str(&stream.finish()?);
        Ok(text)
    }

    /// A decoder for ids that arrive one by one.
    pub fn decode_stream(&self, skip: SkipSpecialTokens) -> StreamDecoder {
        StreamDecoder {
            tokenizer: self.clone(),
            skip,
            shown: Vec::new(),
            bytes: Vec::new(),
            ids: Vec::new(),
            done: 0,
        }
    }

    /// The id of a token, by its exact text (for byte-level BPE: the text in its byte alphabet, unless it is an
    /// added token).
    pub fn token_to_id(&self, token: &str) -> Option<u32> {
        self.0.library.token_to_id(token)
    }

    /// Whether the id is a control token, such as `<|im_end|>`.
    pub fn is_special(&self, id: u32) -> bool {
        self.0.added.get(&id).is_some_and(|added| added.special)
    }

    /// The ids, ascending, of tokens whose text ends in a newline.
    pub fn ids_ending_in_newline(&self) -> Arc<[u32]> {
        let find = || {
            let mut ids: Vec<u32> = self.0.library.get_vocab(true).into_values().collect();
            ids.sort_unstable();
            ids.retain(|&id| match self.0.decoding {
                Decoding::ByteLevel => {
                    let mut bytes = Vec::new();
                    self.push_token_bytes(id, &mut bytes);
                    bytes.ends_with(b"\n")
                }
                Decoding::Library => self
                    .library_decode(&[id])
                    .is_ok_and(|text| text.ends_with('\n')),
            });
            ids.into()
        };
        self.0.newline.get_or_init(find).clone()
    }

    /// Number of tokens.
    #[allow(
        clippy::len_without_is_empty,
        reason = "an empty vocabulary is refused at load"
    )]
    pub fn len(&self) -> usize {
        self.0.len
    }

    /// Appends the bytes that a token stands for.
    fn push_token_bytes(&self, id: u32, bytes: &mut Vec<u8>) {
        if let Some(added) = self.0.added.get(&id) {
            bytes.extend_from_slice(added.text.as_bytes());
        } else if let Some(token) = self.0.library.id_to_token(id) {
            let start = bytes.len();
            for c in token.chars() {
                match byte_of_char(c) {
                    Some(byte) => bytes.push(byte),
                    None => {
                        // Not in the byte alphabet: the token is meant literally.
                        bytes.truncate(start);
                        bytes.extend_from_slice(token.as_bytes());
                        return;
                    }
                }
            }
        }
    }

    fn library_decode(&self, ids: &[u32]) -> Result<String, TextError> {
        let failed = |reason| TextError::Tokenize {
            op: "decode",
            reason,
        };
        catch_panic(|| self.0.library.decode(ids, false))
            .map_err(failed)?
            .map_err(|e| failed(e.to_string()))
    }
}

/// Turns ids into text as they come, in whole characters.
///
/// The pieces returned by [`push`](Self::push) and [`finish`](Self::finish) put together are what
/// [`Tokenizer::decode`] gives. A token may end inside a character; the part is held back until the rest comes.
#[derive(Clone, Debug)]
pub struct StreamDecoder {
    tokenizer: Tokenizer,
    skip: SkipSpecialTokens,
    /// Special tokens that are shown although others are skipped.
    shown: Vec<u32>,
    /// Byte-level: the start of an unfinished character.
    bytes: Vec<u8>,
    /// Other decoders: the recent ids, and how many of them have been emitted.
    ids: Vec<u32>,
    done: usize,
}

/// A character has at most four bytes, so no more than this many tokens can be waiting for one to complete.
const MAX_WAITING: usize = 8;

impl StreamDecoder {
    /// Shows this token even if it is special: a parser further on needs to see it.
    pub fn show(mut self, id: u32) -> StreamDecoder {
        self.shown.push(id);
        self
    }

    /// The text that this id completes.
    pub fn push(&mut self, id: u32) -> Result<String, TextError> {
        if !self.is_visible(id) {
            return Ok(String::new());
        }
        if self.tokenizer.0.decoding == Decoding::ByteLevel {
            self.tokenizer.push_token_bytes(id, &mut self.bytes);
            return Ok(take_complete(&mut self.bytes));
        }
        self.ids.push(id);
        let whole = self.tokenizer.library_decode(&self.ids)?;
        if whole.ends_with('\u{FFFD}') && self.ids.len() - self.done < MAX_WAITING {
            return Ok(String::new());
        }
        let text = self.after_done(&whole)?;
        // What was just emitted stays as context: some decoders treat the first token differently.
        self.ids.drain(..self.done);
        self.done = self.ids.len();
        Ok(text)
    }

    /// The rest; an unfinished character becomes U+FFFD. The decoder starts over afterwards.
    pub fn finish(&mut self) -> Result<String, TextError> {
        let mut text = String::from_utf8_lossy(&std::mem::take(&mut self.bytes)).into_owned();
        if self.done < self.ids.len() {
            text = self.after_done(&self.tokenizer.library_decode(&self.ids)?)?;
        }
        self.ids.clear();
        self.done = 0;
        Ok(text)
    }

    fn is_visible(&self, id: u32) -> bool {
        self.skip == SkipSpecialTokens::No
            || !self.tokenizer.is_special(id)
            || self.shown.contains(&id)
    }

    /// The part of `whole`, the text of all recent ids, that has not been emitted.
    fn after_done(&self, whole: &str) -> Result<String, TextError> {
        let before = self.tokenizer.library_decode(&self.ids[..self.done])?;
        Ok(whole.get(before.len()..).unwrap_or_default().to_owned())
    }
}

/// Takes the text out of `bytes` that more bytes cannot change, leaving the start of an unfinished character.
fn take_complete(bytes: &mut Vec<u8>) -> String {
    let mut text = String::new();
    let mut at = 0;
    loop {
        match std::str::from_utf8(&bytes[at..]) {
            Ok(rest) => {
                text.push_str(rest);
                bytes.clear();
                return text;
            }
            Err(error) => {
                let valid = at + error.valid_up_to();
                text.push_str(std::str::from_utf8(&bytes[at..valid]).expect("valid up to here"));
                match error.error_len() {
                    Some(len) => {
                        text.push('\u{FFFD}');
                        at = valid + len;
                    }
                    None => {
                        bytes.drain(..valid);
                        return text;
                    }
                }
            }
        }
    }
}

/// The byte that a character of the byte-level alphabet stands for: printable bytes of Latin-1 stand for themselves,
/// the other 68 are numbered from U+0100 on in ascending order.
fn byte_of_char(c: char) -> Option<u8> {
    match u32::from(c) {
        c @ (0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF) => u8::try_from(c).ok(),
        c @ 0x100..=0x120 => u8::try_from(c - 0x100).ok(),
        c @ 0x121..=0x142 => u8::try_from(c - 0x121 + 0x7F).ok(),
        0x143 => Some(0xAD),
        _ => None,
    }
}

/// Adds the tokens of `added_tokens_decoder` that `tokenizer.json` lacks or flags differently, as Transformers does.
fn add_configured_tokens(library: &mut tokenizers::Tokenizer, config: &TokenizerConfig) {
    let have = library.get_added_tokens_decoder();
    let tokens: Vec<tokenizers::AddedToken> = config
        .added_tokens
        .iter()
        .map(|(id, token)| {
            let added = tokenizers::AddedToken {
                content: token.content.clone(),
                single_word: token.single_word,
                lstrip: token.lstrip,
                rstrip: token.rstrip,
                normalized: token.normalized,
                special: token.special,
            };
            (id, added)
        })
        .filter(|(id, token)| have.get(id).is_none_or(|other| !same_token(other, token)))
        .map(|(_, token)| token)
        .collect();
    if !tokens.is_empty() {
        library.add_tokens(&tokens);
    }
}

fn same_token(a: &tokenizers::AddedToken, b: &tokenizers::AddedToken) -> bool {
    // The library's own equality looks at the text alone.
    a.content == b.content
        && (a.single_word, a.lstrip, a.rstrip, a.normalized, a.special)
            == (b.single_word, b.lstrip, b.rstrip, b.normalized, b.special)
}

#[derive(Deserialize)]
struct AddedTokenList {
    #[serde(default)]
    added_tokens: Vec<AddedTokenId>,
}

#[derive(Deserialize)]
struct AddedTokenId {
    id: u32,
    content: String,
}

/// Checks that every added token has the id its file gives it: the library renumbers those it cannot place.
fn check_added_ids(
    library: &tokenizers::Tokenizer,
    bytes: &[u8],
    config: &TokenizerConfig,
) -> Result<(), TextError> {
    let list: AddedTokenList =
        serde_json::from_slice(bytes).map_err(TextError::json(TOKENIZER_FILE))?;
    let in_file = list
        .added_tokens
        .into_iter()
        .map(|token| (token.id, token.content));
    let in_config = config
        .added_tokens
        .iter()
        .map(|(&id, token)| (id, token.content.clone()));
    for (id, content) in in_file.chain(in_config) {
        if library.token_to_id(&content) != Some(id) {
            let got = library
                .token_to_id(&content)
                .map_or("not a token".into(), |id| format!("id {id}"));
            return Err(TextError::value(
                format!("added token {content:?}"),
                format!("id {id}, as its file says"),
                got,
            ));
        }
    }
    Ok(())
}
