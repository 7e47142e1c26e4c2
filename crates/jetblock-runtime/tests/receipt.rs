//! Receipts: what was recorded in a busy engine comes out again under every other schedule, and whatever was changed is found and named.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use jetblock_models::{ModelDigests, Options};
use jetblock_ops::attention::KvDtype;
use jetblock_ops::sampling::SamplingParams;
use jetblock_runtime::receipt::{
    Environment, Hex, ModelFacts, Place, Receipt, compare, replay, schedules,
};
use jetblock_runtime::verify::Pools;
use jetblock_runtime::{
    ChatRequest, EngineOptions, Prompt, Record, Session, TextRequest, ThinkingBudget,
};
use jetblock_simd::{Cpu, Level};
use proptest::prelude::*;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../assets/demo-model")
}

fn open(folder: &Path, options: Options) -> (Session, ModelFacts) {
    let session = Session::open(folder, options, &mut |_| {}).expect("the model loads");
    let digests = ModelDigests::compute(folder, &Cpu::single(), &mut |_| {}).expect("it is there");
    let facts = ModelFacts::of(&session.model, &digests);
    (session, facts)
}

fn request(prompt: Prompt, record: Record) -> TextRequest {
    TextRequest {
        prompt,
        sampling: SamplingParams {
            temperature: 0.8,
            top_p: 0.95,
            repetition_penalty: 1.1,
            ..SamplingParams::default()
        },
        seed: 5,
        samples: 3,
        max_tokens: 20,
        stop: Vec::new(),
        show_special_tokens: false,
        thinking_budget: None,
        record,
    }
}

/// The receipt of one of three samples that were computed together, a few rows at a time.
fn receipt_of(session: &Session, facts: &ModelFacts, request: &TextRequest) -> Receipt {
    let cpu = Cpu::new(2, Level::best()).unwrap();
    let options = EngineOptions {
        // The last piece of the prompt has several rows.
        step_rows: 7,
        speculate: 4,
        ..EngineOptions::default()
    };
    let answers = session
        .generate(request, session.engine(&cpu, options), &mut |_, _| {})
        .expect("a valid request");
    let environment = Environment::here("demo".into(), &cpu, options);
    let (prompt, sample) = (&answers.prompt_tokens, &answers.samples[1]);
    Receipt::new(
        session,
        facts.clone(),
        request,
        prompt,
        1,
        sample,
        environment,
    )
    .unwrap()
}

/// The bundled model, and a receipt of it with layers.
fn recorded() -> &'static (Session, ModelFacts, Receipt) {
    static RECORDED: OnceLock<(Session, ModelFacts, Receipt)> = OnceLock::new();
    RECORDED.get_or_init(|| {
        let (session, facts) = open(&folder(), Options::default());
        let prompt = Prompt::Text("And it came to pass in those days, that the people".into());
        let receipt = receipt_of(&session, &facts, &request(prompt, Record::Layers));
        (session, facts, receipt)
    })
}

fn again(session: &Session, facts: &ModelFacts, receipt: &Receipt) -> Receipt {
    let replays = schedules(receipt, 1, &[Level::best()]);
    replay(
        session,
        facts.clone(),
        receipt,
        &replays[0],
        &mut Pools::default(),
    )
    .unwrap()
}

#[test]
fn every_schedule_gives_the_recorded_digests() {
    let (session, facts, receipt) = recorded();
    assert_eq!(receipt.steps.len(), 20);
    assert!(receipt.steps.iter().all(|step| step.layers.len() == 12));
    let mut levels = Level::available();
    levels.reverse();
    let replays = schedules(receipt, 3, &levels);
    assert_eq!(replays.len(), 3 + levels.len() - 1);
    for run in &replays {
        let other = replay(session, facts.clone(), receipt, run, &mut Pools::default()).unwrap();
        assert_eq!(other.steps, receipt.steps, "{}", run.name);
        let comparison = compare(receipt, &other);
        assert!(comparison.identical && comparison.causes.is_empty());
    }
    // Something was compared: no two steps are alike, and no two layers of a step.
    let mut seen: Vec<_> = receipt.steps.iter().map(|step| step.logits).collect();
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), 20);
}

