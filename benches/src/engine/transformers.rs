//! Hugging Face transformers on PyTorch, in a Python process of its own (`peers/transformers_worker.py`).

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::Context as _;
use serde_json::{Value, json};

use super::{Engine, Work};

const WORKER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/peers/transformers_worker.py");

/// A worker that holds the model. It ends when this is dropped.
pub struct Transformers {
    worker: Child,
    requests: ChildStdin,
    answers: BufReader<ChildStdout>,
    version: String,
}

impl Transformers {
    /// Starts the worker with a Python that has transformers, and waits until it has the model.
    pub fn start(python: &Path, model: &Path) -> anyhow::Result<Transformers> {
        let mut worker = Command::new(python)
            .arg(WORKER)
            .arg(model)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {}", python.display()))?;
        let requests = worker.stdin.take().context("no pipe to the worker")?;
        let answers = worker.stdout.take().context("no pipe from the worker")?;
        let mut engine = Transformers {
            worker,
            requests,
            answers: BufReader::new(answers),
            version: String::new(),
        };
        engine.version = engine.answer()?["version"]
            .as_str()
            .context("the worker does not say its version")?
            .to_string();
        Ok(engine)
    }

    fn answer(&mut self) -> anyhow::Result<Value> {
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        serde_json::from_str(&line)
            .with_context(|| format!("the worker answered {line:?} (its own message is above)"))
    }
}

impl Engine for Transformers {
    fn tokens_per_second(&mut self, work: Work, threads: usize) -> anyhow::Result<f64> {
        let request = match work {
            Work::Prefill { tokens } => json!({"prefill": tokens, "threads": threads}),
            Work::Decode {
                batch,
                steps,
                context,
            } => {
                json!({"decode": steps, "batch": batch, "context": context, "threads": threads})
            }
        };
        writeln!(self.requests, "{request}")?;
        let seconds = self.answer()?["seconds"]
            .as_f64()
            .context("the worker does not say the seconds")?;
        Ok(work.tokens() as f64 / seconds)
    }

    fn version(&self) -> String {
        self.version.clone()
    }
}

impl Drop for Transformers {
    fn drop(&mut self) {
        // One that has ended already cannot be killed.
        let _ = self.worker.kill();
        let _ = self.worker.wait();
    }
}
