//! Golden vectors as JSON text: one line for each group of inputs, so that a difference names its function.
//!
//! Inputs are painted by formula or listed as bits; outputs are bits. NUMERICS.md gives the formulas.

use std::fmt::Write as _;

use jetblock_numerics::nvfp4::{self, BLOCK, Block};
use jetblock_numerics::reduce;
use jetblock_numerics::rng::{self, Draw};
use jetblock_numerics::{NUMERICS_VERSION, e2m1, e4m3, math, paint, round};

/// Inputs at which functions change branch, saturate or meet a special value.
#[rustfmt::skip]
const EDGES: [u32; 70] = [
    0x0000_0000, 0x8000_0000, 0x0000_0001, 0x8000_0001, 0x007F_FFFF, 0x807F_FFFF, 0x0080_0000, 0x8080_0000,
    0x3F80_0000, 0xBF80_0000, 0xBF7F_FFFF, 0xBF80_0001, 0x3F00_0000, 0xBF00_0000, 0x4000_0000, 0xC000_0000,
    0x7F7F_FFFF, 0xFF7F_FFFF, 0x7F80_0000, 0xFF80_0000, 0x7FC0_0000, 0xFFC0_0000, 0x7F80_0001, 0xFFFF_FFFF,
    0xC2AE_AC4F, 0xC2AE_AC50, 0x42B1_7217, 0x42B1_7218, 0xC2B1_7217, 0xC2B1_7218, 0xC2FC_0000, 0xC2FC_0001,
    0x42FF_FFFF, 0x4300_0000, 0x41A0_0000, 0x41A0_0001, 0x3F19_9999, 0x3F19_999A, 0xBF19_999A, 0x3F6F_FFFF,
    0x3F70_0000, 0xBF70_0000, 0x3F3F_FFFF, 0x3F40_0000, 0xBF3F_FFFF, 0xBF40_0000, 0x407F_FFFF, 0x4080_0000,
    0x415F_FFFF, 0x4160_0000, 0xC160_0000, 0xC120_F9B7, 0xC120_F9B8, 0xC153_765A, 0xC153_765B, 0x3F49_0FDA,
    0x3F49_0FDB, 0x3FC9_0FDB, 0x4049_0FDB, 0x40C9_0FDB, 0x4B00_0000, 0x4B80_0001, 0x5F00_0000, 0x7EF0_0000,
    0x3FBF_FFFF, 0x3FC0_0000, 0x3EFF_FFFF, 0xBE80_0000, 0xBE80_0001, 0x3400_0000,
];

/// Lengths around every block boundary, and one that needs two levels of row reduction.
const LENGTHS: [usize; 17] = [
    0, 1, 2, 3, 31, 32, 33, 255, 256, 257, 1023, 1024, 1025, 2047, 4099, 33_000, 1_050_000,
];

/// Inputs of which only a digest of the outputs is kept: the sum of bits(y_i) (2i + 1) modulo 2^64.
const DIGESTED: u32 = 1 << 18;

/// A painted group of inputs: `2^scale * paint(seed, i)` for i = 0, 1, ..., count - 1.
struct Painted {
    paint: &'static str,
    seed: u32,
    scale: i32,
    count: u32,
}

const PAINTED: [Painted; 4] = [
    Painted {
        paint: "uniform",
        seed: 1,
        scale: 0,
        count: 48,
    },
    Painted {
        paint: "uniform",
        seed: 2,
        scale: 6,
        count: 48,
    },
    Painted {
        paint: "wide",
        seed: 3,
        scale: 0,
        count: 64,
    },
    Painted {
        paint: "raw",
        seed: 4,
        scale: 0,
        count: 64,
    },
];

impl Painted {
    fn values(&self) -> Vec<f32> {
        let f = match self.paint {
            "uniform" => paint::uniform,
            "wide" => paint::wide,
            _ => paint::raw,
        };
        let scale = f32::from_bits(((127 + self.scale) as u32) << 23);
        // A raw NaN must not pass through an operation, which might quieten it.
        (0..self.count)
            .map(|i| {
                if self.scale == 0 {
                    f(self.seed, i)
                } else {
                    f(self.seed, i) * scale
                }
            })
            .collect()
    }

    fn json(&self) -> String {
        format!(
            "{{\"paint\": \"{}\", \"seed\": {}, \"scale\": {}, \"count\": {}}}",
            self.paint, self.seed, self.scale, self.count
        )
    }
}

