//! Chat templates render as they do in Hugging Face Transformers.

use std::collections::BTreeMap;

use jetblock_runtime::{
    ChatRequest, ChatTemplate, FunctionCall, Message, TextError, Think, TokenizerConfig, ToolCall,
};
use serde_json::{Value, json};

const NEMOTRON3: &str = include_str!("templates/nemotron3.jinja");
const DEMO: &str = include_str!("../../../assets/demo-model/chat_template.jinja");

fn template(source: &str) -> ChatTemplate {
    let config =
        TokenizerConfig::from_bytes(br#"{"bos_token": "<s>", "eos_token": "</s>"}"#).unwrap();
    ChatTemplate::from_source(source, &config).unwrap()
}

fn render(source: &str, request: &ChatRequest) -> String {
    template(source).render(request).unwrap()
}

/// Renders with both templates of the family; they must agree.
fn nemotron3(request: &ChatRequest) -> String {
    let prompt = render(NEMOTRON3, request);
    assert_eq!(render(DEMO, request), prompt);
    prompt
}

fn chat(messages: &[(&str, &str)]) -> ChatRequest {
    ChatRequest::new(
        messages
            .iter()
            .map(|(role, text)| Message::new(*role, *text)),
    )
}

const EMPTY_SYSTEM: &str = "<|im_start|>system\n<|im_end|>\n";
const THINK: &str = "<|im_start|>assistant\n<think>\n";

mod nemotron_3 {
    use super::*;

    #[test]
    fn a_system_block_is_always_there() {
        let prompt = nemotron3(&chat(&[("user", "Hi")]));
        assert_eq!(
            prompt,
            "<|im_start|>system\n<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n<think>\n"
        );
        let prompt = nemotron3(&chat(&[("system", "Be brief."), ("user", "Hi")]));
        assert!(prompt.starts_with(
            "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
        ));
    }

    #[test]
    fn user_content_is_verbatim() {
        let mut request = chat(&[("user", "  a <b> & \"c\"\n\n/no_think ")]);
        request.literal_markers = true;
        let prompt = nemotron3(&request);
        let expected = format!(
            "{EMPTY_SYSTEM}<|im_start|>user\n  a <b> & \"c\"\n\n/no_think <|im_end|>\n{THINK}"
        );
        assert_eq!(prompt, expected);
    }

    #[test]
    fn assistant_content_is_trimmed_and_marked_as_unthought() {
        let mut request = chat(&[("user", "a"), ("assistant", " b \n")]);
        request.add_generation_prompt = false;
        let expected =
            "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n<think></think>b<|im_end|>\n";
        assert_eq!(nemotron3(&request), format!("{EMPTY_SYSTEM}{expected}"));
    }

    #[test]
    fn reasoning_goes_in_front_of_the_content() {
        let thought = Message {
            reasoning_content: Some("hm".into()),
            ..Message::new("assistant", "b")
        };
        let mut request = ChatRequest::new([Message::new("user", "a"), thought]);
        request.add_generation_prompt = false;
        assert!(
            nemotron3(&request)
                .ends_with("<|im_start|>assistant\n<think>\nhm\n</think>\nb<|im_end|>\n")
        );
    }

    #[test]
    fn earlier_reasoning_is_cut_unless_asked_for() {
        let thought = Message {
            reasoning_content: Some("hm".into()),
            ..Message::new("assistant", "b")
        };
        let inline = Message::new("assistant", "<think>so</think>c");
        let messages = [
            Message::new("user", "a"),
            thought,
            Message::new("user", "x"),
            inline,
            Message::new("user", "y"),
        ];
        let mut request = ChatRequest::new(messages);
        let prompt = nemotron3(&request);
        assert!(
            prompt.contains("<|im_start|>assistant\n<think></think>b<|im_end|>\n"),
            "{prompt}"
        );
        assert!(
            prompt.contains("<|im_start|>assistant\n<think></think>c<|im_end|>\n"),
            "{prompt}"
        );

        request
            .kwargs
            .insert("truncate_history_thinking".into(), false.into());
        let prompt = nemotron3(&request);
        assert!(
            prompt.contains("<|im_start|>assistant\n<think>\nhm\n</think>\nb<|im_end|>\n"),
            "{prompt}"
        );
        assert!(
            prompt.contains("<|im_start|>assistant\n<think>so</think>c<|im_end|>\n"),
            "{prompt}"
        );
    }

    #[test]
    fn reasoning_of_the_current_turn_is_kept() {
        let call = ToolCall {
            id: None,
            kind: "function".into(),
            function: FunctionCall {
                name: "add".into(),
                arguments: json!("{\"a\": 1, \"why\": \"x\\ny\", \"l\": [1, 2]}"),
            },
        };
        let assistant = Message {
            role: "assistant".into(),
            reasoning_content: Some("must add".into()),
            tool_calls: vec![call],
            ..Message::default()
        };
        let request = ChatRequest::new([
            Message::new("user", "1+2?"),
            assistant,
            Message::new("tool", "3"),
            Message::new("tool", "4"),
        ]);
        let expected = "<|im_start|>user\n1+2?<|im_end|>\n\
            <|im_start|>assistant\n<think>\nmust add\n</think>\n\
            <tool_call>\n<function=add>\n<parameter=a>\n1\n</parameter>\n<parameter=why>\nx\ny\n</parameter>\n\
            <parameter=l>\n[1, 2]\n</parameter>\n</function>\n</tool_call><|im_end|>\n\
            <|im_start|>user\n<tool_response>\n3\n</tool_response>\n<tool_response>\n4\n</tool_response>\n<|im_end|>\n";
        assert_eq!(
            nemotron3(&request),
            format!("{EMPTY_SYSTEM}{expected}{THINK}")
        );
    }

    #[test]
    fn thinking_can_be_switched_off() {
        let mut request = chat(&[("user", "Hi")]);
        request.think = Some(Think::On);
        assert!(nemotron3(&request).ends_with("<|im_start|>assistant\n<think>\n"));
        request.think = Some(Think::Off);
        assert!(nemotron3(&request).ends_with("<|im_start|>assistant\n<think></think>"));
    }

    #[test]
    fn the_generation_prompt_is_optional() {
        let mut request = chat(&[("user", "Hi")]);
        request.add_generation_prompt = false;
        assert!(nemotron3(&request).ends_with("<|im_start|>user\nHi<|im_end|>\n"));
    }

    #[test]
    fn medium_effort_marks_the_last_user_message() {
        let mut request = chat(&[("user", "a"), ("assistant", "b"), ("user", "c")]);
        request.think = Some(Think::Medium);
        let prompt = render(NEMOTRON3, &request);
        assert!(prompt.contains("user\na<|im_end|>"));
        assert!(prompt.contains("user\nc\n\n{reasoning effort: efficient}<|im_end|>"));
    }

    #[test]
    fn tools_follow_the_system_text_after_a_blank_line() {
        let mut request = chat(&[("system", "S"), ("user", "Hi")]);
        request.tools = vec![json!({"type": "function", "function": {
            "name": "weather", "description": " Looks <out>. ",
            "parameters": {"type": "object", "properties": {
                "place": {"type": "string", "description": "Where", "enum": ["Zürich", "Bern"], "default": null},
                "days": {"type": "integer", "minimum": 1, "x": true}
            }, "required": ["place"]},
        }})];
        let prompt = render(NEMOTRON3, &request);
        let expected = "<|im_start|>system\nS\n\n# Tools\n\nYou have access to the following functions:\n\n<tools>\n\
            <function>\n<name>weather</name>\n<description>Looks <out>.</description>\n<parameters>\n\
            <parameter>\n<name>place</name>\n<type>string</type>\n<description>Where</description>\n\
            <enum>[\"Zürich\", \"Bern\"]</enum>\n<default>None</default>\n</parameter>\n\
            <parameter>\n<name>days</name>\n<type>integer</type>\n<minimum>1</minimum>\n<x>True</x>\n</parameter>\n\
            <required>[\"place\"]</required>\n</parameters>\n</function>\n</tools><|im_end|>\n";
        assert!(prompt.starts_with(expected), "{prompt}");
        // The demo model's template words the instructions its own way.
        let demo = render(DEMO, &request);
        assert!(
            demo.starts_with("<|im_start|>system\nS\n\n# Tools\n\n"),
            "{demo}"
        );
        assert!(
            demo.contains("\n<enum>[\"Zürich\", \"Bern\"]</enum>\n"),
            "{demo}"
        );
    }

    #[test]
    fn the_template_may_refuse() {
        let error = template(NEMOTRON3)
            .render(&chat(&[("narrator", "x")]))
            .unwrap_err();
        assert!(
            matches!(&error, TextError::Refused { message } if message == "Unexpected role: narrator"),
            "{error:?}"
        );
    }
}

mod other_families {
    use super::*;

    const CHATML: &str = "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + \
        message['content'] + '<|im_end|>' + '\n'}}{% endfor %}\
        {% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

    #[test]
    fn chatml() {
        let prompt = render(CHATML, &chat(&[("system", "S"), ("user", "Hi")]));
        let expected = "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n";
        assert_eq!(prompt, expected);
    }

    const LLAMA2: &str = "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}\
        {% set system_message = messages[0]['content'] %}{% else %}{% set loop_messages = messages %}\
        {% set system_message = false %}{% endif %}{% for message in loop_messages %}\
        {% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}\
        {{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}\
        {% if loop.index0 == 0 and system_message != false %}\
        {% set content = '<<SYS>>\\n' + system_message + '\\n<</SYS>>\\n\\n' + message['content'] %}\
        {% else %}{% set content = message['content'] %}{% endif %}\
        {% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}\
        {% elif message['role'] == 'assistant' %}{{ ' '  + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}";

    #[test]
    fn llama_2() {
        let request = chat(&[
            ("system", "S"),
            ("user", " a "),
            ("assistant", "b"),
            ("user", "c"),
        ]);
        assert_eq!(
            render(LLAMA2, &request),
            "<s>[INST] <<SYS>>\nS\n<</SYS>>\n\n a [/INST] b </s><s>[INST] c [/INST]"
        );
        let error = template(LLAMA2)
            .render(&chat(&[("user", "a"), ("user", "b")]))
            .unwrap_err();
        assert!(
            error.to_string().contains("roles must alternate"),
            "{error}"
        );
    }

    const LLAMA3: &str = "{{- bos_token }}\n\
        {%- if custom_tools is defined %}\n    {%- set tools = custom_tools %}\n{%- endif %}\n\
        {%- if not date_string is defined %}\n    {%- if strftime_now is defined %}\n        \
        {%- set date_string = strftime_now(\"%d %b %Y\") %}\n    {%- else %}\n        \
        {%- set date_string = \"26 Jul 2024\" %}\n    {%- endif %}\n{%- endif %}\n\
        {{- \"Today Date: \" + date_string + \"\\n\\n\" }}\n\
        {%- if tools is not none %}\n    {%- for t in tools %}\n        {{- t | tojson(indent=4) }}\n        \
        {{- \"\\n\\n\" }}\n    {%- endfor %}\n{%- endif %}\n\
        {%- for message in messages %}\n    \
        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' + message['content'] | trim + '<|eot_id|>' }}\n\
        {%- endfor %}\n";

    #[test]
    fn llama_3() {
        let mut request = chat(&[("user", " Hi ")]);
        request.now = Some("2024-12-05".parse().unwrap());
        let rest = "<|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>";
        assert_eq!(
            render(LLAMA3, &request),
            format!("<s>Today Date: 05 Dec 2024\n\n{rest}")
        );
        request.tools = vec![json!({"name": "f", "p": [1]})];
        let tool = "{\n    \"name\": \"f\",\n    \"p\": [\n        1\n    ]\n}\n\n";
        assert_eq!(
            render(LLAMA3, &request),
            format!("<s>Today Date: 05 Dec 2024\n\n{tool}{rest}")
        );
        request.kwargs.insert("date_string".into(), "today".into());
        request.now = None;
        assert!(render(LLAMA3, &request).starts_with("<s>Today Date: today\n\n"));
    }

    #[test]
    fn the_clock_is_not_read() {
        let error = template(LLAMA3)
            .render(&chat(&[("user", "Hi")]))
            .unwrap_err();
        assert!(
            format!("{error:?}").contains("must be given with the request"),
            "{error:?}"
        );
    }
}

mod semantics {
    use super::*;

    fn eval(expression: &str) -> String {
        render(&format!("{{{{ {expression} }}}}"), &ChatRequest::default())
    }

    #[test]
    fn values_print_as_in_python() {
        assert_eq!(
            eval("true ~ none ~ 1.0 ~ [1, 'a', none]"),
            "TrueNone1.0[1, 'a', None]"
        );
        assert_eq!(eval("undefined_name"), "");
        assert_eq!(eval("'a,b'.split(',')[-1]"), "b");
        assert_eq!(eval("'  x\n'.strip() + 'abc'[::-1]"), "xcba");
        assert_eq!(eval("{'a': 1}.items() | list"), "[('a', 1)]");
        assert_eq!(eval("'%s-%d' | format('a', 3)"), "a-3");
    }

    #[test]
    fn tests_answer_as_in_jinja2() {
        for (value, iterable, sequence) in [
            ("none", false, false),
            ("1", false, false),
            ("'a'", true, true),
            ("[1]", true, true),
            ("{'a': 1}", true, true),
            ("undefined_name", true, true),
        ] {
            assert_eq!(
                eval(&format!("{value} is iterable")),
                if iterable { "True" } else { "False" },
                "{value}"
            );
            assert_eq!(
                eval(&format!("{value} is sequence")),
                if sequence { "True" } else { "False" },
                "{value}"
            );
        }
    }

    #[test]
    fn tojson_is_json_dumps() {
        assert_eq!(
            eval("{'a': '<é>', 'b': [1, 2.5, none, true]} | tojson"),
            r#"{"a": "<é>", "b": [1, 2.5, null, true]}"#
        );
        assert_eq!(
            eval("{'b': 1, 'a': 2} | tojson(sort_keys=true, separators=[',', ':'])"),
            r#"{"a":2,"b":1}"#
        );
        assert_eq!(eval("[1] | tojson(indent=2)"), "[\n  1\n]");
        assert_eq!(eval("'é' | tojson(ensure_ascii=true)"), r#""\u00e9""#);
    }

    #[test]
    fn blocks_are_trimmed() {
        let source = "a\n    {% if true %}\nb\n    {% endif %}\nc\n";
        assert_eq!(render(source, &ChatRequest::default()), "a\nb\nc");
    }

    #[test]
    fn generation_blocks_print_their_content() {
        let source = "a\n  {% generation %}\nb\n  {%- endgeneration -%}\n c";
        assert_eq!(render(source, &ChatRequest::default()), "a\nbc");
        let source = "a {%- generation +%}\nb{% endgeneration %}\nc";
        assert_eq!(render(source, &ChatRequest::default()), "a\nbc");
    }

    #[test]
    fn loops_can_be_left() {
        let source = "{% for i in range(9) %}{% if i == 1 %}{% continue %}{% endif %}{% if i == 3 %}{% break %}{% endif %}{{ i }}{% endfor %}";
        assert_eq!(render(source, &ChatRequest::default()), "02");
    }

    #[test]
    fn absent_tools_are_none() {
        assert_eq!(
            eval("tools is none and documents is none and enable_thinking is undefined"),
            "True"
        );
    }

    #[test]
    fn extra_variables_win() {
        let mut request = ChatRequest::default();
        request.kwargs.insert("bos_token".into(), "X".into());
        request
            .kwargs
            .insert("nested".into(), json!({"b": {"a": [1]}}));
        assert_eq!(
            render(
                "{{ bos_token }}{{ eos_token }}{{ nested.b.a[0] }}",
                &request
            ),
            "X</s>1"
        );
    }

    #[test]
    fn named_templates_are_chosen_by_use() {
        let sources = [
            ("default", "D"),
            ("tool_use", "T{{ tools }}"),
            ("rag", "R{{ tools }}"),
        ];
        let sources: BTreeMap<String, String> = sources
            .into_iter()
            .map(|(a, b)| (a.into(), b.into()))
            .collect();
        let template = ChatTemplate::new(sources, &TokenizerConfig::default()).unwrap();
        let mut request = ChatRequest::default();
        assert_eq!(template.render(&request).unwrap(), "D");
        request.tools.push(json!({}));
        assert_eq!(template.render(&request).unwrap(), "T[{}]");
        request.template = Some("rag".into());
        assert_eq!(template.render(&request).unwrap(), "R[{}]");
        request.template = Some("none".into());
        let error = template.render(&request).unwrap_err().to_string();
        assert_eq!(
            error,
            "chat template \"none\" does not exist, the model has default, rag, tool_use"
        );
    }
}

mod files {
    use super::*;

    #[test]
    fn the_jinja_file_goes_first() {
        let folder = tempfile::tempdir().unwrap();
        let config = TokenizerConfig::from_bytes(br#"{"chat_template": "config"}"#).unwrap();
        let open = || ChatTemplate::open(folder.path(), &config).unwrap().unwrap();
        assert_eq!(open().render(&ChatRequest::default()).unwrap(), "config");
        std::fs::write(folder.path().join("chat_template.jinja"), "file").unwrap();
        assert_eq!(open().render(&ChatRequest::default()).unwrap(), "file");
        std::fs::create_dir(folder.path().join("additional_chat_templates")).unwrap();
        std::fs::write(
            folder.path().join("additional_chat_templates/rag.jinja"),
            "rag",
        )
        .unwrap();
        assert_eq!(open().names(), ["default", "rag"]);
        assert!(
            ChatTemplate::open(
                tempfile::tempdir().unwrap().path(),
                &TokenizerConfig::default()
            )
            .unwrap()
            .is_none()
        );
    }

    #[test]
    fn files_that_are_no_text_are_errors() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("chat_template.jinja"), b"\xff").unwrap();
        let error = ChatTemplate::open(folder.path(), &TokenizerConfig::default()).unwrap_err();
        assert!(matches!(error, TextError::Value { .. }), "{error:?}");
    }
}

mod hostile {
    use super::*;

    /// Every one of these must come back with an error, soon and without exhausting memory.
    #[test]
    fn templates_cannot_hang_or_exhaust_memory() {
        let templates = [
            "{% for a in range(99999) %}{% for b in range(99999) %}{{ a * b }}{% endfor %}{% endfor %}",
            "{% set ns = namespace(s='x') %}{% for a in range(99999) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}",
            "{{ 'x' * 999999999999 }}",
            "{{ ('x' * 9999999) * 9999999 }}",
            "{{ 'x'.replace('x', 'x' * 999999).replace('x', 'x' * 999999) }}",
            "{{ ('x' * 99999).join(range(99999)) }}",
            "{{ '%0999999999d' | format(1) }}",
            "{{ 'x' | indent(999999999) }}",
            "{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}",
            "{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}",
            "{% include 'default' %}",
            "{% set ns = namespace(l=[]) %}{% for i in range(99) %}{% set ns.l = [ns.l, ns.l] %}{% endfor %}{{ ns.l | tojson }}",
            "{{ range(999999999999) | list }}",
            "{% set a = range(99999) | list %}{% for i in a %}{% set x = a.count(1) %}{% endfor %}",
        ];
        for source in templates {
            let result = template(source).render(&ChatRequest::default());
            assert!(
                result.is_err(),
                "{source} rendered {} bytes",
                result.unwrap().len()
            );
        }
    }

    #[test]
    fn broken_templates_are_errors() {
        let deep = "(".repeat(5000);
        let nested = "{% if x %}".repeat(5000);
        for source in [
            "{% if %}",
            "{{ a",
            "{% for x in %}",
            "{{ x | nonsense_filter }}",
            "{% endif %}",
            "{{ deep",
            &deep,
            &nested,
        ] {
            let source = if source == deep {
                format!("{{{{ {deep} }}}}")
            } else {
                source.to_owned()
            };
            let result = ChatTemplate::from_source(source.clone(), &TokenizerConfig::default())
                .and_then(|template| template.render(&ChatRequest::default()));
            assert!(
                matches!(result, Err(TextError::ChatTemplate { .. })),
                "{:.40}: {result:?}",
                source
            );
        }
    }

    #[test]
    fn messages_are_checked() {
        for message in [
            json!(1),
            json!({"content": "x"}),
            json!({"role": "user", "content": {"a": 1}}),
        ] {
            let request = ChatRequest::new([message]);
            assert!(matches!(
                template(NEMOTRON3).render(&request),
                Err(TextError::Value { .. })
            ));
        }
    }

    #[test]
    fn deep_values_are_errors_or_render() {
        let mut deep = json!(1);
        for _ in 0..100 {
            deep = Value::Array(vec![deep]);
        }
        let mut request = ChatRequest::default();
        request.kwargs.insert("deep".into(), deep);
        assert_eq!(render("{{ deep | tojson }}", &request).len(), 201);
    }
}
