//! Of JSON Schema, what docs/*.schema.json use.

use serde_json::Value;

/// Panics where `value` is not as the schema says: a field that is missing, one that is not described, another type.
#[track_caller]
pub(crate) fn assert_is_as_described(value: &Value, schema: &Value) {
    let mut faults = Vec::new();
    check(value, schema, schema, "", &mut faults);
    assert!(faults.is_empty(), "{faults:#?}\nin {value:#}");
}

fn check(value: &Value, schema: &Value, root: &Value, at: &str, faults: &mut Vec<String>) {
    if let Some(path) = schema["$ref"].as_str() {
        let target = root.pointer(path.trim_start_matches('#')).expect("a definition");
        return check(value, target, root, at, faults);
    }
    if let Some(any) = schema["anyOf"].as_array() {
        let fits = |schema: &&Value| {
            let mut faults = Vec::new();
            check(value, schema, root, at, &mut faults);
            faults.is_empty()
        };
        if !any.iter().any(|schema| fits(&schema)) {
            faults.push(format!("{at}: {value} is nothing of {any:?}"));
        }
        return;
    }
    let known: Vec<_> = schema.as_object().expect("an object").keys().map(String::as_str).collect();
    let understood = ["type", "properties", "required", "items", "enum", "const", "description"];
    assert!(known.iter().all(|key| understood.contains(key)), "{at}: of {known:?}, not all is understood here");
    if let Some(wanted) = schema.get("const")
        && value != wanted
    {
        faults.push(format!("{at}: {value} is not {wanted}"));
    }
    if let Some(of) = schema["enum"].as_array()
        && !of.contains(value)
    {
        faults.push(format!("{at}: {value} is not of {of:?}"));
    }
    let types: Vec<&str> = match &schema["type"] {
        Value::String(one) => vec![one],
        Value::Array(types) => types.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    };
    if !types.is_empty() && !types.iter().any(|kind| is(value, kind)) {
        faults.push(format!("{at}: {value} is no {types:?}"));
    }
    if let Some(properties) = schema["properties"].as_object() {
        let Some(fields) = value.as_object() else { return };
        for name in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            if !fields.contains_key(name) {
                faults.push(format!("{at}/{name} is missing"));
            }
        }
        for (name, value) in fields {
            match properties.get(name) {
                Some(schema) => check(value, schema, root, &format!("{at}/{name}"), faults),
                None => faults.push(format!("{at}/{name} is not described")),
            }
        }
    }
    if let (Some(items), Some(values)) = (schema.get("items"), value.as_array()) {
        values.iter().enumerate().for_each(|(i, value)| check(value, items, root, &format!("{at}/{i}"), faults));
    }
}

fn is(value: &Value, kind: &str) -> bool {
    match kind {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        "number" => value.is_number(),
        "integer" => value.is_u64(),
        _ => panic!("type {kind:?}"),
    }
}