/// Every golden file: its name and its text.
pub(crate) fn files() -> Vec<(&'static str, String)> {
    vec![
        ("functions.json", functions()),
        ("pow.json", pow()),
        ("round.json", rounding()),
        ("nvfp4.json", quantized()),
        ("reduce.json", reductions()),
        ("rng.json", random()),
        ("paint.json", painting()),
    ]
}

/// A JSON document with a list of entries, one a line.
fn document(entries: Vec<String>) -> String {
    format!(
        "{{\"numerics_version\": {NUMERICS_VERSION}, \"entries\": [\n{}\n]}}\n",
        entries.join(",\n")
    )
}

/// `["0000002a", ...]`, with as many digits as the type has.
fn hex<T: std::fmt::LowerHex>(values: impl IntoIterator<Item = T>) -> String {
    let digits = 2 * size_of::<T>();
    let mut text = String::from("[");
    for value in values {
        let comma = if text.len() > 1 { ", " } else { "" };
        write!(text, "{comma}\"{value:0digits$x}\"").expect("writing to a string cannot fail");
    }
    text + "]"
}

fn bits(values: &[f32]) -> String {
    hex(values.iter().map(|v| v.to_bits()))
}

type Scalar = fn(f32) -> f32;

fn functions() -> String {
    let functions: [(&str, Scalar); 15] = [
        ("exp", math::exp),
        ("exp2", math::exp2),
        ("log", math::log),
        ("log1p", math::log1p),
        ("softplus", math::softplus),
        ("sigmoid", math::sigmoid),
        ("silu", math::silu),
        ("tanh", math::tanh),
        ("gelu_tanh", math::gelu_tanh),
        ("erf", math::erf),
        ("gelu_erf", math::gelu_erf),
        ("rsqrt", math::rsqrt),
        ("relu2", math::relu2),
        ("sin", math::sin),
        ("cos", math::cos),
    ];
    let mut entries = Vec::new();
    for (name, f) in functions {
        let apply = |x: Vec<f32>| bits(&x.into_iter().map(f).collect::<Vec<_>>());
        for painted in &PAINTED {
            let output = apply(painted.values());
            entries.push(format!(
                "{{\"function\": \"{name}\", \"input\": {}, \"output\": {output}}}",
                painted.json()
            ));
        }
        let digest = (0..DIGESTED).fold(0_u64, |digest, i| {
            let y = u64::from(f(paint::raw(5, i)).to_bits());
            digest.wrapping_add(y * (2 * u64::from(i) + 1))
        });
        entries.push(format!(
            "{{\"function\": \"{name}\", \"input\": {{\"paint\": \"raw\", \"seed\": 5, \"scale\": 0, \"count\": {DIGESTED}}}, \
             \"digest\": \"{digest:016x}\"}}"
        ));
        let output = apply(EDGES.map(f32::from_bits).to_vec());
        entries.push(format!(
            "{{\"function\": \"{name}\", \"input\": {}, \"output\": {output}}}",
            hex(EDGES)
        ));
    }
    document(entries)
}

fn pow() -> String {
    let bases = Painted {
        paint: "wide",
        seed: 5,
        scale: 0,
        count: 96,
    };
    let exponents = Painted {
        paint: "uniform",
        seed: 6,
        scale: 1,
        count: 96,
    };
    let powers: Vec<f32> = bases
        .values()
        .iter()
        .zip(exponents.values())
        .map(|(x, y)| math::pow(x.abs(), y))
        .collect();
    let mut entries = vec![format!(
        "{{\"function\": \"pow\", \"base\": \"absolute values\", \"x\": {}, \"y\": {}, \"output\": {}}}",
        bases.json(),
        exponents.json(),
        bits(&powers)
    )];
    // Every pair of these: zeros, infinities, NaN, odd, even and fractional exponents.
    let special = [
        0.0,
        -0.0,
        1.0,
        -1.0,
        2.0,
        -2.0,
        3.0,
        -3.0,
        0.5,
        -0.5,
        10_000.0,
        -1.0e-40,
        f32::MAX,
        f32::INFINITY,
        f32::NEG_INFINITY,
        f32::NAN,
    ];
    for x in special {
        let powers = special.map(|y| math::pow(x, y));
        entries.push(format!(
            "{{\"function\": \"pow\", \"x\": {}, \"y\": {}, \"output\": {}}}",
            bits(&[x]),
            bits(&special),
            bits(&powers)
        ));
    }
    document(entries)
}

