use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::*;
use crate::{ChatRequest, ChatTemplate, Message, TokenizerConfig};

fn tools() -> Vec<Value> {
    vec![
        json!({"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {
            "a": {"type": "integer"}, "b": {"type": "number"}, "exact": {"type": "boolean"}, "why": {"type": "string"},
            "list": {"type": "array"}, "map": {"type": "object"}, "maybe": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
            "either": {"type": ["integer", "string"]}, "untyped": {}}}}}),
        json!({"name": "now", "parameters": {}}),
        json!({"name": "open", "parameters": {"additionalProperties": {"type": "integer"}}}),
    ]
}

fn parse(format: ToolCallFormat, text: &str) -> Result<Vec<FunctionCall>, String> {
    let calls = format.parse(text, &tools()).map_err(|error| {
        assert_eq!(error.raw, text, "nothing of the output is lost");
        error.reason
    })?;
    Ok(calls.into_iter().map(|call| call.function).collect())
}

fn xml(inner: &str) -> Result<Vec<FunctionCall>, String> {
    parse(
        ToolCallFormat::Xml,
        &format!("<tool_call>{inner}</tool_call>"),
    )
}

/// The arguments of one call of `add` with one parameter.
fn argument(name: &str, text: &str) -> Result<Value, String> {
    let call = format!("\n<function=add>\n<parameter={name}>\n{text}\n</parameter>\n</function>\n");
    Ok(xml(&call)?.remove(0).arguments[name].clone())
}

#[test]
fn values_have_the_type_of_their_parameter() {
    for (name, text, value) in [
        ("a", "3", json!(3)),
        ("a", " -3\n", json!(-3)),
        ("b", "2.5e1", json!(25.0)),
        ("exact", "true", json!(true)),
        ("exact", "False", json!(false)),
        ("maybe", "None", Value::Null),
        ("maybe", "null", Value::Null),
        ("list", "[1, \"x\"]", json!([1, "x"])),
        ("map", "{\"k\": [null]}", json!({"k": [null]})),
        ("why", "3", json!("3")),
        ("why", "null", json!("null")),
        ("either", "3", json!("3")),
        ("untyped", "[1]", json!("[1]")),
    ] {
        assert_eq!(argument(name, text), Ok(value), "{name} {text:?}");
    }
    for (name, text) in [
        ("a", "3.5"),
        ("a", "three"),
        ("a", "36893488147419103232"),
        ("b", "NaN"),
        ("exact", "1"),
        ("list", "{}"),
        ("map", "[1"),
        ("maybe", "\"3\""),
        ("unknown", "3"),
    ] {
        let error = argument(name, text).unwrap_err();
        assert!(error.contains(name), "{error}");
    }
}

#[test]
fn one_newline_on_each_side_belongs_to_the_tags() {
    assert_eq!(argument("why", "a\nb"), Ok(json!("a\nb")));
    assert_eq!(argument("why", "\n a \n\n"), Ok(json!("\n a \n\n")));
    assert_eq!(argument("why", ""), Ok(json!("")));
    let tight = "<function=add><parameter=why> a </parameter><parameter=a>1</parameter></function>";
    let call = &xml(tight).unwrap()[0];
    assert_eq!(call.arguments, json!({"why": " a ", "a": 1}));
}

#[test]
fn several_calls_follow_each_other() {
    let text = "<tool_call>\n<function=now>\n</function>\n</tool_call>\n\
        <tool_call>\n<function=open>\n<parameter=x>\n1\n</parameter>\n</function>\n</tool_call>\n";
    let calls = ToolCallFormat::Xml.parse(text, &tools()).unwrap();
    let said: Vec<_> = calls
        .iter()
        .map(|c| {
            (
                c.id.as_deref(),
                c.function.name.as_str(),
                c.function.arguments.clone(),
            )
        })
        .collect();
    assert_eq!(
        said,
        [
            (Some("call_0"), "now", json!({})),
            (Some("call_1"), "open", json!({"x": 1}))
        ]
    );
    let text = r#"<TOOLCALL>[{"name": "now", "arguments": {}}, {"name": "add", "arguments": {"why": "</TOOLCALL>"}}]</TOOLCALL>"#;
    let calls = parse(ToolCallFormat::List, text).unwrap();
    assert_eq!(calls[1].arguments["why"], "</TOOLCALL>");
}