#[test]
fn guesses_and_recording_change_no_digest() {
    let (session, facts, receipt) = recorded();
    let prompt = Prompt::Text("And it came to pass in those days, that the people".into());
    // Without layers the engine guesses ahead; a row of several has the digest of a row alone.
    let guessed = receipt_of(session, facts, &request(prompt, Record::Logits));
    assert!(!guessed.has_layers());
    let comparison = compare(receipt, &guessed);
    assert!(comparison.identical, "{comparison:?}");
}

#[test]
fn forced_tokens_are_facts() {
    let (session, facts, _) = recorded();
    let message = serde_json::json!({"role": "user", "content": "Who are you?"});
    let chat = Prompt::Chat(Box::new(ChatRequest::new([message])));
    let request = TextRequest {
        thinking_budget: Some(ThinkingBudget::new(3)),
        ..request(chat, Record::Layers)
    };
    let receipt = receipt_of(session, facts, &request);
    assert!(!receipt.output.forced.is_empty());
    let read = Receipt::from_json(receipt.to_json().as_bytes()).unwrap();
    assert_eq!(read, receipt);
    assert!(compare(&receipt, &again(session, facts, &read)).identical);
    // Told as drawn, they are found out: nothing would have drawn them.
    let mut lie = receipt.clone();
    lie.output.forced.clear();
    let first = compare(&lie, &again(session, facts, &lie)).first.unwrap();
    assert_eq!(
        (first.place, first.step),
        (Place::Token, receipt.output.forced[0])
    );
}

#[test]
fn another_weight_is_named_with_its_layer_and_tensor() {
    let (_, _, receipt) = recorded();
    for (layer, kind, tensor) in [
        (0, 'M', "backbone.layers.0.mixer.in_proj.weight"),
        (5, 'M', "backbone.layers.5.mixer.A_log"),
        (11, '-', "backbone.layers.11.mixer.down_proj.weight"),
    ] {
        let copy = tempfile::tempdir().unwrap();
        for entry in fs::read_dir(folder()).unwrap() {
            let path = entry.unwrap().path();
            fs::copy(&path, copy.path().join(path.file_name().unwrap())).unwrap();
        }
        let file = copy.path().join("model.safetensors");
        let mut bytes = fs::read(&file).unwrap();
        let header_len = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let header: serde_json::Value = serde_json::from_slice(&bytes[8..8 + header_len]).unwrap();
        let start = header[tensor]["data_offsets"][0].as_u64().unwrap() as usize;
        // The sign of the first element.
        bytes[8 + header_len + start + 1] ^= 0x80;
        fs::write(&file, bytes).unwrap();

        let (session, facts) = open(copy.path(), Options::default());
        let comparison = compare(receipt, &again(&session, &facts, receipt));
        let first = comparison.first.unwrap();
        assert_eq!(first.place, Place::Layer { layer, kind }, "{tensor}");
        let causes: Vec<_> = comparison
            .causes
            .iter()
            .map(|fact| &fact.name[..])
            .collect();
        assert_eq!(
            causes,
            ["model.weights", &format!("model.tensors.{tensor}")]
        );
    }
}

#[test]
fn other_options_are_named() {
    let (_, _, receipt) = recorded();
    let options = Options {
        kv_dtype: Some(KvDtype::Nvfp4),
        ..Options::default()
    };
    let (session, facts) = open(&folder(), options);
    let comparison = compare(receipt, &again(&session, &facts, receipt));
    let first = comparison.first.unwrap();
    assert_eq!(first.step, 0);
    assert_eq!(
        first.place,
        Place::Layer {
            layer: 3,
            kind: '*'
        }
    );
    assert_eq!(comparison.causes.len(), 1);
    assert_eq!(comparison.causes[0].to_string(), "contract.kv: bf16, nvfp4");
}

#[test]
fn changed_receipts_are_found_out() {
    let (session, facts, receipt) = recorded();
    let check = |change: &dyn Fn(&mut Receipt), step: usize, place: Place| {
        let mut other = receipt.clone();
        change(&mut other);
        let comparison = compare(&other, &again(session, facts, &other));
        let first = comparison.first.expect("a difference");
        assert_eq!((first.step, first.place), (step, place));
        // What was changed is no recorded fact of the request: nothing explains it.
        assert!(comparison.causes.is_empty());
    };
    let logits = Place::Logits { layers_equal: true };
    check(&|r| r.steps[7].logits.0[31] ^= 1, 7, logits);
    let layer = Place::Layer {
        layer: 4,
        kind: 'E',
    };
    check(&|r| r.steps[3].layers[4] = Hex([0; 8]), 3, layer);
    check(&|r| r.output.text.0[0] ^= 1, 19, Place::Text);
    let layer = Place::Layer {
        layer: 0,
        kind: 'M',
    };
    check(&|r| r.request.prompt_tokens[0] ^= 1, 0, layer);
    // A token that was not drawn: first it shows itself, then in all that follows.
    check(&|r| r.output.tokens[6] ^= 1, 6, Place::Token);
}

