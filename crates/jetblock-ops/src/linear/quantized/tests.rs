use jetblock_numerics::fma;
use jetblock_numerics::paint::hash;
use jetblock_numerics::round::f32_to_f16;
use jetblock_simd::Cpu;
use jetblock_testing::{
    Guarded, assert_bits_differ, assert_bits_equal, for_every_cpu, painted, painted_special,
    painted_wide,
};

use super::super::{
    Epilogue, Linear, LinearJob, OperandKind, PANEL, PackedMatrix, Prepared, Rows, grouped_linear,
    linear, reference,
};
use super::*;

const KINDS: [OperandKind; 2] = [OperandKind::Bf16, OperandKind::F32];

const fn with_offset(codes: Codes, len: usize, scale: ScaleType, offset: ScaleType) -> Format {
    Format {
        codes,
        blocks: Some(ScaleBlocks {
            len,
            scale,
            offset: Some(offset),
        }),
    }
}

/// Every code, every scale type, every block length, with and without offsets.
const FORMATS: [Format; 10] = [
    Format::NVFP4,
    Format::FP8,
    Format::new(Codes::U4Less8, 32, ScaleType::F16),
    with_offset(Codes::U4, 32, ScaleType::F16, ScaleType::F16),
    Format::new(Codes::I8, 32, ScaleType::F16),
    with_offset(Codes::U4, 32, ScaleType::F32, ScaleType::F32),
    Format::new(Codes::I8, 16, ScaleType::F32),
    Format::new(Codes::E4m3, 128, ScaleType::F32),
    Format::new(Codes::E2m1, 64, ScaleType::F16),
    Format {
        codes: Codes::U4Less8,
        blocks: None,
    },
];

/// A quantized matrix as it would lie in a file, and what its scales mean.
pub(super) struct Stored {
    format: Format,
    rows: usize,
    k: usize,
    codes: Vec<u8>,
    scale_bytes: Vec<u8>,
    offset_bytes: Vec<u8>,
    pub(super) factors: Vec<f32>,
}

impl Stored {
    /// Codes of all values but NaN; scales painted, with zeros and negative ones among them.
    pub(super) fn new(format: Format, rows: usize, k: usize, seed: u32) -> Stored {
        let code = |i: usize| {
            let code = hash(seed, i as u32) as u8;
            match format.codes {
                Codes::E4m3 if code & 0x7F == 0x7F => 0x08,
                Codes::E4m3 | Codes::I8 => code,
                _ => code & 15,
            }
        };
        let count = rows * format.blocks_in(k);
        let scales = |kind: Option<ScaleType>, seed| {
            let mut bytes = Vec::new();
            for (i, v) in painted(seed, count).into_iter().enumerate() {
                match kind {
                    None => {}
                    Some(ScaleType::F32) => bytes.extend(v.to_le_bytes()),
                    Some(ScaleType::F16) => bytes.extend(f32_to_f16(v).to_le_bytes()),
                    Some(ScaleType::E4m3) => {
                        let code = hash(seed, i as u32) as u8;
                        bytes.push(if code & 0x7F == 0x7F { 0 } else { code });
                    }
                }
            }
            bytes
        };
        Stored {
            format,
            rows,
            k,
            codes: (0..rows * k).map(code).collect(),
            scale_bytes: scales(format.blocks.map(|b| b.scale), seed + 1),
            offset_bytes: scales(format.blocks.and_then(|b| b.offset), seed + 2),
            factors: vec![1.0; rows],
        }
    }

    fn values(&self, kind: Option<ScaleType>, bytes: &[u8]) -> Vec<f32> {
        kind.map_or(Vec::new(), |kind| {
            bytes.chunks(kind.size()).map(|b| kind.value(b)).collect()
        })
    }

