//! Quantized folders: what they say of themselves, what their tensors must be, and that they compute what they hold.

use std::collections::BTreeMap;
use std::path::Path;

use insta::assert_snapshot;
use jetblock_models::checkpoint::{Checkpoint, SINGLE_FILE};
use jetblock_models::config::{ModelConfig, WeightFormat};
use jetblock_models::detector::Profile;
use jetblock_models::quantize::{Quantize, QuantizeError, Recipe, Summary};
use jetblock_models::{LogitRows, Model, Options, Piece};
use jetblock_numerics::max;
use jetblock_numerics::round::f32_to_bf16;
use jetblock_ops::attention::KvDtype;
use jetblock_ops::linear::OperandKind;
use jetblock_simd::Cpu;
use jetblock_testing::{assert_bits_equal, painted};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::folder::{Tensor, file_of, folder, message, with};

/// A model whose every linear layer has rows of whole blocks.
fn sizes() -> Value {
    json!({"intermediate_size": 80, "moe_intermediate_size": 48, "moe_shared_expert_intermediate_size": 64})
}

/// A folder of painted BF16 weights.
fn plain(changes: &Value) -> TempDir {
    let config = with(changes.clone());
    let list = ModelConfig::from_json(&config).expect("valid").tensors();
    let tensors: Vec<Tensor> = (0..)
        .zip(list)
        .map(|(seed, t)| {
            let values = painted(seed, t.elements() as usize);
            let bytes = values
                .iter()
                .flat_map(|v| f32_to_bf16(v * 0.25).to_le_bytes());
            (t.name, "BF16", t.shape, bytes.collect())
        })
        .collect();
    folder(&[
        ("config.json", &config),
        (SINGLE_FILE, &file_of(&tensors)),
        ("tokenizer.json", b"{}"),
        ("old.bin", b"weights of another format"),
    ])
}

fn quantize(
    source: &Path,
    out: &Path,
    format: WeightFormat,
    recipe: Recipe,
    exclude: &[&str],
) -> Result<Summary, QuantizeError> {
    let exclude: Vec<String> = exclude.iter().map(ToString::to_string).collect();
    let quantize = Quantize {
        source,
        out,
        format,
        recipe,
        exclude: &exclude,
    };
    let cpu = Cpu::new(2, jetblock_simd::Level::best()).expect("two threads");
    quantize.run(&cpu, &mut |_| ())
}

/// A quantized copy beside its source.
fn quantized(changes: &Value, format: WeightFormat, recipe: Recipe) -> (TempDir, Summary) {
    let source = plain(changes);
    let dir = tempfile::tempdir().expect("a temporary folder");
    let out = dir.path().join("model");
    let summary = quantize(source.path(), &out, format, recipe, &[]).expect("quantized");
    (dir, summary)
}

/// Every tensor of a folder.
fn tensors(dir: &Path) -> Vec<Tensor> {
    let checkpoint = Checkpoint::open(dir).expect("a checkpoint");
    let names: Vec<String> = checkpoint
        .infos()
        .map(|info| info.name.to_string())
        .collect();
    let tensor = |name: String| {
        let (info, bytes) = checkpoint.raw(&name).expect("listed");
        let (dtype, shape) = (info.dtype.name(), info.shape.to_vec());
        (name, dtype, shape, bytes.to_vec())
    };
    names.into_iter().map(tensor).collect()
}

/// The folder with other tensors.
fn rewritten(dir: &Path, change: impl FnOnce(&mut Vec<Tensor>)) -> TempDir {
    let mut all = tensors(dir);
    change(&mut all);
    let read = |name| std::fs::read(dir.join(name)).expect("readable");
    folder(&[
        ("config.json", &read("config.json")),
        ("hf_quant_config.json", &read("hf_quant_config.json")),
        (SINGLE_FILE, &file_of(&all)),
    ])
}

