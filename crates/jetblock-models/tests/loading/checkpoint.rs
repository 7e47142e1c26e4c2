//! Weight files: what is accepted, and the messages of what is not.

use insta::assert_snapshot;
use jetblock_models::checkpoint::{Checkpoint, CheckpointError, Header, INDEX_FILE, SINGLE_FILE};
use jetblock_models::config::{ModelConfig, canonical_name};
use jetblock_tensor::DType;
use serde_json::{Value, json};

use crate::folder::{Tensor, file_of, folder, message, raw_file, with, zeros};

fn config(changes: Value) -> ModelConfig {
    ModelConfig::from_json(&with(changes)).expect("a valid configuration")
}

/// The tensors of a configuration, all of zeros.
fn tensors(config: &ModelConfig) -> Vec<Tensor> {
    let list = config.tensors().into_iter();
    list.map(|t| {
        (
            t.name.clone(),
            "BF16",
            t.shape.clone(),
            vec![0; 2 * t.elements() as usize],
        )
    })
    .collect()
}

/// The outcome of checking a file of these tensors against a configuration.
fn check(config: &ModelConfig, tensors: &[Tensor]) -> Result<(), CheckpointError> {
    let dir = folder(&[(SINGLE_FILE, &file_of(tensors))]);
    Checkpoint::open(dir.path())
        .expect("well-formed")
        .check(&config.tensors())
}

fn refusal(config: &ModelConfig, tensors: &[Tensor]) -> String {
    check(config, tensors)
        .expect_err("the wrong tensors")
        .to_string()
}

fn open_refusal(files: &[(&str, &[u8])]) -> String {
    let dir = folder(files);
    let error = Checkpoint::open(dir.path()).expect_err("unusable files");
    message(dir.path(), error)
}

fn header_refusal(header: &str, data: &[u8]) -> String {
    Header::parse("x.safetensors", &raw_file(header, data))
        .expect_err("a bad header")
        .to_string()
}

#[test]
fn views_give_name_type_shape_and_bytes() {
    let file = file_of(&[
        ("one_byte".into(), "U8", vec![1], vec![7]),
        (
            "f32".into(),
            "F32",
            vec![2],
            [1.5_f32.to_le_bytes(), (-2.0_f32).to_le_bytes()].concat(),
        ),
        (
            "bf16".into(),
            "BF16",
            vec![2, 1],
            vec![0x80, 0x3F, 0x00, 0xC0],
        ),
        ("f16".into(), "F16", vec![], vec![0x00, 0x3C]),
        ("empty".into(), "F32", vec![3, 0], vec![]),
    ]);
    let dir = folder(&[(SINGLE_FILE, &file)]);
    let checkpoint = Checkpoint::open(dir.path()).expect("valid");
    assert_eq!(checkpoint.len(), 5);
    let f32 = checkpoint.tensor("f32").expect("there");
    assert_eq!(
        (f32.name, f32.dtype, f32.shape, f32.to_f32()),
        ("f32", DType::F32, &[2][..], vec![1.5, -2.0])
    );
    let bf16 = checkpoint.tensor("bf16").expect("there");
    assert_eq!(
        (bf16.to_f32(), bf16.to_bf16_bits()),
        (vec![1.0, -2.0], vec![0x3F80, 0xC000])
    );
    assert_eq!(bf16.rows(1, 1), [0x00, 0xC0]);
    let f16 = checkpoint.tensor("f16").expect("there");
    assert_eq!((f16.elements(), f16.to_f32()), (1, vec![1.0]));
    assert!(
        checkpoint
            .tensor("empty")
            .expect("there")
            .to_f32()
            .is_empty()
    );
    assert_snapshot!(checkpoint.tensor("one_byte").expect_err("not a weight"), @"model.safetensors: tensor one_byte is stored as U8, expected BF16, F16 or F32");
    assert_snapshot!(checkpoint.tensor("absent").expect_err("absent"), @"tensor absent is missing");
    checkpoint.release(&[1, 2, 3]);
}

