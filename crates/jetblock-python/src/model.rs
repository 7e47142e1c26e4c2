//! A loaded model, and generation step by step.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock};

use jetblock_cli::{DEFAULT_MAX_TOKENS, Folder, PREFIX_CACHE_BYTES, ProofRequest};
use jetblock_models::{LogitRows, ModelDigests, ModelError, Options, Piece, detector};
use jetblock_ops::attention::KvDtype;
use jetblock_ops::linear::OperandKind;
use jetblock_ops::sampling::SamplingParams;
use jetblock_runtime::receipt::{self, Comparison, Environment, Fact, ModelFacts, Receipt};
use jetblock_runtime::verify::Pools;
use jetblock_runtime::{
    Answers, ChatRequest, Completion, EngineOptions, Prompt, Record, Session, SessionError,
    SkipSpecialTokens, TextError, TextRequest, Think, ThinkingBudget,
};
use jetblock_simd::Level;
use jetblock_tensor::digest;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use serde_json::{Map, Value};

use crate::command;
use crate::error::{self, JetBlockError, argument};
use crate::pool::{Pool, cpu_or_environment};
use crate::tensor::Tensor;

/// A model, ready for text.
#[pyclass(frozen, module = "jetblock._core")]
pub(crate) struct Model {
    folder: Folder,
    options: Options,
    session: Arc<Session>,
    pool: Pool,
    /// Computed when a receipt first needs it.
    facts: OnceLock<ModelFacts>,
}

#[pymethods]
impl Model {
    /// Opens a model folder or GGUF file, or the bundled model.
    #[staticmethod]
    #[pyo3(signature = (path, *, operands=None, kv=None, split=None, hash_ties=false, threads=None, isa=None))]
    fn load(
        py: Python<'_>,
        path: Option<PathBuf>,
        operands: Option<&str>,
        kv: Option<&str>,
        split: Option<usize>,
        hash_ties: bool,
        threads: Option<usize>,
        isa: Option<&str>,
    ) -> PyResult<Model> {
        let options = Options {
            operands: operands.map(operand_kind).transpose()?,
            kv_dtype: kv.map(kv_dtype).transpose()?,
            split: split.unwrap_or(Options::default().split),
            hash_ties,
        };
        if ![64, 128, 256].contains(&options.split) {
            return Err(argument(format!(
                "split is {}, expected 64, 128 or 256",
                options.split
            )));
        }
        let pool = Pool::of(cpu_or_environment(threads, isa)?);
        py.detach(|| {
            let folder = Folder::or_bundled(path.as_deref()).map_err(error::model)?;
            let session =
                Session::open(folder.path(), options, &mut |_| {}).map_err(error::model)?;
            Ok(Model {
                folder,
                options,
                session: Arc::new(session),
                pool,
                facts: OnceLock::new(),
            })
        })
    }

    /// What it is, as JSON.
    fn facts(&self) -> PyResult<String> {
        let model = &self.session.model;
        let cpu = self.pool.get()?;
        let facts = serde_json::json!({
            "name": self.folder.name(),
            "operands": model.operand_kind().name(),
            "kv": model.kv_dtype().name(),
            "vocab_size": model.config().vocab_size,
            "num_layers": model.config().layers.len(),
            "weight_bytes": model.bytes(),
            "threads": cpu.threads(),
            "isa": cpu.level().name(),
        });
        Ok(facts.to_string())
    }

    /// What the layer detector finds, as JSON and as text.
    fn profile(&self, py: Python<'_>) -> PyResult<(String, String)> {
        let path = self.folder.path();
        let profile = py
            .detach(|| detector::Profile::open(path))
            .map_err(error::model)?;
        let json = serde_json::to_string(&profile).map_err(error::model)?;
        Ok((json, profile.to_string()))
    }

    /// Token ids of a raw text, or of messages in JSON.
    #[pyo3(signature = (prompt, *, is_messages=false))]
    fn encode(&self, prompt: &str, is_messages: bool) -> PyResult<Vec<u32>> {
        let prompt = match is_messages {
            true => Prompt::Chat(Box::new(ChatRequest::new(json_list("messages", prompt)?))),
            false => Prompt::Text(prompt.to_owned()),
        };
        let (_, ids) = self.session.encode(&prompt).map_err(error::request)?;
        Ok(ids)
    }

