//! Every level computes the scalar level's bits, operation by operation.

use jetblock_numerics::{Lanes, e4m3};
use jetblock_simd::{Cpu, Kernel, Level, Simd};

/// Bit patterns with every class of value: zeros, subnormals, normals near rounding ties, infinities, NaN.
fn patterns(n: usize) -> Vec<f32> {
    let edges = [
        0,
        1,
        0x007F_FFFF,
        0x0080_0000,
        0x3F80_0000,
        0x3F80_0001,
        0x7F7F_FFFF,
        0x7F80_0000,
        0x7FC0_0000,
        0x4B00_0001,
    ];
    let mut state = 0x1234_5678_u32;
    (0..n)
        .map(|i| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let bits = if i % 4 == 0 {
                edges[i / 4 % edges.len()] ^ (state & 0x8000_0000)
            } else {
                state
            };
            f32::from_bits(bits)
        })
        .collect()
}

/// Operations that [`Probe`] tries.
const OPS: usize = 19;

struct Probe<'a> {
    a: &'a [f32],
    b: &'a [f32],
    c: &'a [f32],
    bytes: &'a [u8],
    codes: &'a [u16],
    pairs: &'a [u32],
}

impl Kernel for Probe<'_> {
    type Output = Vec<u32>;
    const DOTS_PAIRS: bool = true;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> Vec<u32> {
        let n = self.a.len();
        let mut out = Vec::new();
        let mut lane = vec![0.0; S::LANES];
        let mut halves = vec![0; S::LANES];
        for op in 0..OPS {
            for at in (0..n).step_by(S::LANES) {
                let (a, b, c) = (
                    simd.load(&self.a[at..]),
                    simd.load(&self.b[at..]),
                    simd.load(&self.c[at..]),
                );
                let one = S::F::splat(1.0);
                let v = match op {
                    0 => a.add(b),
                    1 => a.sub(b),
                    2 => a.mul(b),
                    3 => a.div(b),
                    4 => a.fma(b, c),
                    5 => a.sqrt(),
                    6 => S::F::select(a.lt(b), a, c),
                    // Half of the comparands are equal.
                    7 => S::F::select(a.le(S::F::select(c.lt(b), b, a)), one, c),
                    8 => S::F::select(a.eq(a), one, c),
                    9 => S::F::select(a.is_nan(), one, b),
                    10 => {
                        S::F::from_bits(S::F::int_shl::<3>(S::F::int_add(a.to_bits(), b.to_bits())))
                    }
                    11 => {
                        S::F::from_bits(S::F::int_shr::<7>(S::F::int_sub(a.to_bits(), b.to_bits())))
                    }
                    12 => S::F::from_bits(S::F::int_ushr::<9>(S::F::int_xor(
                        a.to_bits(),
                        b.to_bits(),
                    ))),
                    13 => S::F::from_int(S::F::int_select(
                        S::F::int_gt(a.to_bits(), b.to_bits()),
                        a.to_bits(),
                        b.to_bits(),
                    )),
                    14 => simd
                        .load_bf16(&self.codes[at..])
                        .add(simd.load_f16(&self.codes[at..])),
                    15 => S::F::from_int(simd.load_u8(&self.bytes[at..])),
                    16 => {
                        let codes = simd.load_nibbles(self.bytes, at);
                        S::F::from_int(S::F::int_and(codes, S::F::splat_int(15)))
                    }
                    17 => simd.e2m1(a.to_bits()),
                    _ => {
                        let x = simd.load_pairs(&self.pairs[at..]);
                        // The accumulator has bits below the products', so that both steps round and their order is felt.
                        simd.dot_pairs(x, simd.splat_pair(0x3F81_BF93), S::F::splat(1.0 / 3.0))
                    }
                };
                simd.store(v, &mut lane);
                out.extend(
                    lane.iter()
                        .map(|v| if v.is_nan() { 0x7FC0_0000 } else { v.to_bits() }),
                );
                simd.store_u16(a.to_bits(), &mut halves);
                out.extend(halves.iter().map(|&h| u32::from(h)));
            }
        }
        out
    }
}

