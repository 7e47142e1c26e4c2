//! The calls of the list format: JSON objects with a `name` and `arguments`.

use serde_json::{Map, Value};

use super::Scanner;
use super::schema::Tools;
use crate::FunctionCall;

pub(super) fn functions(
    scanner: &mut Scanner<'_>,
    tools: &Tools<'_>,
) -> Result<Vec<FunctionCall>, String> {
    let mut values = serde_json::Deserializer::from_str(scanner.rest).into_iter::<Value>();
    let value = match values.next() {
        Some(Ok(value)) => value,
        Some(Err(error)) => return Err(format!("expected a JSON list of calls: {error}")),
        None => return Err("expected a JSON list of calls, got the end of the output".into()),
    };
    scanner.rest = &scanner.rest[values.byte_offset()..];
    match value {
        Value::Array(calls) if !calls.is_empty() => calls
            .into_iter()
            .map(|call| function(call, tools))
            .collect(),
        other => Err(format!("expected a JSON list of calls, got {other}")),
    }
}

fn function(call: Value, tools: &Tools<'_>) -> Result<FunctionCall, String> {
    let got = || format!("expected {{\"name\": TEXT, \"arguments\": OBJECT}}, got {call}");
    let fields: &Map<String, Value> = call.as_object().ok_or_else(got)?;
    match (fields.get("name"), fields.get("arguments"), fields.len()) {
        (Some(Value::String(name)), Some(arguments @ Value::Object(given)), 2) => {
            let tool = tools.get(name)?;
            given.keys().try_for_each(|name| tool.check(name))?;
            Ok(FunctionCall {
                name: name.clone(),
                arguments: arguments.clone(),
            })
        }
        _ => Err(got()),
    }
}