    /// The text of token ids.
    fn decode(&self, ids: Vec<u32>, skip_special_tokens: bool) -> PyResult<String> {
        let skip = match skip_special_tokens {
            true => SkipSpecialTokens::Yes,
            false => SkipSpecialTokens::No,
        };
        self.session
            .tokenizer
            .decode(&ids, skip)
            .map_err(|e| argument(error::message(e)))
    }

    /// Begins to answer a request.
    #[pyo3(signature = (prompt, *, is_messages, tools, template_arguments, think, literal_markers, now,
        temperature, top_k, top_p, min_p, repetition_penalty, presence_penalty, frequency_penalty, logit_bias,
        max_tokens, seed, n, stop, show_special_tokens, thinking_budget, thinking_grace, thinking_close, speculate,
        receipt))]
    fn start(
        &self,
        py: Python<'_>,
        prompt: &str,
        is_messages: bool,
        tools: Option<&str>,
        template_arguments: Option<&str>,
        think: Option<&str>,
        literal_markers: bool,
        now: Option<&str>,
        temperature: Option<f32>,
        top_k: Option<u32>,
        top_p: Option<f32>,
        min_p: Option<f32>,
        repetition_penalty: Option<f32>,
        presence_penalty: Option<f32>,
        frequency_penalty: Option<f32>,
        logit_bias: BTreeMap<u32, f32>,
        max_tokens: Option<usize>,
        seed: u64,
        n: u32,
        stop: Vec<String>,
        show_special_tokens: bool,
        thinking_budget: Option<usize>,
        thinking_grace: Option<usize>,
        thinking_close: Option<String>,
        speculate: usize,
        receipt: Option<&str>,
    ) -> PyResult<Generation> {
        let record = receipt.map_or(Ok(Record::Nothing), record)?;
        let prompt = if is_messages {
            let mut request = ChatRequest::new(json_list("messages", prompt)?);
            request.tools = tools.map_or(Ok(Vec::new()), |tools| json_list("tools", tools))?;
            request.kwargs = template_arguments
                .map_or(Ok(Map::new()), |text| json("template_arguments", text))?;
            request.think = think.map(think_mode).transpose()?;
            request.literal_markers = literal_markers;
            let parse = |text: &str| {
                text.parse()
                    .map_err(|e: TextError| argument(error::message(e)))
            };
            request.now = now.map(parse).transpose()?;
            Prompt::Chat(Box::new(request))
        } else {
            Prompt::Text(prompt.to_owned())
        };
        let cpu = self.pool.get()?;
        let start = || {
            let defaults = self.session.defaults(&prompt)?;
            let plain = defaults.sampling;
            let request = TextRequest {
                sampling: SamplingParams {
                    temperature: temperature.unwrap_or(plain.temperature),
                    top_k: top_k.unwrap_or(plain.top_k),
                    top_p: top_p.unwrap_or(plain.top_p),
                    min_p: min_p.unwrap_or(plain.min_p),
                    repetition_penalty: repetition_penalty.unwrap_or(plain.repetition_penalty),
                    presence_penalty: presence_penalty.unwrap_or(plain.presence_penalty),
                    frequency_penalty: frequency_penalty.unwrap_or(plain.frequency_penalty),
                    logit_bias: logit_bias.into_iter().collect(),
                },
                prompt,
                seed,
                samples: n,
                max_tokens: max_tokens
                    .or(defaults.max_tokens)
                    .unwrap_or(DEFAULT_MAX_TOKENS),
                stop,
                show_special_tokens,
                thinking_budget: thinking_budget.map(|tokens| ThinkingBudget {
                    grace: thinking_grace.unwrap_or(ThinkingBudget::new(tokens).grace),
                    closing: thinking_close,
                    tokens,
                }),
                record,
            };
            let options = EngineOptions {
                speculate,
                prefix_cache_bytes: if n > 1 { PREFIX_CACHE_BYTES } else { 0 },
                ..EngineOptions::default()
            };
            let generation = self
                .session
                .start(&request, self.session.engine(&cpu, options))?;
            let recorded = match record {
                Record::Nothing => None,
                _ => Some(Recorded {
                    session: self.session.clone(),
                    facts: self.model_facts(&cpu)?,
                    environment: Environment::here(self.folder.name(), &cpu, options),
                    request,
                }),
            };
            Ok((generation, recorded))
        };
        let (generation, recorded) = py.detach(start).map_err(error::request)?;
        Ok(Generation {
            prompt_tokens: generation.prompt_tokens().to_vec(),
            generation: Mutex::new(Some(generation)),
            recorded,
        })
    }

    /// Runs a receipt's request again under other schedules: each one's name and comparison, as JSON.
    fn verify_receipt(&self, py: Python<'_>, text: &str) -> PyResult<String> {
        let receipt = read(text)?;
        let cpu = self.pool.get()?;
        let facts = py.detach(|| self.model_facts(&cpu)).map_err(error::model)?;
        let replays = receipt::schedules(&receipt, cpu.threads(), &receipt::fast_levels());
        let mut pools = Pools::default();
        let mut runs = Vec::new();
        for run in &replays {
            let again = py.detach(|| {
                receipt::replay(&self.session, facts.clone(), &receipt, run, &mut pools)
            });
            let again = again.map_err(|e| argument(error::message(e)))?;
            runs.push((&run.name, comparison(&receipt, &again)));
            py.check_signals()?;
        }
        serde_json::to_string(&runs).map_err(error::model)
    }

    /// Every logit of `ids`, fed in these pieces, into `out [T, V]`; the digests of logits and state.
    fn logits(
        &self,
        py: Python<'_>,
        ids: Vec<u32>,
        pieces: Vec<usize>,
        mut out: Tensor<'_>,
    ) -> PyResult<(String, String)> {
        let model = &self.session.model;
        let shape = [ids.len(), model.config().vocab_size];
        if out.shape != shape || pieces.iter().sum::<usize>() != ids.len() {
            return Err(argument(format!(
                "pieces sum to {} and out has shape {:?}, expected {} and {shape:?}",
                pieces.iter().sum::<usize>(),
                out.shape,
                ids.len()
            )));
        }
        let out = out.f32s_mut("out [T, V]")?;
        let cpu = self.pool.get()?;
        let mut state = model.new_state();
        let mut workspace = model.workspace();
        let (mut rest, mut done) = (&ids[..], 0);
        for len in pieces {
            let (piece, after) = rest.split_at(len);
            rest = after;
            let mut batch = [Piece {
                ids: piece,
                state: &mut state,
                logits: LogitRows::All,
            }];
            let rows = py.detach(|| {
                let mut results = model.forward(&mut batch, &cpu, &mut workspace)?;
                Ok::<_, ModelError>(results.remove(0))
            });
            let rows = rows.map_err(|e| argument(error::message(e)))?;
            let rows = rows.map_err(|e| JetBlockError::new_err(error::message(e)))?;
            out[done..done + rows.len()].copy_from_slice(&rows);
            done += rows.len();
            py.check_signals()?;
        }
        let out = &*out;
        let logits = py.detach(|| digest::f32s(&shape, out));
        Ok((logits.to_string(), state.digest().to_string()))
    }

    /// The invariance matrix, as JSON.
    #[pyo3(signature = (*, runs, control_runs, tokens, max_threads))]
    fn verify(
        &self,
        py: Python<'_>,
        runs: usize,
        control_runs: usize,
        tokens: usize,
        max_threads: usize,
    ) -> PyResult<String> {
        let program = command::program(py)?;
        let isa = self.pool.get()?.level();
        let mut interrupt = None;
        let proof = py.detach(|| {
            let request = ProofRequest {
                folder: &self.folder,
                model: &self.session.model,
                options: self.options,
                runs,
                control_runs,
                tokens,
                max_threads,
                isa: Some(isa),
                program: &program,
            };
            request.prove(&mut |_| match Python::attach(|py| py.check_signals()) {
                Ok(()) => ControlFlow::Continue(()),
                Err(error) => {
                    interrupt = Some(error);
                    ControlFlow::Break(())
                }
            })
        });
        if let Some(interrupt) = interrupt {
            return Err(interrupt);
        }
        let proof = proof.map_err(|e| JetBlockError::new_err(error::message(e)))?;
        serde_json::to_string(&proof).map_err(error::model)
    }
}

