//! Applies each function of one argument to all 2^32 floats: the largest error, where, and a digest of all results.
//!
//! The digest is the sum of bits(y) (2 bits(x) + 1) modulo 2^64: weights are odd, so a single wrong result is always
//! seen, and the order does not matter.
//!
//! `RUSTFLAGS="-C target-cpu=native" cargo run --release -p jetblock-numerics --example exhaustive -- [--stride N]
//! [--no-oracle] [function ...]`. Without the flag fma is computed in software: the same digests, far slower.

use std::process::ExitCode;
use std::sync::atomic::{AtomicU32, Ordering};

#[path = "../tests/functions/mod.rs"]
mod functions;

use functions::Function;

/// A thread takes this many arguments at a time.
const BLOCK_BITS: u32 = 24;
const BLOCKS: usize = 1 << (32 - BLOCK_BITS);
const CHUNK: usize = 1024;

struct Options {
    /// Every N-th bit pattern of each block.
    stride: u32,
    oracle: bool,
    names: Vec<String>,
}

/// The largest error seen and where.
#[derive(Clone, Copy, Default)]
struct Worst {
    /// In units in the last place.
    ulp: f64,
    /// The argument.
    at: f32,
}

fn main() -> ExitCode {
    let mut within_bounds = true;
    let options = parse(std::env::args().skip(1));
    println!("function     max ulp   at                      digest");
    for function in functions::all() {
        if options.names.is_empty() || options.names.iter().any(|name| name == function.name) {
            let (worst, digest) = run(&function, &options);
            within_bounds &= worst.ulp <= function.bound;
            println!(
                "{:<12} {:<9.4} {:08X} {:<14e} {digest:016x}",
                function.name,
                worst.ulp,
                worst.at.to_bits(),
                worst.at
            );
        }
    }
    if within_bounds {
        ExitCode::SUCCESS
    } else {
        eprintln!("an error exceeds the bound that NUMERICS.md states");
        ExitCode::FAILURE
    }
}

fn parse(mut args: impl Iterator<Item = String>) -> Options {
    let mut options = Options {
        stride: 1,
        oracle: true,
        names: Vec::new(),
    };
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--stride" => {
                options.stride = args
                    .next()
                    .and_then(|n| n.parse().ok())
                    .expect("--stride takes a positive integer")
            }
            "--no-oracle" => options.oracle = false,
            _ => options.names.push(arg),
        }
    }
    options
}

fn run(function: &Function, options: &Options) -> (Worst, u64) {
    let next = AtomicU32::new(0);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let work = || {
        let mut done = Vec::new();
        loop {
            let block = next.fetch_add(1, Ordering::Relaxed);
            if block as usize >= BLOCKS {
                return done;
            }
            done.push((block, run_block(function, block, options)));
        }
    };
    let mut blocks: Vec<(u32, (Worst, u64))> = std::thread::scope(|scope| {
        let handles: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        handles
            .into_iter()
            .flat_map(|handle| handle.join().expect("a worker panicked"))
            .collect()
    });
    blocks.sort_by_key(|&(block, _)| block);
    let mut worst = Worst::default();
    let mut digest = 0_u64;
    for (_, (block_worst, block_digest)) in blocks {
        if block_worst.ulp > worst.ulp {
            worst = block_worst;
        }
        digest = digest.wrapping_add(block_digest);
    }
    (worst, digest)
}

fn run_block(function: &Function, block: u32, options: &Options) -> (Worst, u64) {
    let mut worst = Worst::default();
    let mut digest = 0_u64;
    let mut inputs = (0..1_u32 << BLOCK_BITS)
        .step_by(options.stride as usize)
        .map(|i| f32::from_bits(block << BLOCK_BITS | i));
    let mut x = Vec::with_capacity(CHUNK);
    let mut y = vec![0.0; CHUNK];
    loop {
        x.clear();
        x.extend(inputs.by_ref().take(CHUNK));
        if x.is_empty() {
            return (worst, digest);
        }
        (function.apply)(&x, &mut y);
        for (&x, &y) in x.iter().zip(&y) {
            let weight = 2 * u64::from(x.to_bits()) + 1;
            digest = digest.wrapping_add(u64::from(y.to_bits()).wrapping_mul(weight));
            if options.oracle {
                let ulp = function.error(x, y);
                if ulp > worst.ulp {
                    worst = Worst { ulp, at: x };
                }
            }
        }
    }
}
