//! A profile as text for people: aligned columns, no colours.

use std::fmt;

use jetblock_ops::attention::KvDtype;

use super::{Amount, Profile};
use crate::config::abbreviated;

/// Pattern letters in a line.
const LETTERS: usize = 50;

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let active = self.active.with_both_tables;
        write!(
            f,
            "{}: {} layers, {} parameters",
            self.model_type,
            self.layers,
            grouped(self.total.parameters)
        )?;
        if active == self.total.parameters {
            writeln!(f)
        } else {
            writeln!(f, ", {} active", grouped(active))
        }?;
        self.write_pattern(f)?;
        self.write_parts(f)?;
        self.write_formats(f)?;
        self.write_active(f)?;
        self.write_memory(f)?;
        self.write_plan(f)?;
        self.write_stored(f)
    }
}

impl Profile {
    fn write_pattern(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(pattern) = &self.pattern else {
            return Ok(());
        };
        // In tens: a layer's index can be read off.
        let tens = |line: &[char]| {
            let tens: Vec<String> = line.chunks(10).map(|ten| ten.iter().collect()).collect();
            tens.join(" ")
        };
        let precision: Vec<char> = self.precision.iter().flat_map(|p| p.chars()).collect();
        write!(f, "\nstack (M mamba, * attention, - mlp, E moe")?;
        match precision.is_empty() {
            true => writeln!(f, ")")?,
            false => writeln!(f, "; weights: b BF16, 8 FP8, 4 NVFP4, + several)")?,
        }
        let letters: Vec<char> = pattern.chars().collect();
        for (i, line) in letters.chunks(LETTERS).enumerate() {
            writeln!(f, "  {:>4}  {}", i * LETTERS, tens(line))?;
            if let Some(line) = precision.chunks(LETTERS).nth(i) {
                writeln!(f, "        {}", tens(line))?;
            }
        }
        Ok(())
    }

    /// Bits are those of the files: codes and scales.
    fn write_formats(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.formats.len() < 2 && self.precision.is_none() {
            return Ok(());
        }
        writeln!(f, "\nlinear weights")?;
        for amount in &self.formats {
            writeln!(
                f,
                "  {:<12}{:>7} matrices{:>17}{:>13}  {:.3} bits each",
                amount.format,
                amount.matrices,
                grouped(amount.parameters),
                bytes(amount.bytes),
                amount.bytes as f64 * 8.0 / amount.parameters.max(1) as f64
            )?;
        }
        Ok(())
    }

    fn write_parts(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let row = |name: &str, count: String, amount: &Amount| {
            let stored = amount.bytes_stored.map_or(String::from("-"), bytes);
            let (parameters, bf16) = (grouped(amount.parameters), bytes(amount.bytes_bf16));
            format!("  {name:<12}{count:>7}{parameters:>19}{bf16:>13}{stored:>13}")
        };
        writeln!(
            f,
            "\n  {:<12}{:>7}{:>19}{:>13}{:>13}",
            "part", "layers", "parameters", "in bf16", "as stored"
        )?;
        for part in &self.parts {
            let count = match part.part {
                super::Part::Layers(_) => part.count.to_string(),
                _ => String::new(),
            };
            writeln!(f, "{}", row(part.part.name(), count, &part.amount))?;
        }
        writeln!(f, "{}", row("total", self.layers.to_string(), &self.total))?;
        if let Some(mtp) = &self.mtp {
            writeln!(f, "{}  (skipped)", row("mtp", String::new(), mtp))?;
        }
        Ok(())
    }

    fn write_active(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let active = &self.active;
        match active.experts {
            0 => writeln!(f, "\nactive parameters per token")?,
            _ => {
                let (k, experts) = (active.experts_per_token, active.experts);
                writeln!(
                    f,
                    "\nactive parameters per token ({k} of {experts} routed experts)"
                )?;
            }
        }
        writeln!(
            f,
            "  {:<22}{:>19}",
            "layers and norms",
            grouped(active.body)
        )?;
        writeln!(
            f,
            "  {:<22}{:>19}",
            "with the output table",
            grouped(active.body_and_head)
        )?;
        writeln!(
            f,
            "  {:<22}{:>19}",
            "with both tables",
            grouped(active.with_both_tables)
        )
    }