impl Model {
    fn model_facts(&self, cpu: &jetblock_simd::Cpu) -> Result<ModelFacts, ModelError> {
        if let Some(facts) = self.facts.get() {
            return Ok(facts.clone());
        }
        let digests = ModelDigests::compute(self.folder.path(), cpu, &mut |_| {})?;
        let facts = ModelFacts::of(&self.session.model, &digests);
        Ok(self.facts.get_or_init(|| facts).clone())
    }
}

/// What a receipt needs besides the answers.
struct Recorded {
    session: Arc<Session>,
    facts: ModelFacts,
    request: TextRequest,
    environment: Environment,
}

impl Recorded {
    /// The receipts of all samples, in order.
    fn receipts(&self, answers: &Answers) -> Result<Vec<String>, SessionError> {
        let prompt = &answers.prompt_tokens;
        let receipt = |(sample, completion)| {
            let (facts, environment) = (self.facts.clone(), self.environment.clone());
            let (session, request) = (&self.session, &self.request);
            Receipt::new(
                session,
                facts,
                request,
                prompt,
                sample,
                completion,
                environment,
            )
            .map(|receipt| receipt.to_json())
        };
        (0..).zip(&answers.samples).map(receipt).collect()
    }
}

/// Sample, reasoning, content.
type Text = (u32, String, String);

