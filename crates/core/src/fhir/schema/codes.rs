//! The closed code lists (required bindings) that the tables name. In one file because several
//! tables share them and because a list changes without its element changing.

use super::CodeList;

pub(super) static ACCESS_POLICY_INTERACTION: CodeList = CodeList {
    // The spelling of the peer.
    value_set: "https://medplum.com/fhir/ValueSet/access-poliicy-interactions",
    // The last is a word of our own.
    codes: &["create", "read", "update", "delete", "search", "history", "vread", "rotate-own-secret"],
};
pub(super) static ADMINISTRATIVE_GENDER: CodeList = CodeList {
    value_set: "http://hl7.org/fhir/ValueSet/administrative-gender",
    codes: &["male", "female", "other", "unknown"],
};
pub(super) static ADDRESS_TYPE: CodeList = CodeList {
    value_set: "http://hl7.org/fhir/ValueSet/address-type",
    codes: &["postal", "physical", "both"],
};
pub(super) static ADDRESS_USE: CodeList = CodeList {
    value_set: "http://hl7.org/fhir/ValueSet/address-use",
    codes: &["home", "work", "temp", "old", "billing"],
};
pub(super) static AUDIT_EVENT_ACTION: CodeList = CodeList {
    value_set: "http://hl7.org/fhir/ValueSet/audit-event-action",
    codes: &["C", "R", "U", "D", "E"],
};
pub(super) static AUDIT_EVENT_OUTCOME: CodeList =
    CodeList { value_set: "http://hl7.org/fhir/ValueSet/audit-event-outcome", codes: &["0", "4", "8", "12"] };
pub(super) static CLIENT_APPLICATION_STATUS: CodeList = CodeList {
    value_set: "https://medplum.com/fhir/ValueSet/client-application-status",
    codes: &["active", "off", "error"],
};
pub(super) static CONTACT_POINT_SYSTEM: CodeList = CodeList {
    value_set: "http://hl7.org/fhir/ValueSet/contact-point-system",
    codes: &["phone", "fax", "email", "pager", "url", "sms", "other"],
};
pub(super) static CONTACT_POINT_USE: CodeList = CodeList {
    value_set: "http://hl7.org/fhir/ValueSet/contact-point-use",
    codes: &["home", "work", "temp", "old", "mobile"],
};
pub(super) static IDENTIFIER_USE: CodeList = CodeList {
    value_set: "http://hl7.org/fhir/ValueSet/identifier-use",
    codes: &["usual", "official", "temp", "secondary", "old"],
};
pub(super) static IDENTITY_MAPPING_MODE: CodeList = CodeList {
    value_set: "https://medplum.com/fhir/ValueSet/identity-provider-identity-mapping-mode",
    codes: &[
        "user-email",
        "user-external-id",
        "project-membership-external-id",
        "project-membership-profile",
    ],
};
pub(super) static IDENTITY_SOURCE: CodeList = CodeList {
    value_set: "https://medplum.com/fhir/ValueSet/identity-provider-identity-source",
    codes: &["email", "subject", "fhir-user"],
};
pub(super) static IP_ACCESS_RULE_ACTION: CodeList = CodeList {
    value_set: "https://medplum.com/fhir/ValueSet/ip-access-rule-action",
    codes: &["allow", "block"],
};
pub(super) static NAME_USE: CodeList = CodeList {
    value_set: "http://hl7.org/fhir/ValueSet/name-use",
    codes: &["usual", "official", "temp", "nickname", "anonymous", "old", "maiden"],
};
pub(super) static NARRATIVE_STATUS: CodeList = CodeList {
    value_set: "http://hl7.org/fhir/ValueSet/narrative-status",
    codes: &["generated", "extensions", "additional", "empty"],
};
pub(super) static NETWORK_TYPE: CodeList =
    CodeList { value_set: "http://hl7.org/fhir/ValueSet/network-type", codes: &["1", "2", "3", "4", "5"] };
pub(super) static PROFILE_TYPE: CodeList = CodeList {
    value_set: "https://medplum.com/fhir/ValueSet/project-membership-profile-type",
    codes: &["Patient", "Practitioner", "RelatedPerson", "Admin"],
};
pub(super) static PROJECT_FEATURE: CodeList = CodeList {
    value_set: "https://medplum.com/fhir/ValueSet/project-feature",
    codes: &[
        "ai",
        "ai-realtime",
        "archive",
        "async-batch",
        "aws-comprehend",
        "aws-textract",
        "billing",
        "bots",
        "cron",
        "email",
        "google-auth-required",
        "graphql-introspection",
        "log-streaming",
        "range-search",
        "scheduling",
        "transaction-bundles",
        "validate-terminology",
        "websocket-subscriptions",
    ],
};
pub(super) static QUANTITY_COMPARATOR: CodeList = CodeList {
    value_set: "http://hl7.org/fhir/ValueSet/quantity-comparator",
    codes: &["<", "<=", ">=", ">"],
};
pub(super) static TOKEN_AUTH_METHOD: CodeList = CodeList {
    value_set: "https://medplum.com/fhir/ValueSet/token-endpoint-auth-methods-supported",
    codes: &["client_secret_basic", "client_secret_post"],
};
pub(super) static USER_INFO_MODE: CodeList = CodeList {
    value_set: "https://medplum.com/fhir/ValueSet/identity-provider-user-info-mode",
    codes: &["oidc", "gcip"],
};
