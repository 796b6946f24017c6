//! What happens, told as it happens: a line of text for people, a JSON object a line for machines.

use keyrelay_core::time::{Clock, SystemClock};
use serde_json::{Value, json};

use crate::say::say;

/// In which form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tell {
    /// For people.
    Text,
    /// For machines.
    Json,
}

impl Tell {
    /// As a flag says.
    pub const fn json(json: bool) -> Self {
        if json { Self::Json } else { Self::Text }
    }

    /// Tells of one event. `more` is an object.
    pub fn event(self, event: &str, text: &str, more: Value) {
        match self {
            Self::Text => say!("{text}"),
            Self::Json => {
                let mut line = json!({ "event": event, "at": SystemClock.now().to_instant() });
                if let (Some(line), Value::Object(more)) = (line.as_object_mut(), more) {
                    line.extend(more);
                }
                say!("{line}");
            }
        }
    }
}