/// A request on its way to its answers.
#[pyclass(frozen, module = "jetblock._core")]
pub(crate) struct Generation {
    /// `None` once the answers are taken.
    generation: Mutex<Option<jetblock_runtime::Generation>>,
    #[pyo3(get)]
    prompt_tokens: Vec<u32>,
    recorded: Option<Recorded>,
}

#[pymethods]
impl Generation {
    /// Computes one step: text as (sample, reasoning, content), and whether all samples are complete.
    fn step(&self, py: Python<'_>) -> PyResult<(Vec<Text>, bool)> {
        let step = || {
            let mut slot = self.generation.lock().unwrap_or_else(|e| e.into_inner());
            let Some(generation) = slot.as_mut().filter(|g| !g.is_finished()) else {
                return Ok((Vec::new(), true));
            };
            let deltas = generation.step()?;
            Ok((deltas, generation.is_finished()))
        };
        let (deltas, is_finished) = py.detach(step).map_err(error::request)?;
        py.check_signals()?;
        let texts = deltas
            .into_iter()
            .map(|(sample, delta)| (sample, delta.reasoning, delta.content));
        Ok((texts.collect(), is_finished))
    }

    /// The samples as dicts, and how guessing did: steps, tokens, guesses, right guesses.
    fn answers<'py>(&self, py: Python<'py>) -> PyResult<(Vec<Bound<'py, PyDict>>, [u64; 4])> {
        let generation = self
            .generation
            .lock()
            .unwrap_or_else(|e| e.into_inner())
            .take();
        let generation = generation.ok_or_else(|| argument("the answers were taken already"))?;
        let answers = generation.into_answers();
        let receipts = self
            .recorded
            .as_ref()
            .map_or(Ok(Vec::new()), |recorded| recorded.receipts(&answers))
            .map_err(error::request)?;
        let mut receipts = receipts.into_iter();
        let samples = answers.samples.iter().map(|sample| {
            let dict = dict(py, sample)?;
            dict.set_item("receipt", receipts.next())?;
            Ok(dict)
        });
        let stats = answers.speculation;
        let stats = [
            stats.decode_steps,
            stats.tokens,
            stats.drafted,
            stats.accepted,
        ];
        Ok((samples.collect::<PyResult<_>>()?, stats))
    }
}

