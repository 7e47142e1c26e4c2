//! Quantized weights of linear layers: which tensors of the file they are made of.
//!
//! | format | container | tensors of layer X, `[N, K]` |
//! |---|---|---|
//! | FP8 | ModelOpt, compressed-tensors | `X.weight` F8_E4M3 `[N, K]`, `X.weight_scale` one or `[N]`; `X.input_scale` is not used |
//! | NVFP4 | ModelOpt | `X.weight` U8 `[N, K/2]`, `X.weight_scale` F8_E4M3 `[N, K/16]`, `X.weight_scale_2` one; `X.input_scale` |
//! | NVFP4 | compressed-tensors | `X.weight_packed`, `X.weight_scale`, `X.weight_global_scale` (a divisor); `X.input_global_scale` |
//!
//! Which of them a layer is in is decided by its own tensors. Activations stay in the operand kind, so scales of inputs
//! play no part.

use jetblock_ops::linear::quantized::{Format, QuantizedRow};

use super::{Checkpoint, CheckpointError, StoredDType, TensorInfo, widen_into};
use crate::config::{ExpectedTensor, QuantizationConfig, WeightFormat, canonical_name};

/// Elements under one block scale of NVFP4.
const BLOCK: usize = 16;

/// How a file spells a quantized weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Container {
    Fp8,
    Nvfp4ModelOpt,
    Nvfp4Packed,
}

impl Container {
    fn format(self) -> WeightFormat {
        match self {
            Container::Fp8 => WeightFormat::Fp8,
            _ => WeightFormat::Nvfp4,
        }
    }

    /// The tensor that holds the codes.
    fn codes(self) -> &'static str {
        match self {
            Container::Nvfp4Packed => "weight_packed",
            _ => "weight",
        }
    }

    /// The tensor that holds the factor of the whole.
    fn factor(self) -> &'static str {
        match self {
            Container::Fp8 => "weight_scale",
            Container::Nvfp4ModelOpt => "weight_scale_2",
            Container::Nvfp4Packed => "weight_global_scale",
        }
    }

    fn input_scale(self) -> &'static str {
        match self {
            Container::Nvfp4Packed => "input_global_scale",
            _ => "input_scale",
        }
    }
}

/// A quantized weight in its file.
#[derive(Debug, Clone)]
pub struct QuantizedView<'a> {
    /// The format.
    pub format: WeightFormat,
    /// N.
    pub rows: usize,
    /// K.
    pub k: usize,
    /// FP8: `[N, K]`; NVFP4: `[N, K/2]`, the even element in the low half of a byte.
    pub codes: &'a [u8],
    /// NVFP4: E4M3 `[N, K/16]`; else empty.
    pub scales: &'a [u8],
    /// What multiplies the outputs: one, or one for each of them.
    pub factors: Vec<f32>,
}

impl QuantizedView<'_> {
    /// The format as kernels know it.
    pub fn op_format(&self) -> Format {
        match self.format {
            WeightFormat::Fp8 => Format::FP8,
            WeightFormat::Nvfp4 => Format::NVFP4,
        }
    }

    /// Hands out one row.
    pub fn read_row(&self, row: usize, out: QuantizedRow<'_>) {
        let width = self.codes.len() / self.rows;
        let codes = &self.codes[row * width..][..width];
        match self.format {
            WeightFormat::Fp8 => out.codes.copy_from_slice(codes),
            WeightFormat::Nvfp4 => {
                for (pair, byte) in out.codes.as_chunks_mut::<2>().0.iter_mut().zip(codes) {
                    *pair = [byte & 15, byte >> 4];
                }
                let blocks = self.k / BLOCK;
                out.scales
                    .copy_from_slice(&self.scales[row * blocks..][..blocks]);
            }
        }
    }
}

impl Checkpoint {
    /// The quantized format of the linear weight `name` (`X.weight`); `None` where it is stored plainly or absent.
    pub fn weight_format(&self, name: &str) -> Option<WeightFormat> {
        self.container(name).map(Container::format)
    }

    /// Bytes of the linear weight `name` with its scales, however it is stored; `None` if absent.
    pub fn weight_bytes(&self, name: &str) -> Option<u64> {
        let Some(container) = self.container(name) else {
            return self.info(name).map(|info| info.bytes);
        };
        let names = companions(container, name);
        Some(
            names
                .iter()
                .filter_map(|name| self.info(name))
                .map(|info| info.bytes)
                .sum(),
        )
    }