fn logits(dir: &Path, operands: Option<OperandKind>) -> (OperandKind, Vec<f32>) {
    let options = Options {
        operands,
        ..Options::default()
    };
    let model = Model::load(dir, options, &mut |_| ()).expect("loads");
    let (mut state, mut workspace) = (model.new_state(), model.workspace());
    let ids: Vec<u32> = (0..12).map(|i| (7 * i * i + 3) % 97).collect();
    let mut pieces = [Piece {
        state: &mut state,
        ids: &ids,
        logits: LogitRows::All,
    }];
    let results = model
        .forward(&mut pieces, &Cpu::single(), &mut workspace)
        .expect("computes");
    let rows = results
        .into_iter()
        .next()
        .expect("one piece")
        .expect("finite scores");
    (model.operand_kind(), rows)
}

fn load_error(dir: &Path) -> String {
    let error = Model::load(dir, Options::default(), &mut |_| ()).expect_err("refused");
    message(dir, error)
}

const FORMATS: [WeightFormat; 2] = [WeightFormat::Fp8, WeightFormat::Nvfp4];

/// 2^exponent.
fn power(exponent: i32) -> f32 {
    f32::from_bits(((127 + exponent) as u32) << 23)
}

/// E2M1 and E4M3 by their definition.
fn e2m1(code: u8) -> f32 {
    let value = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0][usize::from(code & 7)];
    if code & 8 == 0 { value } else { -value }
}

fn e4m3(code: u8) -> f32 {
    let (e, m) = (i32::from(code >> 3 & 15), f32::from(code & 7) / 8.0);
    let value = if e == 0 {
        m * power(-6)
    } else {
        (1.0 + m) * power(e - 7)
    };
    if code & 0x80 == 0 { value } else { -value }
}

/// The folder's weights multiplied out in F32.
fn dequantized(dir: &Path) -> TempDir {
    let all: BTreeMap<String, Tensor> =
        tensors(dir).into_iter().map(|t| (t.0.clone(), t)).collect();
    let scalar = |name: &str| f32::from_le_bytes(all[name].3[..].try_into().expect("one f32"));
    let mut out = Vec::new();
    for (name, dtype, shape, bytes) in all.values() {
        let layer = name.strip_suffix(".weight").unwrap_or_default();
        let values: Vec<f32> = match *dtype {
            "U8" => {
                let factor = scalar(&format!("{layer}.weight_scale_2"));
                let scales = &all[&format!("{layer}.weight_scale")].3;
                let codes = bytes.iter().flat_map(|b| [b & 15, b >> 4]);
                codes
                    .enumerate()
                    .map(|(i, c)| e2m1(c) * e4m3(scales[i / 16]) * factor)
                    .collect()
            }
            "F8_E4M3" if !layer.is_empty() => {
                let factor = scalar(&format!("{layer}.weight_scale"));
                bytes.iter().map(|c| e4m3(*c) * factor).collect()
            }
            "BF16" => {
                let codes = bytes.as_chunks::<2>().0.iter();
                codes
                    .map(|b| f32::from_bits(u32::from(u16::from_le_bytes(*b)) << 16))
                    .collect()
            }
            _ => continue,
        };
        let shape = match *dtype {
            "U8" => vec![shape[0], 2 * shape[1]],
            _ => shape.clone(),
        };
        let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        out.push((name.clone(), "F32", shape, bytes));
    }
    let mut config: Value =
        serde_json::from_slice(&std::fs::read(dir.join("config.json")).expect("readable"))
            .expect("JSON");
    config["quantization_config"] = Value::Null;
    folder(&[
        ("config.json", config.to_string().as_bytes()),
        (SINGLE_FILE, &file_of(&out)),
    ])
}