    /// Packs rows with equal factors as one part.
    fn pack(&self, kind: OperandKind) -> PackedMatrix {
        let blocks = self.format.blocks_in(self.k);
        let mut parts: Vec<(usize, usize)> = Vec::new();
        for row in 0..self.rows {
            match parts.last_mut() {
                Some((first, count))
                    if self.factors[*first].to_bits() == self.factors[row].to_bits() =>
                {
                    *count += 1;
                }
                _ => parts.push((row, 1)),
            }
        }
        let size = |kind: Option<ScaleType>| kind.map_or(0, |kind| kind.size() * blocks);
        let scale = size(self.format.blocks.map(|b| b.scale));
        let offset = size(self.format.blocks.and_then(|b| b.offset));
        let read = |row: usize, out: QuantizedRow<'_>| {
            out.codes
                .copy_from_slice(&self.codes[row * self.k..][..self.k]);
            out.scales
                .copy_from_slice(&self.scale_bytes[row * scale..][..scale]);
            out.offsets
                .copy_from_slice(&self.offset_bytes[row * offset..][..offset]);
        };
        let readers: Vec<_> = parts
            .iter()
            .map(|&(first, _)| move |row: usize, out: QuantizedRow<'_>| read(first + row, out))
            .collect();
        let parts: Vec<_> = parts
            .iter()
            .zip(&readers)
            .map(|(&(first, rows), read)| QuantizedRows {
                rows,
                factor: self.factors[first],
                read,
            })
            .collect();
        PackedMatrix::pack_quantized(kind, self.format, &parts, self.k, &mut |_, _| ())
            .expect("the lengths agree")
    }

    fn reference(
        &self,
        kind: OperandKind,
        x: &[f32],
        bias: Option<&[f32]>,
        epilogue: Epilogue,
    ) -> Vec<f32> {
        reference::quantized(reference::Quantized {
            kind,
            format: self.format,
            k: self.k,
            x,
            codes: &self.codes,
            scales: &self.values(self.format.blocks.map(|b| b.scale), &self.scale_bytes),
            offsets: &self.values(
                self.format.blocks.and_then(|b| b.offset),
                &self.offset_bytes,
            ),
            factors: &self.factors,
            bias,
            epilogue,
        })
    }
}

fn check(
    what: &str,
    kind: OperandKind,
    weight: &Stored,
    x: &[f32],
    bias: Option<&[f32]>,
    epilogue: Epilogue,
) {
    let packed = weight.pack(kind);
    let want = weight.reference(kind, x, bias, epilogue);
    for_every_cpu(|cpu| {
        let x = Prepared::prepare(cpu, kind, x, weight.k).expect("whole rows");
        let mut out = Guarded::new(want.len());
        let args = Linear {
            x: &x,
            weight: &packed,
            bias,
            epilogue,
        };
        linear(cpu, args, &mut out).expect("the lengths agree");
        assert_bits_equal(
            format!("{what}, {kind:?} kind, {:?}", weight.format),
            &out,
            &want,
        );
        out.assert_intact();
    });
}

/// The digest of golden vectors (NUMERICS.md section 6), of the reference and at every level.
pub(super) fn check_digest(what: &str, kind: OperandKind, weight: &Stored, x: &[f32], want: &str) {
    let digest = |y: &[f32]| {
        let terms = y
            .iter()
            .enumerate()
            .map(|(i, y)| u64::from(y.to_bits()).wrapping_mul(2 * i as u64 + 1));
        format!("{:016x}", terms.fold(0, u64::wrapping_add))
    };
    let y = weight.reference(kind, x, None, Epilogue::None);
    assert_eq!(digest(&y), want, "reference of {what}");
    check(what, kind, weight, x, None, Epilogue::None);
}

#[test]
fn cpu_equals_reference_for_every_format() {
    for (i, format) in FORMATS.into_iter().enumerate() {
        for (k, n) in [(128, 65), (512, 97), (896, 64)] {
            // Two rows are decoded in registers, nine in a block.
            for m in [2, 9] {
                let seed = 10 * i as u32;
                let mut weight = Stored::new(format, n, k, seed);
                weight.factors = painted(seed + 5, n);
                let bias = painted(seed + 6, n);
                let x = painted(seed + 7, m * k);
                for kind in KINDS {
                    let epilogue = if m == 2 {
                        Epilogue::None
                    } else {
                        Epilogue::Relu2
                    };
                    check(
                        &format!("[{m}, {k}] x [{n}, {k}]"),
                        kind,
                        &weight,
                        &x,
                        Some(&bias),
                        epilogue,
                    );
                }
            }
        }
    }
}