#[test]
fn prefixes_have_several_spellings() {
    let config = config(json!({}));
    let spelled = |spell: fn(&str) -> String| {
        let mut tensors = tensors(&config);
        tensors.iter_mut().for_each(|t| t.0 = spell(&t.0));
        tensors
    };
    let spellings: [fn(&str) -> String; 4] = [
        str::to_string,
        |name| name.replace("backbone.", "model."),
        |name| format!("language_model.{name}"),
        |name| format!("language_model.{}", name.replace("backbone.", "model.")),
    ];
    for spell in spellings {
        let tensors = spelled(spell);
        let dir = folder(&[(SINGLE_FILE, &file_of(&tensors))]);
        let checkpoint = Checkpoint::open(dir.path()).expect("valid");
        checkpoint
            .check(&config.tensors())
            .expect("the right tensors");
        for (expected, stored) in config.tensors().iter().zip(&tensors) {
            assert_eq!(canonical_name(&stored.0), expected.name);
            assert_eq!(
                checkpoint.tensor(&expected.name).expect("there").name,
                stored.0
            );
        }
    }
    let mut twice = tensors(&config);
    twice.push(("model.norm_f.weight".into(), "BF16", vec![48], vec![0; 96]));
    assert_snapshot!(refusal(&config, &twice), @"tensors backbone.norm_f.weight and model.norm_f.weight are the same tensor of the model");
}

#[test]
fn heads_of_other_purposes_are_passed_over() {
    let config = config(json!({}));
    let mut tensors = tensors(&config);
    for name in [
        "mtp.layers.0.enorm.weight",
        "backbone.layers.1.mixer.rotary_emb.inv_freq",
        "language_model.mtp.x",
    ] {
        tensors.push((name.into(), "F32", vec![1], vec![0; 4]));
    }
    check(&config, &tensors).expect("passed over");
}

#[test]
fn biases_follow_the_flags() {
    let all = json!({"use_bias": true, "mlp_bias": true, "attention_bias": true});
    let with_biases = config(all);
    let biases = |c: &ModelConfig| {
        c.tensors()
            .iter()
            .filter(|t| t.name.ends_with("proj.bias"))
            .count()
    };
    assert_eq!(
        (biases(&config(json!({}))), biases(&with_biases)),
        (0, 2 + 4 + 2 + 2 * 8 + 2)
    );
    check(&with_biases, &tensors(&with_biases)).expect("all of them");
    // Writers set attention_bias without storing any bias.
    let mut without_attention = tensors(&with_biases);
    without_attention.retain(|t| !t.0.contains("layers.1.") || !t.0.ends_with(".bias"));
    check(&with_biases, &without_attention).expect("they are optional");
    assert_snapshot!(refusal(&config(json!({})), &tensors(&with_biases)), @"model.safetensors: tensor backbone.layers.0.mixer.in_proj.bias does not belong to this model");
    assert_snapshot!(refusal(&with_biases, &tensors(&config(json!({})))), @"tensor backbone.layers.0.mixer.in_proj.bias is missing, and 21 more");
    let no_conv_bias = config(json!({"use_conv_bias": false}));
    assert!(
        no_conv_bias
            .tensors()
            .iter()
            .all(|t| t.name != "backbone.layers.0.mixer.conv1d.bias")
    );
}

#[test]
fn tied_embeddings_need_no_output_table() {
    let tied = config(json!({"tie_word_embeddings": true}));
    let mut tensors = tensors(&tied);
    check(&tied, &tensors).expect("a stored table is not used");
    tensors.retain(|t| t.0 != "lm_head.weight");
    check(&tied, &tensors).expect("nor needed");
    assert_snapshot!(refusal(&config(json!({})), &tensors), @"tensor lm_head.weight is missing");
}