#[test]
fn a_quantized_folder_computes_what_it_holds() {
    for format in FORMATS {
        let (dir, _) = quantized(&sizes(), format, Recipe::Nano);
        let dir = dir.path().join("model");
        let multiplied_out = dequantized(&dir);
        let (_, got) = logits(&dir, Some(OperandKind::F32));
        let (_, want) = logits(multiplied_out.path(), Some(OperandKind::F32));
        // Only the place of the scales differs: the rounding of f32 sums.
        let largest = want.iter().fold(0.0_f32, |m, v| max(m, v.abs()));
        let error = got
            .iter()
            .zip(&want)
            .fold(0.0_f32, |m, (a, b)| max(m, (a - b).abs()));
        assert!(error <= 1e-5 * largest, "{format}: {error} of {largest}");
        assert!(error > 0.0, "{format}: scales stay outside of the sums");
        // The same weights in their own kind, and other weights than before.
        let (kind, rounded) = logits(&dir, None);
        assert_eq!(kind, OperandKind::Bf16);
        let error = rounded
            .iter()
            .zip(&want)
            .fold(0.0_f32, |m, (a, b)| max(m, (a - b).abs()));
        assert!(
            error <= 0.05 * largest,
            "{format}: {error} of {largest} in the bf16 kind"
        );
        let (_, before) = logits(plain(&sizes()).path(), Some(OperandKind::F32));
        assert!(
            before
                .iter()
                .zip(&want)
                .any(|(a, b)| (a - b).abs() > 1e-3 * largest),
            "{format}"
        );
    }
}

#[test]
fn sizes_are_those_of_the_format() {
    for (format, bits) in FORMATS.into_iter().zip([8, 9]) {
        let (dir, summary) = quantized(&sizes(), format, Recipe::All);
        let dir = dir.path().join("model");
        let bits = if bits == 9 { 4.5 } else { 8.0 };
        let scales = 4.0 * summary.matrices as f64;
        let expected = summary.parameters as f64 * bits / 8.0 + scales;
        assert_eq!(summary.quantized_bytes as f64, expected, "{format}");
        assert_eq!(summary.excluded, ["lm_head"]);
        let profile = Profile::open(&dir).expect("a profile");
        let stored = profile.stored.as_ref().expect("weights");
        assert_eq!(stored.bytes, summary.bytes_after);
        let amount = profile
            .formats
            .iter()
            .find(|f| f.format == format.name())
            .expect("quantized");
        assert_eq!(
            (amount.parameters, amount.bytes),
            (summary.parameters, summary.quantized_bytes)
        );
        assert_eq!(
            profile.total.bytes_stored,
            Some(summary.bytes_after),
            "every byte belongs to a part"
        );
        let names: Vec<_> = std::fs::read_dir(&dir)
            .expect("a folder")
            .map(|e| e.expect("an entry").file_name())
            .collect();
        assert_eq!(
            names.len(),
            4,
            "config, description, weights, tokenizer: {names:?}"
        );
    }
}

#[test]
fn recipes_choose_layers() {
    // M*-E: the Mamba layer stands before attention.
    let layers = |format, recipe| {
        let (dir, _) = quantized(&sizes(), format, recipe);
        Profile::open(dir.path().join("model"))
            .expect("a profile")
            .precision
    };
    assert_eq!(
        layers(WeightFormat::Nvfp4, Recipe::Nano).as_deref(),
        Some("b+44")
    );
    assert_eq!(
        layers(WeightFormat::Fp8, Recipe::Nano).as_deref(),
        Some("bb88")
    );
    assert_eq!(
        layers(WeightFormat::Nvfp4, Recipe::All).as_deref(),
        Some("4444")
    );
    assert_eq!(
        layers(WeightFormat::Fp8, Recipe::Experts).as_deref(),
        Some("bbb+")
    );
    let source = plain(&json!({}));
    let dir = tempfile::tempdir().expect("a temporary folder");
    // Rows of 72, 40 and 56 are no whole blocks; a user's choice comes on top.
    let out = dir.path().join("a");
    let summary = quantize(
        source.path(),
        &out,
        WeightFormat::Nvfp4,
        Recipe::All,
        &["*.0.mixer", "*shared*"],
    )
    .expect("quantized");
    let excluded: Vec<_> = summary
        .excluded
        .iter()
        .filter(|name| !name.contains(".experts."))
        .collect();
    assert_eq!(
        excluded,
        [
            "backbone.layers.0.mixer.in_proj",
            "backbone.layers.0.mixer.out_proj",
            "backbone.layers.2.mixer.down_proj",
            "backbone.layers.3.mixer.shared_experts.up_proj",
            "backbone.layers.3.mixer.shared_experts.down_proj",
            "lm_head",
        ]
    );
    Model::load(&out, Options::default(), &mut |_| ()).expect("loads");
    let error = |out: &str, exclude: &[&str]| {
        let error = quantize(
            source.path(),
            &dir.path().join(out),
            WeightFormat::Nvfp4,
            Recipe::All,
            exclude,
        );
        message(dir.path(), error.expect_err("refused"))
    };
    assert_snapshot!(error("a", &[]), @"DIR/a is there already, expected a new name");
    assert_snapshot!(error("b", &["*.9.*"]), @"--exclude *.9.*: no linear layer has this name");
    assert_snapshot!(error("b", &["backbone"]), @"every linear layer is excluded, expected at least one to quantize");
    let again = quantize(
        &out,
        &dir.path().join("b"),
        WeightFormat::Fp8,
        Recipe::All,
        &[],
    );
    assert_snapshot!(again.expect_err("quantized already"), @"backbone.layers.1.mixer.q_proj is stored as NVFP4 already, expected plain weights");
    let mut left: Vec<_> = std::fs::read_dir(dir.path())
        .expect("a folder")
        .map(|e| e.expect("an entry").file_name())
        .collect();
    left.sort();
    assert_eq!(left, ["a"], "nothing unfinished is left");
}