#[test]
fn two_answers_part_where_the_seed_makes_them() {
    let (session, facts, receipt) = recorded();
    let prompt = Prompt::Text("And it came to pass in those days, that the people".into());
    let other = TextRequest {
        seed: 6,
        ..request(prompt, Record::Logits)
    };
    let other = receipt_of(session, facts, &other);
    let comparison = compare(receipt, &other);
    let first = comparison.first.unwrap();
    let parted = |(a, b): (&u32, &u32)| a != b;
    let mut tokens = receipt.output.tokens.iter().zip(&other.output.tokens);
    assert_eq!(Some(first.step), tokens.position(parted));
    assert_eq!(first.place, Place::Token);
    assert_eq!(comparison.causes[0].to_string(), "request.seed: 5, 6");
}

/// A change made to a receipt by hand.
type Tamper<'a> = &'a dyn Fn(&mut serde_json::Value);

#[test]
fn receipts_that_contradict_themselves_are_refused() {
    let (_, _, receipt) = recorded();
    let refusal = |change: &dyn Fn(&mut serde_json::Value)| {
        let mut json: serde_json::Value = serde_json::from_str(&receipt.to_json()).unwrap();
        change(&mut json);
        Receipt::from_json(json.to_string().as_bytes())
            .unwrap_err()
            .to_string()
    };
    let cases: [(Tamper, &str); 9] = [
        (
            &|r| r["receipt"] = 2.into(),
            "a receipt of format 2, expected format 1",
        ),
        (&|r| r["surprise"] = 1.into(), "unknown field `surprise`"),
        (
            &|r| r["model"]["weights"] = "abc".into(),
            "\"abc\", expected 64 lower-case hex digits",
        ),
        (
            &|r| drop(r["steps"].as_array_mut().unwrap().pop()),
            "steps is of 19 elements, expected one for each of 20 tokens",
        ),
        (
            &|r| drop(r["steps"][4]["layers"].as_array_mut().unwrap().pop()),
            "steps.layers is 11, expected 12 in every step, or none in all",
        ),
        (
            &|r| r["output"]["forced"] = vec![20].into(),
            "output.forced is 20, expected indices below 20",
        ),
        (
            &|r| r["request"]["max_tokens"] = 3.into(),
            "expected at most max_tokens, 3",
        ),
        (
            &|r| r["request"]["prompt_tokens"] = Vec::<u32>::new().into(),
            "without tokens",
        ),
        (
            &|r| r["request"]["sampling"]["top_p"] = (-0.5).into(),
            "request.sampling is",
        ),
    ];
    for (change, expected) in cases {
        let got = refusal(change);
        assert!(got.contains(expected), "{got}, expected {expected}");
    }
    let (session, facts, _) = recorded();
    let mut foreign = receipt.clone();
    foreign.request.prompt_tokens[2] = 4096;
    let replays = schedules(&foreign, 1, &[Level::best()]);
    let error = replay(
        session,
        facts.clone(),
        &foreign,
        &replays[0],
        &mut Pools::default(),
    );
    assert!(
        error
            .unwrap_err()
            .to_string()
            .starts_with("token 4096 of the receipt")
    );
}

proptest! {
    /// Whatever happens to the file: an error, or a receipt that can be written, compared and run.
    #[test]
    fn damaged_receipts_do_no_harm(at in 0.0..1.0, byte: u8, cut in proptest::option::of(0.0..1.0)) {
        let (_, _, receipt) = recorded();
        let mut bytes = receipt.to_json().into_bytes();
        let index = |part: f64, len: usize| (part * len as f64) as usize;
        let at = index(at, bytes.len());
        bytes[at] = byte;
        if let Some(cut) = cut {
            bytes.truncate(index(cut, bytes.len()));
        }
        if let Ok(other) = Receipt::from_json(&bytes) {
            let comparison = compare(receipt, &other);
            prop_assert_eq!(Receipt::from_json(other.to_json().as_bytes()).unwrap(), other);
            prop_assert!(comparison.steps == 20);
        }
    }
}