#[test]
fn wrong_tensors_are_named() {
    let config = config(json!({}));
    let changed = |name: &str, change: fn(&mut Tensor)| {
        let mut tensors = tensors(&config);
        tensors.iter_mut().filter(|t| t.0 == name).for_each(change);
        refusal(&config, &tensors)
    };
    assert_snapshot!(changed("backbone.layers.0.mixer.conv1d.weight", |t| t.2 = vec![224, 4]), @"model.safetensors: tensor backbone.layers.0.mixer.conv1d.weight has shape [224, 4], expected [224, 1, 4]");
    assert_snapshot!(changed("backbone.layers.1.mixer.q_proj.weight", |t| t.2.reverse()), @"model.safetensors: tensor backbone.layers.1.mixer.q_proj.weight has shape [48, 96], expected [96, 48]");
    assert_snapshot!(changed("backbone.layers.3.mixer.gate.weight", |t| (t.1, t.3) = ("F64", vec![0; 8 * 8 * 48])), @"model.safetensors: tensor backbone.layers.3.mixer.gate.weight is stored as F64, expected BF16, F16 or F32");
    let codes: fn(&mut Tensor) = |t| (t.1, t.2, t.3) = ("U8", vec![40, 24], vec![0; 40 * 24]);
    assert_snapshot!(changed("backbone.layers.3.mixer.experts.5.up_proj.weight", codes), @"tensor backbone.layers.3.mixer.experts.5.up_proj.weight_scale is missing, and 1 more");
    let fp8: fn(&mut Tensor) = |t| (t.1, t.3) = ("F8_E4M3", vec![0; 48 * 96]);
    assert_snapshot!(changed("backbone.layers.0.mixer.out_proj.weight", fp8), @"tensor backbone.layers.0.mixer.out_proj.weight_scale is missing");
    // A gate projection: the shapes of other models' MLPs.
    assert_snapshot!(changed("backbone.layers.2.mixer.up_proj.weight", |t| t.0 = "backbone.layers.2.mixer.gate_proj.weight".into()), @"tensor backbone.layers.2.mixer.up_proj.weight is missing");
    let mut extra = tensors(&config);
    extra.push((
        "backbone.layers.2.mixer.gate_proj.weight".into(),
        "BF16",
        vec![72, 48],
        vec![0; 2 * 72 * 48],
    ));
    assert_snapshot!(refusal(&config, &extra), @"model.safetensors: tensor backbone.layers.2.mixer.gate_proj.weight does not belong to this model");
    let mut few = tensors(&config);
    few.retain(|t| !t.0.contains("layers.3."));
    assert_snapshot!(refusal(&config, &few), @"tensor backbone.layers.3.norm.weight is missing, and 20 more");
    let mut f32_router = tensors(&config);
    f32_router
        .iter_mut()
        .filter(|t| t.0.contains(".gate."))
        .for_each(|t| (t.1, t.3) = ("F32", vec![0; 2 * t.3.len()]));
    check(&config, &f32_router).expect("the router may be stored in f32");
}

