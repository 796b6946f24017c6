//! The resource types this server knows, as one enum. Apart from the element tables because
//! routing, storage and search need the names without needing the definitions.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

/// A resource type that can be named in a FHIR URL of this server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ResourceType {
    /// The tenant.
    Project,
    /// The holder of a client secret.
    ClientApplication,
    /// What lets a client into a project.
    ProjectMembership,
    /// What a member may do.
    AccessPolicy,
    /// The account of a person.
    User,
    /// In whose name a person acts.
    Practitioner,
    /// What happened; written by the server only.
    AuditEvent,
    /// Definition of a resource type; built in.
    StructureDefinition,
    /// Definition of an operation; built in.
    OperationDefinition,
    /// Definition of a search parameter; built in.
    SearchParameter,
    /// The server's own description, read at `metadata`; built in.
    CapabilityStatement,
}

/// A name that is no resource type of this server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("unknown resource type")]
pub struct UnknownResourceType;

impl ResourceType {
    /// Every type, in the order of documentation.
    pub const ALL: [Self; 11] = [
        Self::Project,
        Self::ClientApplication,
        Self::ProjectMembership,
        Self::AccessPolicy,
        Self::User,
        Self::Practitioner,
        Self::AuditEvent,
        Self::StructureDefinition,
        Self::OperationDefinition,
        Self::SearchParameter,
        Self::CapabilityStatement,
    ];

    /// The name as in URLs and in `resourceType`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Project => "Project",
            Self::ClientApplication => "ClientApplication",
            Self::ProjectMembership => "ProjectMembership",
            Self::AccessPolicy => "AccessPolicy",
            Self::User => "User",
            Self::Practitioner => "Practitioner",
            Self::AuditEvent => "AuditEvent",
            Self::StructureDefinition => "StructureDefinition",
            Self::OperationDefinition => "OperationDefinition",
            Self::SearchParameter => "SearchParameter",
            Self::CapabilityStatement => "CapabilityStatement",
        }
    }

    /// Whether resources of this type are generated from the tables instead of stored.
    #[must_use]
    pub const fn is_conformance(self) -> bool {
        matches!(
            self,
            Self::StructureDefinition
                | Self::OperationDefinition
                | Self::SearchParameter
                | Self::CapabilityStatement
        )
    }

    /// Whether a client may create, update or delete resources of this type at all.
    #[must_use]
    pub const fn is_writable(self) -> bool {
        !self.is_conformance() && !matches!(self, Self::AuditEvent)
    }
}

impl fmt::Display for ResourceType {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

impl FromStr for ResourceType {
    type Err = UnknownResourceType;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|known| known.as_str() == text).ok_or(UnknownResourceType)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_read_back() {
        for known in ResourceType::ALL {
            assert_eq!(known.to_string().parse(), Ok(known));
        }
        assert_eq!("client".parse::<ResourceType>(), Err(UnknownResourceType));
    }

    #[test]
    fn audit_events_and_definitions_are_read_only() {
        let writable: Vec<_> = ResourceType::ALL
            .into_iter()
            .filter(|known| known.is_writable())
            .map(ResourceType::as_str)
            .collect();
        assert_eq!(
            writable,
            ["Project", "ClientApplication", "ProjectMembership", "AccessPolicy", "User", "Practitioner"]
        );
    }
}
