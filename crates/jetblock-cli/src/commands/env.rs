//! `jetblock env`: what this machine offers and which settings apply.

use jetblock_simd::Level;
use serde_json::json;

use crate::Verdict;
use crate::args::Global;
use crate::bundled::CACHE_VARIABLE;
use crate::output::{Output, table};

/// Every environment variable that is read, with its meaning. None of them changes a bit of any result.
const VARIABLES: [(&str, &str); 3] = [
    ("JETBLOCK_THREADS", "threads to compute with, as --threads"),
    ("JETBLOCK_ISA", "instruction-set level, as --isa"),
    (
        CACHE_VARIABLE,
        "where the bundled model is unpacked, instead of ~/.cache",
    ),
];

pub(crate) fn run(global: &Global, output: &Output) -> anyhow::Result<Verdict> {
    let cpu = global.cpu()?;
    let levels: Vec<&str> = Level::available()
        .iter()
        .map(|level| level.name())
        .collect();
    let value = |name: &str| std::env::var(name).ok();
    if output.is_json() {
        let variables: serde_json::Map<_, _> = VARIABLES
            .iter()
            .map(|(name, _)| (name.to_string(), json!(value(name))))
            .collect();
        output.print_json(&json!({
            "version": env!("CARGO_PKG_VERSION"),
            "numerics_version": jetblock_numerics::NUMERICS_VERSION,
            "threads": cpu.threads(),
            "isa": cpu.level().name(),
            "isa_available": levels,
            "variables": variables,
        }))?;
        return Ok(Verdict::Passed);
    }
    let mut text = format!(
        "jetblock {} (numeric contract {})\nthreads     {}\nisa         {} (available: {})\n\n",
        env!("CARGO_PKG_VERSION"),
        jetblock_numerics::NUMERICS_VERSION,
        cpu.threads(),
        cpu.level(),
        levels.join(", "),
    );
    let rows: Vec<Vec<String>> = VARIABLES
        .iter()
        .map(|(name, meaning)| {
            vec![
                name.to_string(),
                value(name).unwrap_or_else(|| "not set".into()),
                meaning.to_string(),
            ]
        })
        .collect();
    text.push_str(&table(&["variable", "value", "meaning"], &rows));
    output.print(&text)?;
    Ok(Verdict::Passed)
}
