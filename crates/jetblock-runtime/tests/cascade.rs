//! Thinking is switched by the template's own means, and what would have no effect is refused.

use jetblock_runtime::{
    Cascade, CascadeError, ChatRequest, ChatTemplate, Message, TextError, Think, ThinkSwitch,
    TokenizerConfig, ToolCallFormat,
};
use serde_json::json;

/// Nemotron 3: `enable_thinking`, no medium effort.
const NEMOTRON3: &str = include_str!("../../../assets/demo-model/chat_template.jinja");
/// The same with `medium_effort`, as 3.5 has it.
const NEMOTRON3_5: &str = include_str!("templates/nemotron3.jinja");
const NANO_V2: &str = include_str!("templates/nano_v2.jinja");
const CHATML: &str = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}<|im_start|>assistant\n";

/// The switch of Qwen 3: with thinking on, the model opens the block, or not, as messages tell it.
const QWEN3: &str = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}\
    <|im_start|>assistant\n{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}";

fn template(source: &str) -> ChatTemplate {
    ChatTemplate::from_source(source, &TokenizerConfig::default()).unwrap()
}

fn chat(messages: &[(&str, &str)], think: impl Into<Option<Think>>) -> ChatRequest {
    let messages = messages
        .iter()
        .map(|(role, text)| Message::new(*role, *text));
    ChatRequest {
        think: think.into(),
        ..ChatRequest::new(messages)
    }
}

fn render(source: &str, request: &ChatRequest) -> String {
    template(source).render(request).unwrap()
}

fn refusal(source: &str, request: &ChatRequest) -> CascadeError {
    match template(source).render(request) {
        Err(TextError::Cascade(error)) => error,
        other => panic!("{other:?}"),
    }
}

#[test]
fn templates_show_what_they_can_do() {
    let nothing = Cascade {
        switch: ThinkSwitch::None,
        opens_thinking: false,
        medium_effort: false,
        tools: false,
        tool_calls: None,
    };
    let nemotron3 = Cascade {
        switch: ThinkSwitch::Variable,
        opens_thinking: true,
        tools: true,
        tool_calls: Some(ToolCallFormat::Xml),
        ..nothing
    };
    let nemotron3_5 = Cascade {
        medium_effort: true,
        ..nemotron3
    };
    let nano_v2 = Cascade {
        switch: ThinkSwitch::Markers,
        tool_calls: Some(ToolCallFormat::List),
        ..nemotron3
    };
    let qwen3 = Cascade {
        switch: ThinkSwitch::Variable,
        ..nothing
    };
    // Names in comments prove nothing.
    let comment = "{# enable_thinking medium_effort /no_think #}{{ messages }}";
    for (source, expected) in [
        (NEMOTRON3, nemotron3),
        (NEMOTRON3_5, nemotron3_5),
        (NANO_V2, nano_v2),
        (QWEN3, qwen3),
        (CHATML, nothing),
        (comment, nothing),
        ("{{ raise_exception('no') }}", nothing),
    ] {
        let detected = Cascade::detect(&template(source), &ChatRequest::default());
        assert_eq!(detected, expected, "{source}");
    }
}

#[test]
fn the_variable_switches_nemotron_3() {
    for source in [NEMOTRON3, NEMOTRON3_5] {
        let prompt = |think| render(source, &chat(&[("user", "Hi")], think));
        assert!(prompt(Some(Think::On)).ends_with("assistant\n<think>\n"));
        assert!(prompt(Some(Think::Off)).ends_with("assistant\n<think></think>"));
        assert_eq!(prompt(None), prompt(Some(Think::On)));
    }
    let medium = render(NEMOTRON3_5, &chat(&[("user", "Hi")], Think::Medium));
    assert!(
        medium.ends_with(
            "Hi\n\n{reasoning effort: efficient}<|im_end|>\n<|im_start|>assistant\n<think>\n"
        ),
        "{medium}"
    );
}

#[test]
fn markers_switch_the_v2_generation() {
    let off = "<SPECIAL_10>System\n\n<SPECIAL_11>User\nHi\n<SPECIAL_11>Assistant\n<think></think>";
    let on = "<SPECIAL_10>System\n\n<SPECIAL_11>User\nHi\n<SPECIAL_11>Assistant\n<think>\n";
    for (messages, think, prompt) in [
        (&[("user", "Hi")][..], None, on),
        (&[("user", "Hi")], Some(Think::On), on),
        (&[("user", "Hi")], Some(Think::Off), off),
        (&[("user", "Hi /no_think")], None, off),
        (&[("user", "Hi /no_think")], Some(Think::Off), off),
        (
            &[("system", "/no_think"), ("user", "Hi /think")],
            Some(Think::On),
            on,
        ),
    ] {
        assert_eq!(
            render(NANO_V2, &chat(messages, think)),
            prompt,
            "{messages:?} {think:?}"
        );
    }
    let prompt = render(
        NANO_V2,
        &chat(&[("system", "Be brief."), ("user", "Hi")], Think::Off),
    );
    assert!(
        prompt.starts_with("<SPECIAL_10>System\nBe brief.\n<SPECIAL_11>User\nHi\n"),
        "{prompt}"
    );
    let parts = json!({"role": "system", "content": [{"type": "text", "text": "Be brief."}]});
    let request = ChatRequest {
        think: Some(Think::Off),
        ..ChatRequest::new([parts, json!({"role": "user", "content": "Hi"})])
    };
    assert_eq!(render(NANO_V2, &request), prompt);
}