#[test]
fn row_count_does_not_change_bits() {
    let (n, k, most) = (70, 272, 26);
    let x = painted(3, most * k);
    let formats = [FORMATS[0], FORMATS[1], FORMATS[3], FORMATS[6]];
    for format in formats {
        // A length that every scale block divides, the last block of 256 cut short.
        let k = if format.blocks.is_some_and(|b| b.len == 32) {
            288
        } else {
            k
        };
        let x = if k == 288 {
            painted(3, most * k)
        } else {
            x.clone()
        };
        for kind in KINDS {
            let weight = Stored::new(format, n, k, 90);
            let packed = weight.pack(kind);
            let want = weight.reference(kind, &x, None, Epilogue::None);
            for_every_cpu(|cpu| {
                for m in 1..=most {
                    let prepared =
                        Prepared::prepare(cpu, kind, &x[..m * k], k).expect("whole rows");
                    let mut out = Guarded::new(m * n);
                    let args = Linear {
                        x: &prepared,
                        weight: &packed,
                        bias: None,
                        epilogue: Epilogue::None,
                    };
                    linear(cpu, args, &mut out).expect("the lengths agree");
                    assert_bits_equal(
                        format!("{m} rows, {kind:?} kind, {format:?}"),
                        &out,
                        &want[..m * n],
                    );
                    out.assert_intact();
                }
            });
        }
    }
}

#[test]
fn lengths_that_leave_a_word_unfilled() {
    // What a reused buffer held must not come back as a row's padding.
    for format in [FORMATS[1], FORMATS[9]] {
        for k in [1, 2, 3, 5, 6, 7, 255, 257, 259, 513] {
            let weight = Stored::new(format, 66, k, 40);
            let x = painted(41, 3 * k);
            for kind in KINDS {
                let packed = weight.pack(kind);
                let want = weight.reference(kind, &x, None, Epilogue::None);
                for_every_cpu(|cpu| {
                    let mut prepared = Prepared::new(kind);
                    prepared
                        .prepare_into(cpu, &vec![f32::NAN; 8 * 600], 600)
                        .expect("whole rows");
                    prepared.prepare_into(cpu, &x, k).expect("whole rows");
                    let mut out = Guarded::new(want.len());
                    let args = Linear {
                        x: &prepared,
                        weight: &packed,
                        bias: None,
                        epilogue: Epilogue::None,
                    };
                    linear(cpu, args, &mut out).expect("the lengths agree");
                    assert_bits_equal(format!("K = {k}, {format:?}"), &out, &want);
                    out.assert_intact();
                });
            }
        }
    }
}

#[test]
fn every_code_is_its_value() {
    // One k a row: y = code * 1, so outputs are the codes' values.
    for codes in [
        Codes::E2m1,
        Codes::U4,
        Codes::U4Less8,
        Codes::E4m3,
        Codes::I8,
    ] {
        let count = 1 << codes.bits();
        let mut weight = Stored::new(
            Format {
                codes,
                blocks: None,
            },
            count,
            2,
            0,
        );
        weight.codes = (0..count)
            .flat_map(|c| [c as u8, if codes == Codes::U4Less8 { 8 } else { 0 }])
            .collect();
        let want: Vec<f32> = (0..count).map(|c| codes.value(c as u8) + 0.0).collect();
        for kind in KINDS {
            check(
                "each code",
                kind,
                &weight,
                &[1.0, 1.0],
                None,
                Epilogue::None,
            );
            check("each code", kind, &weight, &[1.0; 12], None, Epilogue::None);
            let y = weight.reference(kind, &[1.0, 1.0], None, Epilogue::None);
            assert_bits_equal(format!("{codes:?}"), &y, &want);
        }
    }
}

#[test]
fn cpu_equals_reference_on_special_values() {
    let (m, n, k) = (7, 70, 384);
    let power = |exponent: i32| f32::from_bits(((127 + exponent) as u32) << 23);
    let scaled = |seed, exponent| {
        painted_wide(seed, m * k)
            .iter()
            .map(|v| v * power(exponent))
            .collect::<Vec<_>>()
    };
    let inputs = [
        ("wide", painted_wide(8, m * k)),
        ("huge", scaled(8, 105)),
        ("tiny", scaled(8, -125)),
        ("special", painted_special(10, m * k, 400)),
    ];
    let bias = painted_special(14, n, 4);
    for format in FORMATS {
        let mut weight = Stored::new(format, n, k, 50);
        weight.factors = painted_special(51, n, 5);
        // Block scales of every kind as well, where the type has infinities and NaN.
        if let Some(blocks) = format.blocks {
            for (i, v) in painted_special(52, n, 3).into_iter().enumerate() {
                let at = i * (k / blocks.len);
                match blocks.scale {
                    ScaleType::F32 => {
                        weight.scale_bytes[4 * at..][..4].copy_from_slice(&v.to_le_bytes())
                    }
                    ScaleType::F16 => weight.scale_bytes[2 * at..][..2]
                        .copy_from_slice(&f32_to_f16(v).to_le_bytes()),
                    ScaleType::E4m3 => {
                        weight.scale_bytes[at] = if v.is_nan() { 0xFF } else { 0x80 }
                    }
                }
            }
        }
        for (what, x) in &inputs {
            for kind in KINDS {
                check(what, kind, &weight, x, None, Epilogue::None);
                check(what, kind, &weight, &x[..k], Some(&bias), Epilogue::Relu2);
            }
        }
    }
}