#[test]
fn weights_without_a_scale_are_refused() {
    let source = plain(&sizes());
    let name = "backbone.layers.2.mixer.up_proj.weight";
    let broken = {
        let mut all = tensors(source.path());
        all.iter_mut()
            .filter(|t| t.0 == name)
            .for_each(|t| t.3[100..102].copy_from_slice(&[0x80, 0x7F]));
        let config = std::fs::read(source.path().join("config.json")).expect("readable");
        folder(&[("config.json", &config), (SINGLE_FILE, &file_of(&all))])
    };
    let dir = tempfile::tempdir().expect("a temporary folder");
    let error = quantize(
        broken.path(),
        &dir.path().join("x"),
        WeightFormat::Nvfp4,
        Recipe::All,
        &[],
    );
    assert_snapshot!(error.expect_err("an infinity"), @"tensor backbone.layers.2.mixer.up_proj.weight holds NaN or an infinity, which have no scale");
    assert_eq!(std::fs::read_dir(dir.path()).expect("a folder").count(), 0);
}

#[test]
fn compressed_tensors_are_the_same_weights() {
    let (dir, _) = quantized(&sizes(), WeightFormat::Nvfp4, Recipe::Nano);
    let dir = dir.path().join("model");
    // Powers of two: their reciprocals are exact.
    let model_opt = rewritten(&dir, |all| {
        all.iter_mut()
            .filter(|t| t.0.ends_with("weight_scale_2"))
            .for_each(|t| t.3 = power(-9).to_le_bytes().to_vec());
    });
    let packed = rewritten(model_opt.path(), |all| {
        for t in all {
            if t.0.ends_with("weight_scale_2") {
                t.0 = t.0.replace("weight_scale_2", "weight_global_scale");
                (t.2, t.3) = (vec![1], power(9).to_le_bytes().to_vec());
            } else if t.1 == "U8" {
                t.0 += "_packed";
            }
        }
    });
    std::fs::remove_file(packed.path().join("hf_quant_config.json")).expect("removed");
    let config = json!({"quant_method": "compressed-tensors", "format": "nvfp4-pack-quantized", "ignore": ["re:.*lm_head"]});
    let mut map = sizes();
    map["quantization_config"] = config;
    std::fs::write(packed.path().join("config.json"), with(map)).expect("written");
    for kind in [OperandKind::Bf16, OperandKind::F32] {
        let (_, want) = logits(model_opt.path(), Some(kind));
        let (_, got) = logits(packed.path(), Some(kind));
        assert_bits_equal(format!("{kind:?} kind"), &got, &want);
    }
    let scale = |name: &str| name.ends_with("o_proj.weight_scale");
    let profile = Profile::open(packed.path()).expect("a profile");
    assert_eq!(profile.precision.as_deref(), Some("b+44"));
    let few = rewritten(&dir, |all| all.retain(|t| !scale(&t.0)));
    assert_snapshot!(load_error(few.path()), @"tensor backbone.layers.1.mixer.o_proj.weight_scale is missing");
}

