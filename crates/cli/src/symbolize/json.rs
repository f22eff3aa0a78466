//! Stacks in JSON, as the library serializes them.

use pollwatch_stack::{Frame, Stack};
use serde_json::{Value, json};

use super::binaries::{Binaries, InputModule};

/// Adds functions and lines to all stacks in a value.
pub(super) fn symbolize(value: &mut Value, binaries: &mut Binaries) {
    match value {
        Value::Array(values) => values.iter_mut().for_each(|value| symbolize(value, binaries)),
        Value::Object(fields) if fields.contains_key("frames") && fields.contains_key("modules") => {
            if let Some(stack) = symbolized(value, binaries) {
                *value = stack;
            }
        }
        Value::Object(fields) => fields.values_mut().for_each(|value| symbolize(value, binaries)),
        _ => {}
    }
}

/// Returns a stack with functions and lines; `None` if it has not the form of a stack.
fn symbolized(stack: &Value, binaries: &mut Binaries) -> Option<Value> {
    let modules = stack["modules"].as_array()?;
    let (mut all, mut frames) = (Vec::new(), Vec::new());
    for old in stack["frames"].as_array()? {
        let found = functions(old, modules, binaries).unwrap_or_default();
        if found.is_empty() {
            all.push(old.clone());
            frames.push(frame(old));
        }
        for new in found {
            let mut value = old.clone();
            value["function"] = json!(new.function.as_deref());
            value["file"] = json!(new.file.as_deref());
            value["line"] = json!(new.line);
            value["library"] = json!(new.library);
            value["dependency"] = json!(new.dependency);
            all.push(value);
            frames.push(new);
        }
    }
    let complete = stack["complete"].as_bool().unwrap_or(false);
    let user = user_frames(Stack::new(frames, complete, is_poll));
    let mut stack = stack.clone();
    stack["frames"] = all.into();
    stack["user_frames"] = user.into();
    Some(stack)
}

/// Returns the functions of a frame that has no file.
fn functions(frame: &Value, modules: &[Value], binaries: &mut Binaries) -> Option<Vec<Frame>> {
    let module = modules.get(usize::try_from(frame["module_index"].as_u64()?).ok()?)?;
    if !frame["file"].is_null() {
        return None;
    }
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let module = InputModule { name: text(&module["name"])?, build_id: text(&module["build_id"]) };
    let mut frames = binaries.frames(&module, frame["offset"].as_u64()?);
    if module.name.contains(".so") {
        frames.iter_mut().for_each(|frame| frame.library = true);
    }
    Some(frames)
}

/// Returns a frame of the input as far as it decides on the user's part.
fn frame(value: &Value) -> Frame {
    let mut frame = Frame::default();
    frame.function = value["function"].as_str().map(Into::into);
    frame.library = value["library"].as_bool().unwrap_or(false);
    frame.dependency = value["dependency"].as_bool().unwrap_or(false);
    frame
}

/// Returns the indices of the user's part of a stack.
fn user_frames(stack: Stack) -> Vec<usize> {
    let start = stack.leaf_frames().len();
    (start..start + stack.user_frames().len()).collect()
}

/// The starts of the names of functions by which tokio and pollwatch poll the user's code.
const POLLERS: [&str; 5] = [
    "tokio::runtime::task::",
    "tokio::runtime::park::",
    "tokio::task::local::",
    "pollwatch::measure::entry::",
    "pollwatch::measure::layer::",
];

/// Returns whether the user's part of a stack ends at a function.
fn is_poll(frame: &Frame) -> bool {
    let name = frame.function.as_deref().unwrap_or("");
    POLLERS.iter().any(|poller| name.starts_with(poller))
        || name.starts_with("tokio::runtime::") && name.ends_with("::block_on")
}
