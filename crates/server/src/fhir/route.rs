//! What a request asks for, by its method and path alone. Apart from doing it, because a transaction must know
//! which of its entries write before it does any of them.

use http::Method;
use keyrelay_core::fhir::ResourceType;
use keyrelay_core::fhir::conformance::Operation;

use super::request::FhirRequest;
use crate::error::Outcome;

/// Methods of a resource type.
const TYPE_METHODS: &str = "GET, POST";
/// Methods of one resource.
const INSTANCE_METHODS: &str = "GET, PUT, PATCH, DELETE";
/// Methods of what can only be read.
pub(super) const READ_METHODS: &str = "GET";
/// Methods of an operation that changes state (FHIR R4 §3.2.0.1).
const OPERATION_METHODS: &str = "POST";

/// Every interaction there is below a resource type. Ids are as they were sent.
#[derive(Clone, Copy, Debug)]
pub(super) enum Route<'r> {
    /// What the server says about itself, with the rest of the path.
    Definitions(ResourceType, &'r [String]),
    Search(ResourceType),
    /// `_search`, with parameters in the body too.
    SearchByForm(ResourceType),
    Read(ResourceType, &'r str),
    History(ResourceType, &'r str),
    Vread(ResourceType, &'r str, &'r str),
    SecretStatus(&'r str),
    Write(WriteRoute<'r>),
}

/// The interactions that may change something.
#[derive(Clone, Copy, Debug)]
pub(super) enum WriteRoute<'r> {
    Create(ResourceType),
    Put(ResourceType, &'r str),
    Patch(ResourceType, &'r str),
    Delete(ResourceType, &'r str),
    MoveSecrets(SecretOperation, &'r str),
}

/// The operations that move a client's secrets.
#[derive(Clone, Copy, Debug)]
pub(super) enum SecretOperation {
    Rotate,
    Undo,
    Revoke,
}

impl SecretOperation {
    /// The operation.
    pub(super) const fn operation(self) -> Operation {
        match self {
            Self::Rotate => Operation::RotateSecret,
            Self::Undo => Operation::UndoRotation,
            Self::Revoke => Operation::RevokeSecret,
        }
    }
}

impl<'r> Route<'r> {
    /// Finds it, or says the 404 or the 405.
    pub(super) fn of(request: &'r FhirRequest) -> Result<Self, Outcome> {
        let (name, below) = request.segments.split_first().ok_or_else(Outcome::not_found)?;
        let resource_type: ResourceType = name.parse().map_err(|_| Outcome::not_found())?;
        if resource_type.is_conformance() {
            return Ok(Self::Definitions(resource_type, below));
        }
        let rest: Vec<&'r str> = below.iter().map(String::as_str).collect();
        match (rest.as_slice(), &request.method) {
            ([], &Method::GET) => Ok(Self::Search(resource_type)),
            ([], &Method::POST) => Ok(Self::Write(WriteRoute::Create(resource_type))),
            ([], _) if !resource_type.is_writable() => Err(Outcome::method_not_allowed(READ_METHODS)),
            ([], _) => Err(Outcome::method_not_allowed(TYPE_METHODS)),
            (["_search"], &Method::POST) => Ok(Self::SearchByForm(resource_type)),
            (["_search"], _) => Err(Outcome::method_not_allowed(OPERATION_METHODS)),
            ([id, rest @ ..], method) if !id.starts_with(['$', '_']) => {
                Self::of_instance(resource_type, id, rest, method)
            }
            _ => Err(Outcome::not_found()),
        }
    }

    fn of_instance(
        resource_type: ResourceType,
        id: &'r str,
        rest: &[&'r str],
        method: &Method,
    ) -> Result<Self, Outcome> {
        match (rest, method) {
            ([], &Method::GET) => Ok(Self::Read(resource_type, id)),
            ([], &Method::PUT) => Ok(Self::Write(WriteRoute::Put(resource_type, id))),
            ([], &Method::PATCH) => Ok(Self::Write(WriteRoute::Patch(resource_type, id))),
            ([], &Method::DELETE) => Ok(Self::Write(WriteRoute::Delete(resource_type, id))),
            ([], _) if !resource_type.is_writable() => Err(Outcome::method_not_allowed(READ_METHODS)),
            ([], _) => Err(Outcome::method_not_allowed(INSTANCE_METHODS)),
            (["_history"], &Method::GET) => Ok(Self::History(resource_type, id)),
            (["_history", version], &Method::GET) => Ok(Self::Vread(resource_type, id, version)),
            (["_history", ..], _) if rest.len() <= 2 => Err(Outcome::method_not_allowed(READ_METHODS)),
            ([segment], method) => {
                let operation = Operation::called(resource_type, segment).ok_or_else(Outcome::not_found)?;
                let methods = if operation.affects_state() { OPERATION_METHODS } else { READ_METHODS };
                let moves = match operation {
                    _ if method.as_str() != methods => return Err(Outcome::method_not_allowed(methods)),
                    Operation::SecretStatus => return Ok(Self::SecretStatus(id)),
                    Operation::RotateSecret => SecretOperation::Rotate,
                    Operation::UndoRotation => SecretOperation::Undo,
                    Operation::RevokeSecret => SecretOperation::Revoke,
                };
                Ok(Self::Write(WriteRoute::MoveSecrets(moves, id)))
            }
            _ => Err(Outcome::not_found()),
        }
    }
}