#[test]
fn malformed_calls_are_errors() {
    for (bad, reason) in [
        ("", "expected <function=, got \"</tool_call>\""),
        (
            "<function=add>",
            "expected <parameter=, got \"</tool_call>\"",
        ),
        ("<function=>", "expected <function=NAME>, got the name \"\""),
        (
            "<function=a b></function>",
            "expected <function=NAME>, got the name \"a b\"",
        ),
        (
            "<function=nope></function>",
            "expected one of the tools add, now, open, got \"nope\"",
        ),
        (
            "<function=add>\n<parameter=a>1</function>",
            "expected </parameter>, got the end of the output",
        ),
        (
            "<function=add><parameter=a>1</parameter><parameter=a>1</parameter></function>",
            "parameter a is given twice",
        ),
        (
            "<function=add></function> and more",
            "expected </tool_call>, got \"and more</tool_call>\"",
        ),
        (
            "{\"name\": \"add\"}",
            "expected <function=, got \"{\\\"name\\\": \\\"add\\\"}</tool_ca\"",
        ),
    ] {
        assert_eq!(xml(bad).unwrap_err(), reason, "{bad}");
    }
    let cut = "<tool_call>\n<function=now>\n</function>\n";
    let error = parse(ToolCallFormat::Xml, cut).unwrap_err();
    assert_eq!(error, "expected </tool_call>, got the end of the output");
    let after = "<tool_call><function=now></function></tool_call> Done.";
    let error = parse(ToolCallFormat::Xml, after).unwrap_err();
    assert_eq!(error, "expected <tool_call>, got \"Done.\"");
    for bad in [
        "",
        "[]",
        "[1]",
        "{}",
        r#"[{"name": "now"}]"#,
        r#"[{"name": "now", "arguments": "{}"}]"#,
        r#"[{"name": "now", "arguments": {}, "more": 1}]"#,
        r#"[{"name": "add", "arguments": {"c": 1}}]"#,
        r#"[{"name": "nope", "arguments": {}}]"#,
        r#"[{"name": "now", "arguments": {}}"#,
    ] {
        let text = format!("<TOOLCALL>{bad}</TOOLCALL>");
        assert!(parse(ToolCallFormat::List, &text).is_err(), "{bad}");
    }
}

#[test]
fn text_before_calls_is_parted_from_them() {
    let text = "Let me add.\n<tool_call>\n<function=now>\n</function>\n</tool_call>";
    for size in 1..text.len() {
        let mut splitter = ToolCallSplitter::new(ToolCallFormat::Xml);
        let pieces = text.as_bytes().chunks(size);
        let mut content: String = pieces
            .map(|piece| splitter.push(std::str::from_utf8(piece).unwrap()))
            .collect();
        let (rest, calls) = splitter.finish(&tools());
        content += &rest;
        assert_eq!(
            (content.as_str(), calls.unwrap().len()),
            ("Let me add.\n", 1)
        );
    }
    let mut splitter = ToolCallSplitter::new(ToolCallFormat::Xml);
    let content = splitter.push("a < b <tool");
    let (rest, calls) = splitter.finish(&tools());
    assert_eq!((content + &rest, calls), ("a < b <tool".into(), Ok(vec![])));
}

const TEMPLATES: [(&str, ToolCallFormat); 3] = [
    (
        include_str!("../../../../assets/demo-model/chat_template.jinja"),
        ToolCallFormat::Xml,
    ),
    (
        include_str!("../../tests/templates/nemotron3.jinja"),
        ToolCallFormat::Xml,
    ),
    (
        include_str!("../../tests/templates/nano_v2.jinja"),
        ToolCallFormat::List,
    ),
];