#[test]
fn nan_codes_make_their_outputs_nan() {
    let (n, k) = (70, 64);
    for nan in [0x7F, 0xFF] {
        let mut fp8 = Stored::new(Format::FP8, n, k, 60);
        fp8.codes[5 * k + 63] = nan;
        let mut nvfp4 = Stored::new(Format::NVFP4, n, k, 61);
        nvfp4.scale_bytes[5 * (k / 16) + 3] = nan;
        for weight in [fp8, nvfp4] {
            for kind in KINDS {
                for m in [1, 3, 8] {
                    let x = painted(62, m * k);
                    check("a NaN code", kind, &weight, &x, None, Epilogue::None);
                    let y = weight.reference(kind, &x, None, Epilogue::None);
                    let nan: Vec<_> = (0..m * n)
                        .filter(|&i| y[i].is_nan())
                        .map(|i| i % n)
                        .collect();
                    assert_eq!(nan, vec![5; m], "only output 5 is NaN");
                }
            }
        }
    }
}

#[test]
fn grouped_jobs_read_their_own_rows() {
    let k = 160;
    let x = painted(31, 20 * k);
    let experts: Vec<_> = [FORMATS[0], FORMATS[1], FORMATS[3], FORMATS[4]]
        .into_iter()
        .enumerate()
        .map(|(i, format)| Stored::new(format, 30 + 40 * i, k, 32 + i as u32))
        .collect();
    let lists: [&[u32]; 4] = [&[3, 3, 19, 0], &[7], &[5, 4, 3, 2, 1, 0, 9, 9, 9], &[0, 2]];
    for kind in KINDS {
        let packed: Vec<_> = experts.iter().map(|e| e.pack(kind)).collect();
        for_every_cpu(|cpu| {
            let prepared = Prepared::prepare(cpu, kind, &x, k).expect("whole rows");
            let mut outs: Vec<_> = lists
                .iter()
                .zip(&packed)
                .map(|(rows, w)| Guarded::new(rows.len() * w.n()))
                .collect();
            let jobs = lists
                .iter()
                .zip(&packed)
                .zip(&mut outs)
                .map(|((rows, weight), out)| LinearJob {
                    x: &prepared,
                    rows: Rows::List(rows),
                    weight,
                    bias: None,
                    epilogue: Epilogue::Relu2,
                    out,
                });
            grouped_linear(cpu, jobs.collect()).expect("the lengths agree");
            for (i, out) in outs.iter().enumerate() {
                let rows: Vec<f32> = lists[i]
                    .iter()
                    .flat_map(|&r| x[r as usize * k..][..k].to_vec())
                    .collect();
                let want = experts[i].reference(kind, &rows, None, Epilogue::Relu2);
                assert_bits_equal(format!("job {i}, {kind:?} kind"), out, &want);
                out.assert_intact();
            }
        });
    }
}

/// Variants that the tests above must be able to tell from the contract.
#[test]
fn broken_orders_are_noticed() {
    let (n, k) = (65, 512);
    let weight = Stored::new(Format::NVFP4, n, k, 70);
    let x: Vec<f32> = painted(71, k);
    let scales = weight.values(Some(ScaleType::E4m3), &weight.scale_bytes);
    let want = weight.reference(OperandKind::F32, &x, None, Epilogue::None);
    let outputs = |output: &dyn Fn(usize) -> f32| (0..n).map(output).collect::<Vec<f32>>();
    let value = |n: usize, k: usize| Codes::E2m1.value(weight.codes[n * 512 + k]);
    let scale = |n: usize, k: usize| scales[n * 32 + k / 16];
    let folded = outputs(&|n| {
        (0..2).fold(0.0, |tot, b| {
            tot + (256 * b..256 * (b + 1)).fold(0.0, |p, k| fma(x[k], value(n, k) * scale(n, k), p))
        })
    });
    let block =
        |n: usize, b: usize| (16 * b..16 * (b + 1)).fold(0.0, |p, k| fma(x[k], value(n, k), p));
    let no_fma = outputs(&|n| {
        (0..2).fold(0.0, |tot, b| {
            tot + (16 * b..16 * (b + 1)).fold(0.0, |acc, b| acc + scale(n, 16 * b) * block(n, b))
        })
    });
    let no_blocks_of_256 =
        outputs(&|n| (0..32).fold(0.0, |acc, b| fma(scale(n, 16 * b), block(n, b), acc)));
    let contract = outputs(&|n| {
        (0..2).fold(0.0, |tot, b| {
            tot + (16 * b..16 * (b + 1)).fold(0.0, |acc, b| fma(scale(n, 16 * b), block(n, b), acc))
        })
    });
    assert_bits_equal("the chain of this test is the contract's", &contract, &want);
    assert_bits_differ("scales multiplied into weights", &folded, &want);
    assert_bits_differ("scaled sum rounded twice", &no_fma, &want);
    assert_bits_differ("one sum without blocks of 256", &no_blocks_of_256, &want);
    let other_kind = weight.reference(OperandKind::Bf16, &x, None, Epilogue::None);
    assert_bits_differ("the other kind", &other_kind, &want);
}