/// Regroups a level's output, which is ordered by vectors, by element.
fn by_element(level: Level, n: usize) -> Vec<u32> {
    let (a, b, c) = (patterns(n + 5), patterns(n + 11), patterns(n + 17));
    let codes: Vec<u16> = b.iter().map(|v| (v.to_bits() >> 13) as u16).collect();
    let bytes: Vec<u8> = b.iter().map(|v| (v.to_bits() >> 11) as u8).collect();
    // Normal bf16 operands of moderate size, as the bf16 kind guarantees.
    let pairs: Vec<u32> = c
        .iter()
        .map(|v| (v.to_bits() & 0x83FF_83FF) | 0x3C00_3C00)
        .collect();
    let probe = Probe {
        a: &a[5..],
        b: &b[11..],
        c: &c[17..],
        bytes: &bytes,
        codes: &codes[11..],
        pairs: &pairs[17..],
    };
    let raw = level.run(probe);
    let lanes = raw.len() / (OPS * n * 2);
    assert_eq!(lanes, 1);
    let width = match level {
        Level::Scalar => 1,
        Level::Neon => 4,
        Level::Avx2 => 8,
        Level::Avx512 | Level::Avx512Bf16 => 16,
    };
    let mut values = Vec::new();
    let mut halves = Vec::new();
    for group in raw.chunks(2 * width) {
        values.extend_from_slice(&group[..width]);
        halves.extend_from_slice(&group[width..]);
    }
    values.extend(halves);
    values
}

#[test]
fn every_level_computes_the_scalar_bits() {
    let want = by_element(Level::Scalar, 4096);
    for level in Level::available() {
        let got = by_element(level, 4096);
        for (i, (w, g)) in want.iter().zip(&got).enumerate() {
            assert_eq!(
                w,
                g,
                "level {level}, op {}, element {}: {w:08X} expected, {g:08X} got",
                i / 4096,
                i % 4096
            );
        }
    }
}

/// Codes to operands, in the order of the words.
struct Codes<'a> {
    words: &'a [u32],
    bytes: &'a [u8],
    table: &'a [u16; 16],
}

impl Kernel for Codes<'_> {
    /// Looked up, E4M3, signed low bytes, signed high bytes, even, odd; then the bytes as integers.
    type Output = [Vec<u32>; 7];

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> Self::Output {
        let mut out: Self::Output = Default::default();
        let (table, mut words, mut lane) = (
            simd.table(self.table),
            vec![0; S::LANES],
            vec![0.0; S::LANES],
        );
        for at in (0..self.words.len()).step_by(S::LANES) {
            let codes = simd.load_pairs(&self.words[at..]);
            let [low, high] = simd.i8_to_pairs(codes);
            for (i, pairs) in [
                simd.look_up(codes, table),
                simd.e4m3_to_pairs(codes),
                low,
                high,
            ]
            .into_iter()
            .enumerate()
            {
                simd.store_pairs(pairs, &mut words);
                out[i].extend_from_slice(&words);
            }
            for (i, v) in [simd.even(codes), simd.odd(codes)].into_iter().enumerate() {
                simd.store(v, &mut lane);
                out[4 + i].extend(lane.iter().map(|v| v.to_bits()));
            }
            let bytes = simd.pairs_from_int(simd.load_u8(&self.bytes[at..]));
            simd.store_pairs(bytes, &mut words);
            out[6].extend_from_slice(&words);
        }
        out
    }
}

