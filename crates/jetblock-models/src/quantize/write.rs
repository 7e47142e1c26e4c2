//! The files of a quantized folder.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::Path;

use jetblock_simd::Cpu;
use serde_json::{Map, Value, json};

use super::{Plan, QuantizeError, Summary, encode, io, outputs};
use crate::checkpoint::{Checkpoint, INDEX_FILE, TensorInfo};
use crate::config::{HF_QUANT_CONFIG, WeightFormat, parse_object, read_config};
use crate::model::LoadProgress;

/// Endings of weight files, which are not copied.
const WEIGHTS: [&str; 9] = [
    "safetensors",
    "bin",
    "pt",
    "pth",
    "gguf",
    "onnx",
    "h5",
    "msgpack",
    "index.json",
];

/// Writes the weight files, one for each of the source, and their index where there are several.
pub(super) fn weights(
    dir: &Path,
    checkpoint: &Checkpoint,
    plan: &Plan,
    format: WeightFormat,
    cpu: &Cpu,
    progress: &mut dyn FnMut(LoadProgress),
) -> Result<Summary, QuantizeError> {
    let total = checkpoint.infos().map(|info| info.bytes).sum();
    let mut state = LoadProgress { done: 0, total };
    let mut summary = Summary {
        matrices: plan.quantized.len(),
        parameters: plan.quantized.values().map(|[n, k]| (n * k) as u64).sum(),
        quantized_bytes: 0,
        excluded: plan.excluded.clone(),
        bytes_before: total,
        bytes_after: 0,
    };
    let mut weight_map = Map::new();
    for file in checkpoint.files() {
        let infos: Vec<_> = checkpoint
            .infos()
            .filter(|info| info.file == file)
            .collect();
        let path = dir.join(file);
        let mut out = BufWriter::new(File::create_new(&path).map_err(io(&path))?);
        out.write_all(&header(plan, format, &infos))
            .map_err(io(&path))?;
        for info in &infos {
            let bytes = tensor(&mut out, &path, checkpoint, plan, format, info, cpu)?;
            summary.bytes_after += bytes;
            if plan.quantized.contains_key(info.name) {
                summary.quantized_bytes += bytes;
            }
            for (name, ..) in outputs(plan, format, info) {
                weight_map.insert(name, file.into());
            }
            state.done += info.bytes;
            progress(state);
        }
        let out = out.into_inner().map_err(|e| io(&path)(e.into_error()))?;
        out.sync_all().map_err(io(&path))?;
    }
    if checkpoint.files().count() > 1 {
        let index =
            json!({"metadata": {"total_size": summary.bytes_after}, "weight_map": weight_map});
        write_json(&dir.join(INDEX_FILE), &index)?;
    }
    Ok(summary)
}

/// Length and text of a safetensors header.
fn header(plan: &Plan, format: WeightFormat, infos: &[TensorInfo<'_>]) -> Vec<u8> {
    let mut map = Map::new();
    map.insert("__metadata__".into(), json!({"format": "pt"}));
    let mut at = 0;
    for (name, dtype, shape, bytes) in infos.iter().flat_map(|info| outputs(plan, format, info)) {
        let entry = json!({"dtype": dtype, "shape": shape, "data_offsets": [at, at + bytes]});
        map.insert(name, entry);
        at += bytes;
    }
    let mut text = Value::Object(map).to_string();
    while !text.len().is_multiple_of(8) {
        text.push(' ');
    }
    [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat()
}

/// Writes what stands for one tensor of the source; gives its bytes.
fn tensor(
    out: &mut impl Write,
    path: &Path,
    checkpoint: &Checkpoint,
    plan: &Plan,
    format: WeightFormat,
    info: &TensorInfo<'_>,
    cpu: &Cpu,
) -> Result<u64, QuantizeError> {
    let mut written = 0;
    let mut put = |bytes: &[u8]| {
        written += bytes.len() as u64;
        out.write_all(bytes).map_err(io(path))
    };
    let (_, stored) = checkpoint.raw(info.name)?;
    match plan.quantized.get(info.name) {
        None => put(stored)?,
        Some(&[_, k]) => {
            let view = checkpoint.tensor(info.name)?;
            let amax = encode::amax(&view, k);
            if !amax.is_finite() {
                return Err(QuantizeError::NotFinite {
                    tensor: info.name.into(),
                });
            }
            let scale = encode::tensor_scale(format, amax);
            let block_scales = encode::codes(&view, k, format, scale, cpu, &mut put)?;
            put(&block_scales)?;
            put(&scale.to_le_bytes())?;
        }
    }
    checkpoint.release(stored);
    Ok(written)
}

/// The configuration with its description of the quantization, and every file that is not a weight.
pub(super) fn descriptions(
    source: &Path,
    dir: &Path,
    format: WeightFormat,
    excluded: &[String],
) -> Result<(), QuantizeError> {
    let producer = json!({"name": "jetblock", "version": env!("CARGO_PKG_VERSION")});
    let (bits, group_size) = match format {
        WeightFormat::Fp8 => (8, Value::Null),
        WeightFormat::Nvfp4 => (4, json!(16)),
    };
    let beside = json!({
        "producer": producer,
        "quantization": {
            "quant_algo": format.name(),
            "kv_cache_quant_algo": null,
            "group_size": group_size,
            "exclude_modules": excluded,
        },
    });
    write_json(&dir.join(HF_QUANT_CONFIG), &beside)?;
    let mut config = parse_object(&read_config(source)?)?;
    let weights =
        json!({"dynamic": false, "num_bits": bits, "type": "float", "group_size": group_size});
    let inside = json!({
        "quant_method": "modelopt",
        "quant_algo": format.name(),
        "producer": producer,
        "config_groups": {"group_0": {"weights": weights, "targets": ["Linear"]}},
        "ignore": excluded,
    });
    config.insert("quantization_config".into(), inside);
    write_json(&dir.join("config.json"), &Value::Object(config))?;
    for entry in fs::read_dir(source).map_err(io(source))? {
        let entry = entry.map_err(io(source))?;
        let (path, name) = (entry.path(), entry.file_name());
        let text = name.to_string_lossy();
        let is_weight = WEIGHTS.iter().any(|end| text.ends_with(&format!(".{end}")));
        if path.is_file() && !is_weight && !text.starts_with('.') && !dir.join(&name).exists() {
            fs::copy(&path, dir.join(&name)).map_err(io(&path))?;
        }
    }
    Ok(())
}

fn write_json(path: &Path, value: &Value) -> Result<(), QuantizeError> {
    let text = format!("{value:#}\n");
    fs::write(path, text).map_err(io(path))
}