fn rounding() -> String {
    let mut x = EDGES.map(f32::from_bits).to_vec();
    // Ties, and the limits of f16 and of the operand flush.
    x.extend(
        [
            0x3F80_8000_u32,
            0x3F81_8000,
            0x7F7F_8000,
            0x0000_8000,
            0x0001_8000,
            0x267F_FFFF,
            0x2680_0000,
            0xA680_0000,
            0x267F_0000,
            0x477F_EFFF,
            0x477F_F000,
            0x3380_0000,
            0x3300_0000,
            0x3300_0001,
            0x3880_0000,
            0x387F_FFFF,
            0x387F_E000,
            0x387F_D000,
            0x3F80_1000,
            0x3F80_3000,
        ]
        .map(f32::from_bits),
    );
    x.extend((0..64).map(|i| paint::raw(7, i)));
    x.extend((0..64).map(|i| paint::wide(8, i)));
    let f16: Vec<u16> = (0..64)
        .map(|i| paint::hash(9, i) as u16)
        .chain([0, 0x8000, 1, 0x03FF, 0x0400, 0x7BFF, 0x7C00, 0xFC01])
        .collect();
    let narrow = |name: &str, f: fn(f32) -> u16| {
        format!(
            "{{\"function\": \"{name}\", \"input\": {}, \"output\": {}}}",
            bits(&x),
            hex(x.iter().map(|&x| f(x)))
        )
    };
    document(vec![
        narrow("f32_to_bf16", round::f32_to_bf16),
        narrow("bf16_operand", round::bf16_operand),
        narrow("f32_to_f16", round::f32_to_f16),
        format!(
            "{{\"function\": \"f16_to_f32\", \"input\": {}, \"output\": {}}}",
            hex(f16.iter().copied()),
            bits(
                &f16.iter()
                    .map(|&x| round::f16_to_f32(x))
                    .collect::<Vec<_>>()
            )
        ),
    ])
}

/// Blocks of which only a digest is kept.
const BLOCKS: u32 = 1_000_000;

/// The 8-bit and 4-bit floats and NVFP4 blocks.
fn quantized() -> String {
    let mut x = EDGES.map(f32::from_bits).to_vec();
    for code in 0..0x7E {
        let middle = (e4m3::decode(code) + e4m3::decode(code + 1)) / 2.0;
        x.extend([middle, -middle.next_up()]);
    }
    for code in 0..7 {
        let middle = (e2m1::decode(code) + e2m1::decode(code + 1)) / 2.0;
        x.extend([middle, -middle, middle.next_down(), -middle.next_up()]);
    }
    x.extend([448.0, 464.0, -464.0, 480.0, 6.0, -7.0]);
    let narrow = |name: &str, f: fn(f32) -> u8| {
        format!(
            "{{\"function\": \"{name}\", \"input\": {}, \"output\": {}}}",
            bits(&x),
            hex(x.iter().map(|&x| f(x)))
        )
    };
    let widen = |name: &str, last: u8, f: fn(u8) -> f32| {
        let values: Vec<f32> = (0..=last).map(f).collect();
        format!(
            "{{\"function\": \"{name}\", \"of\": \"codes 0 to {last}\", \"output\": {}}}",
            bits(&values)
        )
    };
    let mut entries = vec![
        narrow("e4m3", e4m3::encode),
        narrow("e2m1", e2m1::encode),
        widen("e4m3_value", 255, e4m3::decode),
        widen("e2m1_value", 15, e2m1::decode),
    ];
    // Block scales from 448 down; blocks far outside the scales' range; infinities and NaN.
    let weights = |n, i| paint::uniform(20, i) * paint::uniform(21, n);
    let rows = |n, i| paint::uniform(22, i) * paint::wide(23, n);
    let raw = |_, i| paint::raw(24, i);
    for (of, count, x) in [
        (
            "uniform(20, i) * uniform(21, n)",
            BLOCKS,
            &weights as &dyn Fn(u32, u32) -> f32,
        ),
        ("uniform(22, i) * wide(23, n)", BLOCKS, &rows),
        ("raw(24, i)", 50_000, &raw),
    ] {
        let block = |n: u32| std::array::from_fn(|e| x(n, 16 * n + e as u32));
        let amax = (0..count)
            .map(|n| nvfp4::amax(&block(n)))
            .filter(|amax| amax.is_finite())
            .fold(0.0, round::max::<f32>);
        let tensor_scale = nvfp4::weight_scale(amax);
        let weights = |x: &[f32; BLOCK]| nvfp4::encode_weights(x, tensor_scale);
        for (rule, encode) in [
            ("weights", &weights as &dyn Fn(&[f32; BLOCK]) -> Block),
            ("kv", &nvfp4::encode_kv),
        ] {
            let digest = (0..count).fold(0_u64, |digest, n| {
                let Block { scale, codes } = encode(&block(n));
                let bytes = std::iter::once(scale).chain(codes).zip(9 * u64::from(n)..);
                bytes.fold(digest, |digest, (byte, i)| {
                    digest.wrapping_add(u64::from(byte) * (2 * i + 1))
                })
            });
            let scale = if rule == "kv" { 1.0 } else { tensor_scale };
            entries.push(format!(
                "{{\"function\": \"nvfp4_{rule}\", \"of\": \"{of}\", \"blocks\": {count}, \"tensor_scale\": \"{:08x}\", \
                 \"digest\": \"{digest:016x}\"}}",
                scale.to_bits()
            ));
        }
    }
    document(entries)
}