#[test]
fn a_factor_for_each_output() {
    let (dir, _) = quantized(&sizes(), WeightFormat::Fp8, Recipe::All);
    let dir = dir.path().join("model");
    let each = |shape: fn(usize) -> Vec<usize>, factor: fn(usize) -> f32| {
        rewritten(&dir, |all| {
            let rows: BTreeMap<String, usize> = all
                .iter()
                .filter(|t| t.1 == "F8_E4M3")
                .map(|t| (format!("{}_scale", t.0), t.2[0]))
                .collect();
            for t in all {
                if let Some(&n) = rows.get(&t.0) {
                    let count = shape(n).iter().product();
                    t.3 = (0..count)
                        .flat_map(|i| (factor(i) * 0.01).to_le_bytes())
                        .collect();
                    t.2 = shape(n);
                }
            }
        })
    };
    let one = each(|_| vec![], |_| 1.0);
    let (same, column, other) = (
        each(|n| vec![n], |_| 1.0),
        each(|n| vec![n, 1], |_| 1.0),
        each(|n| vec![n], |i| 1.0 + i as f32),
    );
    let of = |dir: &TempDir| logits(dir.path(), None).1;
    assert_bits_equal("a factor for each output", &of(&same), &of(&one));
    assert_bits_equal("a column of factors", &of(&column), &of(&one));
    assert!(of(&other) != of(&one), "each output has its own");
}

