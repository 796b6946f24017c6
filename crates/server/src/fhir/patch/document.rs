//! The document that a patch changes, one operation after another. The result of each operation is weighed before it
//! is
//! built: with sixty bytes, `copy` can double a document, and nest it deeper than any body.

use json_patch::jsonptr::Pointer;
use json_patch::{AddOperation, PatchErrorKind, PatchOperation, RemoveOperation, patch_unsafe};
use keyrelay_core::fhir::weight::{TooHeavy, Weight};
use serde_json::{Map, Value};

/// A document and its weight.
pub(super) struct Document {
    value: Value,
    /// Nodes and bytes are exact. The depth may be too large, never too small.
    weight: Weight,
    /// What the operations have copied and moved so far.
    carried: Weight,
}

/// Why an operation is refused.
#[derive(Debug)]
pub(super) enum Refused {
    /// Its path or its value does not fit the document.
    Patch(PatchErrorKind),
    /// The document would be too heavy.
    Document(TooHeavy),
    /// The patch copies and moves more in total than a document may weigh.
    Carried(TooHeavy),
}

impl From<PatchErrorKind> for Refused {
    fn from(kind: PatchErrorKind) -> Self {
        Self::Patch(kind)
    }
}

impl Document {
    pub(super) fn new(members: Map<String, Value>) -> Self {
        Self {
            weight: Weight::of_object(&members),
            value: Value::Object(members),
            carried: Weight::default(),
        }
    }

    pub(super) fn into_value(self) -> Value {
        self.value
    }

    /// Applies one operation. After a refusal, discard the document.
    pub(super) fn apply(&mut self, operation: &PatchOperation) -> Result<(), Refused> {
        let after = match operation {
            PatchOperation::Add(add) => self.with(&add.path, Weight::of(&add.value))?,
            PatchOperation::Copy(copy) => {
                let source = self.value.pointer(copy.from.as_str());
                let weight = Weight::of(source.ok_or(PatchErrorKind::InvalidFromPointer)?);
                self.carry(weight)?;
                self.with(&copy.path, weight)?
            }
            PatchOperation::Replace(replace) => {
                let there = self.value.pointer(replace.path.as_str());
                let there = Weight::of(there.ok_or(PatchErrorKind::InvalidPointer)?);
                let value = Weight::of(&replace.value).inside(replace.path.count());
                self.weight.minus(there).plus(value)
            }
            PatchOperation::Remove(remove) => self.without(&remove.path)?,
            PatchOperation::Move(moved) => return self.relocate(&moved.from, &moved.path),
            PatchOperation::Test(_) => self.weight,
        };
        self.become_after(operation, after)
    }

    /// Removes a value and adds it elsewhere. As in RFC 6902 §4.4, the target path applies to the document without
    /// the value.
    fn relocate(&mut self, from: &Pointer, path: &Pointer) -> Result<(), Refused> {
        if path.starts_with(from) && path.len() != from.len() {
            return Err(PatchErrorKind::CannotMoveInsideItself.into());
        }
        let without = self.without(from)?;
        let source = self.value.pointer_mut(from.as_str()).ok_or(PatchErrorKind::InvalidFromPointer)?;
        let weight = Weight::of(source);
        let value = source.take();
        self.carry(weight)?;
        let remove = PatchOperation::Remove(RemoveOperation { path: from.to_buf() });
        self.become_after(&remove, without)?;
        let after = self.with(path, weight)?;
        self.become_after(&PatchOperation::Add(AddOperation { path: path.to_buf(), value }), after)
    }

    /// Applies an operation whose result is weighed. A result above a bound is accepted if it is not heavier than
    /// before, so that a document from an earlier bound can become smaller.
    fn become_after(&mut self, operation: &PatchOperation, after: Weight) -> Result<(), Refused> {
        after.check(Weight::DOCUMENT.or(self.weight)).map_err(Refused::Document)?;
        patch_unsafe(&mut self.value, std::slice::from_ref(operation)).map_err(|error| error.kind)?;
        self.weight = after;
        debug_assert_eq!(Weight { depth: after.depth, ..Weight::of(&self.value) }, after);
        Ok(())
    }