    fn write_memory(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (state, kv, reach) = (&self.state, &self.kv_per_token, &self.attention_only);
        writeln!(f, "\nmemory of a sequence")?;
        if state.kept() > 0 {
            writeln!(
                f,
                "  {:<22}{:>19} bytes ({})",
                "ssm state, f32",
                grouped(state.ssm_f32),
                bytes(state.ssm_f32)
            )?;
            let other = format!(
                "; {} in bf16, as other engines keep it",
                grouped(state.conv_bf16)
            );
            writeln!(
                f,
                "  {:<22}{:>19} bytes{other}",
                "conv state, f32",
                grouped(state.conv_f32)
            )?;
        }
        for (name, size) in [
            ("f32", kv.f32),
            ("bf16", kv.bf16),
            ("fp8", kv.fp8),
            ("nvfp4", kv.nvfp4),
        ] {
            writeln!(
                f,
                "  {:<22}{:>19} bytes per token, {} for {} tokens",
                format!("keys, values, {name}"),
                grouped(size),
                bytes(size * SHOWN_TOKENS),
                grouped(SHOWN_TOKENS)
            )?;
        }
        if let Some(named) = &self.kv_named {
            let named = abbreviated(named);
            let (kv, default) = (
                KvDtype::ALL.map(KvDtype::name),
                "the default is as the operands, bf16 or f32",
            );
            match kv.iter().find(|kv| kv.eq_ignore_ascii_case(&named)) {
                Some(kv) => writeln!(
                    f,
                    "  (the checkpoint names {named} for keys and values: --kv {kv} asks for it, {default})"
                )?,
                None => writeln!(
                    f,
                    "  (the checkpoint names {named} for keys and values, which --kv does not have: {default})"
                )?,
            }
        }
        writeln!(
            f,
            "\nan optimizer for attention alone would touch {} of {} layers",
            reach.layers, reach.of
        )
    }

    fn write_plan(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(reason) = &self.not_run {
            return writeln!(f, "\nonly counted, not run: {reason}");
        }
        writeln!(f, "\nplan")?;
        for plan in &self.plan {
            writeln!(f, "  {:<12}{}", plan.part.name(), plan.strategy)?;
            writeln!(f, "  {:<12}{}", "", plan.precision)?;
            writeln!(f, "  {:<12}because {}", "", plan.reason)?;
        }
        Ok(())
    }

    fn write_stored(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(stored) = &self.stored else {
            return writeln!(f, "\nno weight files: counted from config.json alone");
        };
        let files = if stored.files == 1 { "file" } else { "files" };
        writeln!(
            f,
            "\n{} tensors in {} {files}, {}",
            grouped(stored.tensors as u64),
            stored.files,
            bytes(stored.bytes)
        )?;
        for amount in &stored.dtypes {
            writeln!(
                f,
                "  {:<12}{:>7} tensors{:>18}",
                amount.dtype.name(),
                amount.tensors,
                bytes(amount.bytes)
            )?;
        }
        Ok(())
    }
}

/// The length of the sequence whose keys and values are shown.
const SHOWN_TOKENS: u64 = 32_768;

/// Digits in groups of three.
fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// Bytes in the largest binary unit that leaves a whole part, two decimals, rounded down.
fn bytes(n: u64) -> String {
    const UNITS: [(&str, u64); 4] = [
        ("TiB", 1 << 40),
        ("GiB", 1 << 30),
        ("MiB", 1 << 20),
        ("KiB", 1 << 10),
    ];
    match UNITS.into_iter().find(|(_, unit)| n >= *unit) {
        None => format!("{n} B"),
        Some((name, unit)) => format!(
            "{}.{:02} {name}",
            n / unit,
            u128::from(n % unit) * 100 / u128::from(unit)
        ),
    }
}
