//! llama.cpp, by its own benchmarks: `llama-bench` for prefill, `llama-batched-bench` for decoding.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, ensure};
use serde_json::Value;

use super::{Engine, Work};

/// A GGUF file. The programs load it for every measurement and warm up before they time.
pub struct LlamaCpp {
    bin: PathBuf,
    gguf: PathBuf,
    version: String,
}

impl LlamaCpp {
    /// With the folder of llama.cpp's programs.
    pub fn new(bin: &Path, gguf: &Path) -> anyhow::Result<LlamaCpp> {
        for path in [
            &bin.join("llama-bench"),
            &bin.join("llama-batched-bench"),
            gguf,
        ] {
            ensure!(path.is_file(), "{} is not a file", path.display());
        }
        Ok(LlamaCpp {
            bin: bin.into(),
            gguf: gguf.into(),
            version: String::new(),
        })
    }

    /// Runs a program and reads the JSON object between the first and the last brace it prints.
    fn run(&self, program: &str, args: &[String]) -> anyhow::Result<Value> {
        let output = Command::new(self.bin.join(program))
            .arg("-m")
            .arg(&self.gguf)
            .args(args)
            .stderr(Stdio::null())
            .output()
            .with_context(|| format!("cannot start {program}"))?;
        let text = String::from_utf8_lossy(&output.stdout);
        ensure!(
            output.status.success(),
            "{program} {}: {}",
            args.join(" "),
            output.status
        );
        let json = text.find('{').zip(text.rfind('}'));
        let (start, end) = json.with_context(|| format!("{program} printed no JSON: {text}"))?;
        serde_json::from_str(&text[start..=end])
            .with_context(|| format!("{program} printed {text}"))
    }
}

impl Engine for LlamaCpp {
    fn tokens_per_second(&mut self, work: Work, threads: usize) -> anyhow::Result<f64> {
        let (program, args, field) = match work {
            Work::Prefill { tokens } => (
                "llama-bench",
                format!("-p {tokens} -n 0 -t {threads} -r 1 -o json"),
                "avg_ts",
            ),
            Work::Decode {
                batch,
                steps,
                context,
            } => {
                let room = batch * (context + steps);
                (
                    "llama-batched-bench",
                    format!(
                        "-c {room} -npp {context} -ntg {steps} -npl {batch} -t {threads} -tb {threads} --output-format jsonl"
                    ),
                    "speed_tg",
                )
            }
        };
        let args: Vec<String> = args.split(' ').map(String::from).collect();
        let report = self.run(program, &args)?;
        if let Some(commit) = report["build_commit"].as_str() {
            self.version = format!("build {commit}");
        }
        report[field]
            .as_f64()
            .with_context(|| format!("{program} reports no {field}: {report}"))
    }

    fn version(&self) -> String {
        self.version.clone()
    }
}
