//! The names of conditions and reasons: an interface that scripts and dashboards rely on.

use std::fmt;

/// The conditions of a `FlightCluster`. Every one is always present.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ConditionType {
    /// The spec is carried out in full and the cluster serves.
    Ready,
    /// The operator or Kubernetes is still working on the spec.
    Reconciling,
    /// Nothing will change until somebody acts; the message says who and how.
    Stalled,
    /// Queries and writes are answered.
    Available,
    /// A pod can't run; the message holds its last words.
    Degraded,
    /// The spec makes sense; otherwise the message lists every problem.
    ConfigurationValid,
    /// The certificate that clients see is there and in time.
    TlsReady,
}

/// All conditions in the order in which the status lists them.
pub const CONDITION_TYPES: [ConditionType; 7] = [
    ConditionType::Ready,
    ConditionType::Reconciling,
    ConditionType::Stalled,
    ConditionType::Available,
    ConditionType::Degraded,
    ConditionType::ConfigurationValid,
    ConditionType::TlsReady,
];

impl ConditionType {
    /// Returns the name as it stands in the status.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "Ready",
            Self::Reconciling => "Reconciling",
            Self::Stalled => "Stalled",
            Self::Available => "Available",
            Self::Degraded => "Degraded",
            Self::ConfigurationValid => "ConfigurationValid",
            Self::TlsReady => "TLSReady",
        }
    }
}

impl fmt::Display for ConditionType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The reasons that stand beside a condition.
pub mod reason {
    /// All is as asked for.
    pub const READY: &str = "Ready";
    /// Pods are being created or replaced.
    pub const ROLLING_OUT: &str = "RollingOut";
    /// The newest pods are in place.
    pub const ROLLED_OUT: &str = "RolledOut";
    /// The spec has problems.
    pub const INVALID_SPEC: &str = "InvalidSpec";
    /// The spec has no problems.
    pub const VALID: &str = "Valid";
    /// Writing the objects failed; the operator tries again.
    pub const APPLY_FAILED: &str = "ApplyFailed";
    /// An object of a name that the cluster needs belongs to somebody else.
    pub const FOREIGN_OBJECT: &str = "ForeignObject";
    /// A kept CA can't be used, and only its owner may decide to give it up.
    pub const UNUSABLE_CA: &str = "UnusableCA";
    /// The API server refuses an object.
    pub const REFUSED: &str = "Refused";
    /// The spec says `paused: true`.
    pub const PAUSED: &str = "Paused";
    /// Each role has the pods it needs to serve.
    pub const SERVING: &str = "Serving";
    /// A role lacks a pod it needs to serve.
    pub const NOT_SERVING: &str = "NotServing";
    /// A pod can't run.
    pub const POD_FAILING: &str = "PodFailing";
    /// No pod reports a failure.
    pub const PODS_HEALTHY: &str = "PodsHealthy";
    /// Nothing stands in the way.
    pub const PROGRESSING: &str = "Progressing";
    /// The certificate is there and in time.
    pub const CERTIFICATE_VALID: &str = "CertificateValid";
    /// The certificate is out of time.
    pub const CERTIFICATE_EXPIRED: &str = "CertificateExpired";
    /// There is no certificate yet.
    pub const CERTIFICATE_MISSING: &str = "CertificateMissing";
    /// Clients use no TLS, as the spec asks.
    pub const TLS_DISABLED: &str = "Disabled";
}