#[test]
fn the_other_generations_switch_is_explained() {
    for text in ["Hi /no_think", "/no_think", "a\n/no_think\nb"] {
        let error = refusal(NEMOTRON3, &chat(&[("system", "x"), ("user", text)], None));
        assert_eq!(
            error.to_string(),
            "messages[1] contains /no_think, which is plain text to this model: its chat template switches thinking by \
             enable_thinking. Ask with think (--think on|off), or mark the text as literal (--literal-markers)"
        );
    }
    // Words that merely contain it, and other people's words, are nobody's switch.
    for (role, text) in [
        ("user", "see docs/think or </think>"),
        ("assistant", "/think"),
        ("tool", "/think"),
    ] {
        render(NEMOTRON3, &chat(&[("user", "a"), (role, text)], None));
    }
    render(QWEN3, &chat(&[("user", "Hi /no_think")], None));
    let mut literal = chat(&[("user", "What does /think do?")], Think::Off);
    literal.literal_markers = true;
    assert!(render(NEMOTRON3, &literal).contains("user\nWhat does /think do?<|im_end|>"));

    let mut request = chat(&[("user", "Hi")], None);
    request
        .kwargs
        .insert("enable_thinking".into(), false.into());
    let error = refusal(NANO_V2, &request).to_string();
    assert!(
        error.contains("reads /think and /no_think in messages"),
        "{error}"
    );
    assert!(render(NEMOTRON3, &request).ends_with("<think></think>"));
    request.kwargs.clear();
    request.kwargs.insert("medium_effort".into(), true.into());
    for source in [NEMOTRON3, NANO_V2, CHATML] {
        let error = refusal(source, &request);
        assert!(
            matches!(
                error,
                CascadeError::NoSuchVariable {
                    name: "medium_effort",
                    ..
                }
            ),
            "{error}"
        );
    }
}

#[test]
fn what_a_template_cannot_do_is_refused() {
    for source in [NEMOTRON3, NANO_V2, CHATML] {
        let error = refusal(source, &chat(&[("user", "Hi")], Think::Medium));
        assert_eq!(error, CascadeError::NoMediumEffort);
    }
    for asked in [Think::On, Think::Off] {
        let error = refusal(CHATML, &chat(&[("user", "Hi")], asked));
        assert_eq!(error, CascadeError::NoSwitch { asked });
    }
    let mut request = chat(&[("user", "Hi")], None);
    request.tools = vec![json!({"name": "f"})];
    assert_eq!(refusal(CHATML, &request), CascadeError::NoTools);
}

#[test]
fn contradictions_are_refused() {
    let request = chat(&[("system", "/no_think"), ("user", "Hi")], Think::On);
    let error = refusal(NANO_V2, &request).to_string();
    assert_eq!(error, "messages[0] says /no_think, but think is on");
    // A template that has the switch, but not for this conversation.
    let stubborn = "{{ messages[0].content }}{% if messages[0].content == 'x' and not enable_thinking %}</think>{% else %}<think>{% endif %}";
    let error = refusal(stubborn, &chat(&[("user", "Hi")], Think::Off)).to_string();
    assert_eq!(error, "think is off, but the prompt ends in \"Hi<think>\"");
}

#[test]
fn results_of_tools_reach_the_model() {
    let call = json!({"role": "assistant", "content": "", "tool_calls": [{"id": "call_0", "type": "function",
        "function": {"name": "add", "arguments": "{\"a\": 1}"}}]});
    let result = json!({"role": "tool", "content": "3", "tool_call_id": "call_0"});
    let mut request = ChatRequest::new([json!({"role": "user", "content": "1+2?"}), call, result]);
    request.tools = vec![
        json!({"type": "function", "function": {"name": "add", "parameters": {"properties": {"a": {"type": "integer"}}}}}),
    ];
    let prompt = render(NEMOTRON3, &request);
    let turn = "<tool_call>\n<function=add>\n<parameter=a>\n1\n</parameter>\n</function>\n</tool_call><|im_end|>\n\
        <|im_start|>user\n<tool_response>\n3\n</tool_response>\n<|im_end|>\n";
    assert!(prompt.contains(turn), "{prompt}");
    let prompt = render(NANO_V2, &request);
    let turn = "<TOOLCALL>[{\"name\": \"add\", \"arguments\": {\"a\": 1}}]</TOOLCALL>\n<SPECIAL_12>\n\
        <SPECIAL_11>User\n<TOOL_RESPONSE>[3]</TOOL_RESPONSE>\n";
    assert!(prompt.contains(turn), "{prompt}");
}