fn dict<'py>(py: Python<'py>, sample: &Completion) -> PyResult<Bound<'py, PyDict>> {
    if let Some(message) = sample.finish_reason.strip_prefix("error: ") {
        return Err(JetBlockError::new_err(format!(
            "generation failed: {message}"
        )));
    }
    let dict = PyDict::new(py);
    dict.set_item("content", &sample.content)?;
    dict.set_item("reasoning", &sample.reasoning)?;
    let calls = serde_json::to_string(&sample.tool_calls).map_err(error::model)?;
    dict.set_item("tool_calls", calls)?;
    let unread = sample.tool_call_error.as_ref().map(|e| (&e.reason, &e.raw));
    dict.set_item("tool_call_error", unread)?;
    dict.set_item("tokens", &sample.tokens)?;
    dict.set_item("log_probs", &sample.log_probs)?;
    dict.set_item("forced", &sample.forced)?;
    dict.set_item("finish_reason", &sample.finish_reason)?;
    Ok(dict)
}

/// The instruction-set levels of this processor, from scalar up.
#[pyfunction]
pub(crate) fn available_isas() -> Vec<&'static str> {
    Level::available()
        .iter()
        .map(|level| level.name())
        .collect()
}

/// What differs between two receipts, as JSON.
#[pyfunction]
pub(crate) fn compare_receipts(left: &str, right: &str) -> PyResult<String> {
    Ok(comparison(&read(left)?, &read(right)?).to_string())
}

fn comparison(left: &Receipt, right: &Receipt) -> Value {
    let Comparison {
        first,
        steps,
        causes,
        environment,
        ..
    } = receipt::compare(left, right);
    let facts = |facts: Vec<Fact>| -> Map<String, Value> {
        let pair = |fact: Fact| (fact.name, serde_json::json!([fact.left, fact.right]));
        facts.into_iter().map(pair).collect()
    };
    serde_json::json!({
        "steps": steps,
        "first_difference": first.map(|first| first.to_string()),
        "causes": facts(causes),
        "environment": facts(environment),
    })
}

/// Ok where this is the text of a receipt.
#[pyfunction]
pub(crate) fn check_receipt(text: &str) -> PyResult<()> {
    read(text).map(drop)
}

fn read(text: &str) -> PyResult<Receipt> {
    Receipt::from_json(text.as_bytes()).map_err(|e| argument(error::message(e)))
}

fn record(detail: &str) -> PyResult<Record> {
    match detail {
        "logits" => Ok(Record::Logits),
        "layers" => Ok(Record::Layers),
        _ => Err(argument(format!(
            "receipt is {detail:?}, expected \"logits\" or \"layers\""
        ))),
    }
}

fn json<T: serde::de::DeserializeOwned>(what: &str, text: &str) -> PyResult<T> {
    serde_json::from_str(text).map_err(|e| argument(format!("{what} is not as expected: {e}")))
}

fn json_list(what: &str, text: &str) -> PyResult<Vec<Value>> {
    json(what, text)
}

fn operand_kind(name: &str) -> PyResult<OperandKind> {
    let kinds = [OperandKind::F32, OperandKind::Bf16];
    let kind = kinds.into_iter().find(|kind| kind.name() == name);
    kind.ok_or_else(|| {
        argument(format!(
            "operands is {name:?}, expected \"f32\" or \"bf16\""
        ))
    })
}

fn kv_dtype(name: &str) -> PyResult<KvDtype> {
    let dtype = KvDtype::ALL.into_iter().find(|dtype| dtype.name() == name);
    dtype.ok_or_else(|| {
        argument(format!(
            "kv is {name:?}, expected \"f32\", \"bf16\", \"fp8\" or \"nvfp4\""
        ))
    })
}

fn think_mode(name: &str) -> PyResult<Think> {
    let modes = [Think::On, Think::Off, Think::Medium];
    let mode = modes.into_iter().find(|mode| mode.to_string() == name);
    mode.ok_or_else(|| {
        argument(format!(
            "think is {name:?}, expected \"on\", \"off\" or \"medium\""
        ))
    })
}