#[test]
fn headers_must_tile_the_file() {
    let tensor =
        |offsets: &str| format!(r#"{{"dtype":"F32","shape":[2],"data_offsets":{offsets}}}"#);
    let two = |a: &str, b: &str| format!(r#"{{"a":{},"b":{}}}"#, tensor(a), tensor(b));
    assert!(
        Header::parse("x", &raw_file(&two("[8,16]", "[0,8]"), &[0; 16])).is_ok(),
        "any order"
    );
    assert!(
        Header::parse("x", &raw_file("{}", &[])).is_ok(),
        "no tensors"
    );
    assert_snapshot!(header_refusal(&two("[0,8]", "[4,12]"), &[0; 12]), @"x.safetensors: tensor b: starts at byte 4, inside tensor a");
    assert_snapshot!(header_refusal(&two("[0,8]", "[12,20]"), &[0; 20]), @"x.safetensors: tensor b: starts at byte 12, expected 8: the bytes between belong to no tensor");
    assert_snapshot!(header_refusal(&two("[4,12]", "[12,20]"), &[0; 20]), @"x.safetensors: tensor a: starts at byte 4, expected 0: the bytes between belong to no tensor");
    assert_snapshot!(header_refusal(&two("[0,8]", "[8,16]"), &[0; 17]), @"x.safetensors: 17 bytes of data, expected 16: the rest belongs to no tensor");
    assert_snapshot!(header_refusal(&two("[0,8]", "[8,16]"), &[0; 15]), @"x.safetensors: tensor b: ends at byte 16 of the data, but the file has 15: it is truncated");
    assert_snapshot!(header_refusal(&two("[0,8]", "[16,8]"), &[0; 16]), @"x.safetensors: tensor b: data_offsets [16, 8], expected ascending ones");
    assert_snapshot!(header_refusal(&two("[0,8]", "[8,12]"), &[0; 12]), @"x.safetensors: tensor b: 4 bytes of data, expected 8 for shape [2] of F32");
    assert_snapshot!(header_refusal(&two("[0,8]", "[8,18446744073709551615]"), &[0; 16]), @"x.safetensors: tensor b: ends at byte 18446744073709551615 of the data, but the file has 16: it is truncated");
    assert_snapshot!(header_refusal(&format!(r#"{{"a":{0},"a":{0}}}"#, tensor("[0,8]")), &[0; 8]), @"x.safetensors: tensor a: listed twice in the header");
}

#[test]
fn headers_must_be_well_formed() {
    let one = |text: &str| format!(r#"{{"a":{text}}}"#);
    assert_snapshot!(header_refusal(&one(r#"{"dtype":"F12","shape":[],"data_offsets":[0,4]}"#), &[0; 4]), @r#"x.safetensors: tensor a: dtype "F12" is unknown"#);
    assert_snapshot!(header_refusal(&one(r#"{"dtype":"F4","shape":[3],"data_offsets":[0,1]}"#), &[0; 1]), @"x.safetensors: tensor a: shape [3] of F4 is not a whole number of bytes below 2^61");
    assert_snapshot!(header_refusal(&one(r#"{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}"#), &[0; 4]), @"x.safetensors: the header is not valid: tensor a: invalid value: integer `-1`, expected u64 at line 1 column 31");
    assert_snapshot!(header_refusal(&one(r#"{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]}"#), &[]), @"x.safetensors: tensor a: shape [4294967296, 4294967296] of F32 is not a whole number of bytes below 2^61");
    assert_snapshot!(header_refusal(&one(r#"{"dtype":"F32","shape":[4294967296,4294967296,0],"data_offsets":[0,0]}"#), &[]), @"x.safetensors: tensor a: shape [4294967296, 4294967296, 0] of F32 is not a whole number of bytes below 2^61");
    let rank = format!(
        r#"{{"dtype":"U8","shape":[{}],"data_offsets":[0,1]}}"#,
        ["1"; 17].join(",")
    );
    assert_snapshot!(header_refusal(&one(&rank), &[0; 1]), @"x.safetensors: tensor a: 17 dimensions, expected at most 16");
    assert_snapshot!(header_refusal(&one(r#"{"dtype":"F32","shape":[]}"#), &[]), @"x.safetensors: the header is not valid: tensor a: missing field `data_offsets` at line 1 column 31");
    assert_snapshot!(header_refusal(&one(r#"{"dtype":"F32","shape":[],"data_offsets":[0,4],"extra":1}"#), &[0; 4]), @"x.safetensors: the header is not valid: tensor a: unknown field `extra`, expected one of `dtype`, `shape`, `data_offsets` at line 1 column 59");
    assert_snapshot!(header_refusal(&one(r#"{"dtype":"F32","dtype":"F32","shape":[],"data_offsets":[0,4]}"#), &[0; 4]), @"x.safetensors: the header is not valid: tensor a: duplicate field `dtype` at line 1 column 27");
    assert_snapshot!(header_refusal(r#"{"__metadata__":{"format":1}}"#, &[]), @"x.safetensors: the header is not valid: __metadata__: invalid type: integer `1`, expected a string at line 1 column 27");
    assert_snapshot!(header_refusal(r#"{"__metadata__":{},"__metadata__":{}}"#, &[]), @"x.safetensors: the header is not valid: __metadata__ is listed twice at line 1 column 33");
    assert_snapshot!(header_refusal(r#" {}"#, &[]), @"x.safetensors: the header is not a JSON object");
    assert_snapshot!(header_refusal("[]", &[]), @"x.safetensors: the header is not a JSON object");
    assert_snapshot!(header_refusal("{} x", &[]), @"x.safetensors: the header is not valid: trailing characters at line 1 column 4");
    assert_snapshot!(Header::parse("x.safetensors", &[0; 7]).expect_err("no length"), @"x.safetensors: 7 bytes, expected at least 8");
    assert_snapshot!(Header::parse("x.safetensors", &u64::MAX.to_le_bytes()).expect_err("huge"), @"x.safetensors: a header of 18446744073709551615 bytes, expected at most 100000000");
    assert_snapshot!(Header::parse("x.safetensors", &100_u64.to_le_bytes()).expect_err("truncated"), @"x.safetensors: a header of 100 bytes, but only 0 follow: the file is truncated");
}

#[test]
fn folders_have_one_file_or_an_index() {
    let file = zeros(&[("a", &[2])]);
    assert_snapshot!(open_refusal(&[]), @"DIR: no model.safetensors and no model.safetensors.index.json");
    assert_snapshot!(open_refusal(&[(SINGLE_FILE, &file), (INDEX_FILE, b"{}")]), @"DIR: both model.safetensors and model.safetensors.index.json, expected one of them");
    assert_snapshot!(open_refusal(&[(SINGLE_FILE, b"")]), @"model.safetensors: 0 bytes, expected at least 8");
    assert_snapshot!(open_refusal(&[(SINGLE_FILE, &file[..file.len() - 1])]), @"model.safetensors: tensor a: ends at byte 8 of the data, but the file has 7: it is truncated");
}

#[test]
fn shards_must_match_their_index() {
    let (first, second) = (zeros(&[("a", &[2]), ("b", &[1])]), zeros(&[("c", &[3])]));
    let shards: [(&str, &[u8]); 2] = [("1.safetensors", &first), ("2.safetensors", &second)];
    let refusal = |map: Value| {
        let index = json!({"metadata": {"total_size": 1}, "weight_map": map}).to_string();
        open_refusal(&[&shards[..], &[(INDEX_FILE, index.as_bytes())]].concat())
    };
    let index =
        json!({"weight_map": {"a": "1.safetensors", "b": "1.safetensors", "c": "2.safetensors"}})
            .to_string();
    let dir = folder(&[&shards[..], &[(INDEX_FILE, index.as_bytes())]].concat());
    let checkpoint = Checkpoint::open(dir.path()).expect("valid");
    assert_eq!(
        checkpoint.files().collect::<Vec<_>>(),
        ["1.safetensors", "2.safetensors"]
    );
    assert_eq!(
        checkpoint
            .info("c")
            .map(|info| (info.file, info.elements())),
        Some(("2.safetensors", 3))
    );
    assert_eq!(checkpoint.tensor("b").expect("there").to_f32(), [0.0]);

    assert_snapshot!(refusal(json!({"a": "1.safetensors", "b": "2.safetensors", "c": "2.safetensors"})), @"model.safetensors.index.json: tensor b: expected in 2.safetensors, found in 1.safetensors");
    assert_snapshot!(refusal(json!({"a": "1.safetensors", "b": "1.safetensors", "c": "2.safetensors", "d": "2.safetensors"})), @"model.safetensors.index.json: tensor d: expected in 2.safetensors, not there");
    assert_snapshot!(refusal(json!({"a": "1.safetensors", "c": "2.safetensors"})), @"1.safetensors: tensor b: not in model.safetensors.index.json");
    assert_snapshot!(refusal(json!({"a": "1.safetensors", "b": "3.safetensors"})), @"DIR/3.safetensors: No such file or directory (os error 2)");
    let same = [("1.safetensors", &first[..]), ("2.safetensors", &first[..])];
    let index = json!({"weight_map": {"a": "1.safetensors", "b": "2.safetensors"}}).to_string();
    assert_snapshot!(open_refusal(&[&same[..], &[(INDEX_FILE, index.as_bytes())]].concat()), @"2.safetensors: tensor a: also in 1.safetensors");
}

#[test]
fn an_index_cannot_leave_the_folder() {
    let refusal = |file: &str| {
        open_refusal(&[(
            INDEX_FILE,
            json!({"weight_map": {"a": file}}).to_string().as_bytes(),
        )])
    };
    assert_snapshot!(refusal("../secret.safetensors"), @r#"model.safetensors.index.json: tensor a: in file "../secret.safetensors", expected the name of a .safetensors file in the model folder"#);
    for file in [
        "/etc/x.safetensors",
        "a/b.safetensors",
        "a\\b.safetensors",
        "C:x.safetensors",
        "..",
        ".",
        "",
        "./x.safetensors",
    ] {
        assert!(
            refusal(file).contains("expected the name of a .safetensors file in the model folder"),
            "{file}"
        );
    }
    assert_snapshot!(refusal("passwd"), @r#"model.safetensors.index.json: tensor a: in file "passwd", expected the name of a .safetensors file in the model folder"#);
    assert_snapshot!(open_refusal(&[(INDEX_FILE, br#"{"weight_map": {"a": "x.safetensors", "a": "x.safetensors"}}"#)]), @"model.safetensors.index.json: tensor a: listed twice");
    assert_snapshot!(open_refusal(&[(INDEX_FILE, br#"{"weight_map": {}}"#)]), @"model.safetensors.index.json: weight_map is empty");
    assert_snapshot!(open_refusal(&[(INDEX_FILE, br#"{"weight_map": {"a": 1}}"#)]), @"model.safetensors.index.json: not valid: tensor a: invalid type: integer `1`, expected a string at line 1 column 22");
    assert_snapshot!(open_refusal(&[(INDEX_FILE, b"{}")]), @"model.safetensors.index.json: not valid: missing field `weight_map` at line 1 column 2");
}