#[test]
fn every_level_decodes_every_code() {
    // Each pair of bytes in the low bytes of the halves, with noise above them.
    let words: Vec<u32> = (0..1_u32 << 16)
        .map(|code| code & 0xFF | code >> 8 << 16 | code.wrapping_mul(0x9E37_79B9) & 0xFF00_FF00)
        .collect();
    let words = &words[..];
    let bytes: Vec<u8> = words.iter().map(|w| *w as u8).collect();
    let table = std::array::from_fn(|i| (i as u16).wrapping_mul(0x1235) ^ 0x3F80);
    let run = |level: Level| {
        level.run(Codes {
            words,
            bytes: &bytes,
            table: &table,
        })
    };
    let pair = |even: f32, odd: f32| even.to_bits() >> 16 | odd.to_bits() & 0xFFFF_0000;
    let code = |word: u32| [word as u8, (word >> 16) as u8];
    let of = |f: &dyn Fn([u8; 2]) -> u32| words.iter().map(|w| f(code(*w))).collect::<Vec<_>>();
    let signed = |a: u32, b: u32| {
        let value = |byte: u32| f32::from((byte as u8).cast_signed());
        pair(value(a), value(b))
    };
    let is_nan = |word: &u32| code(*word).iter().any(|c| c & 0x7F == 0x7F);
    let want = [
        of(&|[a, b]| {
            let at = |c: u8| u32::from(table[usize::from(c & 15)]);
            at(a) | at(b) << 16
        }),
        of(&|[a, b]| pair(e4m3::decode(a), e4m3::decode(b))),
        words.iter().map(|w| signed(*w, w >> 16)).collect(),
        words.iter().map(|w| signed(w >> 8, w >> 24)).collect(),
        words.iter().map(|w| w << 16).collect(),
        words.iter().map(|w| w & 0xFFFF_0000).collect(),
        of(&|[a, _]| u32::from(a)),
    ];
    for level in Level::available() {
        let mut got = run(level);
        // What E4M3's NaN decodes to is not said.
        for (i, word) in words.iter().enumerate() {
            if is_nan(word) {
                got[1][i] = want[1][i];
            }
        }
        assert!(got == want, "{level}");
    }
}

#[test]
fn an_unavailable_level_is_refused() {
    for level in Level::ALL {
        assert_eq!(Cpu::new(1, level).is_ok(), level.is_available());
    }
    assert!(Cpu::new(0, Level::Scalar).is_err());
    assert_eq!("avx512".parse::<Level>(), Ok(Level::Avx512));
    assert!(
        "sse9"
            .parse::<Level>()
            .unwrap_err()
            .contains("expected one of scalar")
    );
}

#[test]
fn workers_have_the_contract_environment() {
    // Threads inherit the environment of the thread that makes the pool, so make it in a disturbed one.
    std::thread::spawn(|| {
        jetblock_simd::fp_env::disturb_for_tests();
        let cpu = Cpu::new(3, Level::Scalar).expect("scalar is always there");
        let bad = std::sync::atomic::AtomicUsize::new(0);
        let seen = std::sync::atomic::AtomicUsize::new(0);
        cpu.par_items((0..64).collect(), |_: usize| {
            seen.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            if !jetblock_simd::fp_env::is_default() {
                bad.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            }
        });
        assert_eq!(seen.into_inner(), 64);
        assert_eq!(
            bad.into_inner(),
            0,
            "a worker computed outside the contract's environment"
        );
    })
    .join()
    .expect("the thread does not panic");
}

/// Numbers of a square, turned.
struct Square;

impl Kernel for Square {
    type Output = (usize, Vec<f32>);

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> Self::Output {
        let lanes = S::LANES;
        let values: Vec<f32> = (0..lanes * lanes).map(|i| i as f32).collect();
        let mut square: Vec<S::F> = values.chunks(lanes).map(|row| simd.load(row)).collect();
        simd.transpose(&mut square);
        let mut out = vec![0.0; lanes * lanes];
        for (v, row) in square.into_iter().zip(out.chunks_mut(lanes)) {
            simd.store(v, row);
        }
        (lanes, out)
    }
}

#[test]
fn every_level_turns_a_square() {
    for level in Level::available() {
        let (lanes, got) = level.run(Square);
        let want: Vec<f32> = (0..lanes * lanes)
            .map(|i| (i % lanes * lanes + i / lanes) as f32)
            .collect();
        assert_eq!(got, want, "{level}");
    }
}