/// What an assistant that makes these calls writes, according to a template.
fn render(template: &str, format: ToolCallFormat, calls: &[FunctionCall]) -> String {
    let calls = calls.iter().map(|function| ToolCall {
        id: None,
        kind: "function".into(),
        function: function.clone(),
    });
    let mut request = ChatRequest::new([
        Message::new("user", "x"),
        Message {
            role: "assistant".into(),
            tool_calls: calls.collect(),
            ..Message::default()
        },
    ]);
    request.tools = tools();
    request.add_generation_prompt = false;
    let template = ChatTemplate::from_source(template, &TokenizerConfig::default()).unwrap();
    let prompt = template.render(&request).unwrap();
    let [open, close] = format.markers();
    let turn = prompt.rfind("ssistant\n").unwrap();
    let start = turn + prompt[turn..].find(open).unwrap();
    let end = prompt.rfind(close).unwrap() + close.len();
    prompt[start..end].to_owned()
}

/// A text that the XML format can hold.
fn text() -> impl Strategy<Value = String> {
    "([a-z0-9 <>/=\"'{}\\n\u{e9}\u{1f600}]|</function>|<parameter=|</tool_call>|null){0,12}"
}

fn json_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (-4000..4000_i32).prop_map(|k| json!(f64::from(k) / 8.0)),
        text().prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map("[a-z]{1,3}", inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect::<Map<_, _>>())),
        ]
    })
    // The XML format has no way to write its own end tag inside a value.
    .prop_filter("holds an end tag", |value| {
        !value.to_string().contains("</parameter>")
    })
}

fn call() -> impl Strategy<Value = FunctionCall> {
    let arguments = (
        prop::option::of(any::<i64>()),
        prop::option::of((-4000..4000_i32).prop_map(|k| f64::from(k) / 8.0)),
        prop::option::of(any::<bool>()),
        prop::option::of(text()),
        prop::option::of(prop::collection::vec(json_value(), 0..3)),
        prop::option::of(prop::option::of(any::<u64>())),
    );
    arguments.prop_map(|(a, b, exact, why, list, maybe)| {
        let given = [
            ("why", why.map(Value::from)),
            ("a", a.map(Value::from)),
            ("b", b.map(Value::from)),
            ("exact", exact.map(Value::from)),
            ("list", list.map(Value::from)),
            ("maybe", maybe.map(|maybe| json!(maybe))),
        ];
        let given = given
            .into_iter()
            .filter_map(|(k, v)| Some((k.to_owned(), v?)));
        FunctionCall {
            name: "add".into(),
            arguments: Value::Object(given.collect()),
        }
    })
}

proptest! {
    #[test]
    fn what_templates_write_is_read_back(calls in prop::collection::vec(call(), 1..4)) {
        for (template, format) in TEMPLATES {
            let text = render(template, format, &calls);
            prop_assert_eq!(parse(format, &text), Ok(calls.clone()), "{}", text);
        }
    }

    #[test]
    fn any_output_has_calls_or_an_error(
        parts in prop::collection::vec(
            prop_oneof![
                Just("<tool_call>"), Just("</tool_call>"), Just("<function=add>"), Just("</function>"), Just("<parameter=a>"),
                Just("<parameter=why>"), Just("</parameter>"), Just("<TOOLCALL>"), Just("</TOOLCALL>"), Just("[{\"name\": "),
                Just("\"add\", \"arguments\": {}}]"), Just("1"), Just("\n"), Just("é"), Just("["), Just("{\""),
            ],
            0..24,
        ),
        noise in "\\PC{0,6}",
    ) {
        let text = parts.concat() + &noise;
        for format in [ToolCallFormat::Xml, ToolCallFormat::List] {
            match format.parse(&text, &tools()) {
                Ok(calls) => prop_assert!(calls.iter().all(|call| call.function.arguments.is_object())),
                Err(error) => prop_assert_eq!(error.raw, text.clone()),
            }
        }
    }
}