    /// Bounds the cost of a patch by what it copies and moves in total, not by its result.
    fn carry(&mut self, weight: Weight) -> Result<(), Refused> {
        self.carried = self.carried.plus(weight);
        self.carried.check(Weight::DOCUMENT.or(self.weight)).map_err(Refused::Carried)
    }

    /// The weight of the document after a value is added at a path (RFC 6902 §4.1).
    fn with(&self, path: &Pointer, value: Weight) -> Result<Weight, PatchErrorKind> {
        let value = value.inside(path.count());
        let Some((parent, last)) = path.split_back() else { return Ok(value) };
        match self.value.pointer(parent.as_str()) {
            Some(Value::Object(members)) => {
                let name = last.decoded();
                Ok(match members.get(name.as_ref()) {
                    Some(there) => self.weight.minus(Weight::of(there)).plus(value),
                    None => self.weight.plus(Weight::place(Some(&name), members.len())).plus(value),
                })
            }
            Some(Value::Array(items)) => Ok(self.weight.plus(Weight::place(None, items.len())).plus(value)),
            _ => Err(PatchErrorKind::InvalidPointer),
        }
    }

    /// The weight of the document after the value at a path is removed.
    fn without(&self, path: &Pointer) -> Result<Weight, PatchErrorKind> {
        let value = self.value.pointer(path.as_str()).ok_or(PatchErrorKind::InvalidPointer)?;
        let (parent, last) = path.split_back().ok_or(PatchErrorKind::InvalidPointer)?;
        let place = match self.value.pointer(parent.as_str()) {
            Some(Value::Object(members)) => {
                Weight::place(Some(&last.decoded()), members.len().saturating_sub(1))
            }
            Some(Value::Array(items)) => Weight::place(None, items.len().saturating_sub(1)),
            _ => return Err(PatchErrorKind::InvalidPointer),
        };
        Ok(self.weight.minus(Weight::of(value)).minus(place))
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;
    use serde_json::json;

    use super::*;

    fn patched(document: &Value, operations: Value) -> Result<Value, Refused> {
        let mut document = Document::new(document.as_object().cloned().unwrap_or_default());
        for operation in Vec::<PatchOperation>::deserialize(operations).unwrap() {
            document.apply(&operation)?;
        }
        Ok(document.into_value())
    }

    /// Every operation, against what `json_patch` makes of it; the weight is compared after each.
    #[test]
    fn it_is_what_json_patch_makes_of_it() {
        let document = json!({ "a": [1, { "b": "c" }, []], "d": { "e": null }, "f/g": true });
        for operations in [
            json!([{ "op": "add", "path": "/a/-", "value": { "x": [1] } }, { "op": "add", "path": "/a/0", "value": 0 }]),
            json!([{ "op": "add", "path": "/d", "value": 7 }, { "op": "add", "path": "/h", "value": "é\n" }]),
            json!([{ "op": "add", "path": "", "value": { "n": {} } }, { "op": "add", "path": "/n/m", "value": 1 }]),
            json!([{ "op": "replace", "path": "/a/1/b", "value": [1, 2] }, { "op": "replace", "path": "", "value": {} }]),
            json!([{ "op": "remove", "path": "/a/1" }, { "op": "remove", "path": "/f~1g" }, { "op": "remove", "path": "/a/0" }]),
            json!([{ "op": "remove", "path": "/d/e" }, { "op": "remove", "path": "/d" }]),
            json!([{ "op": "copy", "from": "/a", "path": "/a/2/-" }, { "op": "copy", "from": "", "path": "/d/e" }]),
            json!([{ "op": "copy", "from": "/d", "path": "/a" }, { "op": "copy", "from": "/a", "path": "" }]),
            json!([{ "op": "move", "from": "/a/0", "path": "/a/1/-" }, { "op": "move", "from": "/a/0", "path": "/a" }]),
            json!([{ "op": "move", "from": "/a", "path": "/a" }, { "op": "move", "from": "/d", "path": "" }]),
            json!([{ "op": "test", "path": "/a/0", "value": 1 }, { "op": "move", "from": "/f~1g", "path": "/d/~0" }]),
        ] {
            let mut expected = document.clone();
            json_patch::patch(&mut expected, &Vec::<PatchOperation>::deserialize(&operations).unwrap())
                .unwrap();
            assert_eq!(patched(&document, operations.clone()).unwrap(), expected, "{operations}");
        }
        for operation in [
            json!([{ "op": "move", "from": "/a", "path": "/a/0" }]),
            json!([{ "op": "move", "from": "", "path": "/a" }]),
            json!([{ "op": "move", "from": "/a/-", "path": "/x" }]),
            json!([{ "op": "remove", "path": "" }]),
            json!([{ "op": "remove", "path": "/a/-" }]),
            json!([{ "op": "remove", "path": "/x" }]),
            json!([{ "op": "replace", "path": "/x", "value": 1 }]),
            json!([{ "op": "add", "path": "/a/4", "value": 1 }]),
            json!([{ "op": "add", "path": "/a/0/x", "value": 1 }]),
            json!([{ "op": "add", "path": "/f~1g/x", "value": 1 }]),
            json!([{ "op": "copy", "from": "/x", "path": "/a/-" }]),
            json!([{ "op": "test", "path": "/x", "value": 1 }]),
        ] {
            let mut changed = document.clone();
            let operations = Vec::<PatchOperation>::deserialize(&operation).unwrap();
            assert!(json_patch::patch(&mut changed, &operations).is_err(), "{operation}");
            assert!(matches!(patched(&document, operation), Err(Refused::Patch(_))));
        }
    }

    #[test]
    fn nothing_heavier_than_a_document_is_made() {
        let deep = (1..40).fold(json!([]), |inner, _| json!([inner]));
        let at = |levels: usize| format!("/x{}", "/0".repeat(levels));
        let refused = |document: &Value, operation: Value| patched(document, json!([operation])).unwrap_err();
        let twice = json!({ "x": deep, "y": deep });
        for operation in [
            json!({ "op": "add", "path": format!("{}/-", at(39)), "value": deep }),
            json!({ "op": "replace", "path": at(30), "value": deep }),
            json!({ "op": "copy", "from": "/x", "path": format!("{}/-", at(39)) }),
            json!({ "op": "move", "from": "/y", "path": format!("{}/-", at(39)) }),
        ] {
            assert!(matches!(refused(&twice, operation), Refused::Document(TooHeavy::Depth(64))));
        }
        // The deepest document that may be: it is printed, copied, compared and dropped.
        let copy = json!([{ "op": "copy", "from": "/y", "path": format!("{}/-", at(22)) }]);
        let bound = patched(&twice, copy).unwrap();
        assert_eq!(Weight::of(&bound).depth, 64);
        assert_eq!(keyrelay_core::fhir::json::parse(bound.clone().to_string().as_bytes()), Ok(bound));

        let long = json!({ "x": "x".repeat(600_000) });
        let copy = json!({ "op": "copy", "from": "/x", "path": "/y" });
        assert!(matches!(refused(&long, copy.clone()), Refused::Document(TooHeavy::Bytes(_))));
        let many = json!({ "x": vec![0; 60_000] });
        assert!(matches!(refused(&many, copy.clone()), Refused::Document(TooHeavy::Nodes(_))));
        let remove = json!({ "op": "remove", "path": "/y" });
        let again = json!([copy, remove, copy, remove, copy]);
        let less = json!({ "x": "x".repeat(400_000) });
        assert!(matches!(patched(&less, again).unwrap_err(), Refused::Carried(TooHeavy::Bytes(_))));
    }

    #[test]
    fn a_too_heavy_document_can_be_made_smaller() {
        let deep = (0..100).fold(json!([]), |inner, _| json!([inner]));
        let document = json!({ "x": deep, "y": 1 });
        let smaller =
            json!([{ "op": "replace", "path": "/x/0", "value": [] }, { "op": "remove", "path": "/y" }]);
        assert_eq!(patched(&document, smaller).unwrap(), json!({ "x": [[]] }));
        let deeper = json!([{ "op": "add", "path": "/x/1", "value": 1 }, { "op": "copy", "from": "/x", "path": "/y" }]);
        assert!(patched(&document, json!([deeper[0].clone()])).is_ok());
        let deeper = json!([{ "op": "copy", "from": "/x", "path": "/x/0/-" }]);
        assert!(matches!(patched(&document, deeper).unwrap_err(), Refused::Document(TooHeavy::Depth(_))));
    }
}
