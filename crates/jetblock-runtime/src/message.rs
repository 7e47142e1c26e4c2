//! Chat messages, as they travel in the OpenAI chat format and as templates see them.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::TextError;

/// A chat message with the fields that templates know. Messages with other fields can be given as raw JSON.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Message {
    /// `system`, `user`, `assistant`, `tool`, or whatever the template knows.
    pub role: String,
    /// The text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<String>,
    /// What an assistant thought before it answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reasoning_content: Option<String>,
    /// Functions that an assistant called.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<ToolCall>,
    /// The call that a `tool` message answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_call_id: Option<String>,
    /// The name of the speaker or of the tool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// A function call by the assistant.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ToolCall {
    /// Its identifier.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Always `function` so far.
    #[serde(rename = "type", default = "function")]
    pub kind: String,
    /// What is called.
    pub function: FunctionCall,
}

/// A function's name and arguments.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FunctionCall {
    /// The name.
    pub name: String,
    /// A JSON object, or a string that contains one.
    #[serde(default)]
    pub arguments: Value,
}

fn function() -> String {
    "function".into()
}

impl Message {
    /// A message of plain text.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Message {
        Message {
            role: role.into(),
            content: Some(content.into()),
            ..Message::default()
        }
    }
}

impl From<Message> for Value {
    fn from(message: Message) -> Value {
        serde_json::to_value(message).expect("strings, lists and JSON values are always JSON")
    }
}

/// The message in the form templates are written for: text parts joined to one text (by newlines), call arguments as
/// an object.
pub(crate) fn normalize(index: usize, message: &Value) -> Result<Value, TextError> {
    let field = |name: &str| format!("messages[{index}]{name}");
    let Value::Object(fields) = message else {
        return Err(TextError::value(field(""), "an object", message));
    };
    let mut fields = fields.clone();
    match fields.get("role") {
        Some(Value::String(_)) => {}
        other => {
            return Err(TextError::value(
                field(".role"),
                "a string",
                other.unwrap_or(&Value::Null),
            ));
        }
    }
    match fields.get("content") {
        None | Some(Value::Null | Value::String(_)) => {}
        Some(Value::Array(parts)) => {
            let text = join_text_parts(parts).ok_or_else(|| {
                TextError::value(
                    field(".content"),
                    "a string or text parts",
                    "a part of another type",
                )
            })?;
            fields.insert("content".into(), text.into());
        }
        Some(other) => {
            return Err(TextError::value(
                field(".content"),
                "a string or text parts",
                other,
            ));
        }
    }
    match fields.get_mut("tool_calls") {
        None | Some(Value::Null) => {}
        Some(Value::Array(calls)) => {
            for call in calls {
                parse_arguments(call).map_err(|got| {
                    TextError::value(
                        field(".tool_calls: arguments"),
                        "a JSON object, or a string with one",
                        got,
                    )
                })?;
            }
        }
        Some(other) => return Err(TextError::value(field(".tool_calls"), "a list", other)),
    }
    Ok(Value::Object(fields))
}

fn join_text_parts(parts: &[Value]) -> Option<String> {
    let text = |part: &Value| match part {
        Value::String(text) => Some(text.clone()),
        part if part["type"] == "text" => part["text"].as_str().map(str::to_owned),
        _ => None,
    };
    Some(
        parts
            .iter()
            .map(text)
            .collect::<Option<Vec<_>>>()?
            .join("\n"),
    )
}

/// Replaces arguments in a string, as the OpenAI format has them, by the object they spell.
fn parse_arguments(call: &mut Value) -> Result<(), String> {
    let call = match call.get_mut("function") {
        Some(function) => function,
        None => call,
    };
    let Some(arguments) = call.get_mut("arguments") else {
        return Ok(());
    };
    match arguments {
        Value::Object(_) => {}
        Value::Null => *arguments = Map::new().into(),
        Value::String(text) if text.trim().is_empty() => *arguments = Map::new().into(),
        Value::String(text) => match serde_json::from_str::<Map<String, Value>>(text) {
            Ok(map) => *arguments = map.into(),
            Err(_) => return Err(format!("{text:?}")),
        },
        other => return Err(other.to_string()),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn plain_messages_have_no_other_fields() {
        assert_eq!(
            Value::from(Message::new("user", "Hi")),
            json!({"role": "user", "content": "Hi"})
        );
    }

    #[test]
    fn text_parts_are_joined() {
        let message = json!({"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]});
        assert_eq!(normalize(0, &message).unwrap()["content"], "a\nb");
        let image = json!({"role": "user", "content": [{"type": "image_url", "image_url": {}}]});
        let error = normalize(3, &image).unwrap_err().to_string();
        assert_eq!(
            error,
            "messages[3].content is a part of another type, expected a string or text parts"
        );
    }

    #[test]
    fn argument_strings_become_objects() {
        for arguments in [json!("{\"b\": 1, \"a\": [2]}"), json!({"b": 1, "a": [2]})] {
            let message = json!({"role": "assistant", "content": null,
                "tool_calls": [{"type": "function", "function": {"name": "f", "arguments": arguments}}]});
            let call = &normalize(0, &message).unwrap()["tool_calls"][0];
            assert_eq!(
                call["function"]["arguments"].to_string(),
                r#"{"b":1,"a":[2]}"#
            );
        }
        for bad in [json!("[1]"), json!("{"), json!(3)] {
            let message =
                json!({"role": "assistant", "tool_calls": [{"name": "f", "arguments": bad}]});
            assert!(normalize(0, &message).is_err());
        }
    }

    #[test]
    fn messages_need_a_role() {
        assert!(normalize(0, &json!("Hi")).is_err());
        assert!(normalize(0, &json!({"content": "Hi"})).is_err());
        assert!(normalize(0, &json!({"role": 1})).is_err());
        assert!(normalize(0, &json!({"role": "user", "content": 1})).is_err());
    }
}