    /// The linear weight `name` where it is quantized. Its tensors have been checked.
    pub fn quantized(&self, name: &str) -> Result<Option<QuantizedView<'_>>, CheckpointError> {
        let Some(container) = self.container(name) else {
            return Ok(None);
        };
        let layer = layer_of(name);
        let (info, codes) = self.raw(&format!("{layer}.{}", container.codes()))?;
        let [rows, width] = *info.shape else {
            return Err(malformed(
                info,
                format!("shape {:?}, expected [N, K]", info.shape),
            ));
        };
        let k = match container {
            Container::Fp8 => width,
            _ => 2 * width,
        };
        let scales = match container {
            Container::Fp8 => &[],
            _ => {
                let (info, scales) = self.raw(&format!("{layer}.weight_scale"))?;
                expect(info, &[StoredDType::F8_E4M3], &[&[rows, k / BLOCK]])?;
                scales
            }
        };
        let view = self.tensor(&format!("{layer}.{}", container.factor()))?;
        let mut factors = vec![0.0; view.elements()];
        widen_into(view.dtype, view.bytes, &mut factors);
        if container == Container::Nvfp4Packed {
            factors.iter_mut().for_each(|v| *v = 1.0 / *v);
        }
        let format = container.format();
        Ok(Some(QuantizedView {
            format,
            rows,
            k,
            codes,
            scales,
            factors,
        }))
    }

    /// Fails if a layer is quantized otherwise than the folder says.
    pub fn check_declared(
        &self,
        expected: &[ExpectedTensor],
        declared: Option<&QuantizationConfig>,
    ) -> Result<(), CheckpointError> {
        for tensor in expected.iter().filter(|tensor| tensor.kind.is_linear()) {
            let Some(container) = self.container(&tensor.name) else {
                continue;
            };
            let layer = layer_of(&tensor.name);
            let told = declared.map(|d| (d.source, d.format_of(&canonical_name(layer))));
            let says = match told {
                Some((_, Some(format))) if format == container.format() => continue,
                Some((source, Some(format))) => format!("{source} says {format}"),
                Some((source, None)) => format!("{source} says that it is not quantized"),
                None => "the folder's configuration says nothing of quantization".into(),
            };
            let (info, _) = self.raw(&format!("{layer}.{}", container.codes()))?;
            return Err(malformed(
                info,
                format!("stored as {}, but {says}", container.format()),
            ));
        }
        Ok(())
    }

    /// Checks the tensors of one quantized layer: calls `known` with the name of each that belongs to it, `missing` with
    /// those that must be there and are not. False where the layer is not quantized.
    pub(super) fn check_quantized(
        &self,
        expected: &ExpectedTensor,
        known: &mut dyn FnMut(String),
        missing: &mut dyn FnMut(String),
    ) -> Result<bool, CheckpointError> {
        let Some(container) = self.container(&expected.name) else {
            return Ok(false);
        };
        let [n, k] = expected.shape[..] else {
            return Ok(false);
        };
        for name in companions(container, &expected.name) {
            let last = name.rsplit('.').next().unwrap_or_default();
            let Some(info) = self.info(&name) else {
                if last != container.input_scale() {
                    missing(name);
                }
                continue;
            };
            match (container, last) {
                (_, last) if last == container.input_scale() => {}
                (Container::Fp8, "weight") => expect(info, &[StoredDType::F8_E4M3], &[&[n, k]])?,
                (_, "weight" | "weight_packed") if !k.is_multiple_of(BLOCK) => {
                    return Err(malformed(
                        info,
                        format!("NVFP4 with K = {k}, expected a multiple of {BLOCK}"),
                    ));
                }
                (_, "weight" | "weight_packed") => {
                    expect(info, &[StoredDType::U8], &[&[n, k / 2]])?
                }
                (Container::Nvfp4ModelOpt | Container::Nvfp4Packed, "weight_scale") => {
                    expect(info, &[StoredDType::F8_E4M3], &[&[n, k / BLOCK]])?;
                }
                (Container::Fp8, _) => expect(info, &PLAIN, &[&[], &[1], &[n], &[n, 1]])?,
                (_, _) => expect(info, &PLAIN, &[&[], &[1]])?,
            }
            known(name);
        }
        Ok(true)
    }

    fn container(&self, name: &str) -> Option<Container> {
        let layer = name.strip_suffix(".weight")?;
        match self.info(name).map(|info| info.dtype) {
            Some(StoredDType::U8) => Some(Container::Nvfp4ModelOpt),
            Some(StoredDType::F8_E4M3) => Some(Container::Fp8),
            Some(_) => None,
            None => self
                .contains(&format!("{layer}.weight_packed"))
                .then_some(Container::Nvfp4Packed),
        }
    }
}

const PLAIN: [StoredDType; 3] = [StoredDType::F32, StoredDType::BF16, StoredDType::F16];

fn layer_of(name: &str) -> &str {
    name.strip_suffix(".weight").unwrap_or(name)
}

/// The names of a quantized layer's tensors.
fn companions(container: Container, name: &str) -> Vec<String> {
    let layer = layer_of(name);
    let mut parts = vec![
        container.codes(),
        "weight_scale",
        container.factor(),
        container.input_scale(),
    ];
    parts.dedup();
    parts
        .into_iter()
        .map(|part| format!("{layer}.{part}"))
        .collect()
}

fn expect(
    info: TensorInfo<'_>,
    dtypes: &[StoredDType],
    shapes: &[&[usize]],
) -> Result<(), CheckpointError> {
    let (file, tensor) = (info.file.to_string(), info.name.to_string());
    if !dtypes.contains(&info.dtype) {
        let names: Vec<&str> = dtypes.iter().map(|dtype| dtype.name()).collect();
        return Err(CheckpointError::DType {
            file,
            tensor,
            got: info.dtype,
            expected: names.join(", "),
        });
    }
    if !shapes.contains(&info.shape) {
        let (expected, got) = (shapes[0].to_vec(), info.shape.to_vec());
        return Err(CheckpointError::Shape {
            file,
            tensor,
            expected,
            got,
        });
    }
    Ok(())
}

fn malformed(info: TensorInfo<'_>, message: String) -> CheckpointError {
    CheckpointError::MalformedTensor {
        file: info.file.into(),
        tensor: info.name.into(),
        message,
    }
}