fn reductions() -> String {
    let a = paint::uniform_vec(10, 1_050_000);
    let b = paint::uniform_vec(11, 1_050_000);
    let codes = |x: &[f32]| {
        x.iter()
            .map(|&x| round::bf16_operand(x))
            .collect::<Vec<_>>()
    };
    let (a16, b16) = (codes(&a), codes(&b));
    // Uniform operands give sums that are often exact; these round at every step.
    let wide = |seed| {
        (0..33_000)
            .map(|i| paint::wide(seed, i))
            .collect::<Vec<_>>()
    };
    let (a_wide, b_wide) = (codes(&wide(12)), codes(&wide(13)));
    let wide_lengths = &LENGTHS[..LENGTHS.len() - 1];
    let wide_outputs: Vec<f32> = wide_lengths
        .iter()
        .map(|&n| reduce::dot_bf16(&a_wide[..n], &b_wide[..n]))
        .collect();
    let last_of_cumsum = |n: usize| {
        let mut out = vec![0.0; n];
        reduce::cumsum(&a[..n], &mut out);
        out.last().copied().unwrap_or(0.0)
    };
    let of = |name: &str, f: &dyn Fn(usize) -> f32| {
        format!(
            "{{\"function\": \"{name}\", \"seeds\": [10, 11], \"lengths\": {LENGTHS:?}, \"output\": {}}}",
            bits(&LENGTHS.map(f))
        )
    };
    document(vec![
        of("dot_f32", &|n| reduce::dot_f32(&a[..n], &b[..n])),
        of("dot32", &|n| reduce::dot32(&a[..n], &b[..n])),
        of("dot_bf16", &|n| reduce::dot_bf16(&a16[..n], &b16[..n])),
        of("sum", &|n| reduce::sum(&a[..n])),
        of("sum_of_squares", &|n| reduce::sum_of_squares(&a[..n])),
        of("max", &|n| reduce::max(&a[..n])),
        of("cumsum_last", &last_of_cumsum),
        format!(
            "{{\"function\": \"dot_bf16\", \"paint\": \"wide\", \"seeds\": [12, 13], \"lengths\": {wide_lengths:?}, \"output\": {}}}",
            bits(&wide_outputs)
        ),
    ])
}

fn random() -> String {
    let mut entries = Vec::new();
    for i in 0..8 {
        let seed = u64::from(paint::hash(12, i)) << 32 | u64::from(paint::hash(13, i));
        let draw = Draw {
            position: u64::from(i) << 30,
            sample: i,
            domain: i & 1,
        };
        entries.push(format!(
            "{{\"function\": \"words\", \"seed\": \"{seed:016x}\", \"position\": {}, \"sample\": {}, \"domain\": {}, \"words\": {}, \
             \"uniform_u64\": \"{:016x}\"}}",
            draw.position,
            draw.sample,
            draw.domain,
            hex(rng::words(seed, draw)),
            rng::uniform_u64(seed, draw)
        ));
    }
    let ties = (0..16).map(|i| rng::tie_hash(i / 4, 1000 * i, i));
    entries.push(format!("{{\"function\": \"tie_hash\", \"of\": \"layer i / 4, position 1000 i, expert i\", \"output\": {}}}", hex(ties)));
    document(entries)
}

fn painting() -> String {
    let seeds = [0, 1, u32::MAX];
    let indices = [0, 1, 2, 3, 255, 65_536, u32::MAX];
    let mut entries = Vec::new();
    for (name, f) in [
        ("uniform", paint::uniform as fn(u32, u32) -> f32),
        ("wide", paint::wide),
        ("raw", paint::raw),
    ] {
        for seed in seeds {
            let values = indices.map(|i| f(seed, i));
            entries.push(format!("{{\"paint\": \"{name}\", \"seed\": {seed}, \"indices\": {indices:?}, \"output\": {}}}", bits(&values)));
        }
    }
    document(entries)
}