#[test]
fn tensors_that_disagree_are_named() {
    let (dir, _) = quantized(&sizes(), WeightFormat::Nvfp4, Recipe::Nano);
    let dir = dir.path().join("model");
    let q = "backbone.layers.2.mixer.up_proj";
    let changed = |part: &str, change: fn(&mut Tensor)| {
        let name = format!("{q}.{part}");
        let broken = rewritten(&dir, |all| {
            all.iter_mut().filter(|t| t.0 == name).for_each(change)
        });
        load_error(broken.path())
    };
    assert_snapshot!(changed("weight_scale", |t| t.2.swap(0, 1)), @"model.safetensors: tensor backbone.layers.2.mixer.up_proj.weight_scale has shape [3, 80], expected [80, 3]");
    assert_snapshot!(changed("weight_scale", |t| t.1 = "U8"), @"model.safetensors: tensor backbone.layers.2.mixer.up_proj.weight_scale is stored as U8, expected F8_E4M3");
    assert_snapshot!(changed("weight_scale_2", |t| (t.2, t.3) = (vec![2], vec![0; 8])), @"model.safetensors: tensor backbone.layers.2.mixer.up_proj.weight_scale_2 has shape [2], expected []");
    assert_snapshot!(changed("weight_scale_2", |t| t.0 += "_typo"), @"tensor backbone.layers.2.mixer.up_proj.weight_scale_2 is missing");
    assert_snapshot!(changed("weight", |t| t.2 = vec![40, 48]), @"model.safetensors: tensor backbone.layers.2.mixer.up_proj.weight has shape [40, 48], expected [80, 24]");
    let extra = rewritten(&dir, |all| {
        all.push((
            format!("{q}.pre_quant_scale"),
            "F32",
            vec![48],
            vec![0; 192],
        ))
    });
    assert_snapshot!(load_error(extra.path()), @"model.safetensors: tensor backbone.layers.2.mixer.up_proj.pre_quant_scale does not belong to this model");
    let unused = rewritten(&dir, |all| {
        all.push((format!("{q}.input_scale"), "F32", vec![], vec![0; 4]))
    });
    Model::load(unused.path(), Options::default(), &mut |_| ())
        .expect("scales of activations are not used");
    let told = |text: &str| {
        let other = rewritten(&dir, |_| ());
        std::fs::write(other.path().join("config.json"), with(sizes())).expect("written");
        std::fs::write(other.path().join("hf_quant_config.json"), text).expect("written");
        load_error(other.path())
    };
    assert_snapshot!(told(r#"{"quantization": {"quant_algo": "FP8"}}"#), @"model.safetensors: tensor backbone.layers.1.mixer.o_proj.weight: stored as NVFP4, but hf_quant_config.json says FP8");
    assert_snapshot!(told(r#"{"quantization": {"quant_algo": "NVFP4", "exclude_modules": ["model.layers.2*"]}}"#), @"model.safetensors: tensor backbone.layers.2.mixer.up_proj.weight: stored as NVFP4, but hf_quant_config.json says that it is not quantized");
    let mixed = r#"{"quantization": {"quant_algo": "MIXED_PRECISION", "quantized_layers": {
        "backbone.layers.1.mixer.o_proj": {"quant_algo": "NVFP4", "group_size": 16},
        "backbone.layers.2.mixer.up_proj": {"quant_algo": "FP8"}}}}"#;
    assert_snapshot!(told(mixed), @"model.safetensors: tensor backbone.layers.2.mixer.up_proj.weight: stored as NVFP4, but hf_quant_config.json says FP8");
    let silent = rewritten(&dir, |_| ());
    std::fs::remove_file(silent.path().join("hf_quant_config.json")).expect("removed");
    std::fs::write(silent.path().join("config.json"), with(sizes())).expect("written");
    assert_snapshot!(load_error(silent.path()), @"model.safetensors: tensor backbone.layers.1.mixer.o_proj.weight: stored as NVFP4, but the folder's configuration says nothing of quantization");
}

/// A dtype that changes bits is the request's choice.
#[test]
fn the_named_dtype_of_caches_is_shown_and_not_taken() {
    let (dir, _) = quantized(&sizes(), WeightFormat::Nvfp4, Recipe::All);
    let named = rewritten(&dir.path().join("model"), |_| ());
    let path = named.path().join("hf_quant_config.json");
    let text = std::fs::read_to_string(&path).expect("a description");
    let lines = |name: &str| {
        let told = text.replace(
            r#""kv_cache_quant_algo": null"#,
            &format!(r#""kv_cache_quant_algo": "{name}""#),
        );
        assert_ne!(told, text, "the description has the field");
        std::fs::write(&path, told).expect("written");
        let profile = Profile::open(named.path()).expect("a profile");
        assert_eq!(profile.kv_named.as_deref(), Some(name));
        let kv = |kv_dtype| {
            let options = Options {
                kv_dtype,
                ..Options::default()
            };
            let model = Model::load(named.path(), options, &mut |_| ()).expect("valid");
            model.kv_dtype()
        };
        assert_eq!(kv(None), KvDtype::Bf16);
        for asked in KvDtype::ALL {
            assert_eq!(kv(Some(asked)), asked);
        }
        let text = profile.to_string();
        let line = text.lines().find(|line| line.contains("names"));
        line.expect("a line").to_string()
    };
    assert_snapshot!(lines("FP8"), @"  (the checkpoint names FP8 for keys and values: --kv fp8 asks for it, the default is as the operands, bf16 or f32)");
    assert_snapshot!(lines("NVFP4"), @"  (the checkpoint names NVFP4 for keys and values: --kv nvfp4 asks for it, the default is as the operands, bf16 or f32)");
    assert_snapshot!(lines("INT8"), @"  (the checkpoint names INT8 for keys and values, which --kv does not have: the default is as the operands, bf16 or f32)");
}

/// Compressed-tensors has a field of its own.
#[test]
fn a_scheme_of_caches_is_named() {
    let told = |scheme: Value| {
        let inside = json!({"quant_method": "compressed-tensors", "format": "float-quantized", "kv_cache_scheme": scheme});
        let config = ModelConfig::from_json(&with(json!({"quantization_config": inside})));
        config.map(|config| config.quantization.expect("there").kv_cache)
    };
    let named = |scheme| told(scheme).expect("valid").expect("a name");
    assert_eq!(told(Value::Null).expect("valid"), None);
    assert_eq!(named(json!({"type": "float", "num_bits": 8})), "FP8");
    assert_eq!(
        named(json!({"type": "int", "num_bits": 8})),
        "int of 8 bits"
    );
    assert_snapshot!(told(json!("fp8")).expect_err("refused"), @r#"config.json: quantization_config.kv_cache_scheme is "fp8", expected an object"#);
}

#[test]
fn descriptions_are_read_or_refused() {
    let inside =
        |config: Value| ModelConfig::from_json(&with(json!({"quantization_config": config})));
    let refusal = |config: Value| inside(config).expect_err("refused").to_string();
    assert_snapshot!(refusal(json!({"quant_method": "awq", "bits": 4})), @r#"config.json: quantization_config.quant_method "awq" is not supported: quantized weights are FP8 (E4M3) or NVFP4, from ModelOpt or compressed-tensors"#);
    assert_snapshot!(refusal(json!({"quant_method": "gptq", "bits": 4})), @r#"config.json: quantization_config.quant_method "gptq" is not supported: quantized weights are FP8 (E4M3) or NVFP4, from ModelOpt or compressed-tensors"#);
    assert_snapshot!(refusal(json!({"quant_method": "modelopt", "quant_algo": "W4A8_AWQ"})), @r#"config.json: quantization_config.quant_algo "W4A8_AWQ" is not supported: quantized weights are FP8 (E4M3) or NVFP4, from ModelOpt or compressed-tensors"#);
    assert_snapshot!(refusal(json!({"quant_method": "compressed-tensors", "format": "pack-quantized"})), @r#"config.json: quantization_config.format "pack-quantized" is not supported: quantized weights are FP8 (E4M3) or NVFP4, from ModelOpt or compressed-tensors"#);
    assert_snapshot!(refusal(json!({"quant_method": "modelopt"})), @"config.json: quantization_config.quant_algo is null, expected FP8, NVFP4 or MIXED_PRECISION");
    assert_snapshot!(refusal(json!({"quant_algo": "NVFP4", "group_size": 32})), @"config.json: quantization_config.group_size is 32, expected 16");
    assert_snapshot!(refusal(json!({"quant_algo": "NVFP4", "ignore": "lm_head"})), @r#"config.json: quantization_config.ignore is "lm_head", expected a list of names"#);
    assert_snapshot!(refusal(json!(7)), @"config.json: quantization_config is 7, expected an object");
    let config = inside(json!({
        "quant_method": "modelopt", "quant_algo": "MIXED_PRECISION", "kv_cache_quant_algo": "FP8",
        "quantized_layers": {"model.layers.0.mixer.in_proj": {"quant_algo": "FP8"}, "lm_head": {"quant_algo": "NVFP4"}},
        "ignore": ["model.layers.1*"],
    }));
    let told = config.expect("valid").quantization.expect("there");
    assert_eq!(
        told.format_of("backbone.layers.0.mixer.in_proj"),
        Some(WeightFormat::Fp8)
    );
    assert_eq!(told.format_of("lm_head"), Some(WeightFormat::Nvfp4));
    assert_eq!(told.format_of("backbone.layers.1.mixer.q_proj"), None);
    assert_eq!(told.kv_cache.as_deref(), Some("FP8"));
    let beside = |text: &str, inside: Value| {
        let dir = folder(&[
            ("config.json", &with(json!({"quantization_config": inside}))),
            ("hf_quant_config.json", text.as_bytes()),
        ]);
        ModelConfig::open(dir.path()).map_err(|e| e.to_string())
    };
    assert_snapshot!(beside("{}", Value::Null).expect_err("refused"), @"hf_quant_config.json: quantization is null, expected an object");
    assert_snapshot!(beside(r#"{"quantization": {"quant_algo": "FP8"}}"#, json!({"quant_algo": "NVFP4"})).expect_err("refused"), @"config.json: quantization_config says NVFP4, but hf_quant_config.json says FP8");
    let config = beside(
        r#"{"quantization": {"quant_algo": "NVFP4", "group_size": 16}}"#,
        Value::Null,
    )
    .expect("valid");
    assert_eq!(
        config.quantization.expect("there").format_of("lm_head"),
        Some(WeightFormat::Nvfp4)
    );
}