#[test]
fn memory_is_what_is_stored() {
    let (n, k) = (128, 1024);
    let bits = [4.5, 8.0, 4.5, 5.0, 8.5, 6.0, 10.0, 8.25, 4.25, 4.0];
    for (format, bits) in FORMATS.into_iter().zip(bits) {
        let packed = Stored::new(format, n, k, 80).pack(OperandKind::Bf16);
        // Beside the weights: one f32 an output.
        assert_eq!(
            (packed.bytes() - 4 * n) as f64 * 8.0 / (n * k) as f64,
            bits,
            "{format:?}"
        );
        assert_eq!(packed.format(), Some(format));
    }
}

#[test]
fn rows_read_back() {
    for format in FORMATS {
        let k = 256;
        let mut weight = Stored::new(format, PANEL + 2, k, 82);
        weight.factors = painted(83, PANEL + 2);
        let scales = weight.values(format.blocks.map(|b| b.scale), &weight.scale_bytes);
        let offsets = weight.values(format.blocks.and_then(|b| b.offset), &weight.offset_bytes);
        let packed = weight.pack(OperandKind::Bf16);
        let mut row = vec![0.0; k];
        for n in [0, 1, PANEL - 1, PANEL, PANEL + 1] {
            packed.row_into(n, &mut row).expect("the row exists");
            let want: Vec<f32> = (0..k)
                .map(|i| {
                    let v = format.codes.value(weight.codes[n * k + i]);
                    let v = match format.blocks {
                        None => v + 0.0,
                        Some(blocks) => {
                            let at = (n * k + i) / blocks.len;
                            fma(scales[at], v, offsets.get(at).copied().unwrap_or(0.0))
                        }
                    };
                    v * weight.factors[n]
                })
                .collect();
            assert_bits_equal(format!("row {n}, {format:?}"), &row, &want);
        }
    }
}

#[test]
fn wrong_formats_are_errors() {
    let pack = |format, k| {
        let parts = [QuantizedRows {
            rows: 0,
            factor: 1.0,
            read: &|_, _| (),
        }];
        PackedMatrix::pack_quantized(OperandKind::F32, format, &parts, k, &mut |_, _| ())
    };
    let message = |format, k| {
        pack(format, k)
            .expect_err("the arguments are wrong")
            .to_string()
    };
    assert_eq!(
        message(Format::NVFP4, 24),
        "linear: K is 24, expected a multiple of the scale block of 16"
    );
    assert_eq!(
        message(Format::NVFP4, 0),
        "linear: K is 0, expected at least 1"
    );
    let odd = Format::new(Codes::I8, 48, ScaleType::F32);
    assert_eq!(
        message(odd, 96),
        "linear: scale block is 48, expected 16, 32, 64 or 128"
    );
    let offset = with_offset(Codes::U4, 16, ScaleType::E4m3, ScaleType::E4m3);
    assert_eq!(
        message(offset, 16),
        "linear: offset type is E4m3, expected F32 or F16"
    );
    assert!(pack(Format::FP8, 3).is_ok());
    let empty = pack(Format::NVFP4, 16).expect("no outputs are allowed");
    let cpu = Cpu::single();
    let x = Prepared::prepare(&cpu, OperandKind::F32, &[0.0; 16], 16).expect("whole rows");
    let args = Linear {
        x: &x,
        weight: &empty,
        bias: None,
        epilogue: Epilogue::None,
    };
    assert_eq!(linear(&cpu, args, &mut []), Ok(()));
}
